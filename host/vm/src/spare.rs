//! Room for a VM's status on a disk that is full: a spare file beside the status, which has its room from the launch on. The spare is
//! overwritten in place and then takes the status' place; the file that was there is the next spare.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use qhost_sys::state;

use super::{Status, records::STATUS};
use crate::limits;

const SPARE: &str = "status.spare";

/// Makes the spare file, for a VM that is about to be launched.
pub(super) fn make(vm: &Path) -> io::Result<()> {
    state::write_unsynced(&vm.join(SPARE), &blank())
}

fn blank() -> Vec<u8> {
    vec![b' '; limits::STATUS_SPARE_BYTES]
}

/// Whether a file was not written for want of room.
pub(super) fn is_wanted(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Writes the status to the spare file, with as much of its history as fits, and exchanges the two files.
pub(super) fn write(vm: &Path, status: &Status) -> io::Result<()> {
    let (spare, record) = (vm.join(SPARE), vm.join(STATUS));
    let too_long = || io::Error::other("the status is longer than the room that is kept for it");
    let fit = (2..=limits::STATUS_SPARE_CHANGES)
        .rev()
        .map(|changes| serde_json::to_vec(&status.in_short(changes)))
        .find(|bytes| bytes.as_ref().is_ok_and(|bytes| bytes.len() <= limits::STATUS_SPARE_BYTES));
    let mut bytes = fit.ok_or_else(too_long)??;
    // Blanks after JSON are ignored.
    bytes.resize(limits::STATUS_SPARE_BYTES, b' ');
    let file = File::options().write(true).open(&spare)?;
    file.write_all_at(&bytes, 0)?;
    file.sync_data()?;
    renameat_with(CWD, &spare, CWD, &record, RenameFlags::EXCHANGE)?;
    Ok(())
}
