//! An image that is not one yet: `<digest>.part`, and in `<digest>.resume` what it takes to go on with it. Nothing takes
//! it for an image. Dropped unpublished, it stays only where a later fetch can go on from there.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::fstatvfs;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{
    super::{ImageError, http::Version, shown},
    verity,
};
use crate::{digest::Sha256, failpoint, limits, state};

pub(in crate::image) struct Part {
    file: File,
    path: PathBuf,
    resume: PathBuf,
    published: bool,
}

/// What `<digest>.resume` has.
#[derive(Serialize, Deserialize)]
struct Note {
    /// The digest of the source's URL, which may have secrets in its query.
    source: Sha256,
    etag: String,
    total: u64,
}

impl Part {
    /// The unfinished image with what it has so far. Called under the image's lock.
    pub(super) fn open(image: &Path) -> Result<Self, ImageError> {
        let path = image.with_extension("part");
        let mut options = File::options();
        options.create(true).truncate(false).read(true).write(true).mode(0o600);
        let file = options.open(&path).map_err(ImageError::store(&path))?;
        failpoint::reach("store.part");
        Ok(Self { file, path, resume: image.with_extension("resume"), published: false })
    }

    pub(in crate::image) fn path(&self) -> &Path {
        &self.path
    }

    pub(in crate::image) fn file(&self) -> Result<File, ImageError> {
        self.file.try_clone().map_err(ImageError::store(&self.path))
    }

    pub(in crate::image) fn length(&self) -> Result<u64, ImageError> {
        self.file.metadata().map(|file| file.len()).map_err(ImageError::store(&self.path))
    }

    /// The version of a source's file that its bytes are of.
    pub(in crate::image) fn version_from(&self, source: &Url) -> Option<Version> {
        let Note { source: of, etag, total } =
            serde_json::from_slice(&fs::read(&self.resume).ok()?).ok()?;
        (of == Sha256::of(source.as_str().as_bytes())).then_some(Version { etag, total })
    }

    /// Writes down of what the bytes that follow are.
    pub(in crate::image) fn note(&self, source: &Url, version: &Version) -> Result<(), ImageError> {
        let source = Sha256::of(source.as_str().as_bytes());
        let note = Note { source, etag: version.etag.clone(), total: version.total };
        let bytes = serde_json::to_vec(&note).map_err(io::Error::other);
        bytes
            .and_then(|bytes| state::write_whole(&self.resume, &bytes))
            .map_err(ImageError::store(&self.resume))
    }

    /// Makes it empty, and nothing to go on with.
    pub(in crate::image) fn clear(&mut self) -> Result<(), ImageError> {
        remove(&self.resume).map_err(ImageError::store(&self.resume))?;
        self.file.set_len(0).map_err(ImageError::store(&self.path))
    }

    /// Whether the disk has room for a file of so many bytes from a source.
    pub(in crate::image) fn has_room_for(
        &self,
        needed: u64,
        source: &Url,
    ) -> Result<(), ImageError> {
        let disk =
            fstatvfs(&self.file).map_err(|error| ImageError::store(&self.path)(error.into()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let reserve =
            limits::DISK_RESERVE_BYTES.min(disk.f_blocks.saturating_mul(disk.f_frsize) / 10);
        match needed.saturating_add(reserve) <= free {
            true => Ok(()),
            false => {
                let url = shown(source);
                let path = self.path.parent().unwrap_or(&self.path).to_owned();
                Err(ImageError::NoSpace { url, path, free, needed, reserve })
            }
        }
    }

    /// Makes it durable, read-only and an image, in this order. Whether the file system guards it from then on.
    pub(super) fn publish(mut self, path: &Path) -> io::Result<bool> {
        self.file.set_permissions(Permissions::from_mode(0o444))?;
        self.file.sync_all()?;
        failpoint::reach("store.synced");
        // With nobody left who could write to it.
        self.file = File::open(&self.path)?;
        let guarded = verity::enable(&self.file);
        fs::rename(&self.path, path)?;
        self.published = true;
        failpoint::reach("store.renamed");
        remove(&self.resume)?;
        if let Some(shard) = path.parent() {
            File::open(shard)?.sync_all()?;
        }
        Ok(guarded)
    }

    /// Removes what a killed run left of an image, unless a fetch could go on from there. Called under its lock.
    pub(super) fn sweep(image: &Path, kept_for: Duration) -> io::Result<()> {
        let (path, resume) = (image.with_extension("part"), image.with_extension("resume"));
        let age =
            fs::metadata(&path).and_then(|part| part.modified()).map(|modified| modified.elapsed());
        // A clock that went back makes a part no older.
        let is_fresh = age.is_ok_and(|age| age.unwrap_or_default() < kept_for);
        match is_fresh && resume.exists() {
            true => Ok(()),
            false => remove(&path).and(remove(&resume)),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let kept = self.resume.exists() && self.file.metadata().is_ok_and(|file| file.len() > 0);
        if self.published || kept {
            return;
        }
        if let Err(error) = remove(&self.path).and(remove(&self.resume)) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove an unfinished image");
        }
    }
}

/// Removes a file that need not be there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
