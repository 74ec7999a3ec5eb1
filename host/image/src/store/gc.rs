//! Makes room in the store, and removes what killed runs left.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, time::Duration};

use jiff::Timestamp;
use serde::Serialize;

use qhost_model::digest::Sha256;
use qhost_sys::state;

use super::{super::ImageError, Lock, Record, Store, Stored, Unfinished, beside, stored::LEFT};
use crate::limits;

/// What to remove.
#[derive(Debug, Default)]
pub struct Collect {
    /// Images that were not used for so long, and downloads that were not written to for so long.
    pub older: Option<Duration>,
    /// Unfinished downloads, then images, until the rest takes at most so many bytes.
    pub most: Option<u64>,
    /// All unfinished downloads.
    pub unfinished: bool,
    /// Whether nothing is removed, and only reported.
    pub dry_run: bool,
}

/// The result of making room, or of a dry run.
#[derive(Debug, Default, Serialize)]
pub struct Collected {
    /// The images removed.
    pub removed: Vec<Stored>,
    /// The unfinished downloads removed.
    pub unfinished: Vec<Unfinished>,
    /// How many bytes that freed.
    pub freed: u64,
    /// How many bytes the remaining images and unfinished downloads take of the disk.
    pub kept: u64,
}

impl Store {
    /// Makes room: removes what is wanted, and what killed runs left. An image that `keeps` names or that is in use stays, and
    /// so does a download that a process is fetching.
    pub fn collect(
        &self,
        wanted: &Collect,
        keeps: &dyn Fn(Sha256) -> bool,
    ) -> Result<Collected, ImageError> {
        let mut stored = self.list()?;
        let mut collected = Collected {
            kept: stored.iter().map(|one| one.disk_usage).sum(),
            ..Collected::default()
        };
        self.collect_unfinished(wanted, &mut collected)?;
        let now = Timestamp::now();
        let is_old = |one: &Stored| {
            wanted.older.is_some_and(|older| {
                now.duration_since(one.used_at).unsigned_abs() > older && one.used_at < now
            })
        };
        while let Some(oldest) = stored.pop() {
            let goes = is_old(&oldest) || wanted.most.is_some_and(|most| collected.kept > most);
            let dry_run = wanted.dry_run;
            if goes
                && !keeps(oldest.sha256)
                && (dry_run && !self.is_used(oldest.sha256) || !dry_run && self.remove(&oldest)?)
            {
                collected.went(oldest.disk_usage);
                collected.removed.push(oldest);
            }
        }
        if !wanted.dry_run {
            collected.freed += self.sweep_images();
            wanted.older.map_or(Ok(()), |older| self.empty_quarantine(older))?;
        }
        Ok(collected)
    }

    fn collect_unfinished(
        &self,
        wanted: &Collect,
        collected: &mut Collected,
    ) -> Result<(), ImageError> {
        let kept_for = match (wanted.unfinished, wanted.older) {
            (true, _) => Duration::ZERO,
            (false, older) => {
                older.map_or(limits::FETCH_PART_KEPT, |older| older.min(limits::FETCH_PART_KEPT))
            }
        };
        let downloads = self.downloads()?;
        collected.kept += downloads.iter().map(|one| one.disk_usage).sum::<u64>();
        for one in downloads.into_iter().filter(|one| !one.fetching) {
            let is_much = wanted.most.is_some_and(|most| collected.kept > most);
            let kept_for = if is_much { Duration::ZERO } else { kept_for };
            if one.is_over(kept_for)
                && (wanted.dry_run || self.remove_unfinished(&one, kept_for)?)
            {
                collected.went(one.disk_usage);
                collected.unfinished.push(one);
            }
        }
        collected.unfinished.retain(|one| one.begun);
        Ok(())
    }

    /// Removes what killed runs left, and unfinished downloads that are too old to resume. A failure is logged and ends no
    /// command.
    pub(super) fn sweep(&self) {
        if let Err(error) = self.sweep_unfinished(limits::FETCH_PART_KEPT) {
            tracing::warn!(%error, "what killed runs left is not looked for");
        }
        self.sweep_images();
    }

    /// Removes locks that are not held, and files without a record or without their image, and gives the bytes that this
    /// freed.
    fn sweep_images(&self) -> u64 {
        let named = self.named().unwrap_or_else(|error| {
            tracing::warn!(%error, "what killed runs left is not looked for");
            BTreeMap::new()
        });
        let mut freed = 0;
        for (sha256, endings) in named {
            let path = self.path(sha256);
            let has = |ending: &str| endings.contains(ending);
            let whole = has("") && has("json");
            let left =
                ["lock", "json.tmp"].into_iter().any(has) || (!whole && LEFT.into_iter().any(has));
            if !left {
                continue;
            }
            let bytes = fs::metadata(&path).map_or(0, |file| file.blocks() * 512);
            if let Ok(Some(_lock)) = Lock::try_take(&beside(&path, "lock")) {
                match self.sweep_locked(sha256) {
                    Ok(()) => freed += if path.exists() { 0 } else { bytes },
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "cannot remove what a killed run left");
                    }
                }
            }
        }
        freed
    }

    /// Removes what a killed run left of an image. The caller holds the image's lock, so that no process is about to write its
    /// record.
    fn sweep_locked(&self, sha256: Sha256) -> Result<(), ImageError> {
        let path = self.path(sha256);
        for ending in LEFT_OVER.into_iter().filter(|ending| *ending != "lock") {
            let left = beside(&path, ending);
            state::remove(&left).map_err(ImageError::store(&left))?;
        }
        if Record::read(&path)?.is_some() && path.exists() {
            Ok(())
        } else {
            self.remove_locked(sha256).map(drop)
        }
    }

    fn empty_quarantine(&self, older: Duration) -> Result<(), ImageError> {
        for entry in fs::read_dir(self.quarantined()).into_iter().flatten().flatten() {
            let put_there = entry.metadata().map(|file| file.ctime());
            let age = put_there.map(|at| Timestamp::now().as_second().saturating_sub(at));
            if age.is_ok_and(|age| u64::try_from(age).is_ok_and(|age| age > older.as_secs())) {
                state::remove(&entry.path()).map_err(ImageError::store(entry.path()))?;
            }
        }
        Ok(())
    }
}

impl Collected {
    fn went(&mut self, bytes: u64) {
        self.freed += bytes;
        self.kept = self.kept.saturating_sub(bytes);
    }
}

/// The endings of stale files, and of the parts that an earlier version wrote.
const LEFT_OVER: [&str; 5] = ["lock", "json.tmp", "part", "resume", "resume.tmp"];
