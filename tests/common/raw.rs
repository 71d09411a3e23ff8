//! Clients that speak no proper HTTP: connections that send bytes as they are.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::{Server, bytes, eventually};

/// A connection, whichever way it was made.
pub trait Stream: Read + Write + Send {}

impl Stream for TcpStream {}
impl Stream for UnixStream {}

/// A TCP connection whose steps fail after a minute.
pub fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(&server.address).expect("it listens");
    let patience = Some(Duration::from_secs(60));
    stream.set_read_timeout(patience).expect("settable");
    stream.set_write_timeout(patience).expect("settable");
    stream
}

/// The same for a server on a Unix socket.
pub fn connect_locally(server: &Server) -> UnixStream {
    let path = server.address.strip_prefix("unix:");
    let stream = UnixStream::connect(path.expect("a Unix socket")).expect("it listens");
    let patience = Some(Duration::from_secs(60));
    stream.set_read_timeout(patience).expect("settable");
    stream.set_write_timeout(patience).expect("settable");
    stream
}

/// A TCP connection that sends `bytes` and nothing more.
pub fn send(server: &Server, bytes: &[u8]) -> TcpStream {
    let mut stream = connect(server);
    stream.write_all(bytes).expect("sent");
    stream
}

/// All that comes in answer to `request` until the server ends the connection. A server that
/// refuses the request need not take all of it.
pub fn ask(server: &Server, request: &[u8]) -> String {
    let mut stream = connect(server);
    let _ = stream.write_all(request);
    until_closed(stream).0
}

/// A request with a false length, whose descriptors the server can give back only by a restart.
pub const LIE: &[u8] =
    b"POST /file HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000000\r\n\r\n";

/// Sends a request like [`LIE`] so often that the server restarts itself, and waits for that.
pub fn make_restart(server: &Server, request: &[u8]) {
    let before = server.log().matches("listening on").count();
    let streams: Vec<TcpStream> = (0..300).map(|_| send(server, request)).collect();
    streams.into_iter().map(until_closed).for_each(drop);
    eventually("it restarts", || {
        server.log().matches("listening on").count() == before + 1
    });
}

/// What comes until the server ends the connection, and how long that took.
pub fn until_closed(mut stream: impl Stream) -> (String, Duration) {
    let started = Instant::now();
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        let kind = error.kind();
        assert!(
            kind == std::io::ErrorKind::ConnectionReset,
            "not closed: {error}"
        );
    }
    (
        String::from_utf8_lossy(&answer).into_owned(),
        started.elapsed(),
    )
}

/// Sends a head that begins with `start`, and `unit` after `unit` until the connection is cut.
/// Returns the most memory that the server had meanwhile, bytes.
pub fn flood(server: &Server, start: &[u8], unit: &[u8]) -> u64 {
    if server.address.starts_with("unix:") {
        flood_over(connect_locally(server), server, start, unit)
    } else {
        flood_over(connect(server), server, start, unit)
    }
}

fn flood_over(mut stream: impl Stream, server: &Server, start: &[u8], unit: &[u8]) -> u64 {
    let chunk = unit.repeat(100_000 / unit.len());
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut most = 0;
    stream.write_all(start).expect("sent");
    while stream.write_all(&chunk).is_ok() {
        assert!(Instant::now() < deadline, "it was never cut");
        most = most.max(server.memory());
    }
    most
}

/// An ordinary client's upload and download.
pub fn serves(server: &Server) {
    let file = bytes(7, 50_000);
    let id = server.upload(&file);
    assert!(server.get(&format!("/file/{id}")).body == file);
}

/// Whether a client's one attempt is answered within seconds. Among too many connections a client
/// must be ready to try again.
pub fn is_served_at_once(server: &Server) -> bool {
    let Ok(mut stream) = TcpStream::connect(&server.address) else {
        return false;
    };
    let patience = Some(Duration::from_secs(3));
    stream.set_read_timeout(patience).expect("settable");
    let request = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut answer = Vec::new();
    let _ = stream.write_all(request);
    let _ = stream.read_to_end(&mut answer);
    answer.starts_with(b"HTTP/1.1 200 ")
}
