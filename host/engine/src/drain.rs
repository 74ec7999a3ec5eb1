//! Draining this host: no VM is started any more, so that the VMs that run can end, or be stopped, before the host is taken away.

use std::io;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use qhost_sys::state::{self, StateDir};
use qhost_vm::{VmError, VmRecord, error::io_error, list, lock::lock_all};

use crate::{
    engine::{Engine, blocking},
    error::EngineError,
};

/// A drain, in the state folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// When the drain began.
    pub since: Timestamp,
}

/// What a drain finds when it begins.
#[derive(Debug)]
pub struct Draining {
    /// The drain.
    pub drain: Drain,
    /// The VMs that were admitted before the drain, VMs that are just being started again among them.
    pub running: Vec<VmRecord>,
}

impl Engine {
    /// Begins a drain. Once this has returned, no new VM is admitted and no ended VM is started again. Running VMs keep running, and may
    /// still be restarted.
    ///
    /// # Errors
    /// Fails where the state folder cannot be written.
    pub async fn drain(&self) -> Result<Draining, EngineError> {
        let engine = self.clone();
        let begun = blocking(move || {
            let state = engine.state();
            let (vms, path) = (state.vms(), state.drain());
            state::create_private(&vms).map_err(io_error("create", &vms))?;
            // Once this lock is held, a VM that was just being admitted has its folder.
            let _all = lock_all(&vms)?;
            let drain = match of(state)? {
                Some(drain) => drain,
                None => Drain { since: Timestamp::now() },
            };
            let text = serde_json::to_vec(&drain).map_err(io::Error::from);
            let written = text.and_then(|text| state::write_whole(&path, &text));
            written.map_err(io_error("write", &path))?;
            Ok(Draining { drain, running: list::running(state) })
        });
        Ok(begun.await?)
    }

    /// Ends a drain. Gives whether there was one.
    ///
    /// # Errors
    /// Fails where the state folder cannot be written.
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
    let read = || match state::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        text => io::Result::Ok(Some(serde_json::from_slice(&text?)?)),
    };
    // A record that cannot be read may be a drain, so that it is an error.
    read().map_err(io_error("read", &path))
}

/// Refuses to admit a VM while this host is drained.
pub(crate) fn refuse(state: &StateDir) -> Result<(), VmError> {
    match of(state)? {
        Some(Drain { since }) => Err(VmError::Draining { since }),
        None => Ok(()),
    }
}
