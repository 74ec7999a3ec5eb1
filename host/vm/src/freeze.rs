//! Freezes a guest's file systems, so that they are not written to while a copy of a disk is made. They stay frozen for as long as the
//! process that asked keeps its connection open, so that no process that is killed leaves a guest frozen.

use std::{fs::File, io, path::Path, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::watch,
    time::{self, Instant},
};

use qhost_sys::state;

use super::{
    State,
    agent::{Agent, AgentError, Command},
    files::FROZEN,
    published::Published,
};
use crate::limits;

/// The byte by which a client asks whether the guest was frozen until now, before it relies on what it read.
const ASK: u8 = b'?';
const YES: u8 = b'y';
const NO: u8 = b'n';

/// Freezes a VM's guest, tells the client, and thaws the guest once the client has gone, the VM is to stop, or [`limits::FROZEN`] has
/// passed.
pub(super) async fn serve(
    mut stream: UnixStream,
    vm: &Path,
    mut published: watch::Receiver<Published>,
) -> io::Result<()> {
    let mut agent = match frozen(vm).await {
        Ok(agent) => agent,
        Err(error) => {
            let answer = json!({"error": error.to_string()});
            return stream.write_all(format!("{answer}\n").as_bytes()).await;
        }
    };
    let told = stream.write_all(b"{\"return\":null}\n").await;
    let end = Instant::now() + limits::FROZEN;
    loop {
        let answer = tokio::select! {
            asked = stream.read_u8() => match asked {
                Ok(_) => if is_frozen(&mut agent).await { YES } else { NO },
                Err(_) => break,
            },
            // A frozen guest could not write what it has to write before it powers off.
            () = stopping(&mut published) => break,
            () = time::sleep_until(end) => break,
        };
        if stream.write_u8(answer).await.is_err() {
            break;
        }
    }
    // The connection is closed first, so that the client knows before the guest writes again.
    drop(stream);
    thaw(agent, vm).await;
    told
}

async fn frozen(vm: &Path) -> Result<Agent, AgentError> {
    let mut agent = Agent::connect(vm).await?;
    // A supervisor that adopts the VM finds this mark, and thaws the guest.
    File::create(vm.join(FROZEN))?;
    let freeze = Command { within: limits::FREEZE, ..Command::new("guest-fsfreeze-freeze") };
    let error = match agent.execute(&freeze).await {
        Ok(_) => return Ok(agent),
        Err(error) => error,
    };
    // An agent that is late runs the commands of one connection in order, so that the thaw goes over the same connection.
    let vm = vm.to_owned();
    tokio::spawn(async move { thaw(agent, &vm).await });
    Err(error)
}

async fn is_frozen(agent: &mut Agent) -> bool {
    let status = agent.execute(&Command::new("guest-fsfreeze-status")).await;
    status.is_ok_and(|status| status == "frozen")
}

/// Waits until the VM is to stop, or has ended.
async fn stopping(published: &mut watch::Receiver<Published>) {
    let is_stopping = |published: &Published| {
        let state = published.status.as_ref().map(|status| status.state());
        state.is_some_and(|state| state == State::Stopping || state.is_final())
    };
    // If the channel closes, the supervisor has ended, and so has the VM.
    let _stopping = published.wait_for(is_stopping).await;
}

async fn thaw(mut agent: Agent, vm: &Path) {
    let thawed = agent.execute(&thaw_command()).await;
    // The next connection waits until this one is closed.
    drop(agent);
    match thawed {
        Ok(_) => remove_mark(vm),
        Err(_) => thaw_leftover(vm).await,
    }
}

/// Thaws a guest that a failed connection, or a supervisor that was killed, may have left frozen.
pub(super) async fn thaw_leftover(vm: &Path) {
    let end = Instant::now() + limits::FROZEN;
    while vm.join(FROZEN).exists() {
        let thawed = async { Agent::connect(vm).await?.execute(&thaw_command()).await };
        match thawed.await {
            Ok(_) => return remove_mark(vm),
            Err(error) if Instant::now() >= end => {
                return tracing::warn!(%error, "the guest's file systems may stay frozen");
            }
            Err(_) => time::sleep(limits::THAW_AGAIN).await,
        }
    }
}

fn thaw_command() -> Command<'static> {
    Command { within: limits::FREEZE, ..Command::new("guest-fsfreeze-thaw") }
}

fn remove_mark(vm: &Path) {
    if let Err(error) = state::remove(&vm.join(FROZEN)) {
        tracing::warn!(%error, "the mark of a guest that is frozen stays");
    }
}

/// A guest whose file systems are not written to until this is dropped.
#[derive(Debug)]
pub struct Frozen(UnixStream);

impl Frozen {
    pub(super) fn of(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// Whether the guest is not frozen any more, because its supervisor has thawed it, or has ended.
    pub fn has_ended(&self) -> bool {
        let read = self.0.try_read(&mut [0]);
        !read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Asks whether the guest was frozen until now, and then lets it be thawed.
    pub async fn lasted(mut self) -> bool {
        let asked = async {
            self.0.write_u8(ASK).await?;
            self.0.read_u8().await
        };
        matches!(time::timeout(limits::AGENT_REPLY * 2, asked).await, Ok(Ok(YES)))
    }
}

/// How long freezing takes at most, with the agent's first answer.
pub(super) const TIMEOUT: Duration = limits::AGENT_REPLY.saturating_add(limits::FREEZE);

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tokio::{
        io::{AsyncBufReadExt as _, BufReader},
        net::UnixListener,
    };

    use super::*;
    use crate::files::AGENT_SOCKET;

    /// Serves one connection after another, as QEMU does. On the first, the agent refuses to thaw.
    async fn agent(listening: UnixListener) {
        for thaws in [false, true] {
            let mut stream = BufReader::new(listening.accept().await.unwrap().0);
            let mut line = vec![];
            while stream.read_until(b'\n', &mut line).await.unwrap_or(0) > 0 {
                let request = line.strip_prefix(&[0xff]).unwrap_or(&line);
                let request: Value = serde_json::from_slice(request).unwrap();
                let answer = match request["execute"].as_str().unwrap() {
                    "guest-sync-delimited" => {
                        stream.write_all(&[0xff]).await.unwrap();
                        json!({"return": request["arguments"]["id"]})
                    }
                    "guest-fsfreeze-thaw" if !thaws => json!({"error": {"desc": "no"}}),
                    _ => json!({"return": 1}),
                };
                stream.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
                line.clear();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_is_not_thawed_at_first_is_tried_again() {
        let vm = tempfile::tempdir().unwrap();
        let listening = UnixListener::bind(vm.path().join(AGENT_SOCKET)).unwrap();
        tokio::spawn(agent(listening));
        let (mut client, stream) = UnixStream::pair().unwrap();
        let (_publishing, published) = watch::channel(Published::default());
        let asks = async {
            let mut told = [0; 16];
            client.read_exact(&mut told).await.unwrap();
            assert_eq!(&told, b"{\"return\":null}\n");
            assert!(vm.path().join(FROZEN).exists());
            drop(client);
        };
        let (served, ()) = tokio::join!(serve(stream, vm.path(), published), asks);
        served.unwrap();
        assert!(!vm.path().join(FROZEN).exists());
    }
}
