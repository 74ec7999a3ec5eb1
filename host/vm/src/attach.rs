//! From a command to a VM's supervisor: starting one, handing over what is held for the VM, and hearing what it says.

use std::{
    fs::File,
    io::Write as _,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Child,
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::Signal,
};
use serde::{Deserialize, Serialize};
use tokio::net::unix::pipe;
use tokio_stream::StreamExt as _;
use tokio_util::codec::{FramedRead, LinesCodec};

use qhost_sys::{spawn, state};

use super::{Change, Process, VmError, error::io_error};
use crate::limits;

/// What a supervisor writes to its log, in the VM's folder.
const LOG: &str = "supervisor.log";

/// Whether QEMU is to be started, or there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// It is to be started.
    Launch,
    /// It was started by a supervisor that was killed.
    Adopt,
}

/// What a supervisor says to the process that started it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Notification {
    /// A state began.
    Changed(Change),
    /// A request to stop was heard, and this is being done about it.
    Doing(String),
    /// The job's ready check held.
    Ready,
    /// It looks after a VM that another did before.
    Adopted,
}

/// The saying end.
#[derive(Debug)]
pub(super) struct Notifier(());

impl Notifier {
    /// To standard output, a pipe to the process that started it, which may have gone: writing never waits.
    pub(super) fn on_stdout() -> Self {
        let stdout = std::io::stdout();
        let flags = fcntl_getfl(&stdout);
        let set = flags.and_then(|flags| fcntl_setfl(&stdout, flags | OFlags::NONBLOCK));
        if let Err(error) = set {
            tracing::warn!(%error, "the process that started this could make it wait");
        }
        Self(())
    }

    pub(super) fn send(&self, note: &Notification) {
        let line = serde_json::to_string(note).unwrap_or_default() + "\n";
        let mut stdout = std::io::stdout().lock();
        if stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).is_err() {
            tracing::debug!("the process that started this is gone");
        }
    }
}

/// A supervisor that this process has started, and hears.
#[derive(Debug)]
pub struct Attached {
    child: Child,
    process: Option<Process>,
    lines: FramedRead<pipe::Receiver, LinesCodec>,
}

impl Attached {
    /// Starts a VM's supervisor. It keeps open what is held for the VM, so that this ends with it and not with us.
    pub fn start(vm: &Path, begin: Begin, holds: Vec<File>) -> Result<Self, VmError> {
        let path = vm.join(LOG);
        let log = state::open_to_append(&path);
        let log = log.map_err(io_error("open", &path))?;
        let how = match begin {
            Begin::Launch => "launch",
            Begin::Adopt => "adopt",
        };
        let failed =
            |(program, source): (PathBuf, std::io::Error)| VmError::Supervisor { program, source };
        let mut child = spawn::supervisor(vm, how, holds, log).map_err(failed)?;
        let process = Process::of(child.id());
        let stdout = child
            .stdout
            .take()
            .ok_or_else(|| VmError::Runtime(std::io::Error::other("no pipe")))?;
        let said =
            pipe::Receiver::from_owned_fd(OwnedFd::from(stdout)).map_err(VmError::Runtime)?;
        let lines = FramedRead::new(said, LinesCodec::new_with_max_length(limits::NOTE_BYTES));
        Ok(Self { child, process, lines })
    }

    /// What it says next; nothing once it has ended.
    pub async fn note(&mut self) -> Option<Notification> {
        loop {
            match self.lines.next().await {
                Some(Ok(line)) => {
                    // What a later version says beside that is not for us.
                    if let Ok(note) = serde_json::from_str(&line) {
                        return Some(note);
                    }
                }
                Some(Err(_)) | None => {
                    // Its end is what closed the pipe.
                    if let Err(error) = self.child.wait() {
                        tracing::debug!(%error, "the supervisor's end");
                    }
                    return None;
                }
            }
        }
    }

    /// Asks it to stop the VM, or hastens it.
    pub fn ask_to_stop(&self) {
        if !self.process.as_ref().is_some_and(|process| process.signal(Signal::TERM)) {
            tracing::debug!("the supervisor has ended");
        }
    }
}
