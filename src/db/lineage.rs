//! Which of several databases is the one that the others follow.
//!
//! After a failover the old primary may come back, writable, as the first host of `database.url`.
//! What is written to it then is lost when it is made a standby. PostgreSQL numbers timelines: a
//! promotion begins a new one. So the highest timeline that was seen is remembered, with the
//! identifier that a cluster and its standbys share, and a primary of a lower one is refused. A
//! connection that was made before a higher timeline was seen is used no more: the old primary may
//! have been frozen, or cut off from the others.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use postgres::Client;

use super::pooling::is_unsupported;
use crate::lock::lock;

/// How long it is remembered that no database told its position, so that not all of them are asked
/// at each connection.
const ASK_AGAIN: Duration = Duration::from_secs(600);

/// For how long a host that has failed is tried after the others.
const FAILED_FOR: Duration = Duration::from_secs(10);

/// Selects the identifier of the cluster, its timeline, and whether it is a standby. On a primary
/// the name of the current WAL file begins with the timeline. Of the two that a standby tells, the
/// one of its last checkpoint may be old. Every user may ask this.
const SELECT_LINEAGE: &str = "SELECT (SELECT system_identifier FROM pg_control_system()), \
     CASE WHEN pg_is_in_recovery() THEN \
         (SELECT greatest(timeline_id, min_recovery_end_timeline)::int8 \
          FROM pg_control_checkpoint(), pg_control_recovery()) \
     ELSE ('x' || lpad(left(pg_walfile_name(pg_current_wal_lsn()), 8), 16, '0'))::bit(64)::int8 \
     END, pg_is_in_recovery()";

/// A cluster's identifier, and the timeline that it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    system: i64,
    timeline: i64,
    /// Whether the cluster is a standby. A standby may be on a lower timeline, and is no old
    /// primary.
    is_standby: bool,
}

impl Position {
    /// Asks a database for its position. `None` if it doesn't tell, as a database that only speaks
    /// PostgreSQL's protocol may not.
    ///
    /// # Errors
    /// Those after which the database may tell it another time.
    pub(super) fn of(client: &mut Client) -> Result<Option<Position>, postgres::Error> {
        let row = client.query_one(SELECT_LINEAGE, &[]);
        let read = row.and_then(|row| {
            Ok(Some(Position {
                system: row.try_get(0)?,
                timeline: row.try_get(1)?,
                is_standby: row.try_get(2)?,
            }))
        });
        match read {
            Err(error) if is_unsupported(&error) => {
                log::debug!("the database doesn't tell its timeline: {error}");
                Ok(None)
            }
            read => read,
        }
    }
}

/// What was seen of the databases.
#[derive(Debug, Default)]
pub(super) struct Lineage {
    seen: Mutex<Seen>,
    /// When the latest look at all hosts began that [`look_again`](Self::look_again) has let begin.
    /// Locked during the look.
    latest_look: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Seen {
    highest: Option<Position>,
    /// The host and the position that were refused last. They are logged already.
    refused: Option<(String, Position)>,
    /// The hosts that have failed, and when.
    failed: HashMap<String, Instant>,
    /// The hosts that are being asked for their positions.
    asked: HashSet<String>,
    /// When all databases were asked of which none told its position.
    silent: Option<Instant>,
}

impl Seen {
    /// Whether no database has told its position when all were asked a while before `now`.
    fn is_silent(&self, now: Instant) -> bool {
        self.silent.is_some_and(|at| now < at + ASK_AGAIN)
    }
}

impl Lineage {
    /// Whether all hosts are to be looked at before a connection is made `now`: none was seen yet,
    /// and they were not silent a while ago.
    pub(super) fn is_unknown(&self, now: Instant) -> bool {
        let seen = self.lock();
        seen.highest.is_none() && !seen.is_silent(now)
    }

    /// Whether looking at all hosts `now` may show anything.
    pub(super) fn may_look(&self, now: Instant) -> bool {
        !self.lock().is_silent(now)
    }

    /// Notes that a host has failed.
    pub(super) fn failed(&self, host: &str, now: Instant) {
        self.lock().failed.insert(host.to_string(), now);
    }

    /// Whether a host has failed just before `now`.
    pub(super) fn has_failed(&self, host: &str, now: Instant) -> bool {
        let at = self.lock().failed.get(host).copied();
        at.is_some_and(|at| now < at + FAILED_FOR)
    }

    /// Notes that a host is being asked for its position. Returns false if it is already.
    pub(super) fn begins_to_ask(&self, host: &str) -> bool {
        self.lock().asked.insert(host.to_string())
    }

    /// Notes that a host isn't being asked any more.
    pub(super) fn has_asked(&self, host: &str) {
        self.lock().asked.remove(host);
    }

    /// Notes that there are databases, and that none tells its position.
    pub(super) fn told_nothing(&self, now: Instant) {
        self.lock().silent = Some(now);
    }

    /// Lets `look` look at all hosts, unless another thread's look has begun after the time `wanted`.
    /// Returns when that is done.
    pub(super) fn look_again(&self, wanted: Instant, look: impl FnOnce()) {
        let mut latest = lock(&self.latest_look);
        if latest.is_none_or(|began| began < wanted) {
            *latest = Some(Instant::now());
            look();
        }
    }

    /// Notes a database without using it.
    fn saw(&self, position: Position) {
        let mut seen = self.lock();
        let is_later = |highest: Position| {
            position.system == highest.system && position.timeline > highest.timeline
        };
        if seen.highest.is_none_or(is_later) {
            seen.highest = Some(position);
        }
    }

    /// Whether a higher timeline was seen since [`admit`](Self::admit) has returned this one.
    pub(super) fn has_passed(&self, timeline: i64) -> bool {
        self.lock()
            .highest
            .is_some_and(|highest| highest.timeline > timeline)
    }

    /// Whether a database may be used. Returns the highest timeline that was seen.
    ///
    /// # Errors
    /// A sentence why it may not, which is logged if it is new.
    pub(super) fn admit(&self, host: &str, position: Position) -> Result<i64, String> {
        self.saw(position);
        let mut seen = self.lock();
        let place = |position: Position| (position.system, position.timeline);
        let is_elsewhere = |highest: &Position| place(*highest) != place(position);
        let Some(highest) = seen.highest.filter(is_elsewhere) else {
            return Ok(position.timeline);
        };
        if position.is_standby && position.system == highest.system {
            return Ok(highest.timeline);
        }
        let reason = if position.system == highest.system {
            format!(
                "the database on {host} is refused: it is on timeline {}, and timeline {} was \
                 seen, so that it is an old primary; make it a standby of the new one",
                position.timeline, highest.timeline
            )
        } else {
            format!(
                "the database on {host} is refused: it belongs to another cluster than the one \
                 that was used before; correct database.url, or start the server anew"
            )
        };
        let refused = Some((host.to_string(), position));
        if seen.refused != refused {
            log::error!("{reason}");
            seen.refused = refused;
        }
        Err(reason)
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_timeline_of_the_one_cluster_is_admitted() {
        let (lineage, now) = (Lineage::default(), Instant::now());
        let at = |system, timeline| Position {
            system,
            timeline,
            is_standby: false,
        };
        assert!(lineage.is_unknown(now));
        assert!(lineage.admit("a", at(7, 1)).is_ok());
        assert!(lineage.admit("b", at(7, 1)).is_ok());
        assert!(!lineage.is_unknown(now));
        lineage.failed("a", now);
        assert!(lineage.has_failed("a", now) && !lineage.has_failed("b", now));
        assert!(!lineage.has_failed("a", now + FAILED_FOR));
        assert!(lineage.begins_to_ask("a") && !lineage.begins_to_ask("a"));
        lineage.has_asked("a");
        assert!(lineage.begins_to_ask("a"));
        let mut looks = 0;
        lineage.look_again(now, || looks += 1);
        lineage.look_again(now, || looks += 1);
        assert_eq!(looks, 1, "that look was late enough");
        lineage.look_again(Instant::now(), || looks += 1);
        assert_eq!(looks, 2);
        lineage.saw(at(7, 3));
        lineage.saw(at(8, 9));
        assert!(lineage.admit("a", at(7, 2)).is_err());
        assert!(lineage.admit("b", at(7, 3)).is_ok());
        assert!(lineage.admit("b", at(7, 4)).is_ok());
        let behind = Position {
            is_standby: true,
            ..at(7, 1)
        };
        assert_eq!(lineage.admit("d", behind), Ok(4), "it follows");
        assert!(lineage.has_passed(3) && !lineage.has_passed(4));
        let other = lineage.admit("c", at(8, 9)).expect_err("another cluster");
        assert!(other.contains("another cluster"));
    }

    #[test]
    fn databases_that_tell_nothing_are_left_alone_for_a_while() {
        let (lineage, now) = (Lineage::default(), Instant::now());
        assert!(lineage.is_unknown(now));
        lineage.told_nothing(now);
        assert!(!lineage.is_unknown(now + ASK_AGAIN / 2));
        assert!(lineage.is_unknown(now + ASK_AGAIN));
    }
}
