//! A real HTTPS server on loopback that serves one file, with a certificate that it makes itself.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::oneshot,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivateKeyDer},
};

/// The server, which ends when this is dropped.
pub struct HttpsServer {
    address: SocketAddr,
    certificate: String,
    _stop: oneshot::Sender<()>,
}

impl HttpsServer {
    /// Starts a server that serves a file under every path.
    pub fn start(file: Vec<u8>) -> Self {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}", file.len());
        Self::answering(&head, file)
    }

    /// Starts a server that redirects every request.
    pub fn redirecting(to: &str) -> Self {
        Self::answering(
            &format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0"),
            vec![],
        )
    }

    fn answering(head: &str, body: Vec<u8>) -> Self {
        let answer = [head.as_bytes(), b"\r\nconnection: close\r\n\r\n", &body].concat();
        let made =
            rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
        let certificate = made.cert.pem();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a server's configuration");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (stop, stopped) = oneshot::channel();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, acceptor, answer) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, certificate, _stop: stop }
    }

    /// The file's URL.
    pub fn url(&self) -> String {
        format!("https://localhost:{}/image", self.address.port())
    }

    /// The certificate, as PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }
}

async fn serve(listener: std::net::TcpListener, acceptor: TlsAcceptor, answer: Vec<u8>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        // A client that does not trust the certificate ends the handshake, and some tests want that.
        let Ok(mut stream) = acceptor.accept(stream).await else { continue };
        let mut request = vec![];
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => request.push(byte),
                Err(_) => break,
            }
        }
        stream.write_all(&answer).await.expect("the client reads");
        stream.shutdown().await.expect("the client reads to the end");
    }
}
