//! Every bound on a wait or a size that this crate keeps, with its reason.

use std::time::Duration;

// Text of the input in errors.

/// Characters shown of an error's message: of a job file's problems, all that are listed.
pub const SHOWN_ERROR_CHARS: usize = 64 << 10;
/// Characters shown of an error's cause, which often comes from a library or from another host.
pub const SHOWN_CAUSE_CHARS: usize = 1000;

// Processes.

/// How long a command that has ended waits for its own threads.
pub const LEAVE: Duration = Duration::from_millis(200);
/// How long a start goes before what runs; most starts take a third of that.
pub const START: Duration = Duration::from_millis(250);

// Making policies, and trying them out.

/// How long one of an author's tools may take: cargo, with all its crates to download and build.
pub const AUTHOR_TOOL: Duration = Duration::from_secs(30 * 60);
/// How long an author's tool may take to say where a part of it is.
pub const AUTHOR_PART: Duration = Duration::from_secs(10);
/// The bytes that are read of a tool's standard output: cargo writes a line a crate.
pub const AUTHOR_TOOL_SAID_BYTES: u64 = 16 << 20;
/// Decisions of one case that a benchmark makes, unless asked otherwise.
pub const BENCH_DECISIONS: u32 = 2000;
/// How often a spinner moves.
pub const SPINNER: Duration = Duration::from_millis(100);
/// How long one case of a benchmark may take: a policy near its deadline makes ten decisions in that.
pub const BENCH_CASE: Duration = Duration::from_secs(10);
/// The fewest decisions of one case that a benchmark makes.
pub const BENCH_DECISIONS_LEAST: u32 = 10;
/// Folders inside folders in which a policy's sources are looked for.
pub const SOURCE_FOLDERS: usize = 6;
/// Files and folders that are looked at for a policy's sources.
pub const SOURCE_FILES: usize = 5000;
/// Decisions that a benchmark makes before the first that counts.
pub const BENCH_WARM_UP: u32 = 20;
/// Decisions of one case that lint times.
pub const LINT_DECISIONS: u32 = 20;
/// The time of one decision from which lint calls a policy slow: an interpreter for Python takes less than half.
pub const LINT_SLOW: Duration = Duration::from_millis(10);

// Signatures.

/// How long one step of a push or pull may take: a policy of the largest size at 1 MB/s.
pub const REGISTRY: Duration = Duration::from_secs(120);
/// The largest manifest in bytes: what a registry must take (OCI Distribution 1.1, "Pushing Manifests").
pub const REGISTRY_MANIFEST_BYTES: u64 = 4 << 20;
/// The longest answer of a token service in bytes: tokens stand in headers, of which servers take some 16 KiB.
pub const REGISTRY_TOKEN_BYTES: u64 = 64 << 10;
/// The bytes that are read of a registry's refusal.
pub const REGISTRY_REFUSAL_BYTES: u64 = 64 << 10;
/// Characters shown of a registry's text.
pub const REGISTRY_SAID_CHARS: usize = 300;

// Another host's service.

/// How long a connection to the service may take.
pub const HOST_CONNECT: Duration = Duration::from_secs(10);
/// How long the service may say nothing on a connection: a little more than a request may take there.
pub const HOST_ANSWER: Duration = Duration::from_secs(210);
/// The longest answer in bytes: a page of a thousand records of decisions.
pub const HOST_ANSWER_BYTES: usize = 256 << 20;
/// The longest item of a stream in bytes: an operation with a decision that refused it.
pub const HOST_ITEM_BYTES: usize = 16 << 20;
/// The most items of a list.
pub const HOST_LIST: usize = 1_000_000;
/// Requests to the service at one time: a user has 64 connections there.
pub const HOST_REQUESTS: usize = 16;
/// Items that one request asks for.
pub const HOST_PAGE: usize = 1000;
/// How long a stream may say nothing: the service says something every 15 s.
pub const HOST_STREAM_SILENT: Duration = Duration::from_secs(60);
/// How long a service may be absent while a stream of it is followed, as during an upgrade.
pub const HOST_ABSENT: Duration = Duration::from_secs(60);
/// How long a client waits before it asks an absent service again.
pub const HOST_AGAIN: Duration = Duration::from_millis(500);
/// How long one request waits at the service for a VM or an operation, in seconds.
pub const HOST_WAIT_S: u64 = 30;

/// Bytes of a console that are under way at one time.
pub const HOST_CONSOLE_BYTES: usize = 16 << 10;
/// How long the last typed bytes may take to be sent.
pub const HOST_CONSOLE_LEAVE: Duration = Duration::from_secs(5);

// Running a VM.

/// How often a followed console log is looked at, in case the kernel does not tell of a change.
pub const LOGS_LOOK: Duration = Duration::from_secs(2);
