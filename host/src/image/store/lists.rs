//! Lists of checksums that jobs name instead of the image's own: kept by their digest in `images/sums`, so that each is
//! fetched once.

use std::{fs, fs::File, path::Path, time::SystemTime};

use url::Url;

use super::{
    super::{ImageError, Progress, fetch, shown, sums},
    Store,
};
use crate::{
    config,
    digest::Sha256,
    job::{Checksum, ImageRequest},
    limits, state,
};

impl Store {
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

    /// The digest of the image that is asked for: the job's own, or what the job's list says, fetched first if it is not
    /// there.
    pub async fn resolve(
        &self,
        request: &ImageRequest,
        config: &config::Image,
        progress: &dyn Progress,
    ) -> Result<Sha256, ImageError> {
        if let Some(known) = self.known_digest(request)? {
            if request.checksum.sums().is_some() {
                note_use(&self.sums.join(request.checksum.pin().to_string()));
            }
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
            if let Err(error) = state::remove(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove an old list of checksums");
            }
        }
    }
}

fn listed(list: &[u8], url: &Url, request: &ImageRequest) -> Result<Sha256, ImageError> {
    sums::find(list, &request.source).map_err(|reason| ImageError::Sums { url: shown(url), reason })
}

/// The lists that are used stay. Best done, never in the way: the store may be read-only.
fn note_use(list: &Path) {
    let touched = File::options().append(true).open(list);
    if let Err(error) = touched.and_then(|list| list.set_modified(SystemTime::now())) {
        tracing::debug!(%error, "when a list of checksums was used is not noted");
    }
}
