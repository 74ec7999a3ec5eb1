//! A registry's protocol (OCI Distribution 1.1): requests with the authorization that the registry asks for, and bounded reads of its
//! files, tokens and refusals.

use bytes::Bytes;
use http_auth::ChallengeRef;
use reqwest::{
    Client, ClientBuilder, Method, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION, WWW_AUTHENTICATE},
    redirect,
};
use serde::Deserialize;
use url::{Host, Url};

use qhost_model::printable;

use super::{Place, Transport};
use crate::limits;

/// Why a registry did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The connection to a host failed.
    #[error("the connection to {host} failed")]
    Connection {
        /// The registry, the token service, or the host of a redirect.
        host: String,
        /// The cause.
        source: reqwest::Error,
    },
    /// A host refused the request.
    #[error("{host} answered {status}: {said}")]
    Refused {
        /// The registry or the token service.
        host: String,
        /// The status of the answer.
        status: StatusCode,
        /// The host's own text, on one line.
        said: String,
    },
    /// An answer is longer than the bound.
    #[error("the answer of {host} has more than {most} bytes")]
    TooLarge {
        /// The registry or the token service.
        host: String,
        /// The bound.
        most: u64,
    },
    /// A host does not keep to the protocol.
    #[error("the answer of {host} is not as OCI Distribution has it: {reason}")]
    Malformed {
        /// The registry or the token service.
        host: String,
        /// The reason.
        reason: String,
    },
}

/// The credentials of a client: none, a password, or a token.
pub(super) enum Credentials {
    Anonymous,
    Password { user: String, password: String },
    Token(String),
}

/// The action in a repository that the token has to allow.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scope {
    Pull,
    Push,
}

/// Requests about one repository.
pub(super) struct Session {
    client: Client,
    /// The repository, with a slash at its end.
    base: Url,
    /// The scope that the token is asked for.
    scope: String,
    credentials: Credentials,
    authorization: Option<HeaderValue>,
}

/// A request, which can be sent again once the authorization that it needs is known.
struct Request {
    method: Method,
    url: Url,
    accept: &'static str,
    body: Option<(Bytes, &'static str)>,
}

impl Session {
    pub(super) fn new(
        place: &Place,
        transport: Transport,
        credentials: Credentials,
        scope: Scope,
    ) -> Result<Self, SessionError> {
        let (registry, repository) = (place.registry(), place.0.repository());
        let scheme = match transport {
            Transport::Tls => "https",
            Transport::Plain => "http",
        };
        let base = Url::parse(&format!("{scheme}://{registry}/v2/{repository}/"));
        let base = base.map_err(|error| malformed(registry, &error))?;
        let client = client(transport)
            .build()
            .map_err(|source| SessionError::Connection { host: registry.into(), source })?;
        let authorization = match &credentials {
            Credentials::Token(token) => {
                Some(bearer(token).map_err(|why| malformed(registry, &why))?)
            }
            Credentials::Anonymous | Credentials::Password { .. } => None,
        };
        let actions = match scope {
            Scope::Pull => "pull",
            Scope::Push => "pull,push",
        };
        let scope = format!("repository:{repository}:{actions}");
        Ok(Self { client, base, scope, credentials, authorization })
    }

    /// Reads a file of at most so many bytes.
    pub(super) async fn get(
        &mut self,
        path: &str,
        accept: &'static str,
        most: u64,
    ) -> Result<Got, SessionError> {
        let url = self.url(path)?;
        let answer = self.ask(Request { method: Method::GET, url, accept, body: None }).await?;
        let answer = successful(answer).await?;
        let digest = answer.headers().get("docker-content-digest");
        let digest = digest.and_then(|digest| Some(digest.to_str().ok()?.to_owned()));
        Ok(Got { digest, bytes: whole(answer, most).await? })
    }

    /// Puts a blob into the repository, unless it is there already.
    pub(super) async fn put_blob(&mut self, digest: &str, blob: Bytes) -> Result<(), SessionError> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let head = Request { method: Method::HEAD, url, accept: ANY, body: None };
        let answer = self.ask(head).await?;
        if answer.status() != StatusCode::NOT_FOUND {
            return successful(answer).await.map(drop);
        }
        let (url, nothing) = (self.url("blobs/uploads/")?, Some((Bytes::new(), BLOB)));
        let begin = Request { method: Method::POST, url, accept: ANY, body: nothing };
        let answer = successful(self.ask(begin).await?).await?;
        let location = answer.headers().get(LOCATION).and_then(|place| place.to_str().ok());
        let url = location.and_then(|place| answer.url().join(place).ok());
        let no_place = || malformed(&host(answer.url()), &"it names no place for the upload");
        let mut url = url.ok_or_else(no_place)?;
        url.query_pairs_mut().append_pair("digest", digest);
        let body = Some((blob, BLOB));
        let put = Request { method: Method::PUT, url, accept: ANY, body };
        successful(self.ask(put).await?).await.map(drop)
    }

    /// Puts a manifest into the repository, under a tag.
    pub(super) async fn put_manifest(
        &mut self,
        tag: &str,
        kind: &'static str,
        manifest: Bytes,
    ) -> Result<(), SessionError> {
        let (url, body) = (self.url(&format!("manifests/{tag}"))?, Some((manifest, kind)));
        let put = Request { method: Method::PUT, url, accept: ANY, body };
        successful(self.ask(put).await?).await.map(drop)
    }

    fn url(&self, path: &str) -> Result<Url, SessionError> {
        self.base.join(path).map_err(|error| malformed(&host(&self.base), &error))
    }

    /// Sends a request, and sends it again with authorization if the registry asks for that.
    async fn ask(&mut self, request: Request) -> Result<Response, SessionError> {
        let answer = self.send(&request).await?;
        let is_new = self.authorization.is_none();
        if answer.status() != StatusCode::UNAUTHORIZED
            || !is_new
            || !self.authorize(&answer).await?
        {
            return Ok(answer);
        }
        self.send(&request).await
    }

    async fn send(&self, request: &Request) -> Result<Response, SessionError> {
        let Request { method, url, accept, body } = request;
        let mut builder = self.client.request(method.clone(), url.clone()).header(ACCEPT, *accept);
        if let Some((bytes, kind)) = body {
            builder = builder.header(CONTENT_TYPE, *kind).body(bytes.clone());
        }
        // The URL of an upload may be another host's, which gets no authorization.
        if url.origin() == self.base.origin()
            && let Some(authorization) = &self.authorization
        {
            builder = builder.header(AUTHORIZATION, authorization);
        }
        builder.send().await.map_err(|error| failed(&host(url), error))
    }

    /// Gets the authorization that a refusal asks for; false if it asks for none that can be got.
    async fn authorize(&mut self, refusal: &Response) -> Result<bool, SessionError> {
        let texts = refusal.headers().get_all(WWW_AUTHENTICATE).into_iter();
        let texts = texts.filter_map(|text| text.to_str().ok());
        let challenges: Vec<ChallengeRef<'_>> =
            texts.filter_map(|text| http_auth::parse_challenges(text).ok()).flatten().collect();
        let of =
            |scheme: &str| challenges.iter().find(|one| one.scheme.eq_ignore_ascii_case(scheme));
        self.authorization = match (of("Bearer"), of("Basic"), &self.credentials) {
            (Some(challenge), _, _) => Some(self.token(challenge).await?),
            (None, Some(_), Credentials::Password { user, password }) if is_private(&self.base) => {
                Some(basic(user, password))
            }
            (None, _, _) => None,
        };
        Ok(self.authorization.is_some())
    }

    /// Gets a token from the service that a challenge names.
    async fn token(&self, challenge: &ChallengeRef<'_>) -> Result<HeaderValue, SessionError> {
        let value = |name: &str| {
            let mut values = challenge.params.iter();
            values
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.to_unescaped())
        };
        let realm = value("realm").and_then(|realm| Url::parse(&realm).ok());
        let no_realm = || malformed(&host(&self.base), &"it names no service that gives tokens");
        let mut url = realm.filter(|url| url.has_host()).ok_or_else(no_realm)?;
        if let Some(service) = value("service") {
            url.query_pairs_mut().append_pair("service", &service);
        }
        url.query_pairs_mut().append_pair("scope", &self.scope);
        let mut request = self.client.get(url.clone());
        if let Credentials::Password { user, password } = &self.credentials
            && is_private(&url)
        {
            request = request.header(AUTHORIZATION, basic(user, password));
        }
        let answer = request.send().await.map_err(|error| failed(&host(&url), error))?;
        let answer = successful(answer).await?;
        let host = host(answer.url());
        let bytes = whole(answer, limits::REGISTRY_TOKEN_BYTES).await?;
        let Token { token, access_token } =
            serde_json::from_slice(&bytes).map_err(|error| malformed(&host, &error))?;
        let token = token.or(access_token).ok_or_else(|| malformed(&host, &"it has no token"))?;
        bearer(&token).map_err(|reason| malformed(&host, &reason))
    }
}

const ANY: &str = "*/*";
const BLOB: &str = "application/octet-stream";

/// A file that was read.
pub(super) struct Got {
    pub(super) bytes: Vec<u8>,
    /// The file's digest, as the registry says.
    pub(super) digest: Option<String>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

fn client(transport: Transport) -> ClientBuilder {
    let client = Client::builder()
        .user_agent(concat!("qhost/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(qhost_image::limits::FETCH_CONNECT)
        .read_timeout(qhost_image::limits::FETCH_IDLE)
        .redirect(redirect::Policy::custom(|attempt| {
            let was_private = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
            if attempt.previous().len() > qhost_image::limits::FETCH_REDIRECTS {
                attempt.error("too many redirects")
            } else if was_private && attempt.url().scheme() != "https" {
                attempt.error("a redirect from https to http")
            } else {
                attempt.follow()
            }
        }));
    match transport {
        Transport::Tls => client,
        // A machine without CA certificates can still ask over http.
        Transport::Plain => client.tls_certs_only([]),
    }
}

/// Whether a password may go to a URL, which is so unless it would go over a network in clear.
pub(super) fn is_private(url: &Url) -> bool {
    let is_loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "https" || is_loopback
}

fn bearer(token: &str) -> Result<HeaderValue, &'static str> {
    let header = HeaderValue::from_str(&format!("Bearer {token}"));
    header.map(secret).map_err(|_| "the token cannot stand in a header")
}

fn basic(user: &str, password: &str) -> HeaderValue {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let header = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    // Base64 can always stand in a header.
    secret(HeaderValue::from_str(&header).unwrap_or(HeaderValue::from_static("Basic")))
}

fn secret(mut header: HeaderValue) -> HeaderValue {
    header.set_sensitive(true);
    header
}

/// Passes an answer on, unless it is a refusal, whose text becomes the error.
async fn successful(answer: Response) -> Result<Response, SessionError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let host = host(answer.url());
    let body = beginning(answer, limits::REGISTRY_REFUSAL_BYTES).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&body);
    let said = match serde_json::from_str(&text) {
        Ok(Refusal { errors }) => {
            errors.into_iter().map(Problem::said).collect::<Vec<_>>().join("; ")
        }
        Err(_) => text.trim().to_owned(),
    };
    let said = match said.as_str() {
        "" => "it does not say why".to_owned(),
        said => printable::line(said, limits::REGISTRY_SAID_CHARS).to_string(),
    };
    Err(SessionError::Refused { host, status, said })
}

#[derive(Deserialize)]
struct Refusal {
    errors: Vec<Problem>,
}

#[derive(Deserialize)]
struct Problem {
    code: Option<String>,
    message: Option<String>,
}

impl Problem {
    fn said(self) -> String {
        [self.code, self.message].into_iter().flatten().collect::<Vec<_>>().join(": ")
    }
}

/// Reads all of an answer, which may not be longer than `most`.
async fn whole(answer: Response, most: u64) -> Result<Vec<u8>, SessionError> {
    let host = host(answer.url());
    let bytes = beginning(answer, most + 1).await?;
    if bytes.len() as u64 <= most { Ok(bytes) } else { Err(SessionError::TooLarge { host, most }) }
}

/// Reads the first bytes of an answer.
async fn beginning(mut answer: Response, most: u64) -> Result<Vec<u8>, SessionError> {
    let (host, most) = (host(answer.url()), usize::try_from(most).unwrap_or(usize::MAX));
    let mut bytes = vec![];
    while bytes.len() < most {
        match answer.chunk().await.map_err(|error| failed(&host, error))? {
            Some(more) => bytes.extend(more.into_iter().take(most - bytes.len())),
            None => break,
        }
    }
    Ok(bytes)
}

fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or(host.into(), |port| format!("{host}:{port}"))
}

fn failed(host: &str, error: reqwest::Error) -> SessionError {
    // The URL of an upload may contain a secret.
    SessionError::Connection { host: host.into(), source: error.without_url() }
}

fn malformed(host: &str, reason: &dyn std::fmt::Display) -> SessionError {
    let reason = printable::line(&reason.to_string(), limits::REGISTRY_SAID_CHARS).to_string();
    SessionError::Malformed { host: host.into(), reason }
}
