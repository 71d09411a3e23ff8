//! Keeps tiny_http from forgetting connections.
//!
//! tiny_http 0.12 gives each connection to a thread of a pool. While a thread that was
//! idle wakes up, the pool still counts it as idle; connections that come in that moment
//! are queued for threads that are not there, and stay queued until some other connection
//! *ends*, which behind a slow upload or a kept-alive client may be never (its
//! `util/task_pool.rs`, `spawn`). A connection that ends at once is the cure: if no thread
//! is idle it gets a new one, which then takes the oldest that was forgotten; if one is
//! idle nothing was forgotten, and the cost is one wake-up. So we connect to ourselves
//! and hang up, often while there is traffic and seldom while there is none.

use std::io;
use std::thread;
use std::time::Duration;

use super::address::{Address, Stream};
use crate::stop::Stop;

/// The pause while connections come: this long a forgotten one waits.
const BUSY_PAUSE: Duration = Duration::from_millis(5);
/// The pause while there are none.
const QUIET_PAUSE: Duration = Duration::from_millis(250);
/// After the last of them it counts as busy for this many nudges more: as many forgotten
/// connections are remembered soon.
const BUSY_NUDGES: u32 = 64;
/// Connections that are kept for the time after the last one was accepted,
const RESERVE: usize = 64;
/// and how many of them end at a time.
const RELEASED: usize = 8;

/// Nudges until `stop` is requested; `arrivals` counts the connections that came in.
/// Each time `look` is called.
pub fn start(
    address: Address,
    arrivals: impl Fn() -> usize + Send + 'static,
    stop: Stop,
    look: impl Fn() + Send + 'static,
) -> io::Result<()> {
    thread::Builder::new().name("nudge".into()).spawn(move || {
        let mut seen = 0;
        let mut busy = 0;
        loop {
            let now = arrivals();
            busy = if now != seen {
                BUSY_NUDGES
            } else {
                u32::saturating_sub(busy, 1)
            };
            seen = now;
            if stop.wait(if busy > 0 { BUSY_PAUSE } else { QUIET_PAUSE }) {
                return;
            }
            if let Err(error) = address.connect().and_then(Stream::hang_up) {
                log::debug!("the server can't connect to itself: {error}");
            }
            look();
        }
    })?;
    Ok(())
}

/// Open connections to ourselves, for the time when no more are accepted: each that ends
/// has a forgotten one remembered.
pub struct Reserve(Vec<Stream>);

impl Reserve {
    /// Connects, as often as it is possible.
    pub fn open(address: &Address) -> Reserve {
        Reserve((0..RESERVE).map_while(|_| address.connect().ok()).collect())
    }

    /// Ends some.
    pub fn release(&mut self) {
        self.0.truncate(self.0.len().saturating_sub(RELEASED));
    }

    /// Whether all have ended.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
