//! The wish to stop, shared by all threads.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::lock::{lock, unpoisoned};

/// Requested once, then for ever.
#[derive(Clone, Default)]
pub struct Stop {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    is_requested: Mutex<bool>,
    requested: Condvar,
}

impl Stop {
    /// Asks every thread to stop.
    pub fn request(&self) {
        *lock(&self.shared.is_requested) = true;
        self.shared.requested.notify_all();
    }

    /// Whether anybody asked.
    pub fn is_requested(&self) -> bool {
        *lock(&self.shared.is_requested)
    }

    /// Sleeps for `time`, or until somebody asks; whether somebody did.
    pub fn wait(&self, time: Duration) -> bool {
        let requested = lock(&self.shared.is_requested);
        let waited = self
            .shared
            .requested
            .wait_timeout_while(requested, time, |requested| !*requested);
        *unpoisoned(waited).0
    }
}
