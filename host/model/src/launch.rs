//! How a task will be launched: what policies choose and judge, what differs between two launches, which of two is wider, and
//! the host's own rules. Pure.

mod changes;
mod forward;
mod port_range;
pub mod rules;
mod tighten;

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::job::{Accelerator, Egress, PortRequest, Protocol, Resources, Task};

pub use changes::{Change, listed, shown};
pub use forward::Forward;
pub use port_range::PortRange;
pub use rules::{Rules, Violation};
pub use tighten::widened;

/// How a task will be launched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<(String, String)>,
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

impl Launch {
    /// What differs in another launch, field by field.
    pub fn changes_to(&self, other: &Self) -> Vec<Change> {
        changes::between(self, other)
    }
}

/// One port that will be forwarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
