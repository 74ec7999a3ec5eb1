//! The client of a host's service: requests to its API, on a socket or over the network, and answers that are read up to a bound.

mod address;
mod problem;
mod stream;
mod text;

use std::{fs, io, path::PathBuf};

use reqwest::{
    Certificate, Identity, Method, RequestBuilder, Response,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
    redirect,
};
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::{self, Instant};
use url::Url;

use crate::limits;

pub use address::HostAddress;
pub use problem::Problem;
pub use stream::Follow;

/// Why a host's service did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A file that says who the client is, or which authority to trust, cannot be used.
    #[error("cannot use the file {} of {name}", path.display())]
    File {
        /// The variable that names the file.
        name: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The values that say who the client is cannot be used.
    #[error("{0}")]
    Access(String),
    /// The service does not answer.
    #[error("the service at {host} cannot be reached")]
    Unreachable {
        /// The service's place.
        host: String,
        /// The cause.
        source: reqwest::Error,
    },
    /// The service refused the request, and says why.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    /// The answer is not this service's, or another version's.
    #[error("the answer of {host} is not as the API has it: {reason}")]
    Malformed {
        /// The service's place.
        host: String,
        /// The reason.
        reason: String,
    },
}

/// The client's proof of who it is, and the authority by which it knows the service.
#[derive(Default)]
pub struct Access {
    /// `QHOST_TOKEN`: a token, as `qhost token new` prints it.
    pub token: Option<String>,
    /// `QHOST_CACERT`: a file of PEM certificates that the service's own is to be signed by; without it, those of the system.
    pub ca: Option<PathBuf>,
    /// `QHOST_CLIENT_CERT`: a file of a PEM certificate and its chain.
    pub certificate: Option<PathBuf>,
    /// `QHOST_CLIENT_KEY`: the certificate's private key, in PEM.
    pub key: Option<PathBuf>,
}

/// A client of one host's service.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    authorization: Option<HeaderValue>,
    host: String,
    reader: Reader,
}

/// The reader of the service's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// A program.
    Program,
    /// A person on a terminal, which no text of the service's may steer.
    Person,
}

impl Client {
    /// Makes a client, which connects at its first request.
    ///
    /// # Errors
    /// A file of the access cannot be used.
    pub fn new(
        address: &HostAddress,
        access: &Access,
        reader: Reader,
    ) -> Result<Self, ClientError> {
        // A redirect would take the token along.
        let mut http = reqwest::Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(limits::HOST_CONNECT)
            .read_timeout(limits::HOST_ANSWER);
        let base = match address {
            HostAddress::Unix(path) => {
                http = http.unix_socket(path.as_path());
                // The service does not look at the host of a request on a socket.
                Url::parse("http://qhost")
                    .map_err(|error| ClientError::Access(error.to_string()))?
            }
            HostAddress::Https(url) => {
                http = http.https_only(true);
                url.clone()
            }
        };
        if let Some(path) = &access.ca {
            let of = |pem: &[u8]| Certificate::from_pem_bundle(pem);
            http = http.tls_certs_only(read("QHOST_CACERT", path, of)?);
        }
        http = match (&access.certificate, &access.key) {
            (Some(certificate), Some(key)) => {
                let mut pem = bytes("QHOST_CLIENT_CERT", certificate)?;
                let of = |key: &[u8]| {
                    pem.extend_from_slice(key);
                    Identity::from_pem(&pem)
                };
                http.identity(read("QHOST_CLIENT_KEY", key, of)?)
            }
            (None, None) => http,
            (Some(_), None) | (None, Some(_)) => {
                let both = "QHOST_CLIENT_CERT and QHOST_CLIENT_KEY go together";
                return Err(ClientError::Access(both.into()));
            }
        };
        let authorization = access.token.as_ref().map(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
                .map_err(|_| ClientError::Access("QHOST_TOKEN is no token".into()))?;
            value.set_sensitive(true);
            Ok(value)
        });
        let host = address.to_string();
        let unusable = |source| ClientError::Unreachable { host: host.clone(), source };
        let http = http.build().map_err(unusable)?;
        Ok(Self { http, base, authorization: authorization.transpose()?, host, reader })
    }

    /// The service's place.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// A path of the API with a query. Parameters without a value are left out.
    pub fn at(&self, path: &[&str], query: &[(&str, Option<String>)]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let given: Vec<_> =
            query.iter().filter_map(|(name, value)| Some((*name, value.as_ref()?))).collect();
        if !given.is_empty() {
            url.query_pairs_mut().extend_pairs(given);
        }
        url
    }

    /// Sends a request, and gives the answer as far as its head. An answer that is no success is an error.
    async fn answered(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let request = match &self.authorization {
            Some(authorization) => request.header(AUTHORIZATION, authorization),
            None => request,
        };
        let answer = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = answer.status();
        if status.is_success() || status.is_informational() {
            return Ok(answer);
        }
        let said = self.read(answer).await?;
        Err(match self.object(&said) {
            Ok(problem) => ClientError::Problem(Box::new(problem)),
            Err(_) => self.malformed(format!("{status} without a reason of qhost's")),
        })
    }

    async fn read(&self, mut answer: Response) -> Result<Vec<u8>, ClientError> {
        let mut body = vec![];
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.unreachable(error))? {
            body.extend_from_slice(&chunk);
            if body.len() > limits::HOST_ANSWER_BYTES {
                let most = limits::HOST_ANSWER_BYTES >> 20;
                return Err(self.malformed(format!("more than {most} MiB")));
            }
        }
        Ok(body)
    }

    fn request(&self, method: Method, url: Url, body: Option<Vec<u8>>) -> RequestBuilder {
        let request = self.http.request(method, url);
        match body {
            Some(body) => request.header(CONTENT_TYPE, "application/json").body(body),
            None => request,
        }
    }

    /// Sends a request, and gives the answer's bytes.
    ///
    /// # Errors
    /// The service cannot be reached, refuses, or answers too much.
    pub async fn bytes(
        &self,
        method: Method,
        url: Url,
        body: Option<Vec<u8>>,
    ) -> Result<Vec<u8>, ClientError> {
        let answer = self.answered(self.request(method, url, body)).await?;
        self.read(answer).await
    }

    /// Sends a request, and gives the answer's object.
    ///
    /// # Errors
    /// The errors of [`Self::bytes`], and an answer that is another object.
    pub async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        url: Url,
        body: Option<Vec<u8>>,
    ) -> Result<T, ClientError> {
        let said = self.bytes(method, url, body).await?;
        self.object(&said)
    }

    /// Asks for an object.
    ///
    /// # Errors
    /// The errors of [`Self::send`].
    pub async fn get<T: DeserializeOwned>(&self, url: Url) -> Result<T, ClientError> {
        self.send(Method::GET, url, None).await
    }

    /// Asks for an object. A service that is absent, as while it is upgraded, is asked again for [`limits::HOST_ABSENT`].
    ///
    /// # Errors
    /// The errors of [`Self::send`].
    pub async fn get_patiently<T: DeserializeOwned>(&self, url: Url) -> Result<T, ClientError> {
        patiently(async || self.get(url.clone()).await).await
    }

    /// Gives up an operation, which the service may have forgotten, even if the service is absent for a while.
    ///
    /// # Errors
    /// The service stays away.
    pub async fn give_up(&self, url: Url) -> Result<(), ClientError> {
        let asked = patiently(async || self.bytes(Method::DELETE, url.clone(), None).await);
        match asked.await {
            // The operation may be over at this very moment.
            Ok(_) | Err(ClientError::Problem(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Begins an operation once: if the answer is lost, the same request is sent again with its key.
    ///
    /// # Errors
    /// The errors of [`Self::send`], and a kernel that gives no random numbers.
    pub async fn begin<T: DeserializeOwned>(
        &self,
        url: Url,
        body: Vec<u8>,
    ) -> Result<T, ClientError> {
        let mut random = [0; 16];
        let read = getrandom(&mut random, GetRandomFlags::empty());
        if read.ok() != Some(random.len()) {
            return Err(ClientError::Access("the kernel gives no random numbers".into()));
        }
        let key = format!("{:032x}", u128::from_le_bytes(random));
        let said = patiently(async || {
            let request = self.request(Method::POST, url.clone(), Some(body.clone()));
            let answer = self.answered(request.header("idempotency-key", &key)).await?;
            self.read(answer).await
        });
        let said = said.await?;
        self.object(&said)
    }

    /// Reads all items of a list, page by page.
    ///
    /// # Errors
    /// The errors of [`Self::send`].
    pub async fn list<T: DeserializeOwned>(
        &self,
        name: &'static str,
        query: &[(&str, Option<String>)],
    ) -> Result<Vec<T>, ClientError> {
        self.list_most(name, query, usize::MAX).await
    }

    /// Reads at most so many items of a list.
    ///
    /// # Errors
    /// The errors of [`Self::send`].
    pub async fn list_most<T: DeserializeOwned>(
        &self,
        name: &'static str,
        query: &[(&str, Option<String>)],
        most: usize,
    ) -> Result<Vec<T>, ClientError> {
        let mut all = vec![];
        let mut after = None;
        loop {
            let limit = most.saturating_sub(all.len()).min(limits::HOST_PAGE);
            if limit == 0 {
                return Ok(all);
            }
            let mut query = query.to_vec();
            query.push(("limit", Some(limit.to_string())));
            query.push(("after", after));
            let mut page: Page = self.get(self.at(&["v1", name], &query)).await?;
            let items = page.items.remove(name).unwrap_or_default();
            let items: Vec<T> = serde_json::from_value(items)
                .map_err(|error| self.malformed(format!("{name}: {error}")))?;
            let is_no_page = items.len() > limit || (items.is_empty() && page.next.is_some());
            if is_no_page || all.len() > limits::HOST_LIST {
                return Err(
                    self.malformed(format!("{name}: a page of it, or all of it, is too long"))
                );
            }
            all.extend(items);
            after = page.next;
            if after.is_none() {
                return Ok(all);
            }
        }
    }

    /// Makes a connection that becomes another protocol's (RFC 9110, 7.8).
    ///
    /// # Errors
    /// The errors of [`Self::send`], and a service that goes on with HTTP.
    pub async fn upgrade(
        &self,
        url: Url,
        headers: [(&'static str, String); 4],
    ) -> Result<reqwest::Upgraded, ClientError> {
        let request = self.request(Method::GET, url, None);
        let request =
            headers.into_iter().fold(request, |request, (name, value)| request.header(name, value));
        let answer = self.answered(request).await?;
        answer.upgrade().await.map_err(|error| self.unreachable(error))
    }

    /// Reads an object of the service. If a person reads it, none of its texts steers a terminal.
    fn object<T: DeserializeOwned>(&self, said: &[u8]) -> Result<T, ClientError> {
        let read = if self.reader == Reader::Program {
            serde_json::from_slice(said)
        } else {
            serde_json::from_slice(said).map(text::printable).and_then(serde_json::from_value)
        };
        read.map_err(|error| self.malformed(error.to_string()))
    }

    fn unreachable(&self, error: reqwest::Error) -> ClientError {
        ClientError::Unreachable { host: self.host.clone(), source: error.without_url() }
    }

    /// The error for an answer that is not this service's.
    pub fn malformed(&self, reason: String) -> ClientError {
        ClientError::Malformed { host: self.host.clone(), reason }
    }
}

/// One page of a list, by the list's name.
#[derive(Deserialize)]
struct Page {
    #[serde(flatten)]
    items: serde_json::Map<String, serde_json::Value>,
    next: Option<String>,
}

/// Repeats a request to a service that may be absent for a while.
async fn patiently<T>(ask: impl AsyncFn() -> Result<T, ClientError>) -> Result<T, ClientError> {
    let mut absent_since = None;
    loop {
        match ask().await {
            Err(ClientError::Unreachable { .. })
                if absent_since.get_or_insert_with(Instant::now).elapsed()
                    < limits::HOST_ABSENT =>
            {
                time::sleep(limits::HOST_AGAIN).await;
            }
            done => return done,
        }
    }
}

fn bytes(name: &'static str, path: &PathBuf) -> Result<Vec<u8>, ClientError> {
    fs::read(path).map_err(|source| ClientError::File { name, path: path.clone(), source })
}

fn read<T>(
    name: &'static str,
    path: &PathBuf,
    of: impl FnOnce(&[u8]) -> reqwest::Result<T>,
) -> Result<T, ClientError> {
    of(&bytes(name, path)?).map_err(|error| {
        let source = io::Error::new(io::ErrorKind::InvalidData, error);
        ClientError::File { name, path: path.clone(), source }
    })
}
