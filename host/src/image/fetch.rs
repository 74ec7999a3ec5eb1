//! Fetches an image from the first of its sources that delivers it. What arrives is written and hashed as it comes,
//! bounded in time and size; an attempt that breaks off is gone on with from there where the source can do that, in
//! another process as well.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::time::{self, Instant};
use url::Url;

use super::{
    Doing, FetchFailure, ImageError, Progress,
    http::{self, Answer, Http, Version},
    pipe::{Broken, Gone, Pipe, Through},
    retry::Retry,
    shown,
    store::Part,
    unpack::{Bounds, Packing},
};
use crate::{config, digest::Sha256, failpoint, limits};

/// What arrived.
pub(super) struct Fetched<'a> {
    pub(super) content: Sha256,
    pub(super) source: &'a Url,
}

/// Fetches the image of a digest into `part`, and finishes it there.
pub(super) async fn image<'a>(
    sources: impl Iterator<Item = &'a Url>,
    expected: Sha256,
    part: &mut Part,
    config: &config::Image,
    progress: &dyn Progress,
) -> Result<Fetched<'a>, ImageError> {
    let deadline = Instant::now() + config.total_timeout();
    let mut failures = vec![];
    for source in sources {
        if let Some(failure) = failures.last() {
            progress.retrying(&format!("{failure}; another source"));
        }
        let fetch = Fetch { http: Http::new(config, source.scheme())?, source, config, progress };
        match time::timeout_at(deadline, fetch.image(expected, part)).await {
            Ok(Ok(content)) => return Ok(Fetched { content, source }),
            Ok(Err(error)) if error.is_the_sources() => failures.push(error),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(too_slow(source, config)),
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
    config: &config::Image,
    progress: &dyn Progress,
) -> Result<Vec<u8>, ImageError> {
    let fetch = Fetch { http: Http::new(config, url.scheme())?, source: url, config, progress };
    let read = async {
        let mut retry = Retry::new(config);
        loop {
            match fetch.small().await {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => retry
                    .after(failure, 0, progress)
                    .await
                    .map_err(|failure| fetch.failed(failure))?,
            }
        }
    };
    match time::timeout(config.total_timeout(), read).await {
        Ok(read) => read,
        Err(_) => Err(too_slow(url, config)),
    }
}

/// A fetch that was not done in time.
pub(super) fn too_slow(source: &Url, config: &config::Image) -> ImageError {
    let reason = FetchFailure::TooSlow { seconds: config.total_timeout().as_secs() };
    ImageError::Fetch { url: shown(source), reason }
}

struct Fetch<'a> {
    http: Http,
    source: &'a Url,
    config: &'a config::Image,
    progress: &'a dyn Progress,
}

/// Why an attempt ended.
enum Failure {
    Source(FetchFailure),
    /// Not the source's: what the stages behind the network say, or what ends the fetch.
    Stage,
    Here(ImageError),
}

impl From<FetchFailure> for Failure {
    fn from(reason: FetchFailure) -> Self {
        Self::Source(reason)
    }
}

impl From<Gone> for Failure {
    fn from(_: Gone) -> Self {
        Self::Stage
    }
}

impl Fetch<'_> {
    fn failed(&self, reason: FetchFailure) -> ImageError {
        ImageError::Fetch { url: shown(self.source), reason }
    }

    /// The digest of what was written, once what was served has the one expected.
    async fn image(&self, expected: Sha256, part: &mut Part) -> Result<Sha256, ImageError> {
        let mut goes_on = part.version_from(self.source).is_some();
        loop {
            let (through, bytes) = self.download(expected, part).await?;
            if through.served == expected && through.fault.is_none() {
                return Ok(through.content);
            }
            part.clear()?;
            if let Some(refusal) = through.fault.filter(|_| through.served == expected) {
                return Err(ImageError::Unsafe { sha256: expected, refusal });
            }
            // What another process left may be what is wrong.
            if !std::mem::take(&mut goes_on) {
                let url = shown(self.source);
                return Err(ImageError::Mismatch { url, expected, found: through.served, bytes });
            }
            self.progress.retrying("what was left of an earlier fetch is not of this image");
        }
    }

    async fn download(
        &self,
        expected: Sha256,
        part: &mut Part,
    ) -> Result<(Through, u64), ImageError> {
        let mut download = Download::begin(self, part).await?;
        let mut retry = Retry::new(self.config);
        loop {
            let failure = match download.attempt().await {
                Ok(()) => break,
                Err(Failure::Source(failure)) => failure,
                Err(Failure::Here(error)) => return Err(error),
                Err(Failure::Stage) => return Err(download.broken(expected).await),
            };
            let received = download.received;
            retry
                .after(failure, received, self.progress)
                .await
                .map_err(|failure| self.failed(failure))?;
        }
        let received = download.received;
        Ok((download.finish(expected).await?, received))
    }

    /// A file of little size, in memory.
    async fn small(&self) -> Result<Vec<u8>, FetchFailure> {
        let Answer { mut response, total, .. } = self.http.get(self.source, None).await?;
        let mut bytes = vec![];
        while let Some(piece) = response.chunk().await.map_err(|error| http::connection(&error))? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > limits::SUMS_BYTES {
                return Err(FetchFailure::Range(format!(
                    "a list of checksums has at most {} bytes",
                    limits::SUMS_BYTES
                )));
            }
        }
        match total.filter(|total| *total != bytes.len() as u64) {
            None => Ok(bytes),
            Some(expected) => Err(FetchFailure::Short { received: bytes.len() as u64, expected }),
        }
    }

    /// One of the parts that are fetched side by side.
    async fn segment(
        &self,
        (from, to): (u64, u64),
        Version { etag, total }: &Version,
    ) -> Result<Vec<Bytes>, FetchFailure> {
        let asked = http::Part { from, to: Some(to), etag };
        let Answer { mut response, start, total: found, .. } =
            self.http.get(self.source, Some(asked)).await?;
        if start != from || found != Some(*total) {
            return Err(FetchFailure::Range("the server stopped sending parts".into()));
        }
        let mut pieces = vec![];
        let (mut received, expected) = (0, to - from + 1);
        while let Some(piece) = response.chunk().await.map_err(|error| http::connection(&error))? {
            received += piece.len() as u64;
            if received > expected {
                break;
            }
            pieces.push(piece);
        }
        match received == expected {
            true => Ok(pieces),
            false => Err(FetchFailure::Short { received, expected }),
        }
    }
}

/// A file on its way from one source.
struct Download<'a, 'p> {
    fetch: &'a Fetch<'a>,
    part: &'p mut Part,
    packing: Option<Packing>,
    pipe: Option<Pipe>,
    /// Bytes that are in the pipe or through it.
    received: u64,
    /// Of which version they are, where more of it can be asked for.
    version: Option<Version>,
    /// Whether several connections have been tried, to no good.
    alone: bool,
}

impl<'a, 'p> Download<'a, 'p> {
    async fn begin(fetch: &'a Fetch<'a>, part: &'p mut Part) -> Result<Self, ImageError> {
        let packing = Packing::of(fetch.source);
        // A decoder cannot go on in the middle.
        let version = part.version_from(fetch.source).filter(|_| packing.is_none());
        let received = match &version {
            Some(version) => part.length()?.min(version.total),
            None => 0,
        };
        let mut download =
            Self { fetch, part, packing, pipe: None, received, version, alone: false };
        match download.received {
            0 => download.restart().await?,
            received => {
                fetch.progress.begins(Doing::Checking, Some(received));
                download.open().await?;
            }
        }
        Ok(download)
    }

    async fn open(&mut self) -> Result<(), ImageError> {
        let config = self.fetch.config;
        let bounds = Bounds { bytes: config.max_bytes, ratio: config.max_unpack_ratio };
        let unpacking = self.packing.map(|packing| (packing, bounds));
        let pipe = Pipe::open(self.part.file()?, self.received, unpacking).await;
        self.pipe = Some(pipe.map_err(ImageError::store(self.part.path()))?);
        Ok(())
    }

    /// Forgets all that has arrived.
    async fn restart(&mut self) -> Result<(), ImageError> {
        if let Some(pipe) = self.pipe.take() {
            // Only that it has ended matters: nothing writes to the file any more.
            drop(pipe.finish().await);
        }
        self.part.clear()?;
        (self.received, self.version) = (0, None);
        self.open().await
    }

    async fn attempt(&mut self) -> Result<(), Failure> {
        if self.received > 0 && self.version.is_none() {
            self.restart().await.map_err(Failure::Here)?;
        }
        let source = self.fetch.source;
        let answer = match &self.version {
            Some(version) if self.received == version.total => return Ok(()),
            Some(Version { etag, .. }) if self.received > 0 => {
                let rest = http::Part { from: self.received, to: None, etag };
                self.fetch.http.get(source, Some(rest)).await
            }
            Some(_) | None => self.fetch.http.get(source, None).await,
        };
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(failure @ FetchFailure::Range(_)) => return Err(self.refused_part(failure).await),
            Err(failure) => return Err(failure.into()),
        };
        if answer.start != self.received {
            self.restart().await.map_err(Failure::Here)?;
        }
        match &self.version {
            Some(version) if self.received > 0 => {
                if answer.total != Some(version.total) {
                    let failure =
                        FetchFailure::Range("the file has another size than before".into());
                    return Err(self.refused_part(failure).await);
                }
                self.fetch.progress.begins(Doing::Fetching, answer.total);
            }
            Some(_) | None => self.begin_version(&answer)?,
        }
        self.body(&mut answer).await
    }

    /// A server that gives wrong parts is asked for the whole.
    async fn refused_part(&mut self, failure: FetchFailure) -> Failure {
        match self.restart().await {
            Ok(()) => failure.into(),
            Err(error) => Failure::Here(error),
        }
    }

    /// The first byte of a file is next.
    fn begin_version(&mut self, answer: &Answer) -> Result<(), Failure> {
        let Fetch { source, config, progress, .. } = self.fetch;
        if answer.total.is_some_and(|total| total > config.max_bytes) {
            return Err(FetchFailure::TooLarge { most: config.max_bytes }.into());
        }
        self.part.has_room_for(answer.total.unwrap_or(0), source).map_err(Failure::Here)?;
        self.version =
            answer.etag.clone().zip(answer.total).map(|(etag, total)| Version { etag, total });
        if let Some(version) = self.version.as_ref().filter(|_| self.packing.is_none()) {
            self.part.note(source, version).map_err(Failure::Here)?;
        }
        progress.begins(Doing::Fetching, answer.total);
        Ok(())
    }

    async fn body(&mut self, answer: &mut Answer) -> Result<(), Failure> {
        let began = Instant::now();
        let (mut since, mut before) = (began, self.received);
        let idle = self.fetch.config.idle_timeout();
        loop {
            let piece = match answer.response.chunk().await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(error) => return Err(self.broke_off(&error, answer.total).into()),
            };
            self.take(piece).await?;
            failpoint::reach("fetch.receiving");
            if since.elapsed() >= idle {
                let few = self.received - before;
                if few < limits::FETCH_IDLE_BYTES {
                    let seconds = idle.as_secs();
                    return Err(FetchFailure::Connection(format!(
                        "{few} bytes in {seconds} s (image.idle_timeout_s)"
                    ))
                    .into());
                }
                (since, before) = (Instant::now(), self.received);
            }
            if began.elapsed() >= limits::FETCH_ALONE
                && answer.ranges
                && let Some(version) = self.would_gain_by_more()
            {
                return self.side_by_side(version).await;
            }
        }
        match answer.total {
            Some(expected) if expected != self.received => {
                Err(FetchFailure::Short { received: self.received, expected }.into())
            }
            Some(_) | None => Ok(()),
        }
    }

    async fn take(&mut self, piece: Bytes) -> Result<(), Failure> {
        let received = self.received + piece.len() as u64;
        let most = self.fetch.config.max_bytes;
        if received > most {
            return Err(FetchFailure::TooLarge { most }.into());
        }
        let Some(pipe) = &mut self.pipe else { return Err(Failure::Stage) };
        pipe.send(piece).await?;
        self.received = received;
        self.fetch.progress.done(received);
        Ok(())
    }

    fn broke_off(&self, error: &reqwest::Error, total: Option<u64>) -> FetchFailure {
        match total {
            Some(expected) if !error.is_timeout() => {
                FetchFailure::Short { received: self.received, expected }
            }
            Some(_) | None => http::connection(error),
        }
    }

    /// Whether the network is what holds the fetch up, and much is still to come.
    fn would_gain_by_more(&self) -> Option<Version> {
        let connections = self.fetch.config.connections as u64;
        let much = limits::FETCH_SEGMENT_BYTES * connections;
        let ahead = self.pipe.as_ref().is_some_and(Pipe::is_ahead);
        let version = self.version.as_ref().filter(|_| ahead && !self.alone && connections > 1)?;
        (version.total - self.received > much).then(|| version.clone())
    }

    /// Fetches the rest in parts, several at a time, and takes them in their order.
    async fn side_by_side(&mut self, version: Version) -> Result<(), Failure> {
        let total = version.total;
        // Whatever comes of it, it is tried once.
        self.alone = true;
        let fetch = self.fetch;
        let size = limits::FETCH_SEGMENT_BYTES;
        let starts =
            (0..).map(|number| number * size + self.received).take_while(|from| *from < total);
        tracing::info!(
            connections = fetch.config.connections,
            "the network is slower than this host"
        );
        let mut segments = stream::iter(starts.collect::<Vec<_>>())
            .map(|from| fetch.segment((from, total.min(from + size) - 1), &version))
            .buffered(fetch.config.connections);
        while let Some(segment) = segments.next().await {
            for piece in segment? {
                self.take(piece).await?;
            }
        }
        Ok(())
    }

    /// Waits for what is in the pipe.
    async fn finish(mut self, expected: Sha256) -> Result<Through, ImageError> {
        failpoint::reach("fetch.received");
        let Some(pipe) = self.pipe.take() else { return Err(self.broken(expected).await) };
        let path = self.part.path();
        pipe.finish().await.map_err(|broken| stage_error(broken, expected, path))
    }

    /// Why a stage ended early.
    async fn broken(mut self, expected: Sha256) -> ImageError {
        let path = self.part.path().to_owned();
        let ended = match self.pipe.take() {
            Some(pipe) => pipe.finish().await.err(),
            None => None,
        };
        let lost = || Broken::Disk(std::io::Error::other("a stage of the fetch got lost"));
        stage_error(ended.unwrap_or_else(lost), expected, &path)
    }
}

fn stage_error(broken: Broken, sha256: Sha256, path: &std::path::Path) -> ImageError {
    match broken {
        Broken::Disk(source) => ImageError::store(path)(source),
        Broken::Refused(refusal) => ImageError::Unsafe { sha256, refusal },
    }
}
