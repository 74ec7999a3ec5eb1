//! QEMU: what this host's one can do, and what a VM is launched from.

mod fingerprint;
mod kvm_probe;
mod plan;

pub use fingerprint::{AcceleratorCheck, Fingerprint, FingerprintError};
pub use plan::{LaunchPlan, plan};
