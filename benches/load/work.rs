//! The clients' requests, and the loops that send and measure them.

use std::io;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use session_file_server::protocol::onion::cipher::FreshNonce;
use session_file_server::protocol::onion::client::{OnionRequest, read_v4_reply, v4_plaintext};

use crate::client::{Client, head};
use crate::common::bytes;

/// The number of parallel connections of a load.
pub const CLIENTS: usize = 4;

/// The outcome of a load.
#[derive(Default)]
pub struct Outcome {
    /// The number of requests with the expected answer.
    pub done: usize,
    /// The number of other requests.
    pub errors: usize,
    /// The number of all requests, with those that connect and aren't measured.
    pub sent: usize,
    pub elapsed: Duration,
    /// The latency of each request in `done`, microseconds, sorted.
    pub latencies: Vec<u32>,
}

impl Outcome {
    /// The processor time of a request, milliseconds, if all together have taken that.
    pub fn share_of(&self, processor: Duration) -> f64 {
        processor.as_secs_f64() * 1000.0 / self.sent.max(1) as f64
    }

    pub fn rate(&self) -> f64 {
        self.done as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency within which that fraction of the requests was answered, milliseconds.
    pub fn percentile(&self, part: f64) -> f64 {
        let index = (self.latencies.len() as f64 * part) as usize;
        let last = self.latencies.len().saturating_sub(1);
        let found = self.latencies.get(index.min(last)).copied();
        f64::from(found.unwrap_or(0)) / 1000.0
    }

    /// Adds the outcome of a load that ran after this one.
    pub fn add(&mut self, other: Outcome) {
        self.done += other.done;
        self.errors += other.errors;
        self.sent += other.sent;
        self.elapsed += other.elapsed;
        self.latencies.extend(other.latencies);
        self.latencies.sort_unstable();
    }
}

/// A function that does one request of a client. Its errors are counted.
pub type Step<'a> = Box<dyn FnMut() -> io::Result<()> + Send + 'a>;

/// A closed loop: each client sends its next request when the last one is answered.
pub fn closed_loop<'a>(
    clients: usize,
    seconds: f64,
    client: impl Fn(usize) -> Step<'a> + Sync,
) -> Outcome {
    run(
        clients,
        |step, started, outcome| {
            while started.elapsed().as_secs_f64() < seconds {
                count(step, Instant::now(), outcome);
            }
        },
        client,
    )
}

/// An open loop: `rate` requests per second are due at fixed times, whether or not earlier ones are
/// answered. If no client is free then, the time that a request waits counts as latency.
pub fn open_loop<'a>(
    clients: usize,
    seconds: f64,
    rate: f64,
    client: impl Fn(usize) -> Step<'a> + Sync,
) -> Outcome {
    let next = AtomicU64::new(0);
    run(
        clients,
        |step, started, outcome| loop {
            let due = next.fetch_add(1, Ordering::Relaxed) as f64 / rate;
            if due > seconds {
                return;
            }
            let due = started + Duration::from_secs_f64(due);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            count(step, due, outcome);
        },
        client,
    )
}

fn run<'a>(
    clients: usize,
    drive: impl Fn(&mut Step<'a>, Instant, &mut Outcome) + Sync,
    client: impl Fn(usize) -> Step<'a> + Sync,
) -> Outcome {
    let ready = Barrier::new(clients);
    let work = |number| {
        let mut step = client(number);
        let mut outcome = Outcome::default();
        // The first request connects, and isn't measured.
        let _ = step();
        outcome.sent = 1;
        ready.wait();
        let started = Instant::now();
        drive(&mut step, started, &mut outcome);
        outcome.elapsed = started.elapsed();
        outcome
    };
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|number| {
                scope.spawn({
                    let work = &work;
                    move || work(number)
                })
            })
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<_>| thread.join().expect("no panic");
        threads.into_iter().map(join).collect()
    });
    let mut all = Outcome::default();
    let elapsed = outcomes.iter().map(|outcome| outcome.elapsed).max();
    outcomes.into_iter().for_each(|outcome| all.add(outcome));
    all.elapsed = elapsed.unwrap_or_default();
    all
}

fn count(step: &mut Step, since: Instant, outcome: &mut Outcome) {
    outcome.sent += 1;
    match step() {
        Ok(()) => {
            outcome.done += 1;
            outcome.latencies.push(since.elapsed().as_micros() as u32);
        }
        Err(_) => outcome.errors += 1,
    }
}

/// The way in which a request reaches the server.
#[derive(Clone)]
pub enum Transport {
    /// The request is plain HTTP.
    Direct,
    /// The request is an onion request for the server with this X25519 public key.
    Onion([u8; 32]),
}

/// A request that is ready to be sent.
pub struct Prepared {
    bytes: Vec<u8>,
    onion: Option<OnionRequest>,
}

impl Transport {
    /// Prepares `GET path`.
    pub fn get(&self, path: &str) -> Prepared {
        match self {
            Transport::Direct => Prepared {
                bytes: head("GET", path, None),
                onion: None,
            },
            Transport::Onion(key) => onion(key, "GET", path, None),
        }
    }

    /// Prepares `POST /file` with that content.
    pub fn post(&self, content: &[u8]) -> Prepared {
        match self {
            Transport::Direct => {
                let mut bytes = head("POST", "/file", Some(content.len()));
                bytes.extend_from_slice(content);
                Prepared { bytes, onion: None }
            }
            Transport::Onion(key) => onion(key, "POST", "/file", Some(content)),
        }
    }
}

fn onion(key: &[u8; 32], method: &str, path: &str, body: Option<&[u8]>) -> Prepared {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let fresh = bytes(COUNT.fetch_add(1, Ordering::Relaxed), 56);
    let (mut secret, mut nonce) = ([0; 32], [0; 24]);
    secret.copy_from_slice(&fresh[..32]);
    nonce.copy_from_slice(&fresh[32..]);
    let onion = OnionRequest::new(key, Some("xchacha20"), secret).expect("a server's key");
    let plaintext = v4_plaintext(method, path, &[], body);
    let sealed = onion
        .seal(&plaintext, FreshNonce(nonce))
        .expect("not too long");
    let mut bytes = head("POST", "/oxen/v4/lsrpc", Some(sealed.len()));
    bytes.extend_from_slice(&sealed);
    Prepared {
        bytes,
        onion: Some(onion),
    }
}

/// A client that uploads files of `size` bytes directly, each another one.
pub fn uploads<'a>(address: &str, size: usize, number: usize) -> Step<'a> {
    let mut client = Client::new(address, false);
    let mut request = Transport::Direct.post(&bytes(number as u64, size));
    let start = request.bytes.len() - size;
    let mut count = 0;
    Box::new(move || {
        count += 1;
        stamp(&mut request.bytes[start..], number, count);
        request.fetch(&mut client).map(drop)
    })
}

impl Prepared {
    /// Sends the request. The answer's body must have that length before its encryption.
    pub fn send(&self, client: &mut Client, length: usize) -> io::Result<()> {
        let answer = client.ask(&[&self.bytes])?;
        // The reply's metadata and encryption take some 150 bytes. They aren't decrypted, because
        // that would cost the client as much as the server.
        let slack = if self.onion.is_some() { 300 } else { 0 };
        if answer.status == 200 && (length..=length + slack).contains(&answer.body.len()) {
            Ok(())
        } else {
            Err(io::Error::other(format!("status {}", answer.status)))
        }
    }

    /// Sends the request and returns the answer's body. The status must be 200.
    pub fn fetch(&self, client: &mut Client) -> io::Result<Vec<u8>> {
        let answer = client.ask(&[&self.bytes])?;
        let body = match &self.onion {
            Some(onion) if answer.status == 200 => {
                let reply = onion.open(answer.body.to_vec());
                let reply = reply.ok_or_else(|| io::Error::other("not for us"))?;
                let (status, _, body) = read_v4_reply(&reply).unwrap_or_default();
                (status, body.to_vec())
            }
            // What is refused before it is decrypted isn't encrypted either.
            _ => (answer.status, answer.body.to_vec()),
        };
        match body {
            (200, body) => Ok(body),
            (status, _) => Err(io::Error::other(format!("status {status}"))),
        }
    }
}

/// Changes the first bytes of a client's file, so that each upload is another one.
pub fn stamp(content: &mut [u8], client: usize, count: u32) {
    content[0] = client as u8;
    content[1..5].copy_from_slice(&count.to_le_bytes());
}

/// The id in the answer to an upload.
pub fn id_of(answer: &[u8]) -> String {
    let answer: serde_json::Value = serde_json::from_slice(answer).unwrap_or_default();
    answer["id"].as_str().unwrap_or_default().to_string()
}

/// A fast generator of random numbers, with repeatable results.
pub struct Random(u64);

impl Random {
    pub fn new(seed: usize) -> Random {
        Random((seed as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// A number from 0 to below 1.
    pub fn part(&mut self) -> f64 {
        // Xorshift (Marsaglia 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number from 0 to below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.part() * limit as f64) as usize
    }

    /// A number between the two, distributed evenly on a logarithmic scale.
    pub fn between(&mut self, least: usize, most: usize) -> usize {
        (least as f64 * (most as f64 / least as f64).powf(self.part())) as usize
    }
}
