//! `health`: whether a server answers where the configuration lets it listen, for images of
//! containers that have no curl.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::config::{Config, Listen};
use crate::output::print;

/// How long connecting, and then each step of the answer, may take. The server itself waits one
/// second for its database.
const PATIENCE: Duration = Duration::from_secs(5);
/// The answer is a status line, a few header fields and a word.
const ANSWER_LIMIT: u64 = 4096;
/// What a server's answer has while its database takes no writes.
const NO_WRITES: &[u8] = b"\"write\":false";

/// Asks the server for `/health` on each of its addresses, and prints a word if it is well.
///
/// # Errors
/// A sentence for the operator: nobody listens there, or the server can't use its database.
pub fn run(config: &Config) -> Result<(), String> {
    let mut takes_uploads = true;
    for listen in &config.listen {
        takes_uploads &= check(listen)?;
    }
    print(if takes_uploads {
        "the server is well\n"
    } else {
        "the server is well, and its database takes no uploads now\n"
    })
}

/// Whether a server that is well takes uploads.
fn check(listen: &Listen) -> Result<bool, String> {
    let answer = ask(listen, "/health", ANSWER_LIMIT).map_err(|error| {
        format!(
            "no server answers on {listen}: {error}; if it listens elsewhere than the \
             configuration says, set listen"
        )
    })?;
    match status(&answer) {
        Some("200") => Ok(!answer
            .windows(NO_WRITES.len())
            .any(|text| text == NO_WRITES)),
        Some("503") => Err(format!(
            "the server on {listen} answers 503: it can't use its database, or has too much to do"
        )),
        Some(status) => Err(format!("the server on {listen} answers {status}, not 200")),
        None => Err(format!("what listens on {listen} doesn't speak HTTP")),
    }
}

/// The answer of whoever listens there to a request for `path`, up to `limit` bytes.
///
/// # Errors
/// Those of the connection.
pub(super) fn ask(listen: &Listen, path: &str, limit: u64) -> io::Result<Vec<u8>> {
    // HTTP/1.0, because the connection shall end with the answer.
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    match listen {
        Listen::Tcp(address) => {
            let stream = connect(address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            exchange(stream, &request, limit)
        }
        Listen::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            exchange(stream, &request, limit)
        }
    }
}

/// Connects to the first address of the name that takes the connection. The address of all
/// interfaces (0.0.0.0, `[::]`) leads to this machine.
fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&candidate, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn exchange(mut stream: impl Read + Write, request: &str, limit: u64) -> io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(limit).read_to_end(&mut answer)?;
    Ok(answer)
}

/// The status of an HTTP answer, three digits.
fn status(answer: &[u8]) -> Option<&str> {
    let line = answer.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    words.next()?.strip_prefix("HTTP/1.")?;
    words.next()
}

#[cfg(test)]
mod tests {
    use super::status;

    #[test]
    fn the_status_is_that_of_http_answers_alone() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\nDate: x\r\n\r\n"), Some("200"));
        assert_eq!(status(b"HTTP/1.0 503 Service\r\n\r\n"), Some("503"));
        assert_eq!(status(b"SSH-2.0-OpenSSH_9.2\r\n"), None);
        assert_eq!(status(b"\xff\xfe"), None);
        assert_eq!(status(b""), None);
    }
}
