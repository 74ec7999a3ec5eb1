//! What is known of a stored image, `<digest>.json` beside it: what inspection said, who served it, and what the file
//! looked like when its bytes were last hashed.

use std::{
    fs::{File, Metadata},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use qhost_model::digest::{Sha256, Sha512};
use qhost_sys::state;

use super::{
    super::{ImageError, Inspected},
    beside,
};
use crate::limits;

/// A stored image's record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// What inspection said.
    #[serde(flatten)]
    pub inspected: Inspected,
    /// By which rules.
    pub(super) rules: u32,
    /// The digest of the stored file: the image's own, unless it came packed.
    pub content_sha256: Sha256,
    /// The SHA-512 of the file that was served, where a job named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha512: Option<Sha512>,
    /// The origins (RFC 6454) that were seen to serve it.
    pub origins: Vec<String>,
    /// The URL that it was first fetched from, without its query.
    pub source: String,
    /// When that was.
    pub fetched_at: Timestamp,
    /// For whom; absent: for the operator, or an earlier version fetched it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Whether the file system guards it (fs-verity).
    pub fs_verity: bool,
    pub(super) stamp: Stamp,
}

/// What changes with a file. Not its device, whose number may be another after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    inode: u64,
    owner: u32,
    mode: u32,
}

impl Stamp {
    pub(super) fn of(file: &Metadata) -> Self {
        Self {
            bytes: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
            inode: file.ino(),
            owner: file.uid(),
            mode: file.mode(),
        }
    }

    /// Whether the file is this user's, and no user may write to it.
    pub(super) fn is_guarded(&self) -> bool {
        self.owner == rustix::process::geteuid().as_raw() && self.mode & 0o222 == 0
    }
}

impl Record {
    /// An image's record; nothing where there is none that makes sense.
    pub(super) fn read(image: &Path) -> Result<Option<Self>, ImageError> {
        let path = beside(image, "json");
        let mut bytes = vec![];
        let read = File::open(&path)
            .and_then(|file| file.take(limits::IMAGE_RECORD_BYTES).read_to_end(&mut bytes));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ImageError::store(&path)(error)),
            Ok(_) => {}
        }
        match serde_json::from_slice(&bytes) {
            Ok(record) => Ok(Some(record)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "not an image's record; it will be fetched again");
                Ok(None)
            }
        }
    }

    /// Remembers who served it; of very many, the latest.
    pub(super) fn add_origin(&mut self, origin: String) {
        self.origins.retain(|known| *known != origin);
        self.origins.push(origin);
        self.origins.drain(..self.origins.len().saturating_sub(limits::IMAGE_ORIGINS));
    }

    /// Called under the image's lock.
    pub(super) fn write(&self, image: &Path) -> Result<(), ImageError> {
        let path = beside(image, "json");
        serde_json::to_vec_pretty(self)
            .map_err(io::Error::other)
            .and_then(|bytes| state::write_locked(&path, &bytes))
            .map_err(ImageError::store(&path))
    }
}
