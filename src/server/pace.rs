//! How fast clients must be.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The head of a connection's first request must have come after this time.
pub const HEAD: Duration = Duration::from_secs(10);
/// A body or an answer may move as slowly as it likes for this long.
const GRACE: Duration = Duration::from_secs(10);
/// After [`GRACE`] it must have moved no slower than this on average, bytes per second.
const LEAST_RATE: f64 = 16.0 * 1024.0;
/// A body or an answer never stands still for this long. The rate alone would not see it: of an
/// answer the first megabytes go into the system's buffers, whether the client takes them or not.
pub const STANDSTILL: Duration = Duration::from_secs(20);
/// A write that moves nothing for this long returns, and it is seen whether the client is
/// worth waiting for. A worker, who has others to answer, doesn't wait any longer.
pub const WRITE_TIMEOUT: Duration = Duration::from_millis(100);

/// How fast something moves.
pub struct Progress {
    since: Instant,
    bytes: AtomicU64,
    /// When the last of them moved, milliseconds after `since`.
    last: AtomicU64,
}

impl Progress {
    /// It starts now.
    pub fn start() -> Progress {
        Progress {
            since: Instant::now(),
            bytes: AtomicU64::new(0),
            last: AtomicU64::new(0),
        }
    }

    /// Counts bytes that have moved.
    pub fn moved(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let now = self.since.elapsed().as_millis() as u64;
        self.last.store(now, Ordering::Relaxed);
    }

    /// Whether the client is too slow to be waited for.
    pub fn is_too_slow(&self, now: Instant) -> bool {
        let last = self.since + Duration::from_millis(self.last.load(Ordering::Relaxed));
        if now > last + STANDSTILL {
            return true;
        }
        let beyond = now.saturating_duration_since(self.since + GRACE);
        (self.bytes.load(Ordering::Relaxed) as f64) < beyond.as_secs_f64() * LEAST_RATE
    }
}
