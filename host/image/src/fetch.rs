//! Fetches an image from the first of its sources that delivers it. Bytes are written and hashed as they arrive,
//! bounded in time and size. A download that breaks off is resumed where the source can do that, also by a later
//! process.

use tokio::time::{self, Instant};
use url::Url;

use qhost_model::digest::{FileDigest, Sha256};

use super::{
    ImageError,
    download::Fetch,
    hashers::Digests,
    http::{Body, Http},
    pipe::Transferred,
    retry::Retry,
    store::{Fetcher, Part},
};

/// The result of a fetch.
pub(super) struct Fetched<'a> {
    /// The digests of the file that was served.
    pub(super) digests: Digests,
    /// The digest of the file that was written.
    pub(super) content: Sha256,
    pub(super) source: &'a Url,
}

/// Fetches the image of a digest into `part`. Each source has an equal share of the time that is left when it is asked.
/// A source from which an earlier fetch left a part is asked first.
pub(super) async fn image<'a>(
    sources: impl Iterator<Item = &'a Url>,
    expected: FileDigest,
    part: &mut Part,
    fetcher: Fetcher<'_>,
) -> Result<Fetched<'a>, ImageError> {
    let Fetcher { config, progress, .. } = fetcher;
    let deadline = Instant::now() + config.total_timeout();
    let mut sources: Vec<_> = sources.collect();
    sources.sort_by_key(|source| part.version_from(source).is_none());
    let mut failures = vec![];
    for (number, source) in sources.iter().copied().enumerate() {
        if let Some(failure) = failures.last() {
            progress.retrying(&format!("{failure}; another source"));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let time = left / u32::try_from(sources.len() - number).unwrap_or(1);
        let fetched = match Http::new(config, source.scheme()) {
            Ok(http) => Fetch { http, source, config, progress, time }.image(expected, part).await,
            Err(error) => Err(error),
        };
        match fetched {
            Ok(through) => {
                let Transferred { served: digests, content, .. } = through;
                return Ok(Fetched { digests, content, source });
            }
            Err(error) if error.is_source_failure() => failures.push(error),
            Err(error) => return Err(error),
        }
    }
    match (failures.pop(), failures.is_empty()) {
        (Some(only), true) => Err(only),
        (last, _) => {
            failures.extend(last);
            Err(ImageError::NoSource(failures))
        }
    }
}

/// Fetches a list of checksums whole.
pub(super) async fn sums(
    url: &Url,
    Fetcher { config, progress, .. }: Fetcher<'_>,
) -> Result<Body, ImageError> {
    let time = config.total_timeout();
    let fetch =
        Fetch { http: Http::new(config, url.scheme())?, source: url, config, progress, time };
    let read = async {
        let mut retry = Retry::new(config);
        loop {
            match fetch.http.get_whole(url).await {
                Ok(body) => return Ok(body),
                Err(failure) => retry
                    .after(failure, 0, progress)
                    .await
                    .map_err(|failure| fetch.failed(failure))?,
            }
        }
    };
    match time::timeout(time, read).await {
        Ok(read) => read,
        Err(_) => Err(fetch.too_slow()),
    }
}
