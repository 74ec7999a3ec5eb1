//! Lists of checksums that jobs name instead of the image's own digest. They are kept by their digest in
//! `images/sums/<tenant>.lists`, so that each is fetched once and no tenant's lists push out another's. The operator's lists,
//! and those of an earlier version, are in `images/sums`.

use std::{
    fs,
    fs::File,
    path::{Path, PathBuf},
    time::SystemTime,
};

use url::Url;

use qhost_model::{
    digest::{FileDigest, Sha256},
    job::{Checksum, ImageRequest},
    name::is_name,
};
use qhost_sys::state;

use super::{
    super::{ImageError, Mismatch, fetch, http::Body, shown, sums},
    Fetcher, Store, Supply,
};
use crate::limits;

impl Store {
    /// The SHA-256 of the file that will be served, if the store knows it without a request.
    pub fn known_digest(
        &self,
        request: &ImageRequest,
        tenant: Option<&str>,
    ) -> Result<Option<Sha256>, ImageError> {
        let Some(digest) = self.listed_here(request, tenant)? else { return Ok(None) };
        self.stored_as(digest)
    }

    /// The digest that an image must have, if the job names it, or a stored list has it.
    fn listed_here(
        &self,
        request: &ImageRequest,
        tenant: Option<&str>,
    ) -> Result<Option<FileDigest>, ImageError> {
        let Checksum::List { sums: url, sha256, name } = &request.checksum else {
            return Ok(Some(request.checksum.digest()));
        };
        let paths = self.lists(tenant, *sha256).into_iter();
        let mut lists = paths.filter_map(|path| fs::read(path).ok());
        let list = lists.find(|list| Sha256::of(list) == *sha256);
        list.map(|list| listed(&list, url, name.as_deref(), request)).transpose()
    }

    /// The SHA-256 by which an image is stored or would be; absent where only its SHA-512 is known.
    pub(super) fn stored_as(&self, digest: FileDigest) -> Result<Option<Sha256>, ImageError> {
        let sha512 = match digest {
            FileDigest::Sha256(sha256) => return Ok(Some(sha256)),
            FileDigest::Sha512(sha512) => sha512,
        };
        let stored = self.list()?.into_iter();
        let mut stored = stored.filter(|stored| stored.record.sha512 == Some(sha512));
        Ok(stored.next().map(|stored| stored.sha256))
    }

    /// The paths at which a list that a tenant names may be; a new list goes to the first.
    fn lists(&self, tenant: Option<&str>, sha256: Sha256) -> Vec<PathBuf> {
        // With the ending, no tenant's name leads out of the folder.
        let own = tenant.filter(|tenant| is_name(tenant));
        let own = own.map(|tenant| self.sums.join(format!("{tenant}.lists")));
        let folders = own.into_iter().chain([self.sums.clone()]);
        folders.map(|folder| folder.join(sha256.to_string())).collect()
    }

    /// Gives the SHA-256 of the image that is asked for: the job's own, or the one in the job's list, which is fetched if it
    /// is not stored. An image whose SHA-512 alone is known is fetched.
    pub async fn resolve(
        &self,
        request: &ImageRequest,
        fetcher: Fetcher<'_>,
    ) -> Result<Sha256, ImageError> {
        let digest = self.file_digest(request, fetcher).await?;
        match self.stored_as(digest)? {
            Some(sha256) => Ok(sha256),
            None => Ok(self.obtain(digest, request, Supply::Sources, fetcher).await?.sha256()),
        }
    }

    /// Gives the digest that the image must have, and fetches the list that names it if that is not stored.
    pub(super) async fn file_digest(
        &self,
        request: &ImageRequest,
        fetcher: Fetcher<'_>,
    ) -> Result<FileDigest, ImageError> {
        let Checksum::List { sums: url, sha256, name } = &request.checksum else {
            return Ok(request.checksum.digest());
        };
        let lists = self.lists(fetcher.tenant, *sha256);
        if let Some(digest) = self.listed_here(request, fetcher.tenant)? {
            lists.iter().for_each(|list| note_use(list));
            return Ok(digest);
        }
        let Body { bytes: list, encoding } = fetch::sums(url, fetcher).await?;
        let (found, bytes) = (Sha256::of(&list), list.len() as u64);
        if found != *sha256 {
            return Err(ImageError::Mismatch(Box::new(Mismatch {
                url: shown(url),
                expected: FileDigest::Sha256(*sha256),
                found: FileDigest::Sha256(found),
                bytes,
                encoding,
            })));
        }
        if let Some(path) = lists.first() {
            state::write_whole(path, &list).map_err(ImageError::store(path))?;
            forget_old(path.parent().unwrap_or(&self.sums));
        }
        listed(&list, url, name.as_deref(), request)
    }
}

/// Removes the oldest lists of a tenant beyond a number, since tenants can name any number. A failure is logged and ends no
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

fn listed(
    list: &[u8],
    url: &Url,
    name: Option<&str>,
    request: &ImageRequest,
) -> Result<FileDigest, ImageError> {
    let unlisted = |reason| ImageError::Sums { url: shown(url), reason };
    sums::find(list, &request.source, name).map_err(unlisted)
}

/// Notes that a list was used, so that it stays. A failure does no harm: the store may be read-only.
fn note_use(list: &Path) {
    let touched = File::options().append(true).open(list);
    if let Err(error) = touched.and_then(|list| list.set_modified(SystemTime::now())) {
        tracing::debug!(%error, "when a list of checksums was used is not noted");
    }
}
