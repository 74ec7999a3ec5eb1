//! Every bound on a wait or a size that this crate keeps, with its reason.

use std::ops::RangeInclusive;
use std::time::Duration;

// Job files.

/// The most bytes of a job file: a Nomad job of a hundred tasks has a tenth of this.
pub const JOB_FILE_BYTES: u64 = 1 << 20;
/// The most bytes of a job specification in HCL: published ones have some 5 KiB, and evaluating one takes more time than reading JSON.
pub const JOBSPEC_BYTES: usize = 256 << 10;
/// The most words of a job specification that may begin a `for` expression: the parser takes stack for each one inside of another, and
/// bounds the nesting of all other expressions but not of these. Such words are in scripts of templates too.
pub const JOBSPEC_FORS: usize = 16;
/// The most bytes of variables and locals that are copied for all references of a job specification: a local can be twice as long as the
/// local that it is made of, and so on.
pub const JOBSPEC_COPIED_BYTES: usize = 4 << 20;
/// The most variables and locals of a job specification. All are looked through once for each level of references between them.
pub const JOBSPEC_NAMES: usize = 256;
/// The most steps of one reference: `var.ports.http` has three.
pub const JOBSPEC_STEPS: usize = 16;
/// The most bytes of a JSON pointer whose line is kept.
pub const JOBSPEC_POINTER_BYTES: usize = 256;
/// The bytes of the longest IPv4 address.
pub const ADDRESS_BYTES: usize = "255.255.255.255".len();
/// The most task groups of a job, tasks of a group, and networks of a task.
pub const NOMAD_ITEMS: usize = 256;
/// The most bytes of a job's or task's name: Nomad's own names stay under this.
pub const NAME_BYTES: usize = 128;
/// The most bytes of a port label.
pub const LABEL_BYTES: usize = 64;
/// The most bytes of an image URL: common servers accept as many in a request line.
pub const URL_BYTES: usize = 8192;
/// The most places that a job may name for one image.
pub const IMAGE_SOURCES: usize = 8;
/// The most forwarded ports of a task. Each is a listening socket of the VM's QEMU.
pub const PORTS: usize = 64;
/// The most extra QEMU arguments of a task.
pub const ARGS: usize = 64;
/// The most bytes of one extra QEMU argument.
pub const ARG_BYTES: usize = 1024;
/// The most pairs of a task's notes.
pub const META_PAIRS: usize = 64;
/// The most bytes of a key of a task's notes.
pub const META_KEY_BYTES: usize = 128;
/// The most bytes of a value of a task's notes.
pub const META_VALUE_BYTES: usize = 4096;
/// The CPUs that a guest may have: QEMU refuses more than its `pc` machine takes (255) by itself.
pub const CPUS: RangeInclusive<u32> = 1..=256;
/// The memory that a guest may have, in MiB: from the least that SeaBIOS starts with, to Nomad's own bound of 4 TiB.
pub const MEMORY_MIB: RangeInclusive<u32> = 16..=4 * 1024 * 1024;
/// The least memory of a guest with UEFI, in MiB: edk2 of 2022 crashes with 40, and starts with 48.
pub const UEFI_MEMORY_MIB: u32 = 64;
/// The least memory of an aarch64 guest with UEFI, in MiB: edk2 sets this aside for itself on Arm (`PcdSystemMemoryUefiRegionSize`).
pub const UEFI_AARCH64_MEMORY_MIB: u32 = 128;
/// The largest disk that a guest may see, in bytes, unless configured: 1 TiB.
pub const DISK_BYTES: u64 = 1 << 40;
/// The largest disk that can be asked for at all, in bytes: as many MiB as 32 bits hold, which is the contract's number.
pub const DISK_BYTES_MOST: u64 = (u32::MAX as u64) << 20;
/// How many bytes a guest may write to its root disk, and how many its other ephemeral disks may have together, unless configured: 16 GiB.
pub const OVERLAY_BYTES: u64 = 16 << 30;
/// The most disks beside the root disk: the contract has 16 in all.
pub const DATA_DISKS: usize = 15;
/// The most bytes of a disk's name: a virtio disk's serial number has as many.
pub const DISK_NAME_BYTES: usize = 20;
/// The most bytes of a volume's name, which with a key behind it is the name of a folder.
pub const VOLUME_NAME_BYTES: usize = 64;
/// The most restarts in a row, unless the job asks for another number.
pub const RESTART_ATTEMPTS: u32 = 10;
/// The most restarts in a row that a job can ask for.
pub const RESTART_ATTEMPTS_MOST: u32 = 1_000_000;
/// The wait before the first restart, unless the job asks for another.
pub const RESTART_DELAY: Duration = Duration::from_secs(1);
/// The longest wait before a restart, unless the job asks for another, and the most that the least wait grows to.
pub const RESTART_DELAY_MOST: Duration = Duration::from_secs(60);
/// How many restarts in a row come as soon as the job asks; later ones wait no less than [`RESTART_DELAY_LEAST`].
pub const RESTARTS_AT_WILL: u32 = 3;
/// The least wait before such a later restart, which doubles up to [`RESTART_DELAY_MOST`]: a start costs its host some 0.1 s of CPU time,
/// whatever tenant it is for.
pub const RESTART_DELAY_LEAST: Duration = Duration::from_secs(1);
/// A VM that ran for so long begins to count its restarts anew.
pub const RESTART_SETTLED: Duration = Duration::from_secs(600);
/// Nomad's wait before a restart, unless a restart policy gives another.
pub const NOMAD_RESTART_DELAY: Duration = Duration::from_secs(15);
/// How many seconds a guest has to power off, unless asked otherwise: Linux takes 2 to 10.
pub const GRACE_S: u32 = 30;
/// The most seconds to power off that can be asked for.
pub const GRACE_MOST_S: u32 = 3600;
/// The most bytes of a part of a seed, whatever a host is configured to take.
pub const SEED_PART_BYTES: usize = 256 << 10;
/// The most bytes of a whole seed, unless configured: cloud-configs that people publish have 1 to 16 KiB.
pub const SEED_BYTES: u64 = 64 << 10;
/// The bytes from which on a line of a seed is masked where a policy repeats it: much that is no secret has shorter ones in it.
pub const SEED_LINE_BYTES: usize = 12;
/// The most bytes of a key at the top of a part of a seed.
pub const SEED_KEY_BYTES: usize = 128;
/// The most keys at the top of one part of a seed: cloud-init knows some 80.
pub const SEED_KEYS: usize = 256;
/// The most SSH keys in a job's key for them.
pub const SEED_SSH_KEYS: usize = 64;
/// The most commands in a job's key for them.
pub const SEED_COMMANDS: usize = 256;
/// The most bytes of a host name (RFC 1035, 2.3.4, less the length bytes of its first and last label).
pub const HOSTNAME_BYTES: usize = 253;
/// The bytes of a line of base64 in a message (RFC 2045, 6.8).
pub const BASE64_LINE_BYTES: usize = 76;
/// The most bytes of QEMU's name of a CPU model.
pub const CPU_MODEL_BYTES: usize = 64;
/// How long a guest may take to be ready, unless the job asks for another time: Linux under tcg takes 5 to 15 s.
pub const READY: Duration = Duration::from_secs(120);
/// The longest wait that a job can ask for in its restart policy or its ready check.
pub const LIFECYCLE_MOST: Duration = Duration::from_secs(24 * 60 * 60);
/// The most CDs of a guest: an IDE controller has room for four, of which the root disk may be one.
pub const CDS: usize = 2;
/// The most bytes of the text of a ready check.
pub const READY_TEXT_BYTES: usize = 256;

// Showing input in errors.

/// How many characters are shown of one piece of text from outside, and of one step of a JSON pointer.
pub const SHOWN_CHARS: usize = 80;
/// How many characters one line of a log has.
pub const LOG_LINE_CHARS: usize = 8 << 10;
/// The most problems of one job file that are looked for.
pub const PROBLEMS: usize = 1000;
/// How many problems of one job file are listed for people; the rest is counted.
pub const SHOWN_PROBLEMS: usize = 50;

// Policies.

/// The most characters of a name, version or code in a policy's answer, and the most bytes of a configured policy's or tenant's name.
pub const POLICY_NAME_BYTES: usize = 64;

// Recording decisions.

/// The bytes from which on a masked value is looked for in all other text of its record: much that is no secret has shorter ones in it.
pub const MASKED_BYTES: usize = 4;

// Running VMs.

/// How many folders of a tenant's ended VMs are kept for reading, unless configured; the next run sweeps older ones.
pub const ENDED_VMS: usize = 100;
/// How many bytes a tenant's ended VMs may take, unless configured: room for a hundred with full console logs, and a little more.
pub const ENDED_BYTES: u64 = 2 << 30;
/// For how many days a tenant's ended VMs are kept, unless configured.
pub const ENDED_DAYS: u64 = 365;
