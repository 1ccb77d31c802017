//! Addresses and routes by rtnetlink (rtnetlink(7)): requests of one message
//! each, answered by one acknowledgement.

use core::net::Ipv4Addr;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
};

/// The kernel always gives loopback the first number.
pub(super) const LOOPBACK: u32 = 1;

// linux/netlink.h and linux/rtnetlink.h
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const AF_INET: u8 = 2;
const IFF_UP: u32 = 1;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
/// The router need not be inside the prefix: some clouds lease a /32.
const RTNH_F_ONLINK: u32 = 4;

/// Of the one request on its socket.
const SEQUENCE: u32 = 1;

/// Messages are words of 4 bytes here, so there is never padding.
type Word = [u8; 4];

/// Sets an interface administratively up.
pub(super) fn up(interface: u32) -> Result<(), Errno> {
    let flags = IFF_UP.to_ne_bytes();
    // struct ifinfomsg: family, pad, type; index; flags; change.
    let body = [[0; 4], interface.to_ne_bytes(), flags, flags];
    call(RTM_NEWLINK, 0, &body)
}

/// Gives an interface its address, and routes everything else through `router`.
pub(super) fn configure(
    interface: u32,
    address: Ipv4Addr,
    prefix: u8,
    router: Option<Ipv4Addr>,
) -> Result<(), Errno> {
    change_address(RTM_NEWADDR, interface, address, prefix)?;
    router.map_or(Ok(()), |router| set_default_route(interface, router))
}

/// Removes an address, and with it its routes.
pub(super) fn remove_address(interface: u32, address: Ipv4Addr, prefix: u8) -> Result<(), Errno> {
    change_address(RTM_DELADDR, interface, address, prefix)
}

fn change_address(change: u16, interface: u32, address: Ipv4Addr, prefix: u8) -> Result<(), Errno> {
    let body = [
        // struct ifaddrmsg: family, prefixlen, flags, scope; index.
        [AF_INET, prefix, 0, RT_SCOPE_UNIVERSE],
        interface.to_ne_bytes(),
        attribute(IFA_LOCAL),
        address.octets(),
        attribute(IFA_ADDRESS),
        address.octets(),
    ];
    call(change, NLM_F_CREATE | NLM_F_REPLACE, &body)
}

fn set_default_route(interface: u32, router: Ipv4Addr) -> Result<(), Errno> {
    let body = [
        // struct rtmsg: family, dst_len, src_len, tos; table, protocol, scope,
        // type; flags.
        [AF_INET, 0, 0, 0],
        [RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST],
        RTNH_F_ONLINK.to_ne_bytes(),
        attribute(RTA_GATEWAY),
        router.octets(),
        attribute(RTA_OIF),
        interface.to_ne_bytes(),
    ];
    call(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &body)
}

/// Routes 255.255.255.255 here, so that UDP can be sent before there is an
/// address; the kernel then fills in 0.0.0.0 as the source.
pub(super) fn set_broadcast_route(interface: u32) -> Result<(), Errno> {
    let body = [
        // struct rtmsg, as above.
        [AF_INET, 32, 0, 0],
        [RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_LINK, RTN_UNICAST],
        [0; 4],
        attribute(RTA_DST),
        Ipv4Addr::BROADCAST.octets(),
        attribute(RTA_OIF),
        interface.to_ne_bytes(),
    ];
    call(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &body)
}

/// struct rtattr before 4 bytes of value: length with itself, type.
fn attribute(kind: u16) -> Word {
    halves(8, kind)
}

fn halves(first: u16, second: u16) -> Word {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    [a, b, c, d]
}

/// Sends one request to the kernel, which works it off and queues its answer
/// before the call returns.
fn call(kind: u16, flags: u16, body: &[Word]) -> Result<(), Errno> {
    let length = body.as_flattened().len().saturating_add(16);
    // struct nlmsghdr: length; type, flags; sequence; port.
    let header = [
        u32::try_from(length)
            .map_err(|_| Errno::MSGSIZE)?
            .to_ne_bytes(),
        halves(kind, flags | NLM_F_REQUEST | NLM_F_ACK),
        SEQUENCE.to_ne_bytes(),
        [0; 4],
    ];
    // No protocol means NETLINK_ROUTE, which is 0.
    let options = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, options, None)?;
    // Connected to the kernel, a socket takes messages of nobody else.
    connect(&socket, &SocketAddrNetlink::new(0, 0))?;
    let message = [&header, body].concat();
    send(&socket, message.as_flattened(), SendFlags::empty())?;
    let mut answer = [0; 512];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    acknowledgement(answer.get(..length).unwrap_or_default())
}

/// struct nlmsgerr behind its header: a negative errno, 0 for success.
fn acknowledgement(message: &[u8]) -> Result<(), Errno> {
    let (words, _) = message.as_chunks::<4>();
    let [_, [kind @ .., _, _], sequence, _, code, ..] = *words else {
        return Err(Errno::PROTO);
    };
    if u16::from_ne_bytes(kind) != NLMSG_ERROR || u32::from_ne_bytes(sequence) != SEQUENCE {
        return Err(Errno::PROTO);
    }
    match i32::from_ne_bytes(code) {
        0 => Ok(()),
        code => Err(Errno::from_raw_os_error(code.saturating_neg())),
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::{acknowledgement, up};

    fn answer(kind: u16, sequence: u32, code: i32) -> std::vec::Vec<u8> {
        let mut message = std::vec![36, 0, 0, 0];
        message.extend(kind.to_ne_bytes());
        message.extend([0, 0]);
        message.extend(sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(code.to_ne_bytes());
        message
    }

    #[test]
    fn reads_only_its_own_acknowledgement() {
        assert_eq!(acknowledgement(&answer(2, 1, 0)), Ok(()));
        assert_eq!(acknowledgement(&answer(2, 1, -19)), Err(Errno::NODEV));
        assert_eq!(acknowledgement(&answer(2, 6, 0)), Err(Errno::PROTO));
        assert_eq!(acknowledgement(&answer(3, 1, 0)), Err(Errno::PROTO));
        for length in 0..20 {
            assert_eq!(
                acknowledgement(&answer(2, 1, 0)[..length]),
                Err(Errno::PROTO)
            );
        }
    }

    #[test]
    fn reports_what_the_kernel_refuses() {
        // No interface has this number, whoever runs the test.
        let error = up(0x7fff_fff0).unwrap_err();
        assert!(matches!(error, Errno::NODEV | Errno::PERM), "{error}");
    }
}
