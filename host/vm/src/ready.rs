//! The job's ready check: whether the guest does what it is for.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{broadcast, oneshot},
    task::AbortHandle,
    time,
};

use qhost_model::{
    job::{Ready, ReadyCheck},
    launch::Forward,
};

use super::console;
use crate::limits;

/// A check that goes on until it holds or its time is over.
pub(super) struct Check {
    holds: oneshot::Receiver<bool>,
    timeout_s: u64,
    task: AbortHandle,
}

impl Check {
    /// Begins it.
    pub(super) fn begin(
        ready: Ready,
        forwards: &[Forward],
        said: broadcast::Receiver<Bytes>,
    ) -> Self {
        let address = |label: &str| {
            let forward = forwards.iter().find(|forward| forward.label == label)?;
            // A forward on every address is on this one too.
            let bind =
                if forward.bind.is_unspecified() { [127, 0, 0, 1].into() } else { forward.bind };
            Some(SocketAddr::from((bind, forward.host)))
        };
        let port = match &ready.check {
            ReadyCheck::Serial(_) => None,
            ReadyCheck::Tcp(port) | ReadyCheck::Http { port, .. } => address(port),
        };
        let (hold, holds) = oneshot::channel();
        let timeout_s = ready.timeout_s;
        let check = async move {
            match (&ready.check, port) {
                (ReadyCheck::Serial(text), _) => console::says(said, text).await,
                (ReadyCheck::Tcp(_), Some(port)) => until(|| speaks(port)).await,
                (ReadyCheck::Http { path, .. }, Some(port)) => until(|| answers(port, path)).await,
                // The policy took the port away: it will never answer.
                (ReadyCheck::Tcp(_) | ReadyCheck::Http { .. }, None) => {
                    std::future::pending::<()>().await;
                }
            }
        };
        let task = tokio::spawn(async move {
            let held = time::timeout(Duration::from_secs(timeout_s), check).await.is_ok();
            if hold.send(held).is_err() {
                tracing::debug!("the VM has ended");
            }
        });
        Self { holds, timeout_s, task: task.abort_handle() }
    }

    /// Whether it held in time.
    pub(super) async fn held(&mut self) -> Result<(), String> {
        match (&mut self.holds).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!("the guest was not ready within {} s", self.timeout_s)),
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn until<F: Future<Output = bool>>(holds: impl Fn() -> F) {
    while !matches!(time::timeout(limits::READY_TRY, holds()).await, Ok(true)) {
        time::sleep(limits::READY_AGAIN).await;
    }
}

/// QEMU accepts before any guest runs: only bytes say that one does.
async fn speaks(port: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(port).await else { return false };
    matches!(stream.read(&mut [0]).await, Ok(1..))
}

/// An HTTP status from 200 to 399. A client would be a library as large as all the rest of a supervisor.
async fn answers(port: SocketAddr, path: &str) -> bool {
    let exchange = async {
        let mut stream = TcpStream::connect(port).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {port}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    // "HTTP/1.1 200"
    let Ok(answer) = exchange.await else { return false };
    let is_http = answer.starts_with(b"HTTP/1.");
    is_http && matches!(answer.get(9), Some(b'2' | b'3'))
}
