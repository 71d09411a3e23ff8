//! Connections that can't be ended, and the restart that alone frees what they hold.
//!
//! **Fault.** tiny_http waits for itself, for ever, when a request line says `HTTP/2.0` or
//! `HTTP/3.0`; a thread and two descriptors are lost. Another way to lose them is in
//! [`super::unread`].
//!
//! **Where.** `client.rs`, `next` writes the answer 505 to the writer that follows the request's,
//! and that waits until the request is dropped, which happens after the answer.
//!
//! **Seen** by fuzzing; `tests/hostile.rs` sends hundreds of such requests.
//!
//! **Until** tiny_http drops the request before it answers 505, and [`super::unread`] has gone.
//!
//! This file is pure: it is told the numbers and the time.

use std::time::{Duration, Instant};

/// So many connections may be lost before the server restarts itself.
const MAX_LOST: usize = 256;
/// Connections that have ended are closed within this time, or they are lost.
const STUCK: Duration = Duration::from_secs(3);
/// The restart waits this long for a moment without requests in flight, while new ones are
/// served: whoever causes it must not make others wait.
const QUIET_PATIENCE: Duration = Duration::from_secs(30);

/// What decides whether the server restarts itself.
pub struct Stuck {
    /// When fewer than [`MAX_LOST`] connections were last seen ended and not closed.
    few_ended: Instant,
    /// Since when a restart is wanted.
    wanted: Option<Instant>,
}

impl Stuck {
    /// Nothing is lost yet.
    pub fn new(now: Instant) -> Stuck {
        Stuck {
            few_ended: now,
            wanted: None,
        }
    }

    /// Whether a restart is wanted.
    pub fn is_restart_wanted(&self) -> bool {
        self.wanted.is_some()
    }

    /// Notes how many connections have ended, but were not closed.
    pub fn ended(&mut self, count: usize, now: Instant) {
        if count < MAX_LOST {
            self.few_ended = now;
        }
        self.want_restart_if(now > self.few_ended + STUCK, count, now);
    }

    /// Notes how many connections were given up since the start.
    pub fn given_up(&mut self, count: usize, now: Instant) {
        self.want_restart_if(count >= MAX_LOST, count, now);
    }

    fn want_restart_if(&mut self, are_lost: bool, connections: usize, now: Instant) {
        if are_lost && self.wanted.is_none() {
            log::warn!(
                "{connections} connections hold what can't be freed; the server starts anew to be \
                 rid of them. A web server in front would keep such clients away"
            );
            self.wanted = Some(now);
        }
    }

    /// Whether the restart that is wanted should wait no longer.
    pub fn is_restart_due(&self, in_flight: usize, given_up: usize, now: Instant) -> bool {
        self.wanted.is_some_and(|since| {
            in_flight == 0 || given_up >= 2 * MAX_LOST || now >= since + QUIET_PATIENCE
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn connections_that_stay_ended_for_three_seconds_are_lost() {
        let start = Instant::now();
        let mut stuck = Stuck::new(start);
        for (second, count) in [(1, MAX_LOST), (2, MAX_LOST - 1), (5, MAX_LOST)] {
            stuck.ended(count, start + second * SECOND);
            assert!(!stuck.is_restart_wanted(), "after {second} s");
        }
        stuck.ended(MAX_LOST, start + 6 * SECOND);
        assert!(stuck.is_restart_wanted());
    }

    #[test]
    fn a_restart_waits_for_a_quiet_moment_but_not_for_long() {
        let start = Instant::now();
        let mut stuck = Stuck::new(start);
        stuck.given_up(MAX_LOST - 1, start);
        assert!(!stuck.is_restart_due(0, MAX_LOST - 1, start));
        stuck.given_up(MAX_LOST, start);
        assert!(!stuck.is_restart_due(1, MAX_LOST, start));
        assert!(stuck.is_restart_due(0, MAX_LOST, start));
        assert!(stuck.is_restart_due(1, 2 * MAX_LOST, start));
        assert!(stuck.is_restart_due(1, MAX_LOST, start + QUIET_PATIENCE));
    }
}
