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
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use super::Stop;

/// The pause while requests come: this long a forgotten connection waits.
const BUSY_PAUSE: Duration = Duration::from_millis(5);
/// The pause while there are none.
const QUIET_PAUSE: Duration = Duration::from_millis(250);
/// After the last request it counts as busy for this many nudges more: as many forgotten
/// connections are remembered soon.
const BUSY_NUDGES: u32 = 64;
/// The kernel accepts for us; waiting longer means that its queue is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Where we listen.
#[derive(Clone, Debug)]
pub enum Address {
    /// Our own TCP port.
    Tcp(SocketAddr),
    /// Our own Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Connects and hangs up.
    fn nudge(&self) -> io::Result<()> {
        match self {
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, CONNECT_TIMEOUT)?;
                // Reset instead of closed, so that no port is held in TIME-WAIT.
                SockRef::from(&stream).set_linger(Some(Duration::ZERO))
            }
            Address::Unix(path) => UnixStream::connect(path).map(drop),
        }
    }
}

/// Nudges until `stop` is requested; `requests` counts all that came in.
pub fn start(address: Address, requests: Arc<AtomicUsize>, stop: Stop) -> io::Result<()> {
    thread::Builder::new().name("nudge".into()).spawn(move || {
        let mut seen = 0;
        let mut busy = 0;
        loop {
            let now = requests.load(Ordering::Relaxed);
            busy = if now != seen {
                BUSY_NUDGES
            } else {
                u32::saturating_sub(busy, 1)
            };
            seen = now;
            if stop.wait(if busy > 0 { BUSY_PAUSE } else { QUIET_PAUSE }) {
                return;
            }
            if let Err(error) = address.nudge() {
                log::debug!("the server can't connect to itself: {error}");
            }
        }
    })?;
    Ok(())
}
