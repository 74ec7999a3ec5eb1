//! An unfinished image: `<digest>.<download>.part`, with `<digest>.<download>.resume` beside it, which says how to resume it.
//! A download is one list of sources, so that a slow source holds up no run that has another. No reader takes a part for an
//! image. A part that is dropped unpublished stays only if a later fetch can resume it.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use url::Url;

use qhost_model::digest::Sha256;
use qhost_sys::{failpoint, state};

use super::{
    super::{ImageError, answer::Version, shown},
    Claim, beside,
    resume::ResumeRecord,
    verity,
};

pub(crate) struct Part {
    file: File,
    path: PathBuf,
    resume: PathBuf,
    published: bool,
    claim: Arc<Claim>,
}

impl Part {
    /// Opens the unfinished image with the bytes that it has so far.
    pub(super) fn open(image: &Path, download: &str, claim: Claim) -> Result<Self, ImageError> {
        let path = beside(image, &format!("{download}.part"));
        let file = match open(&path) {
            // A part that was about to be published is read-only, and begun anew.
            Ok(file) if file.metadata().is_ok_and(|found| found.mode() & 0o777 == 0o600) => {
                Ok(file)
            }
            Ok(_) => anew(&path),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => anew(&path),
            Err(error) => Err(error),
        };
        let file = file.map_err(ImageError::store(&path))?;
        failpoint::reach("store.part");
        let resume = beside(image, &format!("{download}.resume"));
        // When a tenant's fetch resumes another tenant's download, the download is that tenant's from then on.
        if let Some(note) =
            ResumeRecord::read(&resume).filter(|it| it.tenant.as_deref() != claim.tenant())
        {
            ResumeRecord { tenant: claim.tenant().map(str::to_owned), ..note }.write(&resume)?;
        }
        Ok(Self { file, path, resume, published: false, claim: Arc::new(claim) })
    }

    /// The claim, which holds the download's lock, for stages that may write to the file after the part has been dropped.
    pub(crate) fn claim(&self) -> Arc<Claim> {
        self.claim.clone()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self) -> Result<File, ImageError> {
        self.file.try_clone().map_err(ImageError::store(&self.path))
    }

    pub(crate) fn length(&self) -> Result<u64, ImageError> {
        self.file.metadata().map(|file| file.len()).map_err(ImageError::store(&self.path))
    }

    /// The version of a source's file that the part's bytes are of.
    pub(crate) fn version_from(&self, source: &Url) -> Option<Version> {
        let ResumeRecord { source: of, validator, total, .. } = ResumeRecord::read(&self.resume)?;
        (of == Sha256::of(source.as_str().as_bytes())).then_some(Version { validator, total })
    }

    /// Records the source and the version of the bytes that follow.
    pub(crate) fn note(&self, source: &Url, version: &Version) -> Result<(), ImageError> {
        let source = Sha256::of(source.as_str().as_bytes());
        let tenant = self.claim.tenant().map(str::to_owned);
        let Version { validator, total } = version.clone();
        ResumeRecord { source, validator, total, tenant }.write(&self.resume)
    }

    /// Begins the part anew, with nothing to resume. The new part is another file, so that late writes into the old one do
    /// not get into it.
    pub(crate) fn clear(&mut self) -> Result<(), ImageError> {
        state::remove(&self.resume).map_err(ImageError::store(&self.resume))?;
        self.file = anew(&self.path).map_err(ImageError::store(&self.path))?;
        Ok(())
    }

    /// Checks that the disk has room for so many more bytes from a source.
    pub(crate) fn has_room_for(&self, needed: u64, source: &Url) -> Result<(), ImageError> {
        let made = self.claim.make_room(&self.file, needed);
        let (free, reserve) = made.map_err(ImageError::store(&self.path))?;
        if needed.saturating_add(reserve) <= free {
            Ok(())
        } else {
            let url = shown(source);
            let path = self.path.parent().unwrap_or(&self.path).to_owned();
            Err(ImageError::NoSpace { url, path, free, needed, reserve })
        }
    }

    /// Makes the part durable, read-only and an image, in this order. Gives whether the file system guards it from then on.
    pub(super) fn publish(mut self, path: &Path) -> io::Result<bool> {
        // The slow step comes first: a part whose process is killed there can still be resumed.
        self.file.sync_all()?;
        self.file.set_permissions(Permissions::from_mode(0o444))?;
        self.file.sync_all()?;
        failpoint::reach("store.synced");
        // The file is opened for reading only, since fs-verity needs that no process has it open for writing.
        self.file = File::open(&self.path)?;
        let guarded = verity::enable(&self.file);
        fs::rename(&self.path, path)?;
        self.published = true;
        failpoint::reach("store.renamed");
        state::remove(&self.resume)?;
        if let Some(shard) = path.parent() {
            File::open(shard)?.sync_all()?;
        }
        Ok(guarded)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let kept = self.resume.exists() && self.file.metadata().is_ok_and(|file| file.len() > 0);
        if self.published || kept {
            return;
        }
        if let Err(error) = state::remove(&self.path).and(state::remove(&self.resume)) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove an unfinished image");
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true).mode(0o600).open(path)
}

fn anew(path: &Path) -> io::Result<File> {
    state::remove(path)?;
    open(path)
}
