//! What a server answered, checked against what was asked for: whether it is the part, and of the version, and how it is read.

use std::{
    error::Error,
    io,
    time::{Duration, Instant, SystemTime},
};

use bytes::{Bytes, BytesMut};
use reqwest::{Response, StatusCode, header};

use qhost_model::printable;

use super::{FetchFailure, network::Forbidden, packing::Packing};
use crate::limits;

/// The part of a file that is asked for, and the version of the file that it must be a part of.
pub(super) struct Span<'a> {
    pub(super) from: u64,
    /// The last byte's place; absent: to the end.
    pub(super) to: Option<u64>,
    pub(super) version: &'a Version,
}

/// Of which version of a file bytes are, as far as its server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    /// What `If-Range` may carry (RFC 9110, 13.1.5): a strong `ETag`, else `Last-Modified`. Of a server that gives neither, and
    /// of a file that was replaced within a second, the image's digest tells whether the parts belong together.
    pub(super) validator: Option<String>,
    pub(super) total: u64,
}

impl Version {
    /// Whether its validator tells it from others byte by byte (RFC 9110, 8.8.1).
    pub(super) fn is_certain(&self) -> bool {
        self.validator.as_deref().is_some_and(is_strong_etag)
    }
}

/// An answer with a body.
pub(super) struct Answer {
    response: Response,
    pace: Pace,
    /// Bytes of the body that have come.
    received: u64,
    /// Where in the file the body begins.
    pub(super) start: u64,
    /// The file's size, if the server says.
    pub(super) total: Option<u64>,
    /// What tells this version of the file from others.
    pub(super) validator: Option<String>,
    /// Whether parts may be asked for.
    pub(super) ranges: bool,
    /// How the server says that it encoded the body, though `identity` was asked for. Many servers say so of a file that is
    /// packed and served as it is, so the digest decides.
    pub(super) encoding: Option<String>,
}

impl Answer {
    /// Whether an attempt that breaks off can be gone on with.
    pub(super) fn can_be_resumed(&self) -> bool {
        self.ranges || self.validator.is_some()
    }

    /// The body's first bytes, enough to tell how it is packed; fewer where it has fewer.
    pub(super) async fn head(&mut self) -> Result<Bytes, FetchFailure> {
        let mut head = BytesMut::new();
        while head.len() < Packing::HEAD
            && let Some(piece) = self.piece().await?
        {
            if head.is_empty() && piece.len() >= Packing::HEAD {
                return Ok(piece);
            }
            head.extend_from_slice(&piece);
        }
        Ok(head.freeze())
    }

    /// The next piece of the body; nothing at its end.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, FetchFailure> {
        let piece = self.response.chunk().await.map_err(|error| self.broke_off(&error))?;
        if let Some(piece) = &piece {
            self.received += piece.len() as u64;
            self.pace.kept_with(piece.len() as u64)?;
        }
        Ok(piece)
    }

    fn broke_off(&self, error: &reqwest::Error) -> FetchFailure {
        match self.total {
            Some(expected) if !error.is_timeout() => {
                FetchFailure::Short { received: self.start + self.received, expected }
            }
            Some(_) | None => connection(error),
        }
    }
}

/// The least rate of a body. Without it, a server that sends a byte now and then would hold a fetch for all of its time.
pub(super) struct Pace {
    idle: Duration,
    since: Instant,
    /// What came since then.
    bytes: u64,
}

impl Pace {
    pub(super) fn new(idle: Duration) -> Self {
        Self { idle, since: Instant::now(), bytes: 0 }
    }

    fn kept_with(&mut self, more: u64) -> Result<(), FetchFailure> {
        self.bytes += more;
        if self.since.elapsed() < self.idle {
            return Ok(());
        }
        let Self { bytes, idle, .. } = std::mem::replace(self, Self::new(self.idle));
        if bytes >= limits::FETCH_IDLE_BYTES {
            return Ok(());
        }
        let seconds = idle.as_secs();
        let reason = format!("{bytes} bytes in {seconds} s (image.idle_timeout_s)");
        Err(FetchFailure::Connection(reason))
    }
}

/// Seconds, or a date (RFC 9110, 10.2.3); one that has passed is now.
pub(super) fn retry_after(value: &str) -> Option<u64> {
    let until = |date: SystemTime| date.duration_since(SystemTime::now()).unwrap_or_default();
    let date = || httpdate::parse_http_date(value).map(until).ok();
    value.trim().parse().ok().or_else(|| date().map(|wait| wait.as_secs()))
}

pub(super) fn text(response: &Response, name: header::HeaderName) -> Option<&str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

pub(super) fn answer(
    response: Response,
    part: Option<Span<'_>>,
    pace: Pace,
) -> Result<Answer, FetchFailure> {
    let encoding = encoding(&response);
    let etag = text(&response, header::ETAG).filter(|etag| is_strong_etag(etag));
    let validator = etag.or_else(|| text(&response, header::LAST_MODIFIED)).map(str::to_owned);
    let ranges = text(&response, header::ACCEPT_RANGES).is_some_and(|unit| unit == "bytes");
    if response.status() == StatusCode::OK {
        let total = response.content_length();
        return Ok(Answer {
            response,
            pace,
            received: 0,
            start: 0,
            total,
            validator,
            ranges,
            encoding,
        });
    }
    let Some(Span { from, to, version }) = part else {
        let status = response.status();
        return Err(FetchFailure::Status { status, retry_after_s: None });
    };
    let said = text(&response, header::CONTENT_RANGE).unwrap_or_default();
    let (start, end, total) = content_range(said).ok_or_else(|| {
        let said = printable::line(said, qhost_model::limits::SHOWN_CHARS);
        FetchFailure::Range(format!("the server sent a part without saying which: {said}"))
    })?;
    let last = to.unwrap_or(total.saturating_sub(1));
    if start != from || end != last || end.checked_sub(start).is_none() || end >= total {
        return Err(FetchFailure::Range(format!(
            "the server sent bytes {start}-{end} of {total}, asked for {from}-{last}"
        )));
    }
    if response.content_length().is_some_and(|length| length != end - start + 1) {
        return Err(FetchFailure::Range(
            "the server sent a part of another length than it says".into(),
        ));
    }
    // A part of another version, of which If-Range should have made the whole.
    let is_another = |said: &String, asked: &String| {
        is_strong_etag(said) == is_strong_etag(asked) && said != asked
    };
    if validator
        .as_ref()
        .zip(version.validator.as_ref())
        .is_some_and(|(said, asked)| is_another(said, asked))
    {
        return Err(FetchFailure::Range(
            "the server sent a part of another version of the file".into(),
        ));
    }
    let (total, validator) = (Some(total), version.validator.clone());
    Ok(Answer { response, pace, received: 0, start, total, validator, ranges: true, encoding })
}

/// `"…"`, not `W/"…"` (RFC 9110, 8.8.3).
fn is_strong_etag(text: &str) -> bool {
    text.len() > 2 && text.starts_with('"') && text.ends_with('"')
}

/// What `Content-Encoding` names besides `identity` (RFC 9110, 8.4).
fn encoding(response: &Response) -> Option<String> {
    let values = response.headers().get_all(header::CONTENT_ENCODING).iter();
    let named: Vec<_> = values
        .map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned())
        .filter(|value| !value.is_empty() && !value.eq_ignore_ascii_case("identity"))
        .collect();
    let shown = printable::line(&named.join(", "), qhost_model::limits::SHOWN_CHARS).to_string();
    (!named.is_empty()).then_some(shown)
}

/// `bytes START-END/TOTAL`
fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (span, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = span.split_once('-')?;
    Some((start.parse().ok()?, end.parse().ok()?, total.parse().ok()?))
}

/// What failed, in words of the deepest cause: reqwest's own are "error sending request".
pub(super) fn connection(error: &reqwest::Error) -> FetchFailure {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(forbidden) = inner.downcast_ref::<Forbidden>() {
            return FetchFailure::Forbidden(forbidden.to_string());
        }
        if let Some(tls) = tls_fault(inner) {
            // It quotes names out of the certificate.
            return FetchFailure::Tls(printable::line(&tls.to_string(), 300).to_string());
        }
        cause = inner.source();
    }
    let what = match (error.is_connect(), error.is_timeout()) {
        (true, true) => "no connection in time (image.connect_timeout_s)".to_owned(),
        (false, true) => "no bytes in time (image.idle_timeout_s)".into(),
        (true, false) => format!("no connection: {}", deepest(error)),
        (false, false) => format!("the connection broke: {}", deepest(error)),
    };
    FetchFailure::Connection(printable::line(&what, 300).to_string())
}

pub(super) fn deepest(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// An I/O error names its inner error's source as its own, not the inner error, so that has to be asked for.
fn tls_fault<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    error.downcast_ref().or_else(|| inner.and_then(|inner| tls_fault(inner)))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{content_range, retry_after};

    #[test]
    fn waits_that_a_server_asks_for() {
        assert_eq!(retry_after("7"), Some(7));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(0));
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        assert!(retry_after(&date).is_some_and(|wait| (90..=100).contains(&wait)));
        assert_eq!(retry_after("soon"), None);
    }

    #[test]
    fn content_ranges() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, 9, 10)));
        for bad in ["", "bytes 5-9/*", "bytes */10", "bytes 5-/10", "items 5-9/10", "bytes 5-9/10 "]
        {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
