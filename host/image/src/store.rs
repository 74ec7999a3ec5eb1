//! The store: `images/sha256/<aa>/<digest>`, read-only files, each named by the digest of the file that was served.
//!
//! A file gets that name by a rename, after it was hashed, inspected and made durable. `<digest>.json` is written after that, and a
//! file without one is no image. Until then the file is `<digest>.<download>.part`, where a download is one list of sources.
//! `<digest>.<download>.lock` is held by the run that fetches from these sources, so that several runs at once fetch once, and a
//! slow source holds up no run that has another. The next fetch removes what a killed run left.
//!
//! A stored image is used again only if it looks as it did when its bytes were last hashed; if it looks different, it is hashed
//! again. Its users hold a lease, a shared lock on the file itself, which keeps it from being removed.
//!
//! The record lists the origins (RFC 6454) that were seen to serve the image. For a job that names other origins the image is
//! fetched from those once more: policies trust origins, and a digest alone would let a tenant claim that an image comes from an
//! origin that never served it. Within an origin a digest is enough, as the digest of an image is no secret.

mod gc;
mod stored;
mod check;
mod ensure;
mod unfinished;
mod claim;
mod lists;
mod lock;
mod part;
mod resume;
mod space;
mod origins;
mod record;
mod verity;

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::SystemTime,
};

use serde::Serialize;
use url::Url;

use qhost_model::{
    digest::{FileDigest, Sha256},
    format::Format,
    job::ImageRequest,
};

use super::{
    FetchFailure, ImageError, Inspected, NetworkRules, Settings,
    inspect::{self, RULES},
    shown,
};

pub use claim::Fetcher;
pub use gc::{Collect, Collected};
pub use record::Record;
pub use stored::{CheckOutcome, Stored};
pub use unfinished::Unfinished;

pub(super) use claim::Claim;
pub(super) use part::Part;

use ensure::Supply;
use lock::Lock;
use record::Stamp;

/// The store's folders.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    sums: PathBuf,
}

/// An image whose bytes hash to its digest and which passed inspection. Only this module makes one.
#[derive(Debug, Clone, Serialize)]
pub struct VerifiedImage {
    #[serde(skip)]
    path: PathBuf,
    sha256: Sha256,
    #[serde(flatten)]
    inspected: Inspected,
    cached: bool,
    /// The shared lock that keeps the file from being removed.
    #[serde(skip)]
    lease: Arc<File>,
}

impl VerifiedImage {
    /// The stored file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The image's digest.
    pub fn sha256(&self) -> Sha256 {
        self.sha256
    }

    /// The format that QEMU is told.
    pub fn format(&self) -> Format {
        self.inspected.format
    }

    /// The size in bytes of the disk that a guest sees.
    pub fn disk_bytes(&self) -> u64 {
        self.inspected.disk_bytes
    }

    /// The shared lock that keeps the file from being removed, for the image's next user.
    pub fn lease(&self) -> io::Result<File> {
        self.lease.try_clone()
    }

    /// Whether the image was in the store already.
    pub fn cached(&self) -> bool {
        self.cached
    }
}

/// The result of looking an image up.
enum Lookup {
    Ready(VerifiedImage),
    /// The stored file looks different from its record, or users could write to it.
    Changed,
    /// No source that is asked for has an origin that has served the image.
    Elsewhere,
    Nothing,
}

impl Store {
    /// The store in a state folder; no folder is made until an image comes.
    pub fn new(state_dir: &Path) -> Self {
        let images = state_dir.join("images");
        Self { root: images.join("sha256"), sums: images.join("sums") }
    }

    /// Gives the stored image, if it is there and an origin of its sources has served it. The store is only read.
    pub fn get(
        &self,
        request: &ImageRequest,
        tenant: &str,
        config: &Settings,
    ) -> Result<Option<VerifiedImage>, ImageError> {
        match self.known_digest(request, Some(tenant))? {
            Some(sha256) => match self.find(sha256, request, config)? {
                Lookup::Ready(image) => Ok(Some(image)),
                Lookup::Changed | Lookup::Elsewhere | Lookup::Nothing => Ok(None),
            },
            None => Ok(None),
        }
    }

    /// Whether the image would have to be fetched, because it is not stored or no origin of its sources has served it.
    pub fn would_fetch(
        &self,
        request: &ImageRequest,
        tenant: &str,
        config: &Settings,
    ) -> Result<bool, ImageError> {
        let Some(sha256) = self.known_digest(request, Some(tenant))? else { return Ok(true) };
        Ok(match self.find(sha256, request, config)? {
            Lookup::Ready(_) | Lookup::Changed => false,
            Lookup::Elsewhere | Lookup::Nothing => true,
        })
    }

    /// Checks that an image may be fetched from at least one of its sources, as far as that is known before their names are
    /// resolved, and that its list of checksums may be fetched too.
    pub fn may_fetch(&self, request: &ImageRequest, config: &Settings) -> Result<(), ImageError> {
        let rules = NetworkRules::new(&config.network);
        let check = |url: &Url| {
            rules.check(url).map_err(|forbidden| ImageError::Fetch {
                url: shown(url),
                reason: FetchFailure::Forbidden(forbidden.to_string()),
            })
        };
        request.checksum.sums().map_or(Ok(()), check)?;
        let refused: Vec<_> = request.sources().filter_map(|url| check(url).err()).collect();
        match refused.len() {
            all if all < request.sources().count() => Ok(()),
            1 => refused.into_iter().next().map_or(Ok(()), Err),
            _ => Err(ImageError::NoSource(refused)),
        }
    }

    fn find(
        &self,
        sha256: Sha256,
        request: &ImageRequest,
        config: &Settings,
    ) -> Result<Lookup, ImageError> {
        let path = self.path(sha256);
        let Some(record) = Record::read(&path)? else { return Ok(Lookup::Nothing) };
        let Some(lease) = lease(&path)? else { return Ok(Lookup::Nothing) };
        let stamp =
            lease.metadata().map(|file| Stamp::of(&file)).map_err(ImageError::store(&path))?;
        if stamp != record.stamp || !stamp.is_guarded() {
            tracing::warn!(path = %path.display(), "a stored image changed since it was hashed");
            return Ok(Lookup::Changed);
        }
        let served = |source: &Url| record.origins.list().contains(&origin(source));
        if !request.sources().any(served) {
            return Ok(Lookup::Elsewhere);
        }
        let inspected =
            if record.rules == RULES && record.inspected.disk_bytes <= config.max_disk_bytes {
                record.inspected
            } else {
                inspected(&lease, &path, sha256, config)?
            };
        Ok(Lookup::Ready(VerifiedImage {
            path,
            sha256,
            inspected,
            cached: true,
            lease: Arc::new(lease),
        }))
    }

    /// Notes the time at which an image was last used. A failure does no harm: the store may be read-only.
    pub fn note_use(&self, sha256: Sha256) {
        let path = beside(&self.path(sha256), "used");
        let touched = File::options().create(true).append(true).open(&path);
        if let Err(error) = touched.and_then(|file| file.set_modified(SystemTime::now())) {
            tracing::debug!(path = %path.display(), %error, "when an image was used is not noted");
        }
    }

    /// The path of the lock under which the disk space of images is counted and claimed.
    fn claims(&self) -> PathBuf {
        self.root.parent().unwrap_or(&self.root).with_file_name(".images.lock")
    }

    /// The path that an image of this digest has, or would have.
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

/// Takes a lease on a stored image that a VM's QEMU has open; gives nothing where the image has been removed.
pub fn hold(path: &Path) -> Option<File> {
    lease(path).ok().flatten()
}

/// Opens a file with a shared lock; gives nothing where the file does not exist or is being removed.
fn lease(path: &Path) -> Result<Option<File>, ImageError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ImageError::store(path)(error)),
    };
    // A command that looks whether the image is used holds the lock for a moment.
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
        Ok(Err(refusal)) => Err(ImageError::Unsafe { digest: FileDigest::Sha256(sha256), refusal }),
        Err(error) => Err(ImageError::store(path)(error)),
    }
}

/// A URL's origin: scheme, host and port.
fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}
