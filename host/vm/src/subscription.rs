//! Reads what a VM's supervisor tells its subscribers, from its control socket.

use std::{io, path::Path};

use tokio::{net::UnixStream, time};
use tokio_stream::StreamExt as _;
use tokio_util::codec::{FramedRead, LinesCodec};

use super::{AskError, Notification, control, request::Request};
use crate::limits;

/// A subscription to what a VM's supervisor tells.
#[derive(Debug)]
pub struct Subscription {
    lines: FramedRead<UnixStream, LinesCodec>,
}

/// Subscribes to what a VM's supervisor tells.
///
/// # Errors
/// Fails where there is no supervisor (yet, or any more), or an earlier version's, which knows no subscriptions.
pub async fn subscribe(vm: &Path) -> Result<Subscription, AskError> {
    let stream = control::opened(vm, Request::Subscribe).await?;
    let mut lines =
        FramedRead::new(stream, LinesCodec::new_with_max_length(limits::NOTIFICATION_BYTES));
    let answer = time::timeout(limits::CONTROL_REQUEST, lines.next());
    let answer = answer.await.map_err(io::Error::from)?;
    let closed = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let answer = answer.ok_or_else(closed)?.map_err(io::Error::other)?;
    control::answer_of(&answer)?;
    Ok(Subscription { lines })
}

impl Subscription {
    /// Waits for the next notification; nothing once the supervisor has ended. The wait may be dropped.
    pub async fn next(&mut self) -> Option<Notification> {
        loop {
            match self.lines.next().await {
                Some(Ok(line)) => {
                    // A notification that only a later version knows is skipped.
                    if let Ok(notification) = serde_json::from_str(&line) {
                        return Some(notification);
                    }
                }
                Some(Err(_)) | None => return None,
            }
        }
    }
}
