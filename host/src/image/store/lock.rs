//! Locks that are files beside an image: `<digest>.lock`, held by whoever publishes, checks or removes it, and
//! `<digest>.<flight>.lock`, held by whoever fetches it from one list of sources. The file goes away with the lock.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use crate::state;

pub(in crate::image) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// The lock, unless somebody holds it.
    pub(super) fn try_take(path: &Path) -> io::Result<Option<Self>> {
        let file = state::try_lock_named(path)?;
        Ok(file.map(|file| Self { path: path.to_owned(), _file: file }))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a lock");
        }
    }
}
