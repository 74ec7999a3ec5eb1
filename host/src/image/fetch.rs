//! Fetches a file over HTTP or HTTPS: written and hashed in one pass, bounded in time and size, redirects checked one
//! by one, retried where that can help.

use std::{
    error::Error,
    fs::File,
    io::{self, Seek as _, Write as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use reqwest::{Client, Response, StatusCode, header, redirect};
use tokio::time;
use url::{Host, Url};

use super::{AddressRules, FetchFailure, ImageError, Progress, network::Forbidden, shown};
use crate::{
    config,
    digest::{Hasher, Sha256},
    limits,
};

/// What arrived.
pub(super) struct Fetched {
    pub(super) sha256: Sha256,
    pub(super) bytes: u64,
}

/// Fetches `url` into `file`, whose path is for errors. Whatever the file held before is gone.
pub(super) async fn fetch(
    url: &Url,
    (file, path): (&mut File, &Path),
    config: &config::Image,
    progress: &dyn Progress,
) -> Result<Fetched, ImageError> {
    let failed = |reason| ImageError::Fetch { url: shown(url), reason };
    let rules = AddressRules::new(config.network.allow.clone());
    let client = client(url, &rules, config).map_err(failed)?;
    let fetch = Fetch { client, rules, config, progress };
    let total = config.total_timeout();
    match time::timeout(total, fetch.with_retries(url, file)).await {
        Ok(Ok(fetched)) => Ok(fetched),
        Ok(Err(Failure::Source(reason))) => Err(failed(reason)),
        Ok(Err(Failure::Disk(source))) => Err(ImageError::store(path)(source)),
        Err(_) => Err(failed(FetchFailure::TooSlow { seconds: total.as_secs() })),
    }
}

fn client(url: &Url, rules: &AddressRules, config: &config::Image) -> Result<Client, FetchFailure> {
    let builder = || {
        Client::builder()
            .user_agent(concat!("qhost/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(config.connect_timeout())
            .read_timeout(config.idle_timeout())
            // Redirects are followed by hand, each checked; a proxy would resolve names where no rule sees it.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .dns_resolver(Arc::new(rules.clone()))
            .retry(reqwest::retry::never())
    };
    match builder().build() {
        // A machine without CA certificates can still fetch over http; a redirect to https then trusts nobody.
        Err(_) if url.scheme() == "http" => builder().tls_certs_only([]).build(),
        client => client,
    }
    .map_err(|error| connection(&error))
}

enum Failure {
    Source(FetchFailure),
    Disk(io::Error),
}

impl From<FetchFailure> for Failure {
    fn from(reason: FetchFailure) -> Self {
        Self::Source(reason)
    }
}

struct Fetch<'a> {
    client: Client,
    rules: AddressRules,
    config: &'a config::Image,
    progress: &'a dyn Progress,
}

impl Fetch<'_> {
    async fn with_retries(&self, url: &Url, file: &mut File) -> Result<Fetched, Failure> {
        let mut backoff = limits::FETCH_BACKOFF;
        for _ in 1..self.config.attempts {
            let failure = match self.attempt(url, file).await {
                Err(Failure::Source(failure)) => failure,
                done => return done,
            };
            let Some(wait) = wait_before_retry(&failure, backoff) else {
                return Err(failure.into());
            };
            self.progress.retrying(&failure.to_string());
            time::sleep(wait).await;
            backoff = backoff.saturating_mul(2).min(limits::FETCH_RETRY_AFTER);
        }
        self.attempt(url, file).await
    }

    async fn attempt(&self, url: &Url, file: &mut File) -> Result<Fetched, Failure> {
        file.set_len(0).and_then(|()| file.rewind()).map_err(Failure::Disk)?;
        let mut response = self.follow(url).await?;
        let total = response.content_length();
        let most = self.config.max_bytes;
        if total.is_some_and(|total| total > most) {
            return Err(FetchFailure::TooLarge { most }.into());
        }
        self.progress.begins(total);
        let mut hasher = Hasher::default();
        let mut received = 0;
        loop {
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) => return Err(broken(&error, received, total).into()),
            };
            received += chunk.len() as u64;
            if received > most {
                return Err(FetchFailure::TooLarge { most }.into());
            }
            hasher.update(&chunk);
            file.write_all(&chunk).map_err(Failure::Disk)?;
            self.progress.received(received);
        }
        match total {
            Some(expected) if expected != received => {
                Err(FetchFailure::Short { received, expected }.into())
            }
            Some(_) | None => Ok(Fetched { sha256: hasher.finish(), bytes: received }),
        }
    }

    /// The first answer that is no redirect, if it has the file.
    async fn follow(&self, url: &Url) -> Result<Response, FetchFailure> {
        let mut url = url.clone();
        for _ in 0..=limits::FETCH_REDIRECTS {
            self.check(&url)?;
            let request = self.client.get(url.clone()).header(header::ACCEPT_ENCODING, "identity");
            let response = request.send().await.map_err(|error| connection(&error))?;
            match response.status() {
                StatusCode::OK => return unencoded(response),
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => url = redirected(&url, &response)?,
                status => {
                    let retry_after = response.headers().get(header::RETRY_AFTER);
                    let retry_after_s = retry_after
                        .and_then(|value| value.to_str().ok())
                        .and_then(|value| value.trim().parse().ok());
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

    /// The resolver is not asked about literal addresses, so they are checked here.
    fn check(&self, url: &Url) -> Result<(), FetchFailure> {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => address.into(),
            Some(Host::Ipv6(address)) => address.into(),
            Some(Host::Domain(_)) => return Ok(()),
            None => return Err(FetchFailure::Redirect(format!("{} has no host", shown(url)))),
        };
        match self.rules.permits(address) {
            true => Ok(()),
            false => {
                let host = url.host_str().unwrap_or_default().to_owned();
                let forbidden = Forbidden { host, addresses: address.to_string() };
                Err(FetchFailure::Forbidden(forbidden.to_string()))
            }
        }
    }
}

fn redirected(from: &Url, response: &Response) -> Result<Url, FetchFailure> {
    let refused =
        |why: &str| FetchFailure::Redirect(format!("the redirect from {} {why}", shown(from)));
    let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| refused("says not where to"))?;
    let to = from.join(location).map_err(|error| refused(&format!("is no URL: {error}")))?;
    match (from.scheme(), to.scheme()) {
        ("http", "http" | "https") | ("https", "https") => {}
        ("https", "http") => return Err(refused("leads from https to http")),
        (_, scheme) => return Err(refused(&format!("leads to {scheme}:, not http or https"))),
    }
    match to.username().is_empty() && to.password().is_none() {
        true => Ok(to),
        false => Err(refused("carries a user name or password")),
    }
}

fn unencoded(response: Response) -> Result<Response, FetchFailure> {
    let encoding = response.headers().get(header::CONTENT_ENCODING);
    match encoding.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()) {
        Some(encoding) if encoding != "identity" => Err(FetchFailure::Encoded(
            crate::printable::line(&encoding, limits::SHOWN_CHARS).to_string(),
        )),
        Some(_) | None => Ok(response),
    }
}

/// How long to wait before another attempt; nothing where another would end the same.
fn wait_before_retry(failure: &FetchFailure, backoff: Duration) -> Option<Duration> {
    match failure {
        FetchFailure::Connection(_) | FetchFailure::Short { .. } => Some(backoff),
        FetchFailure::Status { status, retry_after_s } => {
            let worth = status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS;
            let asked = retry_after_s.map_or(backoff, Duration::from_secs);
            (worth && asked <= limits::FETCH_RETRY_AFTER).then_some(asked.max(backoff))
        }
        FetchFailure::Forbidden(_)
        | FetchFailure::Tls(_)
        | FetchFailure::Redirect(_)
        | FetchFailure::TooLarge { .. }
        | FetchFailure::Encoded(_)
        | FetchFailure::TooSlow { .. } => None,
    }
}

fn broken(error: &reqwest::Error, received: u64, total: Option<u64>) -> FetchFailure {
    match total {
        Some(expected) if !error.is_timeout() => FetchFailure::Short { received, expected },
        Some(_) | None => connection(error),
    }
}

/// Says what failed in words of the deepest cause: reqwest's own are "error sending request".
fn connection(error: &reqwest::Error) -> FetchFailure {
    let mut cause = error.source();
    let mut deepest = None;
    while let Some(inner) = cause {
        if let Some(forbidden) = inner.downcast_ref::<Forbidden>() {
            return FetchFailure::Forbidden(forbidden.to_string());
        }
        if let Some(tls) = tls_fault(inner) {
            return FetchFailure::Tls(tls.to_string());
        }
        deepest = Some(inner);
        cause = inner.source();
    }
    let what = match (error.is_connect(), error.is_timeout()) {
        (true, true) => {
            return FetchFailure::Connection(
                "no connection in time (image.connect_timeout_s)".into(),
            );
        }
        (false, true) => {
            return FetchFailure::Connection("no bytes in time (image.idle_timeout_s)".into());
        }
        (true, false) => "no connection",
        (false, false) => "the connection broke",
    };
    let why = deepest.map(|cause| format!(": {cause}")).unwrap_or_default();
    FetchFailure::Connection(crate::printable::line(&format!("{what}{why}"), 300).to_string())
}

/// An I/O error names its inner error's source as its own, not the inner error, so that has to be asked for.
fn tls_fault<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    error.downcast_ref().or_else(|| inner.and_then(|inner| tls_fault(inner)))
}
