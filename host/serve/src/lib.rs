//! qhost as a service: a door of the engine that answers HTTP on a unix socket, and with TLS on the network, for programs that have no
//! shell on the host. The service has no rule of its own: it makes orders from requests, and answers from what the engine does.
//!
//! A request comes in at the socket (`listener.rs`), has a caller (`caller.rs`), and goes to the handler of its route (`routes.rs`, one
//! table that the router and the OpenAPI document are both made from). A request that takes long is an operation (`operations.rs`). VMs
//! belong to their supervisors: a service that ends leaves them running.

#![forbid(unsafe_code)]

mod start_record;
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
mod operation;
mod operations;
mod page;
mod policies;
mod problem;
mod query;
mod idempotency;
mod route;
mod routes;
mod session;
mod starts;
mod storage;
mod streams;
pub mod systemd;
mod tls;
mod vms;

use std::{fs::File, io, net::SocketAddr, path::PathBuf, sync::Arc};

use futures_util::future::join_all;
use tokio::{task::spawn_blocking, time};
use tokio_util::sync::CancellationToken;

use qhost_engine::{Engine, Tokens};

use admission::Admission;
use console::Tickets;
use metrics::Metrics;
use operations::Operations;
use start_record::StartRecords;
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
    /// Another service answers at the socket's path.
    #[error("another service answers at {} already", .0.display())]
    Taken(PathBuf),
    /// The socket cannot be listened at.
    #[error("cannot listen at {}", path.display())]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The address cannot be listened at.
    #[error("cannot listen at https://{address}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// Another service has the state folder.
    #[error(
        "another service runs on this state folder: stop it, or listen at several places with one: --listen"
    )]
    Second,
    /// The folder of operations cannot be locked.
    #[error("cannot lock the folder of operations in the state folder")]
    Operations(#[source] io::Error),
    /// A socket that systemd passed cannot be used.
    #[error("a socket that systemd passed cannot be used: see ListenStream= of the unit")]
    Passed(#[source] io::Error),
    /// There is no certificate.
    #[error(
        "on the network the service listens with TLS alone: name its certificate and key in the configuration, under [api.tls]"
    )]
    NoTls,
}

/// The state that all handlers share.
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

/// Takes the lock that only one service of a state folder can hold, to be kept to the end of the process: its launches may last
/// until then.
///
/// # Errors
/// Where another service has this state folder, or its folder of operations cannot be locked.
pub fn hold(engine: &Engine) -> Result<File, ServeError> {
    let files = StartRecords::of(engine.state().path());
    files.hold().map_err(ServeError::Operations)?.ok_or(ServeError::Second)
}

/// Gives back the memory that a burst of requests took, within a while, since the service lives long.
async fn give_memory_back(leave: CancellationToken) {
    loop {
        tokio::select! {
            () = time::sleep(limits::GIVE_BACK) => {}
            () = leave.cancelled() => return,
        }
        if spawn_blocking(qhost_sys::memory::give_back).await.is_err() {
            return;
        }
    }
}

/// Serves the API until it is told to leave; requests that are under way then have [`limits::LEAVE`]. VMs go on.
pub async fn serve(
    engine: Engine,
    sockets: Vec<Socket>,
    identity: Option<Arc<Identity>>,
    leave: CancellationToken,
) {
    let files = StartRecords::of(engine.state().path());
    let operations = Arc::new(Operations::new(leave.clone(), files));
    let (decisions, document) = (Admission::of_decisions(), Arc::new(document()));
    let streams = Streams::new(&engine, leave.clone());
    let (metrics, tokens) = (Arc::new(Metrics::new()), Arc::new(engine.tokens()));
    let service = Service {
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
    };
    tokio::spawn(metrics::count_events(service.clone(), leave.clone()));
    tokio::spawn(policies::tell_metrics(service.clone()));
    tokio::spawn(give_memory_back(leave.clone()));
    starts::go_on(&service).await;
    systemd::ready();
    let router = routes::router(service);
    let sockets = sockets.into_iter().map(|socket| socket.serve(router.clone(), leave.clone()));
    join_all(sockets).await;
}
