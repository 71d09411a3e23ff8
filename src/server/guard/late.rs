//! Requests that don't come through the accept loop.
//!
//! **Faults.** A tiny_http that accepts no more ([`super::accepting`]) still brings requests of
//! the connections that it has. And tiny_http brings the requests of one connection before
//! earlier ones are answered; whoever answers a later one waits for the earlier one's client.
//!
//! **Where.** `lib.rs`, `from_listener`: the connection's thread pushes all its requests;
//! `util/sequential.rs`: a writer waits for the one before it.
//!
//! **Seen.** `tests/hostile.rs` runs out of descriptors, and sends requests ahead.
//!
//! **Until** [`super::accepting`] has gone, and tiny_http brings a connection's next request
//! after the answer to the last one.
//!
//! One thread admits both ([`crate::server::front`]). It exists from the start, because the
//! reason for a late request is often that no thread is left.

use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use super::accepting::Accepting;
use crate::lock::{lock, unpoisoned};
use crate::server::arrival::Arrival;

/// A connection that was silent for longer than this was shut down ([`super::connections`]).
const SILENCE: Duration = Duration::from_secs(90);
/// How often the servers left behind are asked for requests.
const TICK: Duration = Duration::from_millis(5);

/// Where late requests come from.
#[derive(Default)]
pub struct Late {
    sources: Mutex<Sources>,
    changed: Condvar,
}

#[derive(Default)]
struct Sources {
    left_behind: Vec<LeftBehind>,
    /// Requests that were sent ahead, and of which it is the turn now.
    in_turn: Vec<Arrival>,
}

/// A tiny_http that accepts no more.
struct LeftBehind {
    http: Accepting,
    /// When its last request came.
    last: Instant,
}

/// Late requests.
#[derive(Default)]
pub struct LateRequests {
    /// Those that the guard doesn't know yet.
    pub new: Vec<Arrival>,
    /// Those that the guard has given back, because it is their turn.
    pub in_turn: Vec<Arrival>,
}

impl Late {
    /// Adds a server that accepts no more.
    pub fn leave_behind(&self, http: Accepting) {
        let last = Instant::now();
        lock(&self.sources)
            .left_behind
            .push(LeftBehind { http, last });
        self.changed.notify_one();
    }

    /// Whether a server that was left behind is still accepting what was waiting.
    pub fn is_accepting(&self) -> bool {
        let sources = lock(&self.sources);
        sources.left_behind.iter().any(|left| left.http.is_alive())
    }

    /// Adds a request of which it is the turn.
    pub fn take_turn(&self, request: Arrival) {
        lock(&self.sources).in_turn.push(request);
        self.changed.notify_one();
    }

    /// Waits for requests, for `patience` at the most.
    pub fn wait(&self, patience: Duration) -> LateRequests {
        let mut sources = lock(&self.sources);
        if sources.in_turn.is_empty() {
            let is_alone = sources.left_behind.is_empty();
            let time = if is_alone { patience } else { TICK };
            (sources, _) = unpoisoned(self.changed.wait_timeout(sources, time));
        }
        LateRequests {
            new: sources.received(),
            in_turn: std::mem::take(&mut sources.in_turn),
        }
    }
}

impl Sources {
    /// What the servers left behind have received. Those that will receive no more are removed.
    fn received(&mut self) -> Vec<Arrival> {
        let now = Instant::now();
        let mut requests = Vec::new();
        self.left_behind.retain_mut(|left| {
            while let Some(request) = left.http.received() {
                requests.push(request);
                left.last = now;
            }
            now < left.last + SILENCE
        });
        requests
    }
}
