//! Every bound on a wait or a size that this crate keeps, with its reason.

use std::time::Duration;

// What a job file may hold.

/// A configuration in bytes.
pub const CONFIG_BYTES: u64 = 1 << 20;
/// A table of the operator's in bytes: 100,000 digests, each with a line of text, are a tenth of this.
pub const TABLE_BYTES: u64 = 128 << 20;
/// How long the copy of a table that is in use goes without being marked as used: a day, the unit of decisions.max_days, of which half
/// is taken where that is less.
pub const TABLE_MARKED_AGAIN: Duration = Duration::from_secs(24 * 60 * 60);

// What is shown of input in errors.

/// VMs that are listed where a name may mean any of them.
pub const SHOWN_VMS: usize = 16;
/// Random characters that tell an id from all others: of 62 kinds each, one launch in fifteen million has four that are given.
pub const ID_CHARS_TOLD_APART: usize = 4;

// What a policy may use. The configuration changes the deadline and the memory, per policy.

/// The longest deadline that can be configured for one call: a whole decision must end before [`qhost_policy::limits::DECISION`].
pub const POLICY_DEADLINE_MOST: Duration = Duration::from_secs(60);
/// The most memory that can be configured for a policy, in bytes: half of what a 32-bit guest can address.
pub const POLICY_MEMORY_BYTES_MOST: usize = 2 << 30;

// Recording decisions.

/// A tenant's log of decisions in bytes before a new file is begun, unless configured: some ten thousand decisions.
pub const DECISION_LOG_BYTES: u64 = 64 << 20;
/// Full files of a tenant's that are kept, unless configured.
pub const DECISION_LOG_FILES: usize = 16;
/// Days for which a file of decisions is kept after its last one, unless configured: a year's audit can look at all of it.
pub const DECISION_LOG_DAYS: u64 = 365;

// Firmware.

/// What is read of a descriptor of firmware in bytes: those of distributions have 1 KiB.
pub const FIRMWARE_DESCRIPTOR_BYTES: u64 = 64 << 10;
/// The most that a flash file of UEFI has in bytes: QEMU's machines `pc` and `q35` map 8 MiB.
pub const FIRMWARE_BYTES: u64 = 8 << 20;
/// The same for aarch64: the machine `virt` maps 64 MiB for each.
pub const FIRMWARE_AARCH64_BYTES: u64 = 64 << 20;
/// What of such a file is written, or left out where it is all zeros, at a time, in bytes.
pub const FIRMWARE_PART_BYTES: usize = 64 << 10;

// Looking at QEMU.

/// `qemu-system-x86_64 -version` and its like take 20 to 70 ms.
pub const QEMU_QUERY: Duration = Duration::from_secs(10);
/// Between looks at the VMs that are being adopted.
pub const ADOPTION_LOOK: Duration = Duration::from_millis(5);
/// The supervisor's answer to what version it is.
pub const SUPERVISOR_VERSION: Duration = Duration::from_secs(5);
/// The kvm probe: at hardware speed it is done within 0.2 s, QEMU's own start included.
pub const KVM_PROBE: Duration = Duration::from_secs(3);

// Asking supervisors.

/// How long a supervisor may take from its start to the first thing that it says.
pub const SUPERVISOR: Duration = Duration::from_secs(30);
/// One answer of the kernel over netlink in bytes: it writes up to 32 KiB of a list (`netlink_dump` of its af_netlink.c).
pub const NETLINK_BYTES: usize = 64 << 10;

// Tenants' turns.

/// How long a start waits for its tenant's turn: a few decisions of the longest that there are.
pub const TURN: Duration = Duration::from_secs(600);
/// After how long a start says that it waits for that.
pub const TURN_TOLD: Duration = Duration::from_secs(1);
/// How often it is tried to take it: a start takes some 50 ms.
pub const TURN_POLL: Duration = Duration::from_millis(5);

// Deciding.

/// How much longer than its deadline a decision is waited for, until it is recorded that it took too long: a thread that reads from a
/// slow disk looks at no deadline.
pub const DECISION_OVERDUE: Duration = Duration::from_secs(10);

// Looking after VMs.

/// The longest grace that can be asked for, and a little: for so long an end that was asked for is waited for.
pub const STOP_GRACE_MOST: Duration =
    Duration::from_secs(qhost_model::limits::GRACE_MOST_S as u64 + 30);
/// How often a supervisor that does not end its VM is asked again to kill it, and a VM is looked at whose supervisor tells nothing.
pub const KILL_AGAIN: Duration = Duration::from_millis(500);
/// How long a kill is waited for. A QEMU that is there after that is one that this host's user may not kill, or that waits for a disk or a
/// device in the kernel.
pub const KILL_MOST: Duration = Duration::from_secs(60);
/// How long a supervisor may take to answer: QEMU's own answer, and a little.
pub const CONTROL_REPLY: Duration = Duration::from_secs(qhost_vm::limits::QMP_REPLY.as_secs() * 3);
/// How long a supervisor that was asked to end a VM may be silent before other ways are gone.
pub const CONTROL_SILENT: Duration = Duration::from_secs(2);
/// How long a supervisor may take to tell what its VM uses, when that is asked of many: QEMU's own answer, and a little.
pub const CONTROL_STATS: Duration = Duration::from_secs(3);
/// How often the log of events is looked at, should the kernel send no word of a change.
pub const EVENTS_LOOK: Duration = Duration::from_secs(10);

// Asking guests' agents.

/// How long `inspect` waits for a guest's agent to say what it is.
pub const GUEST_INFO: Duration = Duration::from_secs(3);
/// Characters of each text that it says.
pub const GUEST_TEXT_CHARS: usize = 128;
/// Addresses of a guest that are told.
pub const GUEST_ADDRESSES: usize = 64;
/// How long a command in a guest may take, unless asked otherwise.
pub const EXEC: Duration = Duration::from_secs(60);
/// The longest time that can be asked for.
pub const EXEC_MOST: Duration = Duration::from_secs(3600);
/// The wait before the agent is asked whether a command has ended, which doubles.
pub const EXEC_LOOK: Duration = Duration::from_millis(10);
/// The longest wait.
pub const EXEC_LOOK_MOST: Duration = Duration::from_millis(500);
/// A command's output in bytes, as the agent encodes it: 6 MiB of both streams together.
pub const EXEC_ANSWER_BYTES: u64 = 8 << 20;
/// How long the agent may take to send that, or to take a command in with its standard input: a guest under tcg sends some 2 MiB a second,
/// and takes less in.
pub const EXEC_ANSWER: Duration = Duration::from_secs(30);
/// The program and its arguments: how many, and bytes of all of them together.
pub const EXEC_ARGUMENTS: usize = 256;
/// See [`EXEC_ARGUMENTS`].
pub const EXEC_ARGUMENT_BYTES: usize = 32 << 10;
/// A command's standard input in bytes.
pub const EXEC_STDIN_BYTES: usize = 1 << 20;

// Tokens of the API.

/// The most days that a token lasts: more than such a machine does.
pub const TOKEN_DAYS: u32 = 3650;
/// Characters of a wrong name in an error.
pub const SHOWN_NAME_CHARS: usize = 80;

// Replays.

/// Characters of why a line of a log is no record.
pub const SHOWN_REASON_CHARS: usize = 300;
