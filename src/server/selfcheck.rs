//! Whether requests still come in: the server asks itself, the way that a client would.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::address::Address;
use crate::stop::Stop;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
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

/// What is done about each outcome.
pub struct Outcomes {
    /// There was an answer.
    pub alive: Box<dyn Fn() + Send>,
    /// There was none for [`GIVE_UP`]; nothing is asked any more.
    pub dead: Box<dyn FnOnce() + Send>,
}

/// Asks every `pause` until `stop` is requested.
pub fn start(
    address: Address,
    target: Target,
    pause: Duration,
    stop: Stop,
    outcomes: Outcomes,
) -> io::Result<()> {
    let builder = thread::Builder::new().name("self-check".into());
    builder.spawn(move || {
        let mut last = Instant::now();
        while !stop.wait(pause) {
            match ask(&address, &target) {
                Ok(()) => {
                    last = Instant::now();
                    (outcomes.alive)();
                }
                Err(error) => {
                    log::debug!("the server doesn't answer itself: {error}");
                    if stop.is_requested() {
                        return;
                    }
                    if last.elapsed() > GIVE_UP {
                        return (outcomes.dead)();
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
