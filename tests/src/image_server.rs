//! A real HTTP server on loopback that counts requests and can be told to misbehave.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    response::Response,
};
use tokio::sync::oneshot;

use qhost_model::digest::Sha256;

/// What the server answers for a path.
#[derive(Clone)]
pub enum Reply {
    /// The file.
    File(Bytes),
    /// The file in pieces, with a pause before each.
    Slow(Bytes, Duration),
    /// The whole file announced, and the connection closed after so many bytes.
    CutAfter(Bytes, usize),
    /// The first so many bytes, and then nothing for ever.
    StallAfter(Bytes, usize),
    /// A status and headers without a body.
    Status(StatusCode, Vec<(HeaderName, HeaderValue)>),
    /// The file with headers.
    WithHeaders(Bytes, Vec<(HeaderName, HeaderValue)>),
    /// The file without its length.
    Chunked(Bytes),
    /// The file with versions and parts.
    Ranged(Ranged),
    /// The first answers, one for each request, and then the other one for ever.
    First(Vec<Reply>, Box<Reply>),
}

/// A file with a version, of which parts may be asked for.
#[derive(Clone)]
pub struct Ranged {
    /// The file.
    pub file: Bytes,
    /// The version, quoted; absent where the server does not tell it.
    pub etag: Option<&'static str>,
    /// When the file was changed; absent where the server does not tell it.
    pub modified: Option<&'static str>,
    /// After how many bytes every answer breaks off; absent where none does.
    pub cut: Option<usize>,
    /// The pause before every 64 KiB.
    pub pause: Duration,
    /// What the server does wrong with parts.
    pub quirk: Quirk,
}

/// What a server does wrong when it is asked for a part.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Quirk {
    /// The server does nothing wrong.
    None,
    /// The server sends the whole file.
    IgnoresRange,
    /// The server sends another part.
    WrongStart,
    /// The server says that the file has another size.
    WrongTotal,
    /// The server does not say which part it sends.
    SaysNotWhich,
    /// The server sends a part of another version.
    OtherVersion,
    /// The server says that there is no such part.
    NotSatisfiable,
    /// The server is too busy for parts with an end.
    NoBoundedParts,
}

impl Ranged {
    /// A file whose server does nothing wrong.
    pub fn new(file: impl Into<Bytes>, etag: &'static str) -> Self {
        Self { etag: Some(etag), ..Self::unversioned(file) }
    }

    /// A file whose server gives parts, and tells no version.
    pub fn unversioned(file: impl Into<Bytes>) -> Self {
        let (file, pause) = (file.into(), Duration::ZERO);
        Self { file, etag: None, modified: None, cut: None, pause, quirk: Quirk::None }
    }

    fn answer(self, seen: &Seen) -> Response {
        let Self { file, etag, modified, cut, pause, quirk } = self;
        let length = file.len();
        let same = |asked: &str| etag == Some(asked) || modified == Some(asked);
        let is_meant = seen.if_range.as_deref().is_none_or(same);
        let wanted = seen.range.as_deref().filter(|_| is_meant);
        let wanted = wanted.filter(|_| quirk != Quirk::IgnoresRange).map(|range| {
            let (from, to) = range.trim_start_matches("bytes=").split_once('-').expect("a range");
            (from.parse::<usize>().expect("a number"), to.parse::<usize>().ok())
        });
        let plain = |status| {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = status;
            response
        };
        let (from, to) = match wanted {
            Some(_) if quirk == Quirk::NotSatisfiable => {
                return plain(StatusCode::RANGE_NOT_SATISFIABLE);
            }
            Some((_, Some(_))) if quirk == Quirk::NoBoundedParts => {
                return plain(StatusCode::SERVICE_UNAVAILABLE);
            }
            // The header names the wrong part too.
            Some((from, _)) if quirk == Quirk::WrongStart => (from - 1, length - 1),
            Some((from, to)) => (from, to.unwrap_or(length - 1)),
            None => (0, length - 1),
        };
        let part = file.slice(from..=to);
        let sent = part.slice(..cut.unwrap_or(usize::MAX).min(part.len()));
        let whole = sent.len() == part.len();
        let end = if whole { Duration::ZERO } else { Duration::from_millis(100) };
        let mut response = with_length(part.len(), pieces(sent, move |_| Some(pause), end));
        let headers = response.headers_mut();
        headers.insert("accept-ranges", HeaderValue::from_static("bytes"));
        for (name, value) in [("etag", etag), ("last-modified", modified)] {
            if let Some(value) = value {
                headers.insert(name, HeaderValue::from_static(value));
            }
        }
        if wanted.is_some() {
            let said = match quirk {
                Quirk::WrongTotal => Some(format!("bytes {from}-{to}/{}", length + 1)),
                Quirk::SaysNotWhich => None,
                _ => Some(format!("bytes {from}-{to}/{length}")),
            };
            if let Some(said) = said {
                headers.insert("content-range", said.parse().expect("a header"));
            }
            if quirk == Quirk::OtherVersion {
                headers.insert("etag", HeaderValue::from_static("\"other\""));
            }
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        response
    }
}

/// A request that the server received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The path.
    pub path: String,
    /// The part asked for.
    pub range: Option<String>,
    /// The version that the part must be of.
    pub if_range: Option<String>,
    /// The credentials.
    pub authorization: Option<String>,
}

impl Reply {
    /// A redirect.
    pub fn redirect(to: &str) -> Self {
        let location = HeaderValue::from_str(to).expect("a URL");
        Self::Status(StatusCode::FOUND, vec![(HeaderName::from_static("location"), location)])
    }
}

#[derive(Default)]
struct Shared {
    replies: HashMap<String, Reply>,
    requests: Vec<Seen>,
}

/// The server, which ends when this is dropped.
pub struct ImageServer {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    _stop: oneshot::Sender<()>,
}

impl ImageServer {
    /// Starts a server on a free port.
    pub fn start() -> Self {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let (stop, stopped) = oneshot::channel();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let app = Router::new().fallback(answer).with_state(shared.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                listener.set_nonblocking(true).expect("a socket");
                let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
                tokio::select! {
                    served = async { axum::serve(listener, app).await } => served.expect("the server"),
                    _ = stopped => {}
                }
            });
        });
        Self { address, shared, _stop: stop }
    }

    /// The URL of a path on the server.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The port that the server listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Sets the answer for a path.
    pub fn set(&self, path: &str, reply: Reply) {
        self.shared.lock().expect("the lock").replies.insert(path.into(), reply);
    }

    /// Serves a file, and gives its URL and SHA-256.
    pub fn serve(&self, path: &str, file: impl Into<Bytes>) -> (String, String) {
        let file = file.into();
        let sha256 = Sha256::of(&file).to_string();
        self.set(path, Reply::File(file));
        (self.url(path), sha256)
    }

    /// The paths requested so far, in order.
    pub fn requests(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.path).collect()
    }

    /// The requests so far, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.lock().expect("the lock").requests.clone()
    }
}

async fn answer(State(shared): State<Arc<Mutex<Shared>>>, request: Request) -> Response {
    let header = |name: &str| {
        let value = request.headers().get(name)?.to_str().expect("text");
        Some(value.to_owned())
    };
    let path = request.uri().path().to_owned();
    let seen = Seen {
        path: path.clone(),
        range: header("range"),
        if_range: header("if-range"),
        authorization: header("authorization"),
    };
    let reply = {
        let mut shared = shared.lock().expect("the lock");
        shared.requests.push(seen.clone());
        match shared.replies.get_mut(&path) {
            Some(Reply::First(first, rest)) if first.is_empty() => (**rest).clone(),
            Some(Reply::First(first, _)) => first.remove(0),
            Some(reply) => reply.clone(),
            None => Reply::Status(StatusCode::NOT_FOUND, vec![]),
        }
    };
    match reply {
        Reply::File(file) => with_length(file.len(), Body::from(file)),
        Reply::Chunked(file) => {
            Response::new(pieces(file, |_| Some(Duration::ZERO), Duration::ZERO))
        }
        Reply::Ranged(ranged) => ranged.answer(&seen),
        Reply::WithHeaders(file, headers) => {
            let mut response = with_length(file.len(), Body::from(file));
            response.headers_mut().extend(headers.into_iter().collect::<HeaderMap>());
            response
        }
        Reply::Status(status, headers) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = status;
            response.headers_mut().extend(headers.into_iter().collect::<HeaderMap>());
            response
        }
        Reply::Slow(file, pause) => {
            let length = file.len();
            let pieces = pieces(file, move |_| Some(pause), Duration::ZERO);
            with_length(length, pieces)
        }
        Reply::CutAfter(file, most) => {
            let length = file.len();
            with_length(
                length,
                pieces(file.slice(..most), |_| Some(Duration::ZERO), Duration::ZERO),
            )
        }
        Reply::StallAfter(file, most) => {
            let length = file.len();
            let stall = move |sent| (sent < most).then_some(Duration::ZERO);
            with_length(length, pieces(file, stall, Duration::ZERO))
        }
        Reply::First(..) => unreachable!("answers in a row are not nested"),
    }
}

fn with_length(length: usize, body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert("content-length", length.into());
    response
}

/// A body in pieces of 64 KiB, each after a pause that depends on how much was sent; `None` is a pause without end. The
/// last pause lets what was sent arrive before a body ends early.
fn pieces(
    file: Bytes,
    pause: impl Fn(usize) -> Option<Duration> + Send + Sync + 'static,
    end: Duration,
) -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, io::Error>>(1);
    tokio::spawn(async move {
        let mut sent = 0;
        while sent < file.len() {
            match pause(sent) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
            let piece = file.slice(sent..file.len().min(sent + (64 << 10)));
            sent += piece.len();
            if sender.send(Ok(piece)).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(end).await;
        // If fewer bytes were sent than announced, ending here makes the server close the connection.
    });
    Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver))
}
