//! Starting a VM's supervisor, with what is held for the VM.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use qhost_sys::{spawn, state};

use super::{VmError, error::io_error};

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

/// Starts a VM's supervisor. It keeps open what is held for the VM, so that this ends with it and not with us. What becomes of the VM
/// it tells [`subscribe`](crate::subscribe)rs. Called in the context of a tokio runtime, which reaps the process.
///
/// # Errors
/// Where its program cannot be started, or its log not be opened.
pub fn start_supervisor(vm: &Path, begin: Begin, holds: Vec<File>) -> Result<(), VmError> {
    let path = vm.join(LOG);
    let log = state::open_to_append(&path);
    let log = log.map_err(io_error("open", &path))?;
    let how = match begin {
        Begin::Launch => "launch",
        Begin::Adopt => "adopt",
    };
    let failed =
        |(program, source): (PathBuf, std::io::Error)| VmError::Supervisor { program, source };
    spawn::supervisor(vm, how, holds, log).map_err(failed)
}
