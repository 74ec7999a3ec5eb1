//! The locks of VMs' folders: one for each VM, held for as long as the VM has a supervisor, and one for all folders.

use std::{
    fs::{self, File},
    path::Path,
};

use qhost_sys::state;

use super::{VmError, error::io_error};

/// A VM's lock, in its folder.
pub(super) const LOCK: &str = "lock";

/// Takes the lock of all folders, for the moment in which folders are made or swept, so that neither sees the other half done.
pub fn lock_all(vms: &Path) -> Result<File, VmError> {
    let path = vms.join(".lock");
    state::lock(&path).map_err(io_error("lock", &path))
}

/// Takes a VM's lock, unless another process has it. A process that only looks has the lock for a moment, so that this tries again.
pub fn try_lock(vm: &Path) -> Result<Option<File>, VmError> {
    let path = vm.join(LOCK);
    for _ in 0..qhost_sys::limits::LOCK_TRIES {
        let file = state::open_to_lock(&path).map_err(io_error("open", &path))?;
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(qhost_sys::limits::LOCK_POLL),
            Err(fs::TryLockError::Error(error)) => return Err(io_error("lock", &path)(error)),
        }
    }
    Ok(None)
}

/// Whether a folder's VM has no supervisor and no run that makes it.
pub fn is_abandoned(path: &Path) -> bool {
    !state::is_held(&path.join(LOCK))
}
