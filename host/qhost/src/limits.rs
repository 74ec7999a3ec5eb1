//! Every bound on a wait or a size that this crate keeps, with its reason.

use std::time::Duration;

// What is shown of input in errors.

/// Characters shown of an error's message: of a job file's problems, all that are listed.
pub const SHOWN_ERROR_CHARS: usize = 64 << 10;
/// Characters shown of an error's cause, which often comes from a library or from another host.
pub const SHOWN_CAUSE_CHARS: usize = 1000;

// What a policy may use. The configuration changes the deadline and the memory, per policy.

/// How much longer than its deadline a decision is waited for, until the command records that it took too long: a thread that
/// reads from a pipe or a slow disk looks at no deadline.
pub const DECISION_OVERDUE: Duration = Duration::from_secs(10);

// Processes.

/// How long a command that has ended waits for its own threads.
pub const LEAVE: Duration = Duration::from_millis(200);

// Making policies, and trying them out.

/// One of an author's tools: cargo, with all its crates to download and build.
pub const AUTHOR_TOOL: Duration = Duration::from_secs(30 * 60);
/// What is read of such a tool's standard output in bytes: cargo writes a line a crate.
pub const AUTHOR_TOOL_SAID_BYTES: u64 = 16 << 20;
/// Decisions of one case that a benchmark makes, unless asked otherwise.
pub const BENCH_DECISIONS: u32 = 2000;
/// Decisions before the first that counts.
pub const BENCH_WARM_UP: u32 = 20;
/// Decisions of one case that lint times.
pub const LINT_DECISIONS: u32 = 20;
/// What lint calls slow for one decision: an interpreter for Python takes less than half.
pub const LINT_SLOW: Duration = Duration::from_millis(10);

// Signatures.

/// One step of a push or pull: a policy of the largest size at 1 MB/s.
pub const REGISTRY: Duration = Duration::from_secs(120);
/// A manifest in bytes: what a registry must take (OCI Distribution 1.1, "Pushing Manifests").
pub const REGISTRY_MANIFEST_BYTES: u64 = 4 << 20;
/// A token service's answer in bytes: tokens stand in headers, of which servers take some 16 KiB.
pub const REGISTRY_TOKEN_BYTES: u64 = 64 << 10;
/// What is read of a registry's refusal in bytes.
pub const REGISTRY_REFUSAL_BYTES: u64 = 64 << 10;
/// Characters shown of what a registry says.
pub const REGISTRY_SAID_CHARS: usize = 300;

// Running a VM.

/// From `system_powerdown` to `quit`, unless asked otherwise.
pub const STOP_GRACE: Duration = Duration::from_secs(30);
/// The longest grace that can be asked for, and a little: what `qhost stop` waits.
pub const STOP_GRACE_MOST: Duration = Duration::from_secs(3600 + 30);
/// How often it is looked whether the supervisor of a VM that is to end is still the one that was asked; to kill, it is asked each time.
pub const KILL_AGAIN: Duration = Duration::from_millis(500);

// Asking supervisors.

/// How long a supervisor may take to answer: QEMU's own answer, and a little.
pub const CONTROL_REPLY: Duration = Duration::from_secs(qhost_vm::limits::QMP_REPLY.as_secs() * 3);
/// How long a supervisor that was asked to end a VM may be silent before a command says so, and kills the VM itself if that was
/// asked.
pub const CONTROL_SILENT: Duration = Duration::from_secs(2);
/// How long a supervisor may take to tell what its VM uses, when that is asked of many: QEMU's own answer, and a little.
pub const CONTROL_STATS: Duration = Duration::from_secs(3);
