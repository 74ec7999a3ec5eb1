//! How a QEMU is ended: its guest's power button, its own end, a signal; each phase begins by itself when the one before has had its time.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use qhost_sys::failpoint;

use super::{State, exit::Phase, monitor::Monitor, pending::CommandPurpose};
use crate::limits;

impl Monitor<'_> {
    /// Begins to stop it; where that has begun, makes its grace no longer than this.
    pub(super) fn stop(&mut self, grace_s: Option<u64>) {
        let grace = Duration::from_secs(grace_s.unwrap_or(self.of.spec.grace_s));
        self.seen.asked = true;
        match self.seen.phase {
            Phase::Running => self.next_phase_with(grace),
            Phase::PoweringDown => {
                let by = Instant::now() + grace;
                self.deadline = Some(self.deadline.map_or(by, |deadline| deadline.min(by)));
            }
            Phase::Quitting | Phase::Killing => {}
        }
    }

    pub(super) fn kill(&mut self) {
        self.seen.again = false;
        self.seen.asked = true;
        self.enter_stopping(Duration::ZERO);
        self.seen.phase = Phase::Quitting;
        self.next_phase();
    }

    /// Ends the VM for a failure.
    pub(super) fn fail(&mut self, message: String) {
        self.seen.failure.get_or_insert(message);
        self.deadline = Some(Instant::now());
    }

    pub(super) fn next_phase(&mut self) {
        self.next_phase_with(Duration::from_secs(self.of.spec.grace_s));
    }

    fn next_phase_with(&mut self, grace: Duration) {
        let (phase, doing, command, wait) = match self.seen.phase {
            Phase::Running if self.qmp.is_some() && self.seen.failure.is_none() => (
                Phase::PoweringDown,
                "pressing the guest's power button",
                "system_powerdown",
                grace,
            ),
            Phase::Running | Phase::PoweringDown => {
                (Phase::Quitting, "telling QEMU to quit", "quit", limits::STOP_QUIT)
            }
            // Again, should the kernel hold it: nothing is given up before its end.
            Phase::Quitting | Phase::Killing => {
                (Phase::Killing, "killing QEMU", "", limits::STOP_QUIT)
            }
        };
        self.seen.phase = phase;
        if self.seen.asked {
            self.enter_stopping(wait);
            self.of.publish_step(doing);
        }
        failpoint::reach(match phase {
            Phase::Running | Phase::PoweringDown => "stop.powerdown",
            Phase::Quitting => "stop.quit",
            Phase::Killing => "stop.kill",
        });
        self.deadline = Some(Instant::now() + wait);
        match phase {
            Phase::Killing => self.qemu.kill(),
            Phase::Running | Phase::PoweringDown | Phase::Quitting => {
                self.command(command, CommandPurpose::Stop);
            }
        }
    }

    /// From here on it is stopping, by a time that the supervisor that comes next will keep to.
    fn enter_stopping(&mut self, wait: Duration) {
        if self.of.dir.status().state() == State::Stopping {
            let again = self.seen.again;
            if self.of.dir.status().start_again_after != again {
                self.of.dir.update_status(|status| status.start_again_after = again);
            }
            return;
        }
        let (by, again) = (Timestamp::now() + wait, self.seen.again);
        self.of.enter_with(State::Stopping, Some("stop requested".into()), |status| {
            status.stop_by = Some(by);
            status.start_again_after = again;
        });
    }
}
