//! Lists the stored images, finds them by their names, checks them, removes them and puts them away.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use jiff::Timestamp;
use serde::Serialize;

use qhost_model::digest::Sha256;
use qhost_sys::state;

use super::{
    super::{ImageError, Progress},
    Lock, Record, Store, beside,
};
use crate::limits;

/// A stored image.
#[derive(Debug, Clone, Serialize)]
pub struct Stored {
    /// The image's digest.
    pub sha256: Sha256,
    /// The image's record.
    #[serde(flatten)]
    pub record: Record,
    /// The bytes that the image takes of the disk, which are fewer than its size where it has holes.
    pub disk_usage: u64,
    /// The time at which a run last used the image.
    pub used_at: Timestamp,
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum CheckOutcome {
    /// The image's bytes hash to what they should.
    Sound,
    /// The bytes hash to something else, or users could write to the file; it was put away.
    Quarantined {
        /// The digest of the file as it is now.
        found: Sha256,
        /// The path that the file has now.
        to: PathBuf,
    },
    /// The file cannot be read.
    Unreadable {
        /// Why the file cannot be read.
        reason: String,
    },
    /// Another process works on the image.
    Busy,
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

    /// Finds the one stored image whose digest begins with a prefix.
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
    ) -> Result<CheckOutcome, ImageError> {
        let lock = match self.try_lock(stored.sha256) {
            Ok(None) => return Ok(CheckOutcome::Busy),
            // Nothing changes in a read-only store, so that a check needs no lock.
            Err(ImageError::Store { source, .. })
                if source.kind() == io::ErrorKind::ReadOnlyFilesystem =>
            {
                None
            }
            lock => lock?,
        };
        // The image may have been removed, or fetched anew, since it was listed.
        let Some(record) = Record::read(&self.path(stored.sha256))? else {
            return Ok(CheckOutcome::Busy);
        };
        let checked = self.check(stored.sha256, record, progress).await;
        drop(lock);
        match checked {
            Err(ImageError::Store { source, .. }) => {
                Ok(CheckOutcome::Unreadable { reason: source.to_string() })
            }
            checked => checked,
        }
    }

    /// Removes a stored image; gives false where it is in use.
    pub fn remove(&self, stored: &Stored) -> Result<bool, ImageError> {
        match self.try_lock(stored.sha256)? {
            Some(_lock) => self.remove_locked(stored.sha256),
            None => Ok(false),
        }
    }

    /// Puts away a stored file that is not what it should be. A process that has it open keeps it. The caller holds the
    /// image's lock.
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

    pub(super) fn quarantined(&self) -> PathBuf {
        self.root.with_file_name("quarantine")
    }

    /// Takes an image's lock, and waits for one that is held for a moment.
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

    /// Removes an image; gives false where it is in use. The record goes first, so that a leftover is no image. The
    /// caller holds the lock.
    pub(super) fn remove_locked(&self, sha256: Sha256) -> Result<bool, ImageError> {
        let path = self.path(sha256);
        let _alone = match hold(&path)? {
            Hold::Used => return Ok(false),
            Hold::Mine(file) => Some(file),
            Hold::Gone => None,
        };
        LEFT.into_iter()
            .filter(|ending| !ending.is_empty())
            .try_for_each(|ending| state::remove(&beside(&path, ending)))
            .and_then(|()| state::remove(&path))
            .map_err(ImageError::store(&path))?;
        Ok(true)
    }

    /// Whether an image is in use. This holds the image's lock, so that a run that looks for the image just then waits,
    /// instead of finding none.
    pub(super) fn is_used(&self, sha256: Sha256) -> bool {
        let lock = self.try_lock(sha256);
        let held = hold(&self.path(sha256));
        drop(lock);
        !matches!(held, Ok(Hold::Mine(_) | Hold::Gone))
    }

    /// Lists every digest that has a file of any kind, with the endings of its files; the image's own ending is empty.
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

/// The endings of an image and of the files beside it; an earlier version wrote `origins`.
pub(super) const LEFT: [&str; 4] = ["", "json", "used", "origins"];

/// Whether a path is a folder of images, named by two hexadecimal digits; a file system's own `lost+found` is none.
fn is_shard(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.len() == 2 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The paths in a folder; none where the folder does not exist.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let read =
        fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        read => read.map_err(ImageError::store(folder)),
    }
}

/// The use of a file.
enum Hold {
    /// No process uses the file, and this lock keeps all others off it for as long as it is open.
    Mine(File),
    Used,
    Gone,
}

fn hold(path: &Path) -> Result<Hold, ImageError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Hold::Gone),
        Err(error) => return Err(ImageError::store(path)(error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(Hold::Mine(file)),
        Err(TryLockError::WouldBlock) => Ok(Hold::Used),
        Err(TryLockError::Error(error)) => Err(ImageError::store(path)(error)),
    }
}
