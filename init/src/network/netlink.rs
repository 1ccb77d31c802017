//! Addresses and routes by rtnetlink (rtnetlink(7)): requests of one message
//! each, answered by one acknowledgement.

use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

use rustix::event::PollFlags;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recvfrom, sendto, socket_with,
};

use super::deadline::Deadline;

/// An interface, by the kernel's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Index(pub(super) u32);

/// The kernel always gives loopback the first number.
pub(super) const LOOPBACK: Index = Index(1);

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

/// The kernel answers at once; this only keeps a bug from hanging the boot.
const ANSWER: Duration = Duration::from_secs(1);

impl Index {
    /// Sets the interface administratively up.
    pub(super) fn up(self, netlink: &mut Netlink) -> Result<(), Errno> {
        // struct ifinfomsg: family, pad, type, index, flags, change.
        let mut request = Request::new(RTM_NEWLINK, 0);
        request.put(&[0; 4]);
        request.put(&self.0.to_ne_bytes());
        request.put(&IFF_UP.to_ne_bytes());
        request.put(&IFF_UP.to_ne_bytes());
        netlink.call(request)
    }

    pub(super) fn add_address(
        self,
        netlink: &mut Netlink,
        address: Ipv4Addr,
        prefix: u8,
    ) -> Result<(), Errno> {
        self.change_address(netlink, RTM_NEWADDR, address, prefix)
    }

    pub(super) fn remove_address(
        self,
        netlink: &mut Netlink,
        address: Ipv4Addr,
        prefix: u8,
    ) -> Result<(), Errno> {
        self.change_address(netlink, RTM_DELADDR, address, prefix)
    }

    fn change_address(
        self,
        netlink: &mut Netlink,
        change: u16,
        address: Ipv4Addr,
        prefix: u8,
    ) -> Result<(), Errno> {
        // struct ifaddrmsg: family, prefixlen, flags, scope, index.
        let mut request = Request::new(change, NLM_F_CREATE | NLM_F_REPLACE);
        request.put(&[AF_INET, prefix, 0, RT_SCOPE_UNIVERSE]);
        request.put(&self.0.to_ne_bytes());
        request.attribute(IFA_LOCAL, address.octets());
        request.attribute(IFA_ADDRESS, address.octets());
        netlink.call(request)
    }

    /// Routes everything else through `router`.
    pub(super) fn set_default_route(
        self,
        netlink: &mut Netlink,
        router: Ipv4Addr,
    ) -> Result<(), Errno> {
        let mut request = Request::route(0, RT_SCOPE_UNIVERSE, RTNH_F_ONLINK);
        request.attribute(RTA_GATEWAY, router.octets());
        request.attribute(RTA_OIF, self.0.to_ne_bytes());
        netlink.call(request)
    }

    /// Routes 255.255.255.255 here, so that UDP can be sent before there is an
    /// address; the kernel then fills in 0.0.0.0 as the source.
    pub(super) fn set_broadcast_route(self, netlink: &mut Netlink) -> Result<(), Errno> {
        let mut request = Request::route(32, RT_SCOPE_LINK, 0);
        request.attribute(RTA_DST, Ipv4Addr::BROADCAST.octets());
        request.attribute(RTA_OIF, self.0.to_ne_bytes());
        netlink.call(request)
    }
}

/// A message without its header; every part is a multiple of 4 bytes long, so
/// there is never padding.
struct Request {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Request {
    fn new(kind: u16, flags: u16) -> Self {
        Self {
            kind,
            flags: flags | NLM_F_REQUEST | NLM_F_ACK,
            body: Vec::new(),
        }
    }

    /// struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope,
    /// type, flags.
    fn route(prefix: u8, scope: u8, flags: u32) -> Self {
        let mut request = Self::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE);
        request.put(&[AF_INET, prefix, 0, 0]);
        request.put(&[RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST]);
        request.put(&flags.to_ne_bytes());
        request
    }

    fn put(&mut self, bytes: &[u8]) {
        self.body.extend_from_slice(bytes);
    }

    /// struct rtattr: length with its own header, type; then 4 bytes of value.
    fn attribute(&mut self, kind: u16, value: [u8; 4]) {
        self.put(&8_u16.to_ne_bytes());
        self.put(&kind.to_ne_bytes());
        self.put(&value);
    }

    /// struct nlmsghdr: length, type, flags, sequence, port; then the body.
    fn encode(&self, sequence: u32) -> Result<Vec<u8>, Errno> {
        let length = self.body.len().saturating_add(16);
        let mut message = Vec::with_capacity(length);
        message.extend_from_slice(
            &u32::try_from(length)
                .map_err(|_| Errno::MSGSIZE)?
                .to_ne_bytes(),
        );
        message.extend_from_slice(&self.kind.to_ne_bytes());
        message.extend_from_slice(&self.flags.to_ne_bytes());
        message.extend_from_slice(&sequence.to_ne_bytes());
        message.extend_from_slice(&0_u32.to_ne_bytes());
        message.extend_from_slice(&self.body);
        Ok(message)
    }
}

/// A socket to the kernel's rtnetlink.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> Result<Self, Errno> {
        // No protocol means NETLINK_ROUTE, which is 0.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    fn call(&mut self, request: Request) -> Result<(), Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        let kernel = SocketAddrNetlink::new(0, 0);
        let message = request.encode(self.sequence)?;
        sendto(&self.socket, &message, SendFlags::empty(), &kernel)?;
        let deadline = Deadline::after(ANSWER);
        let mut answer = [0; 512];
        while deadline.wait(&self.socket, PollFlags::IN)? {
            let (_, length, sender) = recvfrom(&self.socket, &mut answer[..], RecvFlags::empty())?;
            let from_kernel =
                sender.and_then(|s| SocketAddrNetlink::try_from(s).ok()) == Some(kernel);
            let answer = answer.get(..length).unwrap_or_default();
            if let Some(outcome) = acknowledgement(answer, self.sequence).filter(|_| from_kernel) {
                return outcome;
            }
        }
        Err(Errno::TIMEDOUT)
    }
}

/// struct nlmsgerr behind its header: a negative errno, 0 for success.
fn acknowledgement(message: &[u8], sequence: u32) -> Option<Result<(), Errno>> {
    let field = |at: usize| message.get(at..)?.first_chunk::<4>().copied();
    let kind = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
    if kind != NLMSG_ERROR || u32::from_ne_bytes(field(8)?) != sequence {
        return None;
    }
    match i32::from_ne_bytes(field(16)?) {
        0 => Some(Ok(())),
        code => Some(Err(Errno::from_raw_os_error(code.saturating_neg()))),
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::{Index, Netlink, acknowledgement};

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
        assert_eq!(acknowledgement(&answer(2, 7, 0), 7), Some(Ok(())));
        assert_eq!(
            acknowledgement(&answer(2, 7, -19), 7),
            Some(Err(Errno::NODEV))
        );
        assert_eq!(acknowledgement(&answer(2, 6, 0), 7), None);
        assert_eq!(acknowledgement(&answer(3, 7, 0), 7), None);
        for length in 0..20 {
            assert_eq!(acknowledgement(&answer(2, 7, 0)[..length], 7), None);
        }
    }

    #[test]
    fn reports_what_the_kernel_refuses() {
        // No interface has this number, whoever runs the test.
        let error = Index(0x7fff_fff0)
            .up(&mut Netlink::open().unwrap())
            .unwrap_err();
        assert!(matches!(error, Errno::NODEV | Errno::PERM), "{error}");
    }
}
