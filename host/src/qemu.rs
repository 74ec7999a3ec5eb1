//! QEMU: what this host's one can do, the command line of a launch, and talking to it while it runs.

mod fingerprint;
mod kvm_probe;
mod pace;
mod plan;
mod qmp;

pub use fingerprint::{AcceleratorCheck, Fingerprint, FingerprintError};
pub use pace::{Pace, Rate};
pub use plan::{CONSOLE_SOCKET, Forward, LaunchPlan, OVERLAY, QMP_SOCKET, argv, descriptors, plan};
pub use qmp::{Event, Message, Qmp, QmpError};
