//! Every bound on a wait or a size that this crate keeps, with its reason.

use std::time::Duration;

// What is shown of input in errors.

/// Characters shown of an error's message: of a job file's problems, all that are listed.
pub const SHOWN_ERROR_CHARS: usize = 64 << 10;
/// Characters shown of an error's cause, which often comes from a library or from another host.
pub const SHOWN_CAUSE_CHARS: usize = 1000;

// Processes.

/// How long a command that has ended waits for its own threads.
pub const LEAVE: Duration = Duration::from_millis(200);
/// How long a start may go before what runs; most take a third of that.
pub const START: Duration = Duration::from_millis(250);

// Making policies, and trying them out.

/// One of an author's tools: cargo, with all its crates to download and build.
pub const AUTHOR_TOOL: Duration = Duration::from_secs(30 * 60);
/// Such a tool's answer to where a part of it is.
pub const AUTHOR_PART: Duration = Duration::from_secs(10);
/// What is read of such a tool's standard output in bytes: cargo writes a line a crate.
pub const AUTHOR_TOOL_SAID_BYTES: u64 = 16 << 20;
/// Decisions of one case that a benchmark makes, unless asked otherwise.
pub const BENCH_DECISIONS: u32 = 2000;
/// How often a spinner moves.
pub const SPINNER: Duration = Duration::from_millis(100);
/// One case of a benchmark, in which a policy near its deadline makes ten decisions.
pub const BENCH_CASE: Duration = Duration::from_secs(10);
/// Decisions of one case that a benchmark makes at least.
pub const BENCH_DECISIONS_LEAST: u32 = 10;
/// Folders inside folders in which a policy's sources are looked for.
pub const SOURCE_FOLDERS: usize = 6;
/// Files and folders that are looked at for that.
pub const SOURCE_FILES: usize = 5000;
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

/// How often a console log is looked at that is followed, should the kernel send no word of a change.
pub const LOGS_LOOK: Duration = Duration::from_secs(2);
