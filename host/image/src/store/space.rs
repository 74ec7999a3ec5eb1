//! How much of a disk is free.

use std::{fs::File, io};

use rustix::fs::fstatvfs;

use crate::limits;

/// The bytes that are free on a file's disk, and how many of these stay free.
pub(crate) fn room(file: &File) -> io::Result<(u64, u64)> {
    let disk = fstatvfs(file)?;
    let reserve = limits::DISK_RESERVE_BYTES.min(disk.f_blocks.saturating_mul(disk.f_frsize) / 10);
    Ok((disk.f_bavail.saturating_mul(disk.f_frsize), reserve))
}
