//! Sending and receiving file descriptors over Unix sockets (`SCM_RIGHTS`, unix(7)). Without
//! unsafe code this is the only way to own a descriptor of which just the number is known, and to
//! hand one to the next program.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

pub use sendfd::SendWithFd;

/// The most descriptors that one message may carry.
pub const AT_ONCE: usize = 16;

/// Receives a byte and the descriptors that come with it, without blocking. Child processes
/// don't inherit the descriptors.
///
/// # Errors
/// When nothing has arrived, or the process has no descriptors to spare.
pub fn receive(socket: impl AsFd) -> io::Result<Vec<OwnedFd>> {
    let mut byte = [0];
    let mut space = [0; rustix::cmsg_space!(ScmRights(AT_ONCE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )?;
    let mut received = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            received.extend(descriptors);
        }
    }
    Ok(received)
}
