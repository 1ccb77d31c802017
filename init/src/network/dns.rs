//! Names to IPv4 addresses (RFC 1035), by asking the given servers over UDP.
//!
//! An answer decides where to connect, never whom to trust.

use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
};

use super::Error;
use super::deadline::Deadline;
use crate::error::BootError;
use crate::tls::random;

const PORT: u16 = 53;
/// For one question to one server.
const WAIT: Duration = Duration::from_secs(2);
/// How often each server is asked.
const ROUNDS: usize = 3;
/// Largest answer without EDNS, with room for servers that ignore the limit.
const MAX_SIZE: usize = 1500;
/// Records read of one answer.
const MAX_RECORDS: usize = 32;
/// Addresses taken from one answer.
const MAX_ADDRESSES: usize = 4;
/// Aliases followed within one answer.
const MAX_ALIASES: usize = 8;
/// RFC 1035 section 3.1.
const MAX_NAME: usize = 255;

const TYPE_A: [u8; 2] = [0, 1];
const TYPE_CNAME: [u8; 2] = [0, 5];
const CLASS_IN: [u8; 2] = [0, 1];
/// QDCOUNT 1, the three others 0.
const COUNTS: [u8; 8] = [0, 1, 0, 0, 0, 0, 0, 0];

/// Finds the addresses of `host`; an IPv4 address in dotted decimal is its own.
///
/// # Errors
/// `E_NETWORK_DNS` when no server knows one before the deadline.
pub fn resolve(
    servers: &[Ipv4Addr],
    host: &str,
    deadline: Deadline,
) -> Result<Vec<Ipv4Addr>, BootError> {
    if let Ok(address) = host.parse() {
        return Ok([address].into());
    }
    let servers: Vec<_> = servers
        .iter()
        .map(|ip| SocketAddrV4::new(*ip, PORT))
        .collect();
    lookup(&servers, host, deadline).map_err(|e| e.at(alloc::format!("resolve {host}")))
}

fn lookup(
    servers: &[SocketAddrV4],
    host: &str,
    deadline: Deadline,
) -> Result<Vec<Ipv4Addr>, Error> {
    let name = encode(host).ok_or(Error::Dns("the name is malformed"))?;
    let mut heard = "there is no name server";
    for _ in 0..ROUNDS {
        for server in servers {
            match ask(*server, &name, Deadline::after(WAIT).min(deadline)) {
                Ok(Ok(addresses)) => return Ok(addresses),
                Ok(Err(cause)) => heard = cause,
                Err(_) => heard = "a name server is unreachable",
            }
            if deadline.passed() {
                return Err(Error::Dns(heard));
            }
        }
    }
    Err(Error::Dns(heard))
}

/// One question. Who does not see it has to guess the identifier and the port,
/// which the kernel draws anew for each socket.
fn ask(
    server: SocketAddrV4,
    name: &[u8],
    deadline: Deadline,
) -> Result<Result<Vec<Ipv4Addr>, &'static str>, Errno> {
    let id = random::bytes()?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    connect(&socket, &server)?;
    send(&socket, &question(id, name), SendFlags::empty())?;
    let mut buffer = [0; MAX_SIZE];
    while deadline.wait(&socket, PollFlags::IN)? {
        let (message, _) = match recv(&socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((length, _)) => buffer.split_at_checked(length).unwrap_or_default(),
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        };
        if let Some(answer) = parse(message, id, name) {
            return Ok(answer);
        }
    }
    Ok(Err("a name server did not answer"))
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
    message.extend_from_slice(&TYPE_A);
    message.extend_from_slice(&CLASS_IN);
    message
}

/// Reads an answer to that question. `None` for anything else, which the caller
/// ignores; an error when the server says it has no address.
fn parse(message: &[u8], id: [u8; 2], name: &[u8]) -> Option<Result<Vec<Ipv4Addr>, &'static str>> {
    let mut reader = Reader { message, at: 0 };
    let got_id = reader.take::<2>()?;
    let [high, low] = reader.take::<2>()?;
    // QR set, opcode QUERY, and our question once.
    let ours = got_id == id && high & 0xf8 == 0x80 && reader.take::<2>()? == [0, 1];
    let answers = u16::from_be_bytes(reader.take()?);
    reader.take::<4>()?;
    if !ours
        || reader.name()? != name
        || reader.take::<2>()? != TYPE_A
        || reader.take::<2>()? != CLASS_IN
    {
        return None;
    }
    match low & 0x0f {
        0 => {}
        3 => return Some(Err("the name does not exist")),
        _ => return Some(Err("a name server refused to answer")),
    }

    let mut records = Vec::new();
    for _ in 0..usize::from(answers).min(MAX_RECORDS) {
        // A record cut off by the size of the datagram ends what can be used.
        let Some(record) = reader.record() else { break };
        records.push(record);
    }
    let addresses = follow(&records, name);
    Some(if addresses.is_empty() {
        Err("the name has no IPv4 address")
    } else {
        Ok(addresses)
    })
}

/// The addresses of `name`, or of what it is an alias of.
fn follow(records: &[(Vec<u8>, Record)], name: &[u8]) -> Vec<Ipv4Addr> {
    let mut name = name;
    for _ in 0..=MAX_ALIASES {
        let mut own = records.iter().filter(|(owner, _)| owner == name);
        let addresses: Vec<_> = own
            .clone()
            .filter_map(|(_, record)| match record {
                Record::Address(address) => Some(*address),
                Record::Alias(_) | Record::Other => None,
            })
            .take(MAX_ADDRESSES)
            .collect();
        let alias = own.find_map(|(_, record)| match record {
            Record::Alias(target) => Some(target),
            Record::Address(_) | Record::Other => None,
        });
        match alias {
            Some(target) if addresses.is_empty() => name = target,
            _ => return addresses,
        }
    }
    Vec::new()
}

/// One resource record, as far as it matters.
#[derive(Debug)]
enum Record {
    Address(Ipv4Addr),
    Alias(Vec<u8>),
    Other,
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
                    name.push(length);
                    for _ in 0..length {
                        let [byte] = cursor.take()?;
                        name.push(byte.to_ascii_lowercase());
                    }
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

    fn record(&mut self) -> Option<(Vec<u8>, Record)> {
        let owner = self.name()?;
        let kind = self.take::<2>()?;
        let class = self.take::<2>()?;
        self.take::<4>()?;
        let length = usize::from(u16::from_be_bytes(self.take()?));
        let end = self
            .at
            .checked_add(length)
            .filter(|end| *end <= self.message.len())?;
        let record = match (kind, length) {
            (TYPE_A, 4) if class == CLASS_IN => Record::Address(self.take::<4>()?.into()),
            (TYPE_CNAME, _) if class == CLASS_IN => Record::Alias(self.name()?),
            _ => {
                self.at = end;
                Record::Other
            }
        };
        (self.at == end).then_some((owner, record))
    }
}

#[cfg(test)]
mod tests;
