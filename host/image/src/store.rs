//! The store: `images/sha256/<aa>/<digest>`, read-only files, each named by the digest of the file that was served.
//!
//! A file gets that name by a rename, after it was hashed, inspected and made durable; `<digest>.json` is written after
//! that, and what has none is no image. Until then it is `<digest>.<flight>.part`, a flight being one list of sources:
//! `<digest>.<flight>.lock` is held by whoever fetches from these, so that several runs at once fetch once, and a slow
//! source holds up nobody who has another. What a killed run left is swept by the next fetch.
//!
//! A stored image is used again only if it looks as it did when its bytes were last hashed; one that does not is hashed
//! again. Whoever uses one holds a shared lock on the file itself, a lease, which keeps it from being removed.
//!
//! The record lists the origins (RFC 6454) that were seen to serve the image. A job that names other ones has it fetched
//! from there once more: policies trust origins, and a digest alone would let a tenant claim that an image comes from one
//! that never served it. Within an origin a digest is enough, as the digest of an image is no secret to be kept by.

mod catalog;
mod check;
mod unfinished;
mod claim;
mod lists;
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
    thread,
    time::{Instant, SystemTime},
};

use jiff::Timestamp;
use serde::Serialize;
use tokio::{task::spawn_blocking, time};
use url::Url;

use qhost_model::{digest::Sha256, format::Format, job::ImageRequest};
use qhost_sys::{failpoint, state};

use super::{
    ImageError, Inspected, Refusal, Settings, fetch,
    inspect::{self, RULES},
    shown,
};
use crate::limits;

pub use catalog::{Checked, Collect, Collected, Stored};
pub use claim::Fetcher;
pub use record::Record;
pub use unfinished::Unfinished;

pub(super) use claim::Claim;
pub(super) use part::Part;

use lock::Lock;
use record::Stamp;

/// The folder of images.
#[derive(Debug, Clone)]
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
    lease: Arc<File>,
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

    /// What keeps it from being removed, for whoever uses it next.
    pub fn lease(&self) -> io::Result<File> {
        self.lease.try_clone()
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
    Changed,
    /// None of its origins is one that is asked for.
    Elsewhere,
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
        tenant: &str,
        config: &Settings,
    ) -> Result<Option<VerifiedImage>, ImageError> {
        match self.known_digest(request, Some(tenant))? {
            Some(sha256) => match self.find(sha256, request, config)? {
                Found::Ready(image) => Ok(Some(image)),
                Found::Changed | Found::Elsewhere | Found::Nothing => Ok(None),
            },
            None => Ok(None),
        }
    }

    /// Whether the image would have to be fetched: it is not stored, or no origin of its sources has served it.
    pub fn would_fetch(
        &self,
        request: &ImageRequest,
        tenant: &str,
        config: &Settings,
    ) -> Result<bool, ImageError> {
        let Some(sha256) = self.known_digest(request, Some(tenant))? else { return Ok(true) };
        Ok(match self.find(sha256, request, config)? {
            Found::Ready(_) | Found::Changed => false,
            Found::Elsewhere | Found::Nothing => true,
        })
    }

    /// The stored image, fetched first if it is not there.
    pub async fn ensure(
        &self,
        request: &ImageRequest,
        fetcher: Fetcher<'_>,
    ) -> Result<VerifiedImage, ImageError> {
        let config = fetcher.config;
        let sha256 = self.resolve(request, fetcher).await?;
        if let Found::Ready(image) = self.find(sha256, request, config)? {
            self.note_use(sha256);
            return Ok(image);
        }
        let path = self.path(sha256);
        let shard = path.parent().unwrap_or(&self.root);
        state::create_private(shard).map_err(ImageError::store(shard))?;
        let flight = flight(request);
        let lock = self.lock(&beside(&path, &format!("{flight}.lock")), request, fetcher).await?;
        failpoint::reach("store.locked");
        self.sweep();
        // Whoever held the lock before may have fetched it.
        let mut found = self.find(sha256, request, config)?;
        if let Found::Changed = found {
            let _digest = self.lock(&beside(&path, "lock"), request, fetcher).await?;
            if let Some(record) = Record::read(&path)? {
                self.check(sha256, record, fetcher.progress).await?;
            }
            found = self.find(sha256, request, config)?;
        }
        let image = match found {
            Found::Ready(image) => image,
            Found::Changed | Found::Elsewhere | Found::Nothing => {
                let part = Part::open(&path, &flight, fetcher.claim(self, lock)?)?;
                self.fetch(sha256, request, part, fetcher).await?
            }
        };
        self.note_use(sha256);
        Ok(image)
    }

    fn find(
        &self,
        sha256: Sha256,
        request: &ImageRequest,
        config: &Settings,
    ) -> Result<Found, ImageError> {
        let path = self.path(sha256);
        let Some(record) = Record::read(&path)? else { return Ok(Found::Nothing) };
        let Some(lease) = lease(&path)? else { return Ok(Found::Nothing) };
        let stamp =
            lease.metadata().map(|file| Stamp::of(&file)).map_err(ImageError::store(&path))?;
        if stamp != record.stamp || !stamp.is_guarded() {
            tracing::warn!(path = %path.display(), "a stored image changed since it was hashed");
            return Ok(Found::Changed);
        }
        let served = |source: &Url| record.origins.contains(&origin(source));
        if !request.sources().any(served) {
            return Ok(Found::Elsewhere);
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
            lease: Arc::new(lease),
        }))
    }

    /// Fetches it under its flight's lock. Where the same bytes are stored already, from elsewhere or by another flight,
    /// the stored file, which VMs may have open, stays.
    async fn fetch(
        &self,
        sha256: Sha256,
        request: &ImageRequest,
        mut part: Part,
        fetcher: Fetcher<'_>,
    ) -> Result<VerifiedImage, ImageError> {
        let (path, config) = (self.path(sha256), fetcher.config);
        // Held until the record is written: who waits for it would else fetch once more.
        let claim = part.claim();
        let fetched = fetch::image(request.sources(), sha256, &mut part, fetcher).await?;
        // Refused, it is nothing to go on with.
        let inspected = inspected(&part.file()?, part.path(), sha256, config).or_else(|error| {
            part.clear()?;
            Err(error)
        })?;
        failpoint::reach("store.inspected");
        let mut lock = self.lock(&beside(&path, "lock"), request, fetcher).await?;
        let mut record = match self.find(sha256, request, config)? {
            Found::Ready(_) | Found::Elsewhere => {
                part.clear()?;
                let known =
                    Record::read(&path)?.filter(|known| known.content_sha256 == fetched.content);
                known.ok_or_else(|| two_images(sha256))?
            }
            Found::Changed | Found::Nothing => {
                let at = path.clone();
                // Making it durable takes as long as the disk does.
                // Its lock goes along: this may be dropped meanwhile.
                let held = lock;
                let published = spawn_blocking(move || (part.publish(&at), held)).await;
                let published = published.map_err(io::Error::other);
                let (guarded, held) = published.map_err(ImageError::store(&path))?;
                lock = held;
                let guarded = guarded.map_err(ImageError::store(&path))?;
                Record {
                    inspected,
                    rules: RULES,
                    content_sha256: fetched.content,
                    origins: vec![],
                    source: shown(fetched.source),
                    fetched_at: Timestamp::now(),
                    tenant: claim.tenant().map(str::to_owned),
                    fs_verity: guarded,
                    stamp: stamp(&path)?,
                }
            }
        };
        record.add_origin(origin(fetched.source));
        record.write(&path)?;
        claim.give_back()?;
        drop(lock);
        failpoint::reach("store.recorded");
        match self.find(sha256, request, config)? {
            Found::Ready(image) => Ok(VerifiedImage { cached: false, ..image }),
            Found::Changed | Found::Elsewhere | Found::Nothing => {
                let lost = "what was just stored is not there any more";
                Err(ImageError::store(&path)(io::Error::other(lost)))
            }
        }
    }

    /// Takes a lock, waiting while another run has it.
    async fn lock(
        &self,
        path: &Path,
        request: &ImageRequest,
        Fetcher { config, progress, .. }: Fetcher<'_>,
    ) -> Result<Lock, ImageError> {
        let began = Instant::now();
        let acquired = async {
            let mut told = false;
            loop {
                if let Some(lock) = Lock::try_take(path).map_err(ImageError::store(path))? {
                    return Ok(lock);
                }
                // Not of one that is held for a moment only.
                if began.elapsed() > limits::FETCH_LOCK_TOLD && !std::mem::replace(&mut told, true)
                {
                    progress.waiting();
                }
                time::sleep(limits::FETCH_LOCK_POLL).await;
            }
        };
        match time::timeout(config.total_timeout(), acquired).await {
            Ok(locked) => locked,
            Err(_) => Err(ImageError::Waited {
                sha256: request.checksum.pin(),
                seconds: config.total_timeout().as_secs(),
            }),
        }
    }

    /// Remembers when it was last used. Best done, never in the way: the store may be read-only.
    pub fn note_use(&self, sha256: Sha256) {
        let path = beside(&self.path(sha256), "used");
        let touched = File::options().create(true).append(true).open(&path);
        if let Err(error) = touched.and_then(|file| file.set_modified(SystemTime::now())) {
            tracing::debug!(path = %path.display(), %error, "when an image was used is not noted");
        }
    }

    /// The lock under which the disk space of images is counted and claimed.
    fn claims(&self) -> PathBuf {
        self.root.parent().unwrap_or(&self.root).with_file_name(".images.lock")
    }

    /// Where an image of this digest is or would be.
    pub fn path(&self, sha256: Sha256) -> PathBuf {
        let digest = sha256.to_string();
        let shard: String = digest.chars().take(2).collect();
        self.root.join(shard).join(digest)
    }
}

/// A file beside an image: `<digest>.<ending>`.
fn beside(image: &Path, ending: &str) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

/// What is asked of the same sources is fetched once.
fn flight(request: &ImageRequest) -> String {
    let sources: String = request.sources().map(|source| format!("{source}\n")).collect();
    Sha256::of(sources.as_bytes()).to_string().chars().take(16).collect()
}

/// A packed file and what it unpacks to cannot both be the image of one digest.
fn two_images(sha256: Sha256) -> ImageError {
    let reason =
        "the same file is stored unpacked, or packed, by another name of its source".into();
    ImageError::Unsafe { sha256, refusal: Refusal { check: "one-format", reason } }
}

/// What keeps a stored image from being removed that a VM's QEMU has open; nothing where it has been.
pub fn hold(path: &Path) -> Option<File> {
    lease(path).ok().flatten()
}

/// The file, shared with all who use it; nothing where it is not there or on its way out.
fn lease(path: &Path) -> Result<Option<File>, ImageError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ImageError::store(path)(error)),
    };
    // Whoever looks whether anybody uses it holds it for a moment.
    for attempt in 1.. {
        match file.try_lock_shared() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if attempt < qhost_sys::limits::LOCK_TRIES => {
                thread::sleep(qhost_sys::limits::LOCK_POLL);
            }
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(ImageError::store(path)(error)),
        }
    }
    let linked = file.metadata().map_err(ImageError::store(path))?.nlink() > 0;
    Ok(linked.then_some(file))
}

fn stamp(path: &Path) -> Result<Stamp, ImageError> {
    fs::metadata(path).map(|file| Stamp::of(&file)).map_err(ImageError::store(path))
}

fn inspected(
    file: &File,
    path: &Path,
    sha256: Sha256,
    config: &Settings,
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
