//! qhost as a service: a door of the engine that answers HTTP on a unix socket, for programs that have no shell on the host. It has no rule of
//! its own: it makes orders of requests, and answers of what the engine does.
//!
//! A request comes in at the socket (`listener.rs`), has a caller (`caller.rs`), and goes to the handler of its route (`routes.rs`, one table
//! that the router and the OpenAPI document are both made from). What takes long is an operation (`operations.rs`). VMs belong to their
//! supervisors: a service that ends leaves them running.

#![forbid(unsafe_code)]

mod admission;
mod caller;
mod decisions;
mod events;
mod host;
mod jobs;
pub mod limits;
mod listener;
mod metrics;
mod openapi;
mod operations;
mod problem;
mod query;
mod routes;
mod storage;
mod streams;
mod vms;

use std::{io, path::PathBuf, sync::Arc};

use tokio_util::sync::CancellationToken;

use qhost_engine::Engine;

use admission::Admission;
use metrics::Metrics;
use operations::Operations;
use streams::Streams;

pub use listener::Socket;
pub use openapi::document;

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
}

/// What all handlers share.
#[derive(Clone)]
struct Service {
    engine: Engine,
    operations: Arc<Operations>,
    decisions: Arc<Admission>,
    streams: Arc<Streams>,
    metrics: Arc<Metrics>,
    document: Arc<serde_json::Value>,
}

/// Serves the API until it is told to leave; requests that are under way then have [`limits::LEAVE`]. VMs go on.
pub async fn serve(engine: Engine, socket: Socket, leave: CancellationToken) {
    let operations = Arc::new(Operations::new(leave.clone()));
    let (decisions, document) = (Admission::of_decisions(), Arc::new(document()));
    let streams = Streams::new(&engine, leave.clone());
    let metrics = Arc::new(Metrics::new());
    let router =
        routes::router(Service { engine, operations, decisions, streams, metrics, document });
    socket.serve(router, leave).await;
}
