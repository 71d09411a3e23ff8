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
mod listener;
mod nudge;
mod receive;
mod selfcheck;
mod send;
mod stop;

use std::io;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::http::{BodyRule, Incoming, Method, Response};
use address::Address;
use elastic::{Budget, Elastic, Reservation};
use framing::BodyLength;
use listener::Closer;
use nudge::Reserve;

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
const MAX_LINGERERS: usize = 32;
/// Bytes of large bodies, and of large answers, that are held at once: with 512 MB of
/// memory the operator's database and system need the other half.
const BYTES_IN_FLIGHT: usize = 96 * 1024 * 1024;
/// How long a worker with a large answer waits for others to arrive.
const SEND_PATIENCE: Duration = Duration::from_secs(2);
/// How long requests in flight may take to end when the server stops.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// With no request in flight and none coming in for so long, the server has stopped:
/// connections were accepted to the last moment, and their heads are on their way.
const QUIET: Duration = Duration::from_millis(200);
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

/// Serves until `stop` is requested; then accepts no more connections, finishes what is in
/// flight, 30 seconds at most, and returns. Every `pause` it sees whether requests still
/// come in.
///
/// # Errors
/// When threads can't be started, or when nothing can be accepted any more.
pub fn run<S: Service>(
    listener: Listener,
    workers: usize,
    pause: Duration,
    service: Arc<S>,
    stop: &Stop,
) -> io::Result<()> {
    let address = listener.address().clone();
    let (http, closer) = listener.into_tiny_http()?;
    // Never dropped: that would remove a Unix socket's file, be it ours or not.
    let http = Arc::new(ManuallyDrop::new(http));
    let (jobs, queue) = mpsc::sync_channel(workers * QUEUE_PER_WORKER);
    let target = selfcheck::Target::new()?;
    let door = Arc::new(Door::new(jobs, workers, target.clone()));
    let pool = start_workers(workers, &door, queue, &service)?;

    let requests = Arc::new(AtomicUsize::new(0));
    nudge::start(address.clone(), requests.clone(), stop.clone())?;
    let dead = Arc::new(AtomicBool::new(false));
    let (alive, found_dead, stopped) = (service.clone(), dead.clone(), stop.clone());
    selfcheck::start(
        address.clone(),
        target,
        pause,
        stop.clone(),
        move || alive.alive(),
        move || {
            log::error!("the server doesn't answer itself any more; it ends");
            found_dead.store(true, Ordering::SeqCst);
            stopped.request();
            // It may be the accept loop itself that hangs.
            thread::sleep(STOP_PATIENCE + LEAVE_PATIENCE);
            std::process::exit(1);
        },
    )?;
    let unblocked = http.clone();
    stop.on_request(move || unblocked.unblock())?;
    let outcome = loop {
        match http.recv() {
            Ok(request) => {
                requests.fetch_add(1, Ordering::Relaxed);
                Door::admit(&door, request, &*service);
            }
            Err(_) if stop.is_requested() => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    finish(&http, closer, &address, door, &*service, &pool);
    match dead.load(Ordering::SeqCst) {
        true => Err(io::Error::other("the server doesn't answer itself")),
        false => outcome,
    }
}

/// Finishes what is in flight, and what was accepted to the last moment.
fn finish<S: Service>(
    http: &tiny_http::Server,
    closer: Closer,
    address: &Address,
    door: Arc<Door>,
    service: &S,
    pool: &[JoinHandle<()>],
) {
    door.stopping.store(true, Ordering::SeqCst);
    let mut reserve = Reserve::open(address);
    if let Err(error) = closer.close() {
        log::debug!("accepting was not ended: {error}");
    }
    let deadline = Instant::now() + STOP_PATIENCE;
    let mut last = Instant::now();
    let mut in_flight = true;
    while in_flight || last.elapsed() < QUIET || !reserve.is_empty() {
        if Instant::now() >= deadline {
            return log::warn!("stopping although some requests are still in flight");
        }
        // An error is tiny_http's word that it accepts no more, as it shall.
        if let Ok(Some(request)) = http.recv_timeout(STOP_TICK) {
            Door::admit(&door, request, service);
            last = Instant::now();
        } else {
            reserve.release();
        }
        in_flight = door.in_flight.load(Ordering::SeqCst) > 0;
    }
    // The workers take leave of the database, if it lets them.
    drop(door);
    let deadline = Instant::now() + LEAVE_PATIENCE;
    while !pool.iter().all(JoinHandle::is_finished) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
}

/// What the accept loop, the workers and the elastic threads share.
struct Door {
    jobs: SyncSender<Job>,
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
    in_flight: InFlight,
}

struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    fn new(count: &Arc<AtomicUsize>) -> InFlight {
        count.fetch_add(1, Ordering::SeqCst);
        InFlight(count.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Door {
    fn new(jobs: SyncSender<Job>, workers: usize, self_check: selfcheck::Target) -> Door {
        Door {
            jobs,
            receivers: Elastic::new("receive", MAX_RECEIVERS),
            senders: Elastic::new("send", MAX_SENDERS),
            lingerers: Elastic::new("linger", MAX_LINGERERS),
            received: Budget::new(BYTES_IN_FLIGHT),
            sent: Budget::new(BYTES_IN_FLIGHT),
            waiting: AtomicUsize::new(0),
            may_wait: workers / 2,
            in_flight: Arc::default(),
            stopping: AtomicBool::new(false),
            self_check,
        }
    }

    /// Takes a request whose head was read: never waits for a client.
    fn admit<S: Service>(door: &Arc<Door>, request: tiny_http::Request, service: &S) {
        if door.self_check.is(request.url()) {
            return send::response(request, &Response::text(200, "alive"), true);
        }
        let mut exchange = Exchange {
            request,
            in_flight: InFlight::new(&door.in_flight),
        };
        let method = Method::parse(exchange.request.method().as_str());
        let rule = service.body_rule(method, receive::origin_form(exchange.request.url()));
        match framing::body_length(&exchange.request, rule) {
            Err(status) => door.refuse(exchange, Response::error(status)),
            Ok(BodyLength::None) => door.enqueue(exchange, Vec::new(), None),
            Ok(BodyLength::AtHand(length)) => match receive::body(&mut exchange.request, length) {
                Ok(body) => door.enqueue(exchange, body, None),
                Err(_) => door.refuse(exchange, Response::error(400)),
            },
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
            match receive::body(&mut exchange.request, length) {
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
        match self.jobs.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => {
                self.hand_over(job.exchange, Response::unavailable(), None);
            }
        }
    }

    /// Sends an answer: a small one at once, a large one from a sending thread.
    fn send(&self, exchange: Exchange, response: Response) {
        let size = response.body.as_slice().len();
        if size <= send::SMALL || exchange.request.method() == &tiny_http::Method::Head {
            return self.respond(exchange.request, &response);
        }
        match self.reserve_for_sending(size) {
            Some(reserved) => self.hand_over(exchange, response, Some(reserved)),
            None => self.respond(exchange.request, &Response::unavailable()),
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
        let stopping = self.stopping.load(Ordering::SeqCst);
        let task = move |exchange: Exchange| {
            send::response(exchange.request, &response, stopping);
            drop(reserved);
        };
        if let Err(exchange) = self.senders.run(exchange, task) {
            self.respond(exchange.request, &Response::unavailable());
        }
    }

    /// Answers a request whose body was not read to its end, and closes the connection.
    fn refuse(&self, exchange: Exchange, response: Response) {
        let task = move |(exchange, response): (Exchange, Response)| {
            let unread = send::refusal(exchange.request, &response);
            // What is still listened to is answered: it need not delay a stop.
            drop(exchange.in_flight);
            unread.linger();
        };
        if let Err((exchange, response)) = self.lingerers.run((exchange, response), task) {
            send::refusal(exchange.request, &response).give_up();
        }
    }

    /// Writes an answer, and waits until its client has taken it.
    fn respond(&self, request: tiny_http::Request, response: &Response) {
        send::response(request, response, self.stopping.load(Ordering::SeqCst));
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
