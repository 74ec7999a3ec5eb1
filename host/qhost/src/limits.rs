//! Every bound on a wait or a size, with its reason. What an operator may change is in [`crate::config`].

use std::{ops::RangeInclusive, time::Duration};

use crate::vm::Rate;

// What a job file may hold.

/// A job file in bytes: a Nomad job of a hundred tasks is a tenth of this.
pub const JOB_FILE_BYTES: u64 = 1 << 20;
/// Task groups of a job, tasks of a group, networks of a task.
pub const NOMAD_ITEMS: usize = 256;
/// A job's or task's name in bytes: what Nomad's own names stay under.
pub const NAME_BYTES: usize = 128;
/// A port label in bytes.
pub const LABEL_BYTES: usize = 64;
/// An image URL in bytes: what common servers accept in a request line.
pub const URL_BYTES: usize = 2048;
/// Places that a job may name for one image.
pub const IMAGE_SOURCES: usize = 8;
/// Forwarded ports of a task. Each is a listening socket of its QEMU.
pub const PORTS: usize = 64;
/// Extra QEMU arguments of a task.
pub const ARGS: usize = 64;
/// One extra QEMU argument in bytes.
pub const ARG_BYTES: usize = 1024;
/// Pairs of a task's notes.
pub const META_PAIRS: usize = 64;
/// A key of a task's notes in bytes.
pub const META_KEY_BYTES: usize = 128;
/// A value of a task's notes in bytes.
pub const META_VALUE_BYTES: usize = 4096;
/// CPUs of a guest: more than QEMU's `pc` machine takes (255) is left for QEMU to refuse.
pub const CPUS: RangeInclusive<u32> = 1..=256;
/// Memory of a guest in MiB: from where SeaBIOS starts, to Nomad's own bound of 4 TiB.
pub const MEMORY_MIB: RangeInclusive<u32> = 16..=4 * 1024 * 1024;

/// A configuration in bytes.
pub const CONFIG_BYTES: u64 = 1 << 20;

/// Restarts in a row, unless the job says otherwise.
pub const RESTART_ATTEMPTS: u32 = 10;
/// The most that a job can ask for.
pub const RESTART_ATTEMPTS_MOST: u32 = 1_000_000;
/// The wait before the first restart, unless the job says otherwise.
pub const RESTART_DELAY: Duration = Duration::from_secs(1);
/// The longest wait before a restart, unless the job says otherwise, and the most that the least wait grows to.
pub const RESTART_DELAY_MOST: Duration = Duration::from_secs(60);
/// Restarts in a row that are made as soon as the job says; those after them wait no less than [`RESTART_DELAY_LEAST`].
pub const RESTARTS_AT_WILL: u32 = 3;
/// The least wait before the next restart, which doubles up to [`RESTART_DELAY_MOST`]: a start costs its host some 0.1 s of CPU
/// time, whatever tenant it is for.
pub const RESTART_DELAY_LEAST: Duration = Duration::from_secs(1);
/// A VM that ran for so long begins to count its restarts anew.
pub const RESTART_SETTLED: Duration = Duration::from_secs(600);
/// How long a guest may take to be ready, unless the job says otherwise: Linux under tcg takes 5 to 15 s.
pub const READY: Duration = Duration::from_secs(120);
/// The longest wait that a job can ask for in its restart policy or its ready check.
pub const LIFECYCLE_MOST: Duration = Duration::from_secs(24 * 60 * 60);
/// The text of a ready check in bytes.
pub const READY_TEXT_BYTES: usize = 256;

// What is shown of input in errors.

/// Characters shown of one piece of text that somebody else wrote, and of one step of a JSON pointer.
pub const SHOWN_CHARS: usize = 80;
/// Characters shown of an error's message: of a job file's problems, all that are listed.
pub const SHOWN_ERROR_CHARS: usize = 64 << 10;
/// Characters shown of an error's cause, which often comes from a library or from another host.
pub const SHOWN_CAUSE_CHARS: usize = 1000;
/// Characters of one line of a log.
pub const LOG_LINE_CHARS: usize = 8 << 10;
/// VMs that are listed where a name may mean any of them.
pub const SHOWN_VMS: usize = 16;
/// Random characters that tell an id from all others: of 62 kinds each, one launch in fifteen million has four that are given.
pub const ID_CHARS_TOLD_APART: usize = 4;
/// Problems of one job file that are looked for.
pub const PROBLEMS: usize = 1000;
/// Problems of one job file that are listed for people; the rest is counted.
pub const SHOWN_PROBLEMS: usize = 50;

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
/// How much longer than its deadline a decision is waited for, until the command records that it took too long: a thread that
/// reads from a pipe or a slow disk looks at no deadline.
pub const DECISION_OVERDUE: Duration = Duration::from_secs(10);
/// How often a policy's deadline is looked at; it can overrun by two of these.
pub const POLICY_TICK: Duration = Duration::from_millis(1);
/// All memories and tables of one sandbox together, in bytes.
pub const POLICY_MEMORY_BYTES: usize = 64 << 20;
/// The longest deadline that can be configured for one call: a whole decision must end before [`DECISION`].
pub const POLICY_DEADLINE_MOST: Duration = Duration::from_secs(60);
/// The most memory that can be configured for a policy, in bytes: half of what a 32-bit guest can address.
pub const POLICY_MEMORY_BYTES_MOST: usize = 2 << 30;
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
/// Log lines kept of one decision.
pub const POLICY_LOG_LINES: usize = 64;
/// Log bytes kept of one decision.
pub const POLICY_LOG_BYTES: usize = 64 << 10;
/// One line of a policy's log in bytes.
pub const POLICY_LOG_LINE_BYTES: usize = 4096;
/// One piece of text in a policy's answer in bytes.
pub const POLICY_TEXT_BYTES: usize = 1024;
/// A name, version or code in a policy's answer in bytes.
pub const POLICY_NAME_BYTES: usize = 64;
/// A policy's settings schema in bytes.
pub const POLICY_SCHEMA_BYTES: usize = 64 << 10;
/// Names that a policy imports, and that it exports: an interpreter for Python imports some 30 of WASI.
pub const POLICY_INTERFACES: usize = 256;
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

// Processes.

/// How long a command that has ended waits for its own threads.
pub const LEAVE: Duration = Duration::from_millis(200);
/// How often a child process is looked at.
pub const CHILD_POLL: Duration = Duration::from_millis(2);

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

/// Signatures beside one file that are looked at.
pub const SIGNATURES: usize = 64;
/// One signature in bytes: minisign's has four lines, of which its author writes two.
pub const SIGNATURE_BYTES: u64 = 16 << 10;

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

// Recording decisions.

/// A tenant's log of decisions in bytes before a new file is begun, unless configured: some ten thousand decisions.
pub const DECISION_LOG_BYTES: u64 = 64 << 20;
/// Full files of a tenant's that are kept, unless configured.
pub const DECISION_LOG_FILES: usize = 16;
/// One record in bytes: every policy of the longest chain with the longest log.
pub const DECISION_RECORD_BYTES: u64 = 32 << 20;
/// A task in its record in bytes: beyond it, its notes and arguments are kept by their digest. Some 1,100 jobs of 1 MB would else push all
/// others out of a log.
pub const DECISION_TASK_BYTES: usize = 64 << 10;
/// Days for which a file of decisions is kept after its last one, unless configured: a year's audit can look at all of it.
pub const DECISION_LOG_DAYS: u64 = 365;
/// Bytes of a masked value from which on it is looked for in all other text of its record: shorter ones are in too much
/// that is no secret.
pub const MASKED_BYTES: usize = 4;

// Fetching an image.

/// The largest image in bytes, unless configured: 64 GiB.
pub const IMAGE_BYTES: u64 = 64 << 30;
/// The largest disk a guest may see in bytes, unless configured: 1 TiB.
pub const DISK_BYTES: u64 = 1 << 40;
/// Establishing a connection, TLS included.
pub const FETCH_CONNECT: Duration = Duration::from_secs(10);
/// Next to no bytes arriving for this long ends an attempt.
pub const FETCH_IDLE: Duration = Duration::from_secs(30);
/// What next to nothing is, in bytes: less than this in [`FETCH_IDLE`], which is 9 kB/s.
pub const FETCH_IDLE_BYTES: u64 = 256 << 10;
/// A whole fetch with all its attempts: Nomad's artifact limit.
pub const FETCH_TOTAL: Duration = Duration::from_secs(30 * 60);
/// Redirects followed in one attempt.
pub const FETCH_REDIRECTS: usize = 5;
/// Addresses of one name that are tried: its owner can give it thousands.
pub const ADDRESSES: usize = 16;
/// How many of them a message shows.
pub const ADDRESSES_SHOWN: usize = 4;
/// Attempts at what is worth retrying.
pub const FETCH_ATTEMPTS: u32 = 4;
/// The wait before the second attempt, half of it by chance; each further one doubles it.
pub const FETCH_BACKOFF: Duration = Duration::from_millis(500);
/// The longest `Retry-After` that is honoured; a longer one ends the fetch.
pub const FETCH_RETRY_AFTER: Duration = Duration::from_secs(30);
/// What an attempt must add for the next to be counted as the first, in bytes.
pub const FETCH_PROGRESS_BYTES: u64 = 1 << 20;
/// How often a run looks whether another has finished fetching the same image.
pub const FETCH_LOCK_POLL: Duration = Duration::from_millis(20);
/// How long another run's fetch is waited for before that is said.
pub const FETCH_LOCK_TOLD: Duration = Duration::from_millis(100);
/// Pieces of a body between two of its stages: with a piece of up to half a MiB, what a slow disk may lag behind.
pub const FETCH_PIECES: usize = 32;
/// Connections to one source, unless configured.
pub const FETCH_CONNECTIONS: usize = 4;
/// The most that can be configured.
pub const FETCH_CONNECTIONS_MOST: u64 = 16;
/// The longest wait that can be configured for any part of a fetch.
pub const FETCH_TIMEOUT_MOST: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How long one connection is watched before more are tried.
pub const FETCH_ALONE: Duration = Duration::from_secs(1);
/// What one of several connections asks for at a time, in bytes; all of that is in memory until its turn.
pub const FETCH_SEGMENT_BYTES: u64 = 8 << 20;
/// How long an unfinished image is kept for a fetch that goes on from there.
pub const FETCH_PART_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Unfinished images of one tenant that are kept; the oldest go first.
pub const UNFINISHED_KEPT: usize = 8;
/// What is claimed of a quota at a time for an image whose size is not known, in bytes: at 1 GB/s, some hundred claims a second.
pub const CLAIM_BYTES: u64 = 8 << 20;
/// What the lock of a fetch says of its claim, in bytes: a tenant's name and a number.
pub const CLAIM_RECORD_BYTES: u64 = 4096;
/// A list of checksums in bytes: a distribution's has some ten thousand.
pub const SUMS_BYTES: u64 = 1 << 20;
/// Lists of checksums that are kept of one tenant; the oldest go first.
pub const SUMS_KEPT: usize = 64;
/// A file of credentials in bytes.
pub const CREDENTIALS_BYTES: u64 = 1 << 20;
/// How many times larger an image may become when unpacked, unless configured: an installed system in a disk that is
/// mostly empty reaches some 50.
pub const UNPACK_RATIO: u64 = 200;
/// What may be unpacked whatever the ratio, in bytes: small images that are all but empty.
pub const UNPACK_FREE_BYTES: u64 = 64 << 20;
/// A decoder's memory in KiB: xz -9 needs 65 MiB, zstd -19 its window of 8 MiB.
pub const UNPACK_MEMORY_KIB: u32 = 128 << 10;
/// What is unpacked or read at a time in bytes.
pub const BLOCK_BYTES: usize = 256 << 10;
/// How much is written before the disk is told to begin with it, in bytes.
pub const WRITE_BEHIND_BYTES: u64 = 32 << 20;
/// What stays free of a disk that an image is written to, in bytes.
pub const DISK_RESERVE_BYTES: u64 = 64 << 20;
/// Origins of one image that are remembered; the latest stay.
pub const IMAGE_ORIGINS: usize = 256;
/// How long an image's lock is waited for that is held for moments only: by a sweep, while it is published or removed.
pub const IMAGE_LOCK: Duration = Duration::from_secs(2);
/// How often a stored image is hashed, where its times change meanwhile each time.
pub const IMAGE_HASHES: u32 = 3;
/// A stored image's record in bytes.
pub const IMAGE_RECORD_BYTES: u64 = 1 << 20;
/// What a guest may write to its disk in bytes, unless configured: 16 GiB.
pub const OVERLAY_BYTES: u64 = 16 << 30;

// Looking at QEMU.

/// `qemu-system-x86_64 -version` and its like take 20 to 70 ms.
pub const QEMU_QUERY: Duration = Duration::from_secs(10);
/// The kvm probe: at hardware speed it is done within 0.2 s, QEMU's own start included.
pub const KVM_PROBE: Duration = Duration::from_secs(3);

// Running a VM.

/// A record of the state folder in bytes: a job of the largest size, with every character escaped, has less.
pub const RECORD_BYTES: u64 = 16 << 20;
/// Waiting for the lock of all VM folders, which is held while one is made or old ones are swept.
pub const STATE_LOCK: Duration = Duration::from_secs(10);
/// How often that lock is tried.
pub const STATE_LOCK_POLL: Duration = Duration::from_millis(10);
/// How often a lock is tried that others hold for moments only, to look whether anybody does.
pub const LOCK_TRIES: u32 = 5;
/// The wait between two tries.
pub const LOCK_POLL: Duration = Duration::from_millis(5);
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
/// From `system_powerdown` to `quit`, unless asked otherwise.
pub const STOP_GRACE: Duration = Duration::from_secs(30);
/// The longest grace that can be asked for, and a little: what `qhost stop` waits.
pub const STOP_GRACE_MOST: Duration = Duration::from_secs(3600 + 30);
/// What `qhost wait` waits unless asked otherwise, and at most: 30 days.
pub const WAIT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How often it is looked whether whoever looks after a VM that is to end has heard that; of one that is to be killed, it is hastened.
pub const KILL_AGAIN: Duration = Duration::from_millis(500);
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
/// Pieces of a console's output that wait for somebody who is attached and slow; older ones are left out.
pub const CONSOLE_PIECES: usize = 64;
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
/// Folders of a tenant's ended VMs that are kept for reading, unless configured; older ones are swept by the next run.
pub const ENDED_VMS: usize = 100;
/// What these may take in bytes, unless configured: room for a hundred with full console logs, and a little more.
pub const ENDED_BYTES: u64 = 2 << 30;
/// Days for which they are kept, unless configured.
pub const ENDED_DAYS: u64 = 365;
/// QEMU's cache of translated code under tcg, in MiB: bounds what it takes beside the guest's memory.
pub const TCG_TB_SIZE_MIB: u32 = 64;

// The cage.

/// The first of the users that VMs are, unless configured: of a range that nobody else uses (systemd's UIDS-GIDS.md).
pub const CAGE_FIRST_USER: u32 = 1_900_000_000;
/// The last of them.
pub const CAGE_LAST_USER: u32 = 1_900_065_535;
/// Connections that wait to be accepted at a forwarded port: the kernel's own default bound is 4096, and a guest accepts in milliseconds.
pub const CAGE_BACKLOG: i32 = 128;
/// Requests to bind that are answered beside those for forwarded ports: QEMU itself makes none.
pub const CAGE_BINDS: usize = 16;
/// Open files of a QEMU: each connection to a forwarded port is one.
pub const CAGE_FILES: u64 = 1024;
/// Threads of a QEMU beside those of its guest's CPUs: its pool of workers has up to 64.
pub const CAGE_PROCESSES: u64 = 80;
/// CPU time of a QEMU beside that of its guest's CPUs, in percent of one: its own devices.
pub const CAGE_CPU_EXTRA_PERCENT: u64 = 25;
/// Memory of a QEMU beside its guest's, in percent of that...
pub const CAGE_MEMORY_PERCENT: u64 = 15;
/// ...and at least so many bytes. QEMU has some 47 MiB before the guest runs, and up to 100 MiB more with one.
pub const CAGE_MEMORY_BYTES: u64 = 256 << 20;
/// The cgroup below which each VM gets one, unless configured.
pub const CGROUP: &str = "qhost";
/// What CPU time is counted by, in microseconds: the kernel's default.
pub const CGROUP_PERIOD_US: u64 = 100_000;
/// How often a cgroup is tried to be removed whose last process has just ended.
pub const CGROUP_TRIES: u32 = 400;
/// Events of a tenant's VMs in bytes before a new file is begun; one older one is kept.
pub const EVENTS_BYTES: u64 = 4 << 20;

// Asking supervisors.

/// A request in bytes.
pub const CONTROL_LINE_BYTES: u64 = 4096;
/// An answer in bytes.
pub const CONTROL_ANSWER_BYTES: u64 = 1 << 20;
/// How long whoever connects may take to say what is asked.
pub const CONTROL_REQUEST: Duration = Duration::from_secs(5);
/// How long a supervisor may take to answer: QEMU's own answer, and a little.
pub const CONTROL_REPLY: Duration = Duration::from_secs(QMP_REPLY.as_secs() * 3);
/// How long a supervisor whose VM is over waits until what it answered has been sent.
pub const CONTROL_SENT: Duration = Duration::from_millis(200);
/// How long a supervisor that was asked to end a VM may be silent before a command says so, and kills the VM itself if that was
/// asked.
pub const CONTROL_SILENT: Duration = Duration::from_secs(2);
/// How long a supervisor may take to tell what its VM uses, when that is asked of many: QEMU's own answer, and a little.
pub const CONTROL_STATS: Duration = Duration::from_secs(3);
/// What is read of somebody's typing at a time, in bytes.
pub const CONSOLE_TYPED_BYTES: usize = 1024;
/// How long somebody who is attached to a console may take to read what it says.
pub const CONSOLE_SLOW: Duration = Duration::from_secs(10);
/// Addresses and ports that have sent a VM a datagram, and may be answered; the kernel forgets those not heard for longest.
pub const CAGE_UDP_PEERS: u32 = 4096;
/// Addresses and ports that a VM with egress has sent to, whose answers are let in; the kernel forgets the longest unused.
pub const CAGE_UDP_ASKED: u32 = 16 << 10;
/// How long the cage may take to be put up.
pub const CAGE: Duration = Duration::from_secs(30);
/// What a supervisor writes to its log in bytes: a few hundred lines, as a VM that fails in one way says so again and again.
pub const SUPERVISOR_LOG_BYTES: u64 = 256 << 10;
/// How long a supervisor may take from its start to the first thing that it says.
pub const SUPERVISOR: Duration = Duration::from_secs(30);
/// One answer of the kernel over netlink in bytes: it writes up to 32 KiB of a list (`netlink_dump` of its af_netlink.c).
pub const NETLINK_BYTES: usize = 64 << 10;
/// What a supervisor says in one line, in bytes.
pub const NOTE_BYTES: usize = 64 << 10;
/// Requests that wait for a supervisor.
pub const CONTROL_ASKS: usize = 16;
/// One try of a ready check by a port.
pub const READY_TRY: Duration = Duration::from_secs(5);
/// The wait before the next.
pub const READY_AGAIN: Duration = Duration::from_millis(100);
/// Disks of a VM that are told of.
pub const DISKS: usize = 16;
