//! Names to IPv4 addresses (RFC 1035), by asking the given servers over UDP.
//!
//! An answer decides where to connect, never whom to trust.

use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

use rustix::io::{self, Errno};
use rustix::net::{SendFlags, connect, send};

use super::deadline::Deadline;
use super::udp;
use crate::tls::random;

pub(super) const PORT: u16 = 53;
/// For one question to one server.
const WAIT: Duration = Duration::from_secs(2);
/// How often each server is asked.
const ROUNDS: usize = 3;
/// Records read of one answer.
const MAX_RECORDS: u16 = 32;
/// Addresses taken from one answer.
const MAX_ADDRESSES: usize = 4;
/// Aliases followed within one answer.
const MAX_ALIASES: usize = 8;
/// RFC 1035 section 3.1.
const MAX_NAME: usize = 255;

// Type and class, here always IN.
const A: [u8; 4] = [0, 1, 0, 1];
const CNAME: [u8; 4] = [0, 5, 0, 1];
/// QDCOUNT 1, the three others 0.
const COUNTS: [u8; 8] = [0, 1, 0, 0, 0, 0, 0, 0];

/// Asks the servers in turn. The error is the last thing heard.
pub(super) fn resolve(
    servers: &[SocketAddrV4],
    host: &str,
    deadline: Deadline,
) -> Result<Vec<Ipv4Addr>, &'static str> {
    if let Ok(address) = host.parse() {
        return Ok([address].into());
    }
    let name = encode(host).ok_or("the name is malformed")?;
    let mut heard = "there is no name server";
    for server in servers.repeat(ROUNDS) {
        heard = match ask(server, &name, Deadline::after(WAIT).min(deadline)) {
            Ok(Ok(addresses)) => return Ok(addresses),
            Ok(Err(cause)) => cause,
            Err(Errno::TIMEDOUT) => "a name server did not answer",
            Err(_) => "a name server is unreachable",
        };
        if deadline.passed() {
            break;
        }
    }
    Err(heard)
}

/// One question. Who does not see it has to guess the identifier and the port,
/// which the kernel draws anew for each socket.
fn ask(server: SocketAddrV4, name: &[u8], deadline: Deadline) -> io::Result<Answer> {
    let id = random::bytes()?;
    let socket = udp::socket()?;
    connect(&socket, &server)?;
    send(&socket, &question(id, name), SendFlags::empty())?;
    udp::receive(&socket, deadline, |message| parse(message, id, name))
}

/// A name on the wire: labels with their lengths, in lower case.
fn encode(host: &str) -> Option<Vec<u8>> {
    let mut name = Vec::new();
    for label in host.split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|n| (1..=63).contains(n))?;
        name.push(length);
        name.extend(label.bytes().map(|b| b.to_ascii_lowercase()));
    }
    name.push(0);
    (name.len() <= MAX_NAME).then_some(name)
}

fn question(id: [u8; 2], name: &[u8]) -> Vec<u8> {
    let mut message = Vec::from(id);
    // Recursion desired.
    message.extend_from_slice(&[1, 0]);
    message.extend_from_slice(&COUNTS);
    message.extend_from_slice(name);
    message.extend_from_slice(&A);
    message
}

/// Addresses, or why the server has none.
type Answer = Result<Vec<Ipv4Addr>, &'static str>;

/// Reads an answer to that question. `None` for anything else, which the caller
/// ignores; an error when the server says it has no address.
fn parse(message: &[u8], id: [u8; 2], name: &[u8]) -> Option<Answer> {
    let mut reader = Reader { message, at: 0 };
    let got_id = reader.take::<2>()?;
    let [high, low] = reader.take()?;
    // QR set, opcode QUERY, and our question once.
    let ours = got_id == id && high & 0xf8 == 0x80 && reader.take::<2>()? == [0, 1];
    let answers = u16::from_be_bytes(reader.take()?);
    reader.take::<4>()?;
    if !ours || reader.name()? != name || reader.take()? != A {
        return None;
    }
    match low & 0x0f {
        0 => {}
        3 => return Some(Err("the name does not exist")),
        _ => return Some(Err("a name server refused to answer")),
    }

    let mut records = Records::default();
    for _ in 0..answers.min(MAX_RECORDS) {
        // A record cut off by the size of the datagram ends what can be used.
        if records.read(&mut reader).is_none() {
            break;
        }
    }
    let addresses = records.follow(name);
    Some(if addresses.is_empty() {
        Err("the name has no IPv4 address")
    } else {
        Ok(addresses)
    })
}

/// Resource records, each with the name it is about.
#[derive(Default)]
struct Records {
    addresses: Vec<(Vec<u8>, Ipv4Addr)>,
    aliases: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Records {
    fn read(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let owner = reader.name()?;
        let kind = reader.take::<4>()?;
        let _ttl = reader.take::<4>()?;
        let length = u16::from_be_bytes(reader.take()?);
        let end = reader.at.checked_add(length.into())?;
        reader.message.get(reader.at..end)?;
        match (kind, length) {
            (A, 4) => self.addresses.push((owner, reader.take::<4>()?.into())),
            (CNAME, _) => {
                let target = reader.name().filter(|_| reader.at == end)?;
                self.aliases.push((owner, target));
            }
            _ => {}
        }
        reader.at = end;
        Some(())
    }

    /// The addresses of `name`, or of what it is an alias of.
    fn follow<'a>(&'a self, mut name: &'a [u8]) -> Vec<Ipv4Addr> {
        for _ in 0..=MAX_ALIASES {
            let own = self.addresses.iter().filter(|(owner, _)| owner == name);
            let own: Vec<_> = own.map(|(_, ip)| *ip).take(MAX_ADDRESSES).collect();
            match self.aliases.iter().find(|(owner, _)| owner == name) {
                Some((_, target)) if own.is_empty() => name = target,
                _ => return own,
            }
        }
        Vec::new()
    }
}

/// Reads a message from front to back; every read that does not fit is `None`.
#[derive(Clone, Copy)]
struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let bytes = *self.message.get(self.at..)?.first_chunk()?;
        self.at = self.at.saturating_add(N);
        Some(bytes)
    }

    /// A name without compression, in lower case. A pointer must lead to before
    /// everything read of the name so far, so there is no loop (RFC 1035
    /// section 4.1.4).
    fn name(&mut self) -> Option<Vec<u8>> {
        let mut name = Vec::new();
        let mut cursor = *self;
        let mut floor = self.at;
        let mut end = None;
        loop {
            let [length] = cursor.take()?;
            match length {
                0 => break,
                1..=63 => {
                    let end = cursor.at.saturating_add(length.into());
                    let label = cursor.message.get(cursor.at..end)?;
                    cursor.at = end;
                    name.push(length);
                    name.extend(label.iter().map(u8::to_ascii_lowercase));
                    if name.len() >= MAX_NAME {
                        return None;
                    }
                }
                0xc0.. => {
                    let [low] = cursor.take()?;
                    end = end.or(Some(cursor.at));
                    let target = usize::from(u16::from_be_bytes([length & 0x3f, low]));
                    if target >= floor {
                        return None;
                    }
                    floor = target;
                    cursor.at = target;
                }
                64..=0xbf => return None,
            }
        }
        name.push(0);
        self.at = end.unwrap_or(cursor.at);
        Some(name)
    }
}

#[cfg(test)]
mod tests;
