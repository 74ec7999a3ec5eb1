//! Decides whether a source is asked again, and when.

use std::time::Duration;

use reqwest::StatusCode;
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::time;

use super::{FetchFailure, Progress, Settings};
use crate::limits;

/// Refusals that may pass and are not about the file (RFC 9110, 15.5.9; RFC 8470, 5.2; RFC 6585, 4).
const ANOTHER_TIME: [StatusCode; 3] =
    [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];

/// The number of attempts at a source, and the wait before the next one.
pub(super) struct Retry {
    most: u32,
    failed: u32,
    backoff: Duration,
    best: u64,
}

impl Retry {
    pub(super) fn new(config: &Settings) -> Self {
        Self { most: config.attempts, failed: 0, backoff: limits::FETCH_BACKOFF, best: 0 }
    }

    /// Waits before the next attempt, or gives the failure back if there is to be none. `received` is how far the last
    /// attempt came.
    pub(super) async fn after(
        &mut self,
        failure: FetchFailure,
        received: u64,
        progress: &dyn Progress,
    ) -> Result<(), FetchFailure> {
        if received >= self.best.saturating_add(limits::FETCH_PROGRESS_BYTES) {
            *self =
                Self { most: self.most, failed: 0, backoff: limits::FETCH_BACKOFF, best: received };
        }
        self.failed += 1;
        let Some(wait) = self.wait(&failure).filter(|_| self.failed < self.most) else {
            return Err(failure);
        };
        progress.retrying(&format!("{failure}; trying again"));
        time::sleep(wait).await;
        self.backoff = self.backoff.saturating_mul(2).min(limits::FETCH_RETRY_AFTER);
        Ok(())
    }

    /// The wait before the next attempt; none where another attempt would end the same.
    fn wait(&self, failure: &FetchFailure) -> Option<Duration> {
        match failure {
            FetchFailure::Connection(_) | FetchFailure::Short { .. } | FetchFailure::Range(_) => {
                Some(jittered(self.backoff))
            }
            FetchFailure::Status { status, retry_after_s } => {
                let worth = status.is_server_error() || ANOTHER_TIME.contains(status);
                let backoff = jittered(self.backoff);
                let asked = retry_after_s.map_or(backoff, Duration::from_secs);
                (worth && asked <= limits::FETCH_RETRY_AFTER).then_some(asked.max(backoff))
            }
            FetchFailure::Forbidden(_)
            | FetchFailure::Tls(_)
            | FetchFailure::Redirect(_)
            | FetchFailure::TooLarge { .. }
            | FetchFailure::ListTooLarge { .. }
            | FetchFailure::TooSlow { .. } => None,
        }
    }
}

/// A random wait between half of `wait` and all of it, so that hosts that failed together do not come back together.
fn jittered(wait: Duration) -> Duration {
    let mut byte = [u8::MAX];
    // Without randomness, the wait is the whole one.
    let filled = getrandom(&mut byte, GetRandomFlags::empty()).unwrap_or(0);
    let chance = if filled == 1 { byte[0] } else { u8::MAX };
    wait / 2 + wait / 2 * u32::from(chance) / u32::from(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: StatusCode, retry_after_s: Option<u64>) -> FetchFailure {
        FetchFailure::Status { status, retry_after_s }
    }

    #[test]
    fn what_is_worth_another_attempt() {
        let retry = Retry::new(&Settings::default());
        let waits = |failure: FetchFailure| retry.wait(&failure);
        assert!(waits(FetchFailure::Connection("refused".into())).is_some());
        assert!(waits(FetchFailure::Short { received: 1, expected: 2 }).is_some());
        for worth in ANOTHER_TIME.into_iter().chain([StatusCode::INTERNAL_SERVER_ERROR]) {
            assert!(waits(status(worth, None)).is_some());
            assert_eq!(waits(status(worth, Some(7))), Some(Duration::from_secs(7)));
            // A `Retry-After` beyond the cap is not waited for.
            assert_eq!(waits(status(worth, Some(31))), None);
        }
        for not in [StatusCode::NOT_FOUND, StatusCode::FORBIDDEN, StatusCode::GONE] {
            assert_eq!(waits(status(not, None)), None);
        }
        assert_eq!(waits(FetchFailure::Tls("expired".into())), None);
        assert_eq!(waits(FetchFailure::Forbidden("private".into())), None);
    }

    #[test]
    fn waits_are_half_chance() {
        let wait = Duration::from_millis(500);
        let waits: std::collections::BTreeSet<_> = (0..100).map(|_| jittered(wait)).collect();
        assert!(waits.len() > 10, "{waits:?}");
        assert!(waits.iter().all(|one| (wait / 2..=wait).contains(one)), "{waits:?}");
    }
}
