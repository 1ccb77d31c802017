//! The exchange with a DHCP server (RFC 2131 sections 3.1 and 4.4).
//!
//! Over UDP rather than raw packets: the kernel then checks addresses, lengths
//! and checksums, and a route to 255.255.255.255 is all it needs.

use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

use rustix::event::PollFlags;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
    sockopt,
};

use super::Error;
use super::deadline::Deadline;
use super::dhcp::{Answer, Lease, MAX_SIZE, Transaction};
use crate::tls::random;

const CLIENT_PORT: u16 = 68;
const SERVER_PORT: u16 = 67;
/// How long to wait for an answer before saying it again.
const WAITS: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];

/// One exchange.
#[derive(Debug)]
pub(super) struct Client {
    socket: OwnedFd,
    server: SocketAddrV4,
    transaction: Transaction,
}

impl Client {
    /// A client that speaks to `server`, or to all by the broadcast address.
    pub(super) fn open(mac: [u8; 6], server: Ipv4Addr) -> Result<Self, Error> {
        let local = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT);
        Self::between(mac, local, SocketAddrV4::new(server, SERVER_PORT))
    }

    fn between(mac: [u8; 6], local: SocketAddrV4, server: SocketAddrV4) -> Result<Self, Error> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
        sockopt::set_socket_broadcast(&socket, true)?;
        bind(&socket, &local)?;
        let xid = random::bytes()?;
        Ok(Self {
            socket,
            server,
            transaction: Transaction { xid, mac },
        })
    }

    /// A new lease: DISCOVER, OFFER, REQUEST, ACK.
    pub(super) fn acquire(&self, deadline: Deadline) -> Result<Lease, Error> {
        let mut heard = "no server answered with a usable offer";
        for wait in WAITS {
            self.send(&self.transaction.discover());
            let until = Deadline::after(wait).min(deadline);
            let Some(offer) = self.receive(until, |answer| match answer {
                Answer::Offer(lease) => Some(lease),
                Answer::Ack(_) | Answer::Nak => None,
            })?
            else {
                continue;
            };
            match self.request(&self.transaction.request(&offer), wait, deadline)? {
                Some(Answer::Ack(lease)) if same(&lease, &offer) => return Ok(lease),
                Some(Answer::Ack(_)) => heard = "the server leased another address than offered",
                Some(_) => heard = "the server refused its own offer",
                None => heard = "the server did not confirm its offer",
            }
        }
        Err(Error::Dhcp(heard))
    }

    /// More time for `lease`; `None` when the server takes it back.
    pub(super) fn extend(&self, lease: &Lease, deadline: Deadline) -> Result<Option<Lease>, Error> {
        let message = self.transaction.extend(lease);
        let [wait, ..] = WAITS;
        match self.request(&message, wait, deadline)? {
            Some(Answer::Ack(new)) if new.address == lease.address => Ok(Some(new)),
            Some(Answer::Nak) => Ok(None),
            Some(_) => Err(Error::Dhcp("the server leased another address")),
            None => Err(Error::Dhcp("the server did not answer")),
        }
    }

    /// Sends a DHCPREQUEST, twice if need be, for an ACK or NAK.
    fn request(
        &self,
        message: &[u8],
        wait: Duration,
        deadline: Deadline,
    ) -> Result<Option<Answer>, Error> {
        for _ in 0..2 {
            self.send(message);
            let until = Deadline::after(wait).min(deadline);
            let answer = self.receive(until, |answer| match answer {
                Answer::Offer(_) => None,
                Answer::Ack(_) | Answer::Nak => Some(answer),
            })?;
            if answer.is_some() {
                return Ok(answer);
            }
        }
        Ok(None)
    }

    /// A message that cannot be sent is one that got lost: it is sent again, and
    /// the deadline bounds both.
    fn send(&self, message: &[u8]) {
        sendto(&self.socket, message, SendFlags::empty(), &self.server).ok();
    }

    /// The first answer that `select` takes; everything else is ignored.
    fn receive<T>(
        &self,
        deadline: Deadline,
        select: impl Fn(Answer) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let mut buffer = [0; MAX_SIZE];
        while deadline.wait(&self.socket, PollFlags::IN)? {
            let (message, _) = match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => buffer.split_at_checked(length).unwrap_or_default(),
                // An ICMP error of an earlier message, or a bad checksum.
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNREFUSED) => continue,
                Err(errno) => return Err(errno.into()),
            };
            if let Some(found) = self.transaction.parse(message).and_then(&select) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

fn same(lease: &Lease, offer: &Lease) -> bool {
    lease.address == offer.address && lease.server == offer.server
}

#[cfg(test)]
mod tests;
