//! One QEMU from its greeting to its exit: its events, commands to it, and the phases of stopping it. Nothing here waits for
//! QEMU alone: while a command is not answered, requests and signals are heard.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{self, Instant};

use qhost_cage::Level;

use super::{
    Begin, State, VmError,
    control::{Ask, Request},
    exit::{ExitEvidence, Phase},
    pending::{CommandPurpose, Gathering, Overdue, Pending, run_state},
    process::ProcessExit,
    qemu::Qemu,
    qmp::{Event, Message, Qmp, QmpError},
    ready,
    session::Session,
    stats,
};
use crate::limits;

pub(super) struct Monitor<'a> {
    pub(super) of: &'a mut Session,
    pub(super) qemu: &'a mut Qemu,
    /// Gone once it has failed.
    pub(super) qmp: Option<Qmp>,
    ready: Option<ready::Check>,
    /// Of a QEMU that has just been started.
    boot: Option<ready::BootWatch>,
    pub(super) seen: ExitEvidence,
    pending: Pending,
    /// When the next phase begins by itself.
    pub(super) deadline: Option<Instant>,
    /// When the guest was last said to be paused or to go on.
    turned: Option<Instant>,
    /// When QEMU is asked again whether the guest runs.
    look_at: Option<Instant>,
}

/// What comes first.
enum Next {
    Exit(ProcessExit),
    Signal,
    Ask(Ask),
    Deadline,
    Overdue(Overdue),
    Scan,
    Ready(Result<(), String>),
    NothingBoots,
    Said(Result<Message, QmpError>),
}

impl<'a> Monitor<'a> {
    pub(super) fn new(
        of: &'a mut Session,
        qemu: &'a mut Qemu,
        qmp: Qmp,
        ready: Option<ready::Check>,
    ) -> Self {
        Self {
            of,
            qemu,
            qmp: Some(qmp),
            ready,
            boot: None,
            seen: ExitEvidence::default(),
            pending: Pending::default(),
            deadline: None,
            turned: None,
            look_at: None,
        }
    }

    /// Listens from now on whether the firmware finds anything to boot.
    pub(super) fn watch_boot(&mut self) {
        let is_uefi = self.of.spec.variables.is_some();
        let said = self.of.console.said.subscribe();
        self.boot = Some(ready::BootWatch::begin(said, is_uefi));
    }

    /// Lets the guest run.
    pub(super) async fn resume(&mut self) -> Result<(), VmError> {
        if let Some(qmp) = &mut self.qmp {
            qmp.execute("cont").await?;
        }
        self.of.enter_with(State::Running, None, |_| {});
        Ok(())
    }

    /// Finds out how a QEMU is doing that another supervisor started.
    pub(super) async fn sync_with_qemu(&mut self) -> Result<(), VmError> {
        let Some(qmp) = &mut self.qmp else { return Ok(()) };
        let status = qmp.execute("query-status").await?;
        match run_state(&status) {
            // It was killed before the guest ran.
            "prelaunch" => self.resume().await?,
            "running" => self.of.enter_with(State::Running, None, |_| {}),
            "paused" if self.of.dir.status().state() != State::Stopping => {
                self.of.enter_with(State::Paused, None, |_| {});
            }
            status @ ("internal-error" | "io-error") => {
                self.fail(format!("QEMU stopped the guest: {status}"))
            }
            _ => {}
        }
        self.of.publish();
        // It was asked to stop: its grace goes on.
        if self.of.dir.status().state() == State::Stopping {
            self.seen.asked = true;
            self.seen.again = self.of.dir.status().start_again_after;
            self.seen.phase = Phase::PoweringDown;
            self.deadline = Some(Instant::now() + self.of.grace_left());
            // The supervisor before may have been killed before it was pressed; a guest that was told twice powers off once.
            self.command("system_powerdown", CommandPurpose::Stop);
        }
        Ok(())
    }

    /// What this does for the VM from here on counts against the VM: after the start, which would take longer by it. A VM that was launched
    /// with all of its cage is ended where that fails.
    pub(super) fn count_as_the_vm(&mut self, begin: Begin) {
        let cage = &self.of.spec.cage;
        let Err(error) = cage.enter_supervisor(&self.of.spec.vm) else { return };
        let message = format!("its supervisor cannot join the VM's cgroup: {error}");
        if begin == Begin::Launch && cage.level == Level::Strict {
            self.fail(message)
        } else {
            tracing::warn!(message)
        }
    }

    pub(super) async fn until_exit(mut self) -> (ProcessExit, ExitEvidence) {
        loop {
            match self.next().await {
                Next::Exit(ending) => {
                    self.last_words().await;
                    return (ending, self.seen);
                }
                Next::Signal => {
                    self.of.heard += 1;
                    match self.seen.phase {
                        Phase::Running => self.stop(None),
                        Phase::PoweringDown | Phase::Quitting | Phase::Killing => {
                            self.seen.again = false;
                            self.next_phase();
                        }
                    }
                }
                Next::Ask(ask) => self.answer(ask),
                Next::Deadline => self.next_phase(),
                Next::Overdue(late) => self.late(late),
                Next::Scan => self.look(None),
                Next::Ready(held) => self.is_ready(held),
                Next::NothingBoots => self.nothing_boots(),
                Next::Said(Ok(Message::Event(event))) => self.note(&event),
                Next::Said(Ok(Message::Answer { id, result })) => self.heard(id, result),
                Next::Said(Err(error)) => self.lost(&error),
            }
        }
    }

    /// QEMU's end, signals and requests first, whatever else there is.
    async fn next(&mut self) -> Next {
        let (stop, heard) = (&mut self.of.stop, self.of.heard + 1);
        tokio::select! {
            biased;
            ending = self.qemu.end() => Next::Exit(ending),
            () = stop.asked(heard) => Next::Signal,
            Some(ask) = self.of.asks.recv() => Next::Ask(ask),
            () = until(self.deadline) => Next::Deadline,
            late = self.pending.late() => Next::Overdue(late),
            () = until(self.look_at) => Next::Scan,
            held = ready::held(&mut self.ready) => Next::Ready(held),
            () = ready::boot_fails(&mut self.boot) => Next::NothingBoots,
            said = says(&mut self.qmp) => Next::Said(said),
        }
    }

    fn is_ready(&mut self, held: Result<(), String>) {
        self.ready = None;
        match held {
            Ok(()) => {
                self.of.dir.update_status(|status| status.ready_at = Some(Timestamp::now()));
                self.of.dir.record_event("ready", None);
                self.of.publish();
            }
            Err(message) => self.fail(message),
        }
    }

    /// No guest will ever be ready.
    fn nothing_boots(&mut self) {
        self.boot = None;
        self.of.dir.update_status(|status| status.boot_failed_at = Some(Timestamp::now()));
        self.of.dir.record_event("boot-failed", Some(ready::NOTHING_BOOTS.into()));
        self.of.publish();
        if self.ready.take().is_some() {
            self.fail(ready::NOTHING_BOOTS.into());
        }
    }

    fn answer(&mut self, ask: Ask) {
        // The command that asked has given up, and goes other ways.
        if ask.is_abandoned() {
            return;
        }
        match ask.request {
            Request::Stop { grace_s } => {
                self.seen.again = false;
                ask.answer(Ok(true.into()));
                self.stop(grace_s);
            }
            Request::Restart { grace_s } => {
                self.seen.again = true;
                ask.answer(Ok(true.into()));
                self.stop(grace_s);
            }
            Request::Kill => {
                ask.answer(Ok(true.into()));
                self.kill();
            }
            Request::Pause => self.set_paused("stop", ask),
            Request::Resume => self.set_paused("cont", ask),
            Request::Stats => self.gather(ask),
            Request::Subscribe | Request::Console => ask.answer(Err("that is no question".into())),
        }
    }

    /// Sends a command whose answer is heard later.
    pub(super) fn command(&mut self, command: &str, what: CommandPurpose) {
        self.command_with(command, &json!({}), what, limits::QMP_REPLY);
    }

    fn command_with(
        &mut self,
        command: &str,
        arguments: &Value,
        what: CommandPurpose,
        within: Duration,
    ) {
        match self.qmp.as_mut().ok_or(QmpError::Closed).and_then(|qmp| qmp.send(command, arguments))
        {
            Ok(id) => self.pending.add(id, what, within),
            Err(error) => {
                tracing::debug!(%error, command, "not sent");
                self.unheard(what, &error.to_string());
            }
        }
    }

    /// Has the guest pause or go on. The request is answered once the status on disk says so.
    fn set_paused(&mut self, command: &str, ask: Ask) {
        match self.seen.phase {
            Phase::Running => self.command(command, CommandPurpose::SetPaused(ask)),
            Phase::PoweringDown | Phase::Quitting | Phase::Killing => {
                ask.answer(Err("it is stopping".into()));
            }
        }
    }

    fn gather(&mut self, ask: Ask) {
        if let Some(gathering) = &mut self.pending.gathering {
            gathering.asks.push(ask);
            return;
        }
        let process = self.of.dir.status().qemu.clone();
        let stats = stats::of_process(&self.of.spec, process.as_ref());
        self.pending.gathering = Some(Gathering::begin(ask, stats));
        let none = json!({});
        self.command_with("query-blockstats", &none, CommandPurpose::Disks, limits::QMP_STATS);
        // QEMU tells it nowhere else.
        let usernet = json!({"command-line": "info usernet"});
        let human = "human-monitor-command";
        self.command_with(human, &usernet, CommandPurpose::Connections, limits::QMP_STATS);
        self.tell_what_was_gathered();
    }

    fn tell_what_was_gathered(&mut self) {
        if self.pending.has_gathered()
            && let Some(gathering) = self.pending.gathering.take()
        {
            gathering.answer();
        }
    }

    /// An answer of QEMU's.
    fn heard(&mut self, id: u64, result: Result<Value, String>) {
        let Some(what) = self.pending.take(id) else { return };
        let answer = match result {
            Ok(answer) => answer,
            Err(reason) => return self.unheard(what, &format!("QEMU refused: {reason}")),
        };
        match what {
            CommandPurpose::SetPaused(ask) => {
                self.turned = None;
                self.look(Some(ask));
            }
            CommandPurpose::Status(ask) => {
                self.note_run_state(run_state(&answer));
                if let Some(ask) = ask {
                    ask.answer(Ok(Value::Null));
                }
            }
            CommandPurpose::Stop => {}
            CommandPurpose::Disks => {
                if let Some(gathering) = &mut self.pending.gathering {
                    gathering.stats.note_disks(&answer);
                }
                self.tell_what_was_gathered();
            }
            CommandPurpose::Connections => {
                if let Some(gathering) = &mut self.pending.gathering {
                    gathering.stats.note_connections(&answer);
                }
                self.tell_what_was_gathered();
            }
        }
    }

    fn late(&mut self, late: Overdue) {
        match late {
            Overdue::Command(what) => {
                let seconds = limits::QMP_REPLY.as_secs();
                self.unheard(what, &format!("QEMU did not answer within {seconds} s"));
            }
            Overdue::Gathering(gathering) => gathering.answer(),
        }
    }

    /// A command that was not sent, not answered or refused.
    fn unheard(&mut self, what: CommandPurpose, why: &str) {
        match what {
            CommandPurpose::SetPaused(ask) | CommandPurpose::Status(Some(ask)) => {
                ask.answer(Err(why.to_owned()))
            }
            CommandPurpose::Status(None) => tracing::debug!(why, "asking QEMU how it is"),
            // A command that failed leaves nothing to wait for.
            CommandPurpose::Stop => self.deadline = Some(Instant::now()),
            CommandPurpose::Disks | CommandPurpose::Connections => self.tell_what_was_gathered(),
        }
    }

    /// The control connection is of no use any more.
    fn lost(&mut self, error: &QmpError) {
        self.qmp = None;
        // The socket closes when QEMU exits. One that only closed it, or sends garbage or a flood, is ended.
        if !matches!(error, QmpError::Closed) {
            self.seen.failure.get_or_insert(error.to_string());
        }
        self.deadline.get_or_insert(Instant::now() + limits::STOP_QUIT);
        let late: Vec<_> = self.pending.give_up().collect();
        for late in late {
            match late {
                Overdue::Command(what) => self.unheard(what, &error.to_string()),
                Overdue::Gathering(gathering) => gathering.answer(),
            }
        }
    }

    fn note(&mut self, event: &Event) {
        self.seen.note(event);
        if ["STOP", "RESUME"].contains(&event.name.as_str()) {
            if self.pending.asks_status() {
                // The answer that is on its way may be of before.
                self.look_at = Some(Instant::now() + limits::TURN_AGAIN);
            } else {
                self.look(None);
            }
        }
    }

    /// Asks whether the guest runs; what asked for a change is told once that is known.
    fn look(&mut self, ask: Option<Ask>) {
        self.look_at = None;
        self.command("query-status", CommandPurpose::Status(ask));
    }

    /// A guest that stops without being told has hit an error inside QEMU, which stays alive.
    fn note_run_state(&mut self, run_state: &str) {
        let state = match (run_state, self.of.dir.status().state()) {
            ("internal-error" | "io-error", _) => {
                return self.fail(format!("QEMU stopped the guest: {run_state}"));
            }
            ("paused", State::Running) => State::Paused,
            ("running", State::Paused) => State::Running,
            (_, _) => return,
        };
        // At a bounded rate, as QEMU could say so any number of times to fill the VM's history.
        let now = Instant::now();
        match self.turned.map(|last| last + limits::TURN_AGAIN).filter(|again| *again > now) {
            Some(again) => self.look_at = Some(again),
            None => {
                self.turned = Some(now);
                self.of.enter_with(state, None, |_| {});
            }
        }
    }

    /// Events that were sent just before the end are still in the socket, and requests that came before it were not heard.
    async fn last_words(&mut self) {
        while let Ok(ask) = self.of.asks.try_recv() {
            if ask.request == Request::Kill {
                self.seen.phase = Phase::Killing;
            }
            self.seen.asked |= self.of.is_to_end(ask, "its QEMU has ended");
        }
        let Some(qmp) = &mut self.qmp else { return };
        let rest = async {
            while let Ok(message) = qmp.next().await {
                if let Message::Event(event) = message {
                    self.seen.note(&event);
                }
            }
        };
        // Its end is the socket's, which QEMU's end has closed.
        if time::timeout(limits::DRAIN, rest).await.is_err() {
            tracing::warn!("QEMU's control socket stayed open after QEMU's end");
        }
    }
}

async fn says(qmp: &mut Option<Qmp>) -> Result<Message, QmpError> {
    match qmp {
        Some(qmp) => qmp.next().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
