//! The state that a supervisor has of its VM.

use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use qhost_sys::stop::Stop;

use super::{
    Spec, State, Status, VmDir,
    console_copy::ConsoleCopy,
    control::Console,
    published::Published,
    request::{Ask, Request},
};

/// The state that a supervisor has of its VM, while a QEMU runs and between two QEMUs.
pub(super) struct Session {
    pub(super) spec: Spec,
    pub(super) dir: VmDir,
    pub(super) stop: Stop,
    /// The number of requests by signals that were heard so far.
    pub(super) heard: u32,
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) console: Console,
    /// The copy of the console to a log collector's pipes, if there is one.
    pub(super) copy: Option<ConsoleCopy>,
    /// What subscribers are told.
    pub(super) published: watch::Sender<Published>,
}

impl Session {
    /// Answers a request while no guest runs. Gives whether the request ends the VM.
    pub(super) fn is_to_end(&mut self, ask: Ask, why_not: &str) -> bool {
        match ask.request {
            Request::Stop { .. } | Request::Kill => {
                ask.answer(Ok(true.into()));
                return true;
            }
            Request::Restart { .. }
            | Request::Pause
            | Request::Resume
            | Request::Stats
            | Request::Subscribe
            | Request::Console
            | Request::Screenshot
            | Request::Freeze => ask.answer(Err(why_not.to_owned())),
        }
        false
    }

    /// The time left of the grace of a guest that was asked to stop.
    pub(super) fn grace_left(&self) -> Duration {
        let by = self.dir.status().stop_by;
        by.and_then(|by| by.duration_since(Timestamp::now()).try_into().ok()).unwrap_or_default()
    }

    /// Enters a state, records it, and tells subscribers.
    pub(super) fn enter_with(
        &mut self,
        state: State,
        reason: Option<String>,
        note: impl FnOnce(&mut Status),
    ) {
        self.dir.enter_with(state, reason, note);
        self.publish();
    }

    /// Tells subscribers how the VM is doing.
    pub(super) fn publish(&self) {
        let mut status = self.dir.status().clone();
        // The reservation is in the VM's own record only.
        status.reservation = None;
        self.published.send_modify(|published| published.status = Some(status));
    }

    /// Tells subscribers which step is being taken for a request to stop.
    pub(super) fn publish_step(&self, step: &str) {
        self.published.send_modify(|published| {
            step.clone_into(&mut published.step);
            published.steps = published.steps.saturating_add(1);
        });
    }
}
