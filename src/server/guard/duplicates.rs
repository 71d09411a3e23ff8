//! Descriptors of this process, duplicated by their numbers.
//!
//! **Fault.** That of [`super::sockets`]: tiny_http owns the connections and shows none of them.
//! Whoever wants to look at one, or shut it down, finds it by its number in `/proc/self/fd`, and
//! needs a handle that stays on the same connection while the number is given to another.
//!
//! A duplicate is made by sending the descriptor to ourselves over a pair of Unix sockets
//! (`SCM_RIGHTS`, unix(7)), which needs no unsafe code and which every sandbox allows. The call
//! `pidfd_getfd` is refused by the default seccomp profiles of Docker, containerd and Podman, by
//! gVisor, and by kernels before 5.6.
//!
//! **Until** [`super::sockets`] has gone.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Mutex;

use crate::descriptors::{self, SendWithFd};
use crate::lock::lock;
use rustix::io::Errno;

/// Makes duplicates of this process's descriptors.
pub struct Duplicator {
    /// Where descriptors are sent, and where they come back. The lock lets everybody receive what
    /// they have sent.
    pair: Mutex<Pair>,
}

struct Pair {
    out: UnixDatagram,
    back: UnixDatagram,
}

impl Duplicator {
    /// Opens the pair of sockets.
    ///
    /// # Errors
    /// When the process has no descriptor to spare.
    pub fn new() -> io::Result<Duplicator> {
        let (out, back) = UnixDatagram::pair()?;
        Ok(Duplicator {
            pair: Mutex::new(Pair { out, back }),
        })
    }

    /// A duplicate of the descriptor with that number; `None` if there is none, or none that
    /// can be sent, as a socket can.
    ///
    /// # Errors
    /// When the process has no descriptor to spare, or the system refuses.
    pub fn duplicate(&self, number: RawFd) -> io::Result<Option<OwnedFd>> {
        match self.send_and_receive(&[number]) {
            // The system leaves it out if the process may have no more descriptors.
            Ok(mut received) => received.pop().map(Some).ok_or(Errno::MFILE.into()),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::BADF | Errno::INVAL) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Duplicates of up to [`descriptors::AT_ONCE`] descriptors, in their order, for the price of
    /// little more than one; `None` if any of them can't be had, as one that was closed meanwhile.
    pub fn duplicate_all(&self, numbers: &[RawFd]) -> Option<Vec<OwnedFd>> {
        let received = self.send_and_receive(numbers).ok()?;
        (received.len() == numbers.len()).then_some(received)
    }

    fn send_and_receive(&self, numbers: &[RawFd]) -> io::Result<Vec<OwnedFd>> {
        let pair = lock(&self.pair);
        pair.out.send_with_fd(&[0], numbers)?;
        descriptors::receive(&pair.back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptors::AT_ONCE;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_duplicate_stays_on_its_socket_when_the_number_is_given_to_another() {
        let duplicator = Duplicator::new().expect("two descriptors");
        let (ours, mut theirs) = UnixStream::pair().expect("two descriptors");
        let number = ours.as_raw_fd();
        let duplicate = duplicator.duplicate(number).expect("allowed");
        let mut duplicate = UnixStream::from(duplicate.expect("it is open"));
        assert_ne!(duplicate.as_raw_fd(), number);
        drop(ours);
        duplicate.write_all(b"still there").expect("open");
        let mut received = [0; 11];
        theirs.read_exact(&mut received).expect("sent");
        assert_eq!(&received, b"still there");
    }

    #[test]
    fn a_number_that_nobody_has_is_no_error() {
        let duplicator = Duplicator::new().expect("two descriptors");
        assert!(duplicator.duplicate(1_000_000).expect("allowed").is_none());
        assert!(duplicator.duplicate(-1).expect("allowed").is_none());
    }

    #[test]
    fn many_are_duplicated_in_their_order_or_none() {
        let duplicator = Duplicator::new().expect("two descriptors");
        let files: Vec<std::fs::File> = (0..AT_ONCE)
            .map(|_| tempfile::tempfile().expect("a file"))
            .collect();
        let mut numbers: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let duplicates = duplicator.duplicate_all(&numbers).expect("all are open");
        let inode = |file: &std::fs::File| {
            std::os::unix::fs::MetadataExt::ino(&file.metadata().expect("open"))
        };
        let duplicates: Vec<u64> = duplicates.into_iter().map(|d| inode(&d.into())).collect();
        assert_eq!(duplicates, files.iter().map(inode).collect::<Vec<_>>());
        numbers[3] = 1_000_000;
        assert!(duplicator.duplicate_all(&numbers).is_none());
    }
}
