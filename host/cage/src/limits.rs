//! Every bound on a wait or a size that this crate keeps, with its reason.

// Running a VM.

/// QEMU's cache of translated code under tcg, in MiB: bounds what it takes beside the guest's memory.
pub const TCG_TB_SIZE_MIB: u32 = 64;

// The cage.

/// The first of the users that VMs are, unless configured: of a range that no other program uses (systemd's UIDS-GIDS.md).
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
/// The flash of the machine `virt` in bytes, for UEFI's code and its variables: 64 MiB each, which QEMU has in memory.
pub const CAGE_VIRT_FLASH_BYTES: u64 = 128 << 20;
/// The cgroup below which each VM gets one, unless configured.
pub const CGROUP: &str = "qhost";
/// What CPU time is counted by, in microseconds: the kernel's default.
pub const CGROUP_PERIOD_US: u64 = 100_000;
/// The weight of all tenants' starts together against one tenant's VMs and commands, which have 100. They have no other bound: one that is held up
/// would hold up others' starts, which wait for its locks.
pub const STARTS_WEIGHT: u64 = 400;
/// How often a cgroup is tried to be removed whose last process has just ended.
pub const CGROUP_TRIES: u32 = 400;

// Asking supervisors.

/// Addresses and ports that have sent a VM a datagram, and may be answered; the kernel forgets those not heard for longest.
pub const CAGE_UDP_PEERS: u32 = 4096;
/// Addresses and ports that a VM with egress has sent to, whose answers are let in; the kernel forgets the longest unused.
pub const CAGE_UDP_ASKED: u32 = 16 << 10;
