//! Lists of checksums that jobs name instead of the image's own: kept by their digest in `images/sums/<tenant>.lists`, so that
//! each is fetched once and no tenant's push out another's. The operator's, and an earlier version's, are in `images/sums`.

use std::{
    fs,
    fs::File,
    path::{Path, PathBuf},
    time::SystemTime,
};

use url::Url;

use qhost_model::{
    digest::Sha256,
    job::{Checksum, ImageRequest},
    name::is_name,
};
use qhost_sys::state;

use super::{
    super::{ImageError, fetch, http::Small, shown, sums},
    Fetcher, Store,
};
use crate::limits;

impl Store {
    /// The digest of the file that will be served, if that is known without a request.
    pub fn known_digest(
        &self,
        request: &ImageRequest,
        tenant: Option<&str>,
    ) -> Result<Option<Sha256>, ImageError> {
        let (url, sha256) = match &request.checksum {
            Checksum::Image { sha256 } => return Ok(Some(*sha256)),
            Checksum::List { sums, sha256 } => (sums, sha256),
        };
        let paths = self.lists(tenant, *sha256).into_iter();
        let mut lists = paths.filter_map(|path| fs::read(path).ok());
        let list = lists.find(|list| Sha256::of(list) == *sha256);
        list.map(|list| listed(&list, url, request)).transpose()
    }

    /// Where a list may be that a tenant names; the first is where it is put.
    fn lists(&self, tenant: Option<&str>, sha256: Sha256) -> Vec<PathBuf> {
        // With an ending, no tenant's name leads out of the folder.
        let own = tenant.filter(|tenant| is_name(tenant));
        let own = own.map(|tenant| self.sums.join(format!("{tenant}.lists")));
        let folders = own.into_iter().chain([self.sums.clone()]);
        folders.map(|folder| folder.join(sha256.to_string())).collect()
    }

    /// The digest of the image that is asked for: the job's own, or what the job's list says, fetched first if it is not
    /// there.
    pub async fn resolve(
        &self,
        request: &ImageRequest,
        fetcher: Fetcher<'_>,
    ) -> Result<Sha256, ImageError> {
        let lists = self.lists(fetcher.tenant, request.checksum.pin());
        if let Some(known) = self.known_digest(request, fetcher.tenant)? {
            if request.checksum.sums().is_some() {
                lists.iter().for_each(|list| note_use(list));
            }
            return Ok(known);
        }
        let Checksum::List { sums: url, sha256: expected } = &request.checksum else {
            return Ok(request.checksum.pin());
        };
        let Small { bytes: list, encoding } = fetch::sums(url, fetcher).await?;
        let (found, bytes) = (Sha256::of(&list), list.len() as u64);
        if found != *expected {
            return Err(ImageError::Mismatch {
                url: shown(url),
                expected: *expected,
                found,
                bytes,
                encoding,
            });
        }
        if let Some(path) = lists.first() {
            state::write_whole(path, &list).map_err(ImageError::store(path))?;
            forget_old(path.parent().unwrap_or(&self.sums));
        }
        listed(&list, url, request)
    }
}

/// Removes the oldest lists of a tenant beyond a number, as tenants can name any number. A failure is logged and ends no
/// command.
fn forget_old(folder: &Path) {
    let lists = fs::read_dir(folder).into_iter().flatten().flatten();
    let lists = lists.filter_map(|list| Some((list.metadata().ok()?, list.path())));
    let lists = lists.filter(|(list, _)| list.is_file());
    let mut lists: Vec<_> = lists.map(|(list, path)| (list.modified().ok(), path)).collect();
    lists.sort();
    let excess = lists.len().saturating_sub(limits::SUMS_KEPT);
    for (_, path) in lists.into_iter().take(excess) {
        if let Err(error) = state::remove(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove an old list of checksums");
        }
    }
}

fn listed(list: &[u8], url: &Url, request: &ImageRequest) -> Result<Sha256, ImageError> {
    sums::find(list, &request.source).map_err(|reason| ImageError::Sums { url: shown(url), reason })
}

/// Marks a list as used, so that it stays. A failure does no harm: the store may be read-only.
fn note_use(list: &Path) {
    let touched = File::options().append(true).open(list);
    if let Err(error) = touched.and_then(|list| list.set_modified(SystemTime::now())) {
        tracing::debug!(%error, "when a list of checksums was used is not noted");
    }
}
