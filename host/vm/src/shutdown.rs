//! Ends a QEMU in phases: the guest's power button, QEMU's `quit`, a signal. Each phase begins by itself when the time of the one before is
//! over.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use qhost_sys::failpoint;

use super::{State, exit::Phase, monitor::Monitor, pending::CommandPurpose};
use crate::limits;

impl Monitor<'_> {
    /// Begins to stop the VM. If stopping has begun already, the grace is made no longer than this one.
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
            // QEMU is killed again, in case the kernel holds it: nothing is given up before QEMU's end.
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

    /// Enters the state `Stopping`, and records the deadline, which a supervisor that adopts the VM will keep to.
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

#[cfg(test)]
mod tests {
    use crate::{
        End, Request, StoppedBy,
        scripted::{Asked, GRACE_S, Reaction, Script, Trace, stopped},
    };

    use Reaction::{Answers, Closes, Exits, Ignores, Refuses};

    /// QEMU's script, the requests, each at its second, and the steps that follow, each at its second.
    struct Row {
        script: Script,
        asked: Vec<(u64, Asked)>,
        steps: Vec<(u64, &'static str)>,
        end: End,
        again: bool,
        ended_at: u64,
    }

    const fn script(powerdown: Reaction, quit: Reaction, killed: u64) -> Script {
        Script { powerdown, quit, killed }
    }

    const fn stop(grace_s: u64) -> Asked {
        Asked::Request(Request::Stop { grace_s: Some(grace_s) })
    }

    const STOP: Asked = Asked::Request(Request::Stop { grace_s: None });
    const RESTART: Asked = Asked::Request(Request::Restart { grace_s: None });
    const KILL: Asked = Asked::Request(Request::Kill);
    const DOWN: &str = "system_powerdown";

    fn row(
        script: Script,
        asked: impl Into<Vec<(u64, Asked)>>,
        steps: impl Into<Vec<(u64, &'static str)>>,
        by: StoppedBy,
        ended_at: u64,
    ) -> Row {
        let (asked, steps) = (asked.into(), steps.into());
        Row { script, asked, steps, end: End::Stopped { by }, again: false, ended_at }
    }

    fn rows() -> Vec<Row> {
        use StoppedBy::{Kill, Powerdown, Quit};
        let deaf = script(Answers, Exits(0), 0);
        let hangs = script(Answers, Answers, 0);
        vec![
            row(script(Exits(2), Exits(0), 0), [(0, STOP)], [(0, DOWN)], Powerdown, 2),
            row(deaf, [(1, STOP)], [(1, DOWN), (1 + GRACE_S, "quit")], Quit, 1 + GRACE_S),
            row(deaf, [(0, stop(7))], [(0, DOWN), (7, "quit")], Quit, 7),
            row(deaf, [(0, stop(0))], [(0, DOWN), (0, "quit")], Quit, 0),
            row(hangs, [(0, stop(3))], [(0, DOWN), (3, "quit"), (8, "SIGKILL")], Kill, 8),
            // A QEMU that the kernel holds is killed again and again, and waited for.
            row(
                script(Answers, Answers, 12),
                [(0, stop(3))],
                [(0, DOWN), (3, "quit"), (8, "SIGKILL"), (13, "SIGKILL"), (18, "SIGKILL")],
                Kill,
                20,
            ),
            // A command that is refused, or not answered, leaves nothing to wait for.
            row(script(Ignores, Exits(0), 0), [(0, STOP)], [(0, DOWN), (5, "quit")], Quit, 5),
            row(script(Refuses, Exits(0), 0), [(0, STOP)], [(0, DOWN), (0, "quit")], Quit, 0),
            row(
                script(Refuses, Refuses, 0),
                [(0, STOP)],
                [(0, DOWN), (0, "quit"), (0, "SIGKILL")],
                Kill,
                0,
            ),
            row(script(Closes, Exits(0), 0), [(0, STOP)], [(0, DOWN), (0, "SIGKILL")], Kill, 0),
            // A later request can make the grace shorter, but not longer.
            row(deaf, [(0, STOP), (1, stop(5))], [(0, DOWN), (6, "quit")], Quit, 6),
            row(deaf, [(0, stop(5)), (1, STOP)], [(0, DOWN), (5, "quit")], Quit, 5),
            row(hangs, [(0, KILL)], [(0, "SIGKILL")], Kill, 0),
            row(deaf, [(0, STOP), (2, KILL)], [(0, DOWN), (2, "SIGKILL")], Kill, 2),
            // The first signal asks QEMU to stop, and each further one begins the next phase.
            row(deaf, [(0, Asked::Signal), (2, Asked::Signal)], [(0, DOWN), (2, "quit")], Quit, 2),
            row(
                hangs,
                [(0, Asked::Signal), (2, Asked::Signal), (3, Asked::Signal)],
                [(0, DOWN), (2, "quit"), (3, "SIGKILL")],
                Kill,
                3,
            ),
            Row {
                again: true,
                ..row(script(Exits(2), Exits(0), 0), [(0, RESTART)], [(0, DOWN)], Powerdown, 2)
            },
            // A request to stop after one to restart holds, and so does one to kill.
            row(deaf, [(0, RESTART), (1, stop(4))], [(0, DOWN), (5, "quit")], Quit, 5),
            row(deaf, [(0, RESTART), (1, KILL)], [(0, DOWN), (1, "SIGKILL")], Kill, 1),
        ]
    }

    #[tokio::test(start_paused = true)]
    async fn each_phase_begins_when_the_one_before_has_had_its_time() {
        for (number, row) in rows().into_iter().enumerate() {
            let Row { script, asked, steps, end, again, ended_at } = row;
            let steps = steps.into_iter().map(|(at, step)| (at, step.to_owned())).collect();
            let expected = Trace { steps, end, again, ended_at };
            assert_eq!(stopped(script, &asked).await, expected, "row {number}: {script:?}");
        }
    }
}
