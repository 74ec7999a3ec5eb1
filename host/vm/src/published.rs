//! What a supervisor tells the subscribers on its control socket: the VM's status with its history first, then every change. A subscriber
//! that reads slowly is told the latest status, whose history has the earlier changes.

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

/// A message to a subscriber.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Notification {
    /// The VM's status: at first, and whenever it changes. The last status of a VM that is over says how the VM ended, even if no record of
    /// the end can be written.
    Status(Box<Status>),
    /// A step by which a request to stop is carried out.
    Step(String),
}

/// What there is to tell subscribers.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// The VM's status; absent until a supervisor that adopts the VM knows it.
    pub(super) status: Option<Status>,
    /// The last step by which a request to stop was carried out.
    pub(super) step: String,
    /// How many such steps there have been.
    pub(super) steps: u64,
}

/// Sends a subscriber all there is to tell, until the VM is over or the subscriber has gone.
pub(super) async fn serve(
    mut stream: UnixStream,
    mut published: watch::Receiver<Published>,
) -> io::Result<()> {
    stream.write_all(b"{\"return\":null}\n").await?;
    // Steps from before the subscription are not sent.
    let mut told = published.borrow().steps;
    published.mark_changed();
    loop {
        tokio::select! {
            changed = published.changed() => if changed.is_err() {
                return Ok(());
            },
            // A subscriber sends nothing, so that a read ends only when the subscriber goes.
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
