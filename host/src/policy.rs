//! Policies: load components, ask a chain of them in sandboxes, apply the host's own rules to what they chose.
//!
//! ```text
//! Task + HostFacts ──▶ default launch ──choose, choose, …──▶ launch ──validate, validate, …──▶ rules ──▶ Verdict
//! ```
//!
//! A verdict is a value: [`Approved`], or refused with reasons. A policy that traps, overruns its limits or answers
//! nonsense is an error, [`PolicyError`], and nothing is launched. This room knows nothing of images, QEMU or VMs.

mod bindings;
mod sandbox;
mod module;
mod chain;
mod convert;
mod changes;
mod rules;
mod error;

use std::net::Ipv4Addr;

use serde::Serialize;

use crate::job::{Accelerator, Egress, PortRequest, Protocol, Resources, Task};

pub use chain::{Chain, Source};
pub use changes::Change;
pub use error::{Fault, PolicyError};
pub use module::{Inspection, inspect};
pub use rules::{PortRange, Rules};
pub use sandbox::LogLine;

/// How a task will be launched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Launch {
    /// What runs the guest's instructions.
    pub accelerator: Accelerator,
    /// The forwarded ports.
    pub ports: Vec<PortMap>,
    /// What the guest gets.
    pub resources: Resources,
    /// What the guest may reach by itself.
    pub egress: Egress,
    /// Remarks of policies.
    pub warnings: Vec<String>,
    /// Room to grow, of the contract.
    #[serde(skip)]
    pub(crate) extensions: Vec<(String, String)>,
}

impl Launch {
    /// What the host would do for a task if no policy said otherwise: what was asked, tcg where nothing was, ports on
    /// loopback.
    pub fn default_for(task: &Task) -> Self {
        let map = |port: &PortRequest| PortMap {
            label: port.label.clone(),
            guest: port.guest,
            host: port.host,
            bind: Ipv4Addr::LOCALHOST,
            protocol: port.protocol,
        };
        Self {
            accelerator: task.accelerator.unwrap_or(Accelerator::Tcg),
            ports: task.ports.iter().map(map).collect(),
            resources: task.resources,
            egress: task.egress,
            warnings: vec![],
            extensions: vec![],
        }
    }
}

/// One port that will be forwarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortMap {
    /// The request's label.
    pub label: String,
    /// The port in the guest.
    pub guest: u16,
    /// The port on the host; absent: the host picks one.
    pub host: Option<u16>,
    /// The host address to listen on.
    pub bind: Ipv4Addr,
    /// The transport.
    pub protocol: Protocol,
}

/// What this host offers, and what is in use on it now.
#[derive(Debug, Clone, Serialize)]
pub struct HostFacts {
    /// The host's name.
    pub name: String,
    /// QEMU's version.
    pub qemu_version: String,
    /// The accelerators that run guest code.
    pub accelerators: Vec<Accelerator>,
    /// All of the host.
    pub resources: Resources,
    /// What is not taken.
    pub free: Resources,
    /// Ports on which something listens, ascending.
    pub ports_in_use: Vec<u16>,
    /// What the task's tenant runs now.
    pub tenant_usage: Usage,
}

/// What somebody's running VMs hold.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Usage {
    /// Running VMs.
    pub vms: u32,
    /// Their CPUs and memory together.
    pub resources: Resources,
    /// Their forwarded ports together.
    pub ports: u32,
}

/// One reason why a task may not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// A stable name for programs.
    pub code: String,
    /// What it is about.
    pub field: String,
    /// One sentence.
    pub message: String,
    /// What can be done about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Everything that was said on the way to a verdict.
#[derive(Debug, Clone, Serialize)]
pub struct Decision {
    /// Each policy, in order.
    pub policies: Vec<PolicyRecord>,
    /// The host's own rules.
    pub host: HostRecord,
    /// The launch as it stood at the end.
    pub launch: Launch,
}

/// What somebody who decides said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Nothing against it.
    Allowed,
    /// Violations.
    Refused,
    /// Not asked: a policy before refused to choose a launch.
    NotAsked,
}

impl Answer {
    fn of(violations: &[Violation]) -> Self {
        if violations.is_empty() { Self::Allowed } else { Self::Refused }
    }
}

/// What the host's own rules said.
#[derive(Debug, Clone, Serialize)]
pub struct HostRecord {
    /// In a word.
    pub answer: Answer,
    /// What they have against the launch.
    pub violations: Vec<Violation>,
}

/// What one policy did.
#[derive(Debug, Clone, Serialize)]
pub struct PolicyRecord {
    /// The name it goes by on this command line.
    pub name: String,
    /// The version it says it has.
    pub version: String,
    /// Its file's digest.
    pub sha256: crate::digest::Sha256,
    /// In a word.
    pub answer: Answer,
    /// What its `choose` changed.
    pub changes: Vec<Change>,
    /// Its reasons to refuse; empty: it allows.
    pub violations: Vec<Violation>,
    /// What it logged.
    pub log: Vec<LogLine>,
    /// Log lines beyond the limit, counted and not kept.
    pub log_dropped: u64,
}

/// A task that every policy and the host's own rules allow. Made only here.
#[derive(Debug)]
pub struct Approved {
    task: Task,
    decision: Decision,
}

impl Approved {
    /// What was asked.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// How it will be launched.
    pub fn launch(&self) -> &Launch {
        &self.decision.launch
    }

    /// How it came about.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }
}

/// A chain's answer.
#[derive(Debug)]
pub enum Verdict {
    /// It may run.
    Approved(Box<Approved>),
    /// A policy, or a rule on what the host lets tenants do, refuses it.
    Denied(Decision),
    /// It would be allowed, but this host cannot do it.
    CannotRun(Decision),
}
