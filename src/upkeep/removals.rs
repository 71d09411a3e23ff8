//! The removal of files from the cache: what the operator has deleted or blocked (`files delete`,
//! `files block`), on whichever machine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::failures::log_failure;
use crate::cache::files::{FRESH_FOR, FileCache};
use crate::db::{Connection, Removed};

/// How long a removed file is dropped from the cache again and again, for two reasons. A request
/// that has read a file just before its removal puts it into the cache after it, as late as its
/// statement may take (30 s). And when the list of removed files couldn't be read for a while, the
/// next reading must name all files that were removed since the oldest fresh entry was confirmed.
const DROPPED_FOR: Duration = Duration::from_secs(FRESH_FOR.as_secs() + 60);
/// The shortest pause between two readings of the list. While many expired files are being deleted,
/// [`RemovalWatch::tick`] is called more often than once a second.
const MIN_PAUSE: Duration = Duration::from_millis(500);

/// Keeps removed files out of a cache.
pub struct RemovalWatch {
    cache: Arc<FileCache>,
    /// When the list may be read next.
    due: Instant,
    /// Whether the last reading failed. Only the first of several failures is logged.
    is_failing: bool,
}

impl RemovalWatch {
    /// For this cache.
    pub fn new(cache: Arc<FileCache>) -> RemovalWatch {
        RemovalWatch {
            cache,
            due: Instant::now(),
            is_failing: false,
        }
    }

    /// Reads the list of removed files, by one small statement, and drops them from the cache.
    pub fn tick(&mut self, db: &mut Connection) {
        let now = Instant::now();
        if self.cache.is_off() || now < self.due {
            return;
        }
        self.due = now + MIN_PAUSE;
        match db.removed_files(DROPPED_FOR) {
            Ok(Removed::Files(ids)) => self.cache.drop_removed(Some(&ids), now),
            Ok(Removed::Many) => self.cache.drop_removed(None, now),
            Err(error) => {
                if !self.is_failing {
                    log_failure("read which files were removed", &error);
                }
                self.is_failing = true;
                return;
            }
        }
        self.is_failing = false;
    }
}

/// Deletes files that were stored while being blocked, and old entries of the list of removed
/// files.
pub fn finish_removals(db: &mut Connection) {
    if let Err(error) = db.finish_removals() {
        log_failure("finish the removal of files", &error);
    }
}
