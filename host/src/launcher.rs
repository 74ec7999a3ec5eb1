//! The one place that starts processes. QEMU and the policy compiler are started through a step of their own: this
//! program once more, which sets what the process must start with and then becomes it. An author's own tools, cargo and
//! the like, are started as that author would.
//!
//! Here that is three things. The process inherits no descriptor but its standard ones: whatever started qhost may have
//! left others open, and a guest that breaks into QEMU is not to have them. No file that it writes grows beyond a bound:
//! the write that would fails, as it does on a full disk. And the process dies with qhost, however
//! that ends, so that a run that was killed leaves nothing behind. It is started from a thread that outlives it: the
//! kernel sends the signal at the end of the thread that forked (prctl(2), `PR_SET_PDEATHSIG`).

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::{
        fd::{BorrowedFd, RawFd},
        unix::process::CommandExt as _,
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::{FdFlags, fcntl_setfd},
    process::{
        Pid, Resource, Rlimit, Signal, getpid, getppid, set_parent_process_death_signal, setrlimit,
    },
};

use crate::limits;

/// The hidden subcommand of `qhost` that ends up in [`exec`].
pub const SUBCOMMAND: &str = "__launch";

/// This very program, even where its file has been replaced meanwhile.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// A program to start: with an empty environment and no input, in a process group of its own, so that a terminal's
/// Ctrl-C reaches only qhost, and killed if it is not waited for.
pub(crate) fn command(program: &Path, args: &[impl AsRef<OsStr>]) -> tokio::process::Command {
    started(launched(program, args, None))
}

/// The same, and no file that it writes may grow beyond so many bytes.
pub(crate) fn bounded_command(
    program: &Path,
    args: &[impl AsRef<OsStr>],
    file_bytes: u64,
) -> tokio::process::Command {
    started(launched(program, args, Some(file_bytes)))
}

fn started(command: Command) -> tokio::process::Command {
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Another subcommand of this program, as a process of its own; the caller sets its standard streams.
pub(crate) fn this_program(subcommand: &str, args: &[impl AsRef<OsStr>]) -> Command {
    let args = args.iter().map(AsRef::as_ref);
    let args: Vec<&OsStr> = [OsStr::new(subcommand)].into_iter().chain(args).collect();
    launched(Path::new(THIS_PROGRAM), &args, None)
}

/// One of a policy author's own tools, with the author's environment and in the terminal's process group.
#[expect(clippy::disallowed_methods, reason = "the one place that starts processes")]
pub(crate) fn tool(program: &Path, args: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command
}

/// Waits for a process's end; one that takes longer than it may is killed, and has no status.
pub(crate) fn wait(child: &mut Child, most: Duration) -> io::Result<Option<ExitStatus>> {
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
fn launched(program: &Path, args: &[impl AsRef<OsStr>], file_bytes: Option<u64>) -> Command {
    let mut command = Command::new(THIS_PROGRAM);
    command
        .arg(SUBCOMMAND)
        .args(file_bytes.map(|bytes| format!("--file-bytes={bytes}")))
        .arg(getpid().as_raw_nonzero().to_string())
        .arg(program)
        .args(args)
        .env_clear()
        .process_group(0);
    command
}

/// Becomes `program`, unless the process that asked for it, of id `parent`, is gone already. Returns only on failure.
#[expect(clippy::disallowed_methods, reason = "the one place that starts processes")]
pub fn exec(file_bytes: Option<u64>, parent: i32, program: &OsStr, args: &[OsString]) -> io::Error {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    if getppid().map(Pid::as_raw_nonzero).is_none_or(|now| now.get() != parent) {
        return io::Error::other("the process that asked for it is gone");
    }
    if let Err(error) = keep_standard_descriptors_only() {
        return error;
    }
    if let Some(bytes) = file_bytes
        && let Err(error) = bound_files(bytes)
    {
        return error;
    }
    Command::new(program).args(args).exec()
}

/// Has writes beyond a file's bound fail; their signal, which would end the program, is ignored from here on.
#[expect(unsafe_code, reason = "rustix has no function that sets what a signal does")]
fn bound_files(bytes: u64) -> io::Result<()> {
    setrlimit(Resource::Fsize, Rlimit { current: Some(bytes), maximum: Some(bytes) })?;
    // SAFETY: ignoring a signal installs no handler, and this process has one thread.
    match unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Has every other descriptor closed when the program begins.
#[expect(
    unsafe_code,
    reason = "descriptors that somebody else opened have no owner here to borrow from"
)]
fn keep_standard_descriptors_only() -> io::Result<()> {
    for entry in fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        let Some(number) = number.filter(|number| *number > 2) else { continue };
        // SAFETY: the kernel has just listed it as open, and this process has one thread, which closes none meanwhile.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        fcntl_setfd(descriptor, FdFlags::CLOEXEC)?;
    }
    Ok(())
}
