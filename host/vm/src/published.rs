//! What a supervisor tells the subscribers on its control socket: the VM's status with its history first, then every change. A
//! subscriber that reads slowly is told the latest status, whose history has what came before.

use std::io;

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::watch,
    time,
};

use super::Status;
use crate::limits;

/// What a subscriber is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Notification {
    /// How the VM is doing: at first, and whenever that changes. The last one of a VM that is over says how it ended, even where no
    /// record of that can be written.
    Status(Box<Status>),
    /// What is being done about a request to stop.
    Step(String),
}

/// What there is to tell.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// None until a supervisor that adopts has found out how the VM is doing.
    pub(super) status: Option<Status>,
    /// What was last done about a request to stop.
    pub(super) step: String,
    /// How many such steps there have been.
    pub(super) steps: u64,
}

/// Tells a subscriber all there is, until the VM is over or the subscriber has gone.
pub(super) async fn serve(
    mut stream: UnixStream,
    mut published: watch::Receiver<Published>,
) -> io::Result<()> {
    stream.write_all(b"{\"return\":null}\n").await?;
    // What was done before is no news.
    let mut told = published.borrow().steps;
    published.mark_changed();
    loop {
        tokio::select! {
            changed = published.changed() => if changed.is_err() {
                return Ok(());
            },
            // A subscriber says nothing, but goes.
            read = stream.read_u8() => return read.map(drop),
        }
        let lines = {
            let now = published.borrow_and_update();
            let step = (now.steps > told).then(|| Notification::Step(now.step.clone()));
            let status = now.status.clone().map(|status| Notification::Status(Box::new(status)));
            told = now.steps;
            lines(step.into_iter().chain(status))?
        };
        time::timeout(limits::SUBSCRIBER_SLOW, stream.write_all(&lines)).await??;
    }
}

fn lines(notifications: impl Iterator<Item = Notification>) -> io::Result<Vec<u8>> {
    let mut lines = vec![];
    for notification in notifications {
        serde_json::to_writer(&mut lines, &notification)?;
        lines.push(b'\n');
    }
    Ok(lines)
}
