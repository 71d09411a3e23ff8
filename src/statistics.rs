//! Counts of what the server has done since it started.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::exposition::{Exposition, Kind};
use crate::lock::lock;
use crate::quantity;
use crate::request_counts::RequestCounts;

/// The bytes of all stored files and of uploads in flight, for `files.max_total_size`.
///
/// The timer thread counts the stored files regularly. Between two counts this server adds what
/// it stores, and within a second or two what other servers on the same database store, and
/// subtracts what it deletes. What others delete is noticed at the next count.
#[derive(Debug, Default)]
pub struct StoredBytes {
    sums: Mutex<ByteSums>,
}

#[derive(Debug, Default)]
struct ByteSums {
    /// Bytes of the stored files.
    stored: u64,
    /// Bytes that uploads in flight will add.
    reserved: u64,
    /// Bytes added since the last count began, which may have missed them.
    added: u64,
    /// Bytes that this server has added since it started.
    own: u64,
}

impl StoredBytes {
    /// Sets the stored bytes to an estimate, until the first count.
    pub fn estimated(&self, bytes: u64) {
        lock(&self.sums).stored = bytes;
    }

    /// Notes the start of a count; must be called before each count.
    pub fn count_begins(&self) {
        lock(&self.sums).added = 0;
    }

    /// Sets the stored bytes to the result of a count. Bytes that were added during the count
    /// are added once more, because the count may have missed them: until the next count the sum
    /// may be too large, but never too small.
    pub fn counted(&self, bytes: u64) {
        let mut sums = lock(&self.sums);
        sums.stored = bytes.saturating_add(sums.added);
    }

    /// Subtracts the bytes of deleted files.
    pub fn deleted(&self, bytes: u64) {
        let mut sums = lock(&self.sums);
        sums.stored = sums.stored.saturating_sub(bytes);
    }

    /// The bytes of the files that this server has stored since it started.
    pub fn added_since_start(&self) -> u64 {
        lock(&self.sums).own
    }

    /// Adds the bytes of files that other servers have stored.
    pub fn added_by_others(&self, bytes: u64) {
        lock(&self.sums).add(bytes);
    }

    /// Reserves space below `limit` for a file of that many bytes; `None` if there is too
    /// little.
    pub fn reserve(&self, bytes: u64, limit: u64) -> Option<SpaceReservation<'_>> {
        let mut sums = lock(&self.sums);
        let sum = sums.stored.saturating_add(sums.reserved);
        if sum.saturating_add(bytes) > limit {
            return None;
        }
        sums.reserved += bytes;
        Some(SpaceReservation { of: self, bytes })
    }
}

impl ByteSums {
    fn add(&mut self, bytes: u64) {
        self.stored = self.stored.saturating_add(bytes);
        self.added = self.added.saturating_add(bytes);
    }
}

/// Space for a file that is being stored. Dropping the reservation frees the space.
#[derive(Debug)]
pub struct SpaceReservation<'a> {
    of: &'a StoredBytes,
    bytes: u64,
}

impl SpaceReservation<'_> {
    /// Counts the file as stored.
    pub fn fill(self) {
        let mut sums = lock(&self.of.sums);
        sums.add(self.bytes);
        sums.own = sums.own.saturating_add(self.bytes);
    }
}

impl Drop for SpaceReservation<'_> {
    fn drop(&mut self) {
        lock(&self.of.sums).reserved -= self.bytes;
    }
}

/// Counters, shared by all workers.
#[derive(Debug, Default)]
pub struct Statistics {
    /// The requests and their bytes.
    pub requests: RequestCounts,
    files_stored: AtomicU64,
    cache_hits: AtomicU64,
    cache_misses: AtomicU64,
    files_expired: AtomicU64,
    /// The bytes of all files.
    pub stored_bytes: StoredBytes,
    /// The last count of all files; `None` before the first.
    last_count: Mutex<Option<FileCount>>,
    /// When each platform's versions were last checked successfully, by any server on this
    /// database, in the order of the platforms; empty as long as nothing is known.
    pub last_checks: Mutex<Vec<Option<SystemTime>>>,
}

/// The result of counting all files.
#[derive(Clone, Copy, Debug)]
struct FileCount {
    files: u64,
    bytes: u64,
    /// When the count ended.
    at: SystemTime,
}

/// The values of the counters at one moment.
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
    /// Files that clients asked for.
    pub downloads: u64,
    /// Files that clients asked for and that were in the file cache.
    pub cache_hits: u64,
}

impl Statistics {
    /// Counters for the endpoints of these names.
    pub fn new(endpoints: Vec<String>) -> Statistics {
        Statistics {
            requests: RequestCounts::new(endpoints),
            ..Statistics::default()
        }
    }

    /// Counts files that have expired and were deleted.
    pub fn expired(&self, files: u64) {
        self.files_expired.fetch_add(files, Ordering::Relaxed);
    }

    /// Notes the number and the bytes of all files, which were counted just now.
    pub fn counted(&self, files: u64, bytes: u64) {
        let at = SystemTime::now();
        *lock(&self.last_count) = Some(FileCount { files, bytes, at });
    }

    /// Counts a file that a client has uploaded.
    pub fn stored(&self) {
        self.files_stored.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a file that a client asks for, and whether it was in the file cache.
    pub fn looked_for_file(&self, is_cached: bool) {
        let count = if is_cached {
            &self.cache_hits
        } else {
            &self.cache_misses
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// The current values of the counters.
    pub fn counts(&self) -> Counts {
        Counts {
            requests: self.requests.requests(),
            bytes_up: self.requests.bytes_up(),
            bytes_down: self.requests.bytes_down(),
            files_stored: load(&self.files_stored),
            downloads: load(&self.cache_hits) + load(&self.cache_misses),
            cache_hits: load(&self.cache_hits),
        }
    }

    /// Writes the counters.
    pub fn expose(&self, exposition: &mut Exposition) {
        self.requests.expose(exposition);
        let help = "Files that clients asked for, by whether they were in the file cache.";
        let mut family = exposition.family("file_cache_requests_total", Kind::Counter, help);
        family.sample(&[("result", "hit")], load(&self.cache_hits));
        family.sample(&[("result", "miss")], load(&self.cache_misses));
        let help = "Files that clients have uploaded.";
        exposition.counter("uploaded_files_total", help, load(&self.files_stored));
        let help = "Expired files that this server has deleted.";
        exposition.counter("expired_files_total", help, load(&self.files_expired));
        let Some(count) = *lock(&self.last_count) else {
            return;
        };
        let help = "Files in the database when they were last counted.";
        exposition.gauge("stored_files", help, count.files);
        let help = "Bytes of the files in the database when they were last counted.";
        exposition.gauge("stored_bytes", help, count.bytes);
        let help = "When the files in the database were last counted.";
        let at = count.at.duration_since(SystemTime::UNIX_EPOCH);
        let seconds = at.unwrap_or_default().as_secs();
        exposition.gauge("stored_count_timestamp_seconds", help, seconds);
    }
}

impl Counts {
    /// All counts in one line of text.
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

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
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

    #[test]
    fn what_other_servers_store_takes_room_and_is_not_this_server_s() {
        let known = StoredBytes::default();
        known.reserve(10, 100).expect("room").fill();
        known.count_begins();
        known.added_by_others(50);
        known.counted(20);
        assert!(known.reserve(31, 100).is_none() && known.reserve(30, 100).is_some());
        assert_eq!(known.added_since_start(), 10);
    }
}
