//! The store: `images/sha256/<aa>/<digest>`, read-only files whose name is what they hash to.
//!
//! A file gets that name by a rename, after it was hashed, inspected and made durable. Until then it is
//! `<digest>.part`, which nothing takes for an image; `<digest>.lock` is held by whoever fetches it, so that two runs
//! at once fetch once. Both go away with the fetch; what a killed run left of them is swept by the next.
//!
//! `<digest>.origins` lists the origins (RFC 6454) that were seen to serve the image. A job that names another origin
//! has it fetched from there once more: policies trust origins, and a digest alone would let a tenant claim that an
//! image comes from one that never served it, or boot an image that only another tenant may fetch.

use std::{
    fs::{self, File, Permissions, TryLockError},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde::Serialize;
use tokio::time;
use url::Url;

use super::{
    FetchFailure, Format, ImageError, Progress, fetch,
    inspect::{self, Inspected},
    shown,
};
use crate::{config, digest::Sha256, job::ImageRequest, limits, state};

/// The folder of images.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
}

/// An image whose bytes hash to its digest and which passed inspection. Made only here.
#[derive(Debug, Clone, Serialize)]
pub struct VerifiedImage {
    #[serde(skip)]
    path: PathBuf,
    sha256: Sha256,
    bytes: u64,
    format: Format,
    disk_bytes: u64,
    cached: bool,
}

impl VerifiedImage {
    /// The stored file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What QEMU is to be told it is.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The size of the disk that a guest sees.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Whether it was in the store already.
    pub fn cached(&self) -> bool {
        self.cached
    }
}

impl Store {
    /// The store in a state folder; nothing is made until an image comes.
    pub fn new(state_dir: &Path) -> Self {
        Self { root: state_dir.join("images/sha256") }
    }

    /// The stored image, if it is there and its source's origin has served it. Reads only.
    pub fn get(
        &self,
        request: &ImageRequest,
        config: &config::Image,
    ) -> Result<Option<VerifiedImage>, ImageError> {
        let path = self.path(request.sha256);
        if !self.origins(&path)?.contains(&origin(&request.source)) {
            return Ok(None);
        }
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ImageError::store(path)(error)),
        };
        let inspected = inspected(&file, &path, request.sha256, config)?;
        Ok(Some(verified(path, request.sha256, inspected, true)))
    }

    /// The stored image, fetched first if it is not there.
    pub async fn ensure(
        &self,
        request: &ImageRequest,
        config: &config::Image,
        progress: &dyn Progress,
    ) -> Result<VerifiedImage, ImageError> {
        if let Some(image) = self.get(request, config)? {
            return Ok(image);
        }
        let path = self.path(request.sha256);
        let shard = path.parent().unwrap_or(&self.root);
        state::create_private(shard).map_err(ImageError::store(shard))?;
        let _lock = lock(&path.with_extension("lock"), request, config, progress).await?;
        // Whoever held the lock before may have fetched it.
        if let Some(image) = self.get(request, config)? {
            return Ok(image);
        }
        self.sweep();
        self.fetch(request, path, config, progress).await
    }

    async fn fetch(
        &self,
        request: &ImageRequest,
        path: PathBuf,
        config: &config::Image,
        progress: &dyn Progress,
    ) -> Result<VerifiedImage, ImageError> {
        let part_path = path.with_extension("part");
        let mut part = Part::create(part_path.clone())?;
        let target = (&mut part.file, part_path.as_path());
        let fetched = fetch::fetch(&request.source, target, config, progress).await?;
        if fetched.sha256 != request.sha256 {
            return Err(ImageError::Mismatch {
                url: shown(&request.source),
                expected: request.sha256,
                found: fetched.sha256,
                bytes: fetched.bytes,
            });
        }
        let inspected = inspected(&part.file, &part_path, request.sha256, config)?;
        // The same bytes from another origin: the stored file, which VMs may have open, stays.
        if !path.exists() {
            part.publish(&path).map_err(ImageError::store(&path))?;
        }
        self.add_origin(&path, origin(&request.source))?;
        Ok(verified(path, request.sha256, inspected, false))
    }

    fn origins(&self, image: &Path) -> Result<Vec<String>, ImageError> {
        let path = image.with_extension("origins");
        match fs::read_to_string(&path) {
            Ok(origins) => Ok(origins.lines().map(str::to_owned).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
            Err(error) => Err(ImageError::store(path)(error)),
        }
    }

    /// Called under the image's lock.
    fn add_origin(&self, image: &Path, origin: String) -> Result<(), ImageError> {
        let mut origins = self.origins(image)?;
        origins.push(origin);
        let path = image.with_extension("origins");
        let text = origins.join("\n") + "\n";
        state::write_whole(&path, text.as_bytes()).map_err(ImageError::store(&path))
    }

    /// Removes what killed runs left: parts and locks that nobody holds. Best done, never in the way.
    fn sweep(&self) {
        let shards = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let files = shards.filter_map(|shard| fs::read_dir(shard.path()).ok()).flatten().flatten();
        let left = |path: &PathBuf| path.extension().is_some_and(|e| e == "part" || e == "lock");
        for path in files.map(|file| file.path()).filter(left) {
            // Taken, and let go with the lock's file removed.
            if let Ok(Some(_lock)) = Lock::try_take(&path.with_extension("lock"))
                && path.extension().is_some_and(|extension| extension == "part")
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove a killed run's part");
            }
        }
    }

    /// Where an image of this digest is or would be.
    pub fn path(&self, sha256: Sha256) -> PathBuf {
        let digest = sha256.to_string();
        let shard: String = digest.chars().take(2).collect();
        self.root.join(shard).join(digest)
    }
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

fn verified(path: PathBuf, sha256: Sha256, inspected: Inspected, cached: bool) -> VerifiedImage {
    let Inspected { format, disk_bytes, bytes } = inspected;
    VerifiedImage { path, sha256, bytes, format, disk_bytes, cached }
}

/// Scheme, host and port.
fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// A digest's lock; dropped, its file goes away.
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// The lock, unless somebody holds it.
    fn try_take(path: &Path) -> io::Result<Option<Self>> {
        loop {
            let file = File::options().create(true).append(true).open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Whoever held it before removed the file after we had opened it: then this is a lock on nothing.
            let named = fs::metadata(path).map(|named| named.ino());
            if named.is_ok_and(|named| file.metadata().is_ok_and(|held| held.ino() == named)) {
                return Ok(Some(Self { path: path.to_owned(), _file: file }));
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a lock");
        }
    }
}

/// Takes a digest's lock, waiting while another run fetches it.
async fn lock(
    path: &Path,
    request: &ImageRequest,
    config: &config::Image,
    progress: &dyn Progress,
) -> Result<Lock, ImageError> {
    let acquired = async {
        let mut told = false;
        loop {
            if let Some(lock) = Lock::try_take(path).map_err(ImageError::store(path))? {
                return Ok(lock);
            }
            if !told {
                progress.waiting();
                told = true;
            }
            time::sleep(limits::FETCH_LOCK_POLL).await;
        }
    };
    let total = config.total_timeout();
    match time::timeout(total, acquired).await {
        Ok(locked) => locked,
        Err(_) => Err(ImageError::Fetch {
            url: shown(&request.source),
            reason: FetchFailure::TooSlow { seconds: total.as_secs() },
        }),
    }
}

/// A file that is not an image yet; dropped unpublished, it is removed.
struct Part {
    file: File,
    path: PathBuf,
    published: bool,
}

impl Part {
    fn create(path: PathBuf) -> Result<Self, ImageError> {
        let file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(ImageError::store(&path))?;
        Ok(Self { file, path, published: false })
    }

    /// Makes it durable, read-only and an image, in this order.
    fn publish(mut self, path: &Path) -> io::Result<()> {
        self.file.set_permissions(Permissions::from_mode(0o444))?;
        self.file.sync_all()?;
        fs::rename(&self.path, path)?;
        self.published = true;
        match path.parent() {
            Some(shard) => File::open(shard)?.sync_all(),
            None => Ok(()),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove an unfinished image");
        }
    }
}
