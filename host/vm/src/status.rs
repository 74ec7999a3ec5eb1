//! A VM's status: its states, which of them may follow which, and when and why each began. The record is `status.json` in the VM's folder.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use qhost_model::printable;

use super::{End, Ended, Process, reservation::Reservation};
use crate::limits;

/// Where a VM is between its decision and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Decided, and nothing done yet.
    Created,
    /// Its image is being fetched or looked for.
    Fetching,
    /// QEMU is being started, or will be, once more.
    Starting,
    /// The guest runs.
    Running,
    /// The guest was stopped where it was, and can go on.
    Paused,
    /// It was asked to stop.
    Stopping,
    /// It shut down, by itself or because it was asked to.
    Exited,
    /// QEMU or the guest's kernel failed.
    Failed,
    /// How it ended is not known: its supervisor was killed, and QEMU is gone.
    Lost,
}

impl State {
    /// All states.
    pub const ALL: [Self; 9] = [
        Self::Created,
        Self::Fetching,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::Stopping,
        Self::Exited,
        Self::Failed,
        Self::Lost,
    ];

    /// The state's name in `status.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Fetching => "fetching",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Exited => "exited",
            Self::Failed => "failed",
            Self::Lost => "lost",
        }
    }

    /// Whether the VM is over, unless it is started again.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Exited | Self::Failed | Self::Lost)
    }

    /// Whether a state may follow this one. A final state is left only by [`Status::start_again`].
    fn may_become(self, next: Self) -> bool {
        let after: &[Self] = match self {
            Self::Created => &[Self::Fetching, Self::Starting, Self::Failed, Self::Lost],
            Self::Fetching => &[Self::Starting, Self::Failed, Self::Lost],
            // A VM that fails to start may be tried again; a VM that is stopped before its guest ran has exited.
            Self::Starting => &[
                Self::Starting,
                Self::Running,
                Self::Stopping,
                Self::Exited,
                Self::Failed,
                Self::Lost,
            ],
            Self::Running => &[
                Self::Paused,
                Self::Stopping,
                Self::Starting,
                Self::Exited,
                Self::Failed,
                Self::Lost,
            ],
            Self::Paused => &[
                Self::Running,
                Self::Stopping,
                Self::Starting,
                Self::Exited,
                Self::Failed,
                Self::Lost,
            ],
            Self::Stopping => &[Self::Starting, Self::Exited, Self::Failed, Self::Lost],
            Self::Exited | Self::Failed | Self::Lost => &[],
        };
        after.contains(&next)
    }
}

/// A VM's status, as it is written down.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    state: State,
    /// Every state so far, with when it began and why; of very many, the first and the latest.
    changes: Vec<Change>,
    /// Who looks after it.
    pub supervisor: Option<Process>,
    /// Its QEMU, once there is one.
    pub qemu: Option<Process>,
    /// When a guest that was asked to stop has had its grace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_by: Option<Timestamp>,
    /// Whether it is to be started again when it has stopped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub start_again_after: bool,
    /// When the job's ready check held, since QEMU was last started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Timestamp>,
    /// When its firmware was seen to find no bootable device, since QEMU was last started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_failed_at: Option<Timestamp>,
    /// How often it was started again by its restart policy, in a row.
    #[serde(default)]
    pub restarts: u32,
    /// When QEMU was last started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// What is kept of it takes so many bytes, once it has ended; absent of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_bytes: Option<u64>,
    /// How it ended, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// What is reserved for it and for whom, in its own record alone: a list of VMs then reads one file of each.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "as_far_as_readable"
    )]
    #[schemars(skip)]
    pub(super) reservation: Option<Reservation>,
}

/// Reads a reservation; a damaged one is absent, so that the rest of the status still says whether QEMU runs.
fn as_far_as_readable<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Reservation>, D::Error> {
    let value = serde_json::Value::deserialize(from)?;
    Ok(serde_json::from_value(value).ok())
}

/// A state's beginning.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// The state.
    pub state: State,
    /// When it began.
    pub at: Timestamp,
    /// Why, where that is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Status {
    /// The status of a VM that this process is going to look after.
    pub(super) fn new() -> Self {
        let mut status = Self::unwritten();
        status.changes = vec![Change { state: State::Created, at: Timestamp::now(), reason: None }];
        status.supervisor = Process::this();
        status
    }

    /// The status of a VM whose folder is just being made.
    pub(super) fn unwritten() -> Self {
        Self::without_history(State::Created)
    }

    /// The status of a VM whose record cannot be read, and which may be running.
    pub fn unknown() -> Self {
        Self::without_history(State::Running)
    }

    fn without_history(state: State) -> Self {
        Self {
            state,
            changes: vec![],
            supervisor: None,
            qemu: None,
            stop_by: None,
            start_again_after: false,
            ready_at: None,
            boot_failed_at: None,
            restarts: 0,
            started_at: None,
            kept_bytes: None,
            ended: None,
            reservation: None,
        }
    }

    /// The VM's state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Every state so far.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// When the VM's state began.
    pub fn since(&self) -> Option<Timestamp> {
        self.changes.last().map(|change| change.at)
    }

    /// The reason why a VM is lost whose QEMU and supervisor are gone.
    pub fn why_lost(&self) -> &'static str {
        let mut processes = self.qemu.iter().chain(&self.supervisor);
        if processes.any(Process::is_of_another_boot) {
            "the host was restarted while it ran"
        } else {
            "its supervisor was killed, and QEMU is gone"
        }
    }

    /// Whether QEMU runs, with a supervisor or without.
    pub fn qemu_lives(&self) -> bool {
        !self.state.is_final() && self.qemu.as_ref().is_some_and(Process::lives)
    }

    /// Enters a state, if it may follow the present one. Gives whether the state was entered.
    pub fn enter(&mut self, state: State, reason: Option<String>) -> bool {
        let may = self.state.may_become(state);
        if may {
            self.change(state, reason);
        }
        may
    }

    /// Begins the history of a VM's further start, after its end, when a command asks for it. Gives whether the VM had ended.
    pub(super) fn start_again(&mut self, reason: String) -> bool {
        let may = self.state.is_final();
        if may {
            (self.qemu, self.ended, self.ready_at, self.stop_by) = (None, None, None, None);
            self.boot_failed_at = None;
            self.start_again_after = false;
            self.restarts = 0;
            self.change(State::Starting, Some(reason));
        }
        may
    }

    /// The status with at most so many changes of its history, and short reasons.
    pub(super) fn in_short(&self, changes: usize) -> Self {
        let short = |text: &str| printable::line(text, limits::STATUS_SPARE_REASON).to_string();
        let mut status = self.clone();
        let left_out = status.changes.len().saturating_sub(changes);
        if left_out > 0 {
            status.changes.drain(1..=left_out);
        }
        for change in &mut status.changes {
            change.reason = change.reason.as_deref().map(short);
        }
        if let Some(End::Failed { message } | End::NotStarted { message, .. }) =
            status.ended.as_mut().map(|ended| &mut ended.end)
        {
            *message = short(message);
        }
        status
    }

    fn change(&mut self, state: State, reason: Option<String>) {
        self.state = state;
        self.changes.push(Change { state, at: Timestamp::now(), reason });
        if self.changes.len() > limits::STATUS_CHANGES {
            self.changes.remove(1);
        }
    }
}

impl Ended {
    /// The final state of the VM, and why.
    pub(super) fn state(&self) -> (State, String) {
        let state = match self.end {
            End::ShutDown | End::Stopped { .. } => State::Exited,
            End::Unseen => State::Lost,
            End::Panicked | End::OutOfMemory | End::Failed { .. } | End::NotStarted { .. } => {
                State::Failed
            }
        };
        let reason = self.end.to_string();
        (state, printable::line(&reason, limits::QEMU_STDERR_BYTES).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The states that may follow each state, in the order of `ALL`: `x` where one may.
    #[test]
    fn what_may_follow_what() {
        use State::{Created, Exited, Failed, Fetching, Lost, Paused, Running, Starting, Stopping};
        let rows = [
            (Created, ".xx....xx"),
            (Fetching, "..x....xx"),
            (Starting, "..xx.xxxx"),
            (Running, "..x.xxxxx"),
            (Paused, "..xx.xxxx"),
            (Stopping, "..x...xxx"),
            (Exited, "........."),
            (Failed, "........."),
            (Lost, "........."),
        ];
        assert_eq!(rows.map(|(state, _)| state), State::ALL);
        for (state, expected) in rows {
            let may = State::ALL.map(|next| if state.may_become(next) { 'x' } else { '.' });
            assert_eq!(may.iter().collect::<String>(), expected, "{state:?}");
        }
    }

    #[test]
    fn only_legal_changes() {
        for from in State::ALL {
            assert!(!from.may_become(State::Created), "{from:?}");
            assert_eq!(from.may_become(State::Lost), !from.is_final(), "{from:?}");
            for to in State::ALL {
                assert!(!(from.is_final() && from.may_become(to)), "{from:?} to {to:?}");
            }
        }
        let legal =
            |from: State| State::ALL.into_iter().filter(move |to| from.may_become(*to)).count();
        assert_eq!(State::ALL.map(legal), [4, 3, 6, 6, 6, 4, 0, 0, 0]);
        let mut status = Status::new();
        assert!(!status.enter(State::Exited, None), "a guest that has not run has not shut down");
        assert!(!status.start_again("not yet over".into()));
        assert!(status.enter(State::Starting, None) && status.enter(State::Running, None));
        assert!(!status.enter(State::Fetching, None));
        assert!(status.enter(State::Lost, Some("killed".into())));
        assert!(!status.enter(State::Running, None));
        assert_eq!(status.changes().len(), 4);
        assert!(status.start_again("restart requested".into()));
        assert_eq!(status.state(), State::Starting);
    }

    #[test]
    fn a_vm_that_restarts_for_ever_has_a_short_history() {
        let mut status = Status::new();
        for _ in 0..1000 {
            status.enter(State::Starting, None);
        }
        assert_eq!(status.changes().len(), limits::STATUS_CHANGES);
        assert_eq!(status.changes()[0].state, State::Created);
    }
}
