//! A VM from its launch to its end: its folder, its ports, its supervisor, and whatever becomes of them.
//!
//! ```text
//!          command                     supervisor                            QEMU
//! folder, ports, image ──locks──▶ cage, start, greet, cont ──QMP──▶ runs, exits
//!    │                                │  ▲      │                    │
//!    └── reads notes, asks ───────────┘  │      └── console.log ◀────┘
//!        (pipe, control.sock)            └── killed: another adopts QEMU, by its sockets
//! ```
//!
//! The command first holds the VM's folder, its ports, its image and its overlay, each by a lock on a file, and hands the open
//! files over to the supervisor. So whatever is killed, the kernel gives back what nobody uses any more.

mod process;
mod status;
mod spare;
mod events;
mod quota;
mod spec;
mod dir;
mod admission;
mod list;
mod name;
mod kept;
mod ports;
mod console;
mod control;
mod qemu;
mod ready;
mod stats;
mod seen;
mod pending;
mod watch;
mod stopping;
mod supervise;
mod attach;
mod recover;
mod launch;

use std::{fmt, io};

use serde::{Deserialize, Serialize};

pub use attach::{Attached, Note};
pub use console::{Reader, tail as console_tail};
pub use control::{AskError, Request, ask, attach, end_of};
pub use dir::VmDir;
pub use events::{Event, Events};
pub use kept::{Kept, KeptOverlay, Owner, kept, kept_over, remove as remove_kept};
pub use launch::{Held, launch, launch_again};
pub use list::{Takes, Vm, going_on, list, running};
pub use name::named;
pub use ports::{Reserved, held as held_ports, reserve, reserve_again};
pub use process::Process;
pub use quota::{Amounts, Whose};
pub use recover::{Recovered, kill_qemu, recover, signal_supervisor};
pub use spec::Spec;
pub use stats::{Disk, Stats};
pub use status::{Change, State, Status};
pub use supervise::{Begin, supervise};

use attach::Notes;
use jiff::Timestamp;

use crate::qemu::QmpError;

/// How a VM that ran came to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum End {
    /// The guest powered itself off.
    ShutDown,
    /// qhost was asked to stop it.
    Stopped {
        /// What it took.
        by: StoppedBy,
    },
    /// The guest's kernel said that it panicked.
    Panicked,
    /// QEMU failed.
    Failed {
        /// What happened, in QEMU's own words where it had some.
        message: String,
    },
    /// QEMU ended while nobody looked after it.
    Unseen,
    /// QEMU did not come so far that the guest ran.
    NotStarted {
        /// Why.
        message: String,
        /// Whether it is for this host to mend.
        cannot_run: bool,
    },
}

/// A VM that has ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ended {
    /// How it ended.
    #[serde(flatten)]
    pub end: End,
    /// When QEMU was started.
    pub started_at: Timestamp,
    /// When QEMU was gone.
    pub ended_at: Timestamp,
}

impl End {
    /// Whether it is the guest's or QEMU's fault.
    pub fn is_failure(&self) -> bool {
        !matches!(self, Self::ShutDown | Self::Stopped { .. })
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ShutDown => "the guest shut down",
            Self::Stopped { by: StoppedBy::Powerdown } => "stopped; the guest powered off",
            Self::Stopped { by: StoppedBy::Quit } => {
                "stopped; the guest did not power off in time, QEMU quit"
            }
            Self::Stopped { by: StoppedBy::Kill } => "stopped; QEMU had to be killed",
            Self::Stopped { by: StoppedBy::BetweenStarts } => "stopped before the guest ran",
            Self::Panicked => "the guest's kernel panicked",
            Self::Unseen => "QEMU is gone, and nobody saw how it ended",
            Self::Failed { message } | Self::NotStarted { message, .. } => message,
        })
    }
}

/// What it took to stop a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoppedBy {
    /// The guest powered off when its power button was pressed.
    Powerdown,
    /// QEMU was told to quit.
    Quit,
    /// QEMU was killed.
    Kill,
    /// Nothing: no guest ran.
    BetweenStarts,
}

/// Why a VM did not start.
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
        /// Why.
        source: io::Error,
    },
    /// No port is free.
    #[error("no host port is free in {ranges} for {label}")]
    NoFreePort {
        /// The request's label.
        label: String,
        /// Where one was looked for.
        ranges: String,
    },
    /// The VM's folder cannot be used.
    #[error("the VM's folder: cannot {doing} {}", path.display())]
    Folder {
        /// What was tried.
        doing: &'static str,
        /// The file or folder.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another run has the task's kept overlay.
    #[error(
        "another run of {} has its kept overlay, {}; wait for its end, or stop it",
        crate::printable::line(task, crate::limits::SHOWN_CHARS),
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
        /// Why.
        reason: String,
    },
    /// It would be more than its tenant, or all, may have.
    #[error("{reason}")]
    Quota {
        /// How much of what, and what to do.
        reason: String,
        /// Whether it is all tenants' together.
        is_hosts: bool,
    },
    /// No overlay of a name is kept.
    #[error("no overlay is kept by the name {0:?}; see qhost overlay ls")]
    NoOverlay(String),
    /// No VM by a name.
    #[error(
        "no VM's id begins with {name:?}, and no task has that name; see qhost ps --all{}",
        slash(name)
    )]
    Unknown {
        /// The name.
        name: String,
    },
    /// Several VMs by a name.
    #[error("several VMs are meant by {name:?}; give one's id, or TENANT/TASK:{found}")]
    Ambiguous {
        /// The name.
        name: String,
        /// Whose they are, and their ids, a line each.
        found: String,
    },
    /// It goes on.
    #[error("the VM {id} has not ended; stop it first: qhost stop {id}")]
    GoesOn {
        /// Its id.
        id: String,
    },
    /// Nobody looks after it.
    #[error("the VM {id} has ended: {state}")]
    HasEnded {
        /// Its id.
        id: String,
        /// Its state.
        state: &'static str,
    },
    /// It did not end.
    #[error("the VM {id} has not ended within {seconds} s")]
    Stays {
        /// Its id.
        id: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// Its supervisor cannot be started.
    #[error("cannot start the VM's supervisor, {}; it is installed beside qhost", program.display())]
    Supervisor {
        /// The program.
        program: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A supervisor cannot work.
    #[error("cannot set up this process")]
    Runtime(#[source] io::Error),
    /// QEMU ended while nobody looked after it.
    #[error("QEMU is gone, and nobody saw how it ended")]
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
        /// Its id.
        id: String,
        /// Why.
        reason: String,
    },
    /// QEMU cannot be spawned.
    #[error("cannot start {}", program.display())]
    Spawn {
        /// The emulator.
        program: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// QEMU ended before the guest ran.
    #[error("QEMU did not start ({status}): {message}")]
    Start {
        /// Its exit status.
        status: String,
        /// Its own words.
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

/// What a name with a slash means.
fn slash(name: &str) -> &'static str {
    match name.contains('/') {
        true => "; before the first slash is a tenant's name",
        false => "",
    }
}

impl VmError {
    /// Whether it is for this host's operator to mend, and not for whoever wrote the job.
    fn is_the_hosts(&self) -> bool {
        !matches!(self, Self::Start { .. } | Self::Control(_) | Self::NoGreeting)
    }
}
