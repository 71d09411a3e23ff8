//! From our response to the client.

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use tiny_http::{HTTPVersion, StatusCode};

use super::budget::{Budget, Reservation};
use super::elastic::Elastic;
use super::exchange::Exchange;
use super::pace::Progress;
use super::refusals::Refusal;
use super::room::{AnswerMemory, Room};
use crate::protocol::http::{Response, http_date};

/// Answers up to this size fit a socket's buffer, bytes: writing one waits for no client.
const SMALL: usize = 32 * 1024;
/// Bytes that are written at once: after each it is seen how fast the client is.
const CHUNK: usize = 256 * 1024;
/// Clients to whom large answers are sent at once.
const MAX_SENDERS: usize = 256;

/// The sending threads, and the bytes that they hold.
pub struct Senders {
    threads: Elastic,
    memory: Arc<AnswerMemory>,
    /// Whether clients are told to send no further request on their connections.
    closes: AtomicBool,
}

impl Senders {
    /// For answers of `workers` threads, which take `bytes` at once.
    pub fn new(workers: usize, bytes: usize) -> Senders {
        Senders {
            threads: Elastic::new("send", MAX_SENDERS),
            memory: Arc::new(AnswerMemory::new(bytes, workers)),
            closes: AtomicBool::new(false),
        }
    }

    /// Bytes that large answers take, those that are being made included.
    pub fn bytes(&self) -> usize {
        self.memory.taken()
    }

    /// The memory for an answer, which has taken nothing yet.
    pub fn room(&self) -> Room {
        Room::new(&self.memory)
    }

    /// The bytes of large answers, taken or not.
    pub fn budget(&self) -> &Budget {
        self.memory.budget()
    }

    /// Tells clients from now on to send no further requests.
    pub fn close_connections(&self) {
        self.closes.store(true, Ordering::SeqCst);
    }

    /// Sends an answer, for which `room` was taken: a small one at once, a large one from a sending
    /// thread.
    pub fn send(&self, exchange: Exchange, response: Response, room: Room) {
        if room.was_refused() {
            exchange.ticket.note(Refusal::NoMemoryToSend);
        }
        let is_small = response.body.as_slice().len() <= SMALL;
        if is_small || exchange.request.method() == &tiny_http::Method::Head {
            drop(room);
            return self.send_at_once(exchange, &response);
        }
        match room.keep(&response.body) {
            Some(reserved) => self.hand_over(exchange, response, Some(reserved)),
            None => {
                exchange.ticket.note(Refusal::NoMemoryToSend);
                self.send_at_once(exchange, &Response::unavailable());
            }
        }
    }

    /// Sends 503 from a sending thread: whoever calls has others to serve.
    pub fn turn_away(&self, exchange: Exchange) {
        self.hand_over(exchange, Response::unavailable(), None);
    }

    fn hand_over(
        &self,
        exchange: Exchange,
        response: Response,
        reserved: Option<Arc<Reservation>>,
    ) {
        let closes = self.closes(&exchange);
        let task = move |exchange: Exchange| {
            let pace = Some(Progress::start(Instant::now()));
            send(exchange, &response, closes, pace);
            drop((reserved, response));
        };
        if let Err(exchange) = self.threads.run(exchange, task) {
            exchange.ticket.note(Refusal::NoThread);
            self.send_at_once(exchange, &Response::unavailable());
        }
    }

    fn send_at_once(&self, exchange: Exchange, response: &Response) {
        let closes = self.closes(&exchange);
        send(exchange, response, closes, None);
    }

    /// Whether a client is told to send no further request. A connection to a Unix socket has one
    /// request ([`super::guard::local`]).
    fn closes(&self, exchange: &Exchange) -> bool {
        exchange.ticket.client().is_none() || self.closes.load(Ordering::SeqCst)
    }
}

fn send(exchange: Exchange, response: &Response, closes: bool, pace: Option<Progress>) {
    let Exchange { request, ticket } = exchange;
    if answer(request, response, closes, pace).is_err() {
        ticket.disconnect();
    }
}

/// Answers a request whose body was read to its end. If it `closes`, the client shall send no
/// further request on this connection. With a `pace` the client is waited for as long as it isn't
/// too slow, and not at all without.
///
/// # Errors
/// When the client is gone or too slow: its connection is of no further use.
pub fn answer(
    request: tiny_http::Request,
    response: &Response,
    closes: bool,
    pace: Option<Progress>,
) -> io::Result<()> {
    let outline = log::log_enabled!(log::Level::Debug).then(|| {
        format!(
            "{} {} → {}",
            request.method(),
            request.url(),
            response.status
        )
    });
    let outcome = write(request, response, closes, pace);
    if let Some(outline) = outline {
        match &outcome {
            Ok(()) => log::debug!("{outline}"),
            Err(error) => log::debug!("{outline}, but the client is gone: {error}"),
        }
    }
    outcome
}

fn write(
    request: tiny_http::Request,
    response: &Response,
    closes: bool,
    pace: Option<Progress>,
) -> io::Result<()> {
    let body = match request.method() {
        tiny_http::Method::Head => &[],
        _ => response.body.as_slice(),
    };
    let mut head = head(&request, response, closes).into_bytes();
    // Not `respond`, which copies 8 KB at a time and may decide for chunks.
    let mut writer = Paced {
        writer: request.into_writer(),
        pace,
    };
    if body.len() <= SMALL {
        head.extend_from_slice(body);
        writer.write_all(&head)?;
    } else {
        writer.write_all(&head)?;
        for chunk in body.chunks(CHUNK) {
            writer.write_all(chunk)?;
        }
    }
    writer.flush()
}

/// A writer that waits for its client, unless that is too slow; without a pace, not at all.
struct Paced {
    writer: Box<dyn Write + Send>,
    pace: Option<Progress>,
}

impl Paced {
    /// Does `step` until it is done. Each lasts no longer than [`super::pace::WRITE_TIMEOUT`].
    fn step<T>(&mut self, mut step: impl FnMut(&mut dyn Write) -> io::Result<T>) -> io::Result<T> {
        loop {
            match step(&mut self.writer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && self.pace.is_some() => {
                    self.check()?;
                }
                outcome => return outcome,
            }
        }
    }

    fn check(&self) -> io::Result<()> {
        let pace = self.pace.as_ref();
        if pace.is_some_and(|pace| pace.is_too_slow(Instant::now())) {
            return Err(ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl Write for Paced {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.step(|writer| writer.write(bytes))?;
        if let Some(pace) = &self.pace {
            pace.moved(count, Instant::now());
        }
        self.check()?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.step(|writer| writer.flush())
    }
}

fn head(request: &tiny_http::Request, response: &Response, closes: bool) -> String {
    let reason = StatusCode(response.status).default_reason_phrase();
    let mut head = format!(
        "HTTP/1.1 {} {reason}\r\nDate: {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n",
        response.status,
        http_date(SystemTime::now()),
        response.content_type,
        response.body.content_length(),
    );
    for (name, value) in &response.headers {
        head += &format!("{name}: {value}\r\n");
    }
    // What tiny_http does with the connection next, said aloud.
    let asked = request
        .headers()
        .iter()
        .find(|h| h.field.equiv("Connection"));
    let asked = asked.map(|h| h.value.as_str().to_ascii_lowercase());
    let has = |word| {
        asked
            .as_deref()
            .is_some_and(|asked: &str| asked.contains(word))
    };
    let old = *request.http_version() == HTTPVersion(1, 0);
    if closes || has("close") || has("upgrade") || old && !has("keep-alive") {
        head += "Connection: close\r\n";
    } else if old {
        head += "Connection: keep-alive\r\n";
    }
    head + "\r\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tiny_http::{Header, TestRequest};

    #[test]
    fn an_answer_says_what_becomes_of_the_connection() {
        for (version, asked, closes, expected) in [
            ((1, 1), "", false, None),
            ((1, 1), "", true, Some("close")),
            ((1, 1), "Keep-Alive", false, None),
            ((1, 1), "Close", false, Some("close")),
            ((1, 1), "TE, close", false, Some("close")),
            ((1, 1), "Upgrade", false, Some("close")),
            ((1, 0), "", false, Some("close")),
            ((1, 0), "Keep-Alive", false, Some("keep-alive")),
            ((1, 0), "Keep-Alive", true, Some("close")),
        ] {
            let asked = Header::from_bytes("Connection", asked).expect("ASCII");
            let request = TestRequest::new().with_http_version(HTTPVersion::from(version));
            let request = request.with_header(asked).into();
            let head = head(&request, &Response::text(200, "hello"), closes);
            let said = head
                .lines()
                .find_map(|line| line.strip_prefix("Connection: "));
            assert_eq!(said, expected, "{version:?} {closes}: {head}");
            assert!(head.contains("\r\nContent-Length: 5\r\n") && head.ends_with("\r\n\r\n"));
        }
    }

    /// Takes one byte at a time, and none while it is blocked.
    struct Slow {
        blocked: usize,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.blocked > 0 {
                self.blocked -= 1;
                return Err(ErrorKind::WouldBlock.into());
            }
            Ok(bytes.len().min(1))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn only_a_sender_with_a_pace_waits_for_its_client() {
        let send = |pace| {
            let writer = Box::new(Slow { blocked: 3 });
            let sent = Paced { writer, pace }.write_all(b"hello");
            sent.map_err(|error| error.kind())
        };
        let now = Instant::now();
        assert_eq!(send(Some(Progress::start(now))), Ok(()));
        assert_eq!(send(None), Err(ErrorKind::WouldBlock));
        let long_ago = now.checked_sub(Duration::from_secs(60));
        if let Some(long_ago) = long_ago {
            let late = Progress::start(long_ago);
            assert_eq!(send(Some(late)), Err(ErrorKind::TimedOut));
        }
    }
}
