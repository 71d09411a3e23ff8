//! Which files a replica isn't asked for first, because it may have them as they were.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::protocol::file_id::FileId;

/// How long the primary is asked for a file that this server has stored or extended. It is longer
/// than a write may take together with what a replica may be behind.
const WRITTEN_FOR: Duration = Duration::from_secs(30);
/// The most ids of such files that are kept; with more, the oldest are forgotten. They take about 2
/// MB.
const MAX_WRITTEN: usize = 10_000;

/// Where a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// On a replica, and on the primary if it isn't there.
    Replica,
    /// On the primary, and on a replica if the primary is away: a replica may not know yet that it
    /// was extended.
    PrimaryFirst,
    /// On the primary alone: a replica may not know yet that it was removed.
    Primary,
}

/// The ids of files that were removed or written lately.
#[derive(Debug, Default)]
pub(super) struct LatestIds {
    removed: HashSet<FileId>,
    /// Whether too many were removed to know them.
    many_removed: bool,
    /// The files that this server wrote, with the time of the latest write.
    written: HashMap<FileId, Instant>,
    /// The same in the order of time. An id that was written again is there several times.
    order: VecDeque<(Instant, FileId)>,
}

impl LatestIds {
    /// Notes which files were removed lately, as the primary has it. `None` if there are too many.
    pub(super) fn removed(&mut self, ids: Option<Vec<FileId>>) {
        self.many_removed = ids.is_none();
        self.removed = ids.into_iter().flatten().collect();
    }

    /// Notes that this server writes a file.
    pub(super) fn written(&mut self, id: &FileId, now: Instant) {
        self.written.insert(id.clone(), now);
        self.order.push_back((now, id.clone()));
        let is_old = |at: Instant| now.duration_since(at) >= WRITTEN_FOR;
        while self.order.len() > MAX_WRITTEN
            || self.order.front().is_some_and(|(at, _)| is_old(*at))
        {
            let Some((at, id)) = self.order.pop_front() else {
                return;
            };
            if self.written.get(&id) == Some(&at) {
                self.written.remove(&id);
            }
        }
    }

    /// Where to read a file.
    pub(super) fn route(&self, id: &FileId, now: Instant) -> Route {
        let is_new = |at: &Instant| now.duration_since(*at) < WRITTEN_FOR;
        if self.many_removed || self.removed.contains(id) {
            Route::Primary
        } else if self.written.get(id).is_some_and(is_new) {
            Route::PrimaryFirst
        } else {
            Route::Replica
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> FileId {
        FileId::parse(&number.to_string()).expect("valid")
    }

    #[test]
    fn removed_files_are_read_on_the_primary_alone() {
        let (mut ids, now) = (LatestIds::default(), Instant::now());
        ids.removed(Some(vec![id(1)]));
        ids.written(&id(1), now);
        assert_eq!(ids.route(&id(1), now), Route::Primary);
        assert_eq!(ids.route(&id(2), now), Route::Replica);
        ids.removed(None);
        assert_eq!(ids.route(&id(2), now), Route::Primary);
        ids.removed(Some(Vec::new()));
        assert_eq!(ids.route(&id(2), now), Route::Replica);
    }

    #[test]
    fn what_was_written_is_read_on_the_primary_for_a_while() {
        let (mut ids, now) = (LatestIds::default(), Instant::now());
        ids.written(&id(1), now);
        let later = now + WRITTEN_FOR / 2;
        ids.written(&id(2), later);
        ids.written(&id(1), later);
        assert_eq!(ids.route(&id(1), now + WRITTEN_FOR), Route::PrimaryFirst);
        ids.written(&id(3), now + WRITTEN_FOR);
        assert_eq!((ids.order.len(), ids.written.len()), (3, 3));
        assert_eq!(ids.route(&id(1), now + WRITTEN_FOR), Route::PrimaryFirst);
        assert_eq!(ids.route(&id(1), later + WRITTEN_FOR), Route::Replica);
    }

    #[test]
    fn the_ids_that_are_kept_are_bounded() {
        let (mut ids, now) = (LatestIds::default(), Instant::now());
        for number in 0..2 * MAX_WRITTEN {
            let then = now + Duration::from_nanos(number as u64);
            ids.written(&id(number), then);
            ids.written(&id(0), then + Duration::from_nanos(1));
        }
        assert!(ids.order.len() <= MAX_WRITTEN && ids.written.len() <= MAX_WRITTEN);
        assert_eq!(ids.route(&id(1), now), Route::Replica);
        assert_eq!(ids.route(&id(0), now), Route::PrimaryFirst);
    }
}
