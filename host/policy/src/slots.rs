//! The slots of the pool of sandboxes. A decision takes as many as its chain has policies, all at once: a decision that finds too
//! few waits for others to end, and no two decisions hold slots that the other waits for.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

/// The number of free slots.
#[derive(Debug)]
pub(super) struct Slots {
    free: Mutex<usize>,
    freed: Condvar,
}

/// Slots that are taken, and free again when this is dropped.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    slots: &'a Slots,
    number: usize,
}

impl Slots {
    pub(super) fn new(number: usize) -> Self {
        Self { free: Mutex::new(number), freed: Condvar::new() }
    }

    /// Takes so many slots, and waits for them no longer than `within`; gives nothing where they were not free by then.
    pub(super) fn take(&self, number: usize, within: Duration) -> Option<Taken<'_>> {
        // A number has no state that a panic could have left half changed.
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.freed.wait_timeout_while(free, within, |free| *free < number);
        let (mut free, late) = waited.unwrap_or_else(PoisonError::into_inner);
        if late.timed_out() {
            return None;
        }
        *free -= number;
        Some(Taken { slots: self, number })
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.slots.free.lock().unwrap_or_else(PoisonError::into_inner) += self.number;
        // All that wait are woken, since any of them may have enough slots now.
        self.slots.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn what_is_not_free_is_waited_for() {
        let slots = Slots::new(3);
        let two = slots.take(2, Duration::ZERO).unwrap();
        let one = slots.take(1, Duration::ZERO).unwrap();
        assert!(slots.take(1, Duration::from_millis(1)).is_none());
        drop(one);
        thread::scope(|scope| {
            let waits = scope.spawn(|| slots.take(3, Duration::from_secs(60)).is_some());
            drop(two);
            assert!(waits.join().unwrap());
        });
        assert!(slots.take(3, Duration::ZERO).is_some(), "all were given back");
        assert!(slots.take(4, Duration::ZERO).is_none(), "there are no four");
    }
}
