//! What an operator does with the store: look, check, remove, make room.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::Serialize;

use qhost_model::digest::Sha256;
use qhost_sys::state;

use super::{
    super::{ImageError, Progress},
    Lock, Record, Store, Unfinished, beside,
};
use crate::limits;

/// A stored image.
#[derive(Debug, Clone, Serialize)]
pub struct Stored {
    /// Its digest.
    pub sha256: Sha256,
    /// What is known of it.
    #[serde(flatten)]
    pub record: Record,
    /// What it takes of the disk in bytes: less than its size where it has holes.
    pub disk_usage: u64,
    /// When a run last used it.
    pub used_at: Timestamp,
}

/// What came of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Checked {
    /// Its bytes hash to what they should.
    Sound,
    /// They do not, or it was not guarded from changes; it was put away.
    Quarantined {
        /// The digest of what is there now.
        found: Sha256,
        /// Where it is now.
        to: PathBuf,
    },
    /// It cannot be read.
    Unreadable {
        /// Why.
        reason: String,
    },
    /// Another process is at it.
    Busy,
}

/// What is to go.
#[derive(Debug, Default)]
pub struct Collect {
    /// What was not used for so long.
    pub older: Option<Duration>,
    /// Unfinished downloads, then images, until what is left takes no more than so many bytes.
    pub most: Option<u64>,
    /// All unfinished downloads.
    pub unfinished: bool,
    /// Nothing: it is only said what would go.
    pub dry_run: bool,
}

/// What came of making room, or would.
#[derive(Debug, Default, Serialize)]
pub struct Collected {
    /// The images removed.
    pub removed: Vec<Stored>,
    /// The unfinished downloads removed.
    pub unfinished: Vec<Unfinished>,
    /// What that freed, in bytes.
    pub freed: u64,
    /// What is left takes of the disk, in bytes: images and unfinished downloads.
    pub kept: u64,
}

impl Store {
    /// All stored images, the one that was used last first.
    pub fn list(&self) -> Result<Vec<Stored>, ImageError> {
        let mut stored = vec![];
        for sha256 in self.named()?.into_keys() {
            let path = self.path(sha256);
            if let (Some(record), Ok(file)) = (Record::read(&path)?, fs::metadata(&path)) {
                let used = fs::metadata(beside(&path, "used")).and_then(|used| used.modified());
                let used = used.ok().and_then(|used| Timestamp::try_from(used).ok());
                stored.push(Stored {
                    sha256,
                    used_at: used.unwrap_or(record.fetched_at).max(record.fetched_at),
                    record,
                    disk_usage: file.blocks() * 512,
                });
            }
        }
        stored.sort_by_key(|one| std::cmp::Reverse(one.used_at));
        Ok(stored)
    }

    /// The one stored image whose digest begins like this.
    pub fn named_by(&self, prefix: &str) -> Result<Stored, ImageError> {
        let wanted = prefix.strip_prefix("sha256:").unwrap_or(prefix).to_ascii_lowercase();
        let mut fitting: Vec<_> = self.list()?;
        fitting.retain(|one| one.sha256.to_string().starts_with(&wanted));
        match (fitting.pop(), fitting.len()) {
            (Some(only), 0) => Ok(only),
            (None, _) => Err(ImageError::NotStored(format!(
                "no stored image's digest begins with {prefix:?}; see qhost image ls"
            ))),
            (Some(_), more) => Err(ImageError::NotStored(format!(
                "the digests of {} stored images begin with {prefix:?}; give more of it",
                more + 1
            ))),
        }
    }

    /// Hashes a stored image again.
    pub async fn verify(
        &self,
        stored: &Stored,
        progress: &dyn Progress,
    ) -> Result<Checked, ImageError> {
        let lock = match self.try_lock(stored.sha256) {
            Ok(None) => return Ok(Checked::Busy),
            // Nothing changes there, and looking needs no lock.
            Err(ImageError::Store { source, .. })
                if source.kind() == io::ErrorKind::ReadOnlyFilesystem =>
            {
                None
            }
            lock => lock?,
        };
        // It may have been removed, or fetched anew, since it was listed.
        let Some(record) = Record::read(&self.path(stored.sha256))? else {
            return Ok(Checked::Busy);
        };
        let checked = self.check(stored.sha256, record, progress).await;
        drop(lock);
        match checked {
            Err(ImageError::Store { source, .. }) => {
                Ok(Checked::Unreadable { reason: source.to_string() })
            }
            checked => checked,
        }
    }

    /// Removes a stored image; false where it is used.
    pub fn remove(&self, stored: &Stored) -> Result<bool, ImageError> {
        match self.try_lock(stored.sha256)? {
            Some(_lock) => self.remove_locked(stored.sha256),
            None => Ok(false),
        }
    }

    /// Makes room: removes what is wanted, and what killed runs left. Never an image that `keeps` names or that is in use, nor
    /// a download that a process is fetching.
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

    /// Removes what killed runs left, and unfinished downloads that are too old to go on with. A failure is logged and ends no
    /// command.
    pub(super) fn sweep(&self) {
        if let Err(error) = self.sweep_unfinished(limits::FETCH_PART_KEPT) {
            tracing::warn!(%error, "what killed runs left is not looked for");
        }
        self.sweep_images();
    }

    /// Removes locks that are not held, and files without a record or without their image. What that freed, in bytes.
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

    /// Called under its lock, so that no process is about to write its record.
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

    /// Puts a stored file away that is not what it should be. A process that has it open keeps it. Called under its lock.
    pub(super) fn quarantine(&self, sha256: Sha256) -> Result<PathBuf, ImageError> {
        let path = self.path(sha256);
        let folder = self.quarantined();
        let to = folder.join(sha256.to_string());
        state::create_private(&folder)
            .and_then(|()| state::remove(&beside(&path, "json")))
            .and_then(|()| fs::rename(&path, &to))
            .map_err(ImageError::store(&path))?;
        tracing::warn!(to = %to.display(), "a stored image is not what its digest says; it was put away");
        Ok(to)
    }

    fn quarantined(&self) -> PathBuf {
        self.root.with_file_name("quarantine")
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

    /// A lock that is held for a moment is waited for.
    fn try_lock(&self, sha256: Sha256) -> Result<Option<Lock>, ImageError> {
        let path = beside(&self.path(sha256), "lock");
        let began = Instant::now();
        loop {
            let lock = Lock::try_take(&path).map_err(ImageError::store(&path))?;
            if lock.is_some() || began.elapsed() > limits::IMAGE_LOCK {
                return Ok(lock);
            }
            thread::sleep(limits::FETCH_LOCK_POLL);
        }
    }

    /// Called under its lock. The record goes first: what is left is no image. False where it is used.
    fn remove_locked(&self, sha256: Sha256) -> Result<bool, ImageError> {
        let path = self.path(sha256);
        let _alone = match hold(&path)? {
            Hold::Used => return Ok(false),
            Hold::Mine(file) => Some(file),
            Hold::StageClosed => None,
        };
        LEFT.into_iter()
            .filter(|ending| !ending.is_empty())
            .try_for_each(|ending| state::remove(&beside(&path, ending)))
            .and_then(|()| state::remove(&path))
            .map_err(ImageError::store(&path))?;
        Ok(true)
    }

    /// Under its lock: who looks for the image just then waits for that, instead of finding none.
    fn is_used(&self, sha256: Sha256) -> bool {
        let lock = self.try_lock(sha256);
        let held = hold(&self.path(sha256));
        drop(lock);
        !matches!(held, Ok(Hold::Mine(_) | Hold::StageClosed))
    }

    /// Every digest that has a file of any kind, with the endings of its files; the image's own is empty.
    pub(super) fn named(&self) -> Result<BTreeMap<Sha256, BTreeSet<String>>, ImageError> {
        let mut named = BTreeMap::<_, BTreeSet<_>>::new();
        for shard in entries(&self.root)?.into_iter().filter(|shard| is_shard(shard)) {
            for file in entries(&shard)? {
                let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let (digest, ending) = name.split_once('.').unwrap_or((&name, ""));
                if let Ok(sha256) = digest.parse::<Sha256>() {
                    named.entry(sha256).or_default().insert(ending.to_owned());
                }
            }
        }
        Ok(named)
    }
}

impl Collected {
    fn went(&mut self, bytes: u64) {
        self.freed += bytes;
        self.kept = self.kept.saturating_sub(bytes);
    }
}

/// The endings of stale files, and of an earlier version's parts.
const LEFT_OVER: [&str; 5] = ["lock", "json.tmp", "part", "resume", "resume.tmp"];

/// The endings of an image and of what goes with it; `origins` is of an earlier version.
const LEFT: [&str; 4] = ["", "json", "used", "origins"];

/// A folder of images is named by two hexadecimal digits; a file system's own `lost+found` is none.
fn is_shard(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.len() == 2 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What is in a folder; nothing where there is none.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let read =
        fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        read => read.map_err(ImageError::store(folder)),
    }
}

/// Who uses a file.
enum Hold {
    /// Locks it against all others, for as long as this is open.
    Mine(File),
    Used,
    StageClosed,
}

fn hold(path: &Path) -> Result<Hold, ImageError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Hold::StageClosed),
        Err(error) => return Err(ImageError::store(path)(error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(Hold::Mine(file)),
        Err(TryLockError::WouldBlock) => Ok(Hold::Used),
        Err(TryLockError::Error(error)) => Err(ImageError::store(path)(error)),
    }
}
