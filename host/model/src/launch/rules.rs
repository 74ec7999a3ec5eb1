//! What the operator lets tenants do, and the violations of that. Each field has its own rules.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::PortRange;
use crate::limits;

/// What the operator lets tenants do, from the host's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// The host ports that may be forwarded.
    pub ports: Vec<PortRange>,
    /// The host addresses that may be listened on.
    pub binds: Vec<Ipv4Addr>,
    /// Whether guests may be given the reach that QEMU's user-mode network has.
    pub internet: bool,
    /// Extra QEMU arguments that tasks may ask for: each is a whole group, option and value.
    pub args: Vec<Vec<String>>,
    /// Whether what a guest writes may be kept for its task's next run.
    #[serde(default)]
    pub persist: bool,
    /// The largest disk that a task may ask for, in bytes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub disk_bytes: u64,
    /// The most bytes of the disks together that are removed with their VM.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub data_bytes: u64,
    /// The largest seed that a task may ask for, in bytes.
    #[serde(default = "seed_bytes", skip_serializing_if = "is_default_seed")]
    pub seed_bytes: u64,
    /// The CPU models that tasks may ask for, by QEMU's names.
    #[serde(default = "cpus", skip_serializing_if = "are_default")]
    pub cpus: Vec<String>,
    /// Whether guests may run VMs of their own by hardware virtualization.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nested: bool,
}

/// The CPU model with all that the accelerator can give.
pub const CPU_MAX: &str = "max";

fn seed_bytes() -> u64 {
    limits::SEED_BYTES
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_default_seed(bytes: &u64) -> bool {
    *bytes == seed_bytes()
}

/// The CPU models of a host that lists none.
pub fn cpus() -> Vec<String> {
    vec![CPU_MAX.into()]
}

fn are_default(models: &Vec<String>) -> bool {
    *models == cpus()
}

/// The rules of an absent configuration: unprivileged ports on loopback, and nothing else.
impl Default for Rules {
    fn default() -> Self {
        Self {
            ports: vec![PortRange::UNPRIVILEGED],
            binds: vec![Ipv4Addr::LOCALHOST],
            internet: false,
            args: vec![],
            persist: false,
            disk_bytes: limits::DISK_BYTES,
            data_bytes: limits::OVERLAY_BYTES,
            seed_bytes: seed_bytes(),
            cpus: cpus(),
            nested: false,
        }
    }
}

/// Whether a record has no such number, as in records from before there was this rule.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// A reason why a task may not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The violation's name for programs, which stays the same.
    pub code: String,
    /// The field that the violation is about.
    pub field: String,
    /// The reason in one sentence.
    pub message: String,
    /// What can be done about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The violations of a launch.
#[derive(Debug, Default)]
pub struct Findings {
    /// What the operator does not allow.
    pub refused: Vec<Violation>,
    /// What this host cannot do.
    pub impossible: Vec<Violation>,
}

/// Makes a violation of the host's own rules.
pub(crate) fn violation(
    code: &str,
    field: impl Into<String>,
    message: String,
    hint: String,
) -> Violation {
    Violation { code: format!("host.{code}"), field: field.into(), message, hint: Some(hint) }
}
