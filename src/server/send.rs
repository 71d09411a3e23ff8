//! From our response to the client.

use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant, SystemTime};

use tiny_http::{HTTPVersion, Header, StatusCode};

use super::framing;
use super::pace::Progress;
use crate::protocol::http::{Response, http_date};

/// Answers up to this size fit a socket's buffer: writing one waits for no client.
pub const SMALL: usize = 32 * 1024;
/// Bytes that are written at once: after each it is seen how fast the client is.
const CHUNK: usize = 256 * 1024;

/// How much of a refused body is still read, so that a client that sends all before it
/// listens gets its answer: several times what any client sends by mistake. Also the most
/// that may be left of a refused body when its reader is dropped or meets the end of the
/// connection: tiny_http takes memory for all of it then, and the process ends if that
/// fails (its `util/equal_reader.rs` and `util/fused_reader.rs`). Of a body that was not
/// refused, no more can be left than `files.max_size` allows.
const LINGER_BYTES: usize = 64 * 1024 * 1024;
/// For how long.
const LINGER_TIME: Duration = Duration::from_secs(10);
/// How many broken chunks of a refused body are read. The end of the connection is one, too, each
/// time it is met.
const MAX_BROKEN_CHUNKS: usize = 1000;

/// How an answer is sent.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Whether the client shall send no further request on this connection.
    pub last: bool,
    /// Whether the client is waited for, as long as it isn't too slow.
    pub patient: bool,
}

/// Answers a request whose body was read to its end.
///
/// # Errors
/// When the client is gone or too slow: its connection is of no further use.
pub fn response(
    request: tiny_http::Request,
    response: &Response,
    manner: Manner,
) -> io::Result<()> {
    let outline = log::log_enabled!(log::Level::Debug).then(|| {
        format!(
            "{} {} → {}",
            request.method(),
            request.url(),
            response.status
        )
    });
    let outcome = write(request, response, manner);
    if let Some(outline) = outline {
        match &outcome {
            Ok(()) => log::debug!("{outline}"),
            Err(error) => log::debug!("{outline}, but the client is gone: {error}"),
        }
    }
    outcome
}

/// Answers a request whose body was not read. The connection must be ended then.
pub fn refusal(request: tiny_http::Request, response: &Response) -> Unread {
    let announced = request.body_length().unwrap_or(0);
    let broken_chunks = match framing::is_chunked(&request) {
        true => MAX_BROKEN_CHUNKS,
        false => 0,
    };
    let stream = write_refusal(request, response);
    Unread {
        stream,
        announced,
        broken_chunks,
    }
}

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
    /// Whether it may be read from, or dropped.
    pub fn may_end(&self) -> bool {
        self.announced <= LINGER_BYTES
    }

    /// Listens until the client has stopped sending, within limits, and closes the
    /// connection. It must be one that [may](Unread::may_end) end. Whether the connection
    /// has broken.
    pub fn linger(mut self) -> bool {
        let deadline = Instant::now() + LINGER_TIME;
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

    /// Keeps the connection's two descriptors and its thread for as long as the process
    /// lives: reading or dropping it would end the process.
    pub fn keep_for_ever(self) {
        std::mem::forget(self.stream);
    }
}

fn write(request: tiny_http::Request, response: &Response, manner: Manner) -> io::Result<()> {
    let with_body = request.method() != &tiny_http::Method::Head;
    let body = if with_body {
        response.body.as_slice()
    } else {
        &[]
    };
    let mut head = head(&request, response, manner.last).into_bytes();
    // Not `respond`, which copies 8 KB at a time and may decide for chunks.
    let mut writer = Paced {
        writer: request.into_writer(),
        progress: Progress::start(),
        patient: manner.patient,
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

/// A writer that waits for its client, unless that is too slow.
struct Paced {
    writer: Box<dyn Write + Send>,
    progress: Progress,
    patient: bool,
}

impl Paced {
    /// Does `step` until it is done.
    fn pace<T>(&mut self, mut step: impl FnMut(&mut dyn Write) -> io::Result<T>) -> io::Result<T> {
        loop {
            match step(&mut self.writer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && self.patient => {
                    if self.progress.is_too_slow(Instant::now()) {
                        return Err(ErrorKind::TimedOut.into());
                    }
                }
                outcome => return outcome,
            }
        }
    }
}

impl Write for Paced {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.pace(|writer| writer.write(bytes))?;
        self.progress.moved(count);
        match self.progress.is_too_slow(Instant::now()) {
            true => Err(ErrorKind::TimedOut.into()),
            false => Ok(count),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pace(|writer| writer.flush())
    }
}

fn head(request: &tiny_http::Request, response: &Response, last: bool) -> String {
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
    if last || has("close") || has("upgrade") || old && !has("keep-alive") {
        head += "Connection: close\r\n";
    } else if old {
        head += "Connection: keep-alive\r\n";
    }
    head + "\r\n"
}

type Stream = Box<dyn tiny_http::ReadWrite + Send>;

/// Writes an answer without dropping the reader of the request's body, which only `upgrade`
/// allows. It adds the fields `Connection: upgrade` and `Upgrade`; the latter is left empty, which
/// offers nothing (RFC 9110, 5.6.1 and 7.8). It gives the length of no body, so ours follows in
/// the same value. Without a field `Server` it would add its own.
fn write_refusal(request: tiny_http::Request, response: &Response) -> Stream {
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
