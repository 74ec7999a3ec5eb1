//! The descriptors that QEMU is started with. QEMU gets the files that it needs open, so that it needs no path of the host.

/// QEMU's control socket, listening.
pub const QMP: i32 = 3;
/// The console's socket, listening.
pub const CONSOLE: i32 = 4;
/// The stored image, for reading.
pub const IMAGE: i32 = 5;
/// The overlay, for reading and writing.
pub const OVERLAY: i32 = 6;
/// The first of the disks beside the root disk, for reading, and for writing but where a disk is read-only.
pub const DISKS: i32 = 7;

/// What a launch has that takes descriptors behind those of the disks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parts {
    /// How many files the disks beside the root disk have: two for an overlay and its image, else one.
    pub disk_files: usize,
    /// Whether the launch has a seed.
    pub seed: bool,
    /// Whether the firmware is UEFI.
    pub uefi: bool,
    /// Whether the guest has a channel for an agent.
    pub agent: bool,
}

/// The descriptors behind those of the disks, each there only if the launch has the part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Further {
    /// The seed, for reading.
    pub seed: Option<i32>,
    /// The code of UEFI, for reading, and its variables, for reading and writing.
    pub uefi: Option<[i32; 2]>,
    /// The socket of the agent's channel, listening.
    pub agent: Option<i32>,
    /// The first descriptor that is not QEMU's own.
    pub first_free: i32,
}

impl Further {
    /// The descriptors of a launch with these parts.
    pub fn of(parts: Parts) -> Self {
        let uefi = parts.disk_files + usize::from(parts.seed);
        let agent = uefi + 2 * usize::from(parts.uefi);
        let first_free = agent + usize::from(parts.agent);
        Self {
            seed: parts.seed.then(|| behind(parts.disk_files)),
            uefi: parts.uefi.then(|| [behind(uefi), behind(uefi + 1)]),
            agent: parts.agent.then(|| behind(agent)),
            first_free: behind(first_free),
        }
    }
}

fn behind(count: usize) -> i32 {
    (DISKS..).nth(count).unwrap_or(i32::MAX)
}
