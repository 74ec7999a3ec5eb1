//! fs-verity, where the file system has it: the kernel then refuses every write to a file, and notices when the disk gives
//! back something else than was written (Linux, `Documentation/filesystems/fsverity.rst`).

use std::fs::File;

use rustix::ioctl::{self, Setter, opcode};

/// `struct fsverity_enable_arg`.
#[repr(C)]
struct EnableArg {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt: u64,
    signature_size: u32,
    reserved: u32,
    signature: u64,
    more_reserved: [u64; 11],
}

/// `FS_IOC_ENABLE_VERITY`
const ENABLE: ioctl::Opcode = opcode::write::<EnableArg>(b'f', 133);
const SHA256: u32 = 1;

/// Turns fs-verity on for a file that no process has open for writing, and gives whether it is on.
#[expect(unsafe_code, reason = "an ioctl that rustix has no function for")]
pub(super) fn enable(file: &File) -> bool {
    let arg = EnableArg {
        version: 1,
        hash_algorithm: SHA256,
        block_size: 4096,
        salt_size: 0,
        salt: 0,
        signature_size: 0,
        reserved: 0,
        signature: 0,
        more_reserved: [0; 11],
    };
    // SAFETY: the opcode takes a pointer to this very struct, reads it, and points to nothing else in it.
    let enabled = unsafe { ioctl::ioctl(file, Setter::<ENABLE, EnableArg>::new(arg)) };
    if let Err(error) = enabled {
        tracing::debug!(%error, "no fs-verity here");
    }
    enabled.is_ok()
}
