//! `[retention]`: what is kept of VMs that have ended.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits;

/// `[retention]`: of each tenant's ended VMs, the latest that are within all of these are kept.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// VMs.
    pub ended_vms: usize,
    /// Bytes of their console logs and records together.
    pub ended_bytes: u64,
    /// Days since their end.
    days: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            ended_vms: limits::ENDED_VMS,
            ended_bytes: limits::ENDED_BYTES,
            days: limits::ENDED_DAYS,
        }
    }
}

impl Retention {
    /// How long after its end a VM is kept.
    pub fn age(&self) -> Duration {
        Duration::from_secs(self.days.saturating_mul(24 * 60 * 60))
    }
}
