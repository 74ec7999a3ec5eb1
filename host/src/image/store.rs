//! The store: `images/sha256/<aa>/<digest>`, read-only files, each named by the digest of the file that was served.
//!
//! A file gets that name by a rename, after it was hashed, inspected and made durable; `<digest>.json` is written after
//! that, and what has none is no image. Until then it is `<digest>.part`. `<digest>.lock` is held by whoever fetches it,
//! so that several runs at once fetch once. What a killed run left is swept by the next fetch.
//!
//! A stored image is used again only if it looks as it did when its bytes were last hashed; one that does not is hashed
//! again. Whoever uses one holds a shared lock on the file itself, a lease, which keeps it from being removed.
//!
//! The record lists the origins (RFC 6454) that were seen to serve the image. A job that names other ones has it fetched
//! from there once more: policies trust origins, and a digest alone would let a tenant claim that an image comes from one
//! that never served it, or boot an image that only another tenant may fetch.

mod catalog;
mod lock;
mod part;
mod record;
mod verity;

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use jiff::Timestamp;
use serde::Serialize;
use tokio::{task::spawn_blocking, time};
use url::Url;

use super::{
    Doing, Format, ImageError, Inspected, Progress, fetch,
    inspect::{self, RULES},
    pipe, shown, sums,
};
use crate::{
    config,
    digest::{Hasher, Sha256},
    failpoint,
    job::{Checksum, ImageRequest},
    limits, state,
};

pub use catalog::{Checked, Collected, Stored};
pub use record::Record;

pub(super) use part::Part;

use lock::Lock;
use record::Stamp;

/// The folder of images.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    sums: PathBuf,
}

/// An image whose bytes hash to its digest and which passed inspection. Made only here.
#[derive(Debug, Clone, Serialize)]
pub struct VerifiedImage {
    #[serde(skip)]
    path: PathBuf,
    sha256: Sha256,
    #[serde(flatten)]
    inspected: Inspected,
    cached: bool,
    /// Keeps it from being removed.
    #[serde(skip)]
    _lease: Arc<File>,
}

impl VerifiedImage {
    /// The stored file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its digest.
    pub fn sha256(&self) -> Sha256 {
        self.sha256
    }

    /// What QEMU is to be told it is.
    pub fn format(&self) -> Format {
        self.inspected.format
    }

    /// The size in bytes of the disk that a guest sees.
    pub fn disk_bytes(&self) -> u64 {
        self.inspected.disk_bytes
    }

    /// Whether it was in the store already.
    pub fn cached(&self) -> bool {
        self.cached
    }
}

/// What is found of an image.
enum Found {
    Ready(VerifiedImage),
    /// It is not what was recorded, or not as it was recorded.
    Changed(Record),
    /// None of its origins is one that is asked for.
    Elsewhere(Record),
    Nothing,
}

impl Store {
    /// The store in a state folder; nothing is made until an image comes.
    pub fn new(state_dir: &Path) -> Self {
        let images = state_dir.join("images");
        Self { root: images.join("sha256"), sums: images.join("sums") }
    }

    /// The stored image, if it is there and one of its sources' origins has served it. Reads only.
    pub fn get(
        &self,
        request: &ImageRequest,
        config: &config::Image,
    ) -> Result<Option<VerifiedImage>, ImageError> {
        match self.known_digest(request)? {
            Some(sha256) => match self.find(sha256, request, config)? {
                Found::Ready(image) => Ok(Some(image)),
                Found::Changed(_) | Found::Elsewhere(_) | Found::Nothing => Ok(None),
            },
            None => Ok(None),
        }
    }

    /// The digest of the file that will be served, if that is known without a request.
    pub fn known_digest(&self, request: &ImageRequest) -> Result<Option<Sha256>, ImageError> {
        match &request.checksum {
            Checksum::Image { sha256 } => Ok(Some(*sha256)),
            Checksum::List { sums: url, sha256 } => {
                match fs::read(self.sums.join(sha256.to_string())) {
                    Ok(list) if Sha256::of(&list) == *sha256 => {
                        listed(&list, url, request).map(Some)
                    }
                    Ok(_) | Err(_) => Ok(None),
                }
            }
        }
    }

    /// The stored image, fetched first if it is not there.
    pub async fn ensure(
        &self,
        request: &ImageRequest,
        config: &config::Image,
        progress: &dyn Progress,
    ) -> Result<VerifiedImage, ImageError> {
        let sha256 = self.digest(request, config, progress).await?;
        if let Found::Ready(image) = self.find(sha256, request, config)? {
            self.note_use(sha256);
            return Ok(image);
        }
        let path = self.path(sha256);
        let shard = path.parent().unwrap_or(&self.root);
        state::create_private(shard).map_err(ImageError::store(shard))?;
        let _lock = self.lock(sha256, request, config, progress).await?;
        failpoint::reach("store.locked");
        self.sweep(limits::FETCH_PART_KEPT);
        // Whoever held the lock before may have fetched it.
        let mut found = self.find(sha256, request, config)?;
        if let Found::Changed(record) = found {
            self.check(sha256, record, progress).await?;
            found = self.find(sha256, request, config)?;
        }
        let image = match found {
            Found::Ready(image) => image,
            Found::Elsewhere(record) => {
                self.fetch(sha256, request, Some(record), config, progress).await?
            }
            Found::Changed(_) | Found::Nothing => {
                self.fetch(sha256, request, None, config, progress).await?
            }
        };
        self.note_use(sha256);
        Ok(image)
    }

    async fn digest(
        &self,
        request: &ImageRequest,
        config: &config::Image,
        progress: &dyn Progress,
    ) -> Result<Sha256, ImageError> {
        if let Some(known) = self.known_digest(request)? {
            return Ok(known);
        }
        let Checksum::List { sums: url, sha256: expected } = &request.checksum else {
            return Ok(request.checksum.pin());
        };
        let list = fetch::sums(url, config, progress).await?;
        let (found, bytes) = (Sha256::of(&list), list.len() as u64);
        if found != *expected {
            return Err(ImageError::Mismatch {
                url: shown(url),
                expected: *expected,
                found,
                bytes,
            });
        }
        let path = self.sums.join(expected.to_string());
        state::write_whole(&path, &list).map_err(ImageError::store(&path))?;
        self.forget_old_lists();
        listed(&list, url, request)
    }

    /// Tenants name lists, so there is an end to how many are kept. Best done, never in the way.
    fn forget_old_lists(&self) {
        let lists = fs::read_dir(&self.sums).into_iter().flatten().flatten();
        let mut lists: Vec<_> = lists
            .map(|list| (list.metadata().and_then(|list| list.modified()).ok(), list.path()))
            .collect();
        lists.sort();
        let excess = lists.len().saturating_sub(limits::SUMS_KEPT);
        for (_, path) in lists.into_iter().take(excess) {
            if let Err(error) = part::remove(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove an old list of checksums");
            }
        }
    }

    fn find(
        &self,
        sha256: Sha256,
        request: &ImageRequest,
        config: &config::Image,
    ) -> Result<Found, ImageError> {
        let path = self.path(sha256);
        let Some(record) = Record::read(&path)? else { return Ok(Found::Nothing) };
        let Some(lease) = lease(&path)? else { return Ok(Found::Nothing) };
        let stamp =
            lease.metadata().map(|file| Stamp::of(&file)).map_err(ImageError::store(&path))?;
        if stamp != record.stamp || !stamp.is_guarded() {
            tracing::warn!(path = %path.display(), "a stored image changed since it was hashed");
            return Ok(Found::Changed(record));
        }
        let served = |source: &Url| record.origins.contains(&origin(source));
        if !request.sources().any(served) {
            return Ok(Found::Elsewhere(record));
        }
        let inspected =
            match record.rules == RULES && record.inspected.disk_bytes <= config.max_disk_bytes {
                true => record.inspected,
                false => inspected(&lease, &path, sha256, config)?,
            };
        Ok(Found::Ready(VerifiedImage {
            path,
            sha256,
            inspected,
            cached: true,
            _lease: Arc::new(lease),
        }))
    }

    /// Fetches it under its lock. `known` is the record of the same bytes from elsewhere: the stored file, which VMs may
    /// have open, then stays.
    async fn fetch(
        &self,
        sha256: Sha256,
        request: &ImageRequest,
        known: Option<Record>,
        config: &config::Image,
        progress: &dyn Progress,
    ) -> Result<VerifiedImage, ImageError> {
        let path = self.path(sha256);
        let mut part = Part::open(&path)?;
        let fetched = fetch::image(request.sources(), sha256, &mut part, config, progress).await?;
        // Refused, it is nothing to go on with.
        let inspected = inspected(&part.file()?, part.path(), sha256, config).or_else(|error| {
            part.clear()?;
            Err(error)
        })?;
        failpoint::reach("store.inspected");
        let mut record = match known {
            Some(record) => {
                part.clear()?;
                record
            }
            None => {
                let at = path.clone();
                // Making it durable takes as long as the disk does.
                let published = spawn_blocking(move || part.publish(&at)).await;
                let guarded = published.map_err(io::Error::other).and_then(|done| done);
                let guarded = guarded.map_err(ImageError::store(&path))?;
                Record {
                    inspected,
                    rules: RULES,
                    content_sha256: fetched.content,
                    origins: vec![],
                    source: shown(fetched.source),
                    fetched_at: Timestamp::now(),
                    fs_verity: guarded,
                    stamp: stamp(&path)?,
                }
            }
        };
        record.origins.push(origin(fetched.source));
        record.write(&path)?;
        failpoint::reach("store.recorded");
        let gone = || ImageError::store(&path)(io::ErrorKind::NotFound.into());
        let lease = lease(&path)?.ok_or_else(gone)?;
        Ok(VerifiedImage { path, sha256, inspected, cached: false, _lease: Arc::new(lease) })
    }

    /// Hashes a stored file again; one that is not what it was is put away. Called under its lock.
    async fn check(
        &self,
        sha256: Sha256,
        mut record: Record,
        progress: &dyn Progress,
    ) -> Result<Checked, ImageError> {
        let path = self.path(sha256);
        let file = File::open(&path).map_err(ImageError::store(&path))?;
        let before =
            file.metadata().map(|file| Stamp::of(&file)).map_err(ImageError::store(&path))?;
        let found = digest_of(file, progress).await.map_err(ImageError::store(&path))?;
        // A file that others may write to can be another one by now.
        if found == record.content_sha256 && before == stamp(&path)? && before.is_guarded() {
            if record.stamp != before {
                record.stamp = before;
                record.write(&path)?;
            }
            return Ok(Checked::Sound);
        }
        self.quarantine(sha256).map(|to| Checked::Quarantined { found, to })
    }

    /// Takes an image's lock, waiting while another run has it.
    async fn lock(
        &self,
        sha256: Sha256,
        request: &ImageRequest,
        config: &config::Image,
        progress: &dyn Progress,
    ) -> Result<Lock, ImageError> {
        let path = self.path(sha256).with_extension("lock");
        let acquired = async {
            let mut told = false;
            loop {
                if let Some(lock) = Lock::try_take(&path).map_err(ImageError::store(&path))? {
                    return Ok(lock);
                }
                if !std::mem::replace(&mut told, true) {
                    progress.waiting();
                }
                time::sleep(limits::FETCH_LOCK_POLL).await;
            }
        };
        match time::timeout(config.total_timeout(), acquired).await {
            Ok(locked) => locked,
            Err(_) => Err(fetch::too_slow(&request.source, config)),
        }
    }

    /// Remembers when it was last used. Best done, never in the way: the store may be read-only.
    fn note_use(&self, sha256: Sha256) {
        let path = self.path(sha256).with_extension("used");
        let touched = File::options().create(true).append(true).open(&path);
        if let Err(error) = touched.and_then(|file| file.set_modified(SystemTime::now())) {
            tracing::debug!(path = %path.display(), %error, "when an image was used is not noted");
        }
    }

    /// Where an image of this digest is or would be.
    pub fn path(&self, sha256: Sha256) -> PathBuf {
        let digest = sha256.to_string();
        let shard: String = digest.chars().take(2).collect();
        self.root.join(shard).join(digest)
    }
}

fn listed(list: &[u8], url: &Url, request: &ImageRequest) -> Result<Sha256, ImageError> {
    sums::find(list, &request.source).map_err(|reason| ImageError::Sums { url: shown(url), reason })
}

/// The file, shared with all who use it; nothing where it is not there or on its way out.
fn lease(path: &Path) -> Result<Option<File>, ImageError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ImageError::store(path)(error)),
    };
    match file.try_lock_shared() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(ImageError::store(path)(error)),
    }
    let linked = file.metadata().map_err(ImageError::store(path))?.nlink() > 0;
    Ok(linked.then_some(file))
}

fn stamp(path: &Path) -> Result<Stamp, ImageError> {
    fs::metadata(path).map(|file| Stamp::of(&file)).map_err(ImageError::store(path))
}

async fn digest_of(file: File, progress: &dyn Progress) -> io::Result<Sha256> {
    let length = file.metadata()?.len();
    progress.begins(Doing::Checking, Some(length));
    let (sender, mut hashed) = tokio::sync::watch::channel(0);
    let hashing = spawn_blocking(move || {
        let mut hasher = Hasher::default();
        let hashed = &mut |bytes| {
            sender.send_replace(bytes);
        };
        pipe::hash_prefix(&mut hasher, &file, length, hashed).map(|()| hasher.finish())
    });
    while hashed.changed().await.is_ok() {
        progress.done(*hashed.borrow_and_update());
    }
    hashing.await.map_err(io::Error::other)?
}

fn inspected(
    file: &File,
    path: &Path,
    sha256: Sha256,
    config: &config::Image,
) -> Result<Inspected, ImageError> {
    match inspect::inspect(file, config.max_disk_bytes) {
        Ok(Ok(inspected)) => Ok(inspected),
        Ok(Err(refusal)) => Err(ImageError::Unsafe { sha256, refusal }),
        Err(error) => Err(ImageError::store(path)(error)),
    }
}

/// Scheme, host and port.
fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}
