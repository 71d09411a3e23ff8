//! Which connections are examined together with a second one: the first one, one that is made some
//! time after a loss, and one that is made after an error that a pooler may cause. Others wait for
//! what that one shows, so that none is used beside it that a pooler spoils.

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
    Running {
        /// Whether a connection was lost since it began.
        has_lost: bool,
    },
    /// There is a connection, and others are made without an examination.
    Done {
        /// When one was examined last.
        at: Instant,
        /// Whether one must be examined later: a connection was lost since, or that examination
        /// has shown nothing.
        must_repeat: bool,
    },
}

impl State {
    /// Whether the next connection is examined.
    fn is_due(self, now: Instant) -> bool {
        match self {
            State::Due => true,
            State::Running { .. } => false,
            State::Done { at, must_repeat } => must_repeat && now >= at + PAUSE,
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

/// How an examination has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The connection has a session of its own.
    OwnSession,
    /// There is a connection, but it could not be examined.
    Nothing,
    /// There is no connection.
    Failed,
}

impl Examination {
    /// What a connection is to do that is about to be made. Waits while another one is examined.
    pub(super) fn begin(&self) -> Turn {
        self.begin_within(LONGEST_WAIT)
    }

    fn begin_within(&self, longest: Duration) -> Turn {
        let state = lock(&self.state);
        if matches!(*state, State::Running { .. }) {
            let is_running = |state: &mut State| matches!(state, State::Running { .. });
            let waited = self.ended.wait_timeout_while(state, longest, is_running);
            return match *unpoisoned(waited).0 {
                State::Due => Turn::Fails,
                State::Done { .. } => Turn::Plain,
                // It takes so long that this one is examined as well.
                State::Running { .. } => Turn::Examined,
            };
        }
        let mut state = state;
        if !state.is_due(Instant::now()) {
            return Turn::Plain;
        }
        *state = State::Running { has_lost: false };
        Turn::Examined
    }

    /// Notes what the examination of a connection has shown.
    pub(super) fn end(&self, seen: Seen) {
        let mut state = lock(&self.state);
        let has_lost = matches!(*state, State::Running { has_lost: true });
        let done = State::Done {
            at: Instant::now(),
            must_repeat: has_lost || seen == Seen::Nothing,
        };
        *state = match seen {
            Seen::Failed => State::Due,
            Seen::OwnSession | Seen::Nothing => done,
        };
        drop(state);
        self.ended.notify_all();
    }

    /// Has the next connection examined, unless one is being examined.
    pub(super) fn again(&self) {
        let mut state = lock(&self.state);
        if !matches!(*state, State::Running { .. }) {
            *state = State::Due;
        }
    }

    /// Notes that a connection was lost: a pooler may have come between. A connection that is made
    /// later is examined.
    pub(super) fn lost_one(&self) {
        match &mut *lock(&self.state) {
            State::Due => {}
            State::Running { has_lost } => *has_lost = true,
            State::Done { must_repeat, .. } => *must_repeat = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_wait_and_get_the_result_of_the_one_that_is_examined() {
        for (seen, expected) in [
            (Seen::OwnSession, Turn::Plain),
            (Seen::Nothing, Turn::Plain),
            (Seen::Failed, Turn::Fails),
        ] {
            let examination = Examination::default();
            assert_eq!(examination.begin(), Turn::Examined);
            std::thread::scope(|scope| {
                let waits = || examination.begin_within(Duration::from_secs(60));
                let others = [scope.spawn(waits), scope.spawn(waits)];
                std::thread::sleep(Duration::from_millis(100));
                // Another connection was lost meanwhile.
                examination.again();
                assert!(others.iter().all(|other| !other.is_finished()));
                examination.end(seen);
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
        examination.end(Seen::OwnSession);
        assert_eq!(examination.begin(), Turn::Plain);
        assert!(!is_due_later(&examination));
        examination.lost_one();
        assert_eq!(examination.begin(), Turn::Plain, "it was examined just now");
        assert!(is_due_later(&examination));
        examination.again();
        assert_eq!(examination.begin(), Turn::Examined);
    }

    #[test]
    fn one_is_examined_later_if_nothing_was_seen_or_one_was_lost_meanwhile() {
        for (has_lost, seen) in [(false, Seen::Nothing), (true, Seen::OwnSession)] {
            let examination = Examination::default();
            assert_eq!(examination.begin(), Turn::Examined);
            if has_lost {
                examination.lost_one();
            }
            examination.end(seen);
            assert_eq!(examination.begin(), Turn::Plain);
            assert!(is_due_later(&examination), "{seen:?}");
        }
    }

    /// Whether a connection is examined that is made after the pause.
    fn is_due_later(examination: &Examination) -> bool {
        let (state, now) = (*lock(&examination.state), Instant::now());
        assert!(!state.is_due(now));
        state.is_due(now + PAUSE)
    }
}
