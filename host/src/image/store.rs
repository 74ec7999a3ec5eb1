//! The store: `images/sha256/<aa>/<digest>`, read-only files whose name is what they hash to.
//!
//! A file gets that name by a rename, after it was hashed, inspected and made durable. Until then it is
//! `<digest>.part`, which nothing takes for an image; `<digest>.lock` is held by whoever fetches it, so that two runs
//! at once fetch once, and a `.part` whose lock is free is litter of a killed run.

use std::{
    fs::{self, File, Permissions, TryLockError},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde::Serialize;
use tokio::time;

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

    /// The stored image, if it is there. Reads only.
    pub fn get(
        &self,
        sha256: Sha256,
        config: &config::Image,
    ) -> Result<Option<VerifiedImage>, ImageError> {
        let path = self.path(sha256);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ImageError::store(path)(error)),
        };
        let inspected = inspected(&file, &path, sha256, config)?;
        Ok(Some(verified(path, sha256, inspected, true)))
    }

    /// The stored image, fetched first if it is not there.
    pub async fn ensure(
        &self,
        request: &ImageRequest,
        config: &config::Image,
        progress: &dyn Progress,
    ) -> Result<VerifiedImage, ImageError> {
        if let Some(image) = self.get(request.sha256, config)? {
            return Ok(image);
        }
        let path = self.path(request.sha256);
        let shard = path.parent().unwrap_or(&self.root);
        state::create_private(shard).map_err(ImageError::store(shard))?;
        let _lock = lock(&path.with_extension("lock"), request, config, progress).await?;
        // Whoever held the lock before may have fetched it.
        if let Some(image) = self.get(request.sha256, config)? {
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
        part.publish(&path).map_err(ImageError::store(&path))?;
        Ok(verified(path, request.sha256, inspected, false))
    }

    /// Removes what killed runs left: parts that nobody holds the lock of. Best done, never in the way.
    fn sweep(&self) {
        let shards = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let files = shards.filter_map(|shard| fs::read_dir(shard.path()).ok()).flatten().flatten();
        for path in
            files.map(|file| file.path()).filter(|path| path.extension() == Some("part".as_ref()))
        {
            let lock = File::open(path.with_extension("lock"));
            if lock.is_ok_and(|lock| lock.try_lock().is_ok())
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
        Ok(Err(reason)) => Err(ImageError::Unsafe { sha256, reason }),
        Err(error) => Err(ImageError::store(path)(error)),
    }
}

fn verified(path: PathBuf, sha256: Sha256, inspected: Inspected, cached: bool) -> VerifiedImage {
    let Inspected { format, disk_bytes, bytes } = inspected;
    VerifiedImage { path, sha256, bytes, format, disk_bytes, cached }
}

/// Takes a digest's lock, waiting while another run fetches it.
async fn lock(
    path: &Path,
    request: &ImageRequest,
    config: &config::Image,
    progress: &dyn Progress,
) -> Result<File, ImageError> {
    let file =
        File::options().create(true).append(true).open(path).map_err(ImageError::store(path))?;
    let acquired = async {
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::Error(error)) => return Err(ImageError::store(path)(error)),
                Err(TryLockError::WouldBlock) => {}
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
        Ok(locked) => locked.map(|()| file),
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
