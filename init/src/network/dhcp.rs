//! DHCP messages (RFC 2131, options of RFC 2132): what we send, and the little
//! we take from an answer. Bytes in, values out.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use super::{MAX_DNS, usable};

/// Larger messages are not asked for (RFC 2131 section 2).
pub(super) const MAX_SIZE: usize = 1500;
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

/// RFC 2132 section 9.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Discover = 1,
    Offer = 2,
    Request = 3,
    Ack = 5,
    Nak = 6,
}

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
        self.message(Kind::Discover, Ipv4Addr::UNSPECIFIED, &[])
    }

    /// DHCPREQUEST for an offer (RFC 2131 section 4.3.2, SELECTING).
    pub(super) fn request(&self, offer: &Lease) -> Vec<u8> {
        let options = [(50, offer.address), (54, offer.server)];
        self.message(Kind::Request, Ipv4Addr::UNSPECIFIED, &options)
    }

    /// DHCPREQUEST for more time (RFC 2131 section 4.3.2, RENEWING).
    pub(super) fn extend(&self, lease: &Lease) -> Vec<u8> {
        self.message(Kind::Request, lease.address, &[])
    }

    fn message(&self, kind: Kind, client: Ipv4Addr, options: &[(u8, Ipv4Addr)]) -> Vec<u8> {
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
        message.extend_from_slice(&[53, 1, kind as u8]);
        for (code, address) in options {
            message.extend_from_slice(&[*code, 4]);
            message.extend_from_slice(&address.octets());
        }
        // Parameter request list: mask, router, DNS.
        message.extend_from_slice(&[55, 3, 1, 3, 6, 255]);
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
        match *options.kind? {
            [kind] if kind == Kind::Offer as u8 => Some(Answer::Offer(lease()?)),
            [kind] if kind == Kind::Ack as u8 => Some(Answer::Ack(lease()?)),
            [kind] if kind == Kind::Nak as u8 => Some(Answer::Nak),
            _ => None,
        }
    }
}

/// The options that are read, each from one place only.
#[derive(Default)]
struct Options<'a> {
    mask: Option<&'a [u8]>,
    routers: Option<&'a [u8]>,
    dns: Option<&'a [u8]>,
    seconds: Option<&'a [u8]>,
    kind: Option<&'a [u8]>,
    server: Option<&'a [u8]>,
}

impl<'a> Options<'a> {
    /// Splits the options. `None` when one runs over the end, when the end
    /// option is missing, or when one that we read comes twice.
    fn parse(mut rest: &'a [u8]) -> Option<Self> {
        let mut options = Self::default();
        loop {
            let (&code, tail) = rest.split_first()?;
            rest = tail;
            match code {
                0 => continue,
                255 => return Some(options),
                _ => {}
            }
            let (&length, tail) = rest.split_first()?;
            let (value, tail) = tail.split_at_checked(length.into())?;
            rest = tail;
            let place = match code {
                1 => &mut options.mask,
                3 => &mut options.routers,
                6 => &mut options.dns,
                51 => &mut options.seconds,
                53 => &mut options.kind,
                54 => &mut options.server,
                _ => continue,
            };
            if place.replace(value).is_some() {
                return None;
            }
        }
    }

    fn lease(&self, address: Ipv4Addr) -> Option<Lease> {
        let four = |value: Option<&[u8]>| <[u8; 4]>::try_from(value?).ok();
        let mask = u32::from_be_bytes(four(self.mask)?);
        let prefix = u8::try_from(mask.leading_ones()).ok()?;
        let contiguous = mask.count_ones() == mask.leading_ones();
        let seconds = u32::from_be_bytes(four(self.seconds)?);
        let server = Ipv4Addr::from(four(self.server)?);
        let within = usable(address)
            && usable(server)
            && contiguous
            && (8..=32).contains(&prefix)
            && seconds >= MIN_LEASE;
        if !within {
            return None;
        }
        let router = addresses(self.routers.unwrap_or_default())?
            .first()
            .copied();
        let mut dns = addresses(self.dns.unwrap_or_default())?;
        dns.truncate(MAX_DNS);
        Some(Lease {
            address,
            prefix,
            router: router.filter(|router| *router != address),
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
