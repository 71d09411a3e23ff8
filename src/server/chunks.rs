//! Bodies in chunks (RFC 9112, 7.1), whose length nobody knows ahead.
//!
//! tiny_http has them decoded by `chunked_transfer` 1.5, on whose reader we count what comes.
//! Of its faults two must be made up for here:
//!
//! - It keeps a line that shall be a chunk's size, of whatever length (its `decoder.rs`,
//!   `read_chunk_size`): [`Watch`] has clients disconnected who fill the memory by that.
//! - It doesn't tell the end of a connection from the end of the body: see [`hang_up`].
//!
//! Trailers it takes for a broken chunk, and so do we. All of this can go when tiny_http lets us
//! read what comes after a head.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::address::Address;
use super::elastic::{Budget, Reservation};
use super::hang_up;
use super::memory::Memory;
use super::pace::Progress;
use super::receive::PATIENCE;
use crate::buffer::Buffer;
use crate::lock::lock;
use crate::stop::Stop;

/// The sizes in which memory is taken for a body, bytes, before what its endpoint allows: as
/// much as the budget has for nothing, and what holds most pictures. What a client doesn't send
/// it shall not take from others.
const STEPS: [usize; 2] = [64 * 1024, 1024 * 1024];

/// Why a body was not received.
#[derive(Debug)]
pub enum Failure {
    /// It is larger than its endpoint allows.
    TooLarge,
    /// There was no memory to receive it into.
    NoMemory,
    /// Its client sent no chunks, or too slowly, or is gone.
    Broken(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Broken(error)
    }
}

/// Reads a body of at most `limit` bytes. An error of the reader is the end: it may have lost
/// its place in the chunks.
///
/// # Errors
/// When it is too large, broken, or too slow, or there is no memory for it.
pub fn body(
    request: &mut tiny_http::Request,
    limit: usize,
    budget: &Budget,
    progress: &Progress,
    watched: &Watched,
) -> Result<(Buffer, Reservation), Failure> {
    let mut read = |buffer: &mut [u8]| -> io::Result<usize> {
        let count = request.as_reader().read(buffer)?;
        progress.moved(count);
        watched.moved(count);
        if progress.is_too_slow(Instant::now()) {
            return Err(ErrorKind::TimedOut.into());
        }
        Ok(count)
    };
    let mut body = Buffer::default();
    let mut filled = 0;
    let smaller = STEPS.into_iter().filter(|step| *step < limit);
    let mut reserved = None;
    for size in smaller.chain([limit]) {
        // What is held meanwhile stays reserved. Those who wait for each other are refused soon.
        let reservation = budget.reserve(size, PATIENCE).ok_or(Failure::NoMemory)?;
        drop(reserved.take());
        let mut larger = Buffer::to_overwrite(size);
        larger[..filled].copy_from_slice(&body[..filled]);
        body = larger;
        while filled < size {
            match read(&mut body[filled..])? {
                0 => {
                    body.truncate(filled);
                    return watched.whole((body, reservation));
                }
                count => filled += count,
            }
        }
        reserved = Some(reservation);
    }
    match (read(&mut [0])?, reserved) {
        (0, Some(reservation)) => watched.whole((body, reservation)),
        _ => Err(Failure::TooLarge),
    }
}

/// How often the memory is looked at while bodies are received in chunks.
const TICK: Duration = Duration::from_millis(50);
/// How long a body may stand still while memory is short, in such ticks.
const STANDSTILL: u32 = 4;
/// How soon the thread notices that it shall stop.
const STOP_TICK: Duration = Duration::from_secs(1);

/// The bodies that are being received in chunks.
pub struct Watch {
    address: Address,
    bodies: Mutex<Vec<Arc<Watched>>>,
    begun: Condvar,
}

/// One of them.
pub struct Watched {
    client: Option<SocketAddr>,
    own_port: u16,
    bytes: AtomicUsize,
}

impl Watched {
    fn moved(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Fails if it was its client's hanging up by which the body has ended.
    fn whole<T>(&self, body: T) -> Result<T, Failure> {
        match self.client {
            Some(client) if hang_up::has_hung_up(self.own_port, client) => {
                Err(io::Error::from(ErrorKind::UnexpectedEof).into())
            }
            _ => Ok(body),
        }
    }
}

impl Watch {
    /// Of bodies that come to `address`.
    pub fn new(address: Address) -> Watch {
        Watch {
            address,
            bodies: Mutex::default(),
            begun: Condvar::new(),
        }
    }

    /// Calls `receive` for a body that is watched meanwhile.
    pub fn over<T>(&self, client: Option<SocketAddr>, receive: impl FnOnce(&Watched) -> T) -> T {
        let own_port = match &self.address {
            Address::Tcp(own) => own.port(),
            Address::Unix(_) => 0,
        };
        let bytes = AtomicUsize::new(0);
        let body = Arc::new(Watched {
            client,
            own_port,
            bytes,
        });
        self.lock().push(body.clone());
        self.begun.notify_all();
        let outcome = receive(&body);
        self.lock().retain(|other| !Arc::ptr_eq(other, &body));
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Watched>>> {
        lock(&self.bodies)
    }
}

/// Starts the thread that looks whether somebody fills the memory: `in_flight` tells how many
/// bytes are there for a reason, `disconnect` ends a client's connection.
///
/// # Errors
/// When the system has no thread to spare.
pub fn start(
    watch: Arc<Watch>,
    in_flight: impl Fn() -> usize + Send + 'static,
    disconnect: impl Fn(Option<SocketAddr>) + Send + 'static,
    stop: Stop,
) -> io::Result<()> {
    let run = move || {
        while !stop.is_requested() {
            let bodies = watch.lock();
            let waited = watch
                .begun
                .wait_timeout_while(bodies, STOP_TICK, |b| b.is_empty());
            drop(waited);
            let mut memory = Memory::new();
            let mut still = Vec::new();
            while !watch.lock().is_empty() && !stop.is_requested() {
                thread::sleep(TICK);
                still = stand_still(&watch.lock(), &still);
                if memory.is_short(in_flight() as u64, Instant::now()) {
                    let overdue = still.iter().filter(|body| body.ticks >= STANDSTILL);
                    overdue.for_each(|body| disconnect(body.watched.client));
                }
            }
        }
    };
    thread::Builder::new().name("chunks".into()).spawn(run)?;
    Ok(())
}

/// A body that has not moved lately.
struct Still {
    watched: Arc<Watched>,
    bytes: usize,
    ticks: u32,
}

/// All bodies, and for how long each has not moved, as it was seen one tick after `before`.
fn stand_still(bodies: &[Arc<Watched>], before: &[Still]) -> Vec<Still> {
    let seen = |watched: &Arc<Watched>| {
        let bytes = watched.bytes.load(Ordering::Relaxed);
        let earlier = before
            .iter()
            .find(|still| Arc::ptr_eq(&still.watched, watched) && still.bytes == bytes);
        Still {
            watched: watched.clone(),
            bytes,
            ticks: earlier.map_or(0, |still| still.ticks + 1),
        }
    };
    bodies.iter().map(seen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::str::FromStr;
    use tiny_http::{Header, Method, TestRequest};

    #[test]
    fn a_body_stands_still_for_as_long_as_no_byte_of_it_comes() {
        let watch = Watch::new(Address::Tcp(([127, 0, 0, 1], 0).into()));
        watch.over(None, |moving| {
            watch.over(None, |_| {
                let mut still = Vec::new();
                for tick in 0..5 {
                    moving.moved(1);
                    still = stand_still(&watch.lock(), &still);
                    let ticks: Vec<u32> = still.iter().map(|still| still.ticks).collect();
                    assert_eq!(ticks, [0, tick]);
                }
            });
        });
        assert!(watch.lock().is_empty());
    }

    /// Receives a body of so many bytes, in one chunk, with a budget of so many.
    fn receive(length: usize, budget: usize) -> Result<(Buffer, Reservation), Failure> {
        let coded = format!("{length:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(length));
        // Without an end to its life, because the request wants it so.
        let chunked = Header::from_str("Transfer-Encoding: chunked").expect("a header");
        let request = TestRequest::new()
            .with_method(Method::Post)
            .with_header(chunked)
            .with_body(coded.leak());
        let mut request = tiny_http::Request::from(request);
        let (budget, progress) = (Budget::new(budget), Progress::start());
        let watch = Watch::new(Address::Tcp(([127, 0, 0, 1], 0).into()));
        let limit = 2 * STEPS[1];
        watch.over(None, |watched| {
            body(&mut request, limit, &budget, &progress, watched)
        })
    }

    #[test]
    fn what_has_come_stays_reserved_while_there_is_a_larger_buffer() {
        let both = STEPS[1] + 2 * STEPS[1];
        let received = receive(STEPS[1] + 1, both);
        assert!(received.is_ok_and(|(body, _)| body.len() == STEPS[1] + 1));
        // There would be enough for the larger one alone.
        let received = receive(STEPS[1] + 1, both - 1);
        assert!(matches!(received, Err(Failure::NoMemory)));
        let received = receive(STEPS[1] - 1, both - 1);
        assert!(received.is_ok(), "it needs no larger buffer");
    }
}
