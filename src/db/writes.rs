//! Whether the database takes writes, as all connections share it.
//!
//! A database may hand out files and store none: because it is a standby, because its disk is
//! full, or because commits wait for a synchronous standby that is gone. From the first write that
//! fails for such a reason until the next one that succeeds, one write at a time is tried, and all
//! others are refused at once, so that they hold neither workers nor the database's processes.
//! What shows that the database takes writes again depends on what was wrong ([`Wrote`]).

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::lock::lock;

/// How long the server waits before it asks a read-only database again whether it takes writes.
/// Each question may need a new connection.
const READ_ONLY_PAUSE: Duration = Duration::from_millis(250);
/// If several writes are in flight and none has ended for this long, they are taken to be stuck.
/// That is sooner than each of them is given up. A single write may take longer, because it may be
/// a large file.
const STILL_FOR: Duration = Duration::from_secs(4);
/// How long a full disk is remembered. Nothing but an upload shows whether there is space again,
/// and a load balancer may send none to a server that says that it takes none.
const FULL_FOR: Duration = Duration::from_secs(60);

/// Why the database takes no writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is read-only, as a standby is.
    ReadOnly,
    /// Its commits get no answer.
    NoAnswer,
    /// It lacks disk space, memory, or another resource.
    Full,
}

impl Refusal {
    /// What an error says of other writes. `None` if it concerns the one write alone, or the
    /// connection.
    pub(super) fn of(error: &postgres::Error) -> Option<Refusal> {
        match error.code()?.code() {
            // Read-only transaction.
            "25006" => Some(Refusal::ReadOnly),
            // Too many connections: a connection is refused with this code, not a write.
            "53300" => None,
            code if code.starts_with("53") => Some(Refusal::Full),
            _ => None,
        }
    }
}

/// What work that succeeded has written, and so has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrote {
    /// Nothing: it has waited for no standby.
    Nothing,
    /// At most a row without a file's bytes, for which a full disk nearly always has space.
    Little,
    /// A file.
    File,
}

/// Whether the database takes writes.
#[derive(Debug, Default)]
pub(super) struct Writes {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Why writes are refused, and when one was last refused.
    refused: Option<(Refusal, Instant)>,
    /// Whether a client's write is being tried while they are refused.
    is_trying: bool,
    /// Writes that have begun and not ended.
    in_flight: usize,
    /// When a write last ended, or when the first of those in flight began.
    moved: Option<Instant>,
    /// When a write last succeeded.
    succeeded: Option<Instant>,
}

/// The permission to try a write. Its holder calls [`Writes::succeeded`] or [`Writes::refused`]. If
/// it calls neither, the next write is tried in the same way.
pub(super) struct Trial<'a> {
    writes: &'a Writes,
    /// Whether others are refused until it ends.
    is_alone: bool,
    /// Why writes were refused when this one began; `None` if they were not.
    pub(super) refusal: Option<Refusal>,
}

impl Writes {
    /// Whether writes succeed, as far as the latest ones show.
    pub(super) fn work(&self, now: Instant) -> bool {
        let state = self.lock();
        match state.refused {
            Some((Refusal::Full, at)) => now >= at + FULL_FOR,
            Some(_) => false,
            None => state.in_flight < 2 || state.moved.is_none_or(|at| now < at + STILL_FOR),
        }
    }

    /// Whether space was lacking when a write was last refused.
    pub(super) fn is_full(&self) -> bool {
        matches!(self.lock().refused, Some((Refusal::Full, _)))
    }

    /// Whether a write has succeeded since then.
    pub(super) fn have_succeeded_since(&self, then: Instant) -> bool {
        self.lock().succeeded.is_some_and(|at| at >= then)
    }

    /// Returns the permission for a write. `None` if writes are refused, and another one is being
    /// tried, or was tried just now.
    pub(super) fn begin(&self, now: Instant) -> Option<Trial<'_>> {
        let mut state = self.lock();
        if state.refused.is_some() && state.is_trying {
            return None;
        }
        self.permit(&mut state, true, now)
    }

    /// Returns the permission for a commit without effect, whatever clients are trying: what they
    /// try may turn out to write nothing. `None` if the database was found read-only just now, or
    /// lacks space, of which such a commit shows nothing.
    pub(super) fn begin_probe(&self, now: Instant) -> Option<Trial<'_>> {
        let mut state = self.lock();
        match state.refused {
            Some((Refusal::Full, _)) => None,
            _ => self.permit(&mut state, false, now),
        }
    }

    fn permit(&self, state: &mut State, is_alone: bool, now: Instant) -> Option<Trial<'_>> {
        let refusal = match state.refused {
            Some((Refusal::ReadOnly, at)) if now < at + READ_ONLY_PAUSE => return None,
            Some((refusal, _)) => Some(refusal),
            None => None,
        };
        let is_alone = is_alone && refusal.is_some();
        state.is_trying |= is_alone;
        if state.in_flight == 0 {
            state.moved = Some(now);
        }
        state.in_flight += 1;
        Some(Trial {
            writes: self,
            is_alone,
            refusal,
        })
    }

    /// Notes that work has succeeded, and what it has written. Returns whether writes were refused
    /// before and are not any more.
    pub(super) fn succeeded(&self, wrote: Wrote, now: Instant) -> bool {
        let mut state = self.lock();
        if wrote == Wrote::Nothing {
            return false;
        }
        state.succeeded = Some(now);
        let is_full = matches!(state.refused, Some((Refusal::Full, _)));
        if is_full && wrote != Wrote::File {
            return false;
        }
        state.refused.take().is_some()
    }

    /// Notes that a write was refused. Returns whether that is new.
    pub(super) fn refused(&self, refusal: Refusal, now: Instant) -> bool {
        let before = self.lock().refused.replace((refusal, now));
        before.is_none_or(|(before, _)| before != refusal)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        let mut state = self.writes.lock();
        state.in_flight -= 1;
        state.moved = Some(Instant::now());
        if self.is_alone {
            state.is_trying = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_writes_are_refused_one_at_a_time_is_tried() {
        let (writes, now) = (Writes::default(), Instant::now());
        let both = (writes.begin(now), writes.begin(now));
        assert!(both.0.is_some() && both.1.is_some());
        assert!(writes.refused(Refusal::NoAnswer, now));
        assert!(!writes.refused(Refusal::NoAnswer, now), "reported once");
        assert!(!writes.work(now));
        let trial = writes.begin(now);
        assert!(trial.is_some());
        drop(both);
        assert!(writes.begin(now).is_none(), "somebody is trying");
        drop(trial);
        let trial = writes.begin(now);
        assert!(trial.is_some_and(|trial| trial.refusal == Some(Refusal::NoAnswer)));
        assert!(!writes.have_succeeded_since(now));
        assert!(writes.succeeded(Wrote::Little, now));
        assert!(!writes.succeeded(Wrote::Little, now) && writes.have_succeeded_since(now));
        assert!(writes.work(now) && writes.begin(now).is_some());
    }

    #[test]
    fn whether_writes_work_is_asked_beside_what_a_client_tries() {
        let (writes, now) = (Writes::default(), Instant::now());
        writes.refused(Refusal::NoAnswer, now);
        let client = writes.begin(now);
        let probe = writes.begin_probe(now);
        assert!(client.is_some() && probe.is_some());
        drop(probe);
        assert!(writes.begin(now).is_none(), "the client is trying still");
        writes.refused(Refusal::ReadOnly, now);
        assert!(writes.begin_probe(now).is_none());
        assert!(writes.begin_probe(now + READ_ONLY_PAUSE).is_some());
        writes.refused(Refusal::Full, now);
        assert!(writes.begin_probe(now).is_none());
    }

    #[test]
    fn work_shows_what_it_has_written() {
        let (writes, now) = (Writes::default(), Instant::now());
        for (refusal, enough) in [
            (Refusal::ReadOnly, Wrote::Little),
            (Refusal::NoAnswer, Wrote::Little),
            (Refusal::Full, Wrote::File),
        ] {
            for wrote in [Wrote::Nothing, Wrote::Little, Wrote::File] {
                writes.refused(refusal, now);
                let shows = writes.succeeded(wrote, now);
                let expected = wrote == enough || wrote == Wrote::File;
                assert_eq!(shows, expected, "{refusal:?} {wrote:?}");
                assert_eq!(writes.work(now), expected);
            }
        }
    }

    #[test]
    fn a_read_only_database_is_asked_after_a_pause() {
        let (writes, now) = (Writes::default(), Instant::now());
        writes.refused(Refusal::ReadOnly, now);
        assert!(writes.begin(now).is_none());
        assert!(writes.begin(now + READ_ONLY_PAUSE).is_some());
        // Unlike a full disk, this isn't forgotten, because the database is asked again without
        // uploads.
        assert!(!writes.work(now + 2 * FULL_FOR));
    }

    #[test]
    fn a_full_disk_is_forgotten_after_a_while() {
        let (writes, now) = (Writes::default(), Instant::now());
        writes.refused(Refusal::Full, now);
        assert!(!writes.work(now) && writes.is_full());
        assert!(writes.work(now + FULL_FOR));
        // Uploads go on failing; deleting goes on all the same.
        writes.refused(Refusal::Full, now + FULL_FOR);
        assert!(!writes.work(now + FULL_FOR) && writes.is_full());
    }

    #[test]
    fn writes_of_which_none_ends_are_stuck() {
        let (writes, now) = (Writes::default(), Instant::now());
        let long_ago = writes.begin(now);
        assert!(
            long_ago.is_some() && writes.work(now + STILL_FOR),
            "it may be large"
        );
        let another = writes.begin(now);
        assert!(another.is_some() && writes.work(now));
        assert!(!writes.work(now + STILL_FOR));
        drop((long_ago, another));
        assert!(writes.work(now + 2 * STILL_FOR));
    }
}
