//! The socket of a connection to the database, which the driver doesn't expose.
//!
//! **Fault.** A call of the driver waits for the database's answer for ever, and no other thread
//! can end it: `postgres` has no time-out for statements, and keeps the socket to itself.
//!
//! **Where.** `connection.rs` of postgres, `poll_block_on`; `socket.rs` of tokio-postgres.
//!
//! **Seen.** `tests/replication.rs` stops a database's processes while statements run.
//!
//! **Until** the driver has a time-out for statements, or shows its socket.
//!
//! Every connection of the driver has a runtime of its own, and that one an epoll of its own. While
//! the driver connects it calls us on the connecting thread, inside that runtime. So a socket of
//! ours that is registered there is in the same epoll as the driver's, and the system tells in
//! `/proc/self/fdinfo` what is in each epoll (proc(5)).

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;

use tokio::io::unix::AsyncFd;

use crate::descriptors::{self, SendWithFd};

/// A duplicate of the socket that the driver has just connected on this thread. `None` where
/// `/proc` doesn't tell.
///
/// # Errors
/// When the process has no descriptor to spare.
pub(super) fn just_connected() -> io::Result<Option<OwnedFd>> {
    let (ours, _other_end) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let ours = AsyncFd::new(ours)?;
    let number = ours.as_raw_fd();
    let Some(companions) = companions_of(number) else {
        return Ok(None);
    };
    for companion in companions.into_iter().filter(|found| *found != number) {
        // The epoll also has a descriptor that wakes the runtime, which is no connected socket.
        let Ok(found) = duplicate(companion) else {
            continue;
        };
        let peer = rustix::net::getpeername(&found).ok().flatten();
        let has_peer = peer.is_some_and(|peer| is_named(&peer));
        if has_peer {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Whether an address is one that a database listens on. The sockets of a pair have no name.
fn is_named(address: &rustix::net::SocketAddrAny) -> bool {
    match address {
        rustix::net::SocketAddrAny::Unix(address) => address.path().is_some(),
        _ => true,
    }
}

/// The descriptors in the epoll that has the descriptor `number`. `None` where `/proc` doesn't
/// tell.
fn companions_of(number: RawFd) -> Option<Vec<RawFd>> {
    for entry in fs::read_dir("/proc/self/fd").ok()?.flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        if target != Path::new("anon_inode:[eventpoll]") {
            continue;
        }
        let info = Path::new("/proc/self/fdinfo").join(entry.file_name());
        let members = members(&fs::read_to_string(info).unwrap_or_default());
        if members.contains(&number) {
            return Some(members);
        }
    }
    None
}

/// The descriptors that the system's description of an epoll names: `tfd: 7 events: …`.
fn members(info: &str) -> Vec<RawFd> {
    let lines = info.lines().filter_map(|line| line.strip_prefix("tfd:"));
    let numbers = lines.filter_map(|rest| rest.split_whitespace().next()?.parse().ok());
    numbers.collect()
}

/// A duplicate of one of our descriptors, which is open: it is sent to ourselves, as
/// [`descriptors`] says.
fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    let (out, back) = UnixDatagram::pair()?;
    out.send_with_fd(&[0], &[number])?;
    let received = descriptors::receive(&back)?.pop();
    received.ok_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::members;

    #[test]
    fn an_epoll_s_description_names_its_descriptors() {
        let info = "pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t2\n\
                    tfd:       10 events: 80000019 data:  ffff pos:0 ino:1 sdev:d\n\
                    tfd:        7 events: 8000201d data:  0 pos:0 ino:2 sdev:8\n";
        assert_eq!(members(info), [10, 7]);
        assert!(members("tfd: x\ntfd:\n").is_empty());
    }
}
