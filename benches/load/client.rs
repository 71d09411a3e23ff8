//! A cheap HTTP client: it sends prepared requests, and parses no more of an answer than needed.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long an answer may take before it counts as an error.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The most bytes that are read at once.
const READ_CHUNK: usize = 1024 * 1024;

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

pub struct Client {
    address: String,
    /// Whether each request has a connection of its own.
    reconnects: bool,
    stream: Option<Box<dyn Stream>>,
    buffer: Vec<u8>,
}

pub struct Answer<'a> {
    pub status: u16,
    pub body: &'a [u8],
}

impl Client {
    /// A client that connects with its first request. `address` is `host:port` or `unix:PATH`.
    pub fn new(address: &str, reconnects: bool) -> Client {
        Client {
            address: address.to_string(),
            reconnects,
            stream: None,
            buffer: vec![0; READ_CHUNK],
        }
    }

    /// Sends the concatenation of `parts` as a request, and waits for the answer.
    pub fn ask(&mut self, parts: &[&[u8]]) -> io::Result<Answer<'_>> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(&self.address)?,
        };
        parts.iter().try_for_each(|part| stream.write_all(part))?;
        let (head, body) = read_answer(&mut *stream, &mut self.buffer)?;
        if !self.reconnects && !head.closes {
            self.stream = Some(stream);
        }
        Ok(Answer {
            status: head.status,
            body: &self.buffer[body],
        })
    }
}

fn connect(address: &str) -> io::Result<Box<dyn Stream>> {
    Ok(match address.strip_prefix("unix:") {
        Some(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            Box::new(stream)
        }
        None => {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            Box::new(stream)
        }
    })
}

/// The head of a request. `body` is the length of its body, if it has one.
pub fn head(method: &str, path: &str, body: Option<usize>) -> Vec<u8> {
    let length = body.map(|length| format!("Content-Length: {length}\r\n"));
    let length = length.unwrap_or_default();
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n").into_bytes()
}

/// The parsed head of an answer.
struct Head {
    status: u16,
    /// Whether the server closes the connection.
    closes: bool,
}

/// Reads an answer into `buffer`. Returns its head, and the range of its body in the buffer.
fn read_answer(
    stream: &mut dyn Stream,
    buffer: &mut Vec<u8>,
) -> io::Result<(Head, std::ops::Range<usize>)> {
    let mut filled = 0;
    let start = loop {
        filled += read_some(stream, &mut buffer[filled..])?;
        if let Some(end) = buffer[..filled].windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = std::str::from_utf8(&buffer[..start]).map_err(io::Error::other)?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        let is_length = name.eq_ignore_ascii_case("Content-Length");
        is_length.then(|| value.parse::<usize>().ok())?
    });
    // An answer 204 has no body (RFC 9110, 15.3.5), and need not say so.
    let length = length.or((status == Some(204)).then_some(0));
    let (Some(status), Some(length)) = (status, length) else {
        return Err(io::Error::other(format!("not an answer: {head:?}")));
    };
    let closes = head.contains("\r\nConnection: close\r\n");
    let end = start + length;
    if buffer.len() < end {
        buffer.resize(end, 0);
    }
    while filled < end {
        let until = end.min(filled + READ_CHUNK);
        filled += read_some(stream, &mut buffer[filled..until])?;
    }
    Ok((Head { status, closes }, start..end))
}

fn read_some(stream: &mut dyn Stream, buffer: &mut [u8]) -> io::Result<usize> {
    match stream.read(buffer)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        count => Ok(count),
    }
}
