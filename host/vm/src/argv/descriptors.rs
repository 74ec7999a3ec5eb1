//! The descriptors that QEMU is started with. It gets what it needs open, so that it needs no path of the host.

/// Its control socket, listening.
pub const QMP: i32 = 3;
/// The console's socket, listening.
pub const CONSOLE: i32 = 4;
/// The stored image, for reading.
pub const IMAGE: i32 = 5;
/// The overlay, for reading and writing.
pub const OVERLAY: i32 = 6;
/// The first of the disks beside the root disk, for reading, and for writing but where a disk is read-only.
pub const DISKS: i32 = 7;

/// Those behind the disks, each there only where a launch has what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Further {
    /// The seed, for reading.
    pub seed: Option<i32>,
    /// The code of UEFI, for reading, and its variables, for reading and writing.
    pub uefi: Option<[i32; 2]>,
    /// The first that is not QEMU's own.
    pub first_free: i32,
}

impl Further {
    /// Of a launch with so many disks beside its root disk.
    pub fn of(disks: usize, has_seed: bool, is_uefi: bool) -> Self {
        let uefi = disks + usize::from(has_seed);
        let first_free = uefi + 2 * usize::from(is_uefi);
        Self {
            seed: has_seed.then(|| behind(disks)),
            uefi: is_uefi.then(|| [behind(uefi), behind(uefi + 1)]),
            first_free: behind(first_free),
        }
    }
}

fn behind(count: usize) -> i32 {
    (DISKS..).nth(count).unwrap_or(i32::MAX)
}
