//! Whether requests still come in: the server asks itself, the way that a client would.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::Stop;
use super::address::Address;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// With no answer for so long, the server is of no use: it ends, and is started again by
/// whoever looks after it.
const GIVE_UP: Duration = Duration::from_secs(45);
/// An answer is one line and a few fields.
const ANSWER_LIMIT: u64 = 4096;

/// The target of the requests to ourselves, which nobody else knows: the accept loop
/// answers it by itself, so that neither the workers nor the database matter.
#[derive(Clone)]
pub struct Target(String);

impl Target {
    /// A new one, by chance.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn new() -> io::Result<Target> {
        let mut random = [0; 16];
        getrandom::getrandom(&mut random).map_err(io::Error::other)?;
        Ok(Target(format!("/self-check/{}", hex::encode(random))))
    }

    /// Whether a request is ours.
    pub fn is(&self, target: &str) -> bool {
        self.0 == target
    }
}

/// Asks every `pause` until `stop` is requested: calls `alive` after each answer, and
/// `dead` once if there is none for [`GIVE_UP`].
pub fn start(
    address: Address,
    target: Target,
    pause: Duration,
    stop: Stop,
    alive: impl Fn() + Send + 'static,
    dead: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let builder = thread::Builder::new().name("self-check".into());
    builder.spawn(move || {
        let mut last = Instant::now();
        while !stop.wait(pause) {
            match ask(&address, &target) {
                Ok(()) => {
                    last = Instant::now();
                    alive();
                }
                Err(error) => {
                    log::debug!("the server doesn't answer itself: {error}");
                    if last.elapsed() > GIVE_UP && !stop.is_requested() {
                        return dead();
                    }
                }
            }
        }
    })?;
    Ok(())
}

fn ask(address: &Address, target: &Target) -> io::Result<()> {
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        target.0
    );
    let stream = address.connect()?;
    let answer = stream.ask(request.as_bytes(), PATIENCE, ANSWER_LIMIT)?;
    match answer.starts_with(b"HTTP/1.1 200 ") {
        true => Ok(()),
        false => Err(io::Error::other("another answer")),
    }
}
