//! Refused requests whose bodies were not read.
//!
//! **Fault.** When a request is dropped, or its body's reader meets the end of the connection,
//! tiny_http takes memory for all of the body that its client has announced and not sent. With
//! `Content-Length: 1000000000000000` the process ends, which is one line from any client.
//!
//! **Where.** `util/equal_reader.rs`, `drop`: `vec![0; remaining_to_read]`; `util/fused_reader.rs`
//! drops the reader at the end.
//!
//! **Seen.** `tests/hostile.rs` announces such lengths.
//!
//! **Until** tiny_http drains a body through a buffer of a fixed size.
//!
//! Only `Request::upgrade` answers without dropping the reader. A body of moderate length is then
//! read until its client stops; the connection of one beyond all limits is given up: kept for as
//! long as the process lives, with a thread and two descriptors ([`super::stuck`]).

use std::io::{self, ErrorKind, Read, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use tiny_http::Header;

use super::connections::LINGER;
use crate::protocol::http::Response;
use crate::server::framing;

/// How much of a refused body is still read, bytes, so that a client that sends all before it
/// listens gets its answer: several times what any client sends by mistake. Also the most that a
/// refused request may have announced if it is to be dropped. Of a body that was not refused, no
/// more can be left than `files.max_size` allows.
const LINGER_BYTES: usize = 64 * 1024 * 1024;
/// How many broken chunks of a refused body are read. The end of the connection is one, too, each
/// time it is met.
const MAX_BROKEN_CHUNKS: usize = 1000;

type Stream = Box<dyn tiny_http::ReadWrite + Send>;

/// The connection of a refused request.
#[must_use]
pub struct Unread {
    stream: Stream,
    /// Bytes of its body, by its client's word.
    announced: usize,
    /// How many chunks of it may still be broken.
    broken_chunks: usize,
}

impl Unread {
    /// Answers a request whose body was not read. The connection must be ended then.
    pub fn refuse(request: tiny_http::Request, response: &Response) -> Unread {
        Unread {
            announced: request.body_length().unwrap_or(0),
            broken_chunks: if framing::is_chunked(&request) {
                MAX_BROKEN_CHUNKS
            } else {
                0
            },
            stream: write(request, response),
        }
    }

    /// Whether it may be read from, or dropped.
    pub fn may_end(&self) -> bool {
        self.announced <= LINGER_BYTES
    }

    /// Listens until the client has stopped sending, within limits, and closes the
    /// connection. It must be one that [may](Unread::may_end) end. Whether the connection
    /// has broken.
    pub fn linger(mut self) -> bool {
        let deadline = Instant::now() + LINGER;
        let mut buffer = vec![0; 16 * 1024];
        let mut read = 0;
        while read < LINGER_BYTES && Instant::now() < deadline {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                // As long as it is read here, nobody takes the rest for another request.
                Err(error) if error.kind() == ErrorKind::InvalidInput => {
                    match self.broken_chunks.checked_sub(1) {
                        Some(fewer) => self.broken_chunks = fewer,
                        None => return false,
                    }
                }
                Err(_) => return true,
                Ok(count) => read += count,
            }
        }
        false
    }

    /// Keeps the connection for as long as the process lives: reading or dropping it would end
    /// the process.
    pub fn keep_for_ever(self) {
        log::debug!("a connection was given up: its client announced a body beyond all limits");
        std::mem::forget(self.stream);
    }
}

/// Starts the thread that drops what it is sent: that takes until the client is disconnected.
///
/// # Errors
/// When the system has no thread to spare.
pub fn start_dropping() -> io::Result<mpsc::Sender<Unread>> {
    let (unread, dropped) = mpsc::channel::<Unread>();
    let builder = thread::Builder::new().name("unread".into());
    builder.spawn(move || dropped.into_iter().for_each(drop))?;
    Ok(unread)
}

/// Writes an answer without dropping the reader of the request's body, which only `upgrade`
/// allows. It adds the fields `Connection: upgrade` and `Upgrade`; the latter is left empty, which
/// offers nothing (RFC 9110, 5.6.1 and 7.8). It gives the length of no body, so ours follows in
/// the same value. Without a field `Server` it would add its own.
fn write(request: tiny_http::Request, response: &Response) -> Stream {
    log::debug!(
        "{} {} → {}",
        request.method(),
        request.url(),
        response.status
    );
    let body = match request.method() {
        tiny_http::Method::Head => &[],
        _ => response.body.as_slice(),
    };
    let protocol = format!(
        "\r\nContent-Length: {}\r\nConnection: close",
        response.body.content_length()
    );
    let mut answer = tiny_http::Response::empty(response.status);
    let fields = [
        ("Server", "session-file-server".to_string()),
        ("Content-Type", response.content_type.to_string()),
    ];
    for (name, value) in fields.iter().chain(&response.headers) {
        // Our own header fields are ASCII.
        if let Ok(header) = Header::from_bytes(*name, value.as_str()) {
            answer.add_header(header);
        }
    }
    let mut stream = request.upgrade(&protocol, answer);
    if let Err(error) = stream.write_all(body).and_then(|()| stream.flush()) {
        log::debug!("a refused client is gone: {error}");
    }
    stream
}
