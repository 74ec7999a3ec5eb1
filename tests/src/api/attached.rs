//! A client that is attached to a console by a WebSocket on the service's socket.

use std::{io::ErrorKind, os::unix::net::UnixStream, path::Path, time::Duration};

use tungstenite::{Message, WebSocket, client, error::ProtocolError, handshake::HandshakeError};

/// A connection that was upgraded to a WebSocket.
pub struct Attached(WebSocket<UnixStream>);

impl Attached {
    /// Attaches; gives the status of a refusal.
    pub fn attach(socket: &Path, path: &str) -> Result<Self, u16> {
        let stream = UnixStream::connect(socket).expect("the service");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        match client(format!("ws://qhost{path}"), stream) {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
                Err(answer.status().as_u16())
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Types a text.
    pub fn types(&mut self, text: &str) {
        self.0.send(Message::text(text)).expect("it is sent");
    }

    /// Reads until the guest has printed a text.
    pub fn until_says(&mut self, text: &str) {
        let mut said = vec![];
        while !String::from_utf8_lossy(&said).contains(text) {
            if let Message::Binary(bytes) = self.0.read().expect("what the guest says") {
                said.extend_from_slice(&bytes);
            }
        }
    }

    /// Reads until the service closes the connection.
    pub fn until_closed(mut self) {
        loop {
            match self.0.read() {
                Ok(_) => {}
                Err(
                    tungstenite::Error::ConnectionClosed
                    | tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake),
                ) => return,
                // The service has gone before its closing was answered.
                Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::BrokenPipe => {
                    return;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}
