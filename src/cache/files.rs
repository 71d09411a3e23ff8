//! The file cache: the bytes of recent files, so that a popular file is read from the database
//! once.
//!
//! The bytes behind an id never change, so a cached file is valid until it expires. But another
//! server on the same database may have extended it, or an operator may have deleted it by hand.
//! So an entry must be [confirmed](Lookup::Stale) by the database regularly, which costs much
//! less than reading the file.
//!
//! A file that the operator deletes or blocks must be gone sooner. The timer thread reads every
//! second which files were removed lately, and [drops](FileCache::drop_removed) them from the
//! cache. If it can't, because it is busy or the database is away, no entry is trusted any more
//! after [`REMOVALS_KNOWN_FOR`]: each use of one must be confirmed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use crate::buffer::Buffer;
use crate::lock::lock;
use crate::protocol::file_id::FileId;

/// How long the server uses an entry without a confirmation. Clients must learn within a minute
/// when another server has extended a file.
pub const FRESH_FOR: Duration = Duration::from_secs(30);
/// How long entries are trusted after the list of removed files was last read. This is longer than
/// a statement of the timer thread may wait for a lock (5 s), so that a lock doesn't slow
/// downloads.
pub const REMOVALS_KNOWN_FOR: Duration = Duration::from_secs(10);
/// How long after its last confirmation an entry may be served while neither the database nor a
/// replica can be asked.
/// The database may be out of this server's reach alone, and the file be blocked there meanwhile.
pub const UNCONFIRMED_MAX: Duration = Duration::from_secs(5 * 60);
/// The largest small file, bytes. Avatars, which have 5 to 60 KB, are small.
const SMALL_FILE: usize = 128 * 1024;
/// The part of the cache that is for small files, as a divisor; the rest is for large ones. Either
/// class may use more as long as the other doesn't need it. A few large files must not evict
/// hundreds of avatars, nor the other way round.
const SMALL_FILES_DIVISOR: usize = 4;
/// The memory that an entry takes in addition to the file's bytes, bytes.
const ENTRY_OVERHEAD: usize = 256;

/// A file in the cache.
#[derive(Clone, Debug)]
pub struct File {
    /// The file's content.
    pub bytes: Arc<Buffer>,
    /// When the file expires.
    pub expires: SystemTime,
    /// The time until the file expires, by the database's clock.
    pub remaining: Duration,
}

/// The result of looking for a file in the cache.
#[derive(Debug)]
pub enum Lookup {
    /// The file, which can be served.
    Fresh(File),
    /// The file, which can be served if the database confirms that it is still there, and the time
    /// since it was last confirmed.
    Stale(File, Duration),
    /// The cache doesn't have the file.
    Missing,
}

/// Recent files, bounded by their bytes. The least recently used ones are evicted first.
#[derive(Debug)]
pub struct FileCache {
    /// The most memory that all entries take, bytes.
    capacity: usize,
    /// How long an entry needs no confirmation.
    fresh: Duration,
    state: Mutex<CacheState>,
    /// When the list of removed files was last read.
    removals_read: Mutex<Instant>,
}

#[derive(Debug, Default)]
struct CacheState {
    entries: HashMap<FileId, Entry>,
    small: SizeClass,
    large: SizeClass,
    /// The number of uses so far, which orders the entries by their last use.
    clock: u64,
}

/// The entries of either small or large files.
#[derive(Debug, Default)]
struct SizeClass {
    /// The memory that the entries take, bytes.
    bytes: usize,
    /// The entries, ordered by their last use.
    order: BTreeMap<u64, FileId>,
}

#[derive(Debug)]
struct Entry {
    bytes: Arc<Buffer>,
    expires: SystemTime,
    /// The last use, as a value of [`CacheState::clock`].
    used: u64,
    /// When the database last confirmed the entry.
    confirmed: Instant,
    /// When the file expires, by this machine's clock.
    expires_at: Instant,
}

impl FileCache {
    /// An empty cache of `capacity` bytes; with 0 it keeps nothing. Entries need no confirmation
    /// for the time `fresh`; the server uses [`FRESH_FOR`].
    pub fn new(capacity: usize, fresh: Duration) -> FileCache {
        FileCache {
            capacity,
            fresh,
            state: Mutex::default(),
            // The cache is empty, so that it holds no removed file.
            removals_read: Mutex::new(Instant::now()),
        }
    }

    /// Looks for a file, which counts as a use of its entry.
    pub fn find(&self, id: &FileId) -> Lookup {
        let now = Instant::now();
        let is_watched = now.duration_since(*lock(&self.removals_read)) < REMOVALS_KNOWN_FOR;
        match lock(&self.state).used(id) {
            Some(entry) if entry.expires_at > now => {
                let file = File {
                    bytes: entry.bytes.clone(),
                    expires: entry.expires,
                    remaining: entry.expires_at - now,
                };
                let age = now.duration_since(entry.confirmed);
                if is_watched && age < self.fresh {
                    Lookup::Fresh(file)
                } else {
                    Lookup::Stale(file, age)
                }
            }
            // An expired entry counts as missing and stays: another server may have extended the
            // file, which `extended` then notes.
            _ => Lookup::Missing,
        }
    }

    /// Whether the cache never keeps a file.
    pub fn is_off(&self) -> bool {
        self.capacity == 0
    }

    /// The most memory that all entries take, bytes.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The memory that the entries take, bytes.
    pub fn bytes(&self) -> usize {
        let state = lock(&self.state);
        state.small.bytes + state.large.bytes
    }

    /// Whether the cache would keep a file of that many bytes.
    pub fn takes(&self, bytes: usize) -> bool {
        bytes + ENTRY_OVERHEAD <= self.share(bytes)
    }

    /// Keeps a file that was just read or stored.
    pub fn keep(&self, id: &FileId, file: File) {
        if !self.takes(file.bytes.len()) {
            return;
        }
        let now = Instant::now();
        let expires_at = now + file.remaining.min(Duration::from_secs(365 * 24 * 60 * 60));
        let entry = Entry {
            bytes: file.bytes,
            expires: file.expires,
            used: 0,
            confirmed: now,
            expires_at,
        };
        let mut state = lock(&self.state);
        let replaced = state.insert(id.clone(), entry);
        let mut evicted = Vec::new();
        while state.small.bytes + state.large.bytes > self.capacity {
            let is_small = state.small.bytes > self.capacity / SMALL_FILES_DIVISOR;
            evicted.push(state.evict(is_small));
        }
        drop(state);
        // Freeing large buffers takes time, so it happens outside the lock.
        drop((replaced, evicted));
    }

    /// Notes a file's new expiry, as the database has it, if the cache has the file. This
    /// confirms the entry.
    pub fn extended(&self, id: &FileId, expires: SystemTime, remaining: Duration) {
        let state = lock(&self.state);
        let bytes = state.entries.get(id).map(|entry| entry.bytes.clone());
        drop(state);
        if let Some(bytes) = bytes {
            let file = File {
                bytes,
                expires,
                remaining,
            };
            self.keep(id, file);
        }
    }

    /// Drops a file that the database no longer has.
    pub fn forget(&self, id: &FileId) {
        let removed = lock(&self.state).remove(id);
        // Freeing a large buffer takes time, so it happens outside the lock.
        drop(removed);
    }

    /// Drops files that were removed, or all files if `ids` is `None`. The list of removed files
    /// was read at the time `asked`, and had no others.
    pub fn drop_removed(&self, ids: Option<&[FileId]>, asked: Instant) {
        match ids {
            Some(ids) => ids.iter().for_each(|id| self.forget(id)),
            None => {
                let dropped = std::mem::take(&mut *lock(&self.state));
                // Freeing large buffers takes time, so it happens outside the lock.
                drop(dropped);
            }
        }
        *lock(&self.removals_read) = asked;
    }

    /// The memory that the class of a file with so many bytes may take while the other class
    /// needs its own share, bytes.
    fn share(&self, bytes: usize) -> usize {
        let small = self.capacity / SMALL_FILES_DIVISOR;
        if bytes <= SMALL_FILE {
            small
        } else {
            self.capacity - small
        }
    }
}

impl CacheState {
    fn class(&mut self, bytes: usize) -> &mut SizeClass {
        if bytes <= SMALL_FILE {
            &mut self.small
        } else {
            &mut self.large
        }
    }

    /// Finds an entry and marks it as the most recently used.
    fn used(&mut self, id: &FileId) -> Option<&Entry> {
        let entry = self.remove(id)?;
        self.insert(id.clone(), entry);
        self.entries.get(id)
    }

    fn insert(&mut self, id: FileId, mut entry: Entry) -> Option<Entry> {
        let replaced = self.remove(&id);
        self.clock += 1;
        entry.used = self.clock;
        let class = self.class(entry.bytes.len());
        class.bytes += entry.bytes.len() + ENTRY_OVERHEAD;
        class.order.insert(entry.used, id.clone());
        self.entries.insert(id, entry);
        replaced
    }

    fn remove(&mut self, id: &FileId) -> Option<Entry> {
        let entry = self.entries.remove(id)?;
        let class = self.class(entry.bytes.len());
        class.bytes -= entry.bytes.len() + ENTRY_OVERHEAD;
        class.order.remove(&entry.used);
        Some(entry)
    }

    /// Removes the least recently used small or large entry.
    fn evict(&mut self, is_small: bool) -> Option<Entry> {
        let class = if is_small { &self.small } else { &self.large };
        let (_, id) = class.order.first_key_value()?;
        let id = id.clone();
        self.remove(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KB: usize = 1000;
    const MB: usize = 1_000_000;

    fn id(number: usize) -> FileId {
        FileId::parse(&number.to_string()).expect("valid")
    }

    fn file(size: usize) -> File {
        File {
            bytes: Arc::new(vec![7; size].into()),
            expires: SystemTime::now(),
            remaining: Duration::from_secs(100),
        }
    }

    fn has(cache: &FileCache, number: usize) -> bool {
        matches!(cache.find(&id(number)), Lookup::Fresh(_))
    }

    #[test]
    fn what_was_kept_is_found_until_it_expires() {
        let cache = FileCache::new(MB, FRESH_FOR);
        cache.keep(&id(1), file(KB));
        let short = File {
            remaining: Duration::from_millis(30),
            ..file(KB)
        };
        cache.keep(&id(2), short.clone());
        assert!(has(&cache, 1) && has(&cache, 2) && !has(&cache, 3));
        std::thread::sleep(short.remaining);
        assert!(matches!(cache.find(&id(2)), Lookup::Missing));
        cache.extended(&id(2), short.expires, FRESH_FOR);
        assert!(has(&cache, 1) && has(&cache, 2));
        cache.forget(&id(1));
        assert!(!has(&cache, 1));
    }

    #[test]
    fn what_is_no_longer_fresh_must_be_confirmed() {
        let cache = FileCache::new(MB, Duration::from_millis(30));
        cache.keep(&id(1), file(KB));
        assert!(has(&cache, 1));
        std::thread::sleep(cache.fresh);
        assert!(matches!(cache.find(&id(1)), Lookup::Stale(_, age) if age >= cache.fresh));
        cache.extended(&id(1), SystemTime::now(), FRESH_FOR);
        assert!(has(&cache, 1));
    }

    #[test]
    fn removed_files_are_dropped_and_none_is_trusted_while_removals_are_unknown() {
        let cache = FileCache::new(MB, FRESH_FOR);
        for number in 1..=3 {
            cache.keep(&id(number), file(KB));
        }
        cache.drop_removed(Some(&[id(1), id(9)]), Instant::now());
        assert!(!has(&cache, 1) && has(&cache, 2) && has(&cache, 3));
        let long_ago = Instant::now().checked_sub(REMOVALS_KNOWN_FOR);
        cache.drop_removed(Some(&[]), long_ago.expect("the machine runs for longer"));
        assert!(matches!(cache.find(&id(2)), Lookup::Stale(_, age) if age < FRESH_FOR));
        cache.drop_removed(Some(&[]), Instant::now());
        assert!(has(&cache, 2));
        cache.drop_removed(None, Instant::now());
        assert!(matches!(cache.find(&id(3)), Lookup::Missing));
        cache.keep(&id(3), file(KB));
        assert!(has(&cache, 3) && !cache.is_off());
    }

    #[test]
    fn the_least_recently_used_go_first_and_the_bound_holds() {
        let cache = FileCache::new(20 * (KB + ENTRY_OVERHEAD), FRESH_FOR);
        for number in 0..100 {
            cache.keep(&id(number), file(KB));
            assert!(number == 0 || has(&cache, 0), "it is used again and again");
            let state = lock(&cache.state);
            assert_eq!(state.entries.len(), state.small.order.len());
            drop(state);
            assert!((1..=cache.capacity()).contains(&cache.bytes()));
        }
        assert!(has(&cache, 99) && !has(&cache, 50));
    }

    #[test]
    fn large_files_leave_a_share_to_small_ones_and_the_other_way_round() {
        let cache = FileCache::new(16 * MB, FRESH_FOR);
        for number in 0..1000 {
            cache.keep(&id(number), file(10 * KB));
        }
        for number in 1000..1010 {
            cache.keep(&id(number), file(10 * MB));
        }
        assert!(has(&cache, 1009) && !has(&cache, 1008));
        let avatars = (0..1000).filter(|number| has(&cache, *number)).count();
        assert!(avatars > 350, "{avatars}");
        for number in 2000..4000 {
            cache.keep(&id(number), file(10 * KB));
        }
        assert!(has(&cache, 1009), "a large one within its share stays");
    }

    #[test]
    fn a_file_beyond_its_share_and_anything_in_no_cache_is_not_kept() {
        let cache = FileCache::new(12 * MB, FRESH_FOR);
        cache.keep(&id(1), file(10 * MB));
        assert!(!has(&cache, 1));
        let none = FileCache::new(0, FRESH_FOR);
        none.keep(&id(1), file(1));
        assert!(!has(&none, 1));
    }
}
