//! Whether a replica is one of the primary, and how far behind it is.
//!
//! Every second the primary is asked how far its write-ahead log (WAL) goes. A replica that has
//! replayed less than what the primary had [`MAX_LAG`] ago is too far behind. This needs no
//! privilege, no clocks that agree, and no write to the primary.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use super::standing::Verdict;
use crate::db::open::OpenConnection;

/// How far a replica may be behind the primary. A replica on a sound network is behind by
/// milliseconds, and a minute is what clients may take to learn that a file was extended.
const MAX_LAG: Duration = Duration::from_secs(10);
/// How old what is known of the primary may be for a replica to be compared with it. The primary is
/// asked every second, and taken for away when it has said nothing for four.
const PRIMARY_KNOWN_FOR: Duration = Duration::from_secs(6);

/// Selects what tells databases apart and how far a database's WAL goes: the identifier that a
/// cluster and its standbys share, the number that all of them have for this database, the
/// timeline, whether it is a standby, when it was started, and the end of what it has written or,
/// on a standby, replayed. Of the two timelines that a standby tells, the one of its last
/// checkpoint may be old. Every user may ask this.
const SELECT_FACTS: &str = "SELECT (SELECT system_identifier FROM pg_control_system()), \
     (SELECT oid::int8 FROM pg_database WHERE datname = current_database()), \
     CASE WHEN pg_is_in_recovery() THEN \
         (SELECT greatest(timeline_id, min_recovery_end_timeline)::int8 \
          FROM pg_control_checkpoint(), pg_control_recovery()) \
     ELSE ('x' || lpad(left(pg_walfile_name(pg_current_wal_lsn()), 8), 16, '0'))::bit(64)::int8 \
     END, pg_is_in_recovery(), pg_postmaster_start_time(), \
     (CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_replay_lsn(), '0/0') \
      ELSE pg_current_wal_flush_lsn() END - '0/0'::pg_lsn)::int8";

/// What a database tells of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// The identifier of its cluster.
    system: i64,
    /// The number of the database within its cluster.
    database: i64,
    timeline: i64,
    is_standby: bool,
    /// When its server was started, which tells two servers of one cluster apart.
    started: SystemTime,
    /// The end of its WAL, as a number of bytes.
    wal: i64,
}

impl Facts {
    /// Asks a database.
    pub(super) fn of(open: &mut OpenConnection) -> Result<Facts, postgres::Error> {
        let row = open.query_one(SELECT_FACTS, &[])?;
        Ok(Facts {
            system: row.try_get(0)?,
            database: row.try_get(1)?,
            timeline: row.try_get(2)?,
            is_standby: row.try_get(3)?,
            started: row.try_get(4)?,
            wal: row.try_get(5)?,
        })
    }

    /// The bytes of WAL that this replica lacks of what the primary has.
    pub(super) fn bytes_behind(&self, primary: &Facts) -> u64 {
        u64::try_from(primary.wal - self.wal).unwrap_or_default()
    }

    /// Whether this is still the same server on the same history.
    fn continues(&self, before: &Facts) -> bool {
        Facts {
            wal: before.wal,
            ..*self
        } == *before
            && self.wal >= before.wal
    }
}

/// What is known of the primary.
#[derive(Debug, Default)]
pub(super) struct Primary {
    /// What it told last, and when it was asked.
    latest: Option<(Instant, Facts)>,
    /// How far its WAL went, and when: the latest entry that was at least [`MAX_LAG`] old when the
    /// primary told of itself last, or the oldest one, and all that follow.
    history: VecDeque<(Instant, i64)>,
    /// When it last answered anybody.
    answered: Option<Instant>,
}

impl Primary {
    /// Notes that the primary has answered a statement of any thread.
    pub(super) fn answered(&mut self, now: Instant) {
        self.answered = Some(now);
    }

    /// Notes what the primary told when it was asked at the time `asked`. Returns whether this
    /// continues what was known before. If it doesn't, nothing is known of any replica.
    pub(super) fn told(&mut self, facts: Facts, asked: Instant) -> bool {
        // After a gap, or on another server, a replica must show anew that it has caught up: in
        // the meantime files may have been removed.
        let goes_on = self.latest.is_some_and(|(at, before)| {
            asked.duration_since(at) < MAX_LAG && facts.continues(&before)
        });
        if !goes_on {
            self.history.clear();
        }
        self.latest = Some((asked, facts));
        self.history.push_back((asked, facts.wal));
        let is_old = |at: Instant| asked.duration_since(at) >= MAX_LAG;
        while self.history.get(1).is_some_and(|(at, _)| is_old(*at)) {
            self.history.pop_front();
        }
        goes_on
    }

    /// Whether the replica that has told these facts can be used.
    pub(super) fn judge(&self, replica: &Facts, now: Instant) -> Verdict {
        let (Some((at, primary)), Some((oldest, wal))) = (self.latest, self.history.front()) else {
            return Verdict::Waiting;
        };
        if let Some(reason) = misfit(replica, &primary) {
            return Verdict::Unfit(reason);
        }
        let is_away = now.duration_since(at) >= PRIMARY_KNOWN_FOR;
        // If it answers others, it isn't away, and replicas may fall behind unnoticed.
        let answers_others = |answered: Instant| answered.duration_since(at) >= MAX_LAG;
        if is_away && self.answered.is_some_and(answers_others) {
            return Verdict::Waiting;
        }
        let is_primary = replica.started == primary.started;
        if is_primary && !is_away {
            return Verdict::IsPrimary;
        }
        let follows = replica.is_standby && replica.timeline <= primary.timeline;
        if !follows && !is_away {
            return Verdict::Promoted { primary_told: at };
        }
        if replica.wal < *wal {
            return if now.duration_since(*oldest) >= MAX_LAG {
                Verdict::Behind
            } else {
                Verdict::Waiting
            };
        }
        // While the primary is away, a replica that is being promoted still has all files. One
        // that was on another history before isn't taken in.
        if is_away && (is_primary || !follows || replica.timeline != primary.timeline) {
            return Verdict::Unchanged;
        }
        Verdict::Fit
    }
}

/// Why a replica can't be one of this primary.
fn misfit(replica: &Facts, primary: &Facts) -> Option<&'static str> {
    if replica.system != primary.system {
        Some(
            "it belongs to another cluster than the primary; correct database.read_url, or make it \
             a standby",
        )
    } else if replica.database != primary.database {
        Some("it is another database of the cluster; correct dbname in database.read_url")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn facts(server: u64, timeline: i64, is_standby: bool, wal: i64) -> Facts {
        Facts {
            system: 7,
            database: 5,
            timeline,
            is_standby,
            started: SystemTime::UNIX_EPOCH + server as u32 * SECOND,
            wal,
        }
    }

    #[test]
    fn a_replica_must_have_what_the_primary_had_some_seconds_ago() {
        let (mut primary, start) = (Primary::default(), Instant::now());
        let replica = |wal| facts(2, 1, true, wal);
        assert_eq!(primary.judge(&replica(0), start), Verdict::Waiting);
        for second in 0..60 {
            let now = start + second * SECOND;
            let wal = 100 + i64::from(second);
            let goes_on = primary.told(facts(1, 1, false, wal), now);
            assert_eq!(goes_on, second > 0);
            assert!(primary.history.len() <= 12);
            let had = if second >= 10 { wal - 10 } else { 100 };
            assert_eq!(primary.judge(&replica(wal), now), Verdict::Fit);
            assert_eq!(primary.judge(&replica(had), now), Verdict::Fit);
            let expected = if second >= 10 {
                Verdict::Behind
            } else {
                Verdict::Waiting
            };
            assert_eq!(primary.judge(&replica(had - 1), now), expected);
        }
        assert_eq!(replica(90).bytes_behind(&facts(1, 1, false, 100)), 10);
        assert_eq!(replica(110).bytes_behind(&facts(1, 1, false, 100)), 0);
    }

    #[test]
    fn while_the_primary_is_away_a_replica_must_have_what_that_had_before() {
        let (mut primary, start) = (Primary::default(), Instant::now());
        for second in 0..=20 {
            let wal = 100 + i64::from(second);
            primary.told(facts(1, 1, false, wal), start + second * SECOND);
        }
        let last = start + 20 * SECOND;
        let later = last + 3 * 60 * 60 * SECOND;
        for (replica, verdict) in [
            (facts(2, 1, true, 109), Verdict::Behind),
            (facts(2, 1, true, 110), Verdict::Fit),
            (facts(2, 2, false, 109), Verdict::Behind),
            (facts(2, 2, false, 110), Verdict::Unchanged),
            (facts(2, 2, true, 110), Verdict::Unchanged),
            (facts(1, 1, false, 120), Verdict::Unchanged),
        ] {
            primary.answered(last + PRIMARY_KNOWN_FOR);
            assert_eq!(primary.judge(&replica, later), verdict, "{replica:?}");
            primary.answered(last + 20 * SECOND);
            assert_eq!(primary.judge(&replica, later), Verdict::Waiting);
        }
    }

    #[test]
    fn when_the_primary_is_back_a_replica_must_catch_up_anew() {
        let (mut primary, now) = (Primary::default(), Instant::now());
        primary.told(facts(1, 1, false, 100), now);
        let later = now + 60 * SECOND;
        assert!(!primary.told(facts(1, 1, false, 200), later));
        let replica = facts(2, 1, true, 150);
        assert_eq!(primary.judge(&replica, later), Verdict::Waiting);
        let replica = facts(2, 1, true, 200);
        assert_eq!(primary.judge(&replica, later), Verdict::Fit);
    }

    #[test]
    fn after_a_failover_the_new_primary_counts() {
        let (mut primary, now) = (Primary::default(), Instant::now());
        primary.told(facts(1, 1, false, 500), now);
        primary.told(facts(2, 2, false, 400), now + SECOND);
        let now = now + SECOND;
        let judge = |replica| primary.judge(&replica, now);
        assert_eq!(judge(facts(2, 2, false, 400)), Verdict::IsPrimary);
        assert_eq!(judge(facts(3, 1, true, 400)), Verdict::Fit);
        assert_eq!(judge(facts(3, 1, true, 399)), Verdict::Waiting);
    }

    #[test]
    fn what_doesn_t_follow_the_primary_is_no_replica_of_it() {
        let (mut primary, now) = (Primary::default(), Instant::now());
        primary.told(facts(1, 2, false, 100), now);
        let follower = facts(2, 2, true, 100);
        assert_eq!(primary.judge(&follower, now), Verdict::Fit);
        for replica in [
            facts(2, 3, false, 100),
            facts(2, 2, false, 100),
            facts(2, 3, true, 100),
        ] {
            let verdict = primary.judge(&replica, now);
            assert_eq!(verdict, Verdict::Promoted { primary_told: now });
        }
        for (replica, word) in [
            (
                Facts {
                    system: 8,
                    ..follower
                },
                "another cluster",
            ),
            (
                Facts {
                    database: 6,
                    ..follower
                },
                "dbname",
            ),
        ] {
            let verdict = primary.judge(&replica, now);
            let is_right = matches!(verdict, Verdict::Unfit(reason) if reason.contains(word));
            assert!(is_right, "{verdict:?}");
        }
    }
}
