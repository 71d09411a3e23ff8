//! Our own address, and connections to ourselves.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{self, TcpStream};
use std::os::unix::net::{self as unix, UnixStream};
use std::time::Duration;

use socket2::SockRef;

/// The kernel accepts for us; waiting longer means that its queue is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Where we listen.
#[derive(Clone, Debug)]
pub enum Address {
    /// Our own TCP port.
    Tcp(net::SocketAddr),
    /// Our own Unix socket.
    Unix(unix::SocketAddr),
}

impl Address {
    /// Connects to ourselves.
    pub fn connect(&self) -> io::Result<Stream> {
        match self {
            Address::Tcp(address) => {
                TcpStream::connect_timeout(address, CONNECT_TIMEOUT).map(Stream::Tcp)
            }
            Address::Unix(address) => UnixStream::connect_addr(address).map(Stream::Unix),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(address) => match address.as_pathname() {
                Some(path) => write!(f, "unix:{}", path.display()),
                None => f.write_str("unix:(no path)"),
            },
        }
    }
}

/// A connection to ourselves.
pub enum Stream {
    /// By TCP.
    Tcp(TcpStream),
    /// By a Unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// Ends the connection so that no port is held in TIME-WAIT: resets it.
    pub fn hang_up(self) -> io::Result<()> {
        match &self {
            Stream::Tcp(stream) => SockRef::from(stream).set_linger(Some(Duration::ZERO)),
            Stream::Unix(_) => Ok(()),
        }
    }

    /// Sends `request` and reads what comes until the connection ends, each step within
    /// `patience`; at most `limit` bytes.
    pub fn ask(mut self, request: &[u8], patience: Duration, limit: u64) -> io::Result<Vec<u8>> {
        let socket = self.socket();
        socket.set_read_timeout(Some(patience))?;
        socket.set_write_timeout(Some(patience))?;
        let mut answer = Vec::new();
        match &mut self {
            Stream::Tcp(stream) => {
                stream.write_all(request)?;
                stream.take(limit).read_to_end(&mut answer)?;
            }
            Stream::Unix(stream) => {
                stream.write_all(request)?;
                stream.take(limit).read_to_end(&mut answer)?;
            }
        }
        Ok(answer)
    }

    fn socket(&self) -> SockRef<'_> {
        match self {
            Stream::Tcp(stream) => SockRef::from(stream),
            Stream::Unix(stream) => SockRef::from(stream),
        }
    }
}
