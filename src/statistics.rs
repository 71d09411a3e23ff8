//! What the server has done since it started.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::quantity;

/// The bytes of all stored files, as far as they are known: counted by the timer thread from
/// time to time, and kept up to date in between by what this server itself stores and
/// deletes. Other servers on the same database are noticed at the next count.
#[derive(Debug, Default)]
pub struct StoredBytes(AtomicU64);

impl StoredBytes {
    /// Replaces what was known by a new count.
    pub fn counted(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// Notes that a file was stored.
    pub fn stored(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that files of so many bytes were deleted.
    pub fn deleted(&self, bytes: u64) {
        let rest = |stored: u64| Some(stored.saturating_sub(bytes));
        // It is never `None`.
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
    }

    /// Whether a file of that many bytes still fits below `limit`.
    pub fn has_room_for(&self, bytes: u64, limit: u64) -> bool {
        self.0.load(Ordering::Relaxed).saturating_add(bytes) <= limit
    }
}

/// Counts, shared by all workers.
#[derive(Debug, Default)]
pub struct Statistics {
    requests: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    files_stored: AtomicU64,
    /// What all files together take.
    pub stored_bytes: StoredBytes,
}

impl Statistics {
    /// Counts a request that was answered, with the bytes of its body and of the answer's.
    pub fn answered(&self, bytes_up: usize, bytes_down: usize) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes_up.fetch_add(bytes_up as u64, Ordering::Relaxed);
        self.bytes_down
            .fetch_add(bytes_down as u64, Ordering::Relaxed);
    }

    /// Counts a file of so many bytes that a client has stored.
    pub fn stored(&self, bytes: usize) {
        self.files_stored.fetch_add(1, Ordering::Relaxed);
        self.stored_bytes.stored(bytes as u64);
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
