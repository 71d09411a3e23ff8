//! A tiny_http, and whether it still accepts connections.
//!
//! **Fault.** tiny_http accepts no more connections after the first error, and none when it
//! panics for want of a descriptor or a thread, of which it says nothing. Dropping its server
//! removes a Unix socket's file, even one of systemd's.
//!
//! **Where.** `lib.rs`, `from_listener`: the accepting thread leaves its loop; and `drop`.
//!
//! **Seen.** A server out of descriptors was silent for ever (`tests/hostile.rs`).
//!
//! **Until** tiny_http goes on after an error, and leaves the file alone.
//!
//! Another tiny_http takes the place of one that has ended ([`crate::server::front`]); the old
//! one goes on to serve the connections that it has ([`super::late`]).

use std::fs;
use std::io;
use std::mem::ManuallyDrop;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use super::panics::start_tiny_http;
use crate::server::address::Address;
use crate::server::arrival::Arrival;
use crate::server::listener::Listener;

/// A tiny_http.
pub struct Accepting {
    /// Never dropped, because of the socket's file.
    http: ManuallyDrop<tiny_http::Server>,
    /// The place of its address in the list.
    listener: usize,
    /// The descriptor of its accepting thread, as the system shows it.
    descriptor: PathBuf,
    /// The socket that the descriptor stood for at the start.
    socket: Option<PathBuf>,
}

impl Accepting {
    /// Accepts connections from now on, to the address with the place `number` in the list.
    ///
    /// # Errors
    /// When there is no descriptor or no thread to spare.
    pub fn start(listener: &Listener, number: usize) -> io::Result<Accepting> {
        let socket = listener.duplicate()?;
        let descriptor = PathBuf::from(format!("/proc/self/fd/{}", socket.as_raw_fd()));
        let listens_on = fs::read_link(&descriptor).ok();
        let http = start_tiny_http(match listener.address() {
            Address::Tcp(_) => TcpListener::from(socket).into(),
            Address::Unix(_) => UnixListener::from(socket).into(),
        })?;
        Ok(Accepting {
            http: ManuallyDrop::new(http),
            listener: number,
            descriptor,
            socket: listens_on,
        })
    }

    /// The next request, if one comes within `patience`.
    ///
    /// # Errors
    /// When no more connections are accepted, unless that happens silently.
    pub fn receive(&self, patience: Duration) -> io::Result<Option<Arrival>> {
        let request = self.http.recv_timeout(patience)?;
        Ok(request.map(|request| Arrival::new(request, self.listener)))
    }

    /// A request that has come already.
    pub fn received(&self) -> Option<Arrival> {
        // Why it accepts no more may be among what it has to say.
        let request = self.http.try_recv().unwrap_or_default()?;
        Some(Arrival::new(request, self.listener))
    }

    /// Whether the accepting thread lives: it closes its descriptor when it ends.
    pub fn is_alive(&self) -> bool {
        fs::read_link(&self.descriptor).ok() == self.socket
    }
}
