//! The services of every plugin of go-plugin's, which its client calls.

use std::pin::Pin;

use futures_util::{Stream, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::proto::plugin::{
    ConnInfo, Empty, StdioData, grpc_broker_server::GrpcBroker,
    grpc_controller_server::GrpcController, grpc_stdio_server::GrpcStdio,
};

/// The service by which an agent has the plugin leave.
pub(crate) struct Controller {
    leave: CancellationToken,
}

impl Controller {
    pub(crate) fn new(leave: CancellationToken) -> Self {
        Self { leave }
    }
}

#[tonic::async_trait]
impl GrpcController for Controller {
    async fn shutdown(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        tracing::debug!("the agent asks the plugin to leave");
        self.leave.cancel();
        Ok(Response::new(Empty {}))
    }
}

/// The streams that a client opens at once and that stay silent: the plugin makes no further connections, and it logs on its standard
/// error.
#[derive(Clone)]
pub(crate) struct Streams {
    leave: CancellationToken,
}

type Silent<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Streams {
    pub(crate) fn new(leave: CancellationToken) -> Self {
        Self { leave }
    }

    /// A stream that ends when the plugin leaves.
    fn silent<T: Send + 'static>(&self) -> Silent<T> {
        let leave = self.leave.clone();
        Box::pin(stream::unfold(leave, |leave| async move {
            leave.cancelled().await;
            None
        }))
    }
}

#[tonic::async_trait]
impl GrpcBroker for Streams {
    type StartStreamStream = Silent<ConnInfo>;

    async fn start_stream(
        &self,
        _: Request<Streaming<ConnInfo>>,
    ) -> Result<Response<Self::StartStreamStream>, Status> {
        Ok(Response::new(self.silent()))
    }
}

#[tonic::async_trait]
impl GrpcStdio for Streams {
    type StreamStdioStream = Silent<StdioData>;

    async fn stream_stdio(
        &self,
        _: Request<()>,
    ) -> Result<Response<Self::StreamStdioStream>, Status> {
        Ok(Response::new(self.silent()))
    }
}
