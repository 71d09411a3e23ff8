//! The connections to our Unix socket: which of them are silent, and which are too many.
//!
//! A web server stands at their other end, and none of them has an address, so that a request
//! can't be told which connection it came by. These rules bound them all the same:
//!
//! - Each carries one request, because every answer says `Connection: close` ([`super::door`]).
//! - A connection that is older than [`HEAD`] should therefore have brought its request. Its
//!   reading half is shut: whoever has brought one is still answered, and the thread that waits
//!   for a head that doesn't come is woken. While bodies are being received this would cut them
//!   off, so it waits for a moment without any, which with nginx is nearly always.
//! - While memory is short, somebody may send a head without end. If there are more connections
//!   than requests that are worked on, all of them but the newest are shut.
//! - Of more connections than are allowed the oldest are shut in any case.
//!
//! This file has no I/O: it is told what is open and when.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::pace::HEAD;

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
    /// Requests that are being received, waited for, or answered.
    pub requests: usize,
}

/// The connections that are open, by inode.
#[derive(Debug, Default)]
pub struct LocalConnections {
    open: HashMap<u64, Seen>,
}

#[derive(Debug)]
struct Seen {
    /// When it was first seen.
    since: Instant,
    /// Whether its reading half was shut: its answer may still be on its way.
    is_shut: bool,
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
        self.open.retain(|inode, _| open.contains(inode));
        for inode in open {
            self.open.entry(*inode).or_insert(Seen {
                since: now,
                is_shut: false,
            });
        }
        let mut overdue = HashSet::new();
        if let Some(limit) = limit(open.len(), circumstances) {
            let late = self
                .open
                .iter()
                .filter(|(_, seen)| now > seen.since + limit);
            overdue.extend(
                late.filter(|(_, seen)| !seen.is_shut)
                    .map(|(inode, _)| *inode),
            );
        }
        overdue.extend(self.oldest(open.len().saturating_sub(circumstances.bound)));
        for inode in &overdue {
            if let Some(seen) = self.open.get_mut(inode) {
                seen.is_shut = true;
            }
        }
        overdue
    }

    fn oldest(&self, count: usize) -> Vec<u64> {
        let mut by_age: Vec<_> = self.open.iter().filter(|(_, seen)| !seen.is_shut).collect();
        by_age.sort_unstable_by_key(|(inode, seen)| (seen.since, **inode));
        by_age
            .into_iter()
            .take(count)
            .map(|(inode, _)| *inode)
            .collect()
    }
}

/// How long ago a connection may have been opened; `None` if none is shut for its age.
fn limit(open: usize, circumstances: Circumstances) -> Option<Duration> {
    if circumstances.memory_is_short && open > circumstances.requests {
        Some(HEAD_WHILE_SHORT)
    } else if circumstances.receives_bodies {
        None
    } else {
        Some(HEAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Circumstances = Circumstances {
        bound: 10,
        receives_bodies: false,
        memory_is_short: false,
        requests: 0,
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
        let again = connections.overdue(&set(0..3), later + SECOND, QUIET);
        assert!(again.is_empty(), "once is enough");
        // The inode of one that has ended may be another connection's.
        connections.overdue(&set(1..3), later + SECOND, QUIET);
        let later = later + 2 * SECOND;
        assert!(connections.overdue(&set(0..3), later, QUIET).is_empty());
        let overdue = connections.overdue(&set(0..3), later + HEAD + SECOND, QUIET);
        assert_eq!(overdue, [0, 2].into());
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
        let busy = Circumstances {
            requests: 3,
            ..short
        };
        let overdue = connections.overdue(&set(0..3), start + SECOND, busy);
        assert!(overdue.is_empty(), "nobody sends a head");
        let overdue = connections.overdue(&set(0..4), start + SECOND, short);
        assert_eq!(overdue, set(0..2), "the others came just now");
    }
}
