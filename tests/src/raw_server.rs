//! A TCP server on loopback that does with each connection what a test says: for what no HTTP server would do.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

/// The server; its thread ends with the tests.
pub struct RawServer {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl RawServer {
    /// Starts it on a free port. `serve` gets each connection, after its request was read, with its number from 0.
    pub fn start(serve: impl Fn(usize, &mut TcpStream) + Send + Sync + 'static) -> Self {
        Self::asked(move |number, _, stream| serve(number, stream))
    }

    /// The same, but `serve` gets what was asked: the request without a body.
    pub fn hearing(serve: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> Self {
        Self::asked(move |_, head, stream| serve(head, stream))
    }

    /// The same; `serve` gets the request's head as well.
    pub fn asked(serve: impl Fn(usize, &str, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let heads = Arc::new(Mutex::new(vec![]));
        let heard = heads.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut request = vec![];
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    match stream.read(&mut byte) {
                        Ok(1) => request.push(byte[0]),
                        Ok(_) | Err(_) => break,
                    }
                }
                let head = String::from_utf8_lossy(&request).into_owned();
                heard.lock().expect("the lock").push(head.clone());
                serve(counted.fetch_add(1, Ordering::Relaxed), &head, &mut stream);
            }
        });
        Self { address, connections, heads }
    }

    /// Starts one that answers every request with the same bytes and closes the connection.
    pub fn answering(answer: Vec<u8>) -> Self {
        Self::start(move |_, stream| {
            // A client that has seen enough may be gone.
            if stream.write_all(&answer).is_err() {}
        })
    }

    /// The URL of anything on it.
    pub fn url(&self) -> String {
        format!("http://{}/image", self.address)
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The requests so far, without bodies, in order.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("the lock").clone()
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}
