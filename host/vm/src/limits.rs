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
/// The rate at which QMP is read. It has room for ten answers to `info usernet` at once and two a second, of a QEMU with a
/// thousand connections, and for any events but a flood.
pub const QMP_RATE: Rate = Rate { per_second: 256 << 10, burst: 2 << 20 };
/// What a line of QMP counts for besides its bytes, as a short one takes time too.
pub const QMP_MESSAGE_BYTES: u64 = 256;
/// For how long QEMU may send more than that before the VM is ended.
pub const QMP_FLOOD: Duration = Duration::from_secs(10);
/// How long QEMU may take to tell what its disks and connections did, before that is left out.
pub const QMP_STATS: Duration = Duration::from_secs(1);
/// What `qhost wait` waits unless asked otherwise, and at most: 30 days.
pub const WAIT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How often a VM that is waited for is looked at.
pub const VM_POLL: Duration = Duration::from_millis(20);
/// How often a change between paused and running is written down, at most.
pub const TURN_AGAIN: Duration = Duration::from_millis(500);
/// From `quit` to SIGKILL: QEMU takes 7 to 36 ms.
pub const STOP_QUIT: Duration = Duration::from_secs(5);
/// A console log in bytes before a new one is begun; one older one is kept.
pub const CONSOLE_LOG_BYTES: u64 = 8 << 20;
/// How often it is noted when what was written to it, at most.
pub const CONSOLE_TIME: Duration = Duration::from_secs(1);
/// Such notes before a new log is begun: of a guest that says a word a second, 18 hours.
pub const CONSOLE_TIMES: u64 = 1 << 16;
/// The rate at which a console is read: ninety times that of a serial port of 115200 baud.
pub const CONSOLE_RATE: Rate = Rate { per_second: 1 << 20, burst: 4 << 20 };
/// What is read of a console at a time, in bytes.
pub const CONSOLE_READ_BYTES: usize = 8 << 10;
/// How long a guest may take to accept what is typed: its serial port's buffer has 16 bytes.
pub const CONSOLE_TYPED: Duration = Duration::from_millis(200);
/// Pieces of a console's output that wait for an attached client that is slow; older ones are left out.
pub const CONSOLE_PIECES: usize = 64;
/// How long a pipe that the console is copied to has to be read at a VM's end.
pub const CONSOLE_COPY_END: Duration = Duration::from_secs(1);
/// How often it is looked whether such a pipe is read again.
pub const CONSOLE_COPY_LOOK: Duration = Duration::from_millis(100);
/// Room for a VM's status on a full disk in bytes: one block of most file systems.
pub const STATUS_SPARE_BYTES: usize = 4096;
/// Changes of its state that are written there.
pub const STATUS_SPARE_CHANGES: usize = 6;
/// Characters of a reason that is written there.
pub const STATUS_SPARE_REASON: usize = 200;
/// Changes of a VM's state that are kept.
pub const STATUS_CHANGES: usize = 64;
/// The console text kept for the summary of a VM that failed, in bytes.
pub const CONSOLE_TAIL_BYTES: usize = 2048;
/// What is kept of QEMU's own messages in bytes.
pub const QEMU_STDERR_BYTES: usize = 16 << 10;
/// How long QEMU's pipes are read after its end: their last bytes are already there.
pub const DRAIN: Duration = Duration::from_secs(2);

// The cage.

/// Events of a tenant's VMs in bytes before a new file is begun; one older one is kept.
pub const EVENTS_BYTES: u64 = 4 << 20;
/// How often the files of events are read at once, until nothing happens meanwhile.
pub const EVENTS_READS: u32 = 3;
/// How far ahead of the clock an event is held back. One that is further ahead was written before the clock was set.
pub const EVENTS_AHEAD: SignedDuration = SignedDuration::from_secs(10);
/// Why a task was refused, as an event has it, in characters; the log of decisions has it whole.
pub const EVENT_REASON_CHARS: usize = 2000;

// Ways into the guest.

/// How long a guest's agent may take to answer: it starts a few seconds after the guest's kernel, and a guest under tcg is slow.
pub const AGENT_REPLY: Duration = Duration::from_secs(5);
/// An agent's answer in bytes: the addresses of a guest with a hundred interfaces are a quarter of it.
pub const AGENT_ANSWER_BYTES: u64 = 256 << 10;
/// What is passed over before the answer to a sync in bytes: the answer to a command that was given up, whose two streams an agent bounds
/// to 16 MiB each.
pub const AGENT_STALE_BYTES: u64 = 48 << 20;
/// Characters of an agent's refusal that are shown.
pub const AGENT_REASON_CHARS: usize = 300;
/// How long freezing a guest's file systems may take: the guest writes to its disks first what it has not yet.
pub const FREEZE: Duration = Duration::from_secs(60);
/// How long a guest's file systems stay frozen at most.
pub const FROZEN: Duration = Duration::from_secs(600);
/// The wait before a guest that could not be thawed is tried again.
pub const THAW_AGAIN: Duration = Duration::from_secs(1);
/// A picture of a display in bytes: a PNG of 1920 by 1080 pixels, all different, has 6 MiB.
pub const SCREENSHOT_BYTES: usize = 8 << 20;
/// How long QEMU may take to write a picture.
pub const SCREENSHOT: Duration = Duration::from_secs(5);
/// The memory of a display in MiB, which bounds its pixels: 1920 by 1080 take 8.
pub const DISPLAY_MIB: u32 = 8;
/// The most memory of this host in MiB that a virtio display's pictures take: two of 1920 by 1080 pixels, and as much again for those that
/// are drawn next.
pub const DISPLAY_PICTURES_MIB: u32 = 32;

// Asking supervisors.

/// A request in bytes.
pub const CONTROL_LINE_BYTES: u64 = 4096;
/// An answer in bytes.
pub const CONTROL_ANSWER_BYTES: u64 = 1 << 20;
/// How long a client may take to say what is asked.
pub const CONTROL_REQUEST: Duration = Duration::from_secs(5);
/// How long a supervisor whose VM is over waits until what it answered has been sent.
pub const CONTROL_SENT: Duration = Duration::from_millis(200);
/// What is read of an attached client's typing at a time, in bytes.
pub const CONSOLE_TYPED_BYTES: usize = 1024;
/// How long a client that is attached to a console may take to read what it says.
pub const CONSOLE_SLOW: Duration = Duration::from_secs(10);
/// How long the cage may take to be put up.
pub const CAGE: Duration = Duration::from_secs(30);
/// What a supervisor writes to its log in bytes: a few hundred lines, as a VM that fails in one way says so again and again.
pub const SUPERVISOR_LOG_BYTES: u64 = 256 << 10;
/// What the step before QEMU says in one line, in bytes.
pub const STEP_MESSAGE_BYTES: usize = 64 << 10;
/// What a subscriber is told in one line, in bytes: a status whose every change has the longest reason has a quarter of it.
pub const NOTIFICATION_BYTES: usize = 4 << 20;
/// How long a subscriber may take to read what it is told.
pub const SUBSCRIBER_SLOW: Duration = Duration::from_secs(10);
/// Requests that wait for a supervisor.
pub const CONTROL_ASKS: usize = 16;
/// How long what a VM's console says is taken for its firmware's: SeaBIOS under tcg takes 1 to 5 s.
pub const FIRMWARE: Duration = Duration::from_secs(60);
/// One try of a ready check by a port.
pub const READY_TRY: Duration = Duration::from_secs(5);
/// The wait before the next.
pub const READY_AGAIN: Duration = Duration::from_millis(100);
/// Queues of a data disk: 15 disks with so many take QEMU 120 descriptors.
pub const DATA_DISK_QUEUES: u32 = 4;
/// Disks of a VM that are told of: the root disk, 15 others, the seed, and UEFI's code and variables.
pub const DISKS: usize = 19;
