//! The step between the supervisor and QEMU: this program once more, which sets what QEMU must start with and then
//! becomes QEMU.
//!
//! Here that is one thing: QEMU dies with its supervisor, however that ends, so that a foreground run that was killed
//! leaves no process behind. The supervisor starts it from its main thread, whose end is the process's: the kernel
//! sends the signal at the end of the thread that forked (prctl(2), `PR_SET_PDEATHSIG`).

use std::{ffi::OsString, io, os::unix::process::CommandExt as _, path::Path, process::Stdio};

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
use tokio::process::{Child, Command};

use crate::qemu::LaunchPlan;

/// The hidden subcommand of `qhost` that ends up in [`exec`].
pub const SUBCOMMAND: &str = "__launch";

/// Starts QEMU through the launcher: in its own process group, so that a terminal's Ctrl-C reaches only qhost; with an
/// empty environment; in the VM's folder.
#[expect(clippy::disallowed_methods, reason = "one of the two places that start processes")]
pub(super) fn spawn(plan: &LaunchPlan, folder: &Path) -> io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .arg(SUBCOMMAND)
        .arg(getpid().as_raw_nonzero().to_string())
        .arg(plan.program())
        .args(plan.argv())
        .env_clear()
        .current_dir(folder)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

/// Becomes `program`, unless the supervisor, of process id `parent`, is gone already. Returns only on failure.
#[expect(clippy::disallowed_methods, reason = "one of the two places that start processes")]
pub fn exec(parent: i32, program: &OsString, args: &[OsString]) -> io::Error {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    if getppid().map(Pid::as_raw_nonzero).is_none_or(|now| now.get() != parent) {
        return io::Error::other("the supervisor is gone");
    }
    std::process::Command::new(program).args(args).exec()
}
