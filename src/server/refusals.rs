//! Counts of the requests that were refused before they reached a worker or their client, and of
//! the connections that were shut down, by cause.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::exposition::{Exposition, Kind};

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its body is larger than its endpoint takes (413), or no endpoint takes it.
    TooLarge,
    /// Its head describes the body wrongly or insufficiently (400, 411, 417).
    Malformed,
    /// Its body ended early, or came too slowly (400).
    BrokenBody,
    /// Its connection may have been shut while its body was received (503).
    Shut,
    /// There is no memory to receive its body into (503).
    NoMemoryToReceive,
    /// There is no memory to hold its answer in (503).
    NoMemoryToSend,
    /// There is no thread to receive its body or to send its answer (503).
    NoThread,
    /// Too many requests wait for a worker (503).
    QueueFull,
    /// It has waited for a worker for too long (503).
    QueueTimeout,
}

/// Why a connection was shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// Its first request didn't come in time.
    SlowHead,
    /// No further request came.
    Idle,
    /// Its body came too slowly.
    SlowBody,
    /// Its request was refused, and the client didn't end the connection.
    Refused,
    /// Its client is gone, didn't take its answer, or sent too many requests ahead.
    Broken,
    /// There were too many connections, or no descriptors or threads for more.
    TooMany,
}

/// The counters.
#[derive(Default)]
pub struct Refusals {
    refused: [AtomicU64; Refusal::ALL.len()],
    closed: [AtomicU64; Closing::ALL.len()],
}

impl Refusal {
    /// All causes, in the order of their counters, and their names.
    const ALL: [(Refusal, &'static str); 9] = [
        (Refusal::TooLarge, "too_large"),
        (Refusal::Malformed, "malformed"),
        (Refusal::BrokenBody, "broken_body"),
        (Refusal::Shut, "shut"),
        (Refusal::NoMemoryToReceive, "no_memory_to_receive"),
        (Refusal::NoMemoryToSend, "no_memory_to_send"),
        (Refusal::NoThread, "no_thread"),
        (Refusal::QueueFull, "queue_full"),
        (Refusal::QueueTimeout, "queue_timeout"),
    ];
}

impl Closing {
    /// All causes, in the order of their counters, and their names.
    const ALL: [(Closing, &'static str); 6] = [
        (Closing::SlowHead, "slow_head"),
        (Closing::Idle, "idle"),
        (Closing::SlowBody, "slow_body"),
        (Closing::Refused, "refused"),
        (Closing::Broken, "broken"),
        (Closing::TooMany, "too_many"),
    ];
}

impl Refusals {
    /// Counts a request that was refused.
    pub fn refused(&self, cause: Refusal) {
        self.refused[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts connections that were shut down.
    pub fn closed(&self, cause: Closing, connections: usize) {
        self.closed[cause as usize].fetch_add(connections as u64, Ordering::Relaxed);
    }

    /// Writes the counters.
    pub fn expose(&self, exposition: &mut Exposition) {
        let help = "Requests that were refused before they reached a worker, or whose answers \
                    couldn't be sent, by cause.";
        let mut family = exposition.family("refusals_total", Kind::Counter, help);
        for (cause, name) in Refusal::ALL {
            let count = self.refused[cause as usize].load(Ordering::Relaxed);
            family.sample(&[("cause", name)], count);
        }
        let help = "Connections that the server has shut down, by cause.";
        let mut family = exposition.family("connections_closed_total", Kind::Counter, help);
        for (cause, name) in Closing::ALL {
            let count = self.closed[cause as usize].load(Ordering::Relaxed);
            family.sample(&[("cause", name)], count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition::parse;

    #[test]
    fn each_cause_has_a_counter_of_its_own() {
        let refusals = Refusals::default();
        for (index, (cause, _)) in Refusal::ALL.into_iter().enumerate() {
            (0..=index).for_each(|_| refusals.refused(cause));
        }
        for (index, (cause, _)) in Closing::ALL.into_iter().enumerate() {
            refusals.closed(cause, index + 1);
        }
        let mut exposition = Exposition::default();
        refusals.expose(&mut exposition);
        let samples = parse(&exposition.into_text());
        let of = |name: &str| -> Vec<f64> {
            let samples = samples.iter().filter(|sample| sample.name == name);
            samples.map(|sample| sample.value).collect()
        };
        assert_eq!(of("refusals_total"), [1., 2., 3., 4., 5., 6., 7., 8., 9.]);
        assert_eq!(of("connections_closed_total"), [1., 2., 3., 4., 5., 6.]);
    }
}
