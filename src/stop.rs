//! The stop flag, shared by all threads.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::lock::{lock, unpoisoned};

/// A flag that asks all threads to stop. Once set, it stays set.
#[derive(Clone, Default)]
pub struct Stop {
    shared: Arc<StopState>,
}

#[derive(Default)]
struct StopState {
    is_requested: Mutex<bool>,
    requested: Condvar,
}

impl Stop {
    /// Sets the flag and wakes the threads that [`wait`](Stop::wait).
    pub fn request(&self) {
        *lock(&self.shared.is_requested) = true;
        self.shared.requested.notify_all();
    }

    /// Whether the flag is set.
    pub fn is_requested(&self) -> bool {
        *lock(&self.shared.is_requested)
    }

    /// Sleeps for `time`, or until the flag is set. Returns whether it is set.
    pub fn wait(&self, time: Duration) -> bool {
        let requested = lock(&self.shared.is_requested);
        let waited = self
            .shared
            .requested
            .wait_timeout_while(requested, time, |requested| !*requested);
        *unpoisoned(waited).0
    }
}
