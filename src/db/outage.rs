//! Outages of the database, shared by all connections.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The pause between two attempts to reach a database that is away. Meanwhile all other attempts
/// fail at once.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// How long an attempt may take during which all others fail. A database that takes connections
/// but doesn't greet them holds up one thread, not all.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(30);

/// Whether the database is away, and when it may be tried again.
#[derive(Debug)]
pub(super) struct Outage {
    /// The start of the clock.
    epoch: Instant,
    /// When the next attempt may be made, milliseconds after `epoch`; 0 while the database is
    /// up.
    next_attempt: AtomicU64,
    /// The outages so far, with the present one.
    count: AtomicU64,
}

impl Outage {
    /// No outage.
    pub(super) fn new() -> Outage {
        Outage {
            epoch: Instant::now(),
            next_attempt: AtomicU64::new(0),
            count: AtomicU64::new(0),
        }
    }

    /// Whether the caller may try to connect. During an outage one caller at a time may, with a
    /// [`RETRY_PAUSE`] after each.
    pub(super) fn may_connect(&self) -> bool {
        let now = self.now();
        let next = self.next_attempt.load(Ordering::Relaxed);
        let until = now + LONGEST_ATTEMPT.as_millis() as u64;
        next == 0
            || next <= now
                && self
                    .next_attempt
                    .compare_exchange(next, until, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
    }

    /// Notes a failed attempt. Returns whether it is the first one of an outage.
    pub(super) fn began(&self) -> bool {
        let next = pause_after(self.now());
        let is_first = self.next_attempt.swap(next, Ordering::Relaxed) == 0;
        self.count.fetch_add(u64::from(is_first), Ordering::Relaxed);
        is_first
    }

    /// Notes a successful attempt. Returns whether it ends an outage.
    pub(super) fn ended(&self) -> bool {
        self.next_attempt.swap(0, Ordering::Relaxed) != 0
    }

    /// Whether there is an outage now, as far as is known.
    pub(super) fn is_on(&self) -> bool {
        self.next_attempt.load(Ordering::Relaxed) != 0
    }

    /// The outages so far, with the present one.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn now(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }
}

/// The end of a pause that starts `now`, both in milliseconds.
fn pause_after(now: u64) -> u64 {
    now + RETRY_PAUSE.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn during_an_outage_one_caller_at_a_time_may_try() {
        let outage = Outage::new();
        assert!(outage.may_connect() && outage.may_connect());
        assert!(outage.began());
        assert!(!outage.began(), "the outage is reported once");
        assert!(outage.is_on() && outage.count() == 1);
        assert!(!outage.may_connect(), "an attempt failed just now");
        std::thread::sleep(RETRY_PAUSE);
        assert!(outage.may_connect());
        assert!(!outage.may_connect(), "somebody else is trying");
        assert!(outage.ended());
        assert!(outage.may_connect() && outage.may_connect());
        assert!(!outage.ended());
        assert!(!outage.is_on() && outage.count() == 1);
    }
}
