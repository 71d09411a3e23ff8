//! Our own address, and connections to ourselves.

use std::fmt;
use std::io;
use std::net::{self, TcpStream};
use std::os::unix::net::{self as unix, UnixStream};
use std::time::Duration;

use socket2::Socket;

/// How long we wait for a connection to ourselves. The kernel accepts it, so that waiting longer
/// means that its queue is full.
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
    /// Whether it is a TCP port.
    pub fn is_tcp(&self) -> bool {
        matches!(self, Address::Tcp(_))
    }

    /// Connects to ourselves.
    pub fn connect(&self) -> io::Result<Socket> {
        match self {
            Address::Tcp(address) => {
                let mut connected = TcpStream::connect_timeout(address, CONNECT_TIMEOUT);
                if connected.is_err() && address.is_ipv6() && address.ip().is_unspecified() {
                    // `[::]` leads to `::1`, which a machine without IPv6 doesn't have.
                    let other = net::SocketAddr::from(([127, 0, 0, 1], address.port()));
                    connected = TcpStream::connect_timeout(&other, CONNECT_TIMEOUT);
                }
                connected.map(Socket::from)
            }
            Address::Unix(address) => UnixStream::connect_addr(address).map(Socket::from),
        }
    }

    /// Connects to ourselves and resets the connection, so that no port is held in TIME-WAIT.
    pub fn touch(&self) -> io::Result<()> {
        self.connect()?.set_linger(Some(Duration::ZERO))
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
