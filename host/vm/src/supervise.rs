//! Looks after one VM from its launch to its end, which is all that a supervisor does. Only this task touches QEMU and its control
//! connection; requests come in from outside, by signals and by the control socket.

use std::{path::Path, time::Duration};

use jiff::Timestamp;
use rustix::process::{getpid, set_child_subreaper};
use tokio::{
    net::UnixStream,
    sync::{mpsc, watch},
    task,
    time::{self, Instant},
};

use qhost_model::{
    job::{Ready, ReadyCheck},
    launch::AccessLevel,
};
use qhost_sys::{failpoint, stop::Stop};

use super::{
    Begin, End, Ended, Process, Spec, State, Status, VmDir, VmError,
    console_copy::ConsoleCopy,
    control::{self, Serving},
    dir::remove_leftovers,
    exit::StopIntent,
    freeze,
    monitor::Monitor,
    published::Published,
    qemu::{self, Qemu},
    qmp::Qmp,
    ready,
    request::Request,
    session::Session,
};
use crate::limits;

/// Looks after a VM until it is over. The VM's lock, and the locks on all that it uses, are open in this process.
pub async fn supervise(vm: &Path, begin: Begin) -> Result<(), VmError> {
    // QEMU becomes the child of this process when the step that starts QEMU has ended.
    if let Err(error) = set_child_subreaper(Some(getpid())) {
        tracing::warn!(%error, "QEMU's exit status will not be known");
    }
    let spec = Spec::read(vm)?;
    spec.keeps_to_state_of(vm)?;
    let runtime = VmError::Runtime;
    let stop = Stop::on_signals().map_err(runtime)?;
    let mut dir = VmDir::open_for_supervisor(vm, &spec);
    let (asking, asks) = mpsc::channel(limits::CONTROL_ASKS);
    let (published, subscribed) = watch::channel(Published::default());
    let console = qemu::console();
    failpoint::reach("supervise.begun");
    if begin == Begin::Adopt {
        dir.update_status(|status| status.supervisor = Process::this());
        dir.record_event("adopted", Some("its supervisor was killed".into()));
    }
    if begin == Begin::Adopt && spec.agent == AccessLevel::Interact {
        let vm = vm.to_owned();
        tokio::spawn(async move { freeze::thaw_leftover(&vm).await });
    }
    let serving = Serving {
        vm: vm.to_owned(),
        asks: asking,
        console: console.clone(),
        published: subscribed,
        access: spec.access(),
    };
    let served = control::serve(vm, serving)?;
    let copy = spec.log_pipes.clone();
    let copy = copy.map(|pipes| ConsoleCopy::begin(pipes, console.said.subscribe()));
    let session = Session { spec, dir, stop, heard: 0, asks, console, copy, published };
    session.until_over(begin).await;
    served.finish().await;
    Ok(())
}

/// What the supervisor does after a QEMU's end.
enum Next {
    Over,
    /// Start QEMU again, after this wait and for this reason.
    Again(Duration, String),
}

impl Session {
    async fn until_over(mut self, mut begin: Begin) {
        loop {
            let (ended, asked) = match self.run_once(begin).await {
                Ok(done) => done,
                Err(error) => {
                    let asked =
                        StopIntent { end: matches!(error, VmError::Interrupted), again: false };
                    (self.dir.start_failed(&error), asked)
                }
            };
            match self.next(&ended, asked) {
                Next::Again(wait, why) if self.wait(wait, &why).await => begin = Begin::Launch,
                Next::Again(_, _) => {
                    // The VM was stopped while no QEMU ran.
                    let end = End::Stopped { by: super::StoppedBy::BetweenStarts };
                    return self.over(Ended { end, ..ended }).await;
                }
                Next::Over => return self.over(ended).await,
            }
        }
    }

    /// Looks after one QEMU, from its start to its end.
    async fn run_once(&mut self, begin: Begin) -> Result<(Ended, StopIntent), VmError> {
        let started = match begin {
            Begin::Launch => {
                let now = Timestamp::now();
                let begin = |status: &mut Status| {
                    status.supervisor = Process::this();
                    (status.started_at, status.ready_at) = (Some(now), None);
                    status.boot_failed_at = None;
                    (status.stop_by, status.start_again_after) = (None, false);
                };
                if self.dir.status().state() == State::Starting {
                    self.dir.update_status(begin);
                    self.publish();
                } else {
                    self.enter_with(State::Starting, None, begin);
                }
                failpoint::reach("launch.starting");
                Qemu::start(&self.spec, &mut self.dir, &self.console).await?
            }
            Begin::Adopt => {
                let process = self.dir.status().qemu.clone();
                let process = process.ok_or(VmError::Unseen)?;
                Qemu::adopt(&process, self.dir.path(), &self.console).await?
            }
        };
        let (mut qemu, stream) = started;
        // A VM that is being stopped gets no more time than is left of its grace.
        let is_stopping = self.dir.status().state() == State::Stopping;
        let within = if is_stopping {
            self.grace_left().max(limits::STOP_QUIT)
        } else {
            limits::QMP_GREETING
        };
        let greeted = self.greet(&mut qemu, stream, within).await;
        // After any failure from here on, QEMU is gone before anything that it uses is given up.
        let qmp = match greeted {
            Ok(qmp) => qmp,
            Err(error) => {
                qemu.kill_for_good().await;
                return Err(error);
            }
        };
        failpoint::reach("launch.negotiated");
        let ready = self.ready_check(begin);
        let mut watch = Monitor::new(self, &mut qemu, qmp, ready);
        if begin == Begin::Launch {
            watch.watch_boot();
        }
        let begun = match begin {
            Begin::Launch => watch.resume().await,
            Begin::Adopt => watch.sync_with_qemu().await,
        };
        if let Err(error) = begun {
            drop(watch);
            let error = qemu.explained(error).await;
            qemu.kill_for_good().await;
            return Err(error);
        }
        failpoint::reach("launch.running");
        // Subscribers are told that the guest runs before this thread waits for the kernel to move QEMU, some 15 ms.
        task::yield_now().await;
        watch.count_as_the_vm(begin);
        let (ending, seen) = watch.until_exit().await;
        failpoint::reach("stop.ended");
        let stderr = qemu.output().await;
        let killed = self.spec.cage.usage(&self.spec.vm).and_then(|usage| usage.oom_kills);
        let asked = seen.asked();
        let started_at = self.dir.status().started_at.unwrap_or_else(Timestamp::now);
        let end = seen.end(ending, &stderr, killed.is_some_and(|kills| kills > 0));
        Ok((Ended { end, started_at, ended_at: Timestamp::now() }, asked))
    }

    /// Waits for QEMU's greeting, unless the VM is asked to stop meanwhile.
    async fn greet(
        &mut self,
        qemu: &mut Qemu,
        stream: UnixStream,
        within: Duration,
    ) -> Result<Qmp, VmError> {
        let mut greeted = std::pin::pin!(qemu.greet(stream, within));
        loop {
            let (stop, heard) = (&mut self.stop, self.heard + 1);
            tokio::select! {
                biased;
                () = stop.asked(heard) => return Err(VmError::Interrupted),
                Some(ask) = self.asks.recv() => if self.is_to_end(ask, "it is starting") {
                    return Err(VmError::Interrupted);
                },
                greeted = &mut greeted => return greeted,
            }
        }
    }

    /// Begins the job's ready check, unless it held already. After an adoption there is no check of the console: what the guest wrote
    /// meanwhile was lost, so that a timeout would prove nothing.
    fn ready_check(&self, begin: Begin) -> Option<ready::Check> {
        let is_due = self.dir.status().ready_at.is_none();
        let is_serial = |ready: &Ready| matches!(ready.check, ReadyCheck::Serial(_));
        let ready = self
            .spec
            .ready
            .clone()
            .filter(|ready| is_due && !(begin == Begin::Adopt && is_serial(ready)))?;
        let said = self.console.said.subscribe();
        Some(ready::Check::begin(ready, &self.spec.forwards, self.dir.path(), said))
    }

    fn next(&mut self, ended: &Ended, asked: StopIntent) -> Next {
        if asked.again {
            return Next::Again(Duration::ZERO, "restart requested".into());
        }
        let restart = self.spec.restart;
        if asked.end || !restart.wants(ended.end.is_failure()) {
            return Next::Over;
        }
        let ran = ended.ended_at.duration_since(ended.started_at).unsigned_abs();
        let before = if ran >= qhost_model::limits::RESTART_SETTLED {
            0
        } else {
            self.dir.status().restarts
        };
        match restart.delay_s(before) {
            Some(seconds) => {
                self.dir.update_status(|status| status.restarts = before + 1);
                let why = format!(
                    "restart {} of {} in {seconds} s: {}",
                    before + 1,
                    restart.attempts,
                    ended.end
                );
                Next::Again(Duration::from_secs(seconds), why)
            }
            None => Next::Over,
        }
    }

    /// Waits before a restart. Gives false if the VM is asked to stop meanwhile.
    async fn wait(&mut self, most: Duration, why: &str) -> bool {
        let why = qhost_model::printable::line(why, limits::QEMU_STDERR_BYTES).to_string();
        self.enter_with(State::Starting, Some(why), |_| {});
        let end = Instant::now() + most;
        loop {
            let (stop, heard) = (&mut self.stop, self.heard + 1);
            tokio::select! {
                () = time::sleep_until(end) => return true,
                () = stop.asked(heard) => {
                    self.heard = heard;
                    return false;
                }
                Some(ask) = self.asks.recv() => {
                    if matches!(ask.request, Request::Restart { .. }) {
                        ask.answer(Ok(true.into()));
                        return true;
                    }
                    if self.is_to_end(ask, "it waits to be started again") {
                        return false;
                    }
                }
            }
        }
    }

    async fn over(mut self, ended: Ended) {
        if let Some(copy) = self.copy.take() {
            copy.finish().await;
        }
        self.dir.end(ended);
        self.publish();
        failpoint::reach("stop.recorded");
        if let Err(error) = self.spec.cage.leave_supervisor() {
            tracing::warn!(vm = self.spec.vm, %error, "cannot leave the VM's cgroup");
        }
        if let Err(error) = remove_leftovers(self.dir.path()) {
            tracing::warn!(vm = self.spec.vm, %error, "cannot remove what an ended VM had");
        }
        // The status is written once more, since a disk that was full has room now.
        self.dir.update_status(|_| {});
        self.publish();
        failpoint::reach("stop.swept");
    }
}
