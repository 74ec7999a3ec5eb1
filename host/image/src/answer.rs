//! Checks a server's answer against the request: whether it is the part that was asked for, and of the same version of the
//! file.

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
    /// The offset of the last byte; absent where the part goes to the end.
    pub(super) to: Option<u64>,
    pub(super) version: &'a Version,
}

/// The version of a file that bytes are of, as far as its server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    /// The value that `If-Range` may carry (RFC 9110, 13.1.5): a strong `ETag`, else `Last-Modified`. Where a server gives
    /// neither, or the file was replaced within a second, the image's digest tells whether the parts belong together.
    pub(super) validator: Option<String>,
    pub(super) total: u64,
}

impl Version {
    /// Whether the validator tells this version from others byte by byte (RFC 9110, 8.8.1).
    pub(super) fn is_certain(&self) -> bool {
        self.validator.as_deref().is_some_and(is_strong_etag)
    }
}

/// An answer with a body.
pub(super) struct Answer {
    response: Response,
    pace: Pace,
    /// How many bytes of the body have arrived.
    received: u64,
    /// The offset in the file at which the body begins.
    pub(super) start: u64,
    /// The file's size, if the server says.
    pub(super) total: Option<u64>,
    /// The validator that tells this version of the file from others.
    pub(super) validator: Option<String>,
    /// Whether the server serves parts of the file.
    pub(super) ranges: bool,
    /// The encoding of the body as the server names it, though `identity` was asked for. Many servers name one for a file that
    /// is packed and served as it is, so that the digest decides.
    pub(super) encoding: Option<String>,
}

impl Answer {
    /// Whether a download that breaks off can be resumed.
    pub(super) fn can_be_resumed(&self) -> bool {
        self.ranges || self.validator.is_some()
    }

    /// Reads the body's first bytes, enough to tell how the file is packed, or all of a shorter body.
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

    /// Reads the next piece of the body; gives nothing at its end.
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

/// The least rate at which a body must arrive. Without one, a server that sends a byte now and then would hold a fetch for all
/// of its time.
pub(super) struct Pace {
    idle: Duration,
    since: Instant,
    /// The bytes that arrived since then.
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

/// Reads `Retry-After`, which is seconds or a date (RFC 9110, 10.2.3); a date that has passed means now.
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
    // The part is of another version, where `If-Range` should have made the server send the whole file.
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

/// Whether an `ETag` is strong: `"…"`, not `W/"…"` (RFC 9110, 8.8.3).
fn is_strong_etag(text: &str) -> bool {
    text.len() > 2 && text.starts_with('"') && text.ends_with('"')
}

/// The encodings that `Content-Encoding` names besides `identity` (RFC 9110, 8.4).
fn encoding(response: &Response) -> Option<String> {
    let values = response.headers().get_all(header::CONTENT_ENCODING).iter();
    let named: Vec<_> = values
        .map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned())
        .filter(|value| !value.is_empty() && !value.eq_ignore_ascii_case("identity"))
        .collect();
    let shown = printable::line(&named.join(", "), qhost_model::limits::SHOWN_CHARS).to_string();
    (!named.is_empty()).then_some(shown)
}

/// Reads `bytes START-END/TOTAL`.
fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (span, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = span.split_once('-')?;
    Some((start.parse().ok()?, end.parse().ok()?, total.parse().ok()?))
}

/// Describes a failure in the words of its deepest cause, since reqwest's own words are "error sending request".
pub(super) fn connection(error: &reqwest::Error) -> FetchFailure {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(forbidden) = inner.downcast_ref::<Forbidden>() {
            return FetchFailure::Forbidden(forbidden.to_string());
        }
        if let Some(tls) = tls_fault(inner) {
            // The error quotes names out of the certificate.
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

/// Finds the TLS error in a chain. An I/O error gives as its source the source of the error inside it, so that the error inside
/// has to be asked for.
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
