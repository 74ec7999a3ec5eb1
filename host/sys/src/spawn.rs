//! The one place that starts processes. QEMU and the policy compiler are started through a step of their own: this program once more,
//! which sets what the process must start with and then becomes that process. A policy author's own tools, such as cargo, are started as
//! the author would start them.
//!
//! A process that a command needs for itself gets two promises. It inherits no descriptor but its standard ones, since the process that
//! started qhost may have left others open. And it dies with qhost, however qhost ends, so that a killed command leaves nothing behind.
//! The thread that starts such a process must outlive it: the kernel sends the signal at the end of the thread that forked (prctl(2),
//! `PR_SET_PDEATHSIG`).
//!
//! A VM outlives the command that started it: its supervisor is a program of its own, and between the supervisor and QEMU is the cage.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::{
        fd::{BorrowedFd, OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::{
    io::{FdFlags, fcntl_setfd},
    process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal},
};

use crate::{failpoint, limits};

/// The hidden subcommand of `qhost` that ends up in [`exec`].
pub const SUBCOMMAND: &str = "__launch";

/// The file of this very program, even if it has been replaced meanwhile.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// The programs of an installation of qhost, for a process that runs another program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// `qhost`, which compiles policies and is the step before QEMU is asked for its features.
    pub qhost: PathBuf,
    /// `qhost-supervisor`, which looks after one VM.
    pub supervisor: PathBuf,
}

static PROGRAMS: OnceLock<Programs> = OnceLock::new();

/// Sets the programs to start from now on. A process has the programs of one installation.
///
/// # Errors
/// Other programs were set before.
pub fn use_programs(programs: Programs) -> Result<(), String> {
    if *PROGRAMS.get_or_init(|| programs.clone()) == programs {
        Ok(())
    } else {
        Err("this process starts the programs of another installation of qhost already".into())
    }
}

fn qhost_program() -> &'static Path {
    PROGRAMS.get().map_or(Path::new(THIS_PROGRAM), |programs| programs.qhost.as_path())
}

/// The first descriptor that a supervisor holds for its VM.
pub const FIRST_HELD: RawFd = 3;

/// A program to start, with an empty environment and no input. It is in a process group of its own, so that a terminal's Ctrl-C reaches
/// only qhost, and it is killed when it is dropped.
pub fn command(program: &Path, args: &[impl AsRef<OsStr>]) -> tokio::process::Command {
    let mut command = tokio::process::Command::from(launched(program, args));

    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Starts a VM's supervisor: a small program of its own, named like this one and beside it, so that a hundred of them cost little. The
/// supervisor outlives this process: it has a session of its own and no death signal. The files in `holds` become its descriptors from 3
/// on, and no other process that is started inherits them; it closes other descriptors that it inherits. Its standard error goes to a
/// log. The runtime that this is called in reaps it.
#[expect(clippy::disallowed_methods, reason = "the one place that starts processes")]
pub fn supervisor(
    vm: &Path,
    how: &str,
    holds: Vec<File>,
    log: File,
) -> Result<(), (PathBuf, io::Error)> {
    let program = match supervisor_program() {
        Ok(program) => program,
        Err(error) => return Err((THIS_PROGRAM.into(), error)),
    };
    let mut command = Command::new(&program);
    command.arg(how).arg(vm).arg(holds.len().to_string()).current_dir(vm).env_clear();
    // A supervisor that adopts a VM must not be killed at the point at which the one before it was.
    if how == "launch" {
        command.envs(failpoint::environment());
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mapping = |(parent_fd, child_fd)| FdMapping { parent_fd, child_fd };
    let holds = holds.into_iter().map(OwnedFd::from).zip(FIRST_HELD..).map(mapping).collect();
    let spawned = match command.fd_mappings(holds) {
        // The runtime reaps a dropped child when it ends, so that a process that starts many has no zombies.
        Ok(_) => tokio::process::Command::from(command).spawn().map(drop),
        Err(error) => Err(io::Error::other(error)),
    };
    spawned.map_err(|error| (program, error))
}

/// Closes every descriptor from `first` on; this process was started with them and does not use them.
#[expect(unsafe_code, reason = "rustix has no function that closes what has no owner")]
pub fn close_from(first: RawFd) -> io::Result<()> {
    let first = libc::c_uint::try_from(first).map_err(io::Error::other)?;
    // SAFETY: this process has just begun, and no value owns one of these descriptors.
    match unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Checks that a VM's supervisor can be started.
///
/// # Errors
/// The supervisor's program does not exist; the error has its path, and the reason.
pub fn has_supervisor() -> Result<(), (PathBuf, io::Error)> {
    let program = supervisor_program().map_err(|error| (THIS_PROGRAM.into(), error))?;
    match fs::metadata(&program) {
        Ok(_) => Ok(()),
        Err(error) => Err((program, error)),
    }
}

/// The supervisor's program that was set, or `qhost-supervisor` beside `qhost`.
pub fn supervisor_program() -> io::Result<PathBuf> {
    if let Some(programs) = PROGRAMS.get() {
        return Ok(programs.supervisor.clone());
    }
    let this = fs::read_link(THIS_PROGRAM)?;
    let mut name = this.file_name().unwrap_or_default().to_owned();
    // The kernel adds this to the name of a program whose file was replaced since it was started.
    if let Some(replaced) = name.to_str().and_then(|name| name.strip_suffix(" (deleted)")) {
        name = replaced.into();
    }
    name.push("-supervisor");
    Ok(this.with_file_name(name))
}

/// A descriptor for a new process, and its number there.
#[derive(Debug)]
pub struct Mapped {
    /// The descriptor, open in this process.
    pub descriptor: OwnedFd,
    /// The descriptor's number in the new process.
    pub number: RawFd,
}

/// Starts another subcommand of this program, which becomes QEMU in the end. The process works in a VM's folder, has its streams piped
/// and gets no other descriptors but these.
#[expect(clippy::disallowed_methods, reason = "the one place that starts processes")]
pub fn caged(subcommand: &str, vm: &Path, descriptors: Vec<Mapped>) -> io::Result<Child> {
    let mut command = Command::new(THIS_PROGRAM);
    command.arg(subcommand).current_dir(vm).env_clear().envs(failpoint::environment());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mapping =
        |Mapped { descriptor, number }| FdMapping { parent_fd: descriptor, child_fd: number };
    command
        .fd_mappings(descriptors.into_iter().map(mapping).collect())
        .map_err(io::Error::other)?
        .spawn()
}

/// A command for another subcommand of this program, as a process of its own; the caller sets its standard streams.
pub fn this_program(subcommand: &str, args: &[impl AsRef<OsStr>]) -> Command {
    let args = args.iter().map(AsRef::as_ref);
    let args: Vec<&OsStr> = [OsStr::new(subcommand)].into_iter().chain(args).collect();
    launched(qhost_program(), &args)
}

/// A command for one of a policy author's own tools, with the author's environment and in the terminal's process group.
#[expect(clippy::disallowed_methods, reason = "the one place that starts processes")]
pub fn tool(program: &Path, args: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command
}

/// Waits for a process's end, and gives its status. A process that takes longer than `most` is killed, and has no status.
pub fn wait(child: &mut Child, most: Duration) -> io::Result<Option<ExitStatus>> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if began.elapsed() > most {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(limits::CHILD_POLL);
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that starts processes")]
fn launched(program: &Path, args: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(qhost_program());
    command
        .arg(SUBCOMMAND)
        .arg(getpid().as_raw_nonzero().to_string())
        .arg(program)
        .args(args)
        .env_clear()
        .process_group(0);
    command
}

/// Becomes `program`, unless the process that asked for it, of id `parent`, has gone already. Returns only on failure.
#[expect(clippy::disallowed_methods, reason = "the one place that starts processes")]
pub fn exec(parent: i32, program: &OsStr, args: &[OsString]) -> io::Error {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    if getppid().map(Pid::as_raw_nonzero).is_none_or(|now| now.get() != parent) {
        return io::Error::other("the process that asked for it is gone");
    }
    if let Err(error) = close_on_exec(3) {
        return error;
    }
    Command::new(program).args(args).exec()
}

/// Has every descriptor from `first` on closed when the next program begins.
#[expect(
    unsafe_code,
    reason = "descriptors that another process opened have no owner here to borrow from"
)]
pub fn close_on_exec(first: RawFd) -> io::Result<()> {
    for entry in fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        let Some(number) = number.filter(|number| *number >= first) else { continue };
        // SAFETY: the kernel has just listed the descriptor as open, and this process has one thread, which closes none meanwhile.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        fcntl_setfd(descriptor, FdFlags::CLOEXEC)?;
    }
    Ok(())
}
