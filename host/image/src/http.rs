//! One request for a file or a part of one, with its redirects, each checked. What is given back has been checked
//! against what was asked for.

use std::{
    error::Error,
    fs, io,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::{Bytes, BytesMut};
use percent_encoding::{AsciiSet, percent_encode};
use reqwest::{Certificate, Client, Proxy, Response, StatusCode, header, redirect};
use url::Url;

use qhost_model::printable;
use qhost_sys::trusted;

use super::{
    FetchFailure, ImageError, Settings,
    credentials::Credentials,
    network::{Forbidden, NetworkRules},
    shown,
    unpack::Packing,
};
use crate::limits;

/// What is needed to ask.
pub(super) struct Http {
    client: Client,
    rules: NetworkRules,
    credentials: Credentials,
    idle: Duration,
}

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

/// A whole body.
pub(super) struct Small {
    pub(super) bytes: Vec<u8>,
    /// As in [`Answer`].
    pub(super) encoding: Option<String>,
}

impl Http {
    /// For sources of a scheme: a machine without CA certificates can still fetch over http.
    pub(super) fn new(config: &Settings, scheme: &str) -> Result<Self, ImageError> {
        let unusable = |path: &std::path::Path, reason: String| ImageError::Configured {
            path: path.to_owned(),
            reason,
        };
        let credentials = match &config.credentials {
            Some(path) => Credentials::read(path).map_err(|reason| unusable(path, reason))?,
            None => Credentials::default(),
        };
        let certificates = match &config.ca {
            Some(path) => trusted::check(path)
                .map_err(|error| error.to_string())
                .and_then(|()| fs::read(path).map_err(|error| error.to_string()))
                .and_then(|pem| {
                    Certificate::from_pem_bundle(&pem).map_err(|error| error.to_string())
                })
                .and_then(|found| {
                    if found.is_empty() {
                        Err("it has no certificate; expected PEM".into())
                    } else {
                        Ok(found)
                    }
                })
                .map_err(|reason| unusable(path, reason))?,
            None => vec![],
        };
        let rules = NetworkRules::new(&config.network);
        let builder = || {
            let client = Client::builder()
                .user_agent(concat!("qhost/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(config.connect_timeout())
                .read_timeout(config.idle_timeout())
                // Redirects are followed by hand, each checked; a proxy of the environment's would resolve names where
                // no rule sees it.
                .redirect(redirect::Policy::none())
                .no_proxy()
                .dns_resolver(Arc::new(rules.clone()))
                .retry(reqwest::retry::never());
            match &config.network.proxy {
                Some(proxy) => Proxy::all(proxy.clone()).map(|proxy| client.proxy(proxy)),
                None => Ok(client),
            }
        };
        let client = match builder().and_then(|client| client.tls_certs_merge(certificates).build())
        {
            // A redirect to https then trusts no certificate.
            Err(_) if scheme == "http" => {
                builder().and_then(|client| client.tls_certs_only([]).build())
            }
            client => client,
        };
        let client = client.map_err(|error| ImageError::Client { reason: deepest(&error) })?;
        Ok(Self { client, rules, credentials, idle: config.idle_timeout() })
    }

    /// Asks for a file, or a part of it; what comes may be the whole all the same.
    pub(super) async fn get(
        &self,
        url: &Url,
        part: Option<Span<'_>>,
    ) -> Result<Answer, FetchFailure> {
        let source = url;
        let mut url = url.clone();
        let mut at_home = true;
        for _ in 0..=limits::FETCH_REDIRECTS {
            self.rules.check(&url).map_err(forbidden)?;
            let mut request =
                self.client.get(url.clone()).header(header::ACCEPT_ENCODING, "identity");
            // Otherwise a source could redirect to what this host may read and the source's owner may not. After a redirect to
            // another host, every further URL is that host's choice, also one that leads back to the source.
            at_home &= url.origin() == source.origin();
            if at_home && let Some(secret) = self.credentials.header(&url) {
                request = request.header(header::AUTHORIZATION, secret);
            }
            if let Some(Span { from, to, version }) = &part {
                let to = to.map(|to| to.to_string()).unwrap_or_default();
                request = request.header(header::RANGE, format!("bytes={from}-{to}"));
                if let Some(validator) = &version.validator {
                    request = request.header(header::IF_RANGE, validator);
                }
            }
            let response = request.send().await.map_err(|error| connection(&error))?;
            self.rules.check_peer(&url, response.remote_addr()).map_err(forbidden)?;
            match response.status() {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                    return answer(response, part, Pace::new(self.idle));
                }
                StatusCode::RANGE_NOT_SATISFIABLE if part.is_some() => {
                    return Err(FetchFailure::Range("the server has no such part".into()));
                }
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => url = redirected(&url, &response)?,
                status => {
                    let retry_after_s = text(&response, header::RETRY_AFTER).and_then(retry_after);
                    return Err(FetchFailure::Status { status, retry_after_s });
                }
            }
        }
        let most = limits::FETCH_REDIRECTS;
        Err(FetchFailure::Redirect(format!(
            "more than {most} redirects, the last to {}",
            shown(&url)
        )))
    }

    /// A list of checksums, in memory.
    pub(super) async fn get_small(&self, url: &Url) -> Result<Small, FetchFailure> {
        let mut answer = self.get(url, None).await?;
        let encoding = answer.encoding.take();
        let mut bytes = vec![];
        while let Some(piece) = answer.piece().await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > limits::SUMS_BYTES {
                return Err(FetchFailure::ListTooLarge { most: limits::SUMS_BYTES });
            }
        }
        match answer.total.filter(|total| *total != bytes.len() as u64) {
            None => Ok(Small { bytes, encoding }),
            Some(expected) => Err(FetchFailure::Short { received: bytes.len() as u64, expected }),
        }
    }
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
struct Pace {
    idle: Duration,
    since: Instant,
    /// What came since then.
    bytes: u64,
}

impl Pace {
    fn new(idle: Duration) -> Self {
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
fn retry_after(value: &str) -> Option<u64> {
    let until = |date: SystemTime| date.duration_since(SystemTime::now()).unwrap_or_default();
    let date = || httpdate::parse_http_date(value).map(until).ok();
    value.trim().parse().ok().or_else(|| date().map(|wait| wait.as_secs()))
}

fn forbidden(error: Forbidden) -> FetchFailure {
    FetchFailure::Forbidden(error.to_string())
}

fn text(response: &Response, name: header::HeaderName) -> Option<&str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

fn redirected(from: &Url, response: &Response) -> Result<Url, FetchFailure> {
    let refused =
        |why: &str| FetchFailure::Redirect(format!("the redirect from {} {why}", shown(from)));
    let location = response.headers().get(header::LOCATION);
    let location = location.ok_or_else(|| refused("says not where to"))?;
    // Servers send names of files raw, in UTF-8 and in older encodings, where RFC 9110, 10.2.2, has them percent-encoded.
    let location = percent_encode(location.as_bytes(), &AsciiSet::EMPTY).to_string();
    if location.len() > qhost_model::limits::URL_BYTES {
        return Err(refused(&format!(
            "leads to a URL of more than {} bytes",
            qhost_model::limits::URL_BYTES
        )));
    }
    let to = from.join(&location).map_err(|error| refused(&format!("is no URL: {error}")))?;
    match (from.scheme(), to.scheme()) {
        ("http", "http" | "https") | ("https", "https") => {}
        ("https", "http") => return Err(refused("leads from https to http")),
        (_, scheme) => return Err(refused(&format!("leads to {scheme}:, not http or https"))),
    }
    if to.username().is_empty() && to.password().is_none() {
        Ok(to)
    } else {
        Err(refused("carries a user name or password"))
    }
}

fn answer(response: Response, part: Option<Span<'_>>, pace: Pace) -> Result<Answer, FetchFailure> {
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
fn connection(error: &reqwest::Error) -> FetchFailure {
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

fn deepest(error: &reqwest::Error) -> String {
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
