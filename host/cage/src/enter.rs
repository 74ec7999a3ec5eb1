//! The step between a VM's supervisor and QEMU: puts the mechanisms up around itself, in the only order that works, and becomes QEMU when
//! the supervisor says so.
//!
//! The supervisor writes the orders, a line of JSON, to the standard input of this step. On its standard output the step says,
//! a line of JSON each, the process id of QEMU-to-be and that it is ready, or what went wrong. The supervisor records the
//! process and then writes `go`. So no QEMU runs that is in no record, whatever is killed when: without `go` the step ends with
//! the supervisor.

use std::{
    io::{self, BufRead as _, Write as _},
    os::{
        fd::{OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    path::PathBuf,
    process::{Command, ExitCode},
};

use rustix::{
    fs::Mode,
    io::fcntl_dupfd_cloexec,
    process::umask,
    stdio::{dup2_stdin, dup2_stdout},
};
use serde::{Deserialize, Serialize};

use qhost_model::launch::Forward;
use qhost_sys::{failpoint, spawn};

use super::{
    Cage, CageError, HandedSockets, Network, egress, landlock, namespaces, rlimits, seccomp,
    sockets, user,
};

/// The word that starts this step.
pub const SUBCOMMAND: &str = "__cage";

/// A request to start an emulator in a cage.
#[derive(Debug, Serialize, Deserialize)]
pub struct CageRequest {
    /// The VM's id.
    pub vm: String,
    /// The cage.
    pub cage: Cage,
    /// The ports that are forwarded to the guest.
    pub forwards: Vec<Forward>,
    /// The emulator.
    pub program: PathBuf,
    /// The emulator's arguments.
    pub argv: Vec<String>,
    /// Whether the VM is new: a VM that is started again goes before no other.
    pub is_new: bool,
    /// The first descriptor that is not QEMU's.
    pub first_free: RawFd,
}

/// A message of this step to the supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepMessage {
    /// The process id of QEMU-to-be.
    Pid(u32),
    /// The step waits for `go`. Where ports are forwarded, the supervisor takes these descriptors from it first.
    Ready(Option<HandedSockets>),
    /// The step failed, for this reason.
    Failed(String),
}

/// Runs the step. Returns only where this process does not become QEMU.
pub fn enter() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&StepMessage::Failed(format!("{error}: {}", error.source)));
            ExitCode::FAILURE
        }
    }
}

/// Writes a message to the supervisor. Without a supervisor no process reads the message, and no `go` will come, so that a failed write is
/// no error.
fn say(said: &StepMessage) {
    let mut line = serde_json::to_vec(said).unwrap_or_default();
    line.push(b'\n');
    if io::stdout().write_all(&line).and_then(|()| io::stdout().flush()).is_err() {
        tracing::debug!("the supervisor is gone");
    }
}

fn start() -> Result<(), CageError> {
    let unheard = CageError::at::<io::Error>("reading what is to be started");
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(&unheard)?;
    let orders: CageRequest =
        serde_json::from_str(&line).map_err(|error| unheard(io::Error::other(error)))?;
    let cage = &orders.cage;
    if let Network::Filtered { groups, tcp, udp, internet } = &cage.network {
        egress::enter(groups, &orders.vm, egress::Ports { tcp, udp }, *internet)?;
    }
    if let Some(cgroup) = &cage.cgroup {
        cgroup.enter(&orders.vm)?;
        if orders.is_new {
            cgroup.start_qemu().map_err(CageError::at("moving to the cgroup of starts"))?;
        }
    }
    // The sockets are bound after joining the cgroup that filters them, and before leaving the host's network.
    let sockets = sockets::open(&orders.forwards)?;
    // The group that may open /dev/kvm is read before the host's files are out of sight.
    let kvm = if cage.kvm { group_of("/dev/kvm")? } else { None };
    namespaces::leave(cage)?;
    failpoint::reach("cage.left");
    // QEMU is the first process of the new process namespace. Without that namespace it is a child too, so that QEMU is always started the
    // same way.
    match fork().map_err(CageError::at("making a process"))? {
        Some(child) => {
            say(&StepMessage::Pid(child));
            Ok(())
        }
        None => become_qemu(&orders, &sockets, kvm),
    }
}

/// The group that may open a device; none where all users may.
fn group_of(device: &str) -> Result<Option<u32>, CageError> {
    use std::os::unix::fs::MetadataExt as _;
    let failed = CageError::at::<io::Error>("looking who may open /dev/kvm");
    let found = std::fs::metadata(device).map_err(&failed)?;
    match (found.mode() & 0o006 == 0o006, found.gid()) {
        (true, _) => Ok(None),
        (false, 0) => {
            Err(failed(io::Error::other("only root's group may, and QEMU gets no part in that")))
        }
        (false, group) => Ok(Some(group)),
    }
}

/// Gives the child's process id as this process sees it, and in the child nothing.
#[expect(unsafe_code, reason = "no library has a safe fork(2)")]
fn fork() -> io::Result<Option<u32>> {
    // SAFETY: this process has one thread, so that its copy is whole.
    match unsafe { libc::fork() } {
        0 => Ok(None),
        child @ 1.. => Ok(Some(child.unsigned_abs())),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Returns only where QEMU was not started, because the supervisor is gone or a step failed.
fn become_qemu(
    orders: &CageRequest,
    sockets: &[OwnedFd],
    kvm: Option<u32>,
) -> Result<(), CageError> {
    let cage = &orders.cage;
    // A stopped process whose session loses its last parent is sent SIGHUP and SIGCONT (setpgid(2)). In a session of its own QEMU has no
    // such parent.
    rustix::process::setsid().map_err(CageError::at("making a session"))?;
    spawn::close_on_exec(orders.first_free).map_err(CageError::at("closing what is not QEMU's"))?;
    // QEMU's user must be able to pass through the folders that are made here.
    umask(Mode::from_raw_mode(0o022));
    namespaces::see_only(cage)?;
    rlimits::apply(&cage.rlimits)?;
    user::drop_privileges(cage.user, kvm)?;
    landlock::restrict(cage)?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(CageError::at("opening /dev/null"))?;
    seccomp::restrict(cage)?;
    let binds = sockets::restrict(!sockets.is_empty());
    let binds = binds.map_err(CageError::at("having each bind asked about"))?;
    say(&StepMessage::Ready(binds.as_ref().map(|binds| HandedSockets::new(binds, sockets))));
    let mut go = String::new();
    io::stdin().lock().read_line(&mut go).map_err(CageError::at("waiting for the word"))?;
    if go != "go\n" {
        // The supervisor is gone.
        return Ok(());
    }
    dup2_stdin(&null).map_err(CageError::at("closing standard input"))?;
    exec(orders, &null)
}

/// Becomes QEMU. The copy of standard output closes by itself then, which tells the supervisor that QEMU has begun; until then the
/// supervisor still hears of a failure.
#[expect(clippy::disallowed_methods, reason = "the one place that becomes QEMU")]
fn exec(orders: &CageRequest, null: &std::fs::File) -> Result<(), CageError> {
    let failed = CageError::at::<io::Error>("starting QEMU");
    // A root of QEMU's own has the program by its real name only.
    let program = orders.cage.paths.first().unwrap_or(&orders.program);
    let heard = fcntl_dupfd_cloexec(io::stdout(), orders.first_free)
        .map_err(|error| failed(error.into()))?;
    dup2_stdout(null).map_err(|error| failed(error.into()))?;
    let error = Command::new(program).args(&orders.argv).env_clear().exec();
    dup2_stdout(&heard).map_err(|error| failed(error.into()))?;
    Err(failed(error))
}
