//! What a server leaves to the one that takes its place, in the same process: a program that is
//! started by `exec` keeps nothing of the memory.
//!
//! It is given as the standard input, a socket: first a byte with the listening socket, then the
//! configuration, which may hold a password. Neither the arguments nor the environment, which
//! others can see, have anything of it. The convention of systemd would do for the socket, but
//! wants it at a certain number, to which no safe code moves it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use crate::descriptors::{self, SendWithFd};

/// Set to the number of the process whose standard input is a handover. Whoever inherits the
/// variable by mistake has another number.
const VARIABLE: &str = "SESSION_FILE_SERVER_HANDED_ON";

/// What is left to the next server.
#[derive(Debug)]
pub struct Handover {
    /// The listening socket, on which connections wait.
    pub socket: OwnedFd,
    /// The configuration, as [`crate::config::Source`] writes it.
    pub configuration: Vec<u8>,
}

impl Handover {
    /// Lets the program of `command`, which must take the place of this one, find it.
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
        // Nobody reads before this program is gone: all of it must fit.
        writer.set_nonblocking(true)?;
        writer.send_with_fd(&[0], &[self.socket.as_raw_fd()])?;
        writer.write_all(&self.configuration)?;
        writer.shutdown(Shutdown::Write)?;
        Ok(reader.into())
    }

    /// Takes what was left to this program; `None` if nothing was.
    ///
    /// # Errors
    /// When it is incomplete.
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
