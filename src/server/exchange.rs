//! A request that must be answered, and what is done when it was.

use std::sync::Arc;

use super::arrival::{Arrival, Client};
use super::guard::Guard;
use super::guard::connections::Phase;
use super::refusals::Refusal;

/// A request that must be answered, and counts as in flight until it is.
pub struct Exchange {
    /// The request. Whoever answers consumes it.
    pub request: tiny_http::Request,
    /// Dropped after the answer.
    pub ticket: Ticket,
}

/// Tells the guard that a request was answered, when it is dropped.
pub struct Ticket {
    client: Option<Client>,
    guard: Arc<Guard>,
    is_refused: bool,
}

impl Exchange {
    /// Begins with a request of which it is the turn.
    pub fn begin(arrival: Arrival, guard: &Arc<Guard>) -> Exchange {
        let Arrival { request, client } = arrival;
        guard.request_begins(client);
        let ticket = Ticket {
            client,
            guard: guard.clone(),
            is_refused: false,
        };
        Exchange { request, ticket }
    }
}

impl Ticket {
    /// The client, unless it came by a Unix socket.
    pub fn client(&self) -> Option<Client> {
        self.client
    }

    /// Counts why the request is refused.
    pub fn note(&self, cause: Refusal) {
        self.guard.refusals.refused(cause);
    }

    /// Notes that the client was refused: no further request is expected of its connection, and
    /// what it still sends need not delay a stop.
    pub fn refused(mut self) {
        self.guard.refused(self.client, Phase::Refused);
        self.is_refused = true;
    }

    /// Has the connection shut down, because half an answer can't be followed by another.
    pub fn disconnect(self) {
        self.guard.disconnect(self.client);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.guard.request_ended(self.client);
        if !self.is_refused {
            self.guard.answered(self.client);
        }
    }
}
