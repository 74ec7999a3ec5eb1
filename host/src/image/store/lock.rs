//! A digest's lock, `<digest>.lock`: held by whoever fetches, checks or removes that image. Its file goes away with it.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

pub(super) struct Lock {
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
