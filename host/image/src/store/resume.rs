//! The record that lets a fetch resume an unfinished download: `<digest>.<download>.resume`.

use std::{fs, io, path::Path, time::Duration};

use serde::{Deserialize, Serialize};

use qhost_model::digest::Sha256;
use qhost_sys::state;

use super::{super::ImageError, beside};

/// The content of `<digest>.<download>.resume`.
#[derive(Serialize, Deserialize)]
pub(super) struct ResumeRecord {
    /// The digest of the source's URL, which may have secrets in its query.
    pub(super) source: Sha256,
    /// The validator that tells the version of the source's file from others; an earlier version wrote strong `ETag`s only.
    #[serde(default, alias = "etag", skip_serializing_if = "Option::is_none")]
    pub(super) validator: Option<String>,
    pub(super) total: u64,
    /// The tenant that the download is for; absent where it is for the operator, or an earlier version wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tenant: Option<String>,
}

impl ResumeRecord {
    /// Reads the record; gives nothing where there is none, or none that can be read.
    pub(super) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), ImageError> {
        serde_json::to_vec(self)
            .map_err(io::Error::other)
            .and_then(|bytes| state::write_locked(path, &bytes))
            .map_err(ImageError::store(path))
    }
}

/// Removes what a killed run left of a download, unless a fetch could resume it, and gives whether it did. The caller holds
/// the lock.
pub(super) fn sweep(image: &Path, download: &str, kept_for: Duration) -> io::Result<bool> {
    let [part, resume, new] =
        ["part", "resume", "resume.tmp"].map(|end| beside(image, &format!("{download}.{end}")));
    let modified = fs::metadata(&part).and_then(|part| part.modified());
    // A clock that was set back makes a part no older.
    let age = modified.map(|modified| modified.elapsed().unwrap_or_default());
    state::remove(&new)?;
    if age.is_ok_and(|age| age < kept_for) && resume.exists() {
        Ok(false)
    } else {
        state::remove(&part).and(state::remove(&resume)).map(|()| true)
    }
}
