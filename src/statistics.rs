//! What the server has done since it started.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::quantity;

/// Counts, shared by all workers.
#[derive(Debug, Default)]
pub struct Statistics {
    requests: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    files_stored: AtomicU64,
}

impl Statistics {
    /// Counts a request that was answered, with the bytes of its body and of the answer's.
    pub fn answered(&self, bytes_up: usize, bytes_down: usize) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes_up.fetch_add(bytes_up as u64, Ordering::Relaxed);
        self.bytes_down
            .fetch_add(bytes_down as u64, Ordering::Relaxed);
    }

    /// Counts a file that a client has stored.
    pub fn stored(&self) {
        self.files_stored.fetch_add(1, Ordering::Relaxed);
    }

    /// All of it, in a line.
    pub fn describe(&self) -> String {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        format!(
            "{}, {} up, {} down, {} stored since the start",
            quantity::count(load(&self.requests), "request"),
            quantity::bytes(load(&self.bytes_up)),
            quantity::bytes(load(&self.bytes_down)),
            quantity::count(load(&self.files_stored), "file"),
        )
    }
}
