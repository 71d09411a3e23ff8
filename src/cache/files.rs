//! The file cache: the bytes of recent files, so that one which many want at once is read
//! once.
//!
//! What an id names never changes, so that a cached file is right until it expires. But
//! another server on the same database may have let it live longer, or somebody may have
//! deleted it by hand: an entry is [confirmed](Found::Stale) by the database once in a while,
//! which costs nothing beside reading the file.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use crate::buffer::Buffer;
use crate::lock::lock;
use crate::protocol::file_id::FileId;

/// After this time the server has an entry confirmed: when another server has refreshed a file,
/// clients are told so within the minute, whatever is under way meanwhile.
pub const FRESH: Duration = Duration::from_secs(30);
/// Files up to this size, bytes, are small: avatars, which are 5 to 60 KB.
const SMALL: usize = 128 * 1024;
/// A quarter of the cache is for small files and the rest for large ones, as long as there are
/// enough of both: a few large files must not drive out hundreds of avatars, nor the other way
/// round.
const SMALL_SHARE: usize = 4;
/// What an entry takes beside its bytes.
const OVERHEAD: usize = 256;

/// A file as it is handed out.
#[derive(Clone, Debug)]
pub struct File {
    /// Its content.
    pub bytes: Arc<Buffer>,
    /// When it expires.
    pub expires: SystemTime,
    /// How long it lived yet when the database was asked, by the database's clock.
    pub remaining: Duration,
}

/// What the cache has of a file.
#[derive(Debug)]
pub enum Found {
    /// This, which can be handed out.
    Fresh(File),
    /// This, if the database still has it.
    Stale(File),
    /// Nothing.
    Nothing,
}

/// Recent files, bounded by their bytes; the least recently used go first.
#[derive(Debug)]
pub struct FileCache {
    capacity: usize,
    fresh: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<FileId, Entry>,
    small: Class,
    large: Class,
    /// Counts uses.
    clock: u64,
}

/// The files of one class of sizes.
#[derive(Debug, Default)]
struct Class {
    bytes: usize,
    /// By their last use.
    order: BTreeMap<u64, FileId>,
}

#[derive(Debug)]
struct Entry {
    bytes: Arc<Buffer>,
    expires: SystemTime,
    used: u64,
    /// When it must be confirmed.
    fresh_until: Instant,
    /// When it expires.
    dies: Instant,
}

impl FileCache {
    /// An empty cache for `capacity` bytes, 0 for none; entries need no confirmation while
    /// they are `fresh`, which in the server is [`FRESH`].
    pub fn new(capacity: usize, fresh: Duration) -> FileCache {
        FileCache {
            capacity,
            fresh,
            state: Mutex::default(),
        }
    }

    /// Looks for a file, which counts as a use of it.
    pub fn find(&self, id: &FileId) -> Found {
        let now = Instant::now();
        match self.lock().used(id) {
            Some(entry) if entry.dies > now => {
                let file = File {
                    bytes: entry.bytes.clone(),
                    expires: entry.expires,
                    remaining: entry.dies - now,
                };
                match entry.fresh_until > now {
                    true => Found::Fresh(file),
                    false => Found::Stale(file),
                }
            }
            // Another server may have let it live longer.
            _ => Found::Nothing,
        }
    }

    /// Whether a file of that many bytes would be kept.
    pub fn takes(&self, bytes: usize) -> bool {
        bytes + OVERHEAD <= self.share(bytes)
    }

    /// Keeps a file that was just read or stored.
    pub fn keep(&self, id: &FileId, file: File) {
        if !self.takes(file.bytes.len()) {
            return;
        }
        let now = Instant::now();
        let dies = now + file.remaining.min(Duration::from_secs(365 * 24 * 60 * 60));
        let entry = Entry {
            bytes: file.bytes,
            expires: file.expires,
            used: 0,
            fresh_until: dies.min(now + self.fresh),
            dies,
        };
        let mut state = self.lock();
        let replaced = state.insert(id.clone(), entry);
        let mut evicted = Vec::new();
        while state.small.bytes + state.large.bytes > self.capacity {
            let is_small = state.small.bytes > self.capacity / SMALL_SHARE;
            evicted.push(state.evict(is_small));
        }
        drop(state);
        // Large buffers are given back outside the lock.
        drop((replaced, evicted));
    }

    /// Notes how long a file lives now, by the database, if it is kept.
    pub fn extended(&self, id: &FileId, expires: SystemTime, remaining: Duration) {
        let bytes = self.lock().entries.get(id).map(|entry| entry.bytes.clone());
        if let Some(bytes) = bytes {
            let file = File {
                bytes,
                expires,
                remaining,
            };
            self.keep(id, file);
        }
    }

    /// Drops a file that the database has no more.
    pub fn forget(&self, id: &FileId) {
        let removed = self.lock().remove(id);
        drop(removed);
    }

    /// What the class of a file may take when both want more.
    fn share(&self, bytes: usize) -> usize {
        let small = self.capacity / SMALL_SHARE;
        match bytes <= SMALL {
            true => small,
            false => self.capacity - small,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn class(&mut self, bytes: usize) -> &mut Class {
        match bytes <= SMALL {
            true => &mut self.small,
            false => &mut self.large,
        }
    }

    /// An entry, as the one that was used last.
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
        class.bytes += entry.bytes.len() + OVERHEAD;
        class.order.insert(entry.used, id.clone());
        self.entries.insert(id, entry);
        replaced
    }

    fn remove(&mut self, id: &FileId) -> Option<Entry> {
        let entry = self.entries.remove(id)?;
        let class = self.class(entry.bytes.len());
        class.bytes -= entry.bytes.len() + OVERHEAD;
        class.order.remove(&entry.used);
        Some(entry)
    }

    /// Removes the small or large entry that was used least recently.
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
        matches!(cache.find(&id(number)), Found::Fresh(_))
    }

    #[test]
    fn what_was_kept_is_found_until_it_expires() {
        let cache = FileCache::new(MB, FRESH);
        cache.keep(&id(1), file(KB));
        let short = File {
            remaining: Duration::from_millis(30),
            ..file(KB)
        };
        cache.keep(&id(2), short.clone());
        assert!(has(&cache, 1) && has(&cache, 2) && !has(&cache, 3));
        std::thread::sleep(short.remaining);
        assert!(matches!(cache.find(&id(2)), Found::Nothing));
        cache.extended(&id(2), short.expires, FRESH);
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
        assert!(matches!(cache.find(&id(1)), Found::Stale(_)));
        cache.extended(&id(1), SystemTime::now(), FRESH);
        assert!(has(&cache, 1));
    }

    #[test]
    fn the_least_recently_used_go_first_and_the_bound_holds() {
        let cache = FileCache::new(20 * (KB + OVERHEAD), FRESH);
        for number in 0..100 {
            cache.keep(&id(number), file(KB));
            assert!(number == 0 || has(&cache, 0), "it is used again and again");
            let state = cache.lock();
            assert!(state.small.bytes + state.large.bytes <= cache.capacity);
            assert_eq!(state.entries.len(), state.small.order.len());
        }
        assert!(has(&cache, 99) && !has(&cache, 50));
    }

    #[test]
    fn large_files_leave_a_share_to_small_ones_and_the_other_way_round() {
        let cache = FileCache::new(16 * MB, FRESH);
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
        let cache = FileCache::new(12 * MB, FRESH);
        cache.keep(&id(1), file(10 * MB));
        assert!(!has(&cache, 1));
        let none = FileCache::new(0, FRESH);
        none.keep(&id(1), file(1));
        assert!(!has(&none, 1));
    }
}
