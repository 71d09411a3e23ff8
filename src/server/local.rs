//! The connections to our Unix socket: which of them are silent, and which are too many.
//!
//! A web server stands at their other end, and none of them has an address, so that a request
//! can't be told which connection it came by. Three rules bound them all the same:
//!
//! - Each carries one request, because every answer says `Connection: close` ([`super::door`]).
//! - A connection that is older than [`HEAD`] should therefore have brought its request. Its
//!   reading half is shut: whoever has brought one is still answered, and the thread that waits
//!   for a head that doesn't come is woken. While bodies are being received this would cut them
//!   off, so it waits for a moment without any, which with nginx is nearly always.
//! - Of more connections than are allowed the oldest are shut in any case.
//!
//! This file has no I/O: it is told what is open and when.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::guard::HEAD;

/// While memory is short, for want of a head that never ends, a request must have come within
/// this time.
const HEAD_WHILE_SHORT: Duration = Duration::from_millis(50);

/// What is seen of the process at one look.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// How many connections may be open.
    pub bound: usize,
    /// Whether a request's body is being received over one of them.
    pub receives_bodies: bool,
    /// Whether memory is taken that no file needs.
    pub memory_is_short: bool,
}

/// The connections that are open, by inode, and when each was first seen.
#[derive(Debug, Default)]
pub struct LocalConnections {
    since: HashMap<u64, Instant>,
}

impl LocalConnections {
    /// Brings the list up to date with those that are `open` now, and returns those whose
    /// reading half is to be shut.
    pub fn overdue(
        &mut self,
        open: &HashSet<u64>,
        now: Instant,
        circumstances: Circumstances,
    ) -> HashSet<u64> {
        self.since.retain(|inode, _| open.contains(inode));
        for inode in open {
            self.since.entry(*inode).or_insert(now);
        }
        let limit = if circumstances.memory_is_short {
            HEAD_WHILE_SHORT
        } else {
            HEAD
        };
        let mut overdue = HashSet::new();
        if !circumstances.receives_bodies || circumstances.memory_is_short {
            let late = self.since.iter().filter(|(_, since)| now > **since + limit);
            overdue.extend(late.map(|(inode, _)| *inode));
        }
        overdue.extend(self.oldest(open.len().saturating_sub(circumstances.bound)));
        overdue
    }

    fn oldest(&self, count: usize) -> Vec<u64> {
        let mut by_age: Vec<_> = self.since.iter().collect();
        by_age.sort_unstable_by_key(|(inode, since)| (**since, **inode));
        by_age
            .into_iter()
            .take(count)
            .map(|(inode, _)| *inode)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Circumstances = Circumstances {
        bound: 10,
        receives_bodies: false,
        memory_is_short: false,
    };
    const SECOND: Duration = Duration::from_secs(1);

    fn set(inodes: std::ops::Range<u64>) -> HashSet<u64> {
        inodes.collect()
    }

    #[test]
    fn a_connection_is_overdue_when_its_request_should_have_come() {
        let (mut connections, start) = (LocalConnections::default(), Instant::now());
        assert!(connections.overdue(&set(0..2), start, QUIET).is_empty());
        let later = start + HEAD;
        assert!(connections.overdue(&set(0..3), later, QUIET).is_empty());
        let overdue = connections.overdue(&set(0..3), later + SECOND, QUIET);
        assert_eq!(overdue, set(0..2), "the third came later");
        // The inode of one that has ended may be another connection's.
        let open = set(1..3);
        connections.overdue(&open, later + SECOND, QUIET);
        let overdue = connections.overdue(&set(0..3), later + 2 * SECOND, QUIET);
        assert_eq!(overdue, set(1..2));
    }

    #[test]
    fn nobody_is_cut_off_while_a_body_is_received() {
        let (mut connections, start) = (LocalConnections::default(), Instant::now());
        let receiving = Circumstances {
            receives_bodies: true,
            ..QUIET
        };
        connections.overdue(&set(0..5), start, receiving);
        let later = start + 10 * HEAD;
        assert!(connections.overdue(&set(0..5), later, receiving).is_empty());
        let overdue = connections.overdue(&set(0..5), later, QUIET);
        assert_eq!(overdue, set(0..5));
    }

    #[test]
    fn of_too_many_the_oldest_are_overdue_whatever_is_received() {
        let (mut connections, start) = (LocalConnections::default(), Instant::now());
        let receiving = Circumstances {
            receives_bodies: true,
            ..QUIET
        };
        connections.overdue(&set(0..8), start, receiving);
        let overdue = connections.overdue(&set(0..14), start + SECOND, receiving);
        assert_eq!(overdue, set(0..4));
    }

    #[test]
    fn while_memory_is_short_only_the_newest_are_spared() {
        let (mut connections, start) = (LocalConnections::default(), Instant::now());
        let short = Circumstances {
            receives_bodies: true,
            memory_is_short: true,
            ..QUIET
        };
        connections.overdue(&set(0..2), start, QUIET);
        let overdue = connections.overdue(&set(0..3), start + SECOND, short);
        assert_eq!(overdue, set(0..2));
    }
}
