//! How long a server, or several, answer nothing.

use std::time::{Duration, Instant};

/// How requests were answered.
pub struct Service {
    pub asked: u64,
    /// Those that weren't answered 200.
    pub failed: u64,
    /// How long no upload and no read were answered 200.
    pub uploads: Working,
    pub reads: Working,
}

impl Service {
    pub fn new() -> Service {
        Service {
            asked: 0,
            failed: 0,
            uploads: Working::new(),
            reads: Working::new(),
        }
    }
}

/// How long nothing was answered 200.
pub struct Working {
    last: Instant,
    longest: Duration,
}

impl Working {
    fn new() -> Working {
        Working {
            last: Instant::now(),
            longest: Duration::ZERO,
        }
    }

    /// Notes that one was answered.
    pub fn works(&mut self) {
        self.longest = self.longest.max(self.last.elapsed());
        self.last = Instant::now();
    }

    /// The longest time without service since the beginning.
    pub fn longest(&self) -> Duration {
        self.longest.max(self.last.elapsed())
    }
}
