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

// Another host's service.

/// A connection to it.
pub const HOST_CONNECT: Duration = Duration::from_secs(10);
/// How long it may say nothing on a connection: a little more than a request may take there.
pub const HOST_ANSWER: Duration = Duration::from_secs(210);
/// The longest answer in bytes: a page of a thousand records of decisions.
pub const HOST_ANSWER_BYTES: usize = 256 << 20;
/// The longest item of a stream in bytes: an operation with a decision that refused it.
pub const HOST_ITEM_BYTES: usize = 16 << 20;
/// The most items of a list.
pub const HOST_LIST: usize = 1_000_000;
/// Requests to it at one time: a user has 64 connections there.
pub const HOST_REQUESTS: usize = 16;
/// Items that are asked for at once.
pub const HOST_PAGE: usize = 1000;
/// How long a stream may say nothing: the service says something every 15 s.
pub const HOST_STREAM_SILENT: Duration = Duration::from_secs(60);
/// How long a service may be absent while something of it is followed, as when it is upgraded.
pub const HOST_ABSENT: Duration = Duration::from_secs(60);
/// After how long it is asked again.
pub const HOST_AGAIN: Duration = Duration::from_millis(500);
/// How long one request waits there for a VM or an operation, in seconds.
pub const HOST_WAIT_S: u64 = 30;

/// What of a console there is under way at one time, in bytes.
pub const HOST_CONSOLE_BYTES: usize = 16 << 10;
/// How long what was typed last may take to be sent.
pub const HOST_CONSOLE_LEAVE: Duration = Duration::from_secs(5);

// Running a VM.

/// How often a console log is looked at that is followed, should the kernel send no word of a change.
pub const LOGS_LOOK: Duration = Duration::from_secs(2);
