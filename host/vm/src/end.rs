//! The ways in which VMs end.

use std::{fmt, iter};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::VmError;

/// How a VM that ran came to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// The kernel killed QEMU, which took more memory than its cgroup may have.
    OutOfMemory,
    /// QEMU ended while it had no supervisor.
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
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
    /// The end of a VM whose QEMU did not start, or ended unseen.
    pub(super) fn of_start(error: &VmError) -> Self {
        if matches!(error, VmError::Interrupted) {
            Self::Stopped { by: StoppedBy::BetweenStarts }
        } else if matches!(error, VmError::Unseen) {
            Self::Unseen
        } else {
            let first = std::error::Error::source(error);
            let causes = iter::successors(first, |cause| cause.source());
            let message = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
            Self::NotStarted { message, cannot_run: error.is_the_hosts() }
        }
    }

    /// Whether the end is the guest's or QEMU's fault.
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
            Self::OutOfMemory => {
                "the kernel killed QEMU: it took more memory than its cgroup may have"
            }
            Self::Unseen => "QEMU is gone, and how it ended was not seen",
            Self::Failed { message } | Self::NotStarted { message, .. } => message,
        })
    }
}

/// What it took to stop a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
