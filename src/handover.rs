//! The listening socket and the configuration, handed over when the server restarts itself
//! (`exec`): the new program keeps nothing of the old one's memory.
//!
//! The new program's standard input is a Unix socket. It carries a byte with the listening
//! socket, then the configuration. The configuration may hold a password, so it must not stand
//! in the arguments or the environment, which other users can see. systemd's socket activation
//! would do for the socket, but expects it at descriptor 3, to which safe code can't move it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use crate::descriptors::{self, SendWithFd};

/// The environment variable with the id of the process whose standard input is a handover. A
/// child process that inherits the variable has another id and ignores it.
const VARIABLE: &str = "SESSION_FILE_SERVER_HANDED_ON";

/// What the next server takes over.
#[derive(Debug)]
pub struct Handover {
    /// The listening socket, on which connections wait.
    pub socket: OwnedFd,
    /// The configuration, encoded by [`crate::config::ConfigSource::encode`].
    pub configuration: Vec<u8>,
}

impl Handover {
    /// Attaches the handover to `command`, which must replace this process (`exec`).
    ///
    /// # Errors
    /// Those of the system.
    pub fn leave(&self, command: &mut Command) -> io::Result<()> {
        command.stdin(Stdio::from(self.send()?));
        command.env(VARIABLE, std::process::id().to_string());
        Ok(())
    }

    fn send(&self) -> io::Result<OwnedFd> {
        let (mut writer, reader) = UnixStream::pair()?;
        // Nothing is read before `exec`, so all of it must fit into the socket's buffer.
        writer.set_nonblocking(true)?;
        writer.send_with_fd(&[0], &[self.socket.as_raw_fd()])?;
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
        let own = std::process::id().to_string();
        if std::env::var(VARIABLE).is_ok_and(|process| process == own) {
            Handover::receive(io::stdin()).map(Some)
        } else {
            Ok(None)
        }
    }

    fn receive(mut from: impl Read + std::os::fd::AsFd) -> io::Result<Handover> {
        let received = descriptors::receive(&from)?.pop();
        let socket = received.ok_or(ErrorKind::UnexpectedEof)?;
        let mut configuration = Vec::new();
        from.read_to_end(&mut configuration)?;
        Ok(Handover {
            socket,
            configuration,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_socket_and_the_largest_configuration_are_left_whole() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let left = Handover {
            socket: listener.into(),
            configuration: vec![b'#'; 2 * 64 * 1024],
        };
        let reader = left.send().expect("it fits");
        let configuration = left.configuration.clone();
        drop(left);
        let client = TcpStream::connect(address).expect("it still listens");
        let found = Handover::receive(UnixStream::from(reader)).expect("whole");
        assert!(found.configuration == configuration);
        let accepted = TcpListener::from(found.socket).accept();
        assert_eq!(
            accepted.expect("a connection").1,
            client.local_addr().expect("connected")
        );
    }

    #[test]
    fn what_is_no_handover_is_refused() {
        let (mut writer, reader) = UnixStream::pair().expect("two descriptors");
        writer.write_all(b"log_level = 'info'").expect("open");
        assert!(Handover::receive(reader).is_err());
    }
}
