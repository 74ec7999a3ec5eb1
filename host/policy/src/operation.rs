//! Operations on a VM that runs: what is to be done, by whom, and with which VM.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use qhost_model::launch::Launch;

use super::Request;

/// What is to be done with a VM that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Attach to the VM's serial console.
    Console,
    /// Take a picture of the VM's display.
    Screenshot,
    /// Run a command in the guest by its agent: the program and its arguments.
    Exec(Vec<String>),
    /// Stop the VM, by an actor that is not its tenant.
    Stop,
    /// Start the VM again, by an actor that is not its tenant.
    Restart,
    /// Pause or resume the VM.
    Pause,
    /// Freeze the guest while a volume of the VM is copied.
    Snapshot,
}

impl Operation {
    /// The operation's name in the contract.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Screenshot => "screenshot",
            Self::Exec(_) => "exec",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Pause => "pause",
            Self::Snapshot => "snapshot",
        }
    }

    /// Whether a VM's own tenant may do the operation without asking policies.
    pub fn is_free_for_its_tenant(&self) -> bool {
        matches!(self, Self::Stop | Self::Restart)
    }

    /// The field of a launch that the operation needs and contract 0.1 has no word for. A policy of 0.1 refuses an operation with such
    /// a field.
    pub(super) fn needs(&self) -> Option<&'static str> {
        match self {
            Self::Screenshot => Some("access.display"),
            Self::Exec(_) | Self::Snapshot => Some("access.agent"),
            Self::Console | Self::Stop | Self::Restart | Self::Pause => None,
        }
    }
}

/// The actor that asks for an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The actor's user name on this host.
    pub name: String,
    /// The tenant that the actor acts as; absent for an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The door that the actor came by.
    pub door: Door,
}

/// A door of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Door {
    /// The command line.
    Cli,
    /// An agent of Nomad's.
    Nomad,
    /// The API of the host as a service.
    Api,
}

impl Door {
    /// The door's name in the contract.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cli => "cli",
            Self::Nomad => "nomad",
            Self::Api => "api",
        }
    }
}

/// What a record has of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRecord {
    /// The VM's id.
    pub vm: String,
    /// Since when the VM runs; absent in a record that an earlier qhost wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// What was to be done with the VM.
    pub operation: Operation,
    /// The actor that asked.
    pub actor: Actor,
}

/// An operation that policies are asked about.
#[derive(Debug, Clone)]
pub struct OperationRequest {
    /// The task that the VM was launched for, and the host as it is now.
    pub request: Request,
    /// How the VM was launched.
    pub launch: Launch,
    /// What is to be done, with which VM, and by which actor.
    pub of: OperationRecord,
}
