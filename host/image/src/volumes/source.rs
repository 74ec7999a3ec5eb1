//! The opened disk that a volume is copied from.

use std::{fs::File, path::Path};

use qhost_sys::state;

use super::error::{VolumeError, at};

/// The opened disk that a volume is copied from.
#[derive(Debug)]
pub struct VolumeSource {
    disk: File,
    bytes: u64,
}

impl VolumeSource {
    pub(super) fn open(path: &Path, bytes: u64) -> Result<Self, VolumeError> {
        let disk = state::open_plain(File::options().read(true), path).map_err(at("open", path))?;
        Ok(Self { disk, bytes })
    }

    pub(super) fn disk(&self) -> &File {
        &self.disk
    }

    /// The volume's size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}
