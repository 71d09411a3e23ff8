//! How fast clients must be.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The head of a connection's first request must have come within this time.
pub const HEAD: Duration = Duration::from_secs(10);
/// While memory is short, for want of a head that never ends, a first head must have come within
/// this time ([`super::guard::memory`]).
pub const HEAD_WHILE_SHORT: Duration = Duration::from_millis(50);
/// A body or an answer may move at any rate for this long.
const GRACE: Duration = Duration::from_secs(10);
/// After [`GRACE`], a body or an answer must have moved at this rate on average, bytes per second.
const LEAST_RATE: f64 = 16.0 * 1024.0;
/// A body or an answer may stand still for this long. The average rate alone would not notice a
/// client that stops reading: the first megabytes of an answer go into the system's buffers.
pub const STANDSTILL: Duration = Duration::from_secs(20);
/// A write that moves nothing for this long returns, so that the sender can decide whether to
/// wait for the client any longer. Workers don't wait: other clients need them.
pub const WRITE_TIMEOUT: Duration = Duration::from_millis(100);
/// A server that stops waits this long for the requests in flight.
pub const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// How much of a body or an answer has moved, and when.
#[derive(Debug)]
pub struct Progress {
    since: Instant,
    bytes: AtomicU64,
    /// When the last bytes moved, milliseconds after `since`.
    last: AtomicU64,
}

impl Progress {
    /// Nothing has moved yet.
    pub fn start(now: Instant) -> Progress {
        Progress {
            since: now,
            bytes: AtomicU64::new(0),
            last: AtomicU64::new(0),
        }
    }

    /// Counts bytes that have moved.
    pub fn moved(&self, bytes: usize, now: Instant) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let after = now.saturating_duration_since(self.since).as_millis() as u64;
        self.last.store(after, Ordering::Relaxed);
    }

    /// Whether nothing has moved for longer than `limit`.
    pub fn is_still(&self, limit: Duration, now: Instant) -> bool {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        now > self.since + last + limit
    }

    /// Whether the client is too slow to be waited for.
    pub fn is_too_slow(&self, now: Instant) -> bool {
        let beyond = now.saturating_duration_since(self.since + GRACE);
        self.is_still(STANDSTILL, now)
            || (self.bytes.load(Ordering::Relaxed) as f64) < beyond.as_secs_f64() * LEAST_RATE
    }
}
