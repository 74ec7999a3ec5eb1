//! Sends one request for a file or a part of it, and follows its redirects, each of which is checked. The answer given back
//! has been checked against the request.

use std::{fs, sync::Arc, time::Duration};

use percent_encoding::{AsciiSet, percent_encode};
use reqwest::{Certificate, Client, Proxy, Response, StatusCode, header, redirect};
use url::Url;

use qhost_sys::trusted;

use super::{
    FetchFailure, ImageError, Settings,
    answer::{Answer, Pace, Span, answer, connection, deepest, retry_after, text},
    credentials::Credentials,
    network::{Forbidden, NetworkRules},
    shown,
};
use crate::limits;

/// The client, rules and credentials for requests.
pub(super) struct Http {
    client: Client,
    rules: NetworkRules,
    credentials: Credentials,
    idle: Duration,
}

/// The body of a file that is read whole.
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    /// The encoding of the body as the server names it.
    pub(super) encoding: Option<String>,
}

impl Http {
    /// Makes a client for sources of a scheme: a machine without CA certificates can still fetch over http.
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
                // Redirects are followed in this file, since each is checked. A proxy from the environment would resolve names
                // unseen by the rules.
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
            // Without CA certificates, a redirect to https trusts no certificate and fails.
            Err(_) if scheme == "http" => {
                builder().and_then(|client| client.tls_certs_only([]).build())
            }
            client => client,
        };
        let client = client.map_err(|error| ImageError::Client { reason: deepest(&error) })?;
        Ok(Self { client, rules, credentials, idle: config.idle_timeout() })
    }

    /// Asks for a file, or a part of it; the answer may be the whole file all the same.
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
            // Without this, a source could redirect to a URL that this host may read and the source's owner may not. After a
            // redirect to another host, every further URL is that host's choice, also one that leads back to the source.
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

    /// Fetches a list of checksums into memory.
    pub(super) async fn get_whole(&self, url: &Url) -> Result<Body, FetchFailure> {
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
            None => Ok(Body { bytes, encoding }),
            Some(expected) => Err(FetchFailure::Short { received: bytes.len() as u64, expected }),
        }
    }
}

fn forbidden(error: Forbidden) -> FetchFailure {
    FetchFailure::Forbidden(error.to_string())
}

fn redirected(from: &Url, response: &Response) -> Result<Url, FetchFailure> {
    let refused =
        |why: &str| FetchFailure::Redirect(format!("the redirect from {} {why}", shown(from)));
    let location = response.headers().get(header::LOCATION);
    let location = location.ok_or_else(|| refused("says not where to"))?;
    // Servers send file names raw, in UTF-8 and in older encodings, where RFC 9110, 10.2.2, has them percent-encoded.
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
