//! Every bound on a wait or a size that this crate keeps, with its reason.

use std::time::Duration;

use jiff::SignedDuration;

use crate::Rate;

// Running a VM.

/// QEMU's start up to its QMP greeting: 40 to 90 ms on an idle machine.
pub const QMP_GREETING: Duration = Duration::from_secs(30);
/// The answer to one QMP command.
pub const QMP_REPLY: Duration = Duration::from_secs(5);
/// One line of QMP in bytes: `query-qmp-schema`, the longest answer known, has 236 kB.
pub const QMP_LINE_BYTES: usize = 1 << 20;
/// QMP events kept while a command's answer is awaited.
pub const QMP_EVENTS: usize = 1024;
/// The rate at which QMP is read. For a QEMU with a thousand connections it has room for ten answers to `info usernet` at once and two a
/// second, and for any events but a flood.
pub const QMP_RATE: Rate = Rate { per_second: 256 << 10, burst: 2 << 20 };
/// What a line of QMP counts for besides its bytes, as a short line takes time too.
pub const QMP_MESSAGE_BYTES: u64 = 256;
/// How long QEMU may send more than the rate before the VM is ended.
pub const QMP_FLOOD: Duration = Duration::from_secs(10);
/// How long QEMU may take to tell what the VM's disks and connections did; after that the statistics go without.
pub const QMP_STATS: Duration = Duration::from_secs(1);
/// How long `qhost wait` waits by default, and at most: 30 days.
pub const WAIT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How often a VM that is waited for is looked at.
pub const VM_POLL: Duration = Duration::from_millis(20);
/// The least time between two recorded changes between paused and running.
pub const TURN_AGAIN: Duration = Duration::from_millis(500);
/// The wait from `quit` to SIGKILL: QEMU takes 7 to 36 ms to quit.
pub const STOP_QUIT: Duration = Duration::from_secs(5);
/// The size in bytes at which a console log is rotated; one older log is kept.
pub const CONSOLE_LOG_BYTES: u64 = 8 << 20;
/// The least time between two notes of when a part of the console log was written.
pub const CONSOLE_TIME: Duration = Duration::from_secs(1);
/// The notes of times at which a console log is rotated: 18 hours of a guest that writes once a second.
pub const CONSOLE_TIMES: u64 = 1 << 16;
/// The rate at which a console is read: ninety times that of a serial port of 115200 baud.
pub const CONSOLE_RATE: Rate = Rate { per_second: 1 << 20, burst: 4 << 20 };
/// The most that is read of a console at once, in bytes.
pub const CONSOLE_READ_BYTES: usize = 8 << 10;
/// How long a guest may take to accept what is typed: its serial port's buffer has 16 bytes.
pub const CONSOLE_TYPED: Duration = Duration::from_millis(200);
/// Pieces of a console's output that wait for an attached client that is slow; older pieces are left out.
pub const CONSOLE_PIECES: usize = 64;
/// How long the reader of a pipe that the console is copied to has at a VM's end.
pub const CONSOLE_COPY_END: Duration = Duration::from_secs(1);
/// The time between two looks at whether a pipe for the console has a reader again.
pub const CONSOLE_COPY_LOOK: Duration = Duration::from_millis(100);
/// Room for a VM's status on a full disk in bytes: one block of most file systems.
pub const STATUS_SPARE_BYTES: usize = 4096;
/// Changes of a VM's state that are written to that room, at most.
pub const STATUS_SPARE_CHANGES: usize = 6;
/// Characters of a reason that are written to that room, at most.
pub const STATUS_SPARE_REASON: usize = 200;
/// Changes of a VM's state that its status keeps.
pub const STATUS_CHANGES: usize = 64;
/// The console text kept for the summary of a VM that failed, in bytes.
pub const CONSOLE_TAIL_BYTES: usize = 2048;
/// The most that is kept of QEMU's own messages, in bytes.
pub const QEMU_STDERR_BYTES: usize = 16 << 10;
/// How long QEMU's pipes are read after its end: their last bytes are already there.
pub const DRAIN: Duration = Duration::from_secs(2);

// Events.

/// The size in bytes at which a new file of a tenant's events is begun; one older file is kept.
pub const EVENTS_BYTES: u64 = 4 << 20;
/// The most that is read of a file of events at once, in bytes: a few dozen events of the usual length, or one of the longest.
pub const EVENTS_PIECE_BYTES: u64 = 16 << 10;
/// The most that is kept of a line of a file of events until its end is read, in bytes: the longest event has a fifth of this.
pub const EVENT_LINE_BYTES: usize = 64 << 10;
/// How often the files of events are read in a row, until no event is added meanwhile.
pub const EVENTS_READS: u32 = 3;
/// How far ahead of the clock an event's time may be for the event to be held back. An event that is further ahead was written before the
/// clock was set.
pub const EVENTS_AHEAD: SignedDuration = SignedDuration::from_secs(10);
/// The length of a refusal's reason in an event, in characters; the log of decisions has the whole reason.
pub const EVENT_REASON_CHARS: usize = 2000;

// Ways into the guest.

/// How long a guest's agent may take to answer: it starts a few seconds after the guest's kernel, and a guest under tcg is slow.
pub const AGENT_REPLY: Duration = Duration::from_secs(5);
/// An agent's answer in bytes: the addresses of a guest with a hundred interfaces take a quarter of this.
pub const AGENT_ANSWER_BYTES: u64 = 256 << 10;
/// The most that is skipped before the answer to a sync, in bytes: the answer to a command that was given up, whose two streams an agent
/// bounds to 16 MiB each.
pub const AGENT_STALE_BYTES: u64 = 48 << 20;
/// Characters of an agent's refusal that are shown.
pub const AGENT_REASON_CHARS: usize = 300;
/// How long freezing a guest's file systems may take: the guest first writes to its disks what it has not written yet.
pub const FREEZE: Duration = Duration::from_secs(60);
/// How long a guest's file systems stay frozen at most.
pub const FROZEN: Duration = Duration::from_secs(600);
/// The wait before the next try to thaw a guest.
pub const THAW_AGAIN: Duration = Duration::from_secs(1);
/// A picture of a display in bytes: a PNG of 1920 by 1080 pixels, all different, has 6 MiB.
pub const SCREENSHOT_BYTES: usize = 8 << 20;
/// How long QEMU may take to write a picture.
pub const SCREENSHOT: Duration = Duration::from_secs(5);
/// The memory of a display in MiB, which bounds its pixels: 1920 by 1080 take 8.
pub const DISPLAY_MIB: u32 = 8;
/// The most memory of this host in MiB that a virtio display's pictures take: two pictures of 1920 by 1080 pixels, and as much again for
/// the next two.
pub const DISPLAY_PICTURES_MIB: u32 = 32;

// Asking supervisors.

/// The size of a request in bytes.
pub const CONTROL_LINE_BYTES: u64 = 4096;
/// The size of an answer in bytes.
pub const CONTROL_ANSWER_BYTES: u64 = 1 << 20;
/// How long a client may take to send its request.
pub const CONTROL_REQUEST: Duration = Duration::from_secs(5);
/// How long a supervisor whose VM is over waits until its answers have been sent.
pub const CONTROL_SENT: Duration = Duration::from_millis(200);
/// The most that is read of an attached client's typing at once, in bytes.
pub const CONSOLE_TYPED_BYTES: usize = 1024;
/// How long a client that is attached to a console may take to read a piece of its output.
pub const CONSOLE_SLOW: Duration = Duration::from_secs(10);
/// How long the cage may take to be put up.
pub const CAGE: Duration = Duration::from_secs(30);
/// The most that a supervisor writes to its log, in bytes: a few hundred lines, as a VM that keeps failing in one way repeats its message.
pub const SUPERVISOR_LOG_BYTES: u64 = 256 << 10;
/// The longest line of the step that becomes QEMU, in bytes.
pub const STEP_MESSAGE_BYTES: usize = 64 << 10;
/// The longest line that a subscriber is sent, in bytes: a status whose every change has the longest reason takes a quarter of this.
pub const NOTIFICATION_BYTES: usize = 4 << 20;
/// How long a subscriber may take to read what it is sent.
pub const SUBSCRIBER_SLOW: Duration = Duration::from_secs(10);
/// The number of requests that wait for a supervisor.
pub const CONTROL_ASKS: usize = 16;
/// How long a VM's console output is taken for the firmware's: SeaBIOS under tcg takes 1 to 5 s.
pub const FIRMWARE: Duration = Duration::from_secs(60);
/// How long one try of a ready check by a port may take.
pub const READY_TRY: Duration = Duration::from_secs(5);
/// The wait before the next try.
pub const READY_AGAIN: Duration = Duration::from_millis(100);
/// Queues of a data disk: 15 disks with so many queues take QEMU 120 descriptors.
pub const DATA_DISK_QUEUES: u32 = 4;
/// The most disks that a VM's statistics have: the root disk, 15 others, the seed, and UEFI's code and variables.
pub const DISKS: usize = 19;
