//! Turns: each tenant has one start at a time that is decided and launched, so that a tenant with a hundred commands takes no more of the
//! host's processors, disk and locks than a tenant with one. Fetching an image takes no turn.

use std::{
    fs::{File, TryLockError},
    io,
};

use tokio::time::{self, Instant};

use qhost_sys::state::{self, StateDir};

use crate::limits;

/// A tenant's turn, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _lock: File,
}

/// The reason why a start got no turn.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TurnError {
    /// The tenant's other starts took too long.
    #[error(
        "other starts of tenant {tenant} have been decided and launched for {} s, and one is at a time; try again",
        limits::TURN.as_secs()
    )]
    Late {
        /// The tenant.
        tenant: String,
    },
    /// The lock of the tenant's turns cannot be used.
    #[error("cannot wait for the tenant's turn in the state folder")]
    Lock(#[source] io::Error),
}

impl Turn {
    /// Waits until none of the tenant's other starts has the turn, at most [`limits::TURN`], and calls `waiting` if that takes longer than
    /// [`limits::TURN_TOLD`]. The tenant's name must be one that a tenant can have.
    ///
    /// # Errors
    /// Fails where the wait takes too long, or the state folder cannot be written to.
    pub(crate) async fn wait(
        state: &StateDir,
        tenant: &str,
        waiting: impl FnOnce(),
    ) -> Result<Self, TurnError> {
        let folder = state.path().join("turns");
        state::create_private(&folder).map_err(TurnError::Lock)?;
        // Behind the ending, no tenant's name leads out of the folder.
        let path = folder.join(format!("{tenant}.lock"));
        let lock = state::open_to_append(&path).map_err(TurnError::Lock)?;
        let began = Instant::now();
        let mut waiting = Some(waiting);
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { _lock: lock }),
                Err(TryLockError::WouldBlock) if began.elapsed() < limits::TURN => {
                    if began.elapsed() > limits::TURN_TOLD
                        && let Some(waiting) = waiting.take()
                    {
                        waiting();
                    }
                    time::sleep(limits::TURN_POLL).await;
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(TurnError::Late { tenant: tenant.to_owned() });
                }
                Err(TryLockError::Error(error)) => return Err(TurnError::Lock(error)),
            }
        }
    }
}
