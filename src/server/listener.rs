//! The listening sockets.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use listenfd::ListenFd;
use socket2::{Domain, Socket, Type};

use super::address::Address;
use super::pace::WRITE_TIMEOUT;
use crate::config::{Config, Listen, MAX_LISTEN};
use crate::handover::ListeningSocket;

/// Connections that the kernel holds until they are accepted; it cuts this to its own
/// limit (`net.core.somaxconn`).
const BACKLOG: i32 = 1024;

/// How long a client may be silent in the middle of anything where the guard does not see it.
/// Accepting times out as well, and tiny_http accepts no more then, but the server connects to
/// itself far more often than that ([`super::guard::nudge`]).
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// A socket that clients can connect to already.
pub struct Listener {
    socket: Socket,
    address: Address,
    /// The file of a Unix socket that we have made, and must remove.
    file: Option<PathBuf>,
    /// Whether it is a TCP port that nobody else has.
    is_own_port: bool,
}

impl Listener {
    /// Listens on the sockets that are `inherited` from a server that this one has replaced, or
    /// on those that were passed in by systemd, or else where the operator wants it. To be
    /// called before any thread is started: it takes variables out of the environment.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn open_all(
        config: &Config,
        inherited: Option<Vec<ListeningSocket>>,
    ) -> Result<Vec<Listener>, String> {
        if let Some(sockets) = inherited {
            let listeners = sockets.into_iter().map(Listener::take_over);
            return listeners.collect::<io::Result<_>>().map_err(|error| {
                format!("the listening sockets were not handed on as they should be: {error}")
            });
        }
        let mut passed_in = ListenFd::from_env();
        match passed_in.len() {
            0 => bind_all(config),
            count if count > MAX_LISTEN => Err(format!(
                "{count} sockets were passed in, and {MAX_LISTEN} are all that the server can \
                 use; leave as many ListenStream= in session-file-server.socket"
            )),
            count => passed_in_by_systemd(&mut passed_in, count),
        }
    }

    /// Takes over a socket of a server that this one has replaced.
    fn take_over(socket: ListeningSocket) -> io::Result<Listener> {
        let listener = Listener::on(socket.descriptor.into())?;
        let file = match &listener.address {
            Address::Unix(address) if socket.is_own => address.as_pathname().map(Path::to_path_buf),
            _ => None,
        };
        Ok(Listener {
            file,
            is_own_port: socket.is_own && listener.address.is_tcp(),
            ..listener
        })
    }

    /// Listens where the metrics are served, if the operator wants that.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn open_metrics(config: &Config) -> Result<Option<Listener>, String> {
        let listen = config.metrics.listen.as_ref();
        let bind = |listen| Listener::bind(listen, &[], config.socket_mode, "metrics.listen");
        listen.map(bind).transpose()
    }

    /// Listens at an address, which is one of `all` that the setting `key` has. `mode` is for a
    /// Unix socket's file.
    fn bind(listen: &Listen, all: &[Listen], mode: u32, key: &str) -> Result<Listener, String> {
        match listen {
            Listen::Tcp(address) => bind_tcp(address, all, key),
            Listen::Unix(path) => bind_unix(path, mode, key),
        }
    }

    /// On a socket that is bound, or listens already.
    fn on(socket: Socket) -> io::Result<Listener> {
        // The server that has left the socket to us may have set it not to wait.
        socket.set_nonblocking(false)?;
        let address = socket.local_addr()?;
        let address = match address.as_socket() {
            Some(address) => {
                set_tcp_options(&socket)?;
                Address::Tcp(address)
            }
            None => {
                socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
                let no_address = || io::Error::other("it is of no kind that clients have");
                Address::Unix(address.as_unix().ok_or_else(no_address)?)
            }
        };
        Ok(Listener {
            socket,
            address,
            file: None,
            is_own_port: false,
        })
    }

    /// Where it listens, with the port that the system chose if it was to choose one.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Another handle of the socket, on which accepting waits.
    ///
    /// # Errors
    /// When there is no descriptor to spare.
    pub(super) fn duplicate(&self) -> io::Result<Socket> {
        let socket = self.socket.try_clone()?;
        socket.set_nonblocking(false)?;
        Ok(socket)
    }

    /// Has tiny_http accept what is waiting and nothing more. Later clients wait for the next
    /// server, or [`Listener::withdraw`] tells them that there is none.
    ///
    /// tiny_http's own way to stop is to drop its server, which removes a Unix socket's
    /// file, even systemd's. But it also stops when accepting fails, as it does on a socket
    /// that doesn't wait while nobody connects.
    pub(super) fn pause(&self) -> io::Result<()> {
        self.socket.set_nonblocking(true)?;
        // Wakes the accepting thread, which doesn't wait from then on.
        self.address.touch()
    }

    /// Tells later clients that nobody listens: removes the file of a Unix socket, and closes a
    /// TCP port, if they are ours. A web server with several servers to choose from takes another
    /// one then, which it must not do with a connection that was made and is reset.
    pub fn withdraw(&self) {
        if self.is_own_port {
            if let Err(error) = self.socket.shutdown(Shutdown::Read) {
                log::debug!("the port was not closed: {error}");
            }
        }
        if let Err(error) = self.file.as_ref().map_or(Ok(()), fs::remove_file) {
            log::debug!("the socket's file was not removed: {error}");
        }
    }

    /// The socket alone, for the server that takes this one's place.
    pub(super) fn into_socket(self) -> ListeningSocket {
        ListeningSocket {
            is_own: self.is_own_port || self.file.is_some(),
            descriptor: self.socket.into(),
        }
    }
}

/// Takes the `count` sockets that systemd has passed in.
fn passed_in_by_systemd(passed_in: &mut ListenFd, count: usize) -> Result<Vec<Listener>, String> {
    let unusable = |error| {
        format!("a socket that was passed in is of no use: {error}; it must be a ListenStream=")
    };
    let gone = || unusable(io::Error::other("it is gone"));
    let mut listeners = Vec::new();
    for number in 0..count {
        let socket = match passed_in.take_unix_listener(number) {
            Ok(listener) => Socket::from(listener.ok_or_else(gone)?),
            Err(_) => {
                let listener = passed_in.take_tcp_listener(number).map_err(unusable)?;
                Socket::from(listener.ok_or_else(gone)?)
            }
        };
        listeners.push(Listener::on(socket).map_err(unusable)?);
    }
    log::info!("using what was passed in to listen on, not listen in the configuration");
    Ok(listeners)
}

/// Listens wherever the operator wants it.
fn bind_all(config: &Config) -> Result<Vec<Listener>, String> {
    let mut listeners: Vec<Listener> = Vec::new();
    for listen in &config.listen {
        let listener = Listener::bind(listen, &config.listen, config.socket_mode, "listen");
        // The files of the others would stay behind.
        let listener = listener.inspect_err(|_| listeners.iter().for_each(Listener::withdraw))?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Listens on a TCP address, one of `all` that the setting `key` has.
fn bind_tcp(address: &str, all: &[Listen], key: &str) -> Result<Listener, String> {
    let refused = |error: io::Error| match error.kind() {
        ErrorKind::AddrInUse => format!(
            "cannot listen on {address}: another program has that port; stop it, or set \
             another port in {key}"
        ),
        ErrorKind::PermissionDenied => format!(
            "cannot listen on {address}: ports below 1024 need a privilege; set another port \
             in {key}"
        ),
        _ => format!("cannot listen on {address}: {error}; check {key}"),
    };
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for candidate in address.to_socket_addrs().map_err(refused)? {
        match listen_on(candidate, has_ipv4_too(candidate.port(), all)) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(refused(last))
}

/// Whether all IPv4 addresses are listened on as well, with that port.
fn has_ipv4_too(port: u16, all: &[Listen]) -> bool {
    let all_ipv4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
    all.iter().any(|listen| match listen {
        Listen::Tcp(address) => port != 0 && address.parse() == Ok(all_ipv4),
        Listen::Unix(_) => false,
    })
}

/// Listens there. `[::]` is every address of both families, whatever the system's own default is,
/// unless `ipv4_too` says that another socket has the IPv4 ones.
fn listen_on(address: SocketAddr, ipv4_too: bool) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A restart need not wait for the last connections' remains.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(ipv4_too)?;
    }
    socket.bind(&address.into())?;
    let listener = Listener::on(socket)?;
    listener.socket.listen(BACKLOG)?;
    Ok(Listener {
        is_own_port: true,
        ..listener
    })
}

/// Options on the listening socket reach every accepted one (`man 7 tcp`, seen to hold).
fn set_tcp_options(socket: &Socket) -> io::Result<()> {
    // tiny_http writes head and body apart; with Nagle's algorithm each answer would wait
    // for an acknowledgement.
    socket.set_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.set_read_timeout(Some(READ_TIMEOUT))?;
    socket.set_write_timeout(Some(WRITE_TIMEOUT))
}

fn bind_unix(path: &Path, mode: u32, key: &str) -> Result<Listener, String> {
    let shown = path.display();
    remove_stale(path, key)?;
    let listener = UnixListener::bind(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!(
            "cannot listen on {shown}: its folder doesn't exist; make it, or set another path \
             in {key}"
        ),
        ErrorKind::PermissionDenied => format!(
            "cannot listen on {shown}: this user may not write into its folder; allow it, or \
             set another path in {key}"
        ),
        _ => format!("cannot listen on {shown}: {error}; check {key}"),
    })?;
    let mut listener = fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .and_then(|()| Listener::on(listener.into()))
        .map_err(|error| format!("cannot set up {shown}: {error}"))?;
    listener.file = Some(path.to_path_buf());
    Ok(listener)
}

/// Removes a socket's file that an ended server has left; refuses a live one, and
/// anything that is not a socket.
fn remove_stale(path: &Path, key: &str) -> Result<(), String> {
    let shown = path.display();
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(format!(
            "cannot listen on {shown}: there is a file that is not a socket; remove it, or set \
             another path in {key}"
        ));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)
            .map_err(|error| format!("cannot remove {shown}, which an ended server left: {error}")),
        _ => Err(format!(
            "cannot listen on {shown}: a running server has that socket; stop it, or set \
             another path in {key}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn accepted_connections_have_the_options_of_the_listening_socket() {
        let listener = bind_tcp("127.0.0.1:0", &[], "listen").expect("a port");
        let client = listener.address().connect().expect("it listens");
        let (accepted, _) = listener.socket.accept().expect("it came");
        let accepted = TcpStream::from(accepted);
        assert!(accepted.nodelay().expect("readable"));
        assert_eq!(
            accepted.read_timeout().expect("readable"),
            Some(READ_TIMEOUT)
        );
        assert_eq!(
            accepted.write_timeout().expect("readable"),
            Some(WRITE_TIMEOUT)
        );
        drop(client);
    }
}
