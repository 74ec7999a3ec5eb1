//! What a host offers and what is in use on it: what policies and the host's rules decide from.

use serde::{Deserialize, Serialize};

use crate::job::{Accelerator, Resources};

/// What this host offers, and what is in use on it now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Running VMs.
    pub vms: u32,
    /// Their CPUs and memory together.
    pub resources: Resources,
    /// Their forwarded ports together.
    pub ports: u32,
}
