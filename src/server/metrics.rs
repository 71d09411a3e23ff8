//! Where Prometheus gets the metrics: an address of its own, a thread of its own, and the little
//! of HTTP that they need. tiny_http isn't used, because it has no time-outs.
//!
//! The thread serves a few clients side by side, without waiting for any of them. A client that is
//! slow costs its own connection, and neither another one of this address nor a request of the
//! public one.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::listener::Listener;
use super::receive::origin_form;
use crate::exposition::CONTENT_TYPE;
use crate::protocol::http::path_of;

/// The longest head of a request, bytes. Prometheus sends some hundreds.
const MAX_HEAD: usize = 8 * 1024;
/// How long a connection may take in all. Prometheus itself waits for 10 seconds.
const DEADLINE: Duration = Duration::from_secs(5);
/// The most connections at once. Beyond them the oldest is closed; a server has one or two
/// collectors.
const MAX_CONNECTIONS: usize = 16;
/// The pause between two looks at the connections while there are any. Each look accepts at most
/// one more, so that a flood of connections doesn't take a processor.
const TICK: Duration = Duration::from_millis(2);
/// The pause after an error in accepting, as when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Starts the thread, which serves what `text` returns for as long as the process lives.
///
/// # Errors
/// When the system has no thread or descriptor to spare.
pub fn start(listener: &Listener, text: impl Fn() -> String + Send + 'static) -> io::Result<()> {
    let socket = listener.duplicate()?;
    let run = move || {
        let mut open: Vec<Connection> = Vec::new();
        loop {
            accept(&socket, &mut open);
            if !open.is_empty() {
                thread::sleep(TICK);
            }
            let now = Instant::now();
            open.retain_mut(|connection| connection.advance(&text, now));
        }
    };
    thread::Builder::new().name("metrics".into()).spawn(run)?;
    Ok(())
}

/// Accepts a connection, if there is one. If none is open, it waits for one.
fn accept(listener: &Socket, open: &mut Vec<Connection>) {
    let accepted = listener
        .set_nonblocking(!open.is_empty())
        .and_then(|()| listener.accept())
        .and_then(|(socket, _)| {
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
    match accepted {
        Ok(socket) => {
            if open.len() >= MAX_CONNECTIONS {
                open.remove(0);
            }
            open.push(Connection::new(socket, Instant::now()));
        }
        // The listening socket has a time-out, too.
        Err(error) if is_wait(&error) => {}
        Err(error) => {
            log::debug!("a connection for the metrics was not accepted: {error}");
            thread::sleep(ACCEPT_PAUSE);
        }
    }
}

/// A connection: first its head is read, then the answer is written, and then its end is awaited.
struct Connection<S = Socket> {
    socket: S,
    deadline: Instant,
    head: Vec<u8>,
    /// The answer, if the head has come.
    answer: Option<Vec<u8>>,
    /// How much of the answer is written, bytes.
    written: usize,
}

impl<S: Read + Write + Ends> Connection<S> {
    fn new(socket: S, now: Instant) -> Connection<S> {
        Connection {
            socket,
            deadline: now + DEADLINE,
            head: Vec::new(),
            answer: None,
            written: 0,
        }
    }

    /// Does what can be done without waiting. Returns whether the connection is still of use.
    fn advance(&mut self, text: impl Fn() -> String, now: Instant) -> bool {
        let outcome = if self.answer.is_none() {
            self.read_head(text)
        } else {
            Ok(())
        };
        let outcome = outcome.and_then(|()| self.write_answer());
        now < self.deadline && outcome.is_ok_and(|ended| !ended)
    }

    /// Reads the head as far as it has come, and finds the answer when it is whole.
    fn read_head(&mut self, text: impl Fn() -> String) -> io::Result<()> {
        let mut buffer = [0; 1024];
        while self.answer.is_none() {
            let count = match self.socket.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Err(error) if is_wait(&error) => return Ok(()),
                outcome => outcome?,
            };
            self.head.extend_from_slice(&buffer[..count]);
            if is_whole(&self.head) {
                self.answer = Some(answer(&self.head, &text));
            } else if self.head.len() > MAX_HEAD {
                self.answer = Some(refusal(431, "", true));
            }
        }
        Ok(())
    }

    /// Writes the answer as far as the client takes it, and reads what it still sends: closing the
    /// socket before would reset the connection, and the answer might be lost. Returns whether the
    /// client has ended the connection.
    fn write_answer(&mut self) -> io::Result<bool> {
        let Some(answer) = &self.answer else {
            return Ok(false);
        };
        while self.written < answer.len() {
            match self.socket.write(&answer[self.written..]) {
                Err(error) if is_wait(&error) => return Ok(false),
                outcome => self.written += outcome?,
            }
            if self.written == answer.len() {
                self.socket.end()?;
            }
        }
        match self.socket.read(&mut [0; 1024]) {
            Err(error) if is_wait(&error) => Ok(false),
            outcome => Ok(outcome? == 0),
        }
    }
}

/// A connection whose sending side can be closed.
trait Ends {
    /// Tells the other side that nothing more comes.
    fn end(&self) -> io::Result<()>;
}

impl Ends for Socket {
    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

fn is_wait(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Whether the empty line has come that ends a head.
fn is_whole(head: &[u8]) -> bool {
    let ends = |end: &[u8]| head.windows(end.len()).any(|bytes| bytes == end);
    ends(b"\r\n\r\n") || ends(b"\n\n")
}

/// The answer to a whole head: `text` for GET and HEAD of `/metrics`.
fn answer(head: &[u8], text: impl Fn() -> String) -> Vec<u8> {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = std::str::from_utf8(line).unwrap_or_default();
    let words: Vec<&str> = line.trim_end().split(' ').collect();
    let (method, target) = match words[..] {
        [method, target, version] if version.starts_with("HTTP/1.") => (method, target),
        _ => return refusal(400, "", true),
    };
    let is_head = method == "HEAD";
    if path_of(origin_form(target)) != "/metrics" {
        return refusal(404, "", !is_head);
    }
    if method != "GET" && !is_head {
        return refusal(405, "Allow: GET, HEAD\r\n", true);
    }
    response(200, "", CONTENT_TYPE, &text(), !is_head)
}

fn refusal(status: u16, field: &str, has_body: bool) -> Vec<u8> {
    let body = format!("{status}: the metrics are at /metrics\n");
    response(status, field, "text/plain; charset=utf-8", &body, has_body)
}

/// A response. `field` is a further line of its head, or empty; without a body it is the answer to
/// HEAD.
fn response(status: u16, field: &str, content_type: &str, body: &str, has_body: bool) -> Vec<u8> {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Request Header Fields Too Large",
    };
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\
         {field}Connection: close\r\n\r\n",
        body.len()
    );
    (head + if has_body { body } else { "" }).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// A client that sends each of these texts when it is read from, and takes a few bytes.
    #[derive(Default)]
    struct Client {
        sends: VecDeque<&'static str>,
        takes: usize,
        got: Vec<u8>,
    }

    impl Read for Client {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let text = self.sends.pop_front().ok_or(ErrorKind::WouldBlock)?;
            buffer[..text.len()].copy_from_slice(text.as_bytes());
            Ok(text.len())
        }
    }

    impl Write for Client {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = self.takes.min(bytes.len());
            self.takes -= count;
            self.got.extend_from_slice(&bytes[..count]);
            if count == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Ends for Client {
        fn end(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn metrics() -> String {
        "up 1\n".into()
    }

    fn ask(head: &str) -> String {
        let answer = answer(head.as_bytes(), metrics);
        String::from_utf8(answer).expect("ASCII")
    }

    #[test]
    fn only_get_and_head_of_metrics_get_them() {
        for (line, status) in [
            ("GET /metrics HTTP/1.1", "200 OK"),
            ("GET /metrics?a=b HTTP/1.0", "200 OK"),
            ("GET http://127.0.0.1:9119/metrics HTTP/1.1", "200 OK"),
            ("POST /metrics HTTP/1.1", "405 Method Not Allowed"),
            ("GET / HTTP/1.1", "404 Not Found"),
            ("GET /metrics/ HTTP/1.1", "404 Not Found"),
            ("POST /file HTTP/1.1", "404 Not Found"),
            ("GET /metrics", "400 Bad Request"),
            ("GET  /metrics HTTP/1.1", "400 Bad Request"),
            ("GET /metrics HTTP/2.0", "400 Bad Request"),
            ("", "400 Bad Request"),
        ] {
            let answer = ask(&format!("{line}\r\nHost: x\r\n\r\n"));
            let expected = format!("HTTP/1.1 {status}\r\n");
            assert!(answer.starts_with(&expected), "{line}: {answer}");
            assert_eq!(answer.ends_with("\r\n\r\nup 1\n"), status == "200 OK");
            assert!(answer.contains("\r\nConnection: close\r\n\r\n"), "{answer}");
        }
        let got = ask("GET /metrics HTTP/1.1\r\n\r\n");
        let head = ask("HEAD /metrics HTTP/1.1\r\n\r\n");
        assert_eq!(format!("{head}up 1\n"), got);
        assert!(got.contains("\r\nContent-Type: text/plain; version=0.0.4"));
    }

    #[test]
    fn a_head_comes_and_an_answer_goes_in_pieces() {
        let client = Client {
            sends: ["GET /metrics HT", "TP/1.1\r\n", "A: b\r\n\r", "\n"].into(),
            ..Client::default()
        };
        let now = Instant::now();
        let mut connection = Connection::new(client, now);
        assert!(connection.advance(metrics, now), "its client takes nothing");
        while connection.socket.got.len() < connection.answer.as_ref().map_or(0, Vec::len) {
            connection.socket.takes = 3;
            assert!(connection.advance(metrics, now));
        }
        assert!(connection.socket.got.ends_with(b"up 1\n"));
        assert!(
            connection.advance(metrics, now),
            "it is the client's turn to close"
        );
        connection.socket.sends = [""].into();
        assert!(!connection.advance(metrics, now), "the client has closed");
    }

    #[test]
    fn who_is_too_slow_or_sends_too_much_is_given_up() {
        let now = Instant::now();
        let mut silent = Connection::new(Client::default(), now);
        assert!(silent.advance(metrics, now + DEADLINE - TICK));
        assert!(!silent.advance(metrics, now + DEADLINE));
        let line = "X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n";
        let client = Client {
            sends: vec![line; MAX_HEAD / line.len() + 2].into(),
            takes: usize::MAX,
            ..Client::default()
        };
        let mut endless = Connection::new(client, now);
        assert!(endless.advance(metrics, now));
        assert!(endless.socket.got.starts_with(b"HTTP/1.1 431 "));
        assert!(endless.head.len() < MAX_HEAD + 1024);
        let client = Client {
            sends: ["GET /metrics", ""].into(),
            ..Client::default()
        };
        let mut broken = Connection::new(client, now);
        assert!(!broken.advance(metrics, now), "its client is gone");
    }
}
