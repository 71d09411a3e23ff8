//! The room for HTTP: the only one that knows tiny_http.
//!
//! The files here are the way of a request, in the order in which it meets them. Clients connect
//! to a [`listener`]'s [`address`]. tiny_http's own threads read heads, and the accept loop in
//! [`front`] takes each [`arrival`]. The [`door`] makes an [`exchange`] of it, which remembers who
//! must be answered, and looks at what the head says of the body ([`framing`]). A body is
//! received ([`receive`]) by an [`elastic`] set of threads, within a [`budget`] of bytes. The
//! complete request waits in the [`queue`] for one of the fixed pool of [`workers`]. A worker takes
//! [`room`] for a large answer before it makes it. It writes a small answer itself and hands a
//! large one to an elastic set of sending threads ([`send`]). So a worker waits for the database
//! and for nothing else, and a client who is slower than [`pace`] allows costs its own connection.
//!
//! Apart from all that, a thread of its own serves the [`metrics`], for which the [`gauges`] are
//! read and the [`refusals`] are counted.
//!
//! The files in [`guard`] make up for the faults of tiny_http, one each.

mod address;
mod arrival;
mod budget;
mod door;
mod elastic;
mod exchange;
mod framing;
mod front;
mod gauges;
mod guard;
mod listener;
mod metrics;
mod pace;
mod queue;
mod receive;
mod refusals;
mod room;
mod send;
mod workers;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::config::Shares;
use crate::exposition::Exposition;
use crate::handover::ListeningSocket;
use crate::protocol::http::{BodyRule, Incoming, Method, Response};
use crate::stop::Stop;
use door::Door;
use guard::memory::Held;
use guard::selfcheck::SelfCheck;
use guard::{nudge, watch};

pub use guard::panics::quieten_tiny_http;
pub use guard::threads::affordable_workers;
pub use guard::{affordable_connections, enough_descriptors};
pub use listener::Listener;
pub use room::{AnswerMemory, Room};

/// What answers the requests.
pub trait Service: Send + Sync + 'static {
    /// What each worker keeps between requests, as its database connection.
    type Worker: 'static;

    /// A request that waits for its turn to write.
    type Waiting: Send + 'static;

    /// Makes what a worker keeps: once for each, and anew after a panic.
    fn worker(&self) -> Self::Worker;

    /// The body that a request may have.
    fn body_rule(&self, method: Method, target: &str) -> BodyRule;

    /// What a request is answered whatever its body is, if no endpoint takes it.
    fn refusal(&self, _method: Method, _target: &str) -> Option<Response> {
        None
    }

    /// Called when a request was refused with this status, of which the service hears nothing else.
    fn refused(&self, _method: Method, _target: &str, _status: u16) {}

    /// Writes the service's own metrics.
    fn expose(&self, _exposition: &mut Exposition) {}

    /// Descriptors that the service holds at most, as of its database connections.
    fn descriptors(&self) -> usize {
        0
    }

    /// Memory that the service holds by itself, as the file cache does, bytes.
    fn held_bytes(&self) -> usize {
        0
    }

    /// Called when it was seen that requests come in, every `pause` of [`run`].
    fn alive(&self);

    /// Whether a request must be answered while all workers are busy. It must take little more than
    /// a second.
    fn is_urgent(&self, _method: Method, _target: &str) -> bool {
        false
    }

    /// Answers a request. The memory for a large answer is taken from `turn.room` before the answer
    /// is made. A panic is a 500 for this request and nothing more.
    ///
    /// # Errors
    /// The request, if it is one that writes and `turn.may_write` says that it isn't its turn to.
    fn answer(&self, work: Work<Self::Waiting>, turn: Turn<Self::Worker>) -> Outcome<Self>;
}

/// A request, as a worker gets it.
pub enum Work<W> {
    /// As it came in.
    New(Incoming),
    /// One that has waited for its turn to write, which it has now.
    Waiting(W),
}

/// An answer, or the request if it must wait for its turn to write.
pub type Outcome<S> = Result<Response, <S as Service>::Waiting>;

/// How a request is answered.
pub struct Turn<'a, S> {
    /// When it came.
    pub came: Instant,
    /// What the worker keeps.
    pub worker: &'a mut S,
    /// The memory for the answer.
    pub room: &'a mut Room,
    /// Whether it may write. From then on it counts among those that do.
    pub may_write: &'a mut dyn FnMut() -> bool,
}

/// The threads that answer requests.
#[derive(Clone, Copy, Debug)]
pub struct Workers {
    /// All of them.
    pub all: usize,
    /// How many may write at once, so that the others answer while the database takes no writes.
    pub writing: usize,
}

impl Workers {
    /// So many, of which `writing` may write, but not all if there are several.
    pub fn of(all: usize, writing: usize) -> Workers {
        let writing = writing.min(all.saturating_sub(1)).max(1);
        Workers { all, writing }
    }
}

/// How serving has ended.
#[derive(Debug)]
pub enum Ended {
    /// As it was asked to.
    Stopped,
    /// For a restart of the program in its own place, with the listening sockets, on which
    /// connections wait.
    ToStartAnew(Vec<ListeningSocket>),
}

/// Serves until `stop` is requested; then accepts no more connections, finishes what is in
/// flight, 30 seconds at most, and returns. Bodies and answers take their shares of `memory`. Every
/// `pause` it sees whether requests still come in. Whoever connects to `metrics` gets the metrics.
///
/// # Errors
/// When threads can't be started, or when no requests come in any more.
pub fn run<S: Service>(
    listeners: Vec<Listener>,
    metrics: Option<Listener>,
    workers: Workers,
    memory: &Shares,
    pause: Duration,
    service: Arc<S>,
    stop: &Stop,
) -> io::Result<Ended> {
    let addresses: Vec<_> = listeners.iter().map(|l| l.address().clone()).collect();
    let self_check = SelfCheck::new(&addresses)?;
    let door = Door::new(
        &addresses,
        workers,
        memory,
        service.clone(),
        self_check.clone(),
    )?;
    let door = Arc::new(door);
    let pool = workers::start(workers.all, &door)?;
    front::serve_late(&door, stop)?;
    let (guard, counted) = (door.guard.clone(), door.clone());
    let held = move || Held {
        in_flight: counted.bytes_in_flight(),
        by_service: counted.service.held_bytes(),
    };
    watch::start(&door.guard, stop, held)?;
    nudge::start(&addresses, stop, move || guard.arrivals())?;
    if let Some(listener) = &metrics {
        let door = door.clone();
        metrics::start(listener, move || door.metrics())?;
    }
    let is_dead = self_check.start(pause, stop, move || service.alive())?;

    front::accept(&door, &listeners, stop)?;
    front::finish(&door, &listeners);
    workers::leave(&door, &pool);
    metrics.iter().for_each(Listener::withdraw);
    if is_dead.load(Ordering::SeqCst) {
        return Err(io::Error::other("the server doesn't answer itself"));
    }
    if door.guard.restarts() {
        let sockets = listeners.into_iter().map(Listener::into_socket);
        return Ok(Ended::ToStartAnew(sockets.collect()));
    }
    Ok(Ended::Stopped)
}
