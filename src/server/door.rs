//! Where requests are admitted: what a request's head allows, who receives its body, and how it is
//! refused.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::Sender;
use std::time::Instant;

use super::address::Address;
use super::arrival::Arrival;
use super::budget::{Budget, Reservation};
use super::elastic::Elastic;
use super::exchange::Exchange;
use super::framing::{self, BodyLength};
use super::guard::Guard;
use super::guard::connections::Phase;
use super::guard::selfcheck::SelfCheck;
use super::guard::unread::{self, Unread};
use super::pace::Progress;
use super::queue::Queue;
use super::receive::{self, Failure};
use super::refusals::Refusal;
use super::send::{self, Senders};
use super::{Service, Work, Workers};
use crate::buffer::Buffer;
use crate::config::Shares;
use crate::protocol::http::{Method, Response};

/// Clients whose bodies are received at once.
const MAX_RECEIVERS: usize = 256;
/// Refused clients who are listened to until they stop sending.
const MAX_LINGERERS: usize = 128;
/// Complete requests that may wait for a worker, per worker. A worker answers thousands
/// of small requests in a second, so that waiting longer means that the database is stuck.
const QUEUE_PER_WORKER: usize = 32;
/// Questions how the server is that may wait: more than there are monitors.
const MAX_URGENT: usize = 256;

/// What the accept loop, the workers and the elastic threads share.
pub struct Door<S: Service> {
    /// What answers the requests.
    pub service: Arc<S>,
    /// What is known of the connections.
    pub guard: Arc<Guard>,
    /// Where complete requests wait for a worker.
    pub jobs: Queue<Job<S::Waiting>>,
    /// Where those wait that must be answered while all workers are busy.
    pub urgent: Queue<Job<S::Waiting>>,
    /// Where answers go.
    pub senders: Senders,
    /// How many workers there are.
    pub workers: usize,
    /// How many workers answer a request now.
    pub busy: AtomicUsize,
    receivers: Elastic,
    received: Budget,
    lingerers: Elastic,
    /// Where refused requests go that nobody listens to.
    unread: Sender<Unread>,
    self_check: SelfCheck,
}

/// A complete request on its way to a worker.
pub struct Job<W> {
    /// What its answer goes to.
    pub exchange: Exchange,
    /// The request.
    pub work: Work<W>,
    /// The bytes of its body.
    pub reserved: Option<Reservation>,
}

impl<S: Service> Door<S> {
    /// For requests to `addresses`, which `workers` answer with `service`. Bodies and answers take
    /// their shares of the memory.
    ///
    /// # Errors
    /// When the system has no thread to spare.
    pub fn new(
        addresses: &[Address],
        workers: Workers,
        memory: &Shares,
        service: Arc<S>,
        self_check: SelfCheck,
    ) -> io::Result<Door<S>> {
        Ok(Door {
            guard: Arc::new(Guard::new(addresses, service.descriptors())),
            service,
            jobs: Queue::new(workers.all * QUEUE_PER_WORKER, workers.writing),
            urgent: Queue::new(MAX_URGENT, 0),
            senders: Senders::new(workers.all, memory.answers),
            workers: workers.all,
            busy: AtomicUsize::new(0),
            receivers: Elastic::new("receive", MAX_RECEIVERS),
            received: Budget::new(memory.bodies),
            lingerers: Elastic::new("linger", MAX_LINGERERS),
            unread: unread::start_dropping()?,
            self_check,
        })
    }

    /// Bytes of large bodies and answers that are held.
    pub fn bytes_in_flight(&self) -> usize {
        self.received.taken() + self.senders.bytes()
    }

    /// The bytes of bodies that are being received.
    pub fn received(&self) -> &Budget {
        &self.received
    }

    /// Takes a request of which the head was read: never waits for a client.
    pub fn admit(self: &Arc<Self>, arrival: Arrival) {
        if self.self_check.is_ours(&arrival.request) {
            let _ = send::answer(arrival.request, &Response::text(200, "alive"), true, None);
        } else if let Some(arrival) = self.guard.head_came(arrival) {
            self.begin(arrival);
        }
    }

    /// Works on a request of which it is the turn in its connection.
    pub fn begin(self: &Arc<Self>, arrival: Arrival) {
        let exchange = Exchange::begin(arrival, &self.guard);
        let (method, target) = line(&exchange);
        let rule = self.service.body_rule(method, target);
        match framing::body_length(&exchange.request, rule) {
            Ok(length @ BodyLength::AtHand(_)) => self.receive(exchange, length),
            Ok(length) => {
                let door = self.clone();
                let task = move |exchange| door.receive(exchange, length);
                if let Err(exchange) = self.receivers.run(exchange, task) {
                    self.refuse(exchange, Response::unavailable(), Refusal::NoThread);
                }
            }
            Err(413) => {
                let response = self.too_large(&exchange);
                self.refuse(exchange, response, Refusal::TooLarge);
            }
            Err(status) => self.refuse(exchange, Response::error(status), Refusal::Malformed),
        }
    }

    /// Receives a body and enqueues its request, or refuses it. The body must be at hand if this
    /// is the accept loop: otherwise it waits for the client.
    fn receive(self: &Arc<Self>, mut exchange: Exchange, length: BodyLength) {
        let (response, cause) = match self.body(&mut exchange, length) {
            Ok((body, reserved)) => return self.enqueue(exchange, body, reserved),
            Err(Failure::TooLarge) => (self.too_large(&exchange), Refusal::TooLarge),
            Err(Failure::NoMemory) => (Response::unavailable(), Refusal::NoMemoryToReceive),
            Err(Failure::Shut) => (Response::unavailable(), Refusal::Shut),
            Err(Failure::Broken(error)) => {
                log::debug!("a body ended early: {error}");
                (Response::error(400), Refusal::BrokenBody)
            }
        };
        self.refuse(exchange, response, cause);
    }

    fn body(
        &self,
        exchange: &mut Exchange,
        length: BodyLength,
    ) -> Result<(Buffer, Option<Reservation>), Failure> {
        let (request, client) = (&mut exchange.request, exchange.ticket.client());
        let (received, was_shut) = match length {
            BodyLength::AtHand(length) => {
                let progress = Progress::start(Instant::now());
                return Ok((receive::whole(request, length, &progress)?, None));
            }
            BodyLength::OnItsWay(length) => {
                let reserved = receive::reserve(&self.received, length)?;
                self.guard.over_body(client, false, |progress| {
                    let body = receive::whole(request, length, progress)?;
                    Ok((body, reserved))
                })
            }
            BodyLength::InChunks(limit) => self.guard.over_body(client, true, |progress| {
                let body = receive::in_chunks(request, limit, &self.received, progress)?;
                if self.guard.has_hung_up(client) {
                    return Err(Failure::Broken(ErrorKind::UnexpectedEof.into()));
                }
                Ok(body)
            }),
        };
        match received {
            // The end of the connection looks like the end of a body in chunks.
            Ok(_) if was_shut && matches!(length, BodyLength::InChunks(_)) => Err(Failure::Shut),
            Err(Failure::Broken(_)) if was_shut => Err(Failure::Shut),
            received => received.map(|(body, reserved)| (body, Some(reserved))),
        }
    }

    /// Hands a complete request to the pool, or answers 503 if too many wait already.
    fn enqueue(&self, exchange: Exchange, body: Buffer, reserved: Option<Reservation>) {
        let incoming = receive::incoming(&exchange.request, body);
        let is_urgent = self.service.is_urgent(incoming.method, &incoming.target);
        let job = Job {
            exchange,
            work: Work::New(incoming),
            reserved,
        };
        let queue = if is_urgent { &self.urgent } else { &self.jobs };
        if let Err(job) = queue.push(job) {
            self.turn_away(job, Refusal::QueueFull);
        }
    }

    /// Answers 503 to a request that finds no worker.
    pub fn turn_away(&self, job: Job<S::Waiting>, cause: Refusal) {
        drop(job.reserved);
        self.count_refused(&job.exchange, 503, cause);
        self.senders.turn_away(job.exchange);
    }

    /// The answer to a request whose body is larger than its endpoint allows, or that no endpoint
    /// takes.
    fn too_large(&self, exchange: &Exchange) -> Response {
        let (method, target) = line(exchange);
        let refusal = self.service.refusal(method, target);
        refusal.unwrap_or_else(|| Response::error(413))
    }

    /// Answers a request of which the body need not have been read to its end, and closes the
    /// connection.
    fn refuse(self: &Arc<Self>, exchange: Exchange, response: Response, cause: Refusal) {
        self.count_refused(&exchange, response.status, cause);
        let door = self.clone();
        let task = move |(exchange, response)| door.refuse_now(exchange, &response, true);
        if let Err((exchange, response)) = self.lingerers.run((exchange, response), task) {
            self.refuse_now(exchange, &response, false);
        }
    }

    /// The same on this thread, which `may_linger` until the client has stopped sending.
    fn refuse_now(&self, exchange: Exchange, response: &Response, may_linger: bool) {
        let Exchange { request, ticket } = exchange;
        let client = ticket.client();
        if framing::is_read(&request) {
            let sent = send::answer(request, response, true, None);
            ticket.refused();
            return match sent {
                Ok(()) => self.guard.refused(client, Phase::Farewell),
                Err(_) => self.guard.disconnect(client),
            };
        }
        let unread = Unread::refuse(request, response);
        ticket.refused();
        if !unread.may_end() {
            unread.keep_for_ever();
            self.guard.give_up(client);
        } else if !may_linger {
            // Its client may miss the answer. On a Unix socket its reading half is shut soon.
            self.guard.disconnect(client);
            let _ = self.unread.send(unread);
        } else if unread.linger() {
            self.guard.forget(client);
        } else {
            self.guard.refused(client, Phase::Farewell);
        }
    }

    /// Counts a request that is refused.
    fn count_refused(&self, exchange: &Exchange, status: u16, cause: Refusal) {
        exchange.ticket.note(cause);
        let (method, target) = line(exchange);
        self.service.refused(method, target, status);
    }
}

/// Method and target of a request.
fn line(exchange: &Exchange) -> (Method, &str) {
    let method = Method::parse(exchange.request.method().as_str());
    (method, receive::origin_form(exchange.request.url()))
}
