//! The listening socket.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::nudge::Address;
use crate::config::{Config, Listen};

/// Connections that the kernel holds until they are accepted; it cuts this to its own
/// limit (`net.core.somaxconn`).
const BACKLOG: i32 = 1024;
/// A client that takes nothing of its answer for this long is given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// A socket that clients can connect to already.
pub struct Listener {
    socket: tiny_http::Listener,
    address: Address,
}

impl Listener {
    /// Listens where the operator wants it.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn bind(config: &Config) -> Result<Listener, String> {
        match &config.listen {
            Listen::Tcp(address) => bind_tcp(address),
            Listen::Unix(path) => bind_unix(path, config.socket_mode),
        }
    }

    /// Where it listens, with the port that the system chose if it was to choose one.
    pub fn address(&self) -> String {
        match &self.address {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    /// Where to connect to it.
    pub(super) fn own_address(&self) -> Address {
        self.address.clone()
    }

    pub(super) fn into_tiny_http(self) -> io::Result<tiny_http::Server> {
        tiny_http::Server::from_listener(self.socket, None).map_err(io::Error::other)
    }
}

fn bind_tcp(address: &str) -> Result<Listener, String> {
    let refused = |error: io::Error| match error.kind() {
        ErrorKind::AddrInUse => format!(
            "cannot listen on {address}: another program has that port; stop it, or set \
             another port in listen"
        ),
        ErrorKind::PermissionDenied => format!(
            "cannot listen on {address}: ports below 1024 need a privilege; set another port \
             in listen"
        ),
        _ => format!("cannot listen on {address}: {error}; check listen"),
    };
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for candidate in address.to_socket_addrs().map_err(refused)? {
        match listen_on(candidate) {
            Ok(listener) => {
                let address = Address::Tcp(listener.local_addr().map_err(refused)?);
                return Ok(Listener {
                    socket: listener.into(),
                    address,
                });
            }
            Err(error) => last = error,
        }
    }
    Err(refused(last))
}

/// Options on the listening socket reach every accepted one (`man 7 tcp`, seen to hold).
fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A restart need not wait for the last connections' remains.
    socket.set_reuse_address(true)?;
    // tiny_http writes head and body apart; with Nagle's algorithm each answer would wait
    // for an acknowledgement.
    socket.set_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path, mode: u32) -> Result<Listener, String> {
    let shown = path.display();
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!(
            "cannot listen on {shown}: its folder doesn't exist; make it, or set another path \
             in listen"
        ),
        ErrorKind::PermissionDenied => format!(
            "cannot listen on {shown}: this user may not write into its folder; allow it, or \
             set another path in listen"
        ),
        _ => format!("cannot listen on {shown}: {error}; check listen"),
    })?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .and_then(|()| SockRef::from(&listener).set_write_timeout(Some(SEND_TIMEOUT)))
        .map_err(|error| format!("cannot set up {shown}: {error}"))?;
    Ok(Listener {
        socket: listener.into(),
        address: Address::Unix(path.to_path_buf()),
    })
}

/// Removes a socket's file that an ended server has left; refuses a live one, and
/// anything that is not a socket.
fn remove_stale(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(format!(
            "cannot listen on {shown}: there is a file that is not a socket; remove it, or set \
             another path in listen"
        ));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)
            .map_err(|error| format!("cannot remove {shown}, which an ended server left: {error}")),
        _ => Err(format!(
            "cannot listen on {shown}: a running server has that socket; stop it, or set \
             another path in listen"
        )),
    }
}
