//! Unfinished downloads: images that are being fetched, and those whose fetch may be resumed. Each is some tenant's, and is
//! removed when room is needed, or when that tenant has left too many.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;

use qhost_model::digest::Sha256;
use qhost_sys::state;

use super::{
    super::ImageError,
    Lock, Store, beside,
    lock::{Claimed, claimed},
    resume::{self, ResumeRecord},
};
use crate::limits;

/// An unfinished download.
#[derive(Debug, Clone, Serialize)]
pub struct Unfinished {
    /// The image's digest.
    pub sha256: Sha256,
    /// The tenant that it was fetched for; absent where that is the operator.
    pub tenant: Option<String>,
    /// The bytes that it takes of the disk.
    pub disk_usage: u64,
    /// The time at which it was last written to.
    pub written_at: Timestamp,
    /// Whether a process is fetching it.
    pub fetching: bool,
    /// The name of its list of sources.
    #[serde(skip)]
    pub(super) download: String,
    /// The bytes that its fetch has claimed.
    #[serde(skip)]
    pub(super) claimed: u64,
    /// Whether a fetch could resume it.
    #[serde(skip)]
    pub(super) resumable: bool,
    /// Whether the file of the image exists.
    #[serde(skip)]
    pub(super) begun: bool,
}

impl Unfinished {
    pub(super) fn lock(&self, store: &Store) -> PathBuf {
        beside(&store.path(self.sha256), &format!("{}.lock", self.download))
    }

    fn age(&self) -> Duration {
        // A clock that was set back makes the download no older.
        let age = Timestamp::now().duration_since(self.written_at);
        Duration::try_from(age).unwrap_or_default()
    }

    /// Whether the download can be removed: no fetch could resume it, or it was last written to so long ago.
    pub(super) fn is_over(&self, kept_for: Duration) -> bool {
        !self.fetching && (!self.resumable || self.age() >= kept_for)
    }
}

impl Store {
    /// All unfinished downloads, the one written to last first.
    pub fn unfinished(&self) -> Result<Vec<Unfinished>, ImageError> {
        let mut found = self.downloads()?;
        found.retain(|one| one.begun);
        found.reverse();
        Ok(found)
    }

    /// Every download that has a file of any kind, the oldest first.
    pub(super) fn downloads(&self) -> Result<Vec<Unfinished>, ImageError> {
        let mut found = vec![];
        for (sha256, endings) in self.named()? {
            let downloads: BTreeSet<_> =
                endings.iter().filter_map(|ending| Some(ending.split_once('.')?.0)).collect();
            let downloads =
                downloads.into_iter().filter(|download| !["json", "resume"].contains(download));
            found.extend(downloads.map(|download| self.download(sha256, download)));
        }
        found.sort_by_key(|one| one.written_at);
        Ok(found)
    }

    fn download(&self, sha256: Sha256, download: &str) -> Unfinished {
        let file = |ending: &str| beside(&self.path(sha256), &format!("{download}.{ending}"));
        let (part, lock) = (fs::metadata(file("part")).ok(), file("lock"));
        let fetching = state::is_held(&lock);
        let note = ResumeRecord::read(&file("resume"));
        // A fetch that was killed early has left only a lock to say which tenant's it was.
        let Claimed { tenant, bytes } = claimed(&lock);
        let resumable = note.is_some();
        let modified = part.as_ref().and_then(|part| part.modified().ok());
        let written_at = modified.and_then(|at| Timestamp::try_from(at).ok());
        Unfinished {
            sha256,
            tenant: tenant.or(note.and_then(|note| note.tenant)),
            disk_usage: part.as_ref().map_or(0, |part| part.blocks() * 512),
            written_at: written_at.unwrap_or(Timestamp::UNIX_EPOCH),
            fetching,
            download: download.to_owned(),
            claimed: if fetching { bytes } else { 0 },
            resumable,
            begun: part.is_some(),
        }
    }

    /// Removes a download, unless a process is fetching it or has written to it meanwhile. Gives whether it was removed.
    pub(super) fn remove_unfinished(
        &self,
        one: &Unfinished,
        kept_for: Duration,
    ) -> Result<bool, ImageError> {
        let path = self.path(one.sha256);
        let lock = one.lock(self);
        match Lock::try_take(&lock).map_err(ImageError::store(&lock))? {
            Some(_lock) => {
                resume::sweep(&path, &one.download, kept_for).map_err(ImageError::store(&path))
            }
            None => Ok(false),
        }
    }

    /// Removes the first of these downloads that no process is fetching; gives false where there is none.
    pub(super) fn remove_oldest(&self, oldest_first: &[Unfinished]) -> Result<bool, ImageError> {
        for one in oldest_first.iter().filter(|one| one.begun && !one.fetching) {
            if self.remove_unfinished(one, Duration::ZERO)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes downloads that are too old to resume, and each tenant's oldest beyond a number.
    pub(super) fn sweep_unfinished(&self, kept_for: Duration) -> Result<(), ImageError> {
        let mut kept: BTreeMap<Option<String>, usize> = BTreeMap::new();
        for one in self.downloads()?.into_iter().rev().filter(|one| !one.fetching) {
            let mut kept_for = kept_for;
            if !one.is_over(kept_for) {
                let count = kept.entry(one.tenant.clone()).or_default();
                *count += 1;
                // The fetch that runs this sweep may leave one more.
                if *count < limits::UNFINISHED_KEPT {
                    continue;
                }
                kept_for = Duration::ZERO;
            }
            if let Err(error) = self.remove_unfinished(&one, kept_for) {
                tracing::warn!(%error, "cannot remove what a killed run left");
            }
        }
        Ok(())
    }
}
