//! The time that one decision may take as a whole, from loading its policies to its verdict. Each policy has a limit of its
//! own for a call; without this one, a long chain and many sources would add those up to hours.

use std::time::{Duration, Instant};

/// When a decision has to be made, and how long it had.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    ends: Instant,
    limit: Duration,
}

impl Deadline {
    /// So long from now.
    pub fn after(limit: Duration) -> Self {
        Self { ends: Instant::now() + limit, limit }
    }

    /// What is left of it; nothing once it is over.
    pub fn left(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }

    /// How long the decision had.
    pub fn limit(&self) -> Duration {
        self.limit
    }
}
