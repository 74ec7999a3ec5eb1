//! The errors of a VM that did not start, or is not what a command needs.

use std::{io, path::Path};

use qhost_model::kind::Kind;

use super::qmp::QmpError;

/// The reason why a VM did not start, or is not what a command needs.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// A port that the launch needs is taken.
    #[error(
        "host port {port} ({protocol} on {bind}) is taken; choose another, or none to have one picked"
    )]
    PortTaken {
        /// The port.
        port: u16,
        /// The address.
        bind: std::net::Ipv4Addr,
        /// The transport.
        protocol: &'static str,
    },
    /// A port cannot be listened on.
    #[error("cannot listen on host port {port} ({protocol} on {bind})")]
    Port {
        /// The port.
        port: u16,
        /// The address.
        bind: std::net::Ipv4Addr,
        /// The transport.
        protocol: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// No port is free.
    #[error("no host port is free in {ranges} for {label}")]
    NoFreePort {
        /// The request's label.
        label: String,
        /// The ranges in which a port was looked for.
        ranges: String,
    },
    /// The VM's folder cannot be used.
    #[error("the VM's folder: cannot {doing} {}", path.display())]
    Folder {
        /// What was tried with it.
        doing: &'static str,
        /// The file or folder.
        path: std::path::PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another run has the task's kept overlay.
    #[error(
        "another run of {} has its kept overlay, {}; wait for its end, or stop it",
        qhost_model::printable::line(task, qhost_model::limits::SHOWN_CHARS),
        path.display()
    )]
    OverlayHeld {
        /// The task's name.
        task: String,
        /// The overlay.
        path: std::path::PathBuf,
    },
    /// A kept overlay does not go with the task's image.
    #[error(
        "the task's kept overlay {}: {reason}; to begin anew: qhost overlay rm {}",
        path.display(),
        path.parent().and_then(|folder| folder.file_name()).unwrap_or_default().display()
    )]
    OverlayUnfit {
        /// The overlay.
        path: std::path::PathBuf,
        /// The reason.
        reason: String,
    },
    /// Kept variables of UEFI are not this firmware's.
    #[error(
        "the task's kept UEFI variables {} have {found} bytes and this firmware's have {expected}: another firmware wrote them; boot entries and enrolled keys are in them, and without the file the guest begins with new ones",
        path.display()
    )]
    VariablesUnfit {
        /// The variables.
        path: std::path::PathBuf,
        /// The size of the kept variables.
        found: u64,
        /// The size of this firmware's.
        expected: u64,
    },
    /// The image of a disk beside the root disk is not what the disk needs.
    #[error("the task's disk {disk}: {reason}")]
    DataDiskUnfit {
        /// The disk's name.
        disk: String,
        /// What was found, and what to do.
        reason: String,
    },
    /// The disk that is asked for cannot be made from the task's image.
    #[error("disk_bytes is {asked}: {reason}")]
    DiskUnfit {
        /// The size that is asked for, in bytes.
        asked: u64,
        /// Why that size is not possible, and which sizes are.
        reason: String,
    },
    /// The VM would take more than its tenant, or all tenants together, may have.
    #[error("refused by {key}: {reason}")]
    Quota {
        /// The quota, as the configuration has it: `tenants.acme.quota.vms`.
        key: String,
        /// How much of which resource, and what to do.
        reason: String,
        /// Whether the quota is that of all tenants together.
        is_hosts: bool,
    },
    /// This host is draining.
    #[error(
        "this host has been draining since {since:.0}: no VM is started until its operator runs qhost drain --end"
    )]
    Draining {
        /// When draining began.
        since: jiff::Timestamp,
    },
    /// No overlay of a name is kept.
    #[error("no overlay is kept by the name {0:?}; see qhost overlay ls")]
    NoOverlay(String),
    /// No VM has a name.
    #[error(
        "no VM's id begins with {name:?}, and no task has that name; see qhost ps --all{}",
        slash(name)
    )]
    Unknown {
        /// The name.
        name: String,
    },
    /// Several VMs have a name.
    #[error("several VMs are meant by {name:?}; give one's id, or TENANT/TASK:{found}")]
    Ambiguous {
        /// The name.
        name: String,
        /// The VMs' tenants and ids, a line each.
        found: String,
    },
    /// The VM has not ended.
    #[error("the VM {id} has not ended; stop it first: qhost stop {id}")]
    GoesOn {
        /// The VM's id.
        id: String,
    },
    /// The VM has ended, so that it has no supervisor.
    #[error("the VM {id} has ended: {state}")]
    HasEnded {
        /// The VM's id.
        id: String,
        /// The VM's state.
        state: &'static str,
    },
    /// The VM did not end in time.
    #[error("the VM {id} has not ended within {seconds} s")]
    Stays {
        /// The VM's id.
        id: String,
        /// How long its end was waited for.
        seconds: u64,
    },
    /// The VM's supervisor cannot be started.
    #[error("cannot start the VM's supervisor, {}; it is installed beside qhost", program.display())]
    Supervisor {
        /// The program.
        program: std::path::PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A supervisor cannot work.
    #[error("cannot set up this process")]
    Runtime(#[source] io::Error),
    /// QEMU ended while it had no supervisor.
    #[error("QEMU is gone, and how it ended was not seen")]
    Unseen,
    /// The cage cannot be put up.
    #[error("QEMU was not started, as its cage failed: {message}")]
    Cage {
        /// What the step between supervisor and QEMU said.
        message: String,
    },
    /// A supervisor does not do what it is asked.
    #[error("the VM {id}: {reason}")]
    Refused {
        /// The VM's id.
        id: String,
        /// The reason.
        reason: String,
    },
    /// QEMU cannot be spawned.
    #[error("cannot start {}", program.display())]
    Spawn {
        /// The emulator.
        program: std::path::PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// QEMU ended before the guest ran.
    #[error("QEMU did not start ({status}): {message}")]
    Start {
        /// QEMU's exit status.
        status: String,
        /// QEMU's own words.
        message: String,
    },
    /// QEMU's control socket is of no use.
    #[error("QEMU started but cannot be controlled")]
    Control(#[from] QmpError),
    /// QEMU offered no control socket in time.
    #[error("QEMU gave no sign of life within {} s", crate::limits::QMP_GREETING.as_secs())]
    NoGreeting,
    /// qhost was asked to stop before the guest ran.
    #[error("interrupted before the guest ran")]
    Interrupted,
}

/// A hint at what a name with a slash means.
fn slash(name: &str) -> &'static str {
    if name.contains('/') { "; before the first slash is a tenant's name" } else { "" }
}

impl VmError {
    /// The error's kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Quota { is_hosts: false, .. } => Kind::Denied,
            Self::NoOverlay(_)
            | Self::Unknown { .. }
            | Self::Ambiguous { .. }
            | Self::GoesOn { .. }
            | Self::HasEnded { .. } => Kind::InvalidArgument,
            Self::Stays { .. } => Kind::CheckFailed,
            Self::Interrupted => Kind::Cancelled,
            Self::Start { .. } | Self::Control(_) | Self::NoGreeting | Self::Refused { .. } => {
                Kind::VmFailed
            }
            Self::PortTaken { .. }
            | Self::Port { .. }
            | Self::NoFreePort { .. }
            | Self::Folder { .. }
            | Self::OverlayHeld { .. }
            | Self::OverlayUnfit { .. }
            | Self::VariablesUnfit { .. }
            | Self::DiskUnfit { .. }
            | Self::DataDiskUnfit { .. }
            | Self::Draining { .. }
            | Self::Quota { .. }
            | Self::Supervisor { .. }
            | Self::Runtime(_)
            | Self::Unseen
            | Self::Cage { .. }
            | Self::Spawn { .. } => Kind::HostUnable,
        }
    }

    /// Whether the error is for this host's operator to mend, and not for the job's author.
    pub(super) fn is_the_hosts(&self) -> bool {
        !matches!(self, Self::Start { .. } | Self::Control(_) | Self::NoGreeting)
    }
}

/// The error of a file or folder of a VM: what was tried with it.
pub fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VmError {
    let path = path.to_owned();
    move |source| VmError::Folder { doing, path, source }
}
