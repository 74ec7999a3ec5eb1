//! The places where the service listens: who may connect, and how long a client may take.

use std::{
    collections::HashMap,
    fmt, fs, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net,
    },
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Weak},
    time::Duration,
};

use axum::{Router, body::Body, http};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{ServeError, caller::Peer, limits, tls::Identity};

/// A place to listen at: `unix:PATH` or a path alone, or `https://ADDRESS:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A socket in the file system.
    Unix(PathBuf),
    /// An address of this host, with TLS.
    Https(SocketAddr),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(address) = text.strip_prefix("https://") {
            let address = address.strip_suffix('/').unwrap_or(address).parse();
            let expected = |_| {
                format!("{text}: expected an IP address and a port, as in https://127.0.0.1:8443")
            };
            return Ok(Self::Https(address.map_err(expected)?));
        }
        let path = text.strip_prefix("unix:").unwrap_or(text);
        if path.is_empty() || path.contains("://") {
            return Err(format!("{text}: expected unix:PATH or https://ADDRESS:PORT"));
        }
        Ok(Self::Unix(path.into()))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Https(address) => write!(f, "https://{address}"),
        }
    }
}

/// A socket that is listened on. The file that the socket made is removed when it is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: Listener,
    place: Place,
    own_file: Option<PathBuf>,
}

#[derive(Debug)]
enum Listener {
    Unix(UnixListener),
    Https(TcpListener, Arc<Identity>),
}

/// A connection that was accepted.
enum Connection {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    /// Binds a socket. Clients on the network are shown the service's identity. A unix socket's group may connect too (mode 0660), and each
    /// connection's user decides what it is told.
    ///
    /// # Errors
    /// The socket's folder is not there, another service answers at the path, there is no identity to show clients on the network, or the
    /// place cannot be bound.
    pub async fn bind(place: Place, identity: Option<&Arc<Identity>>) -> Result<Self, ServeError> {
        let listener = match (&place, identity) {
            (Place::Unix(path), _) => Listener::Unix(bind_unix(path).await?),
            (Place::Https(_), None) => return Err(ServeError::NoTls),
            (Place::Https(address), Some(identity)) => {
                let failed = |source| ServeError::Address { address: *address, source };
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                Listener::Https(listener, Arc::clone(identity))
            }
        };
        let own_file = match &place {
            Place::Unix(path) => Some(path.clone()),
            Place::Https(_) => None,
        };
        Ok(Self { listener, place, own_file })
    }

    /// Takes a unix socket that another process listens at and has passed on; the socket's file is that process's.
    pub(crate) fn passed_unix(listener: net::UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let path = listener.local_addr()?.as_pathname().map_or_else(PathBuf::new, PathBuf::from);
        let listener = Listener::Unix(UnixListener::from_std(listener)?);
        Ok(Self { listener, place: Place::Unix(path), own_file: None })
    }

    /// Takes a socket of the network that another process listens at and has passed on.
    pub(crate) fn passed_tcp(
        listener: std::net::TcpListener,
        identity: &Arc<Identity>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let place = Place::Https(listener.local_addr()?);
        let listener = Listener::Https(TcpListener::from_std(listener)?, Arc::clone(identity));
        Ok(Self { listener, place, own_file: None })
    }

    /// The socket's place, with the port that the kernel chose if the port was 0.
    pub fn place(&self) -> Place {
        match &self.listener {
            Listener::Unix(_) => self.place.clone(),
            Listener::Https(listener, _) => {
                listener.local_addr().map_or_else(|_| self.place.clone(), Place::Https)
            }
        }
    }

    async fn accept(&self) -> io::Result<(Connection, Option<Peer>)> {
        match &self.listener {
            Listener::Unix(listener) => {
                let (connection, _) = listener.accept().await?;
                let peer = Peer::of(&connection);
                Ok((Connection::Unix(connection), peer))
            }
            Listener::Https(listener, _) => {
                let (connection, from) = listener.accept().await?;
                connection.set_nodelay(true)?;
                let peer = Peer::Remote { network: network(from.ip()), certificate: None };
                Ok((Connection::Tcp(connection), Some(peer)))
            }
        }
    }

    /// Serves the connections.
    pub(crate) async fn serve(self, router: Router, leave: CancellationToken) {
        let mut places = Places::new();
        let leaving = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.accept() => accepted,
                () = leave.cancelled() => break,
            };
            let (connection, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // The cause is mostly the limit of open files, which is met no longer once other connections end.
                    tracing::warn!(%error, "a connection is not accepted");
                    time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some(peer) = peer else { continue };
            let Some(place) = places.take(peer) else { continue };
            let serving =
                Serving { router: router.clone(), watcher: leaving.watcher(), peer, place };
            match (connection, &self.listener) {
                (Connection::Tcp(connection), Listener::Https(_, identity)) => {
                    tokio::spawn(serving.over_tls(connection, Arc::clone(identity)));
                }
                (Connection::Unix(connection), _) => {
                    tokio::spawn(serving.over(connection));
                }
                (Connection::Tcp(_), Listener::Unix(_)) => {}
            }
        }
        tokio::select! {
            () = leaving.shutdown() => {}
            () = time::sleep(limits::LEAVE) => {}
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(path) = &self.own_file
            && let Err(error) = fs::remove_file(path)
        {
            tracing::debug!(%error, "the socket's file is left");
        }
    }
}

async fn bind_unix(path: &Path) -> Result<UnixListener, ServeError> {
    let failed = |source| ServeError::Socket { path: path.to_owned(), source };
    if !path.parent().is_some_and(Path::is_dir) {
        return Err(ServeError::NoFolder(path.to_owned()));
    }
    // A killed service leaves its socket's file behind; a file that is no socket refuses connections too, and belongs to another program.
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    match UnixStream::connect(path).await {
        Ok(_) => return Err(ServeError::Taken(path.to_owned())),
        Err(error) if is_socket && error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)?;
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(failed)?;
    Ok(listener)
}

/// The address that a client's connections are counted by: of IPv6 the first half, as a client has all of the other half.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & u128::MAX << limits::IPV6_CLIENT_BITS).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// The places for connections: for all peers but operators, and for each peer.
struct Places {
    all: Arc<Semaphore>,
    of_peers: HashMap<Peer, Weak<Semaphore>>,
}

/// The places that one connection holds.
struct ConnectionPlace {
    _of_all: Option<OwnedSemaphorePermit>,
    _of_peer: OwnedSemaphorePermit,
}

impl Places {
    fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(limits::CONNECTIONS)), of_peers: HashMap::new() }
    }

    /// Takes a place for one more connection; gives none if all are taken. A peer with too many connections is hung up on, so that others
    /// have places; all other peers together leave the socket's operators theirs.
    fn take(&mut self, peer: Peer) -> Option<ConnectionPlace> {
        if self.of_peers.len() >= limits::PEERS_COUNTED {
            // A peer without a connection has nothing to count.
            self.of_peers.retain(|_, places| places.strong_count() > 0);
        }
        let counted = self.of_peers.get(&peer).and_then(Weak::upgrade);
        let of_peer = counted.unwrap_or_else(|| {
            let places = Arc::new(Semaphore::new(limits::CONNECTIONS_OF_USER));
            self.of_peers.insert(peer, Arc::downgrade(&places));
            places
        });
        let of_peer = of_peer.try_acquire_owned().ok()?;
        let of_all = (!peer.is_operator()).then(|| Arc::clone(&self.all).try_acquire_owned());
        Some(ConnectionPlace { _of_all: of_all.transpose().ok()?, _of_peer: of_peer })
    }
}

/// The parts that one connection is served with.
struct Serving {
    router: Router,
    watcher: Watcher,
    peer: Peer,
    place: ConnectionPlace,
}

impl Serving {
    async fn over_tls(mut self, connection: TcpStream, identity: Arc<Identity>) {
        let handshake = time::timeout(limits::HEAD, identity.accept(connection)).await;
        match handshake {
            Ok(Ok(connection)) => {
                if let Peer::Remote { certificate, .. } = &mut self.peer {
                    *certificate = connection.certificate;
                }
                self.over(connection.stream).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, "a connection without TLS that holds"),
            Err(_) => tracing::debug!("a client took too long to begin"),
        }
    }

    async fn over(self, connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let Self { router, watcher, peer, place } = self;
        let service = router.map_request(move |request: http::Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            request
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(limits::HEAD);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(limits::HEAD)
            .max_concurrent_streams(limits::REQUESTS_OF_CONNECTION);
        let service = TowerToHyperService::new(service);
        let served = builder.serve_connection_with_upgrades(TokioIo::new(connection), service);
        let served = watcher.watch(served.into_owned());
        if let Err(error) = served.await {
            tracing::debug!(%error, "a connection ended");
        }
        drop(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        for (text, expected) in [
            ("/run/a.sock", "unix:/run/a.sock"),
            ("unix:a.sock", "unix:a.sock"),
            ("https://127.0.0.1:8443", "https://127.0.0.1:8443"),
            ("https://[::1]:0/", "https://[::1]:0"),
        ] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), expected);
        }
        for text in ["", "unix:", "http://127.0.0.1:80", "https://localhost:1", "https://127.0.0.1"]
        {
            text.parse::<Place>().unwrap_err();
        }
    }

    #[test]
    fn connections_are_counted_by_client() {
        let mut places = Places::new();
        let remote = |address: &str| Peer::Remote {
            network: network(address.parse().unwrap()),
            certificate: None,
        };
        let held: Vec<_> =
            (0..limits::CONNECTIONS_OF_USER).map(|_| places.take(remote("2001:db8::1"))).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(places.take(remote("2001:db8::2")).is_none(), "the same client");
        assert!(places.take(remote("2001:db8:0:1::1")).is_some());
        let mut others = vec![];
        for client in 0..=u8::MAX {
            others.extend((0..8).map_while(|_| places.take(remote(&format!("10.0.0.{client}")))));
        }
        assert_eq!(held.len() + others.len(), limits::CONNECTIONS);
        assert!(places.take(Peer::User { uid: 0 }).is_some(), "an operator has a place");
        drop(held);
        assert!(places.take(remote("2001:db8::2")).is_some());
    }
}
