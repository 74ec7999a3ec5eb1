//! A process that need not be a child of this one. It is told apart from later processes of the same number, and signalled and waited for
//! through a descriptor (pidfd_open(2)).

use std::{
    fmt, fs, io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use procfs::process::{self, ProcState};
use rustix::{
    io::Errno,
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::io::{Interest, unix::AsyncFd};

/// A process by its number, and by what no other process of that number has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it began, in clock ticks since the host's start (proc_pid_stat(5), field 22).
    started_ticks: u64,
    /// Which start of the host that was.
    boot_id: String,
}

impl Process {
    /// A process that is there now, and has not ended.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let stat = process::Process::new(pid.try_into().ok()?).ok()?.stat().ok()?;
        if matches!(stat.state(), Ok(ProcState::Zombie | ProcState::Dead) | Err(_)) {
            return None;
        }
        let boot_id = procfs::sys::kernel::random::boot_id().ok()?;
        Some(Self { pid, started_ticks: stat.starttime, boot_id })
    }

    /// Whether the process is from before the host's last start; false where that cannot be found out.
    pub(super) fn is_of_another_boot(&self) -> bool {
        procfs::sys::kernel::random::boot_id().is_ok_and(|now| now != self.boot_id)
    }

    /// This process.
    pub(super) fn this() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// Whether the process is there, and has not ended.
    pub fn lives(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// The process' real user id, as this process sees it; nothing if the process is gone.
    pub(super) fn user(&self) -> Option<u32> {
        self.status().map(|status| status.ruid)
    }

    /// Whether the process is in a process namespace below this process's own; false where that cannot be seen.
    pub(super) fn is_namespaced(&self) -> bool {
        let numbers = self.status().and_then(|status| status.nspid);
        numbers.is_some_and(|numbers| numbers.len() > 1)
    }

    /// Whether the process runs a program; absent where that cannot be seen, or the process is gone.
    pub fn is_of(&self, program: &Path) -> Option<bool> {
        let id = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
        let its = id(Path::new(&format!("/proc/{}/exe", self.pid)))?;
        let is_same = its == id(program)?;
        self.lives().then_some(is_same)
    }

    /// Whether the process runs a program; false where that cannot be seen.
    pub(super) fn runs(&self, program: &Path) -> bool {
        is_same(Path::new(&format!("/proc/{}/exe", self.pid)), program) && self.lives()
    }

    fn status(&self) -> Option<process::Status> {
        let status = process::Process::new(self.pid.try_into().ok()?).ok()?.status().ok()?;
        self.lives().then_some(status)
    }

    /// Whether the process has a file open; false where its files cannot be seen.
    pub(super) fn has_open(&self, file: &Path) -> bool {
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid)).into_iter().flatten().flatten();
        let has = open.map(|one| one.path()).any(|one| is_same(&one, file));
        has && self.lives()
    }

    /// Sends the process a signal. Gives false if the process is gone.
    pub fn signal(&self, signal: Signal) -> bool {
        self.open().is_some_and(|handle| pidfd_send_signal(&handle, signal).is_ok())
    }

    fn open(&self) -> Option<OwnedFd> {
        let pid = self.pid.try_into().ok().and_then(Pid::from_raw)?;
        let handle = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
        // The handle is of the process that has the number now, and stays so.
        self.lives().then_some(handle)
    }
}

/// Whether two names are of one file; false where either cannot be seen.
fn is_same(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    id(one).is_some_and(|one| Some(one) == id(other))
}

/// A process whose end is waited for.
#[derive(Debug)]
pub(super) enum Watched {
    /// A real process, by a descriptor (pidfd_open(2)).
    Pidfd(AsyncFd<OwnedFd>),
    /// A process that a test's script plays.
    #[cfg(test)]
    Scripted(super::scripted::Process),
}

impl Watched {
    /// Watches a process; gives nothing if the process is gone.
    #[expect(unsafe_code, reason = "tokio asks for a promise about the descriptor")]
    pub(super) fn new(process: &Process) -> io::Result<Option<Self>> {
        let Some(handle) = process.open() else { return Ok(None) };
        // SAFETY: an `OwnedFd` stays open, and the same, for as long as it is owned, and only the `AsyncFd` owns it.
        let handle = unsafe { AsyncFd::register_with_interest(handle, Interest::READABLE) }?;
        Ok(Some(Self::Pidfd(handle)))
    }

    /// A descriptor of the process.
    pub(super) fn handle(&self) -> BorrowedFd<'_> {
        match self {
            Self::Pidfd(handle) => handle.get_ref().as_fd(),
            #[cfg(test)]
            Self::Scripted(_) => panic!("a scripted process has no descriptor"),
        }
    }

    /// Waits for the process' end. The wait may be dropped: nothing is lost.
    pub(super) async fn end(&self) -> ProcessExit {
        let handle = match self {
            Self::Pidfd(handle) => handle,
            #[cfg(test)]
            Self::Scripted(process) => return process.end().await,
        };
        if handle.readable().await.is_err() {
            return ProcessExit::Unseen;
        }
        loop {
            match waitid(WaitId::PidFd(handle.get_ref().as_fd()), WaitIdOptions::EXITED) {
                Ok(Some(status)) => {
                    return match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => ProcessExit::Code(code),
                        (None, Some(signal)) => ProcessExit::Signal(signal),
                        (None, None) => ProcessExit::Unseen,
                    };
                }
                Err(Errno::INTR) => {}
                // The process is not this one's child, as its supervisor was killed.
                Ok(None) | Err(_) => return ProcessExit::Unseen,
            }
        }
    }

    /// Kills the process.
    pub(super) fn kill(&self) -> io::Result<()> {
        match self {
            Self::Pidfd(handle) => Ok(pidfd_send_signal(handle.get_ref(), Signal::KILL)?),
            #[cfg(test)]
            Self::Scripted(process) => {
                process.kill();
                Ok(())
            }
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProcessExit {
    /// The process exited.
    Code(i32),
    /// A signal ended the process.
    Signal(i32),
    /// The exit was not seen, as the kernel tells only the parent, which was another process.
    Unseen,
}

impl fmt::Display for ProcessExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status: {code}"),
            Self::Signal(signal) => write!(f, "signal: {signal}"),
            Self::Unseen => f.write_str("an exit status that was not seen"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_apart_from_a_later_one() {
        let me = Process::this().unwrap();
        assert_eq!(Process::this().as_ref(), Some(&me));
        assert!(me.lives() && me.signal(Signal::CONT));
        let earlier = Process { started_ticks: me.started_ticks - 1, ..me.clone() };
        assert!(!earlier.lives() && !earlier.signal(Signal::CONT));
        let before_the_boot = Process { boot_id: "another".into(), ..me };
        assert!(!before_the_boot.lives() && !before_the_boot.signal(Signal::CONT));
    }
}
