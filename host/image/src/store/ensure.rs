//! Finds an image in the store, or fetches it into the store.

use std::{io, path::Path, time::Instant};

use jiff::Timestamp;
use tokio::{task::spawn_blocking, time};

use qhost_model::{
    digest::{FileDigest, Sha256},
    job::ImageRequest,
};
use qhost_sys::{failpoint, state};

use super::{
    super::{ImageError, Refusal, Settings, fetch, import, inspect::RULES, shown},
    Fetcher, Lock, Lookup, Part, Record, Store, VerifiedImage, beside, inspected, origin,
    origins::Origins,
    stamp,
};
use crate::limits;

/// The place that an image's bytes come from.
#[derive(Clone, Copy)]
pub(super) enum Supply<'a> {
    /// The sources of the request.
    Sources,
    /// A file of this host.
    File(&'a Path),
}

impl Store {
    /// Gives the stored image, and fetches it first if it is not stored.
    pub async fn ensure(
        &self,
        request: &ImageRequest,
        fetcher: Fetcher<'_>,
    ) -> Result<VerifiedImage, ImageError> {
        let digest = self.file_digest(request, fetcher).await?;
        self.obtain(digest, request, Supply::Sources, fetcher).await
    }

    /// Gives the stored image, made of a file that the operator vouches for as the one that the sources serve. Where an image of
    /// that digest is stored already, the file is checked all the same, and the sources' origins are added to the record.
    pub async fn import(
        &self,
        file: &Path,
        request: &ImageRequest,
        fetcher: Fetcher<'_>,
    ) -> Result<VerifiedImage, ImageError> {
        let digest = self.file_digest(request, fetcher).await?;
        self.obtain(digest, request, Supply::File(file), fetcher).await
    }

    /// Gives the stored image of a digest, and fetches it first if it is not stored.
    pub(super) async fn obtain(
        &self,
        digest: FileDigest,
        request: &ImageRequest,
        supply: Supply<'_>,
        fetcher: Fetcher<'_>,
    ) -> Result<VerifiedImage, ImageError> {
        if let (Lookup::Ready(image), Supply::Sources) =
            (self.find_by(digest, request, fetcher.config)?, supply)
        {
            self.note_use(image.sha256);
            return Ok(image);
        }
        let path = self.path(unfinished_as(digest));
        let shard = path.parent().unwrap_or(&self.root);
        state::create_private(shard).map_err(ImageError::store(shard))?;
        let download = download(request);
        let lock = self.lock(&beside(&path, &format!("{download}.lock")), request, fetcher).await?;
        failpoint::reach("store.locked");
        self.sweep();
        // The run that held the lock before may have fetched the image.
        let mut found = self.find_by(digest, request, fetcher.config)?;
        if let (Lookup::Changed, Some(sha256)) = (&found, self.stored_as(digest)?) {
            let path = self.path(sha256);
            let _digest = self.lock(&beside(&path, "lock"), request, fetcher).await?;
            if let Some(record) = Record::read(&path)? {
                self.check(sha256, record, fetcher.progress).await?;
            }
            found = self.find(sha256, request, fetcher.config)?;
        }
        let image = match (found, supply) {
            (Lookup::Ready(image), Supply::Sources) => image,
            (Lookup::Ready(_), Supply::File(_))
            | (Lookup::Changed | Lookup::Elsewhere | Lookup::Nothing, _) => {
                let part = Part::open(&path, &download, fetcher.claim(self, lock)?)?;
                self.fetch(digest, request, supply, part, fetcher).await?
            }
        };
        self.note_use(image.sha256);
        Ok(image)
    }

    fn find_by(
        &self,
        digest: FileDigest,
        request: &ImageRequest,
        config: &Settings,
    ) -> Result<Lookup, ImageError> {
        match self.stored_as(digest)? {
            Some(sha256) => self.find(sha256, request, config),
            None => Ok(Lookup::Nothing),
        }
    }

    /// Fetches an image under its download's lock. Where the same bytes are stored already, from another origin or by another
    /// download, the stored file stays, since VMs may have it open.
    async fn fetch(
        &self,
        digest: FileDigest,
        request: &ImageRequest,
        supply: Supply<'_>,
        mut part: Part,
        fetcher: Fetcher<'_>,
    ) -> Result<VerifiedImage, ImageError> {
        let config = fetcher.config;
        // The claim's lock is held until the record is written; a run that waits for it would otherwise fetch once more.
        let claim = part.claim();
        let fetched = match supply {
            Supply::Sources => fetch::image(request.sources(), digest, &mut part, fetcher).await?,
            Supply::File(path) => {
                import::file(path, &request.source, digest, &mut part, fetcher).await?
            }
        };
        let sha256 = fetched.digests.sha256;
        // A refused file is cleared, so that no fetch resumes it.
        let inspected = inspected(&part.file()?, part.path(), sha256, config).or_else(|error| {
            part.clear()?;
            Err(error)
        })?;
        failpoint::reach("store.inspected");
        let path = self.path(sha256);
        let shard = path.parent().unwrap_or(&self.root);
        state::create_private(shard).map_err(ImageError::store(shard))?;
        let mut lock = self.lock(&beside(&path, "lock"), request, fetcher).await?;
        let mut record = match self.find(sha256, request, config)? {
            Lookup::Ready(_) | Lookup::Elsewhere => {
                part.clear()?;
                let known =
                    Record::read(&path)?.filter(|known| known.content_sha256 == fetched.content);
                known.ok_or_else(|| two_images(sha256))?
            }
            Lookup::Changed | Lookup::Nothing => {
                let at = path.clone();
                // Syncing takes as long as the disk does, so that it runs on another thread. The lock goes there too, since this
                // future may be dropped meanwhile.
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
                    sha512: None,
                    origins: Origins::default(),
                    source: shown(fetched.source),
                    fetched_at: Timestamp::now(),
                    tenant: claim.tenant().map(str::to_owned),
                    fs_verity: guarded,
                    stamp: stamp(&path)?,
                }
            }
        };
        record.sha512 = fetched.digests.sha512.or(record.sha512);
        let mut add = |url| record.origins.add(origin(url), claim.tenant());
        match supply {
            Supply::Sources => add(fetched.source),
            Supply::File(_) => request.sources().for_each(add),
        }
        record.write(&path)?;
        claim.give_back()?;
        drop(lock);
        failpoint::reach("store.recorded");
        match self.find(sha256, request, config)? {
            Lookup::Ready(image) => Ok(VerifiedImage { cached: false, ..image }),
            Lookup::Changed | Lookup::Elsewhere | Lookup::Nothing => {
                let lost = "what was just stored is not there any more";
                Err(ImageError::store(&path)(io::Error::other(lost)))
            }
        }
    }

    /// Takes a lock, and waits while another run has it.
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
                // A lock that is held for a moment only is not worth telling.
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
                digest: request.checksum.digest(),
                seconds: config.total_timeout().as_secs(),
            }),
        }
    }
}

/// The digest that names a download's files: the image's SHA-256, or the first half of its SHA-512.
fn unfinished_as(digest: FileDigest) -> Sha256 {
    match digest {
        FileDigest::Sha256(sha256) => sha256,
        FileDigest::Sha512(sha512) => sha512.first_half(),
    }
}

/// The name of a download, from its list of sources: two requests with the same list are fetched once.
fn download(request: &ImageRequest) -> String {
    let sources: String = request.sources().map(|source| format!("{source}\n")).collect();
    Sha256::of(sources.as_bytes()).to_string().chars().take(16).collect()
}

/// The error about a file that is stored with other contents. A file's contents follow from its bytes, except for files that an
/// earlier version stored.
fn two_images(sha256: Sha256) -> ImageError {
    let reason =
        "the same file is stored with other contents; remove it with: qhost image rm".into();
    let digest = FileDigest::Sha256(sha256);
    ImageError::Unsafe { digest, refusal: Refusal { check: "one-format", reason } }
}
