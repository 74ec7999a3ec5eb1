//! Bounds of this door, each with its reason.

use std::time::Duration;

/// Connections of all users but operators at one time; more are closed at once.
pub const CONNECTIONS: usize = 512;
/// Connections of one user at one time; more are closed at once.
pub const CONNECTIONS_OF_USER: usize = 64;
/// How long a client may take to send a request's head.
pub const HEAD: Duration = Duration::from_secs(10);
/// How long a request may take from its head to its answer; what takes longer is an operation.
pub const REQUEST: Duration = Duration::from_secs(200);
/// How long requests that are under way may take when the service leaves.
pub const LEAVE: Duration = Duration::from_secs(5);
/// Items of a list, unless fewer are asked for.
pub const PAGE: usize = 100;
/// The most items of a list.
pub const PAGE_MOST: usize = 1000;
/// Operations that are remembered of a tenant; of those that are over, the oldest are forgotten first.
pub const OPERATIONS_KEPT: usize = 256;
/// Operations of one tenant that are under way at one time: each start holds a decision's place and maybe a download.
pub const OPERATIONS_OF_TENANT: usize = 64;
/// Decisions of one tenant that are made at one time: half of the sandboxes that a process has for chains of four policies.
pub const DECISIONS_OF_TENANT: usize = 8;
/// After how many seconds a client that asks too much may ask again.
pub const RETRY_AFTER_S: u16 = 1;
/// The longest wait for an operation in one request.
pub const WAIT_MOST: Duration = Duration::from_secs(60);
/// The longest key by which a request is known again, in bytes.
pub const KEY_BYTES: usize = 255;
/// The longest time that a guest may be given to power off.
pub const GRACE_MOST: Duration = Duration::from_secs(24 * 3600);
/// The end of a console's log that is sent, unless less is asked for.
pub const LOG_BYTES: u64 = 1 << 20;
/// Streams of one tenant's callers at one time, and of operators: each has a connection.
pub const STREAMS_OF_TENANT: usize = 32;
/// How often a stream looks for what a console has said: a watch of the kernel's for each would use up what a user has of those.
pub const STREAM_CONSOLE: Duration = Duration::from_millis(200);
/// What a stream of a console has in one item, in bytes.
pub const STREAM_BYTES: usize = 16 << 10;
/// How long a stream is silent at most, so that a connection that is dead is found.
pub const STREAM_ALIVE: Duration = Duration::from_secs(15);
/// After how long a stream looks for changes that the kernel did not tell of.
pub const STREAM_LOOK: Duration = Duration::from_secs(10);
/// VMs of which a scrape of metrics tells what each uses.
pub const METRICS_VMS: usize = 1000;
/// How long a scrape waits for a VM's supervisor: one that does not answer is left out.
pub const METRICS_STATS: Duration = Duration::from_secs(2);
/// Supervisors that a scrape asks at one time.
pub const METRICS_ASKED: usize = 32;
/// Characters of a client's text in an error.
pub const SHOWN_CHARS: usize = 120;
