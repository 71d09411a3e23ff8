//! File descriptors, sent and received over Unix sockets (`SCM_RIGHTS`, unix(7)): the way to own
//! one of which only the number is known, or that is to outlive this program, without unsafe code.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

pub use sendfd::SendWithFd;

/// Descriptors that one message may have.
pub const AT_ONCE: usize = 16;

/// Receives a byte and the descriptors that came with it, which no other program inherits. It
/// never waits.
///
/// # Errors
/// When nothing has come, or there are no descriptors to spare.
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
