//! The state folder: where things are, and writing a file so that a reader finds the old one or the new one, whole.

use std::{
    fs::{self, DirBuilder},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

/// The folder named by `--state-dir`.
#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

/// The folder's name cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the state folder {} cannot be used: {reason}", path.display())]
pub struct StateDirError {
    path: PathBuf,
    reason: String,
}

impl StateDir {
    /// An absolute path for the folder, which need not exist. QEMU's options are text, so its name must be UTF-8.
    pub fn new(path: &Path) -> Result<Self, StateDirError> {
        let refused = |reason: String| StateDirError { path: path.into(), reason };
        let absolute = std::path::absolute(path).map_err(|error| refused(error.to_string()))?;
        match absolute.to_str() {
            Some(_) => Ok(Self(absolute)),
            None => Err(refused("its name is not UTF-8".into())),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where VMs have their folders.
    pub fn vms(&self) -> PathBuf {
        self.0.join("vms")
    }

    /// Where the fingerprint is kept.
    pub fn fingerprint(&self) -> PathBuf {
        self.0.join("fingerprint.json")
    }
}

/// Makes a folder and those above it, each readable by its owner only.
pub(crate) fn create_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file through a temporary one beside it and a rename.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    create_private(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    fs::File::open(folder)?.sync_all()
}
