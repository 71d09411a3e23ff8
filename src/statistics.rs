//! What the server has done since it started.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::lock::lock;
use crate::quantity;

/// The bytes of all stored files and of those that are being stored, for
/// `files.max_total_size`. The timer thread counts the stored ones from time to time; in
/// between, this server adds what it stores and takes away what it deletes. What other servers
/// do on the same database is noticed at the next count.
#[derive(Debug, Default)]
pub struct StoredBytes(Mutex<Bytes>);

#[derive(Debug, Default)]
struct Bytes {
    stored: u64,
    /// What uploads in flight will add.
    reserved: u64,
    /// What was added since the last count began, which may have missed it.
    added: u64,
}

impl StoredBytes {
    /// Replaces what was known by a guess.
    pub fn estimated(&self, bytes: u64) {
        self.lock().stored = bytes;
    }

    /// Must be called before a count begins.
    pub fn count_begins(&self) {
        self.lock().added = 0;
    }

    /// Replaces what was known by a new count. What was added meanwhile is added again, because
    /// it may not be in the count: for a minute the sum may be too large, never too small.
    pub fn counted(&self, bytes: u64) {
        let mut known = self.lock();
        known.stored = bytes.saturating_add(known.added);
    }

    /// Notes that files of so many bytes were deleted.
    pub fn deleted(&self, bytes: u64) {
        let mut known = self.lock();
        known.stored = known.stored.saturating_sub(bytes);
    }

    /// Room for a file of that many bytes below `limit`, kept until it is stored or given up;
    /// `None` if there is none.
    pub fn reserve(&self, bytes: u64, limit: u64) -> Option<Reservation<'_>> {
        let mut known = self.lock();
        let sum = known.stored.saturating_add(known.reserved);
        if sum.saturating_add(bytes) > limit {
            return None;
        }
        known.reserved += bytes;
        Some(Reservation { of: self, bytes })
    }

    fn lock(&self) -> MutexGuard<'_, Bytes> {
        lock(&self.0)
    }
}

/// Room for a file that is being stored. It is given back when this is dropped.
#[derive(Debug)]
pub struct Reservation<'a> {
    of: &'a StoredBytes,
    bytes: u64,
}

impl Reservation<'_> {
    /// Notes that the file was stored and takes the room for good.
    pub fn fill(self) {
        let mut known = self.of.lock();
        known.stored = known.stored.saturating_add(self.bytes);
        known.added = known.added.saturating_add(self.bytes);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.of.lock().reserved -= self.bytes;
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

    /// Counts a file that a client has stored.
    pub fn stored(&self) {
        self.files_stored.fetch_add(1, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_flight_and_what_is_stored_share_the_room() {
        let known = StoredBytes::default();
        let first = known.reserve(60, 100).expect("room");
        assert!(known.reserve(41, 100).is_none());
        let second = known.reserve(40, 100).expect("room");
        assert!(known.reserve(1, 100).is_none());
        first.fill();
        assert!(known.reserve(1, 100).is_none());
        drop(second);
        assert!(known.reserve(41, 100).is_none() && known.reserve(40, 100).is_some());
        known.deleted(60);
        assert!(known.reserve(100, 100).is_some());
        known.deleted(1);
        assert!(known.reserve(101, 100).is_none());
    }

    #[test]
    fn what_is_stored_during_a_count_is_not_forgotten() {
        let known = StoredBytes::default();
        known.estimated(1_000);
        assert!(known.reserve(1, 100).is_none());
        known.count_begins();
        known.counted(10);
        known.count_begins();
        known.reserve(50, 100).expect("room").fill();
        let in_flight = known.reserve(20, 100).expect("room");
        known.counted(20);
        assert!(known.reserve(11, 100).is_none());
        in_flight.fill();
        assert!(known.reserve(11, 100).is_none() && known.reserve(10, 100).is_some());
    }
}
