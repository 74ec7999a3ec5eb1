//! Draining this host: from then on nothing is started, so that what runs can end, or be stopped, before the host is taken away.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use qhost_sys::state::{self, StateDir};
use qhost_vm::{VmError, error::io_error, lock::lock_all, records::read_whole};

use crate::{
    engine::{Engine, blocking},
    error::EngineError,
};

/// A drain, in the state folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// When it began.
    pub since: Timestamp,
}

impl Engine {
    /// Begins a drain: once this has returned, no VM is admitted any more, nor started again. VMs that run go on, restarts by their restart
    /// policies included.
    ///
    /// # Errors
    /// Where the state folder cannot be written.
    pub async fn drain(&self) -> Result<Drain, EngineError> {
        let engine = self.clone();
        let begun = blocking(move || {
            let state = engine.state();
            let (vms, path) = (state.vms(), state.drain());
            state::create_private(&vms).map_err(io_error("create", &vms))?;
            // A VM that is being admitted just now is there when this is held.
            let _all = lock_all(&vms)?;
            if let Some(drain) = of(state)? {
                return Ok(drain);
            }
            let drain = Drain { since: Timestamp::now() };
            let text = serde_json::to_vec(&drain).map_err(std::io::Error::from);
            let written = text.and_then(|text| state::write_whole(&path, &text));
            written.map_err(io_error("write", &path))?;
            Ok(drain)
        });
        Ok(begun.await?)
    }

    /// Ends a drain; whether there was one.
    ///
    /// # Errors
    /// Where the state folder cannot be written.
    pub async fn end_drain(&self) -> Result<bool, EngineError> {
        let path = self.state().drain();
        let ended = blocking(move || {
            let was = path.exists();
            state::remove(&path).map_err(io_error("remove", &path))?;
            Ok(was)
        });
        Ok(ended.await?)
    }
}

/// The drain of this host, if it is drained.
pub(crate) fn of(state: &StateDir) -> Result<Option<Drain>, VmError> {
    let path = state.drain();
    // What cannot be read is a drain all the same.
    if path.symlink_metadata().is_ok() { read_whole(&path).map(Some) } else { Ok(None) }
}

/// Refuses to admit a VM while this host is drained.
pub(crate) fn refuse(state: &StateDir) -> Result<(), VmError> {
    match of(state)? {
        Some(Drain { since }) => Err(VmError::Draining { since }),
        None => Ok(()),
    }
}
