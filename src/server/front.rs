//! Where requests come in: tiny_http, kept accepting whatever happens, and stopped without
//! losing what it has accepted.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::address::Address;
use super::door::Door;
use super::left_behind::LeftBehind;
use super::listener::Accepting;
use super::nudge::Reserve;
use super::{Listener, Service, selfcheck, threads};
use crate::lock::lock;
use crate::stop::Stop;

/// How long after an error it is tried again to accept connections.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the log tells of it.
const REPORT_PAUSE: Duration = Duration::from_secs(60);
/// How long requests in flight may take to end when the server stops,
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// and when it starts anew, for which new clients wait: they had time before
/// ([`Door::start_anew`]).
const START_ANEW_PATIENCE: Duration = Duration::from_secs(3);
/// With no request in flight and none coming in for so long, the server has stopped:
/// connections were accepted to the last moment, and their heads are on their way.
const QUIET: Duration = Duration::from_millis(300);
/// Those that are known to be open are waited for this long.
const FIRST_HEADS: Duration = Duration::from_secs(2);
/// How often it is looked whether that is so.
const STOP_TICK: Duration = Duration::from_millis(20);

/// Where requests come in.
pub struct Front<S> {
    door: Arc<Door>,
    service: Arc<S>,
    /// All that came in, but for our own.
    requests: AtomicUsize,
    /// What accepts no more, but still serves.
    left_behind: Arc<LeftBehind>,
    /// What accepts connections now.
    current: Mutex<Option<Arc<Accepting>>>,
    /// Whether requests come in no more.
    dead: AtomicBool,
}

impl<S: Service> Front<S> {
    /// Nothing is accepted yet.
    pub fn new(door: Arc<Door>, service: Arc<S>) -> Front<S> {
        Front {
            door,
            service,
            requests: AtomicUsize::new(0),
            left_behind: Arc::default(),
            current: Mutex::default(),
            dead: AtomicBool::new(false),
        }
    }

    /// Whether it was found that requests come in no more.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Lets another tiny_http accept if this one does no more, which it may not have said.
    pub fn renew_if_it_accepts_no_more(&self) {
        let current = self.lock_current();
        if let Some(http) = current.as_ref().filter(|http| !http.is_alive()) {
            http.unblock();
        }
    }

    /// Starts the thread that serves what accepts no more connections.
    ///
    /// # Errors
    /// When the system has no thread to spare.
    pub fn serve_left_behind(self: &Arc<Front<S>>) -> io::Result<()> {
        let front = self.clone();
        self.left_behind.start(move |request| front.admit(request))
    }

    /// Accepts connections until `stop` is requested. tiny_http accepts no more after an
    /// error, as when descriptors or threads run out; so a new one takes its place.
    pub fn accept(&self, listener: &Listener, stop: &Stop) {
        let mut reported = None;
        while !stop.is_requested() {
            let outcome = self
                .has_resources()
                .and_then(|()| listener.accept())
                .and_then(|http| self.accept_with(http, stop));
            if stop.is_requested() {
                break;
            }
            self.door.guard.ran_out();
            if let Err(error) = outcome {
                let often = reported.is_some_and(|last: Instant| last.elapsed() < REPORT_PAUSE);
                if !often {
                    log::warn!("some connections can't be accepted now: {error}");
                    reported = Some(Instant::now());
                }
                stop.wait(ACCEPT_PAUSE);
            }
        }
    }

    /// Whether there are descriptors and threads for a tiny_http, which must not take those
    /// descriptors by which the guard sees whom to disconnect, and whose threads panic where
    /// others can't be started.
    fn has_resources(&self) -> io::Result<()> {
        if !self.door.guard.has_descriptors() {
            return Err(io::Error::other("no descriptor is left"));
        }
        threads::can_start(threads::FOR_TINY_HTTP)
            .map_err(|error| io::Error::other(format!("no thread is left: {error}")))
    }

    /// Admits requests until `http` accepts no more connections, or `stop` is requested.
    fn accept_with(&self, http: Accepting, stop: &Stop) -> io::Result<()> {
        let http = Arc::new(http);
        *self.lock_current() = Some(http.clone());
        let outcome = if stop.is_requested() {
            Ok(())
        } else {
            self.pump(&http)
        };
        *self.lock_current() = None;
        self.left_behind.add(http);
        outcome
    }

    fn pump(&self, http: &tiny_http::Server) -> io::Result<()> {
        loop {
            match http.recv() {
                Ok(request) => self.admit(request),
                // Interrupted.
                Err(error) if error.kind() == io::ErrorKind::Other => {
                    return Err(io::Error::other("no descriptor or no thread is left"));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn admit(&self, request: tiny_http::Request) {
        if !self.door.is_self_check(&request) {
            self.requests.fetch_add(1, Ordering::Relaxed);
        }
        Door::admit(&self.door, request, &*self.service);
    }

    /// Ends [`Front::accept_with`].
    pub fn interrupt(&self) {
        if let Some(http) = &*self.lock_current() {
            http.unblock();
        }
    }

    /// Finishes what is in flight, and what was accepted to the last moment.
    pub fn finish(&self, listener: &Listener, address: &Address) {
        self.door.begin_to_stop();
        let mut reserve = Reserve::open(address);
        if let Err(error) = listener.pause() {
            log::debug!("accepting was not ended: {error}");
        }
        let patience = match self.door.starts_anew() {
            true => START_ANEW_PATIENCE,
            false => {
                listener.withdraw();
                STOP_PATIENCE
            }
        };
        let deadline = Instant::now() + patience;
        let mut seen = self.requests.load(Ordering::Relaxed);
        let mut last = Instant::now();
        loop {
            let in_flight = self.door.has_requests_in_flight();
            let quiet = last.elapsed();
            if !in_flight
                && quiet >= QUIET
                && reserve.is_empty()
                && (quiet >= FIRST_HEADS || !self.door.guard.expects_a_first_head())
            {
                return;
            }
            if Instant::now() >= deadline {
                return log::warn!("stopping although some requests are still in flight");
            }
            // What was left behind admits requests by itself.
            thread::sleep(STOP_TICK);
            reserve.release();
            let now = self.requests.load(Ordering::Relaxed);
            if now != seen {
                (seen, last) = (now, Instant::now());
            }
        }
    }

    fn lock_current(&self) -> MutexGuard<'_, Option<Arc<Accepting>>> {
        lock(&self.current)
    }
}

/// Sees whether requests come in, and ends the server if they don't.
pub fn check_ourselves<S: Service>(
    front: &Arc<Front<S>>,
    address: Address,
    target: selfcheck::Target,
    pause: Duration,
    stop: &Stop,
) -> io::Result<()> {
    let (alive, dead) = (front.service.clone(), front.clone());
    let stopped = stop.clone();
    selfcheck::start(
        address,
        target,
        pause,
        stop.clone(),
        selfcheck::Outcomes {
            alive: Box::new(move || alive.alive()),
            dead: Box::new(move || {
                log::error!("the server doesn't answer itself any more; it ends");
                dead.dead.store(true, Ordering::SeqCst);
                stopped.request();
                // It may be the accept loop itself that hangs.
                thread::sleep(STOP_PATIENCE + Duration::from_secs(1));
                std::process::exit(1);
            }),
        },
    )
}
