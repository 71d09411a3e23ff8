//! Where requests come in: tiny_http, kept accepting whatever happens, and stopped without
//! losing what it has accepted.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::address::Address;
use super::door::Door;
use super::listener::Accepting;
use super::nudge::Reserve;
use super::{Listener, Service, Stop, selfcheck};

/// How long after an error it is tried again to accept connections,
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// and while it has failed this often lately,
const MANY_FAILURES: usize = 100;
/// how long then: each attempt leaves a thread behind for [`SILENCE`].
const LONG_ACCEPT_PAUSE: Duration = Duration::from_millis(300);
/// How often the log tells of it.
const REPORT_PAUSE: Duration = Duration::from_secs(60);
/// No connection is silent for longer than this: it was closed then.
const SILENCE: Duration = Duration::from_secs(90);
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

/// Whether the thread that calls is one of tiny_http's: those have no names.
pub fn is_tiny_http() -> bool {
    thread::current().name().is_none()
}

/// Where requests come in.
pub struct Front<S> {
    door: Arc<Door>,
    service: Arc<S>,
    /// All that came in, but for our own.
    requests: AtomicUsize,
    /// How many accept no more, but still serve.
    left_behind: AtomicUsize,
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
            left_behind: AtomicUsize::new(0),
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

    /// Accepts connections until `stop` is requested. tiny_http accepts no more after an
    /// error, as when descriptors or threads run out; so a new one takes its place.
    pub fn accept(self: &Arc<Front<S>>, listener: &Listener, stop: &Stop) {
        let mut reported = None;
        while !stop.is_requested() {
            let outcome = match self.door.guard.has_descriptors() {
                true => listener
                    .accept()
                    .and_then(|http| self.accept_with(http, stop)),
                // It must not take those by which the guard sees whom to disconnect.
                false => Err(io::Error::other("no descriptor is left")),
            };
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
                let many = self.left_behind.load(Ordering::Relaxed) > MANY_FAILURES;
                stop.wait(if many {
                    LONG_ACCEPT_PAUSE
                } else {
                    ACCEPT_PAUSE
                });
            }
        }
    }

    /// Admits requests until `http` accepts no more connections, or `stop` is requested.
    fn accept_with(self: &Arc<Front<S>>, http: Accepting, stop: &Stop) -> io::Result<()> {
        let http = Arc::new(http);
        *self.lock_current() = Some(http.clone());
        let outcome = match stop.is_requested() {
            true => Ok(()),
            false => self.pump(&http),
        };
        *self.lock_current() = None;
        self.serve_left_behind(http);
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

    /// Goes on to serve the connections of one that accepts no more, until they are silent
    /// for longer than any may be.
    fn serve_left_behind(self: &Arc<Front<S>>, http: Arc<Accepting>) {
        let front = self.clone();
        let serve = move || {
            let mut last = Instant::now();
            while last.elapsed() < SILENCE || http.is_alive() {
                if let Ok(Some(request)) = http.recv_timeout(SILENCE) {
                    front.admit(request);
                    last = Instant::now();
                }
            }
            front.left_behind.fetch_sub(1, Ordering::Relaxed);
        };
        self.left_behind.fetch_add(1, Ordering::Relaxed);
        let builder = thread::Builder::new().name("left-behind".into());
        if let Err(error) = builder.spawn(serve) {
            self.left_behind.fetch_sub(1, Ordering::Relaxed);
            log::warn!("some connections are served no more: {error}");
        }
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
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
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
