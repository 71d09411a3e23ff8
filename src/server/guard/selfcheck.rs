//! Whether requests still come in: the server asks itself, the way that a client would.
//!
//! **Fault.** tiny_http may cease to accept or to read without a word, in ways that nobody has
//! found yet.
//!
//! **Where.** Its accepting thread and its task pool may end or wait with nobody to notice.
//!
//! **Seen.** Each of the other files here began as such a silence.
//!
//! **Until** the watchdog of systemd, which is fed from here, has another sign of life.

use std::io::{self, Read, Write};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::server::address::Address;
use crate::server::pace::STOP_PATIENCE;
use crate::stop::Stop;

/// How long an answer may take.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// With no answer for this long, the server is of no use: it ends, and whoever looks after it
/// starts it again.
const GIVE_UP: Duration = Duration::from_secs(45);
/// An answer is one line and a few fields, bytes.
const ANSWER_LIMIT: u64 = 4096;

/// What the server asks itself for.
#[derive(Clone)]
pub struct SelfCheck {
    addresses: Vec<Address>,
    /// Nobody else knows this target. The accept loop answers it, so that neither the workers nor
    /// the database matter.
    target: String,
}

impl SelfCheck {
    /// Of the server at these addresses.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn new(addresses: &[Address]) -> io::Result<SelfCheck> {
        let mut random = [0; 16];
        getrandom::getrandom(&mut random).map_err(io::Error::other)?;
        Ok(SelfCheck {
            addresses: addresses.to_vec(),
            target: format!("/self-check/{}", hex::encode(random)),
        })
    }

    /// Whether a request is one of ours.
    pub fn is_ours(&self, request: &tiny_http::Request) -> bool {
        self.target == request.url()
    }

    /// Starts the thread that asks every `pause` until `stop` is requested, and calls `alive` at
    /// each answer. Returns what is set when the server is stopped for want of answers.
    ///
    /// # Errors
    /// When the system has no thread to spare.
    pub fn start(
        &self,
        pause: Duration,
        stop: &Stop,
        alive: impl Fn() + Send + 'static,
    ) -> io::Result<Arc<AtomicBool>> {
        let is_dead = Arc::<AtomicBool>::default();
        let (check, stop, dead) = (self.clone(), stop.clone(), is_dead.clone());
        let run = move || {
            let mut last = Instant::now();
            while !stop.wait(pause) {
                match check.ask_all() {
                    Ok(()) => {
                        last = Instant::now();
                        alive();
                    }
                    Err(error) => {
                        log::debug!("the server doesn't answer itself: {error}");
                        if last.elapsed() > GIVE_UP && !stop.is_requested() {
                            return end(&dead, &stop);
                        }
                    }
                }
            }
        };
        let builder = thread::Builder::new().name("self-check".into());
        builder.spawn(run)?;
        Ok(is_dead)
    }

    /// Asks at each address. One that can't be reached may be gone from the machine, which a
    /// restart would not mend; the others must answer, and there must be one.
    fn ask_all(&self) -> io::Result<()> {
        let mut outcome = Err(io::Error::other("it has no address"));
        for address in &self.addresses {
            match address.connect() {
                Ok(socket) => {
                    self.ask(socket)?;
                    outcome = Ok(());
                }
                Err(error) => {
                    log::debug!("the server can't be reached on {address}: {error}");
                    outcome = outcome.or(Err(error));
                }
            }
        }
        outcome
    }

    fn ask(&self, mut socket: Socket) -> io::Result<()> {
        let target = &self.target;
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        socket.set_read_timeout(Some(ANSWER_PATIENCE))?;
        socket.set_write_timeout(Some(ANSWER_PATIENCE))?;
        socket.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        socket.take(ANSWER_LIMIT).read_to_end(&mut answer)?;
        if answer.starts_with(b"HTTP/1.1 200 ") {
            Ok(())
        } else {
            Err(io::Error::other("another answer"))
        }
    }
}

/// Stops the server.
fn end(dead: &AtomicBool, stop: &Stop) {
    log::error!("the server doesn't answer itself any more; it ends");
    dead.store(true, Ordering::SeqCst);
    stop.request();
    // It may be the accept loop itself that hangs.
    thread::sleep(STOP_PATIENCE + Duration::from_secs(1));
    process::exit(1);
}
