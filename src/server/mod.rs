//! The door for HTTP: the only room that knows tiny_http.
//!
//! tiny_http's own threads read heads; the accept loop takes each request and looks at its
//! framing ([`framing`]); a body is received by an elastic set of threads ([`receive`]);
//! the fixed pool of workers gets complete requests through a bounded queue, and writes
//! small answers itself; large ones go to an elastic set of sending threads ([`send`]). So
//! a worker waits for the database and for nothing else.

mod address;
mod elastic;
mod framing;
mod guard;
mod listener;
mod nudge;
mod receive;
mod selfcheck;
mod send;
mod stop;

use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::http::{BodyRule, Incoming, Method, Response};
use address::Address;
use elastic::{Budget, Elastic, Reservation};
use framing::BodyLength;
use guard::{Guard, Progress};
use nudge::Reserve;
use send::{Manner, Unread};

pub use listener::Listener;
pub use stop::Stop;

/// Complete requests that may wait for a worker, per worker. A worker answers thousands
/// of small requests in a second, so that waiting longer means that the database is stuck.
const QUEUE_PER_WORKER: usize = 32;
/// The workers take turns at waiting for a request; one that got none in this time is idle.
const IDLE: Duration = Duration::from_secs(1);
/// Clients whose bodies are received at once.
const MAX_RECEIVERS: usize = 256;
/// Clients to whom large answers are sent at once.
const MAX_SENDERS: usize = 256;
/// Refused clients who are listened to until they stop sending.
const MAX_LINGERERS: usize = 128;
/// Bytes of large bodies, and of large answers, that are held at once: with 512 MB of
/// memory the operator's database and system need the other half.
const BYTES_IN_FLIGHT: usize = 96 * 1024 * 1024;
/// Clients that announced bodies beyond all limits: for each, tiny_http would take that much
/// memory, unless its request is kept for ever, with two descriptors and a thread. After so
/// many the program starts anew.
const MAX_GIVEN_UP: usize = 256;
/// How long after an error it is tried again to accept connections,
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// and how often the log tells of it.
const REPORT_PAUSE: Duration = Duration::from_secs(60);
/// No connection is silent for longer than this: it was closed then.
const SILENCE: Duration = Duration::from_secs(90);
/// How long a worker with a large answer waits for others to arrive.
const SEND_PATIENCE: Duration = Duration::from_secs(2);
/// How long requests in flight may take to end when the server stops.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// With no request in flight and none coming in for so long, the server has stopped:
/// connections were accepted to the last moment, and their heads are on their way.
const QUIET: Duration = Duration::from_millis(300);
/// Those that are known to be open are waited for this long.
const FIRST_HEADS: Duration = Duration::from_secs(2);
/// How often it is looked whether that is so.
const STOP_TICK: Duration = Duration::from_millis(20);
/// How long the workers may take to close their connections then.
const LEAVE_PATIENCE: Duration = Duration::from_secs(1);

/// What answers the requests.
pub trait Service: Send + Sync + 'static {
    /// What each worker keeps between requests, as its database connection.
    type Worker: 'static;

    /// Makes what a worker keeps: once for each, and anew after a panic.
    fn worker(&self) -> Self::Worker;

    /// The body that a request may have.
    fn body_rule(&self, method: Method, target: &str) -> BodyRule;

    /// Called when a worker has had nothing to do for a while.
    fn idle(&self, worker: &mut Self::Worker);

    /// Called when it was seen that requests come in, every `pause` of [`run`].
    fn alive(&self);

    /// Answers a request. A panic is a 500 for this request and nothing more.
    fn answer(&self, incoming: Incoming, worker: &mut Self::Worker) -> Response;
}

/// How serving has ended.
#[derive(Debug)]
pub enum Ended {
    /// As it was asked to.
    Stopped,
    /// So that the program is started anew in its own place: the number of the descriptor
    /// of the listening socket, on which connections wait.
    ToStartAnew(RawFd),
}

/// Serves until `stop` is requested; then accepts no more connections, finishes what is in
/// flight, 30 seconds at most, and returns. Every `pause` it sees whether requests still
/// come in.
///
/// # Errors
/// When threads can't be started, or when no requests come in any more.
pub fn run<S: Service>(
    listener: Listener,
    workers: usize,
    pause: Duration,
    service: Arc<S>,
    stop: &Stop,
) -> io::Result<Ended> {
    let address = listener.address().clone();
    let (jobs, queue) = mpsc::sync_channel(workers * QUEUE_PER_WORKER);
    let (again, sent_ahead) = mpsc::channel();
    let (unread, disconnected) = mpsc::channel::<Unread>();
    let builder = thread::Builder::new().name("unread".into());
    builder.spawn(move || disconnected.into_iter().for_each(drop))?;
    let target = selfcheck::Target::new()?;
    let door = Door::new(&address, jobs, again, unread, workers, target.clone(), stop);
    let door = Arc::new(door);
    let pool = start_workers(workers, &door, queue, &service)?;
    admit_those_sent_ahead(sent_ahead, &door, &service)?;
    let watched = door.clone();
    let in_flight = move || watched.received.taken() + watched.sent.taken();
    let holding = door.clone();
    let stuck = move |descriptors| holding.start_anew(descriptors / 2);
    guard::start(door.guard.clone(), in_flight, stuck, stop.clone())?;

    let front = Arc::new(Front {
        door,
        service,
        requests: Arc::default(),
        current: Mutex::default(),
        dead: AtomicBool::new(false),
    });
    let renewed = front.clone();
    let renew = move || {
        if TINY_HTTP_PANICKED.swap(false, Ordering::SeqCst) {
            renewed.interrupt();
        }
    };
    nudge::start(address.clone(), front.requests.clone(), stop.clone(), renew)?;
    check_ourselves(&front, address.clone(), target, pause, stop)?;
    let unblocked = front.clone();
    stop.on_request(move || unblocked.interrupt())?;
    front.accept(&listener, stop);
    front.finish(&listener, &address);

    leave(&front.door, &pool);
    if front.dead.load(Ordering::SeqCst) {
        return Err(io::Error::other("the server doesn't answer itself"));
    }
    match front.door.starts_anew.load(Ordering::SeqCst) {
        true => listener.leave_open().map(Ended::ToStartAnew),
        false => Ok(Ended::Stopped),
    }
}

/// Whether a thread of tiny_http's has panicked, as its accepting one does when a descriptor
/// can't be duplicated or a thread can't be started. Nothing else tells.
static TINY_HTTP_PANICKED: AtomicBool = AtomicBool::new(false);

/// To be called by the panic hook, on the thread that panics; whether it is one of
/// tiny_http's: those have no names.
pub fn note_panic() -> bool {
    let is_tiny_http = thread::current().name().is_none();
    TINY_HTTP_PANICKED.fetch_or(is_tiny_http, Ordering::SeqCst);
    is_tiny_http
}

/// Where requests come in.
struct Front<S> {
    door: Arc<Door>,
    service: Arc<S>,
    /// All that came in, but for our own.
    requests: Arc<AtomicUsize>,
    /// What accepts connections now.
    current: Mutex<Option<Accepting>>,
    /// Whether requests come in no more.
    dead: AtomicBool,
}

/// Never dropped: that would remove a Unix socket's file, be it ours or not.
type Accepting = Arc<ManuallyDrop<tiny_http::Server>>;

impl<S: Service> Front<S> {
    /// Accepts connections until `stop` is requested. tiny_http accepts no more after an
    /// error, as when descriptors or threads run out; so a new one takes its place.
    fn accept(self: &Arc<Front<S>>, listener: &Listener, stop: &Stop) {
        let mut reported = None;
        while !stop.is_requested() {
            let outcome = listener.accept().and_then(|http| {
                let http = Arc::new(ManuallyDrop::new(http));
                *self.lock_current() = Some(http.clone());
                if stop.is_requested() {
                    return Ok(());
                }
                let error = self.pump(&http);
                self.serve_left_behind(http);
                error
            });
            if stop.is_requested() {
                break;
            }
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

    /// Admits requests until nothing is accepted any more.
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
        if !self.door.self_check.is(request.url()) {
            self.requests.fetch_add(1, Ordering::Relaxed);
        }
        Door::admit(&self.door, request, &*self.service);
    }

    /// Goes on to serve the connections of one that accepts no more, until they are silent
    /// for longer than any may be.
    fn serve_left_behind(self: &Arc<Front<S>>, http: Accepting) {
        let front = self.clone();
        let serve = move || {
            let mut last = Instant::now();
            while last.elapsed() < SILENCE {
                if let Ok(Some(request)) = http.recv_timeout(SILENCE) {
                    front.admit(request);
                    last = Instant::now();
                }
            }
        };
        if let Err(error) = thread::Builder::new()
            .name("left-behind".into())
            .spawn(serve)
        {
            log::warn!("some connections are served no more: {error}");
        }
    }

    /// Ends [`Front::pump`].
    fn interrupt(&self) {
        if let Some(http) = &*self.lock_current() {
            http.unblock();
        }
    }

    /// Finishes what is in flight, and what was accepted to the last moment.
    fn finish(&self, listener: &Listener, address: &Address) {
        self.door.stopping.store(true, Ordering::SeqCst);
        let mut reserve = Reserve::open(address);
        if let Err(error) = listener.pause() {
            log::debug!("accepting was not ended: {error}");
        }
        if !self.door.starts_anew.load(Ordering::SeqCst) {
            if let Err(error) = listener.remove() {
                log::debug!("the socket's file was not removed: {error}");
            }
        }
        let deadline = Instant::now() + STOP_PATIENCE;
        let mut seen = self.requests.load(Ordering::Relaxed);
        let mut last = Instant::now();
        loop {
            let in_flight = self.door.in_flight.load(Ordering::SeqCst) > 0;
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

    fn lock_current(&self) -> MutexGuard<'_, Option<Accepting>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sees whether requests come in, and does what helps if they don't: first another
/// tiny_http, in case its accepting thread has panicked, and then an end.
fn check_ourselves<S: Service>(
    front: &Arc<Front<S>>,
    address: Address,
    target: selfcheck::Target,
    pause: Duration,
    stop: &Stop,
) -> io::Result<()> {
    let (alive, failed, dead) = (front.service.clone(), front.clone(), front.clone());
    let stopped = stop.clone();
    selfcheck::start(
        address,
        target,
        pause,
        stop.clone(),
        selfcheck::Outcomes {
            alive: Box::new(move || alive.alive()),
            failed: Box::new(move || failed.interrupt()),
            dead: Box::new(move || {
                log::error!("the server doesn't answer itself any more; it ends");
                dead.dead.store(true, Ordering::SeqCst);
                stopped.request();
                // It may be the accept loop itself that hangs.
                thread::sleep(STOP_PATIENCE + LEAVE_PATIENCE);
                std::process::exit(1);
            }),
        },
    )
}

/// Requests that were sent before earlier ones of their connection were answered are
/// admitted when those are.
fn admit_those_sent_ahead<S: Service>(
    sent_ahead: Receiver<tiny_http::Request>,
    door: &Arc<Door>,
    service: &Arc<S>,
) -> io::Result<()> {
    let (door, service) = (Arc::downgrade(door), service.clone());
    thread::Builder::new()
        .name("sent-ahead".into())
        .spawn(move || {
            while let Ok(request) = sent_ahead.recv() {
                let Some(door) = door.upgrade() else { return };
                Door::work_on(&door, request, &*service);
            }
        })?;
    Ok(())
}

/// The workers take leave of the database, if it lets them.
fn leave(door: &Door, pool: &[JoinHandle<()>]) {
    door.close();
    let deadline = Instant::now() + LEAVE_PATIENCE;
    while !pool.iter().all(JoinHandle::is_finished) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
}

/// What the accept loop, the workers and the elastic threads share.
struct Door {
    /// Gone when the workers shall leave.
    jobs: Mutex<Option<SyncSender<Job>>>,
    guard: Arc<Guard>,
    /// Where requests go that were sent ahead, when it is their turn.
    again: Sender<tiny_http::Request>,
    /// Where disconnected clients' connections go: dropping them may take a moment.
    unread: Sender<Unread>,
    receivers: Elastic,
    senders: Elastic,
    lingerers: Elastic,
    received: Budget,
    sent: Budget,
    /// Workers that wait for `sent`, and how many of them may.
    waiting: AtomicUsize,
    may_wait: usize,
    in_flight: Arc<AtomicUsize>,
    /// Whether clients are told to open no further request on their connection.
    stopping: AtomicBool,
    stop: Stop,
    /// Whether the program starts anew in its own place.
    starts_anew: AtomicBool,
    /// What we ask ourselves for.
    self_check: selfcheck::Target,
}

/// A complete request on its way to a worker.
struct Job {
    exchange: Exchange,
    incoming: Incoming,
    /// The bytes of its body.
    reserved: Option<Reservation>,
}

/// A request that must be answered, and counts as in flight until it is.
struct Exchange {
    request: tiny_http::Request,
    ticket: Ticket,
}

/// What is to be done when a request was answered.
struct Ticket {
    client: Option<SocketAddr>,
    guard: Arc<Guard>,
    again: Sender<tiny_http::Request>,
    in_flight: Arc<AtomicUsize>,
    refused: bool,
}

impl Ticket {
    /// Notes that the client was refused: nothing more is expected of its connection.
    fn refuse(mut self) {
        self.guard.refused(self.client);
        self.refused = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        if self.refused {
            return;
        }
        if let Some(next) = self.guard.answered(self.client) {
            // Nobody takes it when the server has stopped.
            let _ = self.again.send(next);
        }
    }
}

impl Door {
    fn new(
        address: &Address,
        jobs: SyncSender<Job>,
        again: Sender<tiny_http::Request>,
        unread: Sender<Unread>,
        workers: usize,
        self_check: selfcheck::Target,
        stop: &Stop,
    ) -> Door {
        Door {
            jobs: Mutex::new(Some(jobs)),
            guard: Arc::new(Guard::new(address.clone())),
            again,
            unread,
            receivers: Elastic::new("receive", MAX_RECEIVERS),
            senders: Elastic::new("send", MAX_SENDERS),
            lingerers: Elastic::new("linger", MAX_LINGERERS),
            received: Budget::new(BYTES_IN_FLIGHT),
            sent: Budget::new(BYTES_IN_FLIGHT),
            waiting: AtomicUsize::new(0),
            may_wait: workers / 2,
            in_flight: Arc::default(),
            stopping: AtomicBool::new(false),
            stop: stop.clone(),
            starts_anew: AtomicBool::new(false),
            self_check,
        }
    }

    /// Takes a request whose head was read: never waits for a client.
    fn admit<S: Service>(door: &Arc<Door>, request: tiny_http::Request, service: &S) {
        if door.self_check.is(request.url()) {
            let manner = Manner {
                last: true,
                patient: false,
            };
            let _ = send::response(request, &Response::text(200, "alive"), manner);
        } else if let Some(request) = door.guard.admit(request) {
            Door::work_on(door, request, service);
        }
    }

    /// Works on a request that is the next of its connection.
    fn work_on<S: Service>(door: &Arc<Door>, request: tiny_http::Request, service: &S) {
        door.in_flight.fetch_add(1, Ordering::SeqCst);
        let ticket = Ticket {
            client: request.remote_addr().copied(),
            guard: door.guard.clone(),
            again: door.again.clone(),
            in_flight: door.in_flight.clone(),
            refused: false,
        };
        let mut exchange = Exchange { request, ticket };
        let method = Method::parse(exchange.request.method().as_str());
        let rule = service.body_rule(method, receive::origin_form(exchange.request.url()));
        match framing::body_length(&exchange.request, rule) {
            Err(status) => door.refuse(exchange, Response::error(status)),
            Ok(BodyLength::None) => door.enqueue(exchange, Vec::new(), None),
            Ok(BodyLength::AtHand(length)) => {
                let body = receive::body(&mut exchange.request, length, &Progress::start());
                match body {
                    Ok(body) => door.enqueue(exchange, body, None),
                    Err(_) => door.refuse(exchange, Response::error(400)),
                }
            }
            Ok(BodyLength::OnItsWay(length)) => Door::receive(door, exchange, length),
        }
    }

    /// Receives a body outside the accept loop and outside the pool.
    fn receive(door: &Arc<Door>, exchange: Exchange, length: usize) {
        let inner = door.clone();
        let task = move |mut exchange: Exchange| {
            let Some(reserved) = inner.received.reserve(length, receive::PATIENCE) else {
                return inner.refuse(exchange, Response::unavailable());
            };
            let progress = Arc::new(Progress::start());
            inner.guard.receives(exchange.ticket.client, &progress);
            let body = receive::body(&mut exchange.request, length, &progress);
            inner.guard.received(exchange.ticket.client);
            match body {
                Ok(body) => inner.enqueue(exchange, body, Some(reserved)),
                Err(error) => {
                    log::debug!("a body ended early: {error}");
                    inner.refuse(exchange, Response::error(400));
                }
            }
        };
        if let Err(exchange) = door.receivers.run(exchange, task) {
            door.refuse(exchange, Response::unavailable());
        }
    }

    /// Hands a complete request to the pool, or answers 503 if too many wait already.
    fn enqueue(&self, exchange: Exchange, body: Vec<u8>, reserved: Option<Reservation>) {
        let incoming = receive::incoming(&exchange.request, body);
        let job = Job {
            exchange,
            incoming,
            reserved,
        };
        let jobs = self.lock_jobs();
        // Without it the workers have left, and the process ends.
        let Some(queue) = jobs.as_ref() else { return };
        let refused = match queue.try_send(job) {
            Ok(()) => return,
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => job,
        };
        drop(jobs);
        self.hand_over(refused.exchange, Response::unavailable(), None);
    }

    /// Lets the workers leave.
    fn close(&self) {
        self.lock_jobs().take();
    }

    fn lock_jobs(&self) -> MutexGuard<'_, Option<SyncSender<Job>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends an answer: a small one at once, a large one from a sending thread.
    fn send(&self, exchange: Exchange, response: Response) {
        let size = response.body.as_slice().len();
        if size <= send::SMALL || exchange.request.method() == &tiny_http::Method::Head {
            return self.respond(exchange, &response, false);
        }
        match self.reserve_for_sending(size) {
            Some(reserved) => self.hand_over(exchange, response, Some(reserved)),
            None => self.respond(exchange, &Response::unavailable(), false),
        }
    }

    /// Takes the bytes of a large answer. When many are on their way, half of the workers
    /// may wait a moment for some to arrive; the other half stays there for small ones.
    fn reserve_for_sending(&self, size: usize) -> Option<Reservation> {
        self.sent.reserve(size, Duration::ZERO).or_else(|| {
            let others = self.waiting.fetch_add(1, Ordering::SeqCst);
            let patience = if others < self.may_wait {
                SEND_PATIENCE
            } else {
                Duration::ZERO
            };
            let reserved = self.sent.reserve(size, patience);
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            reserved
        })
    }

    /// Sends an answer from a sending thread.
    fn hand_over(&self, exchange: Exchange, response: Response, reserved: Option<Reservation>) {
        let last = self.stopping.load(Ordering::SeqCst);
        let task = move |exchange: Exchange| {
            let manner = Manner {
                last,
                patient: true,
            };
            respond(exchange, &response, manner);
            drop(reserved);
        };
        if let Err(exchange) = self.senders.run(exchange, task) {
            self.respond(exchange, &Response::unavailable(), false);
        }
    }

    /// Sends an answer from the thread that calls.
    fn respond(&self, exchange: Exchange, response: &Response, patient: bool) {
        let last = self.stopping.load(Ordering::SeqCst);
        respond(exchange, response, Manner { last, patient });
    }

    /// Answers a request whose body was not read to its end, and closes the connection.
    fn refuse(self: &Arc<Door>, exchange: Exchange, response: Response) {
        let door = self.clone();
        let task = move |(exchange, response): (Exchange, Response)| {
            let client = exchange.ticket.client;
            let unread = send::refusal(exchange.request, &response);
            // What is still listened to is answered: it need not delay a stop.
            exchange.ticket.refuse();
            match unread.may_end() {
                true => {
                    unread.linger();
                    door.guard.dismissed(client);
                }
                false => door.give_up(unread, client),
            }
        };
        if let Err((exchange, response)) = self.lingerers.run((exchange, response), task) {
            let client = exchange.ticket.client;
            let unread = send::refusal(exchange.request, &response);
            exchange.ticket.refuse();
            match unread.may_end() && client.is_some() {
                // It ends without being listened to: its client may miss the answer.
                true => {
                    self.guard.disconnect(client);
                    let _ = self.unread.send(unread);
                }
                false => self.give_up(unread, client),
            }
        }
    }

    /// Keeps a connection that can't be dropped, without its client. After many of them
    /// the program starts anew.
    fn give_up(&self, unread: Unread, client: Option<SocketAddr>) {
        unread.keep_for_ever();
        let count = self.guard.give_up(client);
        log::debug!("a connection was given up: its client announced a body beyond all limits");
        if count >= MAX_GIVEN_UP {
            self.start_anew(count);
        }
    }

    /// Ends the server so that the program starts anew in its own place, which alone frees
    /// what so many connections hold.
    fn start_anew(&self, connections: usize) {
        if !self.starts_anew.swap(true, Ordering::SeqCst) {
            log::warn!(
                "{connections} connections hold what can't be freed; the server starts anew to \
                 be rid of them. A web server in front would keep such clients away"
            );
            self.stop.request();
        }
    }
}

fn respond(exchange: Exchange, response: &Response, manner: Manner) {
    let Exchange { request, ticket } = exchange;
    if send::response(request, response, manner).is_err() {
        // Half an answer can't be followed by another.
        ticket.guard.disconnect(ticket.client);
    }
}

fn start_workers<S: Service>(
    count: usize,
    door: &Arc<Door>,
    queue: Receiver<Job>,
    service: &Arc<S>,
) -> io::Result<Vec<JoinHandle<()>>> {
    let queue = Arc::new(Mutex::new(queue));
    (1..=count)
        .map(|number| {
            let (door, queue, service) = (Arc::downgrade(door), queue.clone(), service.clone());
            thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    let mut state = service.worker();
                    loop {
                        // The lock is held while waiting: the others wait for the lock instead.
                        let next = {
                            let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
                            queue.recv_timeout(IDLE)
                        };
                        match next {
                            Ok(job) => work(&door, &*service, job, &mut state),
                            Err(RecvTimeoutError::Timeout) => service.idle(&mut state),
                            Err(RecvTimeoutError::Disconnected) => return,
                        }
                    }
                })
        })
        .collect()
}

fn work<S: Service>(door: &Weak<Door>, service: &S, job: Job, state: &mut S::Worker) {
    let Job {
        exchange,
        incoming,
        reserved,
    } = job;
    let response = answer(service, incoming, state);
    drop(reserved);
    // It lives for as long as something is in flight.
    if let Some(door) = door.upgrade() {
        door.send(exchange, response);
    }
}

/// Runs the handler; a panic in it is a 500, and the worker's state is made anew.
fn answer<S: Service>(service: &S, incoming: Incoming, state: &mut S::Worker) -> Response {
    // What a panic may leave half done is `state` alone, which is thrown away then.
    let outcome = catch_unwind(AssertUnwindSafe(|| service.answer(incoming, &mut *state)));
    outcome.unwrap_or_else(|_| {
        log::error!("a handler panicked; its request is answered 500");
        *state = service.worker();
        Response::error(500)
    })
}
