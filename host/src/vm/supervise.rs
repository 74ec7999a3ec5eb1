//! Looks after one QEMU from its start to its end. One owner: this loop alone touches the process and its QMP
//! connection; requests to stop come in from outside.

use std::{fs::File, os::fd::AsRawFd as _, path::Path, process::ExitStatus, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    net::UnixStream,
    process::Child,
    task::JoinHandle,
    time::{self, Instant},
};

use super::{End, Process, Reserved, State, StoppedBy, VmDir, VmError, console, dir::folder};
use crate::{
    image, launcher, limits, printable,
    qemu::{Event, LaunchPlan, QMP_SOCKET, Qmp, QmpError},
    stop::Stop,
};

/// Whoever wants to know how a VM is doing.
pub trait Watcher {
    /// The guest runs.
    fn running(&self, dir: &VmDir, plan: &LaunchPlan);
    /// A request to stop was heard, and this is being done about it.
    fn stopping(&self, doing: &str);
}

/// A VM that has ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ended {
    /// How it ended.
    #[serde(flatten)]
    pub end: End,
    /// When QEMU was started.
    pub started_at: Timestamp,
    /// When QEMU was gone.
    pub ended_at: Timestamp,
    /// The last of what the guest wrote to its console, for a VM that failed.
    #[serde(skip)]
    pub console_tail: String,
}

/// Starts QEMU and stays with it until it has ended. Whatever happens, no process, socket or overlay stays.
pub async fn run(
    plan: &LaunchPlan,
    dir: &mut VmDir,
    ports: Reserved,
    (stop, grace): (&mut Stop, Duration),
    (watcher, overlay_bytes): (&dyn Watcher, u64),
) -> Result<Ended, VmError> {
    if let Some(name) = plan.new_overlay() {
        let path = dir.path().join(name);
        image::create_overlay(&path, plan.image().disk_bytes()).map_err(folder("create", &path))?;
    }
    let log_path = dir.console_log();
    let log = File::create(&log_path).map_err(folder("create", &log_path))?;
    write_records(plan, dir)?;
    dir.enter(State::Starting, None);
    let _port_locks = ports.release();
    let started_at = Timestamp::now();
    let spawn = |source| VmError::Spawn { program: plan.program().into(), source };
    let mut qemu = Qemu::spawn(plan, dir.path(), log, overlay_bytes).map_err(spawn)?;
    let qmp = match qemu.start(dir.path(), stop).await {
        Ok(qmp) => qmp,
        Err(error) => {
            if !qemu.kill().await {
                tracing::warn!(vm = dir.id(), "QEMU is left");
            }
            return Err(error);
        }
    };
    dir.launched();
    let process = qemu.child.id().and_then(Process::of);
    dir.enter_with(State::Running, None, |status| status.qemu = process);
    watcher.running(dir, plan);
    let mut watch = Watch {
        dir,
        qemu: &mut qemu,
        qmp: Some(qmp),
        seen: Seen::default(),
        phase: Phase::Running,
        deadline: None,
        given_up: false,
    };
    let status = watch.until_exit(stop, grace, watcher).await;
    let (seen, phase) = (watch.seen, watch.phase);
    let (console_tail, stderr) = qemu.output().await;
    let ended = Ended {
        end: seen.end(status, phase, &stderr),
        started_at,
        ended_at: Timestamp::now(),
        console_tail,
    };
    let (state, reason) = ended.state();
    let kept = ended.clone();
    dir.enter_with(state, Some(reason), |status| status.ended = Some(kept));
    Ok(ended)
}

fn write_records(plan: &LaunchPlan, dir: &VmDir) -> Result<(), VmError> {
    dir.write("decision.json", plan.decision())?;
    dir.write_plan(&json!({
        "vm": plan.vm(),
        "tenant": plan.task().tenant,
        "image": plan.image(),
        "resources": plan.decision().launch.resources,
        "forwards": plan.forwards(),
        "program": plan.program(),
        "argv": plan.argv(),
    }))
}

/// The process and the tasks that read its pipes.
struct Qemu {
    child: Child,
    console: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
}

impl Qemu {
    fn spawn(
        plan: &LaunchPlan,
        folder: &Path,
        log: File,
        overlay_bytes: u64,
    ) -> std::io::Result<Self> {
        let mut child = launcher::bounded_command(plan.program(), plan.argv(), overlay_bytes)
            .current_dir(folder)
            .spawn()?;
        let pipe = || std::io::Error::other("no pipe to QEMU");
        let stdout = child.stdout.take().ok_or_else(pipe)?;
        let stderr = child.stderr.take().ok_or_else(pipe)?;
        let console =
            console::drain(stdout, log, limits::CONSOLE_BYTES, limits::CONSOLE_TAIL_BYTES);
        let stderr = console::keep_first(stderr, limits::QEMU_STDERR_BYTES);
        Ok(Self { child, console: Some(tokio::spawn(console)), stderr: Some(tokio::spawn(stderr)) })
    }

    /// Connects to QEMU's control socket and lets the guest run.
    async fn start(&mut self, folder: &Path, stop: &mut Stop) -> Result<Qmp, VmError> {
        let started = async {
            let mut qmp = Qmp::connect(connect(folder).await?).await?;
            qmp.execute("cont").await?;
            Ok(qmp)
        };
        tokio::select! {
            biased;
            status = self.child.wait() => Err(self.did_not_start(status).await),
            () = stop.asked(1) => Err(VmError::Interrupted),
            started = time::timeout(limits::QMP_GREETING, started) => match started {
                // QEMU closes the socket when it exits; its exit says why.
                Ok(Err(VmError::Control(QmpError::Closed))) => {
                    let status = time::timeout(limits::STOP_QUIT, self.child.wait()).await;
                    match status {
                        Ok(status) => Err(self.did_not_start(status).await),
                        Err(_) => Err(QmpError::Closed.into()),
                    }
                }
                Ok(started) => started,
                Err(_) => Err(VmError::NoGreeting),
            },
        }
    }

    async fn did_not_start(&mut self, status: std::io::Result<ExitStatus>) -> VmError {
        let (_, stderr) = self.output().await;
        port_taken(&stderr).unwrap_or(VmError::Start {
            status: status.map_or_else(|error| error.to_string(), |status| status.to_string()),
            message: if stderr.is_empty() { "it said nothing".into() } else { stderr },
        })
    }

    /// What the pipes said, after QEMU's end: the console's last lines and QEMU's own messages, safe to print.
    async fn output(&mut self) -> (String, String) {
        let text = |bytes: Vec<u8>, most| {
            printable::lines(String::from_utf8_lossy(&bytes).trim(), most).to_string()
        };
        let console = finished(self.console.take()).await;
        let stderr = finished(self.stderr.take()).await;
        (
            text(console, limits::CONSOLE_TAIL_BYTES).replace("\\r\n", "\n"),
            text(stderr, limits::QEMU_STDERR_BYTES),
        )
    }

    /// Whether it ended.
    async fn kill(&mut self) -> bool {
        match time::timeout(limits::STOP_QUIT, self.child.kill()).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => tracing::warn!(%error, "cannot kill QEMU"),
            Err(_) => tracing::warn!("QEMU was killed and does not end"),
        }
        false
    }
}

/// A pipe's task, which ends with the pipe; a process that QEMU left behind could hold it open.
async fn finished(task: Option<JoinHandle<Vec<u8>>>) -> Vec<u8> {
    let Some(mut task) = task else { return vec![] };
    match time::timeout(limits::DRAIN, &mut task).await {
        Ok(output) => output.unwrap_or_default(),
        Err(_) => {
            task.abort();
            vec![]
        }
    }
}

/// Connects as soon as QEMU has made its socket. Through a descriptor of the folder: a socket's whole path may have no
/// more than 107 bytes (unix(7)), and state folders have longer ones.
async fn connect(folder: &Path) -> Result<UnixStream, VmError> {
    let handle = File::open(folder).map_err(self::folder("open", folder))?;
    let path = format!("/proc/self/fd/{}/{QMP_SOCKET}", handle.as_raw_fd());
    loop {
        match UnixStream::connect(&path).await {
            Ok(stream) => return Ok(stream),
            Err(_) => time::sleep(limits::QMP_CONNECT_POLL).await,
        }
    }
}

/// The port in QEMU's message that it could not forward one; between our giving it up and QEMU's taking it, another
/// process took it.
fn port_taken(stderr: &str) -> Option<VmError> {
    let rule = stderr.split_once("Could not set up host forwarding rule '")?.1;
    let (protocol, rest) = rule.split_once(':')?;
    let (bind, rest) = rest.split_once(':')?;
    let (port, _) = rest.split_once('-')?;
    Some(VmError::PortTaken {
        port: port.parse().ok()?,
        bind: bind.parse().ok()?,
        protocol: if protocol == "udp" { "udp" } else { "tcp" },
    })
}

/// How far stopping has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    PoweringDown,
    Quitting,
    Killing,
}

struct Watch<'a> {
    dir: &'a mut VmDir,
    qemu: &'a mut Qemu,
    /// Gone once it has failed.
    qmp: Option<Qmp>,
    seen: Seen,
    phase: Phase,
    /// When the next phase begins by itself.
    deadline: Option<Instant>,
    /// QEMU was killed and did not end: the kernel holds it.
    given_up: bool,
}

impl Watch<'_> {
    async fn until_exit(
        &mut self,
        stop: &mut Stop,
        grace: Duration,
        watcher: &dyn Watcher,
    ) -> Option<ExitStatus> {
        let mut asked = 0;
        while !self.given_up {
            tokio::select! {
                status = self.qemu.child.wait() => {
                    self.last_events().await;
                    return status.ok();
                }
                event = next_event(&mut self.qmp) => match event {
                    Ok(event) => self.note(event).await,
                    Err(error) => {
                        self.qmp = None;
                        // The socket closes when QEMU exits. One that only closed it, or sends garbage, is ended.
                        if !matches!(error, QmpError::Closed) {
                            self.seen.failure.get_or_insert(error.to_string());
                        }
                        self.deadline.get_or_insert(Instant::now() + limits::STOP_QUIT);
                    }
                },
                () = stop.asked(asked + 1) => {
                    asked += 1;
                    self.seen.asked = true;
                    self.next_phase(grace, watcher, stop.asked(asked + 1)).await;
                }
                () = until(self.deadline) => {
                    self.next_phase(grace, watcher, stop.asked(asked + 1)).await;
                }
            }
        }
        None
    }

    /// `hasten` ends when stopping is asked for once more: then a QEMU that does not answer is not waited for.
    async fn next_phase(
        &mut self,
        grace: Duration,
        watcher: &dyn Watcher,
        hasten: impl Future<Output = ()>,
    ) {
        let (phase, doing, command, wait) = match self.phase {
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
        self.phase = phase;
        if self.seen.asked {
            self.dir.enter(State::Stopping, Some("asked to".into()));
            watcher.stopping(doing);
        }
        let done = match (&mut self.qmp, phase) {
            (Some(qmp), Phase::PoweringDown | Phase::Quitting) => {
                tokio::select! {
                    answer = qmp.execute(command) => answer.is_ok(),
                    () = hasten => false,
                }
            }
            (_, _) => false,
        };
        // A command that failed leaves nothing to wait for.
        self.deadline = Some(Instant::now() + if done { wait } else { Duration::ZERO });
        if phase == Phase::Killing {
            self.given_up = !self.qemu.kill().await;
        }
    }

    async fn note(&mut self, event: Event) {
        self.seen.note(&event);
        // A guest that stops without being told has hit an error inside QEMU, which stays alive.
        if event.name == "STOP"
            && let Some(qmp) = &mut self.qmp
            && let Ok(status) = qmp.execute("query-status").await
            && let Some(status @ ("internal-error" | "io-error")) =
                status.get("status").and_then(Value::as_str)
        {
            self.seen.failure = Some(format!("QEMU stopped the guest: {status}"));
            self.deadline = Some(Instant::now());
        }
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

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// What QEMU's events said.
#[derive(Debug, Default)]
struct Seen {
    asked: bool,
    panicked: bool,
    /// The reason of the SHUTDOWN event.
    shutdown: Option<String>,
    failure: Option<String>,
}

impl Seen {
    fn note(&mut self, event: &Event) {
        tracing::debug!(event = %event.name, data = %event.data, "QEMU");
        match event.name.as_str() {
            "GUEST_PANICKED" => self.panicked = true,
            "SHUTDOWN" => {
                let reason = event.data.get("reason").and_then(Value::as_str).unwrap_or_default();
                self.shutdown
                    .get_or_insert(printable::line(reason, limits::SHOWN_CHARS).to_string());
            }
            _ => {}
        }
    }

    /// Tells apart how it ended; what the guest or QEMU did counts for more than what was asked.
    fn end(self, status: Option<ExitStatus>, phase: Phase, stderr: &str) -> End {
        if let Some(message) = self.failure {
            return End::Failed { message };
        }
        if self.panicked {
            return End::Panicked;
        }
        let clean = status.is_some_and(|status| status.success());
        match (self.shutdown.as_deref(), clean) {
            (_, _) if self.asked && phase == Phase::Killing => End::Stopped { by: StoppedBy::Kill },
            (Some("guest-shutdown"), true) if self.asked => {
                End::Stopped { by: StoppedBy::Powerdown }
            }
            (_, true) if self.asked => End::Stopped { by: StoppedBy::Quit },
            (Some("guest-shutdown"), true) => End::ShutDown,
            (Some(reason), true) => {
                End::Failed { message: format!("QEMU was ended from outside: {reason}") }
            }
            (_, _) => {
                let status = status.map_or("no exit status".into(), |status| status.to_string());
                let said = if stderr.is_empty() { "it said nothing" } else { stderr };
                End::Failed { message: format!("QEMU ended with {status}: {said}") }
            }
        }
    }
}
