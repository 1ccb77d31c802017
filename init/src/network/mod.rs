//! One network interface, configured once.
//!
//! The network belongs to the host. What it says is parsed with bounds and
//! decides nothing about trust: a wrong address or name server ends at the
//! broker's TLS certificate.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;
use core::time::Duration;

use measured_boot::code::Code;
use measured_boot::manifest::{Network, StaticNetwork};
use rustix::io::Errno;

use crate::error::BootError;

pub mod deadline;
mod dhcp;
pub mod dns;
mod lease;
mod link;
mod netlink;

use deadline::{Deadline, now};
use dhcp::Lease;
use lease::Client;
use link::Link;
use netlink::Netlink;

const STEP: &str = "network";
/// For the first lease, whatever happens on the way.
const DHCP_DEADLINE: Duration = Duration::from_secs(20);
/// For one attempt to renew: the caller has a container to watch.
const RENEWAL_DEADLINE: Duration = Duration::from_millis(1500);
/// Between two attempts to renew. Shorter than RFC 2131 section 4.4.5 has it, so
/// that the shortest lease sees several.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(10);
/// As the resolver of C libraries.
const MAX_DNS: usize = 3;

/// Why there is no network.
#[derive(Debug)]
#[allow(
    clippy::error_impl_error,
    reason = "named by its module, as network::Error"
)]
pub enum Error {
    /// Not exactly one virtio network device.
    Device(String),
    /// The kernel refused a setting.
    Kernel(Errno),
    /// No lease; holds the last thing heard.
    Dhcp(&'static str),
    /// No address for a name; holds the last thing heard.
    Dns(&'static str),
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Device(_) | Self::Kernel(_) => Code::NetworkDevice,
            Self::Dhcp(_) => Code::NetworkDhcp,
            Self::Dns(_) => Code::NetworkDns,
        }
    }

    fn at(self, action: impl fmt::Display) -> BootError {
        BootError::new(self.code(), STEP, action, self)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(cause) => f.write_str(cause),
            Self::Kernel(errno) => write!(f, "{errno}"),
            Self::Dhcp(cause) | Self::Dns(cause) => f.write_str(cause),
        }
    }
}

impl core::error::Error for Error {}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self::Kernel(errno)
    }
}

/// The configured interface: it is up and has an address.
#[derive(Debug)]
#[cfg_attr(test, derive(Default))]
pub struct Interface {
    dns: Vec<Ipv4Addr>,
    renewal: Option<Renewal>,
}

/// A lease and when to act on it; every time is on the clock of [`now`].
#[derive(Debug)]
struct Renewal {
    link: Link,
    /// `None` once expired or taken back: the interface then has no address.
    lease: Option<Held>,
    next: Duration,
}

#[derive(Debug)]
struct Held {
    lease: Lease,
    /// From here on any server may extend it, so the request is broadcast.
    rebind: Duration,
    expiry: Duration,
}

impl Held {
    fn new(lease: Lease, start: Duration) -> Self {
        let length = Duration::from_secs(lease.seconds.into());
        // T2 by default (RFC 2131 section 4.4.5).
        let rebind = length.saturating_sub(length.checked_div(8).unwrap_or_default());
        Self {
            lease,
            rebind: start.saturating_add(rebind),
            expiry: start.saturating_add(length),
        }
    }
}

/// Brings up the loopback interface, which every image has, and gives the one
/// network interface its address, if the manifest asks for a network.
///
/// # Errors
/// `E_NETWORK_DEVICE` or `E_NETWORK_DHCP`.
pub fn bring_up(network: Option<&Network>) -> Result<Option<Interface>, BootError> {
    netlink::LOOPBACK
        .up(&mut Netlink::open().map_err(|e| Error::from(e).at("open a netlink socket"))?)
        .map_err(|e| Error::from(e).at("bring up the loopback interface"))?;
    network.map(configure).transpose()
}

fn configure(network: &Network) -> Result<Interface, BootError> {
    let link = Link::find(link::SYSFS).map_err(|e| e.at("find the network interface"))?;
    let mut netlink = Netlink::open().map_err(|e| Error::from(e).at("open a netlink socket"))?;
    link.index
        .up(&mut netlink)
        .map_err(|e| Error::from(e).at("bring up the network interface"))?;
    match network {
        Network::Static(network) => configure_static(&link, network, &mut netlink)
            .map_err(|e| Error::from(e).at("configure the network interface")),
        Network::Dhcp {} => {
            configure_by_dhcp(link, &mut netlink).map_err(|e| e.at("get an address by DHCP"))
        }
    }
}

fn configure_static(
    link: &Link,
    network: &StaticNetwork,
    netlink: &mut Netlink,
) -> Result<Interface, Errno> {
    link.index
        .add_address(netlink, network.address.0, network.prefix)?;
    if let Some(router) = network.router {
        link.index.set_default_route(netlink, router.0)?;
    }
    Ok(Interface {
        dns: network
            .dns
            .iter()
            .map(|server| server.0)
            .take(MAX_DNS)
            .collect(),
        renewal: None,
    })
}

fn configure_by_dhcp(link: Link, netlink: &mut Netlink) -> Result<Interface, Error> {
    let mut interface = Interface {
        dns: Vec::new(),
        renewal: None,
    };
    let mut renewal = Renewal {
        link,
        lease: None,
        next: Duration::ZERO,
    };
    let deadline = Deadline::after(DHCP_DEADLINE);
    interface.dns = renewal.acquire(netlink, deadline)?;
    interface.renewal = Some(renewal);
    Ok(interface)
}

impl Interface {
    /// Name servers.
    pub fn dns(&self) -> &[Ipv4Addr] {
        &self.dns
    }

    /// When to call [`Self::renew`], as time since boot; never for a static address.
    pub fn next_renewal(&self) -> Option<Duration> {
        self.renewal.as_ref().map(|renewal| renewal.next)
    }

    /// Extends the lease if it is time to, within two seconds. A failure is
    /// tried again until the lease ends; then the address is removed and a new
    /// lease is asked for. The kernel's refusals show as a missing address.
    pub fn renew(&mut self) {
        let Some(renewal) = &mut self.renewal else {
            return;
        };
        if now() < renewal.next {
            return;
        }
        let deadline = Deadline::after(RENEWAL_DEADLINE);
        renewal.next = now().saturating_add(RENEWAL_INTERVAL);
        if let Ok(mut netlink) = Netlink::open()
            && let Ok(dns) = renewal.step(&mut netlink, deadline)
        {
            self.dns = dns;
        }
    }
}

impl Renewal {
    /// One attempt, by the state of the lease.
    fn step(&mut self, netlink: &mut Netlink, deadline: Deadline) -> Result<Vec<Ipv4Addr>, Error> {
        let Some(held) = &self.lease else {
            return self.acquire(netlink, deadline);
        };
        if now() >= held.expiry {
            self.give_up(netlink)?;
            return self.acquire(netlink, deadline);
        }
        // Never sleeps past the end of the lease.
        self.next = self.next.min(held.expiry);
        let start = now();
        let server = if start < held.rebind {
            held.lease.server
        } else {
            Ipv4Addr::BROADCAST
        };
        match Client::open(self.link.mac, server)?.extend(&held.lease, deadline)? {
            Some(lease) => {
                let dns = lease.dns.clone();
                // What is configured stays: only its end moves.
                let lease = Lease {
                    prefix: held.lease.prefix,
                    router: held.lease.router,
                    ..lease
                };
                self.hold(lease, start);
                Ok(dns)
            }
            // DHCPNAK: the address must not be used any more.
            None => {
                self.give_up(netlink)?;
                Err(Error::Dhcp("the server took the address back"))
            }
        }
    }

    /// A lease from nothing, and the interface configured by it.
    fn acquire(
        &mut self,
        netlink: &mut Netlink,
        deadline: Deadline,
    ) -> Result<Vec<Ipv4Addr>, Error> {
        self.link.index.set_broadcast_route(netlink)?;
        let start = now();
        let lease = Client::open(self.link.mac, Ipv4Addr::BROADCAST)?.acquire(deadline)?;
        self.link
            .index
            .add_address(netlink, lease.address, lease.prefix)?;
        if let Some(router) = lease.router {
            self.link.index.set_default_route(netlink, router)?;
        }
        let dns = lease.dns.clone();
        self.hold(lease, start);
        Ok(dns)
    }

    /// Counts from when the request was sent (RFC 2131 section 4.4.1).
    fn hold(&mut self, lease: Lease, start: Duration) {
        let half = Duration::from_secs(u64::from(lease.seconds) >> 1);
        self.next = start.saturating_add(half);
        self.lease = Some(Held::new(lease, start));
    }

    /// Removes the address, and with it its routes. Tried again at the next
    /// step if the kernel refuses.
    fn give_up(&mut self, netlink: &mut Netlink) -> Result<(), Errno> {
        if let Some(Held { lease, .. }) = &self.lease {
            self.link
                .index
                .remove_address(netlink, lease.address, lease.prefix)?;
        }
        self.lease = None;
        Ok(())
    }
}

/// Whether a host can have this address: no network 0, loopback, multicast,
/// reserved or broadcast address.
fn usable(address: Ipv4Addr) -> bool {
    !matches!(address.octets(), [0 | 127 | 224..=255, ..])
}

#[cfg(test)]
pub(crate) mod tests;
