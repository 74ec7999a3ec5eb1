//! What VMs take of the host together, and the most that a tenant's VMs, or all, may take. Nothing here does I/O.

use std::ops::Add;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::retention::Retention;

/// What VMs take, or one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// VMs.
    pub vms: u64,
    /// Virtual CPUs.
    pub cpus: u64,
    /// Memory of guests in MiB.
    pub memory_mib: u64,
    /// What guests may write to their disks, in bytes.
    pub disk_bytes: u64,
    /// Forwarded ports.
    pub ports: u64,
}

impl Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            vms: self.vms.saturating_add(other.vms),
            cpus: self.cpus.saturating_add(other.cpus),
            memory_mib: self.memory_mib.saturating_add(other.memory_mib),
            disk_bytes: self.disk_bytes.saturating_add(other.disk_bytes),
            ports: self.ports.saturating_add(other.ports),
        }
    }
}

/// `quota`: what is absent has no bound but the host's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// VMs.
    pub vms: Option<u64>,
    /// Virtual CPUs.
    pub cpus: Option<u64>,
    /// Memory of guests in MiB.
    pub memory_mib: Option<u64>,
    /// Disk in bytes: of each VM what its root disk may take, which is the larger of `overlay.max_bytes` and its largest writable data
    /// disk, and the sizes of its ephemeral data disks; what kept overlays take that no VM has; the sizes of volumes.
    pub disk_bytes: Option<u64>,
    /// Forwarded ports.
    pub ports: Option<u64>,
    /// What fetched images and unfinished downloads take of the disk in bytes; an image is the tenant's that fetched it first.
    pub image_bytes: Option<u64>,
}

/// The terms on which a tenant has VMs.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// The quota of all tenants together.
    pub host: Quota,
    /// The tenant's own quota.
    pub tenant: Quota,
    /// How much of each tenant's ended VMs is kept.
    pub retention: Retention,
}
