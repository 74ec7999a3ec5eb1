//! Hashes a stored image again, and puts it away if it is not what it was.

use std::{fs::File, io};

use tokio::task::spawn_blocking;

use qhost_model::digest::{Hasher, Sha256};
use qhost_sys::failpoint;

use super::{
    super::{ImageError, Progress, Step, pipe},
    CheckOutcome, Record, Stamp, Store, stamp,
};
use crate::limits;

impl Store {
    /// Hashes a stored file again, and puts it away if it is not what it was. The caller holds the image's lock.
    pub(super) async fn check(
        &self,
        sha256: Sha256,
        mut record: Record,
        progress: &dyn Progress,
    ) -> Result<CheckOutcome, ImageError> {
        let path = self.path(sha256);
        for _ in 0..limits::IMAGE_HASHES {
            let file = File::open(&path).map_err(ImageError::store(&path))?;
            let before =
                file.metadata().map(|file| Stamp::of(&file)).map_err(ImageError::store(&path))?;
            let found = digest_of(file, progress).await.map_err(ImageError::store(&path))?;
            failpoint::reach("store.hashed");
            if found != record.content_sha256 || !before.is_guarded() {
                return self.quarantine(sha256).map(|to| CheckOutcome::Quarantined { found, to });
            }
            // A file that looks different by now may have been replaced, or only its times were set.
            if before == stamp(&path)? {
                if record.stamp != before {
                    record.stamp = before;
                    record.write(&path)?;
                }
                return Ok(CheckOutcome::Sound);
            }
        }
        Ok(CheckOutcome::Busy)
    }
}

async fn digest_of(file: File, progress: &dyn Progress) -> io::Result<Sha256> {
    let length = file.metadata()?.len();
    progress.begins(Step::Checking, Some(length));
    let (sender, mut hashed) = tokio::sync::watch::channel(0);
    let hashing = spawn_blocking(move || {
        let mut hasher = Hasher::default();
        let hashed = &mut |bytes| {
            sender.send_replace(bytes);
        };
        pipe::hash_prefix(&mut |bytes| hasher.update(bytes), &file, length, hashed)
            .map(|()| hasher.finish())
    });
    while hashed.changed().await.is_ok() {
        progress.done(*hashed.borrow_and_update());
    }
    hashing.await.map_err(io::Error::other)?
}
