//! A token bucket, which bounds how fast QEMU's output is read. What QEMU sends faster waits in the socket, where it holds up QEMU and
//! nothing else.

use std::time::{Duration, Instant};

/// A rate, and the bytes that may come at once.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Bytes a second.
    pub per_second: u64,
    /// Bytes at once.
    pub burst: u64,
}

/// The bucket, which has the bytes that may be read now.
#[derive(Debug)]
pub(super) struct TokenBucket {
    rate: Rate,
    /// Bytes in the bucket; negative after more was read than it had.
    left: i64,
    filled: Instant,
    /// The time since which the bucket has been short: it went below zero then, and has not been half full since.
    short: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket.
    pub(super) fn new(rate: Rate) -> Self {
        let left = i64::try_from(rate.burst).unwrap_or(i64::MAX);
        Self { rate, left, filled: Instant::now(), short: None }
    }

    /// Takes so many bytes, which were read, out of the bucket. Returns the wait until more may be read.
    pub(super) fn take(&mut self, bytes: u64) -> Duration {
        self.take_at(bytes, Instant::now())
    }

    fn take_at(&mut self, bytes: u64, now: Instant) -> Duration {
        self.fill(now);
        self.left = self.left.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        if self.left < 0 {
            self.short.get_or_insert(now);
        }
        let missing = self.left.min(0).unsigned_abs();
        Duration::from_secs_f64(missing as f64 / self.rate.per_second.max(1) as f64)
    }

    fn fill(&mut self, now: Instant) {
        let most = i64::try_from(self.rate.burst).unwrap_or(i64::MAX);
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        // Time that comes to less than a byte is not lost: `filled` stays as it is.
        let more = (since * self.rate.per_second as f64) as i64;
        if more > 0 {
            self.left = self.left.saturating_add(more).min(most);
            self.filled = now;
        }
        if self.left >= most / 2 {
            self.short = None;
        }
    }

    /// How long the bucket has been short.
    pub(super) fn empty_for(&self) -> Duration {
        self.short.map(|since| since.elapsed()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_at_once_and_what_comes_on_and_on() {
        let mut bucket = TokenBucket::new(Rate { per_second: 100, burst: 1000 });
        let now = bucket.filled;
        assert_eq!(bucket.take_at(1000, now), Duration::ZERO);
        assert_eq!(bucket.take_at(50, now), Duration::from_millis(500));
        assert!(bucket.short.is_some());
        let later = now + Duration::from_secs(1);
        assert_eq!(bucket.take_at(50, later), Duration::ZERO, "filled by 100");
        assert!(bucket.short.is_some(), "it has had no rest");
        let rested = now + Duration::from_secs(10);
        bucket.take_at(0, rested);
        assert!(bucket.short.is_none());
        bucket.take_at(0, now + Duration::from_secs(1000));
        assert_eq!(bucket.left, 1000, "no more than may come at once");
    }
}
