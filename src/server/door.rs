//! The way of a request from its head to its answer: who works on it, and what holds it up.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::address::Address;
use super::chunks::{self, Failure, Watch};
use super::elastic::{Budget, Elastic, Reservation};
use super::framing::{self, BodyLength};
use super::guard::Guard;
use super::pace::Progress;
use super::queue::Queue;
use super::send::{self, Manner, Unread};
use super::{Service, receive, selfcheck};
use crate::buffer::Buffer;
use crate::protocol::http::{Body, Incoming, Method, Response};
use crate::stop::Stop;

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
/// How long it waits then for a moment without requests in flight,
const START_ANEW_DELAY: Duration = Duration::from_secs(30);
/// looking so often; with twice as many it waits no longer.
const START_ANEW_TICK: Duration = Duration::from_millis(10);
/// Complete requests that may wait for a worker, per worker. A worker answers thousands
/// of small requests in a second, so that waiting longer means that the database is stuck.
const QUEUE_PER_WORKER: usize = 32;
/// How long a worker with a large answer waits for others to arrive.
const SEND_PATIENCE: Duration = Duration::from_secs(2);

/// What the accept loop, the workers and the elastic threads share.
pub struct Door {
    /// Where complete requests wait for a worker.
    pub jobs: Queue<Job>,
    /// Keeps the deadlines of clients.
    pub guard: Arc<Guard>,
    /// Bodies that come in chunks.
    pub chunks: Arc<Watch>,
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
    /// Whether clients are told to send no further request on their connection: always on a
    /// Unix socket ([`super::local`]), and while the server stops.
    closes: AtomicBool,
    stop: Stop,
    /// Whether the program shall start anew in its own place when it's quiet,
    will_start_anew: AtomicBool,
    /// and whether it does.
    starts_anew: AtomicBool,
    /// What we ask ourselves for.
    self_check: selfcheck::Target,
}

/// A complete request on its way to a worker.
pub struct Job {
    /// What its answer goes to.
    pub exchange: Exchange,
    /// The request.
    pub incoming: Incoming,
    /// The bytes of its body.
    pub reserved: Option<Reservation>,
}

/// A request that must be answered, and counts as in flight until it is.
pub struct Exchange {
    request: tiny_http::Request,
    ticket: Ticket,
}

/// What is to be done when a request was answered.
pub struct Ticket {
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
    /// For `workers` threads; requests that were sent ahead are handed to `again`, connections
    /// that only need to be dropped to `unread`.
    pub fn new(
        address: &Address,
        again: Sender<tiny_http::Request>,
        unread: Sender<Unread>,
        workers: usize,
        self_check: selfcheck::Target,
        stop: &Stop,
    ) -> Door {
        Door {
            jobs: Queue::new(workers * QUEUE_PER_WORKER),
            guard: Arc::new(Guard::new(address.clone())),
            chunks: Arc::new(Watch::new(address.clone())),
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
            closes: AtomicBool::new(matches!(address, Address::Unix(_))),
            stop: stop.clone(),
            will_start_anew: AtomicBool::new(false),
            starts_anew: AtomicBool::new(false),
            self_check,
        }
    }

    /// Bytes of large bodies and answers that are held.
    pub fn bytes_in_flight(&self) -> usize {
        self.received.taken() + self.sent.taken()
    }

    /// Requests that are not answered yet.
    pub fn requests_in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Whether a request is not answered yet.
    pub fn has_requests_in_flight(&self) -> bool {
        self.requests_in_flight() > 0
    }

    /// Tells clients from now on to send no further requests.
    pub fn begin_to_stop(&self) {
        self.closes.store(true, Ordering::SeqCst);
    }

    /// Whether the server is stopping so that the program starts anew in its own place.
    pub fn starts_anew(&self) -> bool {
        self.starts_anew.load(Ordering::SeqCst)
    }

    /// Whether a request is one of our own.
    pub fn is_self_check(&self, request: &tiny_http::Request) -> bool {
        self.self_check.is(request.url())
    }

    /// Takes a request whose head was read: never waits for a client.
    pub fn admit<S: Service>(door: &Arc<Door>, request: tiny_http::Request, service: &S) {
        if door.is_self_check(&request) {
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
            Err(413) => {
                let response = too_large(&exchange, service);
                door.refuse(exchange, response);
            }
            Err(status) => door.refuse(exchange, Response::error(status)),
            Ok(BodyLength::None) => door.enqueue(exchange, Buffer::default(), None),
            Ok(BodyLength::AtHand(length)) => {
                let body = receive::body(&mut exchange.request, length, &Progress::start());
                match body {
                    Ok(body) => door.enqueue(exchange, body, None),
                    Err(_) => door.refuse(exchange, Response::error(400)),
                }
            }
            Ok(BodyLength::OnItsWay(length)) => Door::receive(door, exchange, length),
            Ok(BodyLength::InChunks(limit)) => {
                let too_large = too_large(&exchange, service);
                Door::receive_chunks(door, exchange, limit, too_large);
            }
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
            let client = exchange.ticket.client;
            inner.guard.receives(client, &progress);
            let cuts = inner.guard.local_cuts();
            let body = receive::body(&mut exchange.request, length, &progress);
            inner.guard.received(client);
            match body {
                Ok(body) => inner.enqueue(exchange, body, Some(reserved)),
                // We may have cut it off ourselves.
                Err(_) if client.is_none() && inner.guard.local_cuts() != cuts => {
                    inner.refuse(exchange, Response::unavailable());
                }
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

    /// The same for a body in chunks. It is answered `too_large` beyond `limit` bytes.
    fn receive_chunks(door: &Arc<Door>, exchange: Exchange, limit: usize, too_large: Response) {
        let inner = door.clone();
        let task = move |mut exchange: Exchange| {
            let client = exchange.ticket.client;
            let progress = Arc::new(Progress::start());
            inner.guard.receives(client, &progress);
            let cuts = inner.guard.local_cuts();
            let received = inner.chunks.over(client, |watched| {
                let request = &mut exchange.request;
                chunks::body(request, limit, &inner.received, &progress, watched)
            });
            inner.guard.received(client);
            let refusal = match received {
                // It may have been cut off in the middle of a chunk.
                Ok(_) if client.is_none() && inner.guard.local_cuts() != cuts => {
                    Response::unavailable()
                }
                Ok((body, reserved)) => return inner.enqueue(exchange, body, Some(reserved)),
                Err(Failure::TooLarge) => too_large,
                Err(Failure::NoMemory) => Response::unavailable(),
                Err(Failure::Broken(error)) => {
                    log::debug!("a body in chunks ended early: {error}");
                    Response::error(400)
                }
            };
            inner.refuse(exchange, refusal);
        };
        if let Err(exchange) = door.receivers.run(exchange, task) {
            door.refuse(exchange, Response::unavailable());
        }
    }

    /// Hands a complete request to the pool, or answers 503 if too many wait already.
    fn enqueue(&self, exchange: Exchange, body: Buffer, reserved: Option<Reservation>) {
        let incoming = receive::incoming(&exchange.request, body);
        let job = Job {
            exchange,
            incoming,
            reserved,
        };
        if let Err(job) = self.jobs.push(job) {
            self.turn_away(job);
        }
    }

    /// Answers 503 to a request that finds no worker.
    pub fn turn_away(&self, job: Job) {
        drop(job.reserved);
        self.hand_over(job.exchange, Response::unavailable(), None);
    }

    /// Sends an answer: a small one at once, a large one from a sending thread.
    pub fn send(&self, exchange: Exchange, response: Response) {
        let size = response.body.as_slice().len();
        if size <= send::SMALL || exchange.request.method() == &tiny_http::Method::Head {
            return self.respond(exchange, &response);
        }
        match self.reserve_for_sending(&response.body) {
            Some(reserved) => self.hand_over(exchange, response, Some(reserved)),
            None => self.respond(exchange, &Response::unavailable()),
        }
    }

    /// Takes the bytes of a large answer. When many are on their way, half of the workers
    /// may wait a moment for some to arrive; the other half stays there for small ones.
    fn reserve_for_sending(&self, body: &Body) -> Option<Arc<Reservation>> {
        let reserve = |patience| match body {
            // What many want at once is in memory once.
            Body::Shared(buffer) => self.sent.reserve_buffer(buffer, patience),
            body => self
                .sent
                .reserve(body.as_slice().len(), patience)
                .map(Arc::new),
        };
        reserve(Duration::ZERO).or_else(|| {
            let others = self.waiting.fetch_add(1, Ordering::SeqCst);
            let patience = if others < self.may_wait {
                SEND_PATIENCE
            } else {
                Duration::ZERO
            };
            let reserved = reserve(patience);
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            reserved
        })
    }

    /// Sends an answer from a sending thread.
    fn hand_over(
        &self,
        exchange: Exchange,
        response: Response,
        reserved: Option<Arc<Reservation>>,
    ) {
        let last = self.closes.load(Ordering::SeqCst);
        let task = move |exchange: Exchange| {
            let manner = Manner {
                last,
                patient: true,
            };
            respond(exchange, &response, manner);
            // Before the response, whose bytes it counts.
            drop(reserved);
        };
        if let Err(exchange) = self.senders.run(exchange, task) {
            self.respond(exchange, &Response::unavailable());
        }
    }

    /// Sends an answer from the thread that calls, which has others to serve.
    fn respond(&self, exchange: Exchange, response: &Response) {
        let manner = Manner {
            last: self.closes.load(Ordering::SeqCst),
            patient: false,
        };
        respond(exchange, response, manner);
    }

    /// Answers a request whose body need not have been read to its end, and closes the
    /// connection.
    fn refuse(self: &Arc<Door>, exchange: Exchange, response: Response) {
        let door = self.clone();
        let task = move |(exchange, response): (Exchange, Response)| match framing::is_read(
            &exchange.request,
        ) {
            true => door.dismiss(exchange, &response),
            false => door.hear_out(exchange, &response),
        };
        if let Err((exchange, response)) = self.lingerers.run((exchange, response), task) {
            if framing::is_read(&exchange.request) {
                return self.dismiss(exchange, &response);
            }
            let client = exchange.ticket.client;
            let unread = send::refusal(exchange.request, &response);
            exchange.ticket.refuse();
            match unread.may_end() {
                // It ends without being listened to: its client may miss the answer. On a Unix
                // socket its reading half is shut soon.
                true => {
                    self.guard.disconnect(client);
                    let _ = self.unread.send(unread);
                }
                false => self.give_up(unread, client),
            }
        }
    }

    /// Answers a request whose body was not read, and listens until its client has stopped
    /// sending.
    fn hear_out(self: &Arc<Door>, exchange: Exchange, response: &Response) {
        let client = exchange.ticket.client;
        let unread = send::refusal(exchange.request, response);
        // What is still listened to is answered: it need not delay a stop.
        exchange.ticket.refuse();
        match unread.may_end() {
            true => match self.chunks.over(client, |_| unread.linger()) {
                true => self.guard.forget(client),
                false => self.guard.dismissed(client),
            },
            false => self.give_up(unread, client),
        }
    }

    /// Answers a request of which nothing is still to come, and closes the connection.
    fn dismiss(&self, exchange: Exchange, response: &Response) {
        let Exchange { request, ticket } = exchange;
        let client = ticket.client;
        let manner = Manner {
            last: true,
            patient: false,
        };
        let sent = send::response(request, response, manner);
        ticket.refuse();
        match sent {
            Ok(()) => self.guard.dismissed(client),
            Err(_) => self.guard.disconnect(client),
        }
    }

    /// Keeps a connection that can't be dropped, without its client. After many of them
    /// the program starts anew.
    fn give_up(self: &Arc<Door>, unread: Unread, client: Option<SocketAddr>) {
        unread.keep_for_ever();
        let count = self.guard.give_up(client);
        log::debug!("a connection was given up: its client announced a body beyond all limits");
        if count >= MAX_GIVEN_UP {
            self.start_anew(count);
        }
    }

    /// Ends the server so that the program starts anew in its own place, which alone frees
    /// what so many connections hold. Requests in flight may end before that, while new ones
    /// are served: whoever can cause this must not make others wait.
    pub fn start_anew(self: &Arc<Door>, connections: usize) {
        if self.will_start_anew.swap(true, Ordering::SeqCst) {
            return;
        }
        log::warn!(
            "{connections} connections hold what can't be freed; the server starts anew to be rid \
             of them. A web server in front would keep such clients away"
        );
        let door = self.clone();
        let wait_and_stop = move || {
            let deadline = Instant::now() + START_ANEW_DELAY;
            while door.has_requests_in_flight()
                && Instant::now() < deadline
                && door.guard.given_up() < 2 * MAX_GIVEN_UP
            {
                if door.stop.wait(START_ANEW_TICK) {
                    return;
                }
            }
            door.starts_anew.store(true, Ordering::SeqCst);
            door.stop.request();
        };
        let builder = thread::Builder::new().name("start-anew".into());
        if let Err(error) = builder.spawn(wait_and_stop) {
            log::warn!("no thread to start anew with: {error}");
            self.will_start_anew.store(false, Ordering::SeqCst);
        }
    }
}

/// The answer to a request whose body is larger than its endpoint allows, or that no endpoint
/// takes.
fn too_large<S: Service>(exchange: &Exchange, service: &S) -> Response {
    let method = Method::parse(exchange.request.method().as_str());
    let target = receive::origin_form(exchange.request.url());
    let refusal = service.refusal(method, target);
    refusal.unwrap_or_else(|| Response::error(413))
}

fn respond(exchange: Exchange, response: &Response, manner: Manner) {
    let Exchange { request, ticket } = exchange;
    if send::response(request, response, manner).is_err() {
        // Half an answer can't be followed by another.
        ticket.guard.disconnect(ticket.client);
    }
}

/// Requests that were sent before earlier ones of their connection were answered are
/// admitted when those are.
pub fn admit_those_sent_ahead<S: Service>(
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
