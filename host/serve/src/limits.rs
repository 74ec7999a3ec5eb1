//! Bounds of this door, each with its reason.

use std::time::Duration;

/// Connections at one time at a place that is listened at, the socket's operators left out; more are closed at once.
pub const CONNECTIONS: usize = 512;
/// Connections of one user, or of one client's address, at one time; more are closed at once.
pub const CONNECTIONS_OF_USER: usize = 64;
/// Requests of one connection at one time, over HTTP/2.
pub const REQUESTS_OF_CONNECTION: u32 = 16;
/// The largest body that begins a session, in bytes.
pub const SESSION_BYTES: usize = 4096;
/// Bits of an IPv6 address that are a client's own to choose.
pub const IPV6_CLIENT_BITS: u32 = 64;
/// Peers that are remembered before those without a connection are forgotten.
pub const PEERS_COUNTED: usize = 4096;
/// How long a client may take to send a request's head, or for a handshake.
pub const HEAD: Duration = Duration::from_secs(10);
/// The largest body that is read before its sender is known, in bytes.
pub const BODY_READ: usize = 64 << 10;
/// How long a request may take from its head to its answer; an operation is for work that takes longer.
pub const REQUEST: Duration = Duration::from_secs(200);
/// How long requests that are under way may take when the service leaves.
pub const LEAVE: Duration = Duration::from_secs(5);
/// Items of a list, unless fewer are asked for.
pub const PAGE: usize = 100;
/// The most items of a list.
pub const PAGE_MOST: usize = 1000;
/// Replays at one time: each reads the whole log.
pub const REPLAYS: usize = 1;
/// Decisions that a replay makes again, unless others are asked for.
pub const REPLAYED: usize = 1000;
/// The most decisions that a replay makes again.
pub const REPLAYED_MOST: usize = 10_000;
/// Decisions on which another configuration is tried before it is taken over.
pub const TRIED: usize = 100;
/// The largest component in a request, in bytes: an interpreter with a policy has some 12 MiB.
pub const COMPONENT_BYTES: usize = 64 << 20;
/// Decisions beyond a page that are read with it: decisions of one time are told apart by their order in the log alone.
pub const PAGE_OF_A_TIME: usize = 64;
/// Reads of the log of decisions for one tenant's callers at one time.
pub const READS_OF_TENANT: usize = 8;
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
/// How often memory that was freed is given back to the system.
pub const GIVE_BACK: Duration = Duration::from_secs(30);
/// How long the count of events waits after a failed read of their log.
pub const EVENTS_AGAIN: Duration = Duration::from_secs(10);
/// How often a stream reads a console's log: a kernel watch for each stream would use up a user's watches.
pub const STREAM_CONSOLE: Duration = Duration::from_millis(200);
/// How long a ticket for a console may wait to be used.
pub const TICKET: Duration = Duration::from_secs(60);
/// Tickets of one tenant that are not used yet.
pub const TICKETS_OF_TENANT: usize = 64;
/// The bytes of its log that a client is shown when it attaches to a console.
pub const CONSOLE_BEFORE_BYTES: u64 = 64 << 10;
/// The most bytes that may be typed at once.
pub const CONSOLE_MESSAGE_BYTES: usize = 64 << 10;
/// How long a client at a console may take nothing: less than a supervisor waits for this service.
pub const CLIENT_SLOW: Duration = Duration::from_secs(8);
/// How long a command in a guest may take if a request waits for it.
pub const EXEC_MOST: Duration = Duration::from_secs(180);
/// The largest standard input of a command in a guest, in bytes: with the rest of the request it fits a body.
pub const EXEC_STDIN_BYTES: usize = 512 << 10;
/// The most bytes of a console in one item of a stream.
pub const STREAM_BYTES: usize = 16 << 10;
/// How long a stream is silent at most, so that a dead connection is found.
pub const STREAM_ALIVE: Duration = Duration::from_secs(15);
/// How long a stream waits for the kernel's notice of a change before it looks for itself.
pub const STREAM_LOOK: Duration = Duration::from_secs(10);
/// The shortest time between two words to systemd's watchdog, whatever its unit says.
pub const WATCHDOG_STEP: Duration = Duration::from_millis(100);
/// VMs of which a scrape of metrics tells what each uses.
pub const METRICS_VMS: usize = 1000;
/// Tenants whose starts are counted under their names; those of others are counted together.
pub const METRICS_TENANTS: usize = 1000;
/// How long a scrape waits for a VM's supervisor: one that does not answer is left out.
pub const METRICS_STATS: Duration = Duration::from_secs(2);
/// Supervisors that a scrape asks at one time.
pub const METRICS_ASKED: usize = 32;
/// Characters of a client's text in an error.
pub const SHOWN_CHARS: usize = 120;
