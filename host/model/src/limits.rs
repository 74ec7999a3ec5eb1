//! Every bound on a wait or a size that this crate keeps, with its reason.

use std::ops::RangeInclusive;
use std::time::Duration;

// What a job file may hold.

/// A job file in bytes: a Nomad job of a hundred tasks is a tenth of this.
pub const JOB_FILE_BYTES: u64 = 1 << 20;
/// A job specification in HCL in bytes: published ones have some 5 KiB, and evaluating one takes more time than reading JSON.
pub const JOBSPEC_BYTES: usize = 256 << 10;
/// Words of a job specification that may begin a `for` expression: the parser takes stack for each one inside of another, and has no
/// bound of its own for them as it has for all else that nests. They are in scripts of templates too.
pub const JOBSPEC_FORS: usize = 16;
/// Bytes of variables and locals that are copied for all references of a job specification: a local can be twice as long as the local that
/// it is made of, and that again.
pub const JOBSPEC_COPIED_BYTES: usize = 4 << 20;
/// Variables and locals of a job specification. They are looked through once for each level by which they refer to each other.
pub const JOBSPEC_NAMES: usize = 256;
/// Steps of one reference: `var.ports.http` has three.
pub const JOBSPEC_STEPS: usize = 16;
/// A JSON pointer in bytes up to which the line of its key is kept.
pub const JOBSPEC_POINTER_BYTES: usize = 256;
/// An IPv4 address.
pub const ADDRESS_BYTES: usize = "255.255.255.255".len();
/// Task groups of a job, tasks of a group, networks of a task.
pub const NOMAD_ITEMS: usize = 256;
/// A job's or task's name in bytes: what Nomad's own names stay under.
pub const NAME_BYTES: usize = 128;
/// A port label in bytes.
pub const LABEL_BYTES: usize = 64;
/// An image URL in bytes: what common servers accept in a request line.
pub const URL_BYTES: usize = 8192;
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
/// Memory of a guest with UEFI in MiB: edk2 of 2022 crashes with 40, and starts with 48.
pub const UEFI_MEMORY_MIB: u32 = 64;
/// The same of an aarch64 guest: what edk2 sets aside for itself on Arm (`PcdSystemMemoryUefiRegionSize`).
pub const UEFI_AARCH64_MEMORY_MIB: u32 = 128;
/// The largest disk a guest may see in bytes, unless configured: 1 TiB.
pub const DISK_BYTES: u64 = 1 << 40;
/// The largest disk that can be asked for at all in bytes: so many MiB as 32 bits hold, which is the contract's number.
pub const DISK_BYTES_MOST: u64 = (u32::MAX as u64) << 20;
/// What a guest may write to its root disk in bytes, and what its other disks that end with it may have together, unless configured:
/// 16 GiB.
pub const OVERLAY_BYTES: u64 = 16 << 30;
/// Disks beside the root disk: the contract has 16 in all.
pub const DATA_DISKS: usize = 15;
/// A disk's name in bytes: what a virtio disk has for its serial number.
pub const DISK_NAME_BYTES: usize = 20;
/// A volume's name in bytes: with a key behind it, it is the name of a folder.
pub const VOLUME_NAME_BYTES: usize = 64;
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
/// Nomad's wait before a restart, unless a restart policy says otherwise.
pub const NOMAD_RESTART_DELAY: Duration = Duration::from_secs(15);
/// Seconds that a guest has to power off, unless asked otherwise: Linux takes 2 to 10.
pub const GRACE_S: u32 = 30;
/// The most of them that can be asked for.
pub const GRACE_MOST_S: u32 = 3600;
/// A part of a seed in bytes, whatever a host is configured to take.
pub const SEED_PART_BYTES: usize = 256 << 10;
/// A whole seed in bytes, unless configured: cloud-configs that people publish have 1 to 16 KiB.
pub const SEED_BYTES: u64 = 64 << 10;
/// A line of a seed in bytes from which on it is masked where a policy repeats it: shorter ones are in too much that is no secret.
pub const SEED_LINE_BYTES: usize = 12;
/// A key at the top of a part of a seed in bytes.
pub const SEED_KEY_BYTES: usize = 128;
/// Such keys of one part: cloud-init knows some 80.
pub const SEED_KEYS: usize = 256;
/// SSH keys of a job's own key for them.
pub const SEED_SSH_KEYS: usize = 64;
/// Commands of a job's key for them.
pub const SEED_COMMANDS: usize = 256;
/// A host name in bytes (RFC 1035, 2.3.4, less the length bytes of its first and last label).
pub const HOSTNAME_BYTES: usize = 253;
/// A line of base64 in a message in bytes (RFC 2045, 6.8).
pub const BASE64_LINE_BYTES: usize = 76;
/// QEMU's name of a CPU model in bytes.
pub const CPU_MODEL_BYTES: usize = 64;
/// How long a guest may take to be ready, unless the job says otherwise: Linux under tcg takes 5 to 15 s.
pub const READY: Duration = Duration::from_secs(120);
/// The longest wait that a job can ask for in its restart policy or its ready check.
pub const LIFECYCLE_MOST: Duration = Duration::from_secs(24 * 60 * 60);
/// CDs of a guest: an IDE controller has room for four, of which the root disk may be one.
pub const CDS: usize = 2;
/// The text of a ready check in bytes.
pub const READY_TEXT_BYTES: usize = 256;

// What is shown of input in errors.

/// Characters shown of one piece of text from outside, and of one step of a JSON pointer.
pub const SHOWN_CHARS: usize = 80;
/// Characters of one line of a log.
pub const LOG_LINE_CHARS: usize = 8 << 10;
/// Problems of one job file that are looked for.
pub const PROBLEMS: usize = 1000;
/// Problems of one job file that are listed for people; the rest is counted.
pub const SHOWN_PROBLEMS: usize = 50;

// What a policy may use. The configuration changes the deadline and the memory, per policy.

/// A name, version or code in a policy's answer in characters; of a configured policy or tenant, in bytes.
pub const POLICY_NAME_BYTES: usize = 64;

// Recording decisions.

/// Bytes of a masked value from which on it is looked for in all other text of its record: shorter ones are in too much
/// that is no secret.
pub const MASKED_BYTES: usize = 4;

// Running a VM.

/// Folders of a tenant's ended VMs that are kept for reading, unless configured; older ones are swept by the next run.
pub const ENDED_VMS: usize = 100;
/// What these may take in bytes, unless configured: room for a hundred with full console logs, and a little more.
pub const ENDED_BYTES: u64 = 2 << 30;
/// Days for which they are kept, unless configured.
pub const ENDED_DAYS: u64 = 365;
