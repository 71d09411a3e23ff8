//! Which connections are examined together with a second one: the first one, and the next one after
//! a lost one. Others wait for what that one shows, so that none is used beside it that a pooler
//! spoils.

use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::lock::{lock, unpoisoned};

/// How long other connections wait. It is more than an examination takes, unless the database is
/// slow.
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// The pause between two examinations because of lost connections. Each opens a second connection,
/// and many may be lost at once, or one after the other.
const PAUSE: Duration = Duration::from_secs(10);

/// Whether connections were seen to have a session each.
#[derive(Debug, Default)]
pub(super) struct Examination {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// The next connection is examined.
    #[default]
    Due,
    /// One is being examined.
    Running,
    /// The last one that was examined has a session of its own.
    Done {
        /// When it was examined.
        at: Instant,
        /// Whether a connection was lost since.
        has_lost: bool,
    },
}

impl State {
    /// Whether the next connection is examined.
    fn is_due(self, now: Instant) -> bool {
        match self {
            State::Due => true,
            State::Running => false,
            State::Done { at, has_lost } => has_lost && now >= at + PAUSE,
        }
    }
}

/// What a new connection is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is examined, and [`Examination::end`] is called.
    Examined,
    /// It needs no examination.
    Plain,
    /// The connection whose examination it has waited for has failed.
    Fails,
}

impl Examination {
    /// What a connection is to do that is about to be made. Waits while another one is examined.
    pub(super) fn begin(&self) -> Turn {
        self.begin_within(LONGEST_WAIT)
    }

    fn begin_within(&self, longest: Duration) -> Turn {
        let state = lock(&self.state);
        if *state == State::Running {
            let is_running = |state: &mut State| *state == State::Running;
            let waited = self.ended.wait_timeout_while(state, longest, is_running);
            return match *unpoisoned(waited).0 {
                State::Due => Turn::Fails,
                State::Done { .. } => Turn::Plain,
                // It takes so long that this one is examined as well.
                State::Running => Turn::Examined,
            };
        }
        let mut state = state;
        if !state.is_due(Instant::now()) {
            return Turn::Plain;
        }
        *state = State::Running;
        Turn::Examined
    }

    /// Notes that the examined connection is ready, or has failed.
    pub(super) fn end(&self, is_ready: bool) {
        let done = State::Done {
            at: Instant::now(),
            has_lost: false,
        };
        *lock(&self.state) = if is_ready { done } else { State::Due };
        self.ended.notify_all();
    }

    /// Has the next connection examined, unless one is being examined.
    pub(super) fn again(&self) {
        let mut state = lock(&self.state);
        if *state != State::Running {
            *state = State::Due;
        }
    }

    /// Notes that a connection was lost: a pooler may have come between. A later connection is
    /// examined.
    pub(super) fn lost_one(&self) {
        if let State::Done { has_lost, .. } = &mut *lock(&self.state) {
            *has_lost = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_wait_and_get_the_result_of_the_one_that_is_examined() {
        for (is_ready, expected) in [(true, Turn::Plain), (false, Turn::Fails)] {
            let examination = Examination::default();
            assert_eq!(examination.begin(), Turn::Examined);
            std::thread::scope(|scope| {
                let waits = || examination.begin_within(Duration::from_secs(60));
                let others = [scope.spawn(waits), scope.spawn(waits)];
                std::thread::sleep(Duration::from_millis(100));
                // Another connection was lost meanwhile.
                examination.again();
                assert!(others.iter().all(|other| !other.is_finished()));
                examination.end(is_ready);
                for other in others {
                    assert_eq!(other.join().expect("no panic"), expected);
                }
            });
        }
    }

    #[test]
    fn one_is_examined_again_after_a_lost_one_or_when_it_takes_too_long() {
        let examination = Examination::default();
        assert_eq!(examination.begin(), Turn::Examined);
        assert_eq!(examination.begin_within(Duration::ZERO), Turn::Examined);
        examination.end(true);
        assert_eq!(examination.begin(), Turn::Plain);
        examination.lost_one();
        assert_eq!(examination.begin(), Turn::Plain, "it was examined just now");
        let state = *lock(&examination.state);
        assert!(!state.is_due(Instant::now()) && state.is_due(Instant::now() + PAUSE));
        examination.again();
        assert_eq!(examination.begin(), Turn::Examined);
    }
}
