//! Threads of a process that goes from one group of version 1 to another. When a thread moves another one, the kernel takes a lock that all
//! processes of the host share, and waits some 15 ms for it; so each thread moves itself, when it next has something to do.

use std::{
    cell::Cell,
    io,
    path::PathBuf,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use super::write;

/// The group that this process's threads are to be in, once there is one.
static GROUP: RwLock<Option<PathBuf>> = RwLock::new(None);
/// How often [`GROUP`] has changed.
static CHANGES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The change that this thread has followed.
    static FOLLOWED: Cell<u64> = const { Cell::new(0) };
}

/// Moves this process to a group: this thread at once, other threads when they follow.
pub(super) fn go_to(group: PathBuf) -> io::Result<()> {
    *GROUP.write().unwrap_or_else(PoisonError::into_inner) = Some(group);
    CHANGES.fetch_add(1, Ordering::Release);
    follow()
}

/// Moves this thread to the group that its process is to be in.
pub(crate) fn follow() -> io::Result<()> {
    let changes = CHANGES.load(Ordering::Acquire);
    if FOLLOWED.replace(changes) == changes {
        return Ok(());
    }
    // The lock is held until this thread is in the group, so that the process goes to no other group before.
    let group = GROUP.read().unwrap_or_else(PoisonError::into_inner);
    group.as_ref().map_or(Ok(()), |group| write(&group.join("tasks"), "0"))
}
