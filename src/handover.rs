//! The listening sockets and the configuration, handed over when the server restarts itself
//! (`exec`): the new program keeps nothing of the old one's memory.
//!
//! The new program's standard input is a Unix socket. It carries a byte with the listening
//! sockets, then a byte for each of them, then the configuration. The configuration may hold a
//! password, so it must not stand in the arguments or the environment, which other users can see.
//! systemd's socket activation would do for the sockets, but expects them from descriptor 3 on,
//! to which safe code can't move them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use crate::descriptors::{self, SendWithFd};

/// The environment variable with the id of the process whose standard input is a handover. A
/// child process that inherits the variable has another id and ignores it.
const VARIABLE: &str = "SESSION_FILE_SERVER_HANDED_ON";

/// The environment variable with the number of restarts so far. It counts only where [`VARIABLE`]
/// is that of the process.
const RESTARTS: &str = "SESSION_FILE_SERVER_RESTARTS";

/// What the next server takes over.
#[derive(Debug)]
pub struct Handover {
    /// The listening sockets, on which connections wait: at least one, at most
    /// [`descriptors::AT_ONCE`].
    pub sockets: Vec<ListeningSocket>,
    /// The configuration, encoded by [`crate::config::ConfigSource::encode`].
    pub configuration: Vec<u8>,
}

/// A listening socket on its way to the next server.
#[derive(Debug)]
pub struct ListeningSocket {
    /// The socket.
    pub descriptor: OwnedFd,
    /// Whether the server has made it, and closes it for everybody when it stops. Otherwise it is
    /// systemd's.
    pub is_own: bool,
}

impl Handover {
    /// Attaches the handover to `command`, which must replace this process (`exec`).
    ///
    /// # Errors
    /// Those of the system.
    pub fn leave(&self, command: &mut Command) -> io::Result<()> {
        command.stdin(Stdio::from(self.send()?));
        command.env(VARIABLE, std::process::id().to_string());
        command.env(RESTARTS, restarts().saturating_add(1).to_string());
        Ok(())
    }

    fn send(&self) -> io::Result<OwnedFd> {
        let (mut writer, reader) = UnixStream::pair()?;
        // Nothing is read before `exec`, so all of it must fit into the socket's buffer.
        writer.set_nonblocking(true)?;
        let numbers = self
            .sockets
            .iter()
            .map(|socket| socket.descriptor.as_raw_fd());
        writer.send_with_fd(&[0], &numbers.collect::<Vec<_>>())?;
        let kinds = self.sockets.iter().map(|socket| u8::from(socket.is_own));
        writer.write_all(&kinds.collect::<Vec<_>>())?;
        writer.write_all(&self.configuration)?;
        writer.shutdown(Shutdown::Write)?;
        Ok(reader.into())
    }

    /// Receives the handover of the server that ran in this process before; `None` if there was
    /// none.
    ///
    /// # Errors
    /// When the handover is incomplete.
    pub fn take() -> io::Result<Option<Handover>> {
        if is_restarted() {
            Handover::receive(io::stdin()).map(Some)
        } else {
            Ok(None)
        }
    }

    fn receive(mut from: impl Read + std::os::fd::AsFd) -> io::Result<Handover> {
        let received = descriptors::receive(&from)?;
        if received.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let mut kinds = vec![0; received.len()];
        from.read_exact(&mut kinds)?;
        let sockets = received.into_iter().zip(kinds);
        let sockets = sockets.map(|(descriptor, kind)| ListeningSocket {
            descriptor,
            is_own: kind != 0,
        });
        let sockets = sockets.collect();
        let mut configuration = Vec::new();
        from.read_to_end(&mut configuration)?;
        Ok(Handover {
            sockets,
            configuration,
        })
    }
}

/// How often the server has restarted itself in this process.
pub fn restarts() -> u32 {
    let restarts = std::env::var(RESTARTS).ok().filter(|_| is_restarted());
    restarts.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Whether this process had a server before that has left a handover.
fn is_restarted() -> bool {
    let own = std::process::id().to_string();
    std::env::var(VARIABLE).is_ok_and(|process| process == own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn all_sockets_and_the_largest_configuration_are_left_whole() {
        let (mut addresses, mut sockets) = (Vec::new(), Vec::new());
        for number in 0..descriptors::AT_ONCE {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            addresses.push(listener.local_addr().expect("bound"));
            sockets.push(ListeningSocket {
                descriptor: listener.into(),
                is_own: number % 2 == 1,
            });
        }
        let left = Handover {
            sockets,
            configuration: vec![b'#'; 2 * 64 * 1024],
        };
        let reader = left.send().expect("it fits");
        let configuration = left.configuration.clone();
        drop(left);
        let clients = addresses.iter().map(TcpStream::connect);
        let clients: Vec<_> = clients.map(|c| c.expect("it still listens")).collect();
        let found = Handover::receive(UnixStream::from(reader)).expect("whole");
        assert!(found.configuration == configuration);
        assert_eq!(found.sockets.len(), clients.len());
        for (number, (socket, client)) in found.sockets.into_iter().zip(clients).enumerate() {
            assert_eq!(socket.is_own, number % 2 == 1);
            let accepted = TcpListener::from(socket.descriptor).accept();
            let accepted = accepted.expect("a connection").1;
            assert_eq!(accepted, client.local_addr().expect("connected"));
        }
    }

    #[test]
    fn what_is_no_handover_is_refused() {
        let (mut writer, reader) = UnixStream::pair().expect("two descriptors");
        writer.write_all(b"log_level = 'info'").expect("open");
        assert!(Handover::receive(reader).is_err());
    }
}
