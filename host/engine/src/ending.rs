//! How a VM is ended: by its power button, or by a kill.

use std::time::Duration;

use qhost_vm::Request;

use crate::limits;

/// How a VM is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The guest's power button is pressed, and QEMU made to quit if that does not help within this; absent: as it was started with.
    Stop(Option<Duration>),
    /// QEMU is killed.
    Kill,
}

impl Ending {
    /// What its supervisor is asked for.
    pub(crate) fn request(self) -> Request {
        match self {
            Self::Stop(grace) => Request::Stop { grace_s: grace.map(|grace| grace.as_secs()) },
            Self::Kill => Request::Kill,
        }
    }

    /// How long its end is waited for.
    pub(crate) fn most(self) -> Duration {
        match self {
            Self::Stop(_) => limits::STOP_GRACE_MOST,
            Self::Kill => limits::KILL_MOST,
        }
    }
}
