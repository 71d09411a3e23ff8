//! The door for HTTP: the only room that knows tiny_http.
//!
//! tiny_http's own threads read heads. The accept loop ([`front`]) takes each request and
//! lets it through the [`door`]: its framing is looked at ([`framing`]), a body is received by
//! an elastic set of threads ([`receive`], [`chunks`]); the fixed pool of [`workers`] gets complete
//! requests through a bounded [`queue`], and writes small answers itself; large ones go to an
//! elastic set of sending threads ([`send`]). So a worker waits for the database and for
//! nothing else. The [`guard`] disconnects clients who are too slow, whose connections it finds
//! among our [`sockets`] by [`duplicates`] of their descriptors, and those who fill the
//! [`memory`]; connections to a Unix socket have rules of their own ([`local`]). [`nudge`] and
//! [`selfcheck`] see to it that requests come in.

mod address;
mod chunks;
mod door;
mod duplicates;
mod elastic;
mod framing;
mod front;
mod guard;
mod hang_up;
mod left_behind;
mod listener;
mod local;
mod memory;
mod nudge;
mod pace;
mod queue;
mod receive;
mod selfcheck;
mod send;
mod sockets;
mod threads;
mod workers;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::protocol::http::{BodyRule, Incoming, Method, Response};
use crate::stop::Stop;
use door::Door;
use front::Front;
use guard::InFlight;
use send::Unread;

pub use listener::{Listener, quieten_tiny_http};
pub use threads::affordable_workers;

/// What answers the requests.
pub trait Service: Send + Sync + 'static {
    /// What each worker keeps between requests, as its database connection.
    type Worker: 'static;

    /// Makes what a worker keeps: once for each, and anew after a panic.
    fn worker(&self) -> Self::Worker;

    /// The body that a request may have.
    fn body_rule(&self, method: Method, target: &str) -> BodyRule;

    /// What a request is answered whatever its body is, if no endpoint takes it.
    fn refusal(&self, _method: Method, _target: &str) -> Option<Response> {
        None
    }

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
    /// So that the program is started anew in its own place: the listening socket, on which
    /// connections wait.
    ToStartAnew(OwnedFd),
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
    let (again, sent_ahead) = mpsc::channel();
    let (unread, disconnected) = mpsc::channel::<Unread>();
    let builder = thread::Builder::new().name("unread".into());
    builder.spawn(move || disconnected.into_iter().for_each(drop))?;
    let target = selfcheck::Target::new()?;
    let door = Door::new(&address, again, unread, workers, target.clone(), stop);
    let door = Arc::new(door);
    let pool = workers::start(workers, &door, &service, stop)?;
    door::admit_those_sent_ahead(sent_ahead, &door, &service)?;
    let watched = door.clone();
    let stuck = door.clone();
    guard::start(
        door.guard.clone(),
        move || InFlight {
            requests: watched.requests_in_flight(),
            bytes: watched.bytes_in_flight(),
        },
        move |connections| stuck.start_anew(connections),
        stop.clone(),
    )?;
    let (counted, disconnected) = (door.clone(), door.clone());
    chunks::start(
        door.chunks.clone(),
        move || counted.bytes_in_flight(),
        move |client| disconnected.guard.disconnect(client),
        stop.clone(),
    )?;

    let front = Arc::new(Front::new(door.clone(), service));
    let renewed = front.clone();
    let renew = move || renewed.renew_if_it_accepts_no_more();
    let counted = door.clone();
    let arrivals = move || counted.guard.arrivals();
    nudge::start(address.clone(), arrivals, stop.clone(), renew)?;
    front.serve_left_behind()?;
    front::check_ourselves(&front, address.clone(), target, pause, stop)?;
    let unblocked = front.clone();
    let stopping = stop.clone();
    thread::Builder::new().name("stop".into()).spawn(move || {
        while !stopping.wait(Duration::from_secs(3600)) {}
        unblocked.interrupt();
    })?;
    front.accept(&listener, stop);
    front.finish(&listener, &address);

    workers::leave(&door, &pool);
    if front.is_dead() {
        return Err(io::Error::other("the server doesn't answer itself"));
    }
    match door.starts_anew() {
        true => Ok(Ended::ToStartAnew(listener.into_socket())),
        false => Ok(Ended::Stopped),
    }
}
