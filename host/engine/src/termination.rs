//! The ways to end a VM: by its power button, or by a kill.

use std::time::Duration;

use qhost_vm::Request;

use crate::limits;

/// A way to end a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Termination {
    /// The guest's power button is pressed, and QEMU made to quit if that does not help within this grace; absent: the grace that the VM
    /// was started with.
    Stop(Option<Duration>),
    /// QEMU is killed.
    Kill,
}

impl Termination {
    /// The request that the VM's supervisor gets.
    pub(crate) fn request(self) -> Request {
        match self {
            Self::Stop(grace) => Request::Stop { grace_s: grace.map(|grace| grace.as_secs()) },
            Self::Kill => Request::Kill,
        }
    }

    /// How long the VM's end is waited for.
    pub(crate) fn most(self) -> Duration {
        match self {
            Self::Stop(_) => limits::STOP_GRACE_MOST,
            Self::Kill => limits::KILL_MOST,
        }
    }
}
