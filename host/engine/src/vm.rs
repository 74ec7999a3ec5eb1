//! A handle to a VM that has been started, for doors.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    net::UnixStream,
    time::{self, Instant},
};

use qhost_sys::{failpoint, watch::FolderWatch};
use qhost_vm::{
    AskError, Notification, Request, State, Stats, Status, Subscription, VmError, VmRecord,
    subscribe,
};

use crate::{
    engine::{Engine, blocking},
    error::{EngineError, Failure},
    limits,
    name::{self, Pick},
    observer::{Context, Observation},
    termination::Termination,
};

/// A VM, by its records and its supervisor. The VM goes on when this handle is dropped.
#[derive(Clone)]
pub struct Vm {
    engine: Engine,
    id: String,
    folder: PathBuf,
}

impl Engine {
    /// Finds the VM that a word means: its id, the beginning of its id, or its task's name, which `TENANT/` may precede.
    ///
    /// # Errors
    /// Fails where there is no such VM, or the word means several alike.
    pub async fn vm(&self, word: &str) -> Result<Vm, EngineError> {
        self.pick(word, Pick::Only).await
    }

    /// Finds the VM that a word means; if the word means several VMs of one tenant that have all ended, the latest of them.
    ///
    /// # Errors
    /// Fails as [`Engine::vm`] does.
    pub async fn latest_vm(&self, word: &str) -> Result<Vm, EngineError> {
        self.pick(word, Pick::Latest).await
    }

    /// Finds the VM that a word means, among those that have not ended.
    ///
    /// # Errors
    /// Fails as [`Engine::vm`] does, and where all have ended.
    pub async fn live_vm(&self, word: &str) -> Result<Vm, EngineError> {
        self.pick(word, Pick::GoingOn).await
    }

    async fn pick(&self, word: &str, pick: Pick) -> Result<Vm, EngineError> {
        let (_, scan) = self.recover_and_scan().await;
        let (engine, word) = (self.clone(), word.to_owned());
        let record = blocking(move || Ok(name::named(engine.state(), scan, &word, pick)?)).await?;
        Ok(Vm::of(self, &record))
    }

    /// The VM of a record.
    pub fn handle(&self, record: &VmRecord) -> Vm {
        Vm::of(self, record)
    }

    /// The VMs that have records, the latest first: all of them, or only those that have not ended.
    pub async fn vms(&self, which: Which) -> Vec<VmRecord> {
        let (_, scan) = self.recover_and_scan().await;
        let engine = self.clone();
        let listed = blocking(move || {
            Ok(match which {
                Which::All => scan.list(engine.state()),
                Which::GoingOn => scan.going_on(engine.state()),
            })
        });
        listed.await.unwrap_or_default()
    }
}

/// Which VMs are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Running VMs, and ended VMs whose records are kept.
    All,
    /// VMs that have not ended.
    GoingOn,
}

/// The event in a VM's life that a wait is for. The VM's end ends every wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The guest runs.
    Running,
    /// The job's ready check holds.
    Ready,
    /// The VM ends.
    End,
}

/// The goal of a wait.
#[derive(Clone, Copy)]
enum Goal {
    Until(Until),
    /// The guest runs, in a QEMU that was started at another time than this.
    Again(Option<Timestamp>),
}

impl Goal {
    fn is_reached(self, status: &Status) -> bool {
        let runs = status.state() == State::Running;
        match self {
            Self::Until(Until::Running) => runs,
            Self::Until(Until::Ready) => status.ready_at.is_some() && !status.state().is_final(),
            Self::Until(Until::End) => false,
            Self::Again(before) => runs && status.started_at != before,
        }
    }
}

impl Vm {
    pub(crate) fn of(engine: &Engine, record: &VmRecord) -> Self {
        Self { engine: engine.clone(), id: record.id.clone(), folder: record.folder.clone() }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The VM's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The VM's folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Reads what the VM's folder says now. A VM whose folder has gone is lost.
    pub async fn record(&self) -> VmRecord {
        let vm = self.clone();
        blocking(move || Ok(vm.read())).await.unwrap_or_else(|_| self.read())
    }

    /// [`Vm::record`], read on this thread.
    pub(crate) fn read(&self) -> VmRecord {
        let record = VmRecord::at(&self.folder);
        if self.folder.exists() { record } else { record.gone() }
    }

    /// Subscribes to the VM's supervisor, which sends the status with its history first, and then every change.
    ///
    /// # Errors
    /// Fails where the VM has no supervisor, or the supervisor does not answer.
    pub async fn subscribe(&self) -> Result<Subscription, EngineError> {
        Ok(subscribe(&self.folder).await.map_err(|error| self.refused(error))?)
    }

    /// Waits until the VM reaches the goal, or has ended, and tells the observer what changes meanwhile. A supervisor that is killed
    /// meanwhile is replaced.
    ///
    /// # Errors
    /// Fails where the wait is given up.
    pub async fn wait(&self, until: Until, context: &Context) -> Result<VmRecord, EngineError> {
        let waiting = self.follow(Goal::Until(until), None, None, context);
        tokio::select! {
            vm = waiting => Ok(vm),
            () = context.cancel.cancelled() => Err(Failure::Cancelled.into()),
        }
    }

    /// Ends the VM, and waits for its end.
    ///
    /// # Errors
    /// Fails where the VM has not ended after [`limits::STOP_GRACE_MOST`], or for a kill after [`limits::KILL_MOST`], or the wait is given
    /// up.
    pub async fn end(
        &self,
        ending: Termination,
        context: &Context,
    ) -> Result<VmRecord, EngineError> {
        // The subscription begins before the request: the VM may end at once, and on a full disk only its supervisor tells how.
        let told = subscribe(&self.folder).await.ok();
        self.ask_to_end(ending, context).await;
        failpoint::reach("end.asked");
        let ended = self.follow(Goal::Until(Until::End), Some(ending.request()), told, context);
        self.within(ending.most(), ended, context).await
    }

    /// Asks the VM's supervisor to end the VM, without waiting for the end. If the supervisor is silent, signals are sent to it, and for a
    /// kill to QEMU.
    pub async fn ask_to_end(&self, ending: Termination, context: &Context) {
        if self.ask(ending.request()).await == Heard::Silent {
            let killed = ending == Termination::Kill;
            context.observer.observe(Observation::Silent { vm: &self.id, killed });
        }
    }

    /// Pauses the guest.
    ///
    /// # Errors
    /// Fails where the VM's supervisor does not answer, or refuses.
    pub async fn pause(&self) -> Result<(), EngineError> {
        self.request(Request::Pause).await
    }

    /// Resumes the paused guest.
    ///
    /// # Errors
    /// Fails as [`Vm::pause`] does.
    pub async fn resume(&self) -> Result<(), EngineError> {
        self.request(Request::Resume).await
    }

    /// Makes the VM's supervisor stop QEMU and start it again, and waits until the guest runs, or the VM has ended. A VM that has ended
    /// already is an error.
    pub async fn restart_running(
        &self,
        grace: Option<Duration>,
        context: &Context,
    ) -> Result<VmRecord, EngineError> {
        let before = self.record().await.status.started_at;
        self.request(Request::Restart { grace_s: grace.map(|grace| grace.as_secs()) }).await?;
        let runs = self.follow(Goal::Again(before), None, None, context);
        self.within(limits::STOP_GRACE_MOST, runs, context).await
    }

    /// Asks what the VM uses.
    ///
    /// # Errors
    /// Fails where the VM's supervisor does not answer within [`limits::CONTROL_STATS`].
    pub async fn stats(&self) -> Result<Stats, AskError> {
        let stats = qhost_vm::ask(&self.folder, Request::Stats, limits::CONTROL_STATS).await?;
        Ok(serde_json::from_value(stats).map_err(io::Error::from)?)
    }

    /// Attaches to the console: what is written to it is typed, and what is read from it is the guest's output.
    ///
    /// # Errors
    /// Fails where the VM has ended, or its supervisor does not answer.
    pub async fn console(&self) -> Result<UnixStream, EngineError> {
        self.goes_on().await?;
        Ok(qhost_vm::attach(&self.folder).await.map_err(|error| self.refused(error))?)
    }

    /// Removes what is left of the VM.
    ///
    /// # Errors
    /// Fails where the VM has not ended, or a file cannot be removed.
    pub async fn remove(&self) -> Result<(), EngineError> {
        let vm = self.clone();
        let removed = blocking(move || {
            if vm.read().remove(vm.engine.state())? {
                Ok(())
            } else {
                Err(VmError::GoesOn { id: vm.id }.into())
            }
        });
        Ok(removed.await?)
    }

    /// Checks that the VM has not ended.
    ///
    /// # Errors
    /// Fails where the VM has ended.
    pub async fn goes_on(&self) -> Result<(), EngineError> {
        let vm = self.clone();
        Ok(blocking(move || Ok(vm.not_ended()?)).await?)
    }

    fn not_ended(&self) -> Result<(), VmError> {
        let state = self.read().status.state();
        if state.is_final() {
            let (id, state) = (self.id.clone(), state.name());
            return Err(VmError::HasEnded { id, state });
        }
        Ok(())
    }

    async fn request(&self, request: Request) -> Result<(), EngineError> {
        self.goes_on().await?;
        let asked = qhost_vm::ask(&self.folder, request, limits::CONTROL_REPLY).await;
        asked.map_err(|error| self.refused(error))?;
        Ok(())
    }

    pub(crate) fn refused(&self, error: AskError) -> VmError {
        VmError::Refused { id: self.id.clone(), reason: error.to_string() }
    }

    async fn within(
        &self,
        most: Duration,
        waiting: impl Future<Output = VmRecord>,
        context: &Context,
    ) -> Result<VmRecord, EngineError> {
        tokio::select! {
            vm = waiting => Ok(vm),
            () = time::sleep(most) => {
                Err(VmError::Stays { id: self.id.clone(), seconds: most.as_secs() }.into())
            }
            () = context.cancel.cancelled() => Err(Failure::Cancelled.into()),
        }
    }

    /// Asks the VM's supervisor to end the VM. A supervisor that has just been started is waited for, and a run that still fetches the
    /// image, which has no socket, is sent a signal.
    async fn ask(&self, request: Request) -> Heard {
        let by = Instant::now() + limits::CONTROL_SILENT;
        let mut watch: Option<FolderWatch> = None;
        loop {
            let left = by.saturating_duration_since(Instant::now());
            let error = match qhost_vm::ask(&self.folder, request, left).await {
                Err(AskError::Unanswered(error)) => error,
                // A supervisor refuses if its VM has just ended, which the wait for the end finds out.
                Ok(_) | Err(AskError::Refused(_)) => return Heard::Answered,
            };
            tracing::info!(vm = self.id, %error, "its supervisor does not answer");
            let record = self.record().await;
            if request == Request::Kill {
                record.kill_qemu();
            }
            let signalled = record.signal_to_stop();
            if error.kind() == io::ErrorKind::TimedOut || left.is_zero() {
                return Heard::Silent;
            }
            if signalled || record.is_over() || !record.held {
                return Heard::Absent;
            }
            match &mut watch {
                Some(watch) => watch.changed(left).await,
                // Most supervisors answer at once, and giving up a watch takes the kernel some 8 ms.
                None => watch = Some(FolderWatch::new([self.folder.as_path()])),
            }
        }
    }

    /// Follows the VM until a goal, or its end. The request is made again to a supervisor that comes meanwhile, since its predecessor may
    /// have been killed before acting on it; a request to kill is repeated in any case.
    async fn follow(
        &self,
        goal: Goal,
        request: Option<Request>,
        mut begun: Option<Subscription>,
        context: &Context,
    ) -> VmRecord {
        let mut last: Option<Box<Status>> = None;
        let mut recovered: Option<Instant> = None;
        let mut is_first = true;
        let mut watch: Option<FolderWatch> = None;
        loop {
            let told = match begun.take() {
                Some(begun) => Some(begun),
                None => subscribe(&self.folder).await.ok(),
            };
            if let Some(mut told) = told {
                let is_anothers = !std::mem::take(&mut is_first);
                while let Some(notification) = self.told(&mut told, request).await {
                    match notification {
                        Notification::Step(step) => {
                            context.observer.observe(Observation::Stopping(&step));
                        }
                        Notification::Status(status) => {
                            context.observer.observe(Observation::Status(&status));
                            if goal.is_reached(&status) {
                                return VmRecord { status: *status, ..self.record().await };
                            }
                            let is_unheard = is_anothers && status.state() != State::Stopping;
                            if let Some(request) = request.filter(|_| is_unheard) {
                                self.ask(request).await;
                            }
                            last = Some(status);
                        }
                    }
                }
            }
            // There is no supervisor yet, or any more.
            is_first = false;
            let read = self.record().await;
            let Some(now) = read.again() else { return read };
            if now.is_over() {
                return as_told(now, last);
            }
            let is_due = recovered.is_none_or(|last| last.elapsed() > limits::KILL_AGAIN);
            if !now.held && is_due {
                self.engine.recover().await;
                recovered = Some(Instant::now());
                continue;
            }
            match &mut watch {
                Some(watch) => watch.changed(limits::KILL_AGAIN).await,
                // The next look finds what changed before the watch began.
                None => watch = Some(FolderWatch::new([self.folder.as_path()])),
            }
        }
    }

    /// Waits for the supervisor's next notification. A request to kill is repeated until then.
    async fn told(
        &self,
        subscription: &mut Subscription,
        request: Option<Request>,
    ) -> Option<Notification> {
        loop {
            let told = subscription.next();
            if request != Some(Request::Kill) {
                return told.await;
            }
            match time::timeout(limits::KILL_AGAIN, told).await {
                Ok(told) => return told,
                Err(_) => {
                    self.ask(Request::Kill).await;
                }
            }
        }
    }
}

/// The answer to a request to end a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// The VM's supervisor answered.
    Answered,
    /// The VM's supervisor did not answer in time.
    Silent,
    /// There was no supervisor; the process that the record names got a signal, or the VM has ended.
    Absent,
}

/// Completes the record of a VM whose end could not be written to it, by the last status that the supervisor has sent.
fn as_told(mut vm: VmRecord, last: Option<Box<Status>>) -> VmRecord {
    if vm.status.state() == State::Lost
        && let Some(told) = last.filter(|told| told.state().is_final())
    {
        vm.status = *told;
    }
    vm
}
