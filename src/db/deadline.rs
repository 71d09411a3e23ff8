//! Deadlines for the database's answers.
//!
//! The database bounds its statements itself (`statement_timeout`), but not the wait for a
//! synchronous standby, and a database that is frozen bounds nothing. The driver waits for ever.
//! So a thread looks at all connections: work that gets no answer is cancelled, which ends a wait
//! for a standby, and if that doesn't help its connection is shut down.

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};
use std::{io, thread};

use rustix::net::{Shutdown, shutdown};

use super::driver_socket;
use crate::lock::lock;

/// How often the connections are looked at.
const TICK: Duration = Duration::from_millis(250);
/// How long a request's statements may go without an answer, counted from when the request came, so
/// that the wait for a worker is a part of it. Together with the time to cancel, this is below the
/// ten seconds after which clients repeat a request.
const REQUEST_PATIENCE: Duration = Duration::from_secs(7);
/// How long each statement may at least go without an answer, however long its request has waited
/// for a worker, or has worked already: a busy disk may keep a commit waiting for seconds.
const STATEMENT_PATIENCE: Duration = Duration::from_secs(4);
/// How long a cancelled statement may take to end.
const CANCEL_PATIENCE: Duration = Duration::from_secs(1);
/// The patience with statements in the background, which is above their `statement_timeout` of 30
/// seconds.
const BACKGROUND_PATIENCE: Duration = Duration::from_secs(33);
/// How long a database that is asked for a sign of life may go without an answer. After that its
/// connection is taken for dead. Whoever wants the sign of life waits for one second only.
const PROBE_PATIENCE: Duration = Duration::from_secs(3);
/// How long a replica may go without an answer, or without a greeting. The primary is asked then,
/// and the client should hardly notice. With the time to cancel, it is two seconds.
const REPLICA_PATIENCE: Duration = Duration::from_millis(1500);
/// How long a cancelled statement on a replica may take to end. No client waits for its result.
const REPLICA_CANCEL_PATIENCE: Duration = Duration::from_millis(250);
/// How long a database may take to greet a new connection.
const GREETING_PATIENCE: Duration = Duration::from_secs(4);
/// The most statements that are cancelled at once. Each cancellation has a thread of its own, and
/// over TLS a frozen database holds that thread up.
const MAX_CANCELLING: usize = 16;

/// How long a connection's statements may go without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// As long as the database allows.
    Unlimited,
    /// For a client who waits.
    Request,
    /// For work in the background.
    Background,
    /// For a sign of life.
    Probe,
    /// For what the primary can be asked as well.
    Replica,
}

impl Patience {
    /// The deadlines of a statement that begins `now`, for a request that came at `asked`.
    fn limits(self, asked: Instant, now: Instant) -> Option<Limits> {
        let cancel = match self {
            Patience::Unlimited => return None,
            Patience::Request => (asked + REQUEST_PATIENCE).max(now + STATEMENT_PATIENCE),
            Patience::Background => now + BACKGROUND_PATIENCE,
            Patience::Probe => now + PROBE_PATIENCE,
            Patience::Replica => now + REPLICA_PATIENCE,
        };
        Some(Limits {
            cancel,
            close: cancel + self.with_cancelling(),
        })
    }

    /// How long a cancelled statement may take to end.
    fn with_cancelling(self) -> Duration {
        match self {
            Patience::Replica => REPLICA_CANCEL_PATIENCE,
            _ => CANCEL_PATIENCE,
        }
    }

    /// How long a database may take to greet a new connection.
    fn with_greeting(self) -> Duration {
        match self {
            Patience::Replica => REPLICA_PATIENCE,
            _ => GREETING_PATIENCE,
        }
    }
}

/// When work that has no answer yet is cancelled, and when its connection is shut down.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Limits {
    cancel: Instant,
    close: Instant,
}

/// What was done to work that took too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Overdue {
    /// Nothing: it has ended in time.
    #[default]
    No,
    /// It was cancelled.
    Cancelled,
    /// Its connection was shut down.
    Closed,
}

/// Asks the database to cancel what a connection is doing.
type Cancel = Arc<dyn Fn() + Send + Sync>;

/// A connection under watch.
pub(super) struct Watched {
    /// How long the database may take to greet the connection.
    greeting: Duration,
    state: Mutex<State>,
    /// Those that are watched together with it, unless nobody watches it.
    all: Option<AllWatched>,
}

type AllWatched = Arc<Mutex<Vec<Weak<Watched>>>>;

#[derive(Default)]
struct State {
    /// The patience with the work at hand, and when that was asked for.
    work: Option<(Patience, Instant)>,
    limits: Option<Limits>,
    overdue: Overdue,
    socket: Option<OwnedFd>,
    cancel: Option<Cancel>,
}

impl State {
    /// What must be done to overdue work now. It counts as done from then on.
    fn due(&mut self, now: Instant) -> Overdue {
        let Some(limits) = self.limits else {
            return Overdue::No;
        };
        let due = match self.overdue {
            Overdue::No if now >= limits.cancel => Overdue::Cancelled,
            Overdue::Cancelled if now >= limits.close => Overdue::Closed,
            _ => return Overdue::No,
        };
        self.overdue = due;
        due
    }
}

impl Watched {
    /// A connection that is used with that patience.
    pub(super) fn new(patience: Patience) -> Watched {
        Watched {
            greeting: patience.with_greeting(),
            state: Mutex::default(),
            all: None,
        }
    }

    /// A further connection, which is watched as this one is.
    pub(super) fn another(&self) -> Arc<Watched> {
        let new = Watched {
            greeting: self.greeting,
            state: Mutex::default(),
            all: self.all.clone(),
        };
        new.shared()
    }

    /// Has the connection watched until it is dropped.
    fn shared(self) -> Arc<Watched> {
        let new = Arc::new(self);
        if let Some(all) = &new.all {
            let mut all = lock(all);
            all.retain(|old| old.strong_count() > 0);
            all.push(Arc::downgrade(&new));
        }
        new
    }

    /// Called when the driver has connected, on its thread, before the database's greeting.
    pub(super) fn connected(&self) {
        let found = driver_socket::just_connected();
        let socket = found.unwrap_or_else(|error| {
            log::debug!("a connection's socket was not found: {error}");
            None
        });
        let mut state = self.lock();
        state.socket = socket;
        state.overdue = Overdue::No;
        state.limits = Some(self.limits_of_greeting());
    }

    /// Called when the database has greeted the connection and is asked something before the
    /// connection is ready. The answer may take as long as the greeting.
    pub(super) fn asks_further(&self) {
        self.lock().limits = Some(self.limits_of_greeting());
    }

    /// Before a connection is ready there is nothing to cancel: the first deadline does nothing, and
    /// at the second one the connection is shut down.
    fn limits_of_greeting(&self) -> Limits {
        let now = Instant::now();
        Limits {
            cancel: now,
            close: now + self.greeting,
        }
    }

    /// Whether the connection was shut down because there was no answer.
    pub(super) fn was_closed(&self) -> bool {
        self.lock().overdue == Overdue::Closed
    }

    /// Called when the connection is ready for work, which `cancel` can cancel.
    pub(super) fn ready(&self, cancel: impl Fn() + Send + Sync + 'static) {
        let mut state = self.lock();
        (state.limits, state.overdue) = (None, Overdue::No);
        state.cancel = Some(Arc::new(cancel));
    }

    /// Notes that work begins, which was asked for at the time `asked`.
    pub(super) fn begin(&self, patience: Patience, asked: Instant) {
        let mut state = self.lock();
        state.work = Some((patience, asked));
        state.overdue = Overdue::No;
        state.limits = patience.limits(asked, Instant::now());
    }

    /// Notes that the database has answered, and that the work goes on with another question.
    pub(super) fn progress(&self) {
        let mut state = self.lock();
        if let Some((patience, asked)) = state.work {
            state.limits = patience.limits(asked, Instant::now());
        }
    }

    /// Waits for something else than the database by `wait`, within work that has asked it nothing
    /// yet or has all its answers. The time doesn't count.
    pub(super) fn aside<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.lock().limits = None;
        let waited = wait();
        self.progress();
        waited
    }

    /// Notes that the work has ended. Returns what was done to it if it took too long.
    pub(super) fn end(&self) -> Overdue {
        let mut state = self.lock();
        (state.work, state.limits) = (None, None);
        state.overdue
    }

    /// Cancels or closes what is overdue.
    fn look(&self, now: Instant, cancelling: &Arc<AtomicUsize>) {
        let mut state = self.lock();
        match (state.due(now), &state.cancel, &state.socket) {
            (Overdue::Cancelled, Some(cancel), _) => {
                cancel_aside(cancel.clone(), cancelling);
            }
            (Overdue::Closed, _, Some(socket)) => {
                if let Err(error) = shutdown(socket, Shutdown::ReadWrite) {
                    log::debug!("a connection was not shut down: {error}");
                }
            }
            _ => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// All connections under watch.
#[derive(Default)]
pub(super) struct Deadlines {
    watched: AllWatched,
    /// Whether the thread runs.
    is_started: Mutex<bool>,
}

impl Deadlines {
    /// Starts the thread that looks at the connections, unless it runs already. It runs as long as
    /// the program.
    ///
    /// # Errors
    /// When the system has no thread to spare.
    pub(super) fn start(self: &Arc<Deadlines>) -> io::Result<()> {
        let mut is_started = lock(&self.is_started);
        if *is_started {
            return Ok(());
        }
        let cancelling = Arc::default();
        let deadlines = self.clone();
        let watch = move || {
            loop {
                thread::sleep(TICK);
                deadlines.look(Instant::now(), &cancelling);
            }
        };
        thread::Builder::new()
            .name("deadline".into())
            .spawn(watch)?;
        *is_started = true;
        Ok(())
    }

    /// A new connection to watch, until it is dropped.
    pub(super) fn watch(&self, patience: Patience) -> Arc<Watched> {
        let new = Watched {
            all: Some(self.watched.clone()),
            ..Watched::new(patience)
        };
        new.shared()
    }

    fn look(&self, now: Instant, cancelling: &Arc<AtomicUsize>) {
        let watched: Vec<_> = lock(&self.watched)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        watched
            .iter()
            .for_each(|watched| watched.look(now, cancelling));
    }
}

impl std::fmt::Debug for Deadlines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Deadlines")
    }
}

/// Cancels a statement on a thread of its own, because cancelling needs a new connection, which may
/// take long. If [`MAX_CANCELLING`] threads are busy already, nothing is cancelled, and the
/// statement's connection is shut down at its next deadline.
fn cancel_aside(cancel: Cancel, cancelling: &Arc<AtomicUsize>) {
    if cancelling.fetch_add(1, Ordering::SeqCst) >= MAX_CANCELLING {
        cancelling.fetch_sub(1, Ordering::SeqCst);
        return;
    }
    let busy = cancelling.clone();
    let run = move || {
        // The driver panics if its runtime can't get the descriptors that it needs.
        if catch_unwind(AssertUnwindSafe(|| cancel())).is_err() {
            log::debug!("no descriptor was left to cancel a statement by");
        }
        busy.fetch_sub(1, Ordering::SeqCst);
    };
    if let Err(error) = thread::Builder::new().name("cancel".into()).spawn(run) {
        log::debug!("no thread was left to cancel a statement by: {error}");
        cancelling.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_request_s_time_runs_from_when_it_came_and_each_step_gets_some() {
        let now = Instant::now();
        let limit = |waited: Duration| {
            let limits = Patience::Request.limits(now, now + waited);
            limits.map(|limits| limits.cancel - now)
        };
        assert_eq!(limit(Duration::ZERO), Some(REQUEST_PATIENCE));
        assert_eq!(limit(SECOND), Some(REQUEST_PATIENCE));
        assert_eq!(limit(5 * SECOND), Some(5 * SECOND + STATEMENT_PATIENCE));
        assert_eq!(Patience::Unlimited.limits(now, now), None);
    }

    #[test]
    fn what_is_overdue_is_cancelled_once_and_then_closed_once() {
        let now = Instant::now();
        let mut state = State {
            limits: Patience::Request.limits(now, now),
            ..State::default()
        };
        let steps = [
            (Duration::ZERO, Overdue::No),
            (REQUEST_PATIENCE, Overdue::Cancelled),
            (REQUEST_PATIENCE, Overdue::No),
            (REQUEST_PATIENCE + CANCEL_PATIENCE, Overdue::Closed),
            (10 * REQUEST_PATIENCE, Overdue::No),
        ];
        for (after, expected) in steps {
            assert_eq!(state.due(now + after), expected, "after {after:?}");
        }
    }

    #[test]
    fn the_wait_for_something_else_than_the_database_is_not_counted() {
        let watched = Watched::new(Patience::Replica);
        watched.begin(Patience::Replica, Instant::now());
        let overdue = watched.aside(|| watched.lock().due(Instant::now() + 100 * SECOND));
        assert_eq!(overdue, Overdue::No);
        let later = Instant::now() + 100 * SECOND;
        assert_eq!(watched.lock().due(later), Overdue::Cancelled);
    }

    #[test]
    fn between_two_pieces_of_work_nothing_is_overdue() {
        let watched = Watched::new(Patience::Probe);
        watched.begin(Patience::Probe, Instant::now());
        assert_eq!(watched.end(), Overdue::No);
        let later = Instant::now() + 100 * SECOND;
        assert_eq!(watched.lock().due(later), Overdue::No);
        watched.progress();
        assert_eq!(watched.lock().due(later), Overdue::No);
    }
}
