//! qhost as a task driver of Nomad's: a door of the engine that speaks the protocol of Nomad's plugins. The door has no rule of its own: it
//! turns a task into an order, and tells Nomad what becomes of it.
//!
//! An agent starts the plugin, which answers with the address of its socket (`handshake.rs`) and serves gRPC there: the services of every
//! plugin of go-plugin's (`services.rs`), of every plugin of Nomad's (`base.rs`), and of a task driver (`driver.rs`). VMs outlive the
//! plugin: each has its supervisor, and a later plugin finds them by the handles that Nomad kept.

#![forbid(unsafe_code)]

mod base;
mod defaults;
mod doctor;
mod driver;
mod ends;
mod error;
mod events;
mod exec;
mod fingerprint;
mod handshake;
mod log;
mod msgpack;
mod names;
mod plugin;
pub mod proto;
mod schema;
mod services;
mod settings;
mod start;
mod task;
mod tasks;
mod tls;
mod usage;
pub mod limits;

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use proto::{
    base::base_plugin_server::BasePluginServer,
    driver::driver_server::DriverServer,
    plugin::{
        grpc_broker_server::GrpcBrokerServer, grpc_controller_server::GrpcControllerServer,
        grpc_stdio_server::GrpcStdioServer,
    },
};

pub use doctor::{AGENT_CONFIG, examine};
pub use error::NomadError;
pub use handshake::is_by_agent;
pub use settings::Settings;
pub use task::job;

/// The driver's name in jobs.
pub const NAME: &str = "qhost";

/// Serves an agent until it asks the plugin to leave. The VMs run on.
///
/// # Errors
/// No agent of Nomad's started this process, or the socket cannot be made or served.
pub async fn serve() -> Result<(), NomadError> {
    let socket = handshake::Socket::bind()?;
    log::begin();
    qhost_sys::memory::share_one_arena();
    // Ctrl-C at an agent's terminal is for the agent, which has its plugins leave.
    let _interrupts = signal(SignalKind::interrupt()).map_err(NomadError::Signals)?;
    let leave = CancellationToken::new();
    let plugin = Arc::new(plugin::Plugin::new(leave.clone()));
    let (reporter, health) = tonic_health::server::health_reporter();
    // go-plugin's clients ask for the service by this name.
    reporter.set_service_status("plugin", tonic_health::ServingStatus::Serving).await;
    socket.announce()?;
    let handshake::Socket { listener, tls, folder } = socket;
    let connections = UnixListenerStream::new(listener);
    let streams = services::Streams::new(leave.clone());
    let services = Server::builder()
        .add_service(health)
        .add_service(GrpcControllerServer::new(services::Controller::new(leave.clone())))
        .add_service(GrpcBrokerServer::new(streams.clone()))
        .add_service(GrpcStdioServer::new(streams))
        .add_service(BasePluginServer::new(base::Base(Arc::clone(&plugin))))
        .add_service(
            DriverServer::new(driver::Driver(plugin)).max_decoding_message_size(limits::CALL_BYTES),
        );
    let server = async {
        let left = leave.cancelled();
        match tls {
            Some(tls) => {
                services.serve_with_incoming_shutdown(tls.connections(connections), left).await
            }
            None => services.serve_with_incoming_shutdown(connections, left).await,
        }
    };
    let too_late = async {
        leave.cancelled().await;
        tokio::time::sleep(limits::LEAVE).await;
    };
    tokio::select! {
        served = server => served?,
        () = too_late => {}
    }
    drop(folder);
    Ok(())
}
