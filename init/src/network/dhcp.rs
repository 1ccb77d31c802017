//! DHCP messages (RFC 2131, options of RFC 2132): what we send, and the little
//! we take from an answer. Bytes in, values out.

use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

use super::usable;

/// BOOTP relays drop anything shorter (RFC 1542 section 2.1).
const MIN_SIZE: usize = 300;
/// The fields before the options: RFC 2131 figure 1, and the magic cookie.
const FIXED_SIZE: usize = 240;
const COOKIE_OFFSET: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// Shorter leases would have init do little else.
const MIN_LEASE: u32 = 60;
/// A longer lease, or an endless one, is renewed as if it were this one.
const MAX_LEASE: u32 = 7 * 24 * 3600;

/// As the resolver of C libraries.
const MAX_DNS: usize = 3;

// Message types (RFC 2132 section 9.6).
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;

// Options (RFC 2132).
const PAD: u8 = 0;
const MASK: u8 = 1;
const ROUTERS: u8 = 3;
const DNS: u8 = 6;
const ADDRESS: u8 = 50;
const SECONDS: u8 = 51;
const TYPE: u8 = 53;
const SERVER: u8 = 54;
const REQUESTED: u8 = 55;
const END: u8 = 255;
/// Those that are read, each from one place only.
const READ: [u8; 6] = [MASK, ROUTERS, DNS, SECONDS, TYPE, SERVER];

/// What a server leases: exactly this, from a packet that holds it exactly once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) address: Ipv4Addr,
    pub(super) prefix: u8,
    pub(super) router: Option<Ipv4Addr>,
    pub(super) dns: Vec<Ipv4Addr>,
    pub(super) server: Ipv4Addr,
    pub(super) seconds: u32,
}

impl Lease {
    pub(super) fn length(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }
}

/// An answer to this client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Offer(Lease),
    Ack(Lease),
    Nak,
}

/// Who asks: a transaction and a hardware address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transaction {
    pub(super) xid: [u8; 4],
    pub(super) mac: [u8; 6],
}

impl Transaction {
    /// DHCPDISCOVER.
    pub(super) fn discover(&self) -> Vec<u8> {
        self.message(DISCOVER, Ipv4Addr::UNSPECIFIED, &[])
    }

    /// DHCPREQUEST for an offer (RFC 2131 section 4.3.2, SELECTING).
    pub(super) fn request(&self, offer: &Lease) -> Vec<u8> {
        let options = [(ADDRESS, offer.address), (SERVER, offer.server)];
        self.message(REQUEST, Ipv4Addr::UNSPECIFIED, &options)
    }

    /// DHCPREQUEST for more time (RFC 2131 section 4.3.2, RENEWING).
    pub(super) fn extend(&self, lease: &Lease) -> Vec<u8> {
        self.message(REQUEST, lease.address, &[])
    }

    fn message(&self, kind: u8, client: Ipv4Addr, options: &[(u8, Ipv4Addr)]) -> Vec<u8> {
        let mut message = Vec::with_capacity(MIN_SIZE);
        // op BOOTREQUEST, htype Ethernet, hlen, hops; xid.
        message.extend_from_slice(&[1, 1, 6, 0]);
        message.extend_from_slice(&self.xid);
        // secs; flags. Without an address we can hear only a broadcast answer.
        let broadcast = if client.is_unspecified() { 0x80 } else { 0 };
        message.extend_from_slice(&[0, 0, broadcast, 0]);
        message.extend_from_slice(&client.octets());
        // yiaddr, siaddr, giaddr; then chaddr, sname and file.
        message.resize(28, 0);
        message.extend_from_slice(&self.mac);
        message.resize(COOKIE_OFFSET, 0);
        message.extend_from_slice(&COOKIE);
        message.extend_from_slice(&[TYPE, 1, kind]);
        for (code, address) in options {
            message.extend_from_slice(&[*code, 4]);
            message.extend_from_slice(&address.octets());
        }
        message.extend_from_slice(&[REQUESTED, 3, MASK, ROUTERS, DNS, END]);
        message.resize(message.len().max(MIN_SIZE), 0);
        message
    }

    /// Reads an answer; `None` for anything that is not one to this transaction
    /// or not within the bounds of [`Lease`].
    pub(super) fn parse(&self, message: &[u8]) -> Option<Answer> {
        let (fixed, options) = message.split_at_checked(FIXED_SIZE)?;
        let field = |range| fixed.get(range);
        let expected = field(0..3)? == [2, 1, 6]
            && field(4..8)? == self.xid
            && field(28..34)? == self.mac
            && field(COOKIE_OFFSET..FIXED_SIZE)? == COOKIE;
        if !expected {
            return None;
        }
        let options = Options::parse(options)?;
        let lease = || options.lease(Ipv4Addr::from(*field(16..20)?.first_chunk()?));
        match options.value(TYPE)? {
            [OFFER] => lease().map(Answer::Offer),
            [ACK] => lease().map(Answer::Ack),
            [NAK] => Some(Answer::Nak),
            _ => None,
        }
    }
}

/// The value of each option that is there.
struct Options<'a>([Option<&'a [u8]>; 256]);

impl<'a> Options<'a> {
    /// Splits the options. `None` when one runs over the end, when the end
    /// option is missing, or when one that we read comes twice.
    fn parse(mut rest: &'a [u8]) -> Option<Self> {
        let mut options = Self([None; 256]);
        loop {
            match rest {
                [PAD, tail @ ..] => rest = tail,
                [END, ..] => return Some(options),
                [code, length, tail @ ..] => {
                    let (value, tail) = tail.split_at_checked(usize::from(*length))?;
                    rest = tail;
                    let place = options.0.get_mut(usize::from(*code))?;
                    if place.replace(value).is_some() && READ.contains(code) {
                        return None;
                    }
                }
                _ => return None,
            }
        }
    }

    fn value(&self, code: u8) -> Option<&'a [u8]> {
        *self.0.get(usize::from(code))?
    }

    fn four(&self, code: u8) -> Option<[u8; 4]> {
        self.value(code)?.try_into().ok()
    }

    fn lease(&self, address: Ipv4Addr) -> Option<Lease> {
        let mask = u32::from_be_bytes(self.four(MASK)?);
        let seconds = u32::from_be_bytes(self.four(SECONDS)?);
        let server = Ipv4Addr::from(self.four(SERVER)?);
        let within = usable(address)
            && usable(server)
            && mask.count_ones() == mask.leading_ones()
            && mask.leading_ones() >= 8
            && seconds >= MIN_LEASE;
        if !within {
            return None;
        }
        let routers = addresses(self.value(ROUTERS).unwrap_or_default())?;
        let mut dns = addresses(self.value(DNS).unwrap_or_default())?;
        dns.truncate(MAX_DNS);
        Some(Lease {
            address,
            prefix: u8::try_from(mask.leading_ones()).ok()?,
            router: routers.first().copied().filter(|router| *router != address),
            dns,
            server,
            seconds: seconds.min(MAX_LEASE),
        })
    }
}

/// A list of addresses; those no host can have are left out.
fn addresses(bytes: &[u8]) -> Option<Vec<Ipv4Addr>> {
    let (chunks, rest) = bytes.as_chunks::<4>();
    let addresses = chunks.iter().copied().map(Ipv4Addr::from);
    rest.is_empty()
        .then(|| addresses.filter(|a| usable(*a)).collect())
}

#[cfg(test)]
mod tests;
