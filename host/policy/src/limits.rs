//! Every bound on a wait or a size that this crate keeps, with its reason.

use std::time::Duration;

// What a policy may use. The configuration changes the deadline and the memory, per policy.

/// The most bytes of a policy's file: an interpreter for Python is 18 MB.
pub const POLICY_FILE_BYTES: u64 = 64 << 20;
/// The most bytes of a policy's settings.
pub const POLICY_SETTINGS_BYTES: u64 = 1 << 20;
/// The longest that one call into a policy may take. The four example policies need less than a thousandth of this; the rest is for a
/// machine so busy that a ready thread has to wait.
pub const POLICY_DEADLINE: Duration = Duration::from_secs(1);
/// The longest that a decision may take: reading the job, loading all policies and asking them. Compiling an interpreter for Python takes
/// 25 s.
pub const DECISION: Duration = Duration::from_secs(180);
/// The period at which a policy's deadline is checked; a call can overrun its deadline by two periods.
pub const POLICY_TICK: Duration = Duration::from_millis(1);
/// The most bytes of all memories and tables of one sandbox together.
pub const POLICY_MEMORY_BYTES: usize = 64 << 20;
/// The address space that a slot reserves for a memory: all that a 32-bit guest can address, so that compiled code needs no checks of
/// bounds.
pub const POLICY_ADDRESSABLE_BYTES: usize = 4 << 30;
/// The most sandboxes at a time: two of the longest chains.
pub const POLICY_SANDBOXES: u32 = 2 * POLICIES as u32;
/// The most elements of one table: an interpreter for Python has 20 000 functions.
pub const POLICY_TABLE_ELEMENTS: usize = 100_000;
/// How many bytes of a sandbox are kept and reset instead of being given back to the kernel.
pub const POLICY_KEPT_BYTES: usize = 256 << 10;
/// A policy's stack in bytes: Wasmtime's default, written down.
pub const POLICY_STACK_BYTES: usize = 512 << 10;
/// The most bytes that the host copies out of a policy at once: an answer, or a log line.
pub const POLICY_COPIED_BYTES: usize = 1 << 20;
/// The most component-model handles of one sandbox. The contract has no resources, so that a policy needs none.
pub const POLICY_HANDLES: usize = 64;
/// The most random bytes that a policy with WASI gets at once.
pub const POLICY_RANDOM_BYTES: u64 = 64 << 10;
/// How many functions a report of a crash names, the innermost first.
pub const POLICY_FRAMES: usize = 5;
/// How many characters of a function's name a report of a crash has, since a policy's author chose the name.
pub const POLICY_FRAME_CHARS: usize = 80;
/// The most log lines kept of one policy in a decision.
pub const POLICY_LOG_LINES: usize = 64;
/// The most log bytes kept of one policy in a decision.
pub const POLICY_LOG_BYTES: usize = 64 << 10;
/// The most bytes of one line of a policy's log.
pub const POLICY_LOG_LINE_BYTES: usize = 4096;
/// The most bytes of one text in a policy's answer.
pub const POLICY_TEXT_BYTES: usize = 1024;
/// The most bytes of a policy's settings schema.
pub const POLICY_SCHEMA_BYTES: usize = 64 << 10;
/// How many settings of a schema an error lists: as many as a person reads at once.
pub const DESCRIBED_SETTINGS: usize = 16;
/// The most names that a policy imports, and that it exports: an interpreter for Python imports some 30 of WASI.
pub const POLICY_INTERFACES: usize = 256;
/// The most tables that a policy looks things up in.
pub const POLICY_TABLES: usize = 16;
/// The most items of a list in a policy's answer: ports, warnings, violations, extensions.
pub const POLICY_LIST: usize = 64;
/// The most policies of one chain.
pub const POLICIES: usize = 64;

// Compiling policies, and keeping the compiled code.

/// The longest that compiling one policy may take, unless configured: an interpreter for Python takes 25 s on two free cores.
pub const COMPILE: Duration = Duration::from_secs(120);
/// The compiler's address space in bytes, unless configured: compiling an interpreter for Python takes 0.5 GiB of memory.
pub const COMPILE_MEMORY_BYTES: u64 = 4 << 30;
/// How many bytes are read of a compiler's own words.
pub const COMPILE_SAID_BYTES: u64 = 4096;
/// The most bytes of compiled code: twice what the largest policy that loads becomes.
pub const COMPILED_BYTES: u64 = 256 << 20;
/// How many files are kept of compiled code and of notes on compiled and hashed policies; the oldest go first.
pub const COMPILED_FILES: usize = 192;
/// The most bytes of a note on a compiled policy.
pub const COMPILED_NOTE_BYTES: u64 = 1 << 20;
/// How many digests of accepted settings are kept of one policy.
pub const ACCEPTED_SETTINGS: usize = 64;
/// How long ago a file must have changed for its times to tell it from a later change: coarse clocks tick at 10 ms, some
/// file systems at 2 s.
pub const FILE_SETTLED: Duration = Duration::from_secs(3);

// Signatures.

/// The most signatures beside one file that are looked at.
pub const SIGNATURES: usize = 64;
/// The most bytes of one signature: minisign's has four lines, of which its author writes two.
pub const SIGNATURE_BYTES: u64 = 16 << 10;

// Recording decisions.

/// The most bytes of one record: every policy of the longest chain with the longest log.
pub const DECISION_RECORD_BYTES: u64 = 32 << 20;
/// The most bytes of a task in its record: a longer task's notes and arguments are kept by their digest. Some 1,100 jobs of 1 MB would
/// else push all others out of a log.
pub const DECISION_TASK_BYTES: usize = 64 << 10;
