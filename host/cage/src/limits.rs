//! Every bound on a wait or a size that this crate keeps, with its reason.

// The emulator.

/// QEMU's cache of translated code under tcg, in MiB. This bounds the memory that the cache takes beside the guest's.
pub const TCG_TB_SIZE_MIB: u32 = 64;

// The cage.

/// The first of the users that VMs are, unless configured. No other program uses their range (systemd's UIDS-GIDS.md).
pub const CAGE_FIRST_USER: u32 = 1_900_000_000;
/// The last of the users that VMs are, unless configured.
pub const CAGE_LAST_USER: u32 = 1_900_065_535;
/// Connections that wait to be accepted at a forwarded port: the kernel's own default bound is 4096, and a guest accepts in milliseconds.
pub const CAGE_BACKLOG: i32 = 128;
/// Requests to bind that are answered beside those for forwarded ports: QEMU itself makes none.
pub const CAGE_BINDS: usize = 16;
/// Open files of a QEMU: each connection to a forwarded port is one.
pub const CAGE_FILES: u64 = 1024;
/// Threads of a QEMU beside those of its guest's CPUs: QEMU's pool of workers has up to 64.
pub const CAGE_PROCESSES: u64 = 80;
/// CPU time of a QEMU beside that of its guest's CPUs, in percent of one CPU: QEMU's devices take it.
pub const CAGE_CPU_EXTRA_PERCENT: u64 = 25;
/// Memory of a QEMU beside its guest's, in percent of the guest's, if that is more than [`CAGE_MEMORY_BYTES`].
pub const CAGE_MEMORY_PERCENT: u64 = 15;
/// The least memory of a QEMU beside its guest's, in bytes. QEMU has some 47 MiB before the guest runs, and up to 100 MiB more while it
/// runs.
pub const CAGE_MEMORY_BYTES: u64 = 256 << 20;
/// The flash of the machine `virt` in bytes, for UEFI's code and its variables: 64 MiB each, which QEMU has in memory.
pub const CAGE_VIRT_FLASH_BYTES: u64 = 128 << 20;
/// The cgroup below which each VM gets one, unless configured.
pub const CGROUP: &str = "qhost";
/// The period by which CPU time is bounded, in microseconds: the kernel's default.
pub const CGROUP_PERIOD_US: u64 = 100_000;
/// The weight of all tenants' starts together against one tenant's VMs and commands, which have 100. Starts have no other bound: a start
/// that is held up would hold up other tenants' starts, which wait for its locks.
pub const STARTS_WEIGHT: u64 = 400;
/// A supervisor's weight against its QEMU's 100. The kernel divides a VM's weight among CPUs by what of the VM runs on each: with a hundred
/// times QEMU's weight, the supervisor left QEMU next to none on the other CPUs, and once QEMU's weight grew again, other tenants' threads
/// waited there for 100 to 250 ms (Linux 6.18).
pub const SUPERVISOR_WEIGHT: u64 = 400;
/// Tries to remove a cgroup whose last process has just ended.
pub const CGROUP_TRIES: u32 = 400;

// Filtering datagrams.

/// Addresses and ports that have sent a VM a datagram, and may be answered; the kernel forgets those not heard from for longest.
pub const CAGE_UDP_PEERS: u32 = 4096;
/// Addresses and ports that a VM with egress has sent to, whose answers are let in; the kernel forgets those unused for longest.
pub const CAGE_UDP_ASKED: u32 = 16 << 10;
