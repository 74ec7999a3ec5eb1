//! The one place that starts processes. Each is started through a step of its own: this program once more, which sets
//! what the process must start with and then becomes it.
//!
//! Here that is one thing: the process dies with qhost, however that ends, so that a run that was killed leaves nothing
//! behind. It is started from the main thread, whose end is the process's: the kernel sends the signal at the end of
//! the thread that forked (prctl(2), `PR_SET_PDEATHSIG`).

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::Stdio,
};

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
use tokio::process::Command;

/// The hidden subcommand of `qhost` that ends up in [`exec`].
pub const SUBCOMMAND: &str = "__launch";

/// A program to start: with an empty environment and no input, in a process group of its own, so that a terminal's
/// Ctrl-C reaches only qhost, and killed if it is not waited for.
#[expect(clippy::disallowed_methods, reason = "the one place that starts processes")]
pub(crate) fn command(program: &Path, args: &[impl AsRef<OsStr>]) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg(SUBCOMMAND)
        .arg(getpid().as_raw_nonzero().to_string())
        .arg(program)
        .args(args)
        .env_clear()
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    Ok(command)
}

/// Becomes `program`, unless the process that asked for it, of id `parent`, is gone already. Returns only on failure.
#[expect(clippy::disallowed_methods, reason = "the one place that starts processes")]
pub fn exec(parent: i32, program: &OsStr, args: &[OsString]) -> io::Error {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    if getppid().map(Pid::as_raw_nonzero).is_none_or(|now| now.get() != parent) {
        return io::Error::other("the process that asked for it is gone");
    }
    std::process::Command::new(program).args(args).exec()
}
