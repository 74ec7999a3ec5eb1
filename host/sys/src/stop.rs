//! Counts requests to stop, by Ctrl-C or SIGTERM: the first one asks for a stop, and each further one hastens it.

use std::io;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Requests that this process stop.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<u32>);

/// Requests that other code counts.
impl From<watch::Receiver<u32>> for Stop {
    fn from(count: watch::Receiver<u32>) -> Self {
        Self(count)
    }
}

impl Stop {
    /// Counts SIGINT, SIGTERM and SIGHUP from now on, instead of dying of them.
    pub fn on_signals() -> io::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let (sender, receiver) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                sender.send_modify(|count| *count += 1);
            }
        });
        Ok(Self(receiver))
    }

    /// Ends once so many requests to stop have come.
    pub async fn asked(&mut self, times: u32) {
        if self.0.wait_for(|count| *count >= times).await.is_err() {
            // The counter is gone, so that no more requests can come.
            std::future::pending::<()>().await;
        }
    }
}
