//! Life support for tiny_http 0.12: each file is the cure of one fault, and begins with the
//! fault, its place in the library's source, how it was seen, and what would let us delete the
//! file.
//!
//! | fault | file |
//! | --- | --- |
//! | no time-outs, no limits | [`connections`]; over a Unix socket, [`local`] |
//! | no handle to shut a connection down | [`sockets`], [`duplicates`] |
//! | lines without end fill the memory | [`memory`] |
//! | a dropped body takes memory for all of its announced length | [`unread`] |
//! | `HTTP/2.0` holds a thread for ever | [`stuck`] |
//! | connections are forgotten | [`nudge`] |
//! | the accept loop ends with the first error | [`accepting`], [`late`] |
//! | requests come before earlier ones are answered | [`late`] |
//! | it panics where a thread or a descriptor is lacking | [`threads`], [`panics`] |
//! | a body in chunks that was cut short looks whole | [`hang_up`] |
//! | whatever else makes it silent | [`selfcheck`] |
//!
//! [`Guard`] is told what happens to requests, and [`watch`] acts on it.

pub mod accepting;
pub mod connections;
pub mod duplicates;
pub mod hang_up;
pub mod late;
pub mod local;
pub mod memory;
pub mod nudge;
pub mod panics;
pub mod selfcheck;
pub mod sockets;
pub mod stuck;
pub mod threads;
pub mod unread;
pub mod watch;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use super::address::Address;
use super::arrival::{Arrival, Client};
use super::pace::Progress;
use super::refusals::Refusals;
use crate::exposition::{Exposition, Kind};
use crate::lock::lock;
use connections::{Connections, Phase};
use late::Late;
use local::LocalConnections;
use sockets::Sockets;

/// Connections that may be open at once, if the system lets us have that many descriptors.
const MAX_CONNECTIONS: usize = 1024;
/// Descriptors for each connection: tiny_http's two, and ours while it is shut down.
const DESCRIPTORS: usize = 3;
/// Descriptors for everything else but the service's own: 15 on an idle server, 17 while the
/// connections are looked at, 17 for the metrics, and some for GitHub and the server's questions to
/// itself.
const OTHER_DESCRIPTORS: usize = 64;

/// The descriptors for as many connections as there may be, if the service holds so many.
pub fn enough_descriptors(of_service: usize) -> usize {
    DESCRIPTORS * MAX_CONNECTIONS + OTHER_DESCRIPTORS + of_service
}

/// The connections for which so many descriptors are enough, if the service holds so many of them.
pub fn affordable_connections(descriptors: usize, of_service: usize) -> usize {
    descriptors.saturating_sub(OTHER_DESCRIPTORS + of_service) / DESCRIPTORS
}

/// What is known of the connections to us and their requests.
///
/// Where the system shows no descriptors, nothing can be shut down. A connection is bounded there
/// by a time-out on each of its reads ([`super::listener`]), and their number by the limit of
/// descriptors, which is lowered for that.
pub struct Guard {
    sockets: Sockets,
    /// The connections to our TCP ports.
    connections: Mutex<Connections<Arrival>>,
    /// The connections to our Unix sockets.
    local: Mutex<LocalConnections>,
    /// How many connections to TCP ports may be open, and how many to Unix sockets. If there are
    /// both, whoever floods one must not take from the other.
    max_connections: usize,
    /// Requests that don't come through the accept loop.
    pub late: Late,
    /// Counts of requests that were refused, and of connections that were shut down.
    pub refusals: Refusals,
    /// Wakes the thread that surveys the connections.
    urgent: Condvar,
    /// Whether a descriptor or a thread was lacking since the last survey.
    ran_out: AtomicBool,
    /// Requests so far.
    requests: AtomicUsize,
    /// Requests that are not answered yet.
    in_flight: AtomicUsize,
    /// Those of them that came by a Unix socket.
    local_in_flight: AtomicUsize,
    /// Requests by Unix sockets so far.
    local_requests: AtomicUsize,
    /// Connections that were given up so far ([`unread`]).
    given_up: AtomicUsize,
    /// Whether the server stops for a restart ([`stuck`]).
    restarts: AtomicBool,
}

impl Guard {
    /// Of the connections to `addresses`, beside which the service holds so many descriptors.
    pub fn new(addresses: &[Address], of_service: usize) -> Guard {
        let descriptors = sockets::raise_descriptor_limit();
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let affordable = affordable_connections(descriptors, of_service);
        let sockets = Sockets::open(addresses);
        if !sockets.are_visible() {
            // Nothing but the system bounds their number then.
            let beside = OTHER_DESCRIPTORS + of_service;
            let enough = DESCRIPTORS * MAX_CONNECTIONS.min(affordable) + beside;
            sockets::set_descriptor_limit(Some(enough as u64));
        }
        let is_mixed =
            addresses.iter().any(Address::is_tcp) != addresses.iter().all(Address::is_tcp);
        let kinds = if is_mixed { 2 } else { 1 };
        let max_connections = (affordable.min(MAX_CONNECTIONS) / kinds).max(1);
        Guard {
            sockets,
            connections: Mutex::new(Connections::new(max_connections)),
            local: Mutex::default(),
            max_connections,
            late: Late::default(),
            refusals: Refusals::default(),
            urgent: Condvar::new(),
            ran_out: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            local_in_flight: AtomicUsize::new(0),
            local_requests: AtomicUsize::new(0),
            given_up: AtomicUsize::new(0),
            restarts: AtomicBool::new(false),
        }
    }

    /// Notes a request of which the head has come, and gives it back if it is its turn. A request
    /// that was sent ahead comes back through [`Guard::late`].
    pub fn head_came(&self, arrival: Arrival) -> Option<Arrival> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let Some(client) = arrival.client else {
            self.local_requests.fetch_add(1, Ordering::Relaxed);
            return Some(arrival);
        };
        let mut connections = lock(&self.connections);
        let arrival = connections.head_came(client, arrival, Instant::now());
        if arrival.is_none() && connections.is_condemned(client) {
            self.urgent.notify_all();
        }
        arrival
    }

    /// Notes that somebody works on a request.
    pub fn request_begins(&self, client: Option<Client>) {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        if client.is_none() {
            self.local_in_flight.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Notes that nobody works on a request any more.
    pub fn request_ended(&self, client: Option<Client>) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        if client.is_none() {
            self.local_in_flight.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Watches over a client while `receive` receives its body. Also returns whether a connection
    /// to a Unix socket was shut meanwhile, which may have been this one.
    pub fn over_body<T>(
        &self,
        client: Option<Client>,
        in_chunks: bool,
        receive: impl FnOnce(&Progress) -> T,
    ) -> (T, bool) {
        let now = Instant::now();
        let progress = Arc::new(Progress::start(now));
        let Some(client) = client else {
            let shut = lock(&self.local).body_begins();
            let received = receive(&progress);
            return (received, lock(&self.local).body_ended(shut));
        };
        let body = Phase::Body {
            progress: progress.clone(),
            in_chunks,
        };
        lock(&self.connections).enter(client, body, now);
        let received = receive(&progress);
        lock(&self.connections).enter(client, Phase::Answer, Instant::now());
        (received, false)
    }

    /// Whether a client has ended its side of the connection, as far as is known.
    pub fn has_hung_up(&self, client: Option<Client>) -> bool {
        client.is_some_and(
            |client| match self.sockets.addresses().get(client.listener) {
                Some(Address::Tcp(own)) => hang_up::has_hung_up(own.port(), client.address),
                _ => false,
            },
        )
    }

    /// Notes that a request was answered.
    pub fn answered(&self, client: Option<Client>) {
        let Some(client) = client else { return };
        let next = lock(&self.connections).answered(client, Instant::now());
        if let Some(next) = next {
            self.late.take_turn(next);
        }
    }

    /// Notes that a client was refused, and for what it is waited for: [`Phase::Refused`] or
    /// [`Phase::Farewell`].
    pub fn refused(&self, client: Option<Client>, phase: Phase) {
        if let Some(client) = client {
            lock(&self.connections).enter(client, phase, Instant::now());
        }
    }

    /// Notes that a refused client's connection has broken: its address may be another's at once.
    pub fn forget(&self, client: Option<Client>) {
        let ahead = client.map(|client| lock(&self.connections).forget(client));
        // Outside the lock: tiny_http answers requests that are dropped.
        drop(ahead);
    }

    /// Has a connection shut down soon.
    pub fn disconnect(&self, client: Option<Client>) {
        if let Some(client) = client {
            lock(&self.connections).disconnect(client);
            self.urgent.notify_all();
        }
    }

    /// Has the connection of a request that can't be dropped shut down.
    pub fn give_up(&self, client: Option<Client>) {
        self.given_up.fetch_add(1, Ordering::SeqCst);
        self.disconnect(client);
    }

    /// Notes that a descriptor or a thread for a connection was lacking.
    pub fn ran_out(&self) {
        self.ran_out.store(true, Ordering::SeqCst);
        self.urgent.notify_all();
    }

    /// Connections so far; behind a Unix socket, requests: by which connections they came is not
    /// known there.
    pub fn arrivals(&self) -> usize {
        lock(&self.connections).arrivals() + self.local_requests.load(Ordering::Relaxed)
    }

    /// Requests so far.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Requests that are not answered yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Whether there are descriptors for more connections, as far as is known.
    pub fn has_descriptors(&self) -> bool {
        self.sockets.has_spare_descriptors()
    }

    /// Whether a connection is open of which the first head may be on its way.
    pub fn expects_a_first_head(&self) -> bool {
        let open = self.sockets.survey().unwrap_or_default().open;
        lock(&self.connections).expects_a_first_head(&open)
    }

    /// Writes the metrics of the connections. Those to a Unix socket have no phase, because it
    /// isn't known which requests they brought.
    pub fn expose(&self, exposition: &mut Exposition) {
        let phases = lock(&self.connections).by_phase();
        let local = lock(&self.local).open();
        let help = "Open connections, by what they are waited for; those to a Unix socket have the \
                    phase unix.";
        let mut family = exposition.family("connections", Kind::Gauge, help);
        for (phase, count) in phases.into_iter().chain([("unix", local)]) {
            family.sample(&[("phase", phase)], count);
        }
        let help =
            "The most connections to TCP ports that may be open, and to Unix sockets as many.";
        exposition.gauge("connections_limit", help, self.max_connections);
        self.refusals.expose(exposition);
    }

    /// Whether the server stops for a restart.
    pub fn restarts(&self) -> bool {
        self.restarts.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tiny_http::TestRequest;

    fn request(path: &str) -> Arrival {
        Arrival::new(TestRequest::new().with_path(path).into(), 0)
    }

    #[test]
    fn a_request_that_was_sent_ahead_comes_back_when_it_is_its_turn() {
        let guard = Guard::new(&[Address::Tcp(([127, 0, 0, 1], 9).into())], 0);
        let first = guard.head_came(request("/first")).expect("its turn");
        let client = first.client;
        assert!(guard.head_came(request("/second")).is_none());
        assert_eq!((guard.requests(), guard.arrivals()), (2, 1));
        assert!(guard.late.wait(Duration::ZERO).in_turn.is_empty());
        guard.answered(client);
        let in_turn = guard.late.wait(Duration::from_secs(60)).in_turn;
        let urls: Vec<&str> = in_turn.iter().map(|next| next.request.url()).collect();
        assert_eq!(urls, ["/second"]);
        guard.answered(client);
        assert!(guard.head_came(request("/third")).is_some());
    }
}
