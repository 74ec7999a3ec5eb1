//! What a VM's supervisor can be asked.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Press the guest's power button, and make QEMU quit if that does not help within so many seconds.
    Stop {
        /// The job's or the run's own where absent.
        grace_s: Option<u64>,
    },
    /// Kill QEMU.
    Kill,
    /// Stop it, and start it again.
    Restart {
        /// As above.
        grace_s: Option<u64>,
    },
    /// Stop the guest where it is.
    Pause,
    /// Let it go on.
    Resume,
    /// What the VM uses.
    Stats,
    /// How it is doing from now on, as [`Notification`](crate::Notification)s.
    Subscribe,
    /// Its console.
    Console,
    /// A picture of its display.
    Screenshot,
    /// That its guest's file systems are not written to, for as long as the connection is open.
    Freeze,
}

/// A request, and who waits for its answer.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) request: Request,
    /// Where QEMU writes what is asked for.
    pub(super) file: Option<OwnedFd>,
    pub(super) answer: oneshot::Sender<Result<Value, String>>,
}

impl Ask {
    /// A request, and where its answer comes.
    #[cfg(test)]
    pub(super) fn of(request: Request) -> (Self, oneshot::Receiver<Result<Value, String>>) {
        let (answer, answered) = oneshot::channel();
        (Self { request, file: None, answer }, answered)
    }

    /// Whether its answer is not waited for any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }

    /// Answers it; the process that asked may have gone.
    pub(super) fn answer(self, answer: Result<Value, String>) {
        if self.answer.send(answer).is_err() {
            tracing::debug!("the answer is not waited for any more");
        }
    }
}
