//! Locks that are files beside an image. The process that publishes, checks or removes an image holds `<digest>.lock`, and
//! the process that fetches it from one list of sources holds `<digest>.<download>.lock`. The file is removed when the
//! lock is dropped.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use qhost_sys::state;

use crate::limits;

pub(super) struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// Takes the lock, unless another process holds it.
    pub(super) fn try_take(path: &Path) -> io::Result<Option<Self>> {
        let file = state::try_lock_named(path)?;
        Ok(file.map(|file| Self { path: path.to_owned(), file }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a record into the lock's file, for other processes to read.
    pub(super) fn write(&self, record: &impl Serialize) -> io::Result<()> {
        let bytes = serde_json::to_vec(record)?;
        self.file.set_len(0)?;
        (&self.file).write_all(&bytes)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a lock");
        }
    }
}

/// The claim that a download's lock has in its file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Claimed {
    pub(super) tenant: Option<String>,
    pub(super) bytes: u64,
}

/// Reads the claim in a lock's file; gives an empty one where it cannot be read.
pub(super) fn claimed(lock: &Path) -> Claimed {
    let mut bytes = vec![];
    let read = File::open(lock)
        .and_then(|file| file.take(limits::CLAIM_RECORD_BYTES).read_to_end(&mut bytes));
    read.ok().and_then(|_| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}
