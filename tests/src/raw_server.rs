//! A TCP server on loopback that does with each connection what a test says, also what no HTTP server would do.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

/// The server, whose thread ends with the tests.
pub struct RawServer {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl RawServer {
    /// Starts a server on a free port. After a request was read, `serve` gets the connection with its number from 0.
    pub fn start(serve: impl Fn(usize, &mut TcpStream) + Send + Sync + 'static) -> Self {
        Self::asked(move |number, _, stream| serve(number, stream))
    }

    /// Starts a server whose `serve` gets the request's head and the connection.
    pub fn hearing(serve: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> Self {
        Self::asked(move |_, head, stream| serve(head, stream))
    }

    /// Starts a server whose `serve` gets the connection's number, the request's head and the connection.
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

    /// Starts a server that answers every request with the same bytes and closes the connection.
    pub fn answering(answer: Vec<u8>) -> Self {
        Self::start(move |_, stream| {
            // A client that has seen enough may have gone.
            if stream.write_all(&answer).is_err() {}
        })
    }

    /// A URL on the server, of which every path is answered alike.
    pub fn url(&self) -> String {
        format!("http://{}/image", self.address)
    }

    /// The port that the server listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The heads of the requests so far, in order.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("the lock").clone()
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}
