//! Whether the database takes writes, as all connections share it.
//!
//! A database may hand out files and store none: a stand-by, a full disk, a commit that waits for a
//! synchronous stand-by that is gone. From the first write that fails so until the next one that
//! succeeds, one at a time is tried, and all others are refused at once, so that they hold neither
//! workers nor the database's processes.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::lock::lock;

/// The pause between two questions to a read-only database whether it takes writes now, of which
/// each may need a new connection.
const READ_ONLY_PAUSE: Duration = Duration::from_millis(250);
/// How long a full disk is remembered. Nothing but an upload shows whether there is space again,
/// and a load balancer may send none to a server that says that it takes none.
const FULL_FOR: Duration = Duration::from_secs(60);

/// Why the database takes no writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is read-only, as a stand-by is.
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
            // Too many connections: a connection may be refused so, and not a write.
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
}

/// The permission to try a write. Whoever has it says how it went; otherwise the next one tries.
pub(super) struct Trial<'a> {
    writes: &'a Writes,
    /// Why writes were refused when it began.
    pub(super) refusal: Option<Refusal>,
}

impl Writes {
    /// Why writes were refused lately, if they were.
    pub(super) fn refusal(&self, now: Instant) -> Option<Refusal> {
        let refused = self.lock().refused?;
        match refused {
            (Refusal::Full, at) if now >= at + FULL_FOR => None,
            (refusal, _) => Some(refusal),
        }
    }

    /// The permission for a write; `None` while writes are refused and another one is tried, or
    /// was just now.
    pub(super) fn begin(&self, now: Instant) -> Option<Trial<'_>> {
        let mut state = self.lock();
        match state.refused {
            Some((Refusal::ReadOnly, at)) if now < at + READ_ONLY_PAUSE => return None,
            Some(_) if state.is_trying => return None,
            Some(_) => state.is_trying = true,
            None => {}
        }
        Some(Trial {
            writes: self,
            refusal: state.refused.map(|(refusal, _)| refusal),
        })
    }

    /// Notes that a write has succeeded. Returns whether writes were refused before.
    pub(super) fn succeeded(&self) -> bool {
        self.lock().refused.take().is_some()
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
        if self.refusal.is_some() {
            self.writes.lock().is_trying = false;
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
        assert_eq!(writes.refusal(now), Some(Refusal::NoAnswer));
        let trial = writes.begin(now);
        assert!(trial.is_some());
        drop(both);
        assert!(writes.begin(now).is_none(), "somebody is trying");
        drop(trial);
        let trial = writes.begin(now);
        assert!(trial.is_some_and(|trial| trial.refusal == Some(Refusal::NoAnswer)));
        assert!(writes.succeeded());
        assert!(!writes.succeeded());
        assert!(writes.refusal(now).is_none() && writes.begin(now).is_some());
    }

    #[test]
    fn a_read_only_database_is_asked_after_a_pause() {
        let (writes, now) = (Writes::default(), Instant::now());
        writes.refused(Refusal::ReadOnly, now);
        assert!(writes.begin(now).is_none());
        assert!(writes.begin(now + READ_ONLY_PAUSE).is_some());
        assert_eq!(
            writes.refusal(now + 2 * FULL_FOR),
            Some(Refusal::ReadOnly),
            "it is asked again without uploads"
        );
    }

    #[test]
    fn a_full_disk_is_forgotten_after_a_while() {
        let (writes, now) = (Writes::default(), Instant::now());
        writes.refused(Refusal::Full, now);
        assert_eq!(writes.refusal(now), Some(Refusal::Full));
        assert_eq!(writes.refusal(now + FULL_FOR), None);
    }
}
