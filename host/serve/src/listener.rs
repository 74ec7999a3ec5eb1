//! The socket: who may connect, and how long a client may take.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body, http};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{ServeError, caller::Peer, limits};

/// A socket that is listened on. Its file goes when it is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Binds it. Its group may connect too (mode 0660); who is what is told by each connection's user.
    ///
    /// # Errors
    /// Where its folder is not there, another service answers at the path, or it cannot be bound.
    pub async fn bind(path: &Path) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Socket { path: path.to_owned(), source };
        if !path.parent().is_some_and(Path::is_dir) {
            return Err(ServeError::NoFolder(path.to_owned()));
        }
        // Of a service that was killed the file is left; a file that is no socket refuses connections too, and is another's.
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
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves what connects.
    pub(crate) async fn serve(self, router: Router, leave: CancellationToken) {
        let places = Arc::new(Semaphore::new(limits::CONNECTIONS));
        let mut of_users = HashMap::<Peer, Arc<Semaphore>>::new();
        let leaving = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = leave.cancelled() => break,
            };
            let connection = match accepted {
                Ok((connection, _)) => connection,
                Err(error) => {
                    // Mostly the limit of open files, which others' ends raise again.
                    tracing::warn!(%error, "a connection is not accepted");
                    time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some(peer) = Peer::of(&connection) else { continue };
            let of_user = of_users
                .entry(peer)
                .or_insert_with(|| Arc::new(Semaphore::new(limits::CONNECTIONS_OF_USER)));
            // One that has too many is hung up on, so that it keeps none from connecting; all others' together keep no operator from it.
            let Ok(of_user) = Arc::clone(of_user).try_acquire_owned() else { continue };
            let place = (!peer.is_operator()).then(|| Arc::clone(&places).try_acquire_owned());
            let Ok(place) = place.transpose() else { continue };
            let service = router.clone().map_request(move |request: http::Request<Incoming>| {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(peer);
                request
            });
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http1().timer(TokioTimer::new()).header_read_timeout(limits::HEAD);
            builder.http2().timer(TokioTimer::new()).keep_alive_interval(limits::HEAD);
            let served = builder
                .serve_connection(TokioIo::new(connection), TowerToHyperService::new(service));
            let served = leaving.watch(served.into_owned());
            tokio::spawn(async move {
                if let Err(error) = served.await {
                    tracing::debug!(%error, "a connection ended");
                }
                drop((place, of_user));
            });
        }
        tokio::select! {
            () = leaving.shutdown() => {}
            () = time::sleep(limits::LEAVE) => {}
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "the socket's file is left");
        }
    }
}
