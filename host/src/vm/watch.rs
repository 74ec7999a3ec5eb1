//! One QEMU from its greeting to its exit: its events, what it is asked, and the phases of stopping it.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::time::{self, Instant};

use super::{
    Note, State, VmError,
    control::{Ask, Request},
    process::Ending,
    qemu::Qemu,
    ready,
    seen::{Phase, Seen},
    stats,
    supervise::Supervisor,
};
use crate::{
    failpoint, limits,
    qemu::{Event, Qmp, QmpError},
};

pub(super) struct Watch<'a> {
    of: &'a mut Supervisor,
    qemu: &'a mut Qemu,
    /// Gone once it has failed.
    qmp: Option<Qmp>,
    ready: Option<ready::Check>,
    seen: Seen,
    /// When the next phase begins by itself.
    deadline: Option<Instant>,
    /// When the guest was last said to be paused or to go on.
    turned: Option<Instant>,
}

/// What comes first.
enum Next {
    Exit(Ending),
    Event(Result<Event, QmpError>),
    Signal,
    Ask(Ask),
    Ready(Result<(), String>),
    Deadline,
}

impl<'a> Watch<'a> {
    pub(super) fn new(
        of: &'a mut Supervisor,
        qemu: &'a mut Qemu,
        qmp: Qmp,
        ready: Option<ready::Check>,
    ) -> Self {
        let (qmp, seen) = (Some(qmp), Seen::default());
        Self { of, qemu, qmp, ready, seen, deadline: None, turned: None }
    }

    /// Lets the guest run.
    pub(super) async fn go_on(&mut self) -> Result<(), VmError> {
        if let Some(qmp) = &mut self.qmp {
            qmp.execute("cont").await?;
        }
        self.of.enter_with(State::Running, None, |_| {});
        Ok(())
    }

    /// Finds out how a QEMU is doing that somebody else started.
    pub(super) async fn find_out(&mut self) -> Result<(), VmError> {
        let Some(qmp) = &mut self.qmp else { return Ok(()) };
        let status = qmp.execute("query-status").await?;
        match status.get("status").and_then(Value::as_str).unwrap_or_default() {
            // It was killed before the guest ran.
            "prelaunch" => self.go_on().await?,
            "running" => self.of.enter_with(State::Running, None, |_| {}),
            "paused" if self.of.dir.status().state() != State::Stopping => {
                self.of.enter_with(State::Paused, None, |_| {});
            }
            status @ ("internal-error" | "io-error") => {
                self.fail(format!("QEMU stopped the guest: {status}"))
            }
            _ => {}
        }
        self.of.notes.say(&Note::Adopted);
        // Somebody asked it to stop: its grace goes on.
        if self.of.dir.status().state() == State::Stopping {
            self.seen.asked = true;
            self.seen.again = self.of.dir.status().start_again_after;
            self.seen.phase = Phase::PoweringDown;
            // Whoever began may have been killed before it was pressed; a guest that was told twice powers off once.
            if let Some(qmp) = &mut self.qmp
                && let Err(error) = qmp.execute("system_powerdown").await
            {
                tracing::warn!(%error, "pressing the guest's power button");
            }
            self.deadline = Some(Instant::now() + self.of.grace_left());
        }
        Ok(())
    }

    pub(super) async fn until_exit(mut self) -> (Ending, Seen) {
        loop {
            match self.next().await {
                Next::Exit(ending) => {
                    self.last_events().await;
                    return (ending, self.seen);
                }
                Next::Event(Ok(event)) => self.note(event).await,
                Next::Event(Err(error)) => {
                    self.qmp = None;
                    // The socket closes when QEMU exits. One that only closed it, or sends garbage, is ended.
                    if !matches!(error, QmpError::Closed) {
                        self.seen.failure.get_or_insert(error.to_string());
                    }
                    self.deadline.get_or_insert(Instant::now() + limits::STOP_QUIT);
                }
                Next::Signal => {
                    self.of.heard += 1;
                    match self.seen.phase {
                        Phase::Running => self.stop(None).await,
                        Phase::PoweringDown | Phase::Quitting | Phase::Killing => {
                            self.seen.again = false;
                            self.next_phase().await;
                        }
                    }
                }
                Next::Ask(ask) => self.answer(ask).await,
                Next::Ready(Ok(())) => {
                    self.ready = None;
                    self.of.dir.note(|status| status.ready_at = Some(Timestamp::now()));
                    self.of.dir.tell("ready", None);
                    self.of.notes.say(&Note::Ready);
                }
                Next::Ready(Err(message)) => {
                    self.ready = None;
                    self.fail(message);
                }
                Next::Deadline => self.next_phase().await,
            }
        }
    }

    async fn next(&mut self) -> Next {
        let (stop, heard) = (&mut self.of.stop, self.of.heard + 1);
        tokio::select! {
            ending = self.qemu.end() => Next::Exit(ending),
            event = next_event(&mut self.qmp) => Next::Event(event),
            () = stop.asked(heard) => Next::Signal,
            Some(ask) = self.of.asks.recv() => Next::Ask(ask),
            held = is_ready(&mut self.ready) => Next::Ready(held),
            () = until(self.deadline) => Next::Deadline,
        }
    }

    async fn answer(&mut self, ask: Ask) {
        // Whoever asked has given up, and asks by other ways.
        if ask.is_abandoned() {
            return;
        }
        match ask.request {
            Request::Stop { grace_s } => {
                self.seen.again = false;
                ask.answer(Ok(true.into()));
                self.stop(grace_s).await;
            }
            Request::Restart { grace_s } => {
                self.seen.again = true;
                ask.answer(Ok(true.into()));
                self.stop(grace_s).await;
            }
            Request::Kill => {
                self.seen.again = false;
                self.seen.asked = true;
                ask.answer(Ok(true.into()));
                self.enter_stopping(Duration::ZERO);
                self.seen.phase = Phase::Quitting;
                self.next_phase().await;
            }
            Request::Pause => ask.answer(self.turn("stop").await),
            Request::Resume => ask.answer(self.turn("cont").await),
            Request::Stats => {
                let process = self.of.dir.status().qemu.clone();
                let stats = stats::gather(&self.of.spec, process.as_ref(), &mut self.qmp).await;
                ask.answer(serde_json::to_value(stats).map_err(|error| error.to_string()));
            }
            Request::Console => ask.answer(Err("that is no question".into())),
        }
    }

    async fn status(&mut self) -> Result<Value, QmpError> {
        match &mut self.qmp {
            Some(qmp) => qmp.execute("query-status").await,
            None => Err(QmpError::Closed),
        }
    }

    /// Has the guest pause or go on. Whoever asked finds it written down, however often it was so before.
    async fn turn(&mut self, command: &str) -> Result<Value, String> {
        let done = match &mut self.qmp {
            Some(qmp) if self.seen.phase == Phase::Running => {
                qmp.execute(command).await.map_err(|error| error.to_string())?
            }
            Some(_) => return Err("it is stopping".into()),
            None => return Err("QEMU cannot be controlled".into()),
        };
        self.turned = None;
        self.note_whether_it_runs().await;
        Ok(done)
    }

    /// Begins to stop it; where that has begun, makes its grace no longer than this.
    async fn stop(&mut self, grace_s: Option<u64>) {
        let grace = Duration::from_secs(grace_s.unwrap_or(self.of.spec.grace_s));
        self.seen.asked = true;
        match self.seen.phase {
            Phase::Running => self.next_phase_with(grace).await,
            Phase::PoweringDown => {
                let by = Instant::now() + grace;
                self.deadline = Some(self.deadline.map_or(by, |deadline| deadline.min(by)));
            }
            Phase::Quitting | Phase::Killing => {}
        }
    }

    /// Whatever was wrong with it ends it.
    fn fail(&mut self, message: String) {
        self.seen.failure.get_or_insert(message);
        self.deadline = Some(Instant::now());
    }

    async fn next_phase(&mut self) {
        self.next_phase_with(Duration::from_secs(self.of.spec.grace_s)).await;
    }

    async fn next_phase_with(&mut self, grace: Duration) {
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
            Phase::Quitting | Phase::Killing => {
                (Phase::Killing, "killing QEMU", "", limits::STOP_QUIT)
            }
        };
        self.seen.phase = phase;
        if self.seen.asked {
            self.enter_stopping(wait);
            self.of.notes.say(&Note::Doing(doing.into()));
        }
        failpoint::reach(match phase {
            Phase::Running | Phase::PoweringDown => "stop.powerdown",
            Phase::Quitting => "stop.quit",
            Phase::Killing => "stop.kill",
        });
        let (stop, hasten) = (&mut self.of.stop, self.of.heard + 1);
        let done = match (&mut self.qmp, phase) {
            (Some(qmp), Phase::PoweringDown | Phase::Quitting) => {
                // Asked to stop once more, a QEMU that does not answer is not waited for.
                tokio::select! {
                    answer = qmp.execute(command) => answer.is_ok(),
                    () = stop.asked(hasten) => false,
                }
            }
            (_, _) => false,
        };
        // A command that failed leaves nothing to wait for.
        self.deadline = Some(Instant::now() + if done { wait } else { Duration::ZERO });
        if phase == Phase::Killing {
            self.qemu.kill();
            // Again, should the kernel hold it: nothing is given up before its end.
            self.deadline = Some(Instant::now() + limits::STOP_QUIT);
        }
    }

    /// From here on it is stopping, by a time that whoever looks after it next will keep to.
    fn enter_stopping(&mut self, wait: Duration) {
        if self.of.dir.status().state() == State::Stopping {
            let again = self.seen.again;
            if self.of.dir.status().start_again_after != again {
                self.of.dir.note(|status| status.start_again_after = again);
            }
            return;
        }
        let (by, again) = (Timestamp::now() + wait, self.seen.again);
        self.of.enter_with(State::Stopping, Some("asked to".into()), |status| {
            status.stop_by = Some(by);
            status.start_again_after = again;
        });
    }

    async fn note(&mut self, event: Event) {
        self.seen.note(&event);
        if ["STOP", "RESUME"].contains(&event.name.as_str()) {
            self.note_whether_it_runs().await;
        }
    }

    /// A guest that stops without being told has hit an error inside QEMU, which stays alive.
    async fn note_whether_it_runs(&mut self) {
        let status = match self.status().await {
            Ok(status) => status,
            Err(error) => return tracing::debug!(%error, "asking QEMU how it is"),
        };
        let status = status.get("status").and_then(Value::as_str);
        let state = match (status, self.of.dir.status().state()) {
            (Some(status @ ("internal-error" | "io-error")), _) => {
                return self.fail(format!("QEMU stopped the guest: {status}"));
            }
            (Some("paused"), State::Running) => State::Paused,
            (Some("running"), State::Paused) => State::Running,
            (_, _) => return,
        };
        if self.may_turn() {
            self.of.enter_with(state, None, |_| {});
        }
    }

    /// Whether a change between paused and running is written down: not as often as a QEMU that wants to fill everybody's
    /// history can say so.
    fn may_turn(&mut self) -> bool {
        let may = self.turned.is_none_or(|last| last.elapsed() >= limits::TURN_AGAIN);
        if may {
            self.turned = Some(Instant::now());
        }
        may
    }

    /// Events that were sent just before the end are still in the socket.
    async fn last_events(&mut self) {
        let Some(qmp) = &mut self.qmp else { return };
        let rest = async {
            while let Ok(event) = qmp.event().await {
                self.seen.note(&event);
            }
        };
        // Its end is the socket's, which QEMU's end has closed.
        if time::timeout(limits::DRAIN, rest).await.is_err() {
            tracing::warn!("QEMU's control socket stayed open after QEMU's end");
        }
    }
}

async fn next_event(qmp: &mut Option<Qmp>) -> Result<Event, QmpError> {
    match qmp {
        Some(qmp) => qmp.event().await,
        None => std::future::pending().await,
    }
}

async fn is_ready(check: &mut Option<ready::Check>) -> Result<(), String> {
    match check {
        Some(check) => check.held().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
