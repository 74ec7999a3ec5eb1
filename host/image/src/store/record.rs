//! The record of a stored image, `<digest>.json` beside it: what inspection found, which origins served it, and how the
//! file looked when its bytes were last hashed.

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
    origins::Origins,
};
use crate::limits;

/// A stored image's record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// What inspection found.
    #[serde(flatten)]
    pub inspected: Inspected,
    /// The version of the inspection's rules.
    pub(super) rules: u32,
    /// The digest of the stored file: the image's own, unless it came packed.
    pub content_sha256: Sha256,
    /// The SHA-512 of the file that was served, where a job named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha512: Option<Sha512>,
    /// The origins that were seen to serve the image.
    #[serde(flatten)]
    pub origins: Origins,
    /// The URL that the image was first fetched from, without its query.
    pub source: String,
    /// The time of that fetch.
    pub fetched_at: Timestamp,
    /// The tenant that it was fetched for; absent where the operator or an earlier version fetched it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Whether the file system guards the file (fs-verity).
    pub fs_verity: bool,
    pub(super) stamp: Stamp,
}

/// What changes when a file changes. The device's number is not in it, since that may be another after a restart.
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
    /// Reads an image's record; gives nothing where there is none, or none that can be read.
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

    /// Writes the record. The caller holds the image's lock.
    pub(super) fn write(&self, image: &Path) -> Result<(), ImageError> {
        let path = beside(image, "json");
        serde_json::to_vec_pretty(self)
            .map_err(io::Error::other)
            .and_then(|bytes| state::write_locked(&path, &bytes))
            .map_err(ImageError::store(&path))
    }
}
