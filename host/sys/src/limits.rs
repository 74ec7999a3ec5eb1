//! Every bound on a wait or a size that this crate keeps, with its reason.

use std::time::Duration;

// Processes.

/// How often a child process is looked at.
pub const CHILD_POLL: Duration = Duration::from_millis(2);

// Running a VM.

/// A record of the state folder in bytes: a job of the largest size, with every character escaped, has less.
pub const RECORD_BYTES: u64 = 16 << 20;
/// Waiting for the lock of all VM folders, which is held while one is made or old ones are swept.
pub const STATE_LOCK: Duration = Duration::from_secs(10);
/// How often that lock is tried.
pub const STATE_LOCK_POLL: Duration = Duration::from_millis(10);
/// How often a lock is tried that others hold for moments only, to look whether it is held.
pub const LOCK_TRIES: u32 = 5;
/// The wait between two tries.
pub const LOCK_POLL: Duration = Duration::from_millis(5);

// Changes in folders.

/// How often a folder is looked at where the kernel sends no word of its changes.
pub const FOLDER_POLL: Duration = Duration::from_millis(20);
/// What is read of the kernel's word at a time, in bytes: an event with a name of the longest that there are has 272.
pub const INOTIFY_BYTES: usize = 4096;
