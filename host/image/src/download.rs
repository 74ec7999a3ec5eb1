//! Downloads a file from one source: asks for it whole or in parts, resumes where an attempt breaks off, and checks the digest.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::time::{self, Instant};
use url::Url;

use qhost_model::digest::FileDigest;
use qhost_sys::failpoint;

use super::{
    FetchFailure, ImageError, Mismatch, Progress, Settings, Step,
    answer::{Answer, Span, Version},
    http::Http,
    packing::Packing,
    pipe::{Pipe, StageClosed, Transferred},
    retry::Retry,
    shown,
    store::Part,
    unpack::Bounds,
};
use crate::limits;

/// What a fetch from one source needs.
pub(super) struct Fetch<'a> {
    pub(super) http: Http,
    pub(super) source: &'a Url,
    pub(super) config: &'a Settings,
    pub(super) progress: &'a dyn Progress,
    /// The time for all attempts at this source together.
    pub(super) time: Duration,
}

/// Why an attempt ended.
enum Failure {
    Source(FetchFailure),
    /// A stage behind the network has ended, and its own result says why.
    Stage,
    Here(ImageError),
}

impl From<FetchFailure> for Failure {
    fn from(reason: FetchFailure) -> Self {
        Self::Source(reason)
    }
}

impl From<StageClosed> for Failure {
    fn from(_: StageClosed) -> Self {
        Self::Stage
    }
}

impl Fetch<'_> {
    pub(super) fn failed(&self, reason: FetchFailure) -> ImageError {
        ImageError::Fetch { url: shown(self.source), reason }
    }

    pub(super) fn too_slow(&self) -> ImageError {
        self.failed(FetchFailure::TooSlow { seconds: self.time.as_secs_f64().ceil() })
    }

    /// Downloads the file, and gives what went through the pipe if the file has the expected digest.
    pub(super) async fn image(
        &self,
        expected: FileDigest,
        part: &mut Part,
    ) -> Result<Transferred, ImageError> {
        let deadline = Instant::now() + self.time;
        let left = part.version_from(self.source).is_some();
        let mut once_more = true;
        loop {
            let Arrived { through, bytes, joined, encoding } =
                self.download(expected, part, deadline).await?;
            let found = through.served.like(expected);
            if found == expected && through.fault.is_none() {
                return Ok(through);
            }
            part.clear()?;
            if let Some(refusal) = through.fault.filter(|_| found == expected) {
                return Err(ImageError::Unsafe { digest: expected, refusal });
            }
            // The bytes that another process left may be wrong, or the parts may be of several versions of the file.
            if !(std::mem::take(&mut once_more) && (left || joined)) {
                let url = shown(self.source);
                let mismatch = Mismatch { url, expected, found, bytes, encoding };
                return Err(ImageError::Mismatch(Box::new(mismatch)));
            }
            self.progress
                .retrying("what was fetched in parts is not this image; fetching it whole");
        }
    }

    async fn download(
        &self,
        expected: FileDigest,
        part: &mut Part,
        deadline: Instant,
    ) -> Result<Arrived, ImageError> {
        let mut download = Download::begin(self, expected, part)?;
        let ended = match time::timeout_at(deadline, download.attempts()).await {
            Ok(ended) => ended,
            Err(_) => Err(self.too_slow()),
        };
        // However the attempts ended, nothing may write to the part any more when this function returns.
        let (bytes, joined) = (download.received, download.joined);
        let encoding = download.encoding.take();
        let through = download.finish().await;
        ended.and(through).map(|through| Arrived { through, bytes, joined, encoding })
    }

    /// Fetches one of the parts that are fetched side by side.
    async fn segment(
        &self,
        (from, to): (u64, u64),
        version: &Version,
    ) -> Result<Vec<Bytes>, FetchFailure> {
        let asked = Span { from, to: Some(to), version };
        let mut answer = self.http.get(self.source, Some(asked)).await?;
        if answer.start != from || answer.total != Some(version.total) {
            return Err(FetchFailure::Range("the server stopped sending parts".into()));
        }
        let mut pieces = vec![];
        let (mut received, expected) = (0, to - from + 1);
        while let Some(piece) = answer.piece().await? {
            received += piece.len() as u64;
            if received > expected {
                break;
            }
            pieces.push(piece);
        }
        if received == expected {
            Ok(pieces)
        } else {
            Err(FetchFailure::Short { received, expected })
        }
    }
}

/// What arrived from a source.
struct Arrived {
    through: Transferred,
    bytes: u64,
    /// Whether the parts may be of several versions of the file.
    joined: bool,
    /// The encoding of the file as the server names it.
    encoding: Option<String>,
}

/// A file that is being downloaded from one source.
struct Download<'a, 'p> {
    fetch: &'a Fetch<'a>,
    expected: FileDigest,
    part: &'p mut Part,
    pipe: Option<Pipe>,
    /// How many bytes are in the pipe or through it.
    received: u64,
    /// The version of the file that these bytes are of; absent where the rest of it cannot be asked for.
    version: Option<Version>,
    /// Whether parallel connections were tried already: they are tried once.
    alone: bool,
    /// Whether parts were put together of which no strong validator says that they belong together.
    joined: bool,
    /// The encoding of the last body as the server names it.
    encoding: Option<String>,
}

impl<'a, 'p> Download<'a, 'p> {
    /// Prepares a download and opens nothing yet, so that a source that does not answer leaves the unfinished file as it is.
    fn begin(
        fetch: &'a Fetch<'a>,
        expected: FileDigest,
        part: &'p mut Part,
    ) -> Result<Self, ImageError> {
        let version = part.version_from(fetch.source);
        let received = match &version {
            Some(version) => part.length()?.min(version.total),
            None => 0,
        };
        Ok(Self {
            fetch,
            expected,
            part,
            pipe: None,
            received,
            version,
            alone: false,
            joined: false,
            encoding: None,
        })
    }

    async fn open(&mut self, packing: Option<Packing>) -> Result<(), ImageError> {
        let Fetch { config, progress, .. } = *self.fetch;
        let bounds = Bounds { bytes: config.max_bytes, ratio: config.max_unpack_ratio };
        let unpacking = packing.map(|packing| (packing, bounds));
        if self.received > 0 {
            progress.begins(Step::Checking, Some(self.received));
        }
        let sha512 = matches!(self.expected, FileDigest::Sha512(_));
        let pipe = Pipe::open(self.part, self.received, unpacking, sha512, progress);
        self.pipe = Some(pipe.await?);
        Ok(())
    }

    /// Forgets all that has arrived. The part becomes another file before anything is awaited: should this future be dropped, the
    /// stages write their rest into a file that is removed.
    async fn restart(&mut self) -> Result<(), ImageError> {
        self.part.clear()?;
        (self.received, self.version) = (0, None);
        if let Some(pipe) = self.pipe.take() {
            // The pipe's result does not matter, only that the pipe has ended.
            drop(pipe.finish().await);
        }
        Ok(())
    }

    async fn attempts(&mut self) -> Result<(), ImageError> {
        let mut retry = Retry::new(self.fetch.config);
        loop {
            let failure = match self.attempt().await {
                // The result of the stage that ended says why.
                Ok(()) | Err(Failure::Stage) => return Ok(()),
                Err(Failure::Source(failure)) => failure,
                Err(Failure::Here(error)) => return Err(error),
            };
            let retried = retry.after(failure, self.received, self.fetch.progress).await;
            retried.map_err(|failure| self.fetch.failed(failure))?;
        }
    }

    async fn attempt(&mut self) -> Result<(), Failure> {
        if self.received > 0 && self.version.is_none() {
            self.restart().await.map_err(Failure::Here)?;
        }
        if self.received > 0 && self.pipe.is_none() {
            // A packed file cannot be resumed by another process, so that this file is not packed.
            self.open(None).await.map_err(Failure::Here)?;
        }
        let source = self.fetch.source;
        let answer = match &self.version {
            Some(version) if self.received > 0 && self.received == version.total => {
                return Ok(());
            }
            Some(version) if self.received > 0 => {
                let rest = Span { from: self.received, to: None, version };
                self.fetch.http.get(source, Some(rest)).await
            }
            Some(_) | None => self.fetch.http.get(source, None).await,
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure @ FetchFailure::Range(_)) => return Err(self.refused_part(failure).await),
            Err(failure) => return Err(failure.into()),
        };
        // The answer is checked before anything that has arrived is thrown away.
        self.is_acceptable(&answer)?;
        self.encoding.clone_from(&answer.encoding);
        if answer.start != self.received || self.pipe.is_none() {
            self.restart().await.map_err(Failure::Here)?;
        }
        match &self.version {
            Some(version) if self.received > 0 => {
                if answer.total != Some(version.total) {
                    let failure =
                        FetchFailure::Range("the file has another size than before".into());
                    return Err(self.refused_part(failure).await);
                }
                self.joined |= !version.is_certain();
                self.fetch.progress.begins(Step::Fetching, answer.total);
                self.body(answer).await
            }
            Some(_) | None => self.whole(answer).await,
        }
    }

    /// Starts over after a wrong part, so that the next attempt asks for the whole file.
    async fn refused_part(&mut self, failure: FetchFailure) -> Failure {
        match self.restart().await {
            Ok(()) => failure.into(),
            Err(error) => Failure::Here(error),
        }
    }

    fn is_acceptable(&self, answer: &Answer) -> Result<(), Failure> {
        let Fetch { source, config, .. } = self.fetch;
        let total = answer.total.unwrap_or(0);
        if total > config.max_bytes {
            return Err(FetchFailure::TooLarge { most: config.max_bytes }.into());
        }
        self.part.claim().all(total).map_err(Failure::Here)?;
        self.part.has_room_for(total.saturating_sub(answer.start), source).map_err(Failure::Here)
    }

    /// Takes a file from its first byte on. The file's bytes tell how it is packed, so that a digest stands for one image, however
    /// the file is named.
    async fn whole(&mut self, mut answer: Answer) -> Result<(), Failure> {
        let Fetch { source, progress, .. } = self.fetch;
        let validator = answer.validator.clone();
        let total = answer.total.filter(|_| answer.can_be_resumed());
        self.version = total.map(|total| Version { validator, total });
        progress.begins(Step::Fetching, answer.total);
        let head = answer.head().await?;
        let packing = Packing::of(&head);
        // A decoder cannot resume in the middle, so that only an unpacked file is noted as resumable.
        if let Some(version) = self.version.as_ref().filter(|_| packing.is_none()) {
            self.part.note(source, version).map_err(Failure::Here)?;
        }
        self.open(packing).await.map_err(Failure::Here)?;
        self.take(head).await?;
        self.body(answer).await
    }

    async fn body(&mut self, mut answer: Answer) -> Result<(), Failure> {
        let began = Instant::now();
        while let Some(piece) = answer.piece().await? {
            self.take(piece).await?;
            failpoint::reach("fetch.receiving");
            if began.elapsed() >= limits::FETCH_ALONE
                && answer.ranges
                && let Some(version) = self.would_gain_by_more()
            {
                drop(answer);
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
        if let Some(Version { total, .. }) =
            self.version.as_ref().filter(|version| received > version.total)
        {
            let reason =
                format!("the server sent more than the {total} bytes that it says the file has");
            return Err(FetchFailure::Range(reason).into());
        }
        let Some(pipe) = &mut self.pipe else { return Err(Failure::Stage) };
        pipe.send(piece).await?;
        self.received = received;
        self.fetch.progress.done(received);
        Ok(())
    }

    /// Gives the version to fetch in parallel, if the network is slower than this host and much is still to come.
    fn would_gain_by_more(&self) -> Option<Version> {
        let connections = self.fetch.config.connections as u64;
        let much = limits::FETCH_SEGMENT_BYTES * connections;
        let ahead = self.pipe.as_ref().is_some_and(Pipe::is_ahead);
        let version = self.version.as_ref().filter(|_| ahead && !self.alone && connections > 1)?;
        (version.total.saturating_sub(self.received) > much).then(|| version.clone())
    }

    /// Fetches the rest in parts, several at a time, and takes the parts in their order.
    async fn side_by_side(&mut self, version: Version) -> Result<(), Failure> {
        let total = version.total;
        // Parallel download is tried once per source, whatever comes of it.
        self.alone = true;
        self.joined |= !version.is_certain();
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

    /// Waits until all that has arrived has gone through the pipe.
    async fn finish(mut self) -> Result<Transferred, ImageError> {
        failpoint::reach("fetch.received");
        let (path, expected) = (self.part.path(), self.expected);
        match self.pipe.take() {
            Some(pipe) => pipe.finish().await.map_err(|broken| broken.error(expected, path)),
            None => Err(ImageError::store(path)(std::io::Error::other("nothing has arrived"))),
        }
    }
}
