//! Requests to a VM's supervisor, through a socket in the VM's folder: a line of JSON with the request, and a line with the answer. After a
//! request for the console, the connection is the console; after a request to subscribe, notifications follow on it.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{broadcast, mpsc, oneshot, watch},
    task::JoinHandle,
    time,
};

use qhost_model::launch::{Access, AccessLevel};
use qhost_sys::state;

use super::{
    VmError,
    error::io_error,
    files::CONTROL_SOCKET,
    freeze::{self, Frozen},
    published::{self, Published},
    request::{Ask, Request},
    screenshot,
    sockets::{ControlSocket, connect_for_control, listen_for_control},
};
use crate::limits;

/// The console, for clients that attach to it.
#[derive(Debug, Clone)]
pub(super) struct Console {
    pub(super) said: broadcast::Sender<Bytes>,
    pub(super) typed: broadcast::Sender<Bytes>,
}

/// What a connection to the control socket needs to be served.
#[derive(Debug, Clone)]
pub(super) struct Serving {
    /// The VM's folder.
    pub(super) vm: PathBuf,
    pub(super) asks: mpsc::Sender<Ask>,
    pub(super) console: Console,
    pub(super) published: watch::Receiver<Published>,
    /// How far each way into the guest goes.
    pub(super) access: Access,
}

/// The control socket, while connections to it are served.
pub(super) struct Served {
    listening: JoinHandle<()>,
    /// A channel that closes when the last connection has ended.
    connections: mpsc::Receiver<()>,
    /// The socket's path, where that is not in the VM's folder.
    elsewhere: Option<PathBuf>,
}

impl Served {
    /// Takes no further connection, and waits until what was answered has been sent.
    pub(super) async fn finish(mut self) {
        self.listening.abort();
        // A client that is attached to the console may stay.
        if time::timeout(limits::CONTROL_SENT, self.connections.recv()).await.is_err() {
            tracing::debug!("connections to the control socket are still open");
        }
        if let Some(Err(error)) = self.elsewhere.as_deref().map(state::remove) {
            tracing::warn!(%error, "the control socket is left");
        }
    }
}

/// Begins to listen and to serve connections.
pub(super) fn serve(vm: &Path, serving: Serving) -> Result<Served, VmError> {
    let (open, connections) = mpsc::channel::<()>(1);
    let path = vm.join(CONTROL_SOCKET);
    let listening = listen_for_control(vm).and_then(|ControlSocket { listener, elsewhere }| {
        Ok((UnixListener::from_std(listener)?, elsewhere))
    });
    let (listener, elsewhere) = listening.map_err(io_error("listen on", &path))?;
    let listening = tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (serving, open) = (serving.clone(), open.clone());
                    tokio::spawn(async move {
                        let _open = open;
                        if let Err(error) = answered(stream, serving).await {
                            tracing::debug!(%error, "a connection to the control socket");
                        }
                    });
                }
                // There are too many open files, and other connections will be closed.
                Err(_) => time::sleep(limits::VM_POLL).await,
            }
        }
    });
    Ok(Served { listening, connections, elsewhere })
}

async fn answered(mut stream: UnixStream, serving: Serving) -> io::Result<()> {
    let Serving { vm, asks, console, published: receiver, access } = serving;
    let request = {
        let mut lines = BufReader::new((&mut stream).take(limits::CONTROL_LINE_BYTES));
        let mut line = String::new();
        time::timeout(limits::CONTROL_REQUEST, lines.read_line(&mut line)).await??;
        serde_json::from_str(&line)
    };
    let answer = match request {
        Ok(Request::Console) if access.console == AccessLevel::Interact => {
            return attached(stream, console).await;
        }
        Ok(Request::Console) => {
            Err("its policies let its console be read, and not be typed into: qhost logs".into())
        }
        Ok(Request::Screenshot) if access.display >= AccessLevel::Watch => {
            return screenshot::serve(stream, asks).await;
        }
        Ok(Request::Screenshot) => Err("it has no display: set display to true in its job".into()),
        Ok(Request::Freeze) if access.agent == AccessLevel::Interact => {
            return freeze::serve(stream, &vm, receiver).await;
        }
        Ok(Request::Freeze) => {
            Err("its agent may not freeze the guest: set guest_agent to true in its job".into())
        }
        Ok(Request::Subscribe) => return published::serve(stream, receiver).await,
        Ok(request) => {
            let (answer, answered) = oneshot::channel();
            match asks.send(Ask { request, file: None, answer }).await {
                Ok(()) => answered.await.unwrap_or(Err("the VM has ended".into())),
                Err(_) => Err("the VM has ended".into()),
            }
        }
        Err(error) => Err(format!("not a request: {error}")),
    };
    let answer = match answer {
        Ok(answer) => json!({ "return": answer }),
        Err(error) => json!({ "error": error }),
    };
    stream.write_all(format!("{answer}\n").as_bytes()).await
}

async fn attached(mut stream: UnixStream, console: Console) -> io::Result<()> {
    let mut said = console.said.subscribe();
    stream.write_all(b"{\"return\":null}\n").await?;
    let mut buffer = [0; limits::CONSOLE_TYPED_BYTES];
    let mut listens = true;
    loop {
        tokio::select! {
            bytes = said.recv(), if listens => match bytes {
                // A failed write does not end the loop: a client that has gone may have typed something before, which is still to be read.
                Ok(bytes) => {
                    let sent = time::timeout(limits::CONSOLE_SLOW, stream.write_all(&bytes)).await?;
                    listens = sent.is_ok();
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            },
            read = stream.read(&mut buffer) => match read? {
                0 => return Ok(()),
                read => {
                    let bytes = Bytes::copy_from_slice(buffer.get(..read).unwrap_or_default());
                    if console.typed.send(bytes).is_err() {
                        tracing::debug!("no guest runs that could be typed to");
                    }
                }
            }
        }
    }
}

/// Sends a request to a VM's supervisor, and gives its answer. No answer in time is an error.
pub async fn ask(vm: &Path, request: Request, wait: Duration) -> Result<Value, AskError> {
    let exchange = async {
        let mut stream = opened(vm, request).await?;
        let mut line = String::new();
        BufReader::new((&mut stream).take(limits::CONTROL_ANSWER_BYTES))
            .read_line(&mut line)
            .await?;
        answer_of(&line)
    };
    within(wait, exchange).await
}

/// Attaches to a VM's console.
pub async fn attach(vm: &Path) -> Result<UnixStream, AskError> {
    let mut stream = opened(vm, Request::Console).await?;
    // The line is read byte by byte, since what comes after it is the console's.
    let mut line = vec![];
    while line.last() != Some(&b'\n') && line.len() < qhost_model::limits::READY_TEXT_BYTES {
        line.push(stream.read_u8().await?);
    }
    answer_of(&String::from_utf8_lossy(&line))?;
    Ok(stream)
}

/// Takes a picture of a VM's display, as PNG.
pub async fn take_screenshot(vm: &Path) -> Result<Vec<u8>, AskError> {
    let taken = async {
        let mut stream = BufReader::new(opened(vm, Request::Screenshot).await?);
        let mut line = String::new();
        (&mut stream).take(limits::CONTROL_LINE_BYTES).read_line(&mut line).await?;
        answer_of(&line)?;
        let mut png = vec![];
        stream.take(limits::SCREENSHOT_BYTES as u64).read_to_end(&mut png).await?;
        Ok(png)
    };
    within(limits::SCREENSHOT * 3, taken).await
}

/// Freezes the file systems of a VM's guest, so that the guest does not write to them.
pub async fn freeze_guest(vm: &Path) -> Result<Frozen, AskError> {
    let frozen = async {
        let mut stream = BufReader::new(opened(vm, Request::Freeze).await?);
        let mut line = String::new();
        (&mut stream).take(limits::CONTROL_LINE_BYTES).read_line(&mut line).await?;
        answer_of(&line)?;
        Ok(Frozen::of(stream.into_inner()))
    };
    within(freeze::TIMEOUT * 2, frozen).await
}

async fn within<T>(
    most: Duration,
    answered: impl Future<Output = Result<T, AskError>>,
) -> Result<T, AskError> {
    let late = || Err(io::Error::from(io::ErrorKind::TimedOut).into());
    time::timeout(most, answered).await.unwrap_or_else(|_| late())
}

pub(super) async fn opened(vm: &Path, request: Request) -> io::Result<UnixStream> {
    let mut stream = connect_for_control(vm).await?;
    stream.write_all(format!("{}\n", serde_json::to_string(&request)?).as_bytes()).await?;
    Ok(stream)
}

pub(super) fn answer_of(line: &str) -> Result<Value, AskError> {
    let mut answer: Value = serde_json::from_str(line).map_err(io::Error::from)?;
    match answer.get("error").and_then(Value::as_str) {
        Some(error) => Err(AskError::Refused(error.to_owned())),
        None => Ok(answer.get_mut("return").map(Value::take).unwrap_or_default()),
    }
}

/// The reason why a supervisor did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The supervisor does not answer.
    #[error("its supervisor does not answer")]
    Unanswered(#[from] io::Error),
    /// The supervisor refused, for this reason.
    #[error("{0}")]
    Refused(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest that speaks while its client leaves must not lose what the client typed before.
    #[tokio::test]
    async fn what_was_typed_right_before_leaving_is_read() {
        for _ in 0..50 {
            let (said, typed) = (broadcast::Sender::new(16), broadcast::Sender::new(16));
            let console = Console { said: said.clone(), typed: typed.clone() };
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let mut heard = typed.subscribe();
            let serving = tokio::spawn(attached(ours, console));
            let mut answer = [0; 16];
            theirs.read_exact(&mut answer).await.unwrap();
            theirs.write_all(b"yz").await.unwrap();
            drop(theirs);
            said.send(Bytes::from_static(b"x")).unwrap();
            serving.await.unwrap().unwrap();
            assert_eq!(heard.try_recv().unwrap(), "yz");
        }
    }
}
