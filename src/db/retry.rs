//! How often, and after which pauses, failed work is tried again.

use std::time::Duration;

use super::error::Remedy;

/// How often work is tried again that the database has rolled back because of another transaction.
/// All pauses together take four seconds on average, and nine at most.
const MAX_CONFLICTS: u32 = 40;
/// The longest pause before the first of these tries. The actual pause is random.
const FIRST_PAUSE: Duration = Duration::from_millis(4);
/// The longest pause before any of these tries. The limit doubles with each try up to this.
const LONGEST_PAUSE: Duration = Duration::from_millis(256);
/// How often an upload is tried again that is refused by an index under construction. The file's
/// bytes are sent with each try, so the pauses are of the longest kind: a second in all.
const MAX_REFUSALS: u32 = 8;

/// How often one piece of work has been tried again, by reason.
pub(super) struct RetryState {
    /// Whether the work may be tried again on a new connection, which it may once.
    may_reconnect: bool,
    /// Whether the work may be tried again with newly prepared statements, which it may once.
    may_prepare: bool,
    /// How often the work was rolled back because of another transaction.
    conflicts: u32,
    /// How often an index under construction has refused the work.
    refusals: u32,
}

impl RetryState {
    /// The state of work that was not tried yet.
    pub(super) fn new(may_reconnect: bool) -> RetryState {
        RetryState {
            may_reconnect,
            may_prepare: true,
            conflicts: 0,
            refusals: 0,
        }
    }

    /// Whether the work may be tried again with that remedy. Sleeps first if another transaction
    /// needs time.
    pub(super) fn may_retry(&mut self, remedy: Remedy) -> bool {
        match remedy {
            Remedy::Reconnect => std::mem::take(&mut self.may_reconnect),
            Remedy::PrepareAgain => std::mem::take(&mut self.may_prepare),
            Remedy::TryAgain if self.conflicts < MAX_CONFLICTS => {
                std::thread::sleep(conflict_pause(self.conflicts));
                self.conflicts += 1;
                true
            }
            Remedy::TryLater if self.refusals < MAX_REFUSALS => {
                std::thread::sleep(conflict_pause(MAX_CONFLICTS));
                self.refusals += 1;
                true
            }
            Remedy::TryAgain | Remedy::TryLater | Remedy::None => false,
        }
    }
}

/// A random pause. After equal pauses, transactions that met once would meet again.
fn conflict_pause(conflicts: u32) -> Duration {
    let limit = FIRST_PAUSE.saturating_mul(1 << conflicts.min(16));
    let mut random = [0; 2];
    // Without random numbers there is no pause.
    let _ = getrandom::getrandom(&mut random);
    limit.min(LONGEST_PAUSE) * u32::from(u16::from_le_bytes(random)) / (1 << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_between_conflicts_grow_to_their_limit_and_no_further() {
        for conflicts in [0, 1, 5, 6, 20, MAX_CONFLICTS, u32::MAX] {
            let limit = FIRST_PAUSE.saturating_mul(1 << conflicts.min(16));
            for _ in 0..100 {
                assert!(conflict_pause(conflicts) <= limit.min(LONGEST_PAUSE));
            }
        }
        assert!((0..100).any(|_| conflict_pause(20) > LONGEST_PAUSE / 2));
    }

    #[test]
    fn each_reason_to_try_again_has_its_bound() {
        let mut tries = RetryState {
            may_reconnect: true,
            may_prepare: true,
            conflicts: MAX_CONFLICTS - 1,
            refusals: MAX_REFUSALS - 1,
        };
        for remedy in [
            Remedy::Reconnect,
            Remedy::PrepareAgain,
            Remedy::TryAgain,
            Remedy::TryLater,
        ] {
            assert!(
                tries.may_retry(remedy) && !tries.may_retry(remedy),
                "{remedy:?}"
            );
        }
        assert!(!tries.may_retry(Remedy::None));
    }
}
