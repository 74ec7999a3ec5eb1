//! The overlay that takes a run's writes: an empty qcow2 image of the disk's size. The overlay names no backing file.
//! QEMU is told of the image below it on the command line, so that no path of the host is in a file that a guest's
//! writes go to.

use std::{io, path::Path};

use imago::{FormatCreateBuilder as _, StorageCreateOptions, file::File, qcow2::Qcow2};

/// Creates an overlay for a disk of so many bytes.
pub fn create(path: &Path, disk_bytes: u64) -> io::Result<()> {
    use imago::Storage as _;
    let file = File::create_open(StorageCreateOptions::new().filename(path))?;
    Qcow2::<File>::create_builder(file).size(disk_bytes).create()
}
