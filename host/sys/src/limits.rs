//! Every bound on a wait or a size that this crate keeps, with its reason.

use std::time::Duration;

// Processes.

/// How often the end of a child process is checked for.
pub const CHILD_POLL: Duration = Duration::from_millis(2);

// Running VMs.

/// The most bytes of a record in the state folder: a job of the largest size, with every character escaped, has fewer.
pub const RECORD_BYTES: u64 = 16 << 20;
/// How long the lock of all VM folders is waited for, which is held while a folder is made or old ones are swept.
pub const STATE_LOCK: Duration = Duration::from_secs(10);
/// How often the lock of all VM folders is tried.
pub const STATE_LOCK_POLL: Duration = Duration::from_millis(10);
/// How often a lock is tried that other processes hold only for moments, to see whether it is held.
pub const LOCK_TRIES: u32 = 5;
/// The wait between two tries of such a lock.
pub const LOCK_POLL: Duration = Duration::from_millis(5);

// Changes in folders.

/// How often a folder is looked at if the kernel sends no events about it.
pub const FOLDER_POLL: Duration = Duration::from_millis(20);
/// How many bytes of the kernel's events are read at a time: an event with the longest possible name has 272.
pub const INOTIFY_BYTES: usize = 4096;
