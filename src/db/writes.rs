//! Whether the database takes writes, as all connections share it.
//!
//! A database may hand out files and store none: because it is a standby, because its disk is
//! full, or because commits wait for a synchronous standby that is gone. From the first write that
//! fails for such a reason until the next one that succeeds, one write at a time is tried, and all
//! others are refused at once, so that they hold neither workers nor the database's processes.

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

/// Whether the database takes writes.
#[derive(Debug, Default)]
pub(super) struct Writes {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Why writes are refused, and when one was last refused.
    refused: Option<(Refusal, Instant)>,
    /// Whether a write is being tried while they are refused.
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

    /// Whether a commit without effect can show that writes work. It can't after a lack of space,
    /// because it needs none.
    pub(super) fn may_be_tried(&self) -> bool {
        !self.is_full()
    }

    /// Returns the permission for a write. `None` if writes are refused, and another one is being
    /// tried, or was tried just now.
    pub(super) fn begin(&self, now: Instant) -> Option<Trial<'_>> {
        let mut state = self.lock();
        match state.refused {
            Some((Refusal::ReadOnly, at)) if now < at + READ_ONLY_PAUSE => return None,
            Some(_) if state.is_trying => return None,
            Some(_) => state.is_trying = true,
            None => {}
        }
        if state.in_flight == 0 {
            state.moved = Some(now);
        }
        state.in_flight += 1;
        Some(Trial {
            writes: self,
            refusal: state.refused.map(|(refusal, _)| refusal),
        })
    }

    /// Notes that a write has succeeded. Returns whether writes were refused before.
    pub(super) fn succeeded(&self, now: Instant) -> bool {
        let mut state = self.lock();
        state.succeeded = Some(now);
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
        if self.refusal.is_some() {
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
        assert!(writes.succeeded(now));
        assert!(!writes.succeeded(now) && writes.have_succeeded_since(now));
        assert!(writes.work(now) && writes.begin(now).is_some());
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
