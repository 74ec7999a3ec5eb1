//! One QEMU from its greeting to its exit: its events, commands to it, and the phases of stopping it. No code here waits for QEMU alone:
//! while a command is not answered, requests and signals are heard.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{self, Instant};

use qhost_cage::Level;

use super::{
    Begin, State, VmError,
    exit::{ExitEvidence, Phase},
    pending::{CommandPurpose, Overdue, Pending, run_state},
    process::ProcessExit,
    qemu::Qemu,
    qmp::{Event, Message, Qmp, QmpError},
    ready,
    request::{Ask, Request},
    session::Session,
};
use crate::limits;

pub(super) struct Monitor<'a> {
    pub(super) of: &'a mut Session,
    pub(super) qemu: &'a mut Qemu,
    /// The control connection; absent once it has failed.
    pub(super) qmp: Option<Qmp>,
    ready: Option<ready::Check>,
    /// The watch of the firmware of a QEMU that has just been started.
    boot: Option<ready::BootWatch>,
    pub(super) seen: ExitEvidence,
    pub(super) pending: Pending,
    /// The number of the last set of files in which QEMU was given a file.
    pub(super) fdsets: u64,
    /// When the next phase begins by itself.
    pub(super) deadline: Option<Instant>,
    /// When a change between paused and running was last recorded.
    pub(super) turned: Option<Instant>,
    /// When QEMU is asked again whether the guest runs.
    look_at: Option<Instant>,
}

/// The next thing that the monitor acts on.
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
            // Numbers that begin at the process id are not those of an earlier supervisor of this QEMU.
            fdsets: u64::from(std::process::id()) << 16,
            deadline: None,
            turned: None,
            look_at: None,
        }
    }

    /// Begins to watch for firmware that finds nothing to boot.
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

    /// Takes over the state of a QEMU that another supervisor started.
    pub(super) async fn sync_with_qemu(&mut self) -> Result<(), VmError> {
        let Some(qmp) = &mut self.qmp else { return Ok(()) };
        let status = qmp.execute("query-status").await?;
        match run_state(&status) {
            // The other supervisor was killed before the guest ran.
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
        // The VM was being stopped when its other supervisor died, so that the grace goes on.
        if self.of.dir.status().state() == State::Stopping {
            self.seen.asked = true;
            self.seen.again = self.of.dir.status().start_again_after;
            self.seen.phase = Phase::PoweringDown;
            self.deadline = Some(Instant::now() + self.of.grace_left());
            // The other supervisor may have been killed before it pressed the power button; a guest whose button is pressed twice powers
            // off once.
            self.command("system_powerdown", CommandPurpose::Stop);
        }
        Ok(())
    }

    /// Moves QEMU and this supervisor to the VM's cgroups, so that their work counts as the VM's. That is done after the start, which it
    /// would slow down. Under a strict cage, a new VM is ended if the move fails.
    pub(super) fn count_as_the_vm(&mut self, begin: Begin) {
        let (cage, vm) = (&self.of.spec.cage, &self.of.spec.vm);
        let qemu = self.of.dir.status().qemu.as_ref().map(|qemu| qemu.pid);
        let moved = qemu.map_or(Ok(()), |qemu| cage.end_start(vm, qemu));
        // The supervisor is moved even if QEMU cannot be.
        let entered = cage.enter_supervisor(vm);
        let Err(error) = moved.and(entered) else { return };
        let message = format!("it cannot be moved to the VM's cgroup with its supervisor: {error}");
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

    /// Waits for what comes next; QEMU's end, signals and requests come first, in this order.
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

    /// Records that the firmware found nothing to boot, and ends a VM that waits to be ready, as no guest ever will be.
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
        // The client that asked has given up, and stops the VM by other means.
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
            Request::Screenshot => self.take_picture(ask),
            Request::Subscribe | Request::Console | Request::Freeze => {
                ask.answer(Err("it is served by a connection of its own".into()))
            }
        }
    }

    /// Sends a command whose answer is heard later.
    pub(super) fn command(&mut self, command: &str, what: CommandPurpose) {
        self.command_with(command, &json!({}), what, limits::QMP_REPLY);
    }

    pub(super) fn command_with(
        &mut self,
        command: &str,
        arguments: &Value,
        what: CommandPurpose,
        within: Duration,
    ) {
        match self
            .qmp
            .as_mut()
            .ok_or(QmpError::Closed)
            .and_then(|qmp| qmp.send(command, arguments, None))
        {
            Ok(id) => self.pending.add(id, what, within),
            Err(error) => {
                tracing::debug!(%error, command, "not sent");
                self.unheard(what, &error.to_string());
            }
        }
    }

    /// Pauses or resumes the guest. The request is answered once the status on disk says so.
    fn set_paused(&mut self, command: &str, ask: Ask) {
        match self.seen.phase {
            Phase::Running => self.command(command, CommandPurpose::SetPaused(ask)),
            Phase::PoweringDown | Phase::Quitting | Phase::Killing => {
                ask.answer(Err("it is stopping".into()));
            }
        }
    }

    fn note(&mut self, event: &Event) {
        self.seen.note(event);
        if ["STOP", "RESUME"].contains(&event.name.as_str()) {
            if self.pending.asks_status() {
                // The answer that is on its way may be from before this event.
                self.look_at = Some(Instant::now() + limits::TURN_AGAIN);
            } else {
                self.look(None);
            }
        }
    }

    /// Asks QEMU whether the guest runs. A request to pause or resume it is answered once that is known.
    pub(super) fn look(&mut self, ask: Option<Ask>) {
        self.look_at = None;
        self.command("query-status", CommandPurpose::Status(ask));
    }

    /// Records whether the guest runs or is paused. A guest that stops without being told has hit an error inside QEMU, which stays alive.
    pub(super) fn note_run_state(&mut self, run_state: &str) {
        let state = match (run_state, self.of.dir.status().state()) {
            ("internal-error" | "io-error", _) => {
                return self.fail(format!("QEMU stopped the guest: {run_state}"));
            }
            ("paused", State::Running) => State::Paused,
            ("running", State::Paused) => State::Running,
            (_, _) => return,
        };
        // Changes are recorded at a bounded rate, as QEMU could report any number of them to fill the VM's history.
        let now = Instant::now();
        match self.turned.map(|last| last + limits::TURN_AGAIN).filter(|again| *again > now) {
            Some(again) => self.look_at = Some(again),
            None => {
                self.turned = Some(now);
                self.of.enter_with(state, None, |_| {});
            }
        }
    }

    /// Takes the requests and events from just before QEMU's end: requests that were not heard yet, and events that are still in the
    /// socket.
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
        // The reading ends with the socket, which QEMU's end has closed.
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
