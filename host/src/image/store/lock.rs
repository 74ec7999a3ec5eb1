//! Locks that are files beside an image: `<digest>.lock`, held by whoever publishes, checks or removes it, and
//! `<digest>.<flight>.lock`, held by whoever fetches it from one list of sources. The file goes away with the lock.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

pub(in crate::image) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// The lock, unless somebody holds it.
    pub(super) fn try_take(path: &Path) -> io::Result<Option<Self>> {
        loop {
            let file = File::options().create(true).append(true).mode(0o600).open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Whoever held it before removed the file after we had opened it: then this is a lock on nothing.
            let named = fs::metadata(path).map(|named| named.ino());
            if named.is_ok_and(|named| file.metadata().is_ok_and(|held| held.ino() == named)) {
                return Ok(Some(Self { path: path.to_owned(), _file: file }));
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a lock");
        }
    }
}
