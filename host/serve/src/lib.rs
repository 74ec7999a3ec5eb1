//! qhost as a service: a door of the engine that answers HTTP on a unix socket, and with TLS on the network, for programs that have no shell on the host. It has no rule of
//! its own: it makes orders of requests, and answers of what the engine does.
//!
//! A request comes in at the socket (`listener.rs`), has a caller (`caller.rs`), and goes to the handler of its route (`routes.rs`, one table
//! that the router and the OpenAPI document are both made from). What takes long is an operation (`operations.rs`). VMs belong to their
//! supervisors: a service that ends leaves them running.

#![forbid(unsafe_code)]

mod admission;
mod caller;
mod console;
mod cookie;
mod decisions;
mod events;
mod guest;
mod host;
mod jobs;
pub mod limits;
mod listener;
mod metrics;
mod openapi;
mod operations;
mod page;
mod policies;
mod problem;
mod query;
mod route;
mod routes;
mod session;
mod storage;
mod streams;
mod tls;
mod vms;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use qhost_engine::{Engine, Tokens};

use admission::Admission;
use console::Tickets;
use metrics::Metrics;
use operations::Operations;
use streams::Streams;

pub use listener::{Place, Socket};
pub use openapi::document;
pub use policies::reload_from_disk;
pub use tls::{Identity, TlsError};

/// Why the service does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket's folder is not there.
    #[error("there is no folder for the socket {}: make it, or name another place: --listen", .0.display())]
    NoFolder(PathBuf),
    /// Another service answers there.
    #[error("another service answers at {} already", .0.display())]
    Taken(PathBuf),
    /// The socket.
    #[error("cannot listen at {}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An address.
    #[error("cannot listen at https://{address}")]
    Address {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// There is no certificate.
    #[error(
        "on the network the service listens with TLS alone: name its certificate and key in the configuration, under [api.tls]"
    )]
    NoTls,
}

/// What all handlers share.
#[derive(Clone)]
struct Service {
    engine: Engine,
    tokens: Arc<Tokens>,
    operations: Arc<Operations>,
    decisions: Arc<Admission>,
    replays: Arc<Admission>,
    reads: Arc<Admission>,
    identity: Option<Arc<Identity>>,
    streams: Arc<Streams>,
    tickets: Arc<Tickets>,
    metrics: Arc<Metrics>,
    document: Arc<serde_json::Value>,
}

/// Serves the API until it is told to leave; requests that are under way then have [`limits::LEAVE`]. VMs go on.
pub async fn serve(
    engine: Engine,
    sockets: Vec<Socket>,
    identity: Option<Arc<Identity>>,
    leave: CancellationToken,
) {
    let operations = Arc::new(Operations::new(leave.clone()));
    let (decisions, document) = (Admission::of_decisions(), Arc::new(document()));
    let streams = Streams::new(&engine, leave.clone());
    let (metrics, tokens) = (Arc::new(Metrics::new()), Arc::new(engine.tokens()));
    let router = routes::router(Service {
        engine,
        tokens,
        operations,
        decisions,
        replays: Admission::of_replays(),
        reads: Admission::of_reads(),
        identity,
        streams,
        tickets: Arc::default(),
        metrics,
        document,
    });
    let sockets = sockets.into_iter().map(|socket| socket.serve(router.clone(), leave.clone()));
    join_all(sockets).await;
}
