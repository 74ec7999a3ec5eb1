//! The requests that a VM's supervisor answers.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;

/// A request to a VM's supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Press the guest's power button, and make QEMU quit if that does not help within so many seconds.
    Stop {
        /// The grace in seconds; where absent, that of the job or the run.
        grace_s: Option<u64>,
    },
    /// Kill QEMU.
    Kill,
    /// Stop the VM, and start it again.
    Restart {
        /// The grace in seconds; where absent, that of the job or the run.
        grace_s: Option<u64>,
    },
    /// Pause the guest.
    Pause,
    /// Resume the guest.
    Resume,
    /// Tell what the VM uses.
    Stats,
    /// Tell how the VM is doing from now on, as [`Notification`](crate::Notification)s.
    Subscribe,
    /// Attach the connection to the console.
    Console,
    /// Take a picture of the display.
    Screenshot,
    /// Freeze the guest's file systems, for as long as the connection is open.
    Freeze,
}

/// A request, with the channel for its answer.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) request: Request,
    /// The file that QEMU writes a picture to.
    pub(super) file: Option<OwnedFd>,
    pub(super) answer: oneshot::Sender<Result<Value, String>>,
}

impl Ask {
    /// Makes a request, with the channel that its answer comes through.
    #[cfg(test)]
    pub(super) fn of(request: Request) -> (Self, oneshot::Receiver<Result<Value, String>>) {
        let (answer, answered) = oneshot::channel();
        (Self { request, file: None, answer }, answered)
    }

    /// Whether no client waits for the answer any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }

    /// Answers the request. The process that asked may have gone.
    pub(super) fn answer(self, answer: Result<Value, String>) {
        if self.answer.send(answer).is_err() {
            tracing::debug!("the answer is not waited for any more");
        }
    }
}
