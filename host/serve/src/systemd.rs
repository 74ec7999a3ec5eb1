//! The service's exchange with systemd: the sockets that systemd listens at
//! ([sd_listen_fds(3)](https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html)), and the service's state
//! ([sd_notify(3)](https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html)). Without systemd these functions do nothing.

use std::{io, os::fd::AsFd, sync::Arc};

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::time;

use crate::{Identity, ServeError, Socket, limits};

/// The sockets that systemd passed.
pub struct Passed(ListenFd);

/// Takes the sockets that systemd passed, none if the service was started otherwise. The function must be called before there are threads,
/// as it takes the variables that name the sockets out of the environment.
pub fn passed() -> Passed {
    Passed(ListenFd::from_env())
}

impl Passed {
    /// Gives the sockets to be served.
    ///
    /// # Errors
    /// A socket does not listen, or is of the network and there is no certificate.
    pub fn sockets(mut self, identity: Option<&Arc<Identity>>) -> Result<Vec<Socket>, ServeError> {
        let mut sockets = vec![];
        for number in 0..self.0.len() {
            let socket = if let Ok(Some(listener)) = self.0.take_unix_listener(number) {
                listens(&listener).and_then(|()| Socket::passed_unix(listener))
            } else {
                let listener = self.0.take_tcp_listener(number).map_err(ServeError::Passed)?;
                let Some(listener) = listener else { continue };
                let identity = identity.ok_or(ServeError::NoTls)?;
                listens(&listener).and_then(|()| Socket::passed_tcp(listener, identity))
            };
            sockets.push(socket.map_err(ServeError::Passed)?);
        }
        Ok(sockets)
    }
}

/// Checks that a socket listens: a unit with `Accept=yes` passes a connection instead.
fn listens(socket: &impl AsFd) -> io::Result<()> {
    if rustix::net::sockopt::socket_acceptconn(socket)? {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen: expected Accept=no"))
}

/// Says that the service is ready, also after [`reloading`].
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// Says that the configuration is being read again.
pub fn reloading() {
    // systemd compares this time with the time at which it asked.
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, now]);
    }
}

/// Says that the service leaves.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Tells systemd's watchdog again and again that the service's runtime goes on; waits for ever where the unit has none.
pub async fn keep_watchdog() {
    let Some(most) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    // The manual recommends half of the watchdog's time.
    let mut ticks = time::interval((most / 2).max(limits::WATCHDOG_STEP));
    loop {
        ticks.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd is not told how the service does");
    }
}
