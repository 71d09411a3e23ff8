//! The connections to our Unix socket: which of them are silent, and which are too many.
//!
//! **Fault.** The same as in [`super::connections`]. But connections to a Unix socket have no
//! addresses, and tiny_http shows no descriptor of a request, so that it isn't known by which
//! connection a request came.
//!
//! **Where.** `connection.rs`, `peer_addr` is `None`; `request.rs` has no descriptor.
//!
//! **Seen.** `tests/confined.rs` holds silent connections to a Unix socket.
//!
//! **Until** tiny_http has deadlines, or tells which connection a request came by.
//!
//! At the other end stands a web server with deadlines of its own. These rules bound its
//! connections all the same:
//!
//! - Each carries one request, because every answer says `Connection: close`.
//! - A connection that is older than [`HEAD`] should therefore have brought its request, and its
//!   reading half is shut: whoever has brought one is still answered, and a thread that waits for
//!   a head that doesn't come is woken. While bodies are being received this would cut them off,
//!   so it waits for a moment without any, which with nginx is nearly always.
//! - While memory is short, somebody may send a head without end. If there are more connections
//!   than requests that are worked on, all of them but the newest are shut.
//! - Of more connections than are allowed the oldest are shut in any case.
//!
//! This file is pure: it is told what is open and when.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::server::pace::{HEAD, HEAD_WHILE_SHORT};

/// What is seen of the process when the connections are surveyed.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// How many connections may be open.
    pub limit: usize,
    /// Whether memory is taken that no file needs.
    pub memory_is_short: bool,
    /// Requests that are being received, waited for, or answered.
    pub requests: usize,
}

/// The connections that are open, by inode.
#[derive(Debug, Default)]
pub struct LocalConnections {
    open: HashMap<u64, LocalConnection>,
    /// Bodies that are being received.
    bodies: usize,
    /// Connections that were shut so far.
    shut: usize,
}

#[derive(Debug)]
struct LocalConnection {
    /// When it was first seen.
    since: Instant,
    /// Whether its reading half was shut: its answer may still be on its way.
    is_shut: bool,
}

impl LocalConnections {
    /// How many connections the last survey has found.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Notes that a body is being received. Returns what [`Self::body_ended`] wants.
    pub fn body_begins(&mut self) -> usize {
        self.bodies += 1;
        self.shut
    }

    /// Notes that a body has ended, of which the beginning returned `shut`. Whether a connection
    /// was shut in between: it may have been this one, so that the body may not be whole.
    pub fn body_ended(&mut self, shut: usize) -> bool {
        self.bodies -= 1;
        self.shut != shut
    }

    /// Brings the list up to date with those that are `open` now, and returns those whose
    /// reading half must be shut.
    pub fn surveyed(
        &mut self,
        open: &HashSet<u64>,
        circumstances: Circumstances,
        now: Instant,
    ) -> HashSet<u64> {
        self.open.retain(|inode, _| open.contains(inode));
        for inode in open {
            self.open.entry(*inode).or_insert(LocalConnection {
                since: now,
                is_shut: false,
            });
        }
        let mut oldest: Vec<_> = self.open.iter_mut().filter(|(_, c)| !c.is_shut).collect();
        oldest.sort_unstable_by_key(|(inode, connection)| (connection.since, **inode));
        let excess = open.len().saturating_sub(circumstances.limit);
        let age = oldest_age(open.len(), self.bodies, circumstances);
        let is_overdue =
            |number, since| number < excess || age.is_some_and(|age| now > since + age);
        let overdue = oldest.into_iter().enumerate();
        let overdue: HashSet<u64> = overdue
            .filter(|(number, (_, connection))| is_overdue(*number, connection.since))
            .map(|(_, (inode, connection))| {
                connection.is_shut = true;
                *inode
            })
            .collect();
        self.shut += overdue.len();
        overdue
    }
}

/// How old a connection may be; `None` if none is shut for its age.
fn oldest_age(open: usize, bodies: usize, circumstances: Circumstances) -> Option<Duration> {
    if circumstances.memory_is_short && open > circumstances.requests {
        Some(HEAD_WHILE_SHORT)
    } else if bodies > 0 {
        None
    } else {
        Some(HEAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Circumstances = Circumstances {
        limit: 10,
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
        assert!(connections.surveyed(&set(0..2), QUIET, start).is_empty());
        let later = start + HEAD;
        assert!(connections.surveyed(&set(0..3), QUIET, later).is_empty());
        let overdue = connections.surveyed(&set(0..3), QUIET, later + SECOND);
        assert_eq!(overdue, set(0..2), "the third came later");
        let again = connections.surveyed(&set(0..3), QUIET, later + SECOND);
        assert!(again.is_empty(), "once is enough");
        // The inode of one that has ended may be another connection's.
        connections.surveyed(&set(1..3), QUIET, later + SECOND);
        let later = later + 2 * SECOND;
        assert!(connections.surveyed(&set(0..3), QUIET, later).is_empty());
        let overdue = connections.surveyed(&set(0..3), QUIET, later + HEAD + SECOND);
        assert_eq!(overdue, [0, 2].into());
    }

    #[test]
    fn nobody_is_cut_off_while_a_body_is_received() {
        let (mut connections, start) = (LocalConnections::default(), Instant::now());
        let shut = connections.body_begins();
        connections.surveyed(&set(0..5), QUIET, start);
        let later = start + 10 * HEAD;
        assert!(connections.surveyed(&set(0..5), QUIET, later).is_empty());
        assert!(!connections.body_ended(shut), "it is whole");
        let overdue = connections.surveyed(&set(0..5), QUIET, later);
        assert_eq!(overdue, set(0..5));
    }

    #[test]
    fn of_too_many_the_oldest_are_overdue_whatever_is_received() {
        let (mut connections, start) = (LocalConnections::default(), Instant::now());
        let shut = connections.body_begins();
        connections.surveyed(&set(0..8), QUIET, start);
        let overdue = connections.surveyed(&set(0..14), QUIET, start + SECOND);
        assert_eq!(overdue, set(0..4));
        assert!(connections.body_ended(shut), "it may be cut off");
    }

    #[test]
    fn while_memory_is_short_only_the_newest_are_spared() {
        let (mut connections, start) = (LocalConnections::default(), Instant::now());
        connections.body_begins();
        let short = Circumstances {
            memory_is_short: true,
            ..QUIET
        };
        connections.surveyed(&set(0..2), QUIET, start);
        let busy = Circumstances {
            requests: 3,
            ..short
        };
        let overdue = connections.surveyed(&set(0..3), busy, start + SECOND);
        assert!(overdue.is_empty(), "nobody sends a head");
        let overdue = connections.surveyed(&set(0..4), short, start + SECOND);
        assert_eq!(overdue, set(0..2), "the others came just now");
    }
}
