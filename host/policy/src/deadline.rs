//! The time that one decision may take as a whole, from loading its policies to its verdict. Each policy has a limit of its
//! own for a call; without a deadline on the decision, a long chain and many sources would add those limits up to hours.

use std::time::{Duration, Instant};

/// When a decision has to be made, and how long the decision had.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    ends: Instant,
    limit: Duration,
}

impl Deadline {
    /// A deadline that is so long from now.
    pub fn after(limit: Duration) -> Self {
        Self { ends: Instant::now() + limit, limit }
    }

    /// The time left until the deadline; zero once it is over.
    pub fn left(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }

    /// How long the decision had.
    pub fn limit(&self) -> Duration {
        self.limit
    }
}
