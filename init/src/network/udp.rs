//! Sockets for UDP, and waiting on them.

use rustix::event::PollFlags;
use rustix::fd::OwnedFd;
use rustix::io::{self, Errno};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socket_with};

use super::deadline::Deadline;

/// Longer messages are cut off: more than DNS answers without EDNS or DHCP
/// servers send unasked.
const MAX_SIZE: usize = 1500;

/// A socket that never blocks.
pub(super) fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)
}

/// What `parse` makes of the first message it takes; it ignores all others.
///
/// # Errors
/// `ETIMEDOUT` when the deadline passed first, otherwise what the kernel says.
pub(super) fn receive<T>(
    socket: &OwnedFd,
    deadline: Deadline,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> io::Result<T> {
    let mut buffer = [0; MAX_SIZE];
    loop {
        deadline.wait(socket, PollFlags::IN)?;
        match recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((length, _)) => {
                if let Some(found) = buffer.get(..length).and_then(&parse) {
                    return Ok(found);
                }
            }
            // The message had a bad checksum.
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
