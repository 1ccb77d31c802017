//! The exchange with a DHCP server (RFC 2131 sections 3.1 and 4.4), and the lease
//! that comes of it.
//!
//! Over UDP rather than raw packets: the kernel then checks addresses, lengths
//! and checksums, and a route to 255.255.255.255 is all it needs.

use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

use measured_boot::code::Code;
use rustix::fd::OwnedFd;
use rustix::io::{self, Errno};
use rustix::net::{SendFlags, bind, sendto, sockopt};

use super::deadline::{Deadline, now};
use super::dhcp::{Answer, Lease, Transaction};
use super::link::Link;
use super::{netlink, udp};
use crate::error::Failure;
use crate::tls::random;

const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
const SERVER_PORT: u16 = 67;
/// How long to wait for an answer before saying it again.
const WAITS: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];
/// Between two attempts to renew. Shorter than RFC 2131 section 4.4.5 has it, so
/// that the shortest lease sees several.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(10);

/// An interface configured by DHCP; every time is on the clock of [`now`].
#[derive(Debug)]
pub(super) struct Dhcp {
    link: Link,
    /// With its end. `None` once taken back: the interface then has no address.
    held: Option<(Lease, Duration)>,
    /// When to renew.
    pub(super) next: Duration,
}

impl Dhcp {
    /// Without a lease yet.
    pub(super) fn new(link: Link) -> Self {
        Self {
            link,
            held: None,
            next: Duration::ZERO,
        }
    }

    /// A lease from nothing, and the interface configured by it. Returns the
    /// name servers.
    ///
    /// # Errors
    /// `E_NETWORK_DHCP` without a usable lease, `E_NETWORK_DEVICE` when the
    /// kernel refuses.
    pub(super) fn acquire(&mut self, deadline: Deadline) -> Result<Vec<Ipv4Addr>, Failure> {
        let Link { index, mac } = self.link;
        netlink::set_broadcast_route(index).map_err(kernel)?;
        let start = now();
        let lease = Client::open(mac, CLIENT, server(Ipv4Addr::BROADCAST))
            .map_err(kernel)?
            .acquire(deadline)?;
        netlink::configure(index, lease.address, lease.prefix, lease.router).map_err(kernel)?;
        let dns = lease.dns.clone();
        self.hold(lease, start);
        Ok(dns)
    }

    /// One attempt to keep an address, by the state of the lease.
    ///
    /// # Errors
    /// As [`Self::acquire`].
    pub(super) fn renew(&mut self, deadline: Deadline) -> Result<(), Failure> {
        let start = now();
        self.next = start.saturating_add(RENEWAL_INTERVAL);
        let Some((lease, end)) = self.held.as_ref().filter(|(_, end)| start < *end) else {
            self.give_up()?;
            return self.acquire(deadline).map(drop);
        };
        // Never sleeps past the end of the lease.
        self.next = self.next.min(*end);
        // In the last eighth any server may extend it (T2 of RFC 2131 section 4.4.5).
        let rest = end.saturating_sub(start);
        let address = if rest.saturating_mul(8) > lease.length() {
            lease.server
        } else {
            Ipv4Addr::BROADCAST
        };
        let client = Client::open(self.link.mac, CLIENT, server(address)).map_err(kernel)?;
        match client.extend(lease, deadline)? {
            Some(new) => {
                // What is configured stays: only its end moves.
                let prefix = lease.prefix;
                self.hold(Lease { prefix, ..new }, start);
                Ok(())
            }
            // DHCPNAK: the address must not be used any more.
            None => self.give_up(),
        }
    }

    /// Counts from when the request was sent (RFC 2131 section 4.4.1).
    fn hold(&mut self, lease: Lease, start: Duration) {
        let half = Duration::from_secs(u64::from(lease.seconds) >> 1);
        self.next = start.saturating_add(half);
        let end = start.saturating_add(lease.length());
        self.held = Some((lease, end));
    }

    /// Tried again at the next attempt if the kernel refuses.
    fn give_up(&mut self) -> Result<(), Failure> {
        if let Some((lease, _)) = &self.held {
            netlink::remove_address(self.link.index, lease.address, lease.prefix)
                .map_err(kernel)?;
        }
        self.held = None;
        Ok(())
    }
}

fn server(address: Ipv4Addr) -> SocketAddrV4 {
    SocketAddrV4::new(address, SERVER_PORT)
}

fn kernel(errno: Errno) -> Failure {
    Failure::new(Code::NetworkDevice, errno)
}

/// One exchange.
#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    server: SocketAddrV4,
    transaction: Transaction,
}

impl Client {
    /// A client that speaks to `server`, or to all by the broadcast address.
    fn open(mac: [u8; 6], local: SocketAddrV4, server: SocketAddrV4) -> io::Result<Self> {
        let socket = udp::socket()?;
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
    fn acquire(&self, deadline: Deadline) -> Result<Lease, Failure> {
        let mut heard = "no server answered with a usable offer";
        for wait in WAITS {
            let discover = self.transaction.discover();
            let Some(Answer::Offer(offer)) = self.ask(&discover, &[wait], is_offer, deadline)?
            else {
                continue;
            };
            let request = self.transaction.request(&offer);
            heard = match self.ask(&request, &[wait; 2], is_decision, deadline)? {
                Some(Answer::Ack(lease)) if same(&lease, &offer) => return Ok(lease),
                Some(Answer::Ack(_)) => "the server leased another address than offered",
                Some(_) => "the server refused its own offer",
                None => "the server did not confirm its offer",
            };
        }
        Err(Failure::new(Code::NetworkDhcp, heard))
    }

    /// More time for `lease`; `None` when the server takes it back.
    fn extend(&self, lease: &Lease, deadline: Deadline) -> Result<Option<Lease>, Failure> {
        let [wait, ..] = WAITS;
        let request = self.transaction.extend(lease);
        let heard = match self.ask(&request, &[wait; 2], is_decision, deadline)? {
            Some(Answer::Ack(new)) if new.address == lease.address => return Ok(Some(new)),
            Some(Answer::Nak) => return Ok(None),
            Some(_) => "the server leased another address",
            None => "the server did not answer",
        };
        Err(Failure::new(Code::NetworkDhcp, heard))
    }

    /// Sends `message` and waits for an answer of the right kind, as often as there
    /// are `waits`. A message that cannot be sent is one that got lost.
    fn ask(
        &self,
        message: &[u8],
        waits: &[Duration],
        right: fn(&Answer) -> bool,
        deadline: Deadline,
    ) -> Result<Option<Answer>, Failure> {
        for wait in waits {
            sendto(&self.socket, message, SendFlags::empty(), &self.server).ok();
            let until = Deadline::after(*wait).min(deadline);
            let parse = |bytes: &[u8]| self.transaction.parse(bytes).filter(right);
            match udp::receive(&self.socket, until, parse) {
                Err(Errno::TIMEDOUT) => {}
                outcome => return outcome.map(Some).map_err(kernel),
            }
        }
        Ok(None)
    }
}

fn is_offer(answer: &Answer) -> bool {
    matches!(answer, Answer::Offer(_))
}

/// Whether it ends a request.
fn is_decision(answer: &Answer) -> bool {
    !is_offer(answer)
}

fn same(lease: &Lease, offer: &Lease) -> bool {
    lease.address == offer.address && lease.server == offer.server
}

#[cfg(test)]
mod tests;
