//! How a VM is doing: its states, which may follow which, and when and why each began. In its folder, `status.json`.

use jiff::Timestamp;
use procfs::process;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::Ended;
use crate::limits;

/// Where a VM is between its decision and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Decided, and nothing done yet.
    Created,
    /// Its image is being fetched or looked for.
    Fetching,
    /// QEMU is being started.
    Starting,
    /// The guest runs.
    Running,
    /// It was asked to stop.
    Stopping,
    /// It shut down, by itself or because it was asked to.
    Exited,
    /// QEMU or the guest's kernel failed.
    Failed,
    /// Nobody knows how it ended: whoever looked after it was killed.
    Lost,
}

impl State {
    /// As in `status.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Fetching => "fetching",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Exited => "exited",
            Self::Failed => "failed",
            Self::Lost => "lost",
        }
    }

    /// Whether nothing comes after it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Exited | Self::Failed | Self::Lost)
    }

    fn may_become(self, next: Self) -> bool {
        let order = |state| match state {
            Self::Created => 0,
            Self::Fetching => 1,
            Self::Starting => 2,
            Self::Running => 3,
            Self::Stopping => 4,
            Self::Exited | Self::Failed | Self::Lost => 5,
        };
        let begins_after = match next {
            // A guest that has not run has not shut down.
            Self::Exited => Self::Running,
            Self::Stopping => Self::Starting,
            Self::Created
            | Self::Fetching
            | Self::Starting
            | Self::Running
            | Self::Failed
            | Self::Lost => Self::Created,
        };
        !self.is_final() && order(next) > order(self) && order(self) >= order(begins_after)
    }
}

/// A VM's status, as it is written down.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    state: State,
    /// Every state so far, with when it began and why.
    changes: Vec<Change>,
    /// Who looks after it.
    pub supervisor: Option<Process>,
    /// Its QEMU, once there is one.
    pub qemu: Option<Process>,
    /// How it ended, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// A state's beginning.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    /// A VM that this process is going to look after.
    pub(super) fn new() -> Self {
        let change = Change { state: State::Created, at: Timestamp::now(), reason: None };
        Self {
            state: State::Created,
            changes: vec![change],
            supervisor: Process::of(std::process::id()),
            qemu: None,
            ended: None,
        }
    }

    /// Of a VM whose record cannot be read: it may be running.
    pub(super) fn unknown() -> Self {
        Self { state: State::Running, changes: vec![], supervisor: None, qemu: None, ended: None }
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Every state so far.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// When its state began.
    pub fn since(&self) -> Option<Timestamp> {
        self.changes.last().map(|change| change.at)
    }

    /// When the guest began to run.
    pub fn running_since(&self) -> Option<Timestamp> {
        let running = self.changes.iter().find(|change| change.state == State::Running);
        running.map(|change| change.at)
    }

    /// Goes on to a state; one that cannot follow is not entered. Whether it was.
    pub(super) fn enter(&mut self, state: State, reason: Option<String>) -> bool {
        let may = self.state.may_become(state);
        if may {
            self.state = state;
            self.changes.push(Change { state, at: Timestamp::now(), reason });
        }
        may
    }
}

/// A process that is told apart from later ones of the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it began, in clock ticks since the host's start (proc_pid_stat(5), field 22).
    started_ticks: u64,
    /// Which start of the host that was.
    boot_id: String,
}

impl Process {
    /// A process that is there now.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let stat = process::Process::new(pid.try_into().ok()?).ok()?.stat().ok()?;
        let boot_id = procfs::sys::kernel::random::boot_id().ok()?;
        Some(Self { pid, started_ticks: stat.starttime, boot_id })
    }

    /// Sends it a signal; false where it is gone.
    pub fn signal(&self, signal: Signal) -> bool {
        let Some(pid) = self.pid.try_into().ok().and_then(Pid::from_raw) else { return false };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
        // The handle is of whoever has the number now; from here on that cannot change.
        Self::of(self.pid).as_ref() == Some(self) && pidfd_send_signal(&handle, signal).is_ok()
    }
}

impl Ended {
    /// The state that a VM is in for good.
    pub(super) fn state(&self) -> (State, String) {
        let state = if self.end.is_failure() { State::Failed } else { State::Exited };
        let reason = self.end.to_string();
        (state, crate::printable::line(&reason, limits::QEMU_STDERR_BYTES).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [State; 8] = [
        State::Created,
        State::Fetching,
        State::Starting,
        State::Running,
        State::Stopping,
        State::Exited,
        State::Failed,
        State::Lost,
    ];

    #[test]
    fn only_legal_changes() {
        for from in ALL {
            assert!(!from.may_become(from), "{from:?}");
            assert!(!from.may_become(State::Created), "{from:?}");
            for to in ALL {
                assert!(!(from.is_final() && from.may_become(to)), "{from:?} to {to:?}");
            }
        }
        let legal = |from: State| ALL.into_iter().filter(move |to| from.may_become(*to)).count();
        assert_eq!(ALL.map(legal), [5, 4, 4, 4, 3, 0, 0, 0]);
        let mut status = Status::new();
        assert!(!status.enter(State::Exited, None));
        assert!(status.enter(State::Starting, None) && status.enter(State::Running, None));
        assert!(!status.enter(State::Fetching, None));
        assert!(status.enter(State::Lost, Some("killed".into())));
        assert!(!status.enter(State::Running, None));
        assert_eq!(status.changes().len(), 4);
    }

    #[test]
    fn a_process_is_told_apart_from_a_later_one() {
        let me = Process::of(std::process::id()).unwrap();
        assert_eq!(Process::of(std::process::id()).as_ref(), Some(&me));
        assert!(me.signal(Signal::CONT));
        assert!(
            !Process { started_ticks: me.started_ticks - 1, ..me.clone() }.signal(Signal::CONT)
        );
        assert!(!Process { boot_id: "another".into(), ..me }.signal(Signal::CONT));
    }
}
