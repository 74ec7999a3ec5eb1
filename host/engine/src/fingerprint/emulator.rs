//! Finds an architecture's emulator.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::PathBuf};

use serde::{Deserialize, Serialize};

use qhost_model::launch::Architecture;

/// An emulator: its path as found on `PATH`, with symbolic links resolved, and the facts that tell it from another file at that path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Emulator {
    pub(super) architecture: Architecture,
    pub(super) path: PathBuf,
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: i128,
}

impl Emulator {
    /// Looks for an architecture's emulator; nothing if it is not installed.
    pub(super) fn find(architecture: Architecture) -> io::Result<Option<Self>> {
        let Ok(path) = which::which(architecture.emulator()) else { return Ok(None) };
        let path = path.canonicalize().unwrap_or(path);
        let file = fs::metadata(&path)?;
        Ok(Some(Self {
            architecture,
            path,
            device: file.dev(),
            inode: file.ino(),
            bytes: file.size(),
            modified_ns: i128::from(file.mtime()) * 1_000_000_000 + i128::from(file.mtime_nsec()),
        }))
    }
}
