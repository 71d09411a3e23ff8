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
    downloads: AtomicU64,
    cache_hits: AtomicU64,
    /// What all files together take.
    pub stored_bytes: StoredBytes,
}

/// What was counted until some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that were answered.
    pub requests: u64,
    /// Bytes of their bodies.
    pub bytes_up: u64,
    /// Bytes of the answers' bodies.
    pub bytes_down: u64,
    /// Files that clients have stored.
    pub files_stored: u64,
    /// Files that clients wanted,
    pub downloads: u64,
    /// and how many of them came out of the file cache.
    pub cache_hits: u64,
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

    /// Counts a file that a client wants, and whether it was in the file cache.
    pub fn looked_for_file(&self, is_cached: bool) {
        self.downloads.fetch_add(1, Ordering::Relaxed);
        self.cache_hits
            .fetch_add(u64::from(is_cached), Ordering::Relaxed);
    }

    /// What was counted until now.
    pub fn counts(&self) -> Counts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            requests: load(&self.requests),
            bytes_up: load(&self.bytes_up),
            bytes_down: load(&self.bytes_down),
            files_stored: load(&self.files_stored),
            downloads: load(&self.downloads),
            cache_hits: load(&self.cache_hits),
        }
    }
}

impl Counts {
    /// All of it, in a line.
    pub fn describe(&self) -> String {
        format!(
            "{}, {} up, {} down, {} stored, {} of {} from the cache since the start",
            quantity::count(self.requests, "request"),
            quantity::bytes(self.bytes_up),
            quantity::bytes(self.bytes_down),
            quantity::count(self.files_stored, "file"),
            quantity::number(self.cache_hits),
            quantity::count(self.downloads, "download"),
        )
    }
}
