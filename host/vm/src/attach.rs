//! Starting a VM's supervisor, with what is held for the VM.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use qhost_sys::{spawn, state};

use super::{VmError, error::io_error};

/// A supervisor's log, in the VM's folder.
const LOG: &str = "supervisor.log";

/// Whether QEMU is to be started, or runs already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// QEMU is to be started.
    Launch,
    /// QEMU was started by a supervisor that was killed.
    Adopt,
}

/// Starts a VM's supervisor. The supervisor keeps the locks in `holds` open, so that they end with the supervisor and not with this
/// process. It tells [`subscribe`](crate::subscribe)rs what becomes of the VM. This is called in the context of a tokio runtime, which
/// reaps the supervisor's process.
///
/// # Errors
/// Fails where the supervisor's program cannot be started, or its log cannot be opened.
pub fn start_supervisor(vm: &Path, begin: Begin, holds: Vec<File>) -> Result<(), VmError> {
    let path = vm.join(LOG);
    let log = match state::open_to_append(&path) {
        // On a disk that has become read-only, its log is not kept.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            File::options().write(true).open("/dev/null")
        }
        opened => opened,
    };
    let log = log.map_err(io_error("open", &path))?;
    let how = match begin {
        Begin::Launch => "launch",
        Begin::Adopt => "adopt",
    };
    let failed = |(program, source): (PathBuf, io::Error)| VmError::Supervisor { program, source };
    spawn::supervisor(vm, how, holds, log).map_err(failed)
}
