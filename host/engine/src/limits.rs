//! Every bound on a wait or a size that this crate keeps, with its reason.

use std::time::Duration;

// What the operator's files may hold.

/// The size of a configuration in bytes.
pub const CONFIG_BYTES: u64 = 1 << 20;
/// A table of the operator's in bytes: 100,000 digests, each with a line of text, take a tenth of this.
pub const TABLE_BYTES: u64 = 128 << 20;
/// How long the copy of a table that is in use goes without being marked as used: a day, the unit of decisions.max_days, or half of
/// decisions.max_days if that is less.
pub const TABLE_MARKED_AGAIN: Duration = Duration::from_secs(24 * 60 * 60);

// What is shown of input in errors.

/// The most VMs that are listed where a name may mean any of them.
pub const SHOWN_VMS: usize = 16;
/// Random characters that tell an id from all others: of 62 kinds each, one launch in fifteen million has four that are given.
pub const ID_CHARS_TOLD_APART: usize = 4;

// What a policy may use. The configuration changes the deadline and the memory, per policy.

/// The longest deadline that can be configured for one call: a whole decision must end before [`qhost_policy::limits::DECISION`].
pub const POLICY_DEADLINE_MOST: Duration = Duration::from_secs(60);
/// The most memory that can be configured for a policy, in bytes: half of what a 32-bit guest can address.
pub const POLICY_MEMORY_BYTES_MOST: usize = 2 << 30;

// Recording decisions.

/// The size in bytes at which a new file of a tenant's log of decisions is begun, unless configured: some ten thousand decisions.
pub const DECISION_LOG_BYTES: u64 = 64 << 20;
/// The full files of a tenant's log of decisions that are kept, unless configured.
pub const DECISION_LOG_FILES: usize = 16;
/// Days for which a file of decisions is kept after its last decision, unless configured: an audit can look at a whole year.
pub const DECISION_LOG_DAYS: u64 = 365;

// Firmware.

/// The most that is read of a firmware descriptor, in bytes: those of distributions have 1 KiB.
pub const FIRMWARE_DESCRIPTOR_BYTES: u64 = 64 << 10;
/// The largest flash file of UEFI in bytes: QEMU's machines `pc` and `q35` map 8 MiB.
pub const FIRMWARE_BYTES: u64 = 8 << 20;
/// The largest flash file of UEFI for aarch64 in bytes: the machine `virt` maps 64 MiB for each file.
pub const FIRMWARE_AARCH64_BYTES: u64 = 64 << 20;
/// The part of a flash file that is written at once, or left out if it is all zeros, in bytes.
pub const FIRMWARE_PART_BYTES: usize = 64 << 10;

// Looking at QEMU.

/// How long QEMU may take to tell its version and the like: `qemu-system-x86_64 -version` takes 20 to 70 ms.
pub const QEMU_QUERY: Duration = Duration::from_secs(10);
/// The time between looks at the VMs that are being adopted.
pub const ADOPTION_LOOK: Duration = Duration::from_millis(5);
/// How long the supervisor's program may take to tell its version.
pub const SUPERVISOR_VERSION: Duration = Duration::from_secs(5);
/// How long the kvm probe may take: at hardware speed it is done within 0.2 s, QEMU's own start included.
pub const KVM_PROBE: Duration = Duration::from_secs(3);

// Asking supervisors.

/// How long a supervisor may take from its start to its first message.
pub const SUPERVISOR: Duration = Duration::from_secs(30);
/// The size of one answer of the kernel over netlink in bytes: the kernel writes up to 32 KiB of a list (`netlink_dump` of its
/// af_netlink.c).
pub const NETLINK_BYTES: usize = 64 << 10;

// Tenants' turns.

/// How long a start waits for its tenant's turn: as long as a few of the longest decisions.
pub const TURN: Duration = Duration::from_secs(600);
/// How long a start waits for its tenant's turn before it says so.
pub const TURN_TOLD: Duration = Duration::from_secs(1);
/// The wait between tries to take the turn: a start takes some 50 ms.
pub const TURN_POLL: Duration = Duration::from_millis(5);

// Deciding.

/// How much longer than its deadline a decision is waited for before it is recorded as too slow: a thread that reads from a slow disk looks
/// at no deadline.
pub const DECISION_OVERDUE: Duration = Duration::from_secs(10);

// Looking after VMs.

/// How long an end that was asked for is waited for: the longest grace that can be asked for, and a little.
pub const STOP_GRACE_MOST: Duration =
    Duration::from_secs(qhost_model::limits::GRACE_MOST_S as u64 + 30);
/// The wait before a supervisor that does not end its VM is asked again to kill it, and before the next look at a VM whose supervisor tells
/// nothing.
pub const KILL_AGAIN: Duration = Duration::from_millis(500);
/// How long the end of a VM that is killed is waited for. A QEMU that is left after that is one that this user may not kill, or that waits
/// for a disk or a device in the kernel.
pub const KILL_MOST: Duration = Duration::from_secs(60);
/// How long a supervisor may take to answer: QEMU's own answer, and a little.
pub const CONTROL_REPLY: Duration = Duration::from_secs(qhost_vm::limits::QMP_REPLY.as_secs() * 3);
/// How long a supervisor that was asked to end a VM may be silent before signals are sent.
pub const CONTROL_SILENT: Duration = Duration::from_secs(2);
/// How long a supervisor may take to tell what its VM uses, when many are asked: QEMU's own answer, and a little.
pub const CONTROL_STATS: Duration = Duration::from_secs(3);
/// The time between looks at the log of events, in case the kernel does not report a change.
pub const EVENTS_LOOK: Duration = Duration::from_secs(10);

// Asking guests' agents.

/// How long `inspect` waits for a guest's agent to describe the guest.
pub const GUEST_INFO: Duration = Duration::from_secs(3);
/// The most characters of a text from a guest's agent.
pub const GUEST_TEXT_CHARS: usize = 128;
/// The most addresses of a guest that are shown.
pub const GUEST_ADDRESSES: usize = 64;
/// How long a command in a guest may take, unless asked otherwise.
pub const EXEC: Duration = Duration::from_secs(60);
/// The longest time that can be asked for, for a command in a guest.
pub const EXEC_MOST: Duration = Duration::from_secs(3600);
/// The first wait before the agent is asked whether a command has ended; each wait is twice the one before.
pub const EXEC_LOOK: Duration = Duration::from_millis(10);
/// The longest wait before the agent is asked whether a command has ended.
pub const EXEC_LOOK_MOST: Duration = Duration::from_millis(500);
/// A command's output in bytes, as the agent encodes it: 6 MiB of both streams together.
pub const EXEC_ANSWER_BYTES: u64 = 8 << 20;
/// How long the agent may take to send a command's output, or to read a command with its standard input: a guest under tcg sends some 2 MiB
/// a second, and reads less.
pub const EXEC_ANSWER: Duration = Duration::from_secs(30);
/// The most words of a command for a guest, the program's name among them.
pub const EXEC_ARGUMENTS: usize = 256;
/// The most bytes of all words of a command for a guest together.
pub const EXEC_ARGUMENT_BYTES: usize = 32 << 10;
/// A command's standard input in bytes.
pub const EXEC_STDIN_BYTES: usize = 1 << 20;

// Tokens of the API.

/// The most days that a token can last: longer than a host does.
pub const TOKEN_DAYS: u32 = 3650;
/// The most characters of a wrong name in an error.
pub const SHOWN_NAME_CHARS: usize = 80;

// Replays.

/// The most characters of the reason why a line of a log is no record.
pub const SHOWN_REASON_CHARS: usize = 300;
