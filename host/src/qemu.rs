//! QEMU: what this host's one can do, the command line of a launch, and talking to it while it runs.

mod launcher;
mod fingerprint;
mod kvm_probe;
mod plan;
mod qmp;

pub use fingerprint::{AcceleratorCheck, Fingerprint, FingerprintError};
pub(crate) use launcher::command;
pub use launcher::{SUBCOMMAND as LAUNCHER_SUBCOMMAND, exec as launch};
pub use plan::{Disk, Forward, LaunchPlan, OVERLAY, QMP_SOCKET, argv, plan};
pub use qmp::{Event, Qmp, QmpError};
