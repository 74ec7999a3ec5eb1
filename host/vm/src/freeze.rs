//! Keeps a guest's file systems from being written to, while a copy of a disk is made: for as long as the process that asked keeps its
//! connection open, so that no process that is killed leaves a guest frozen.

use std::{io, path::Path, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time,
};

use super::agent::{Agent, AgentError, Command};
use crate::limits;

/// Freezes the guest of a VM, says so, and thaws it once the client has gone, or after [`limits::FROZEN`].
pub(super) async fn serve(mut stream: UnixStream, vm: &Path) -> io::Result<()> {
    let mut agent = match frozen(vm).await {
        Ok(agent) => agent,
        Err(error) => {
            let answer = json!({"error": error.to_string()});
            return stream.write_all(format!("{answer}\n").as_bytes()).await;
        }
    };
    let told = stream.write_all(b"{\"return\":null}\n").await;
    // A client says nothing, but goes.
    let left = time::timeout(limits::FROZEN, stream.read_u8()).await;
    // The client is to know before the guest writes again.
    drop(stream);
    if let Err(error) = agent.execute(&thaw()).await {
        tracing::warn!(%error, "the guest's file systems may stay frozen");
    }
    if left.is_err() {
        tracing::warn!("a copy took so long that the guest was thawed before its end");
    }
    told
}

async fn frozen(vm: &Path) -> Result<Agent, AgentError> {
    let mut agent = Agent::connect(vm).await?;
    let freeze = Command { within: limits::FREEZE, ..Command::new("guest-fsfreeze-freeze") };
    match agent.execute(&freeze).await {
        Ok(_) => Ok(agent),
        Err(error) => {
            // What was frozen before it failed.
            thaw_by(vm).await;
            Err(error)
        }
    }
}

/// Thaws what a supervisor that was killed may have left frozen.
pub(super) async fn thaw_by(vm: &Path) {
    let thawed = async { Agent::connect(vm).await?.execute(&thaw()).await };
    if let Err(error) = thawed.await {
        tracing::debug!(%error, "no guest agent to thaw its file systems");
    }
}

fn thaw() -> Command<'static> {
    Command { within: limits::FREEZE, ..Command::new("guest-fsfreeze-thaw") }
}

/// A guest whose file systems are not written to until this is dropped.
#[derive(Debug)]
pub struct Frozen(UnixStream);

impl Frozen {
    pub(super) fn of(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// Whether the guest is not frozen any more: its supervisor has ended that, or has ended.
    pub fn has_ended(&mut self) -> bool {
        let read = self.0.try_read(&mut [0]);
        !read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// How long freezing takes at most, with the agent's first answer.
pub(super) const MOST: Duration = limits::AGENT_REPLY.saturating_add(limits::FREEZE);
