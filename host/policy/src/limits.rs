//! Every bound on a wait or a size that this crate keeps, with its reason.

use std::time::Duration;

// What a policy may use. The configuration changes the deadline and the memory, per policy.

/// A policy's file in bytes: an interpreter for Python is 18 MB.
pub const POLICY_FILE_BYTES: u64 = 64 << 20;
/// A policy's settings in bytes.
pub const POLICY_SETTINGS_BYTES: u64 = 1 << 20;
/// One call into a policy. The four example policies need less than a thousandth of it; the rest is for a machine so
/// busy that a thread does not run when it could.
pub const POLICY_DEADLINE: Duration = Duration::from_secs(1);
/// Reading the job, loading all policies and asking them. Compiling an interpreter for Python takes 25 s.
pub const DECISION: Duration = Duration::from_secs(180);
/// How often a policy's deadline is looked at; it can overrun by two of these.
pub const POLICY_TICK: Duration = Duration::from_millis(1);
/// All memories and tables of one sandbox together, in bytes.
pub const POLICY_MEMORY_BYTES: usize = 64 << 20;
/// What a slot for a memory reserves of the address space: all that a 32-bit guest can address, so that no check of
/// bounds is needed.
pub const POLICY_ADDRESSABLE_BYTES: usize = 4 << 30;
/// Sandboxes at a time: two of the longest chains.
pub const POLICY_SANDBOXES: u32 = 2 * POLICIES as u32;
/// Elements of one table: an interpreter for Python has 20 000 functions.
pub const POLICY_TABLE_ELEMENTS: usize = 100_000;
/// Bytes of a sandbox that are kept and reset instead of being given back to the kernel.
pub const POLICY_KEPT_BYTES: usize = 256 << 10;
/// A policy's stack in bytes: Wasmtime's default, written down.
pub const POLICY_STACK_BYTES: usize = 512 << 10;
/// Bytes that the host copies out of a policy at once: an answer, or a log line.
pub const POLICY_COPIED_BYTES: usize = 1 << 20;
/// Component-model handles of one sandbox. The contract has no resources, so this is room for nothing.
pub const POLICY_HANDLES: usize = 64;
/// Random bytes that a policy with WASI gets at once.
pub const POLICY_RANDOM_BYTES: u64 = 64 << 10;
/// Functions that a crash is told to have happened in, the innermost first.
pub const POLICY_FRAMES: usize = 5;
/// What is told of each one's name, in characters: a policy's author chose it.
pub const POLICY_FRAME_CHARS: usize = 80;
/// Log lines kept of one decision.
pub const POLICY_LOG_LINES: usize = 64;
/// Log bytes kept of one decision.
pub const POLICY_LOG_BYTES: usize = 64 << 10;
/// One line of a policy's log in bytes.
pub const POLICY_LOG_LINE_BYTES: usize = 4096;
/// One piece of text in a policy's answer in bytes.
pub const POLICY_TEXT_BYTES: usize = 1024;
/// A policy's settings schema in bytes.
pub const POLICY_SCHEMA_BYTES: usize = 64 << 10;
/// Settings of a schema that an error lists: what a person reads at once.
pub const DESCRIBED_SETTINGS: usize = 16;
/// Names that a policy imports, and that it exports: an interpreter for Python imports some 30 of WASI.
pub const POLICY_INTERFACES: usize = 256;
/// Tables that a policy looks things up in.
pub const POLICY_TABLES: usize = 16;
/// Items of a list in a policy's answer: ports, warnings, violations, extensions.
pub const POLICY_LIST: usize = 64;
/// Policies of one chain.
pub const POLICIES: usize = 64;

// Compiling policies, and keeping what that makes.

/// Compiling one policy, unless configured: an interpreter for Python takes 25 s on two free cores.
pub const COMPILE: Duration = Duration::from_secs(120);
/// The compiler's address space in bytes, unless configured: an interpreter for Python takes 0.5 GiB of memory.
pub const COMPILE_MEMORY_BYTES: u64 = 4 << 30;
/// What is read of a compiler's own words in bytes.
pub const COMPILE_SAID_BYTES: u64 = 4096;
/// Compiled code in bytes: twice what the largest policy that loads becomes.
pub const COMPILED_BYTES: u64 = 256 << 20;
/// Files of compiled code, of notes on them and on hashed policies that are kept; the oldest go first.
pub const COMPILED_FILES: usize = 192;
/// A note on a compiled policy in bytes.
pub const COMPILED_NOTE_BYTES: u64 = 1 << 20;
/// Digests of accepted settings that are kept of one policy.
pub const ACCEPTED_SETTINGS: usize = 64;
/// How long ago a file must have changed for its times to tell it from a later change: coarse clocks tick at 10 ms, some
/// file systems at 2 s.
pub const FILE_SETTLED: Duration = Duration::from_secs(3);

// Signatures.

/// Signatures beside one file that are looked at.
pub const SIGNATURES: usize = 64;
/// One signature in bytes: minisign's has four lines, of which its author writes two.
pub const SIGNATURE_BYTES: u64 = 16 << 10;

// Recording decisions.

/// One record in bytes: every policy of the longest chain with the longest log.
pub const DECISION_RECORD_BYTES: u64 = 32 << 20;
/// A task in its record in bytes: beyond it, its notes and arguments are kept by their digest. Some 1,100 jobs of 1 MB would else push all
/// others out of a log.
pub const DECISION_TASK_BYTES: usize = 64 << 10;
