//! Keeps tiny_http from forgetting connections.
//!
//! **Fault.** tiny_http gives each connection to a thread of a pool. While an idle thread wakes
//! up, the pool still counts it as idle; connections that come in that moment are queued for
//! threads that are not there. They stay queued until some other connection *ends*, which behind
//! a slow upload or a kept-alive client may be never.
//!
//! **Where.** `util/task_pool.rs`, `spawn`: `waiting_tasks` is counted down by the thread itself.
//!
//! **Seen.** Forty stalled uploads hung ordinary clients for ever (`tests/hostile.rs`).
//!
//! **Until** the pool counts an idle thread as busy when it gives it work.
//!
//! A connection that ends at once is the cure. If no thread is idle it gets a new one, which then
//! takes the oldest forgotten connection; if one is idle, nothing was forgotten, and the cost is
//! one wake-up. So we connect to ourselves and hang up, often while there is traffic and seldom
//! while there is none.

use std::io;
use std::thread;
use std::time::Duration;

use socket2::Socket;

use crate::server::address::Address;
use crate::stop::Stop;

/// The pause between nudges while connections come. A forgotten connection waits this long.
const BUSY_PAUSE: Duration = Duration::from_millis(5);
/// The pause between nudges while no connections come.
const QUIET_PAUSE: Duration = Duration::from_millis(250);
/// After the last connection, so many nudges still have the short pause, so that as many
/// forgotten ones are remembered soon.
const BUSY_NUDGES: u32 = 64;
/// Connections to each address that are kept for the time after the last one was accepted.
const RESERVE: usize = 64;
/// Connections of the reserve that end at a time.
const RELEASED: usize = 8;

/// Starts the thread that nudges until `stop` is requested; `arrivals` counts the connections
/// that came in.
///
/// # Errors
/// When the system has no thread to spare.
pub fn start(
    addresses: &[Address],
    stop: &Stop,
    arrivals: impl Fn() -> usize + Send + 'static,
) -> io::Result<()> {
    let (addresses, stop) = (addresses.to_vec(), stop.clone());
    let run = move || {
        let (mut seen, mut busy) = (0, 0);
        loop {
            let now = arrivals();
            busy = if now == seen {
                u32::saturating_sub(busy, 1)
            } else {
                BUSY_NUDGES
            };
            seen = now;
            if stop.wait(if busy > 0 { BUSY_PAUSE } else { QUIET_PAUSE }) {
                return;
            }
            for address in &addresses {
                if let Err(error) = address.touch() {
                    log::debug!("the server can't connect to itself: {error}");
                }
            }
        }
    };
    thread::Builder::new().name("nudge".into()).spawn(run)?;
    Ok(())
}

/// Open connections to ourselves, for the time when no more are accepted: each that ends
/// has a forgotten one remembered.
pub struct Reserve {
    /// Those to each address.
    sockets: Vec<Vec<Socket>>,
}

impl Reserve {
    /// Connects to all addresses, as often as it is possible.
    pub fn open(addresses: &[Address]) -> Reserve {
        let connect = |address: &Address| {
            let sockets = (0..RESERVE).map_while(|_| address.connect().ok());
            sockets.collect()
        };
        Reserve {
            sockets: addresses.iter().map(connect).collect(),
        }
    }

    /// Ends some to each address.
    pub fn release(&mut self) {
        for sockets in &mut self.sockets {
            sockets.truncate(sockets.len().saturating_sub(RELEASED));
        }
    }

    /// Whether all have ended.
    pub fn is_empty(&self) -> bool {
        self.sockets.iter().all(Vec::is_empty)
    }
}
