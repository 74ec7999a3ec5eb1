//! QEMU: what this host's one can do, the command line of a launch, and talking to it while it runs.

mod fingerprint;
mod kvm_probe;
mod token_bucket;
mod plan;
mod qmp;

pub use fingerprint::{AcceleratorCheck, Fingerprint, FingerprintError};
pub use plan::{CONSOLE_SOCKET, Forward, LaunchPlan, OVERLAY, QMP_SOCKET, argv, descriptors, plan};
pub use qmp::{Event, Message, Qmp, QmpError};
pub use token_bucket::{Rate, TokenBucket};
