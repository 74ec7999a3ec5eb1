//! `qhost console` on another host: a WebSocket (RFC 6455) through the service joins a terminal and a guest's serial port.

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::Method;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::client::generate_key, protocol::Role},
};

use super::Host;
use crate::{
    cli::VmArgs,
    exit::Exit,
    limits,
    run::{RunError, vms::console},
};

/// The ticket for one connection to a console.
#[derive(Deserialize)]
struct Ticket {
    ticket: String,
}

impl Host<'_> {
    pub(super) async fn console(&self, args: &VmArgs) -> Result<Exit, RunError> {
        let vm = self.details(&args.name()).await?.vm.id;
        let ticket = self.client.at(&["v1", "vms", &vm, "console", "ticket"], &[]);
        let Ticket { ticket } = self.client.send(Method::POST, ticket, None).await?;
        let query = [("ticket", Some(ticket))];
        let at = self.client.at(&["v1", "vms", &vm, "console", "attach"], &query);
        let headers = [
            ("connection", "Upgrade".to_owned()),
            ("upgrade", "websocket".into()),
            ("sec-websocket-version", "13".into()),
            ("sec-websocket-key", generate_key()),
        ];
        let upgraded = self.client.upgrade(at, headers).await?;
        let socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
        let (near, far) = tokio::io::duplex(limits::HOST_CONSOLE_BYTES);
        let relaying = tokio::spawn(relay(socket, far));
        let exit = console::exchange(&vm, near).await;
        if tokio::time::timeout(limits::HOST_CONSOLE_LEAVE, relaying).await.is_err() {
            tracing::debug!("the service does not take what was typed last");
        }
        Ok(exit)
    }
}

/// Passes on what the console says and what is typed, until either side ends.
async fn relay(socket: WebSocketStream<reqwest::Upgraded>, mut near: DuplexStream) {
    let (mut typed_to, mut said) = socket.split();
    let mut typed = vec![0; limits::HOST_CONSOLE_BYTES];
    // The first message is the console's earlier output, which an attached console of this host does not show.
    let mut is_first = true;
    loop {
        tokio::select! {
            message = said.next() => {
                let bytes = match message {
                    Some(Ok(Message::Binary(bytes))) => bytes,
                    Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Text(_) | Message::Frame(_))) => continue,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                };
                if !std::mem::take(&mut is_first) && near.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            read = near.read(&mut typed) => match read {
                Ok(read @ 1..) => {
                    let bytes = typed.get(..read).unwrap_or_default().to_vec();
                    if typed_to.send(Message::Binary(bytes.into())).await.is_err() {
                        return;
                    }
                }
                Ok(0) | Err(_) => break,
            }
        }
    }
    // The last typed bytes reach the guest before the connection ends.
    if let Err(error) = typed_to.close().await {
        tracing::debug!(%error, "the console was not closed");
    }
}
