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
use qhost::digest::Sha256;
use tokio::sync::oneshot;

/// What the server answers for a path.
#[derive(Clone)]
pub enum Reply {
    /// The file.
    File(Bytes),
    /// The file, in pieces with a pause before each.
    Slow(Bytes, Duration),
    /// The whole file announced, but the connection closed after so many bytes.
    CutAfter(Bytes, usize),
    /// The first so many bytes, then nothing for ever.
    StallAfter(Bytes, usize),
    /// A status and headers without a body.
    Status(StatusCode, Vec<(HeaderName, HeaderValue)>),
    /// The file with headers.
    WithHeaders(Bytes, Vec<(HeaderName, HeaderValue)>),
    /// The first answers, one a request, then the other for ever.
    First(Vec<Reply>, Box<Reply>),
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
    requests: Vec<String>,
}

/// The server; ends when dropped.
pub struct ImageServer {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    _stop: oneshot::Sender<()>,
}

impl ImageServer {
    /// Starts it on a free port.
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

    /// A URL on it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Sets the answer for a path.
    pub fn set(&self, path: &str, reply: Reply) {
        self.shared.lock().expect("the lock").replies.insert(path.into(), reply);
    }

    /// Serves a file; gives its URL and SHA-256.
    pub fn serve(&self, path: &str, file: impl Into<Bytes>) -> (String, String) {
        let file = file.into();
        let sha256 = Sha256::of(&file).to_string();
        self.set(path, Reply::File(file));
        (self.url(path), sha256)
    }

    /// The paths requested so far, in order.
    pub fn requests(&self) -> Vec<String> {
        self.shared.lock().expect("the lock").requests.clone()
    }
}

async fn answer(State(shared): State<Arc<Mutex<Shared>>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let reply = {
        let mut shared = shared.lock().expect("the lock");
        shared.requests.push(path.clone());
        match shared.replies.get_mut(&path) {
            Some(Reply::First(first, rest)) if first.is_empty() => (**rest).clone(),
            Some(Reply::First(first, _)) => first.remove(0),
            Some(reply) => reply.clone(),
            None => Reply::Status(StatusCode::NOT_FOUND, vec![]),
        }
    };
    match reply {
        Reply::File(file) => with_length(file.len(), Body::from(file)),
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
            let pieces = pieces(file, move |_| Some(pause));
            with_length(length, pieces)
        }
        Reply::CutAfter(file, most) => {
            let length = file.len();
            with_length(length, pieces(file.slice(..most), |_| Some(Duration::ZERO)))
        }
        Reply::StallAfter(file, most) => {
            let length = file.len();
            let stall = move |sent| (sent < most).then_some(Duration::ZERO);
            with_length(length, pieces(file, stall))
        }
        Reply::First(..) => unreachable!("answers in a row are not nested"),
    }
}

fn with_length(length: usize, body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert("content-length", length.into());
    response
}

/// A body in pieces of 64 KiB, each after a pause that depends on what was sent; `None` is a pause without end.
fn pieces(file: Bytes, pause: impl Fn(usize) -> Option<Duration> + Send + Sync + 'static) -> Body {
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
        // Reached with less than was announced, this makes the server close the connection.
    });
    Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver))
}
