//! One QEMU, which is started through the cage with all that it needs open, or found again; and its output.

use std::{
    fs::File,
    os::fd::OwnedFd,
    path::Path,
    process::{Child, ExitStatus},
    time::Duration,
};

use rustix::process::Signal;
use tokio::{
    io::{
        AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Interest,
        unix::AsyncFd,
    },
    net::{UnixStream, unix::pipe},
    sync::broadcast,
    task::JoinHandle,
    time,
};

use qhost_cage::{BindListener, CageRequest, HandedSockets, StepMessage};
use qhost_model::{launch::AccessLevel, printable};
use qhost_sys::{
    failpoint,
    spawn::{self, Mapped},
    state,
};

use super::{
    DiskOf, Process, Spec, State, VmDir, VmError,
    argv::descriptors::{self, Further, Parts},
    console::{self, Log},
    control::Console,
    error::io_error,
    files::{AGENT_SOCKET, CONSOLE_SOCKET, FIRMWARE, QMP_SOCKET, SEED},
    process::{ProcessExit, Watched},
    qmp::{Qmp, QmpError},
    sockets::{connect, listen},
};
use crate::limits;

/// A QEMU that runs.
pub(super) struct Qemu {
    process: Watched,
    console: Option<JoinHandle<()>>,
    /// QEMU's own messages, unless QEMU was started by a supervisor that is gone.
    stderr: Option<JoinHandle<Vec<u8>>>,
}

impl Qemu {
    /// A QEMU that a test's script plays.
    #[cfg(test)]
    pub(super) fn of(process: Watched) -> Self {
        Self { process, console: None, stderr: None }
    }

    /// Starts QEMU, whose process is in the VM's status before it runs.
    pub(super) async fn start(
        spec: &Spec,
        dir: &mut VmDir,
        console: &Console,
    ) -> Result<(Self, UnixStream), VmError> {
        let vm = dir.path().to_owned();
        let spawn = |source| VmError::Spawn { program: spec.program.clone(), source };
        let (descriptors, qmp, serial) = open(spec, &vm).await?;
        failpoint::reach("launch.opened");
        let mut child = spawn::caged(qhost_cage::SUBCOMMAND, &vm, descriptors).map_err(spawn)?;
        failpoint::reach("launch.spawned");
        let no_pipe = || spawn(std::io::Error::other("no pipe to it"));
        let stderr = child.stderr.take().ok_or_else(no_pipe)?;
        let stderr = pipe::Receiver::from_owned_fd(OwnedFd::from(stderr));
        let stderr = console::keep_first(stderr.map_err(spawn)?, limits::QEMU_STDERR_BYTES);
        let stderr = tokio::spawn(stderr);
        let process = match time::timeout(limits::CAGE, caged(spec, &mut child, dir)).await {
            Ok(caged) => caged.map_err(spawn)?,
            Err(_) => Err(given_up(&mut child, dir).await),
        };
        let process = match process {
            Ok(process) => process,
            Err(message) => {
                let said = finished(Some(stderr)).await;
                let said = String::from_utf8_lossy(&said);
                let message = format!("{message} {}", said.trim());
                return Err(VmError::Cage { message: message.trim().to_owned() });
            }
        };
        let mut qemu = Self { process, console: None, stderr: Some(stderr) };
        qemu.listen_to(serial, &vm, console);
        Ok((qemu, qmp))
    }

    /// Connects to a QEMU whose supervisor was killed. A QEMU that cannot be controlled is ended.
    pub(super) async fn adopt(
        process: &Process,
        vm: &Path,
        console: &Console,
    ) -> Result<(Self, UnixStream), VmError> {
        let process = Watched::new(process).map_err(io_error("watch the QEMU of", vm))?;
        let mut qemu =
            Self { process: process.ok_or(VmError::Unseen)?, console: None, stderr: None };
        match connect(vm, CONSOLE_SOCKET).await {
            Ok(serial) => qemu.listen_to(serial, vm, console),
            Err(error) => tracing::warn!(%error, "the console is not kept from here on"),
        }
        match connect(vm, QMP_SOCKET).await {
            Ok(qmp) => Ok((qemu, qmp)),
            Err(error) => {
                qemu.kill_for_good().await;
                Err(io_error("connect to QEMU's control socket in", vm)(error))
            }
        }
    }

    fn listen_to(&mut self, serial: UnixStream, vm: &Path, console: &Console) {
        let (said, typed) = (console.said.clone(), console.typed.subscribe());
        self.console = Some(tokio::spawn(console::run(serial, Log::open(vm), said, typed)));
    }

    /// Waits for QEMU's end. The wait may be dropped.
    pub(super) async fn end(&self) -> ProcessExit {
        self.process.end().await
    }

    /// Waits for QEMU's greeting. QEMU closes the socket when it exits, and its exit says why.
    pub(super) async fn greet(
        &mut self,
        stream: UnixStream,
        within: Duration,
    ) -> Result<Qmp, VmError> {
        tokio::select! {
            biased;
            ending = self.process.end() => Err(self.did_not_start(ending).await),
            qmp = time::timeout(within, negotiated(stream)) => match qmp {
                Ok(Err(error)) => Err(self.explained(error.into()).await),
                Ok(Ok(qmp)) => Ok(qmp),
                Err(_) => Err(VmError::NoGreeting),
            },
        }
    }

    /// Explains an error by the exit of a QEMU that closed its control socket, since QEMU exits next. Other errors stay as they are.
    pub(super) async fn explained(&mut self, error: VmError) -> VmError {
        if !matches!(error, VmError::Control(QmpError::Closed | QmpError::Io(_))) {
            return error;
        }
        match time::timeout(limits::STOP_QUIT, self.process.end()).await {
            Ok(ending) => self.did_not_start(ending).await,
            Err(_) => error,
        }
    }

    async fn did_not_start(&mut self, ending: ProcessExit) -> VmError {
        let stderr = self.output().await;
        port_taken(&stderr).unwrap_or(VmError::Start {
            status: ending.to_string(),
            message: if stderr.is_empty() { "it said nothing".into() } else { stderr },
        })
    }

    /// QEMU's own messages after its end, safe to print. After this, the console's last bytes are in the log.
    pub(super) async fn output(&mut self) -> String {
        finished(self.console.take()).await;
        let said = finished(self.stderr.take()).await;
        let said = String::from_utf8_lossy(&said);
        printable::lines(said.trim(), limits::QEMU_STDERR_BYTES).to_string()
    }

    /// Kills QEMU. Its end comes when the kernel lets it go, which a disk that hangs can delay.
    pub(super) fn kill(&mut self) {
        if let Err(error) = self.process.kill() {
            tracing::debug!(%error, "killing QEMU");
        }
    }

    /// Kills QEMU and waits for its end, however long: until then no other VM is to use what this QEMU uses.
    pub(super) async fn kill_for_good(&mut self) {
        self.kill();
        self.process.end().await;
    }
}

async fn negotiated(stream: UnixStream) -> Result<Qmp, QmpError> {
    let mut qmp = Qmp::greeted(stream).await?;
    failpoint::reach("launch.greeted");
    qmp.negotiate().await?;
    Ok(qmp)
}

/// Opens all that QEMU needs, and connects to QEMU's sockets before QEMU runs, so that no connection has to wait for it.
async fn open(spec: &Spec, vm: &Path) -> Result<(Vec<Mapped>, UnixStream, UnixStream), VmError> {
    let mut descriptors: Vec<Mapped> = vec![];
    let mut give = |descriptor: OwnedFd, number| descriptors.push(Mapped { descriptor, number });
    let mut streams = vec![];
    for (name, number) in [(QMP_SOCKET, descriptors::QMP), (CONSOLE_SOCKET, descriptors::CONSOLE)] {
        let listener = listen(vm, name).map_err(io_error("listen on a socket in", vm))?;
        streams.push(connect(vm, name).await.map_err(io_error("connect to a socket in", vm))?);
        give(listener.into(), number);
    }
    let Further { seed, uefi, agent, .. } = further(spec);
    if let Some(number) = agent {
        let listener = listen(vm, AGENT_SOCKET);
        give(listener.map_err(io_error("listen on a socket in", vm))?.into(), number);
    }
    let image = File::open(&spec.image.path).map_err(io_error("open", &spec.image.path))?;
    give(image.into(), descriptors::IMAGE);
    let mut open = |path: &Path, writes: bool, number| {
        let path = vm.join(path);
        let file = state::open_plain(File::options().read(true).write(writes), &path);
        give(file.map_err(io_error("open", &path))?.into(), number);
        Ok::<_, VmError>(())
    };
    if let Some(overlay) = &spec.overlay {
        open(overlay, true, descriptors::OVERLAY)?;
    }
    let mut number = descriptors::DISKS;
    for disk in &spec.disks {
        if let Some(image) = disk.backing() {
            open(&image.path, false, number)?;
            number += 1;
        }
        open(&disk.path, !disk.read_only, number)?;
        number += 1;
    }
    if let Some(number) = seed {
        open(Path::new(SEED), false, number)?;
    }
    if let (Some([code, variables]), Some(path)) = (uefi, &spec.variables) {
        open(Path::new(FIRMWARE), false, code)?;
        open(path, true, variables)?;
    }
    let no_streams = || io_error("connect to a socket in", vm)(std::io::Error::other("none"));
    let serial = streams.pop().ok_or_else(no_streams)?;
    let qmp = streams.pop().ok_or_else(no_streams)?;
    Ok((descriptors, qmp, serial))
}

fn further(spec: &Spec) -> Further {
    Further::of(Parts {
        disk_files: spec.disks.iter().map(DiskOf::files).sum(),
        seed: spec.seed,
        uefi: spec.variables.is_some(),
        agent: spec.agent != AccessLevel::None,
    })
}

/// Ends the step that takes too long to put a cage up, and the process that is to be QEMU, and waits for its end, however long: until then
/// no other VM is to use what it uses. A process that is not in the record yet ends by itself, as it is not told to go on.
async fn given_up(child: &mut Child, dir: &VmDir) -> String {
    let killed = child.kill();
    if let Err(error) = killed.and(ended(child).await.map(drop)) {
        tracing::warn!(%error, "the step that becomes QEMU is not ended");
    }
    if let Some(qemu) = &dir.status().qemu {
        qemu.signal(Signal::KILL);
        if let Ok(Some(watched)) = Watched::new(qemu) {
            watched.end().await;
        }
    }
    format!("it was not put up within {} s", limits::CAGE.as_secs())
}

/// Waits for a child's end without blocking other tasks.
async fn ended(child: &mut Child) -> std::io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        time::sleep(qhost_sys::limits::CHILD_POLL).await;
    }
}

/// Runs the step that puts the cage up and becomes QEMU. The inner error is what the step said went wrong.
async fn caged(
    spec: &Spec,
    child: &mut Child,
    dir: &mut VmDir,
) -> std::io::Result<Result<Watched, String>> {
    let no_pipe = || std::io::Error::other("no pipe to the cage");
    let orders = child.stdin.take().ok_or_else(no_pipe)?;
    let mut orders = pipe::Sender::from_owned_fd(orders.into())?;
    let said = child.stdout.take().ok_or_else(no_pipe)?;
    let mut said = BufReader::new(pipe::Receiver::from_owned_fd(said.into())?);
    let line = CageRequest {
        vm: spec.vm.clone(),
        cage: spec.cage.clone(),
        forwards: spec.forwards.clone(),
        program: spec.program.clone(),
        argv: spec.argv.clone(),
        is_new: !dir.status().changes().iter().any(|change| change.state == State::Running),
        first_free: further(spec).first_free,
    };
    let line = format!("{}\n", serde_json::to_string(&line)?);
    // If the step is gone already, its message or its status says why.
    if let Err(error) = orders.write_all(line.as_bytes()).await {
        tracing::debug!(%error, "the orders were not written whole");
    }
    let Ready { pid, handed } = match ready(&mut said).await? {
        Ok(ready) => ready,
        Err(Some(message)) => {
            ended(child).await?;
            return Ok(Err(message));
        }
        Err(None) => {
            let status = ended(child).await;
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            return Ok(Err(format!("the step that becomes QEMU ended with {status}")));
        }
    };
    let gone = || "the process that was to be QEMU is gone".to_owned();
    let Some(process) = Process::of(pid) else { return Ok(Err(gone())) };
    failpoint::reach("launch.caged");
    // QEMU runs only once its process is recorded; on a full disk it does not run.
    dir.try_update_status(|status| status.qemu = Some(process.clone()))
        .map_err(std::io::Error::other)?;
    failpoint::reach("launch.recorded");
    let Some(watched) = Watched::new(&process)? else { return Ok(Err(gone())) };
    if let Some(handed) = handed {
        tokio::spawn(bind(BindListener::take(watched.handle(), &handed, &spec.forwards)?));
    }
    let go = orders.write_all(b"go\n").await;
    failpoint::reach("launch.go");
    // The second half's standard output closes when QEMU begins; the first half's has closed long since.
    let said = said_by(&mut said).await?;
    ended(child).await?;
    match (said, go) {
        (Some(StepMessage::Failed(message)), _) => Ok(Err(message)),
        (_, Err(error)) => Err(error),
        (_, Ok(())) => Ok(Ok(watched)),
    }
}

/// A step that waits for `go` to become QEMU.
struct Ready {
    pid: u32,
    /// The descriptors that the supervisor takes from the step first.
    handed: Option<HandedSockets>,
}

/// Reads that the step is ready. The inner error is what went wrong, or nothing if the step ended without a message. The step's first half
/// says the process id, and its second half that it is ready, in either order.
async fn ready(
    said: &mut BufReader<pipe::Receiver>,
) -> std::io::Result<Result<Ready, Option<String>>> {
    let (mut pid, mut handed) = (None, None);
    loop {
        match said_by(said).await? {
            Some(StepMessage::Pid(found)) => pid = Some(found),
            Some(StepMessage::Ready(found)) => handed = Some(found),
            Some(StepMessage::Failed(message)) => return Ok(Err(Some(message))),
            None => return Ok(Err(None)),
        }
        if let (Some(pid), Some(handed)) = (pid, &handed) {
            return Ok(Ok(Ready { pid, handed: handed.clone() }));
        }
    }
}

#[expect(unsafe_code, reason = "tokio asks for a promise about the descriptor")]
fn watched(binds: BindListener) -> std::io::Result<AsyncFd<BindListener>> {
    // SAFETY: `BindListener` owns its descriptor, which stays open, and the same, for as long as the listener lives.
    Ok(unsafe { AsyncFd::register_with_interest(binds, Interest::READABLE) }?)
}

/// Answers QEMU's requests to bind a socket, until it has all of them or has ended.
async fn bind(binds: BindListener) {
    let answered = async {
        let mut binds = watched(binds)?;
        loop {
            let mut readable = binds.readable_mut().await?;
            if !readable.get_inner_mut().answer()? {
                return std::io::Result::Ok(());
            }
            readable.clear_ready();
        }
    };
    // After an error, QEMU says which port it could not forward.
    if let Err(error) = answered.await {
        tracing::debug!(%error, "no more of QEMU's sockets are bound");
    }
}

async fn said_by(said: &mut BufReader<pipe::Receiver>) -> std::io::Result<Option<StepMessage>> {
    let mut line = String::new();
    said.take(limits::STEP_MESSAGE_BYTES as u64).read_line(&mut line).await?;
    Ok(serde_json::from_str(&line).ok())
}

/// Waits for a task that ends with its stream, for a bounded time: a process that QEMU left behind could hold the stream open.
async fn finished<T: Default>(task: Option<JoinHandle<T>>) -> T {
    let Some(mut task) = task else { return T::default() };
    match time::timeout(limits::DRAIN, &mut task).await {
        Ok(output) => output.unwrap_or_default(),
        Err(_) => {
            task.abort();
            T::default()
        }
    }
}

/// Finds the port in QEMU's message that a port could not be forwarded: another process took it between the reservation's end and QEMU's
/// start.
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

/// A new pair of channels for a VM's console.
pub(super) fn console() -> Console {
    let channel = || broadcast::channel(limits::CONSOLE_PIECES).0;
    Console { said: channel(), typed: channel() }
}
