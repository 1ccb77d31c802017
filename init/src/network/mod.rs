//! One network interface, configured once.
//!
//! The network belongs to the host. What it says is parsed with bounds and
//! decides nothing about trust: a wrong address or name server ends at the
//! broker's TLS certificate.

use alloc::vec::Vec;
use core::fmt;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

use measured_boot::code::Code;
use measured_boot::manifest::Network;

use crate::error::BootError;

pub mod deadline;
mod dhcp;
mod dns;
mod lease;
mod link;
mod netlink;
mod udp;

use deadline::{Deadline, now};
use lease::Dhcp;
use link::Link;

const STEP: &str = "network";
/// For the first lease, whatever happens on the way.
const DHCP_DEADLINE: Duration = Duration::from_secs(20);
/// For one attempt to renew: the caller has a container to watch.
const RENEWAL_DEADLINE: Duration = Duration::from_millis(1500);

/// The configured interface: it is up and has an address.
#[derive(Debug)]
#[cfg_attr(test, derive(Default))]
pub struct Interface {
    dns: Vec<Ipv4Addr>,
    dhcp: Option<Dhcp>,
}

/// Brings up the loopback interface, which every image has, and gives the one
/// network interface its address, if the manifest asks for a network.
///
/// # Errors
/// `E_NETWORK_DEVICE` or `E_NETWORK_DHCP`.
pub fn bring_up(network: Option<&Network>) -> Result<Option<Interface>, BootError> {
    netlink::up(netlink::LOOPBACK).map_err(failed("bring up the loopback interface"))?;
    network.map(Interface::configure).transpose()
}

impl Interface {
    fn configure(network: &Network) -> Result<Self, BootError> {
        let link = Link::find(link::SYSFS).map_err(failed("find the network interface"))?;
        netlink::up(link.index).map_err(failed("bring up the network interface"))?;
        match network {
            Network::Static(network) => {
                let router = network.router.map(|router| router.0);
                netlink::configure(link.index, network.address.0, network.prefix, router)
                    .map_err(failed("configure the network interface"))?;
                let dns = network.dns.iter().map(|server| server.0).collect();
                Ok(Self { dns, dhcp: None })
            }
            Network::Dhcp {} => {
                let mut dhcp = Dhcp::new(link);
                let dns = dhcp
                    .acquire(Deadline::after(DHCP_DEADLINE))
                    .map_err(|e| e.at(STEP, "get an address by DHCP"))?;
                let dhcp = Some(dhcp);
                Ok(Self { dns, dhcp })
            }
        }
    }

    /// Name servers.
    pub fn dns(&self) -> &[Ipv4Addr] {
        &self.dns
    }

    /// Finds the addresses of `host`; an IPv4 address in dotted decimal is its own.
    ///
    /// # Errors
    /// `E_NETWORK_DNS` when no server knows one before the deadline.
    pub fn resolve(&self, host: &str, deadline: Deadline) -> Result<Vec<Ipv4Addr>, BootError> {
        let server = |ip: &Ipv4Addr| SocketAddrV4::new(*ip, dns::PORT);
        let servers: Vec<_> = self.dns.iter().map(server).collect();
        dns::resolve(&servers, host, deadline).map_err(|cause| {
            let action = format_args!("resolve {host}");
            BootError::new(Code::NetworkDns, STEP, action, cause)
        })
    }

    /// When to call [`Self::renew`], as time since boot; never for a static address.
    pub fn next_renewal(&self) -> Option<Duration> {
        self.dhcp.as_ref().map(|dhcp| dhcp.next)
    }

    /// Extends the lease if it is time to, within two seconds. A failure is
    /// tried again until the lease ends; then the address is removed and a new
    /// lease is asked for. The kernel's refusals show as a missing address.
    pub fn renew(&mut self) {
        if let Some(dhcp) = self.dhcp.as_mut().filter(|dhcp| dhcp.next <= now()) {
            dhcp.renew(Deadline::after(RENEWAL_DEADLINE)).ok();
        }
    }
}

fn failed<E: fmt::Display>(action: &'static str) -> impl Fn(E) -> BootError {
    move |cause| BootError::new(Code::NetworkDevice, STEP, action, cause)
}

/// Whether a host can have this address: no network 0, loopback, multicast,
/// reserved or broadcast address.
fn usable(address: Ipv4Addr) -> bool {
    !matches!(address.octets(), [0 | 127 | 224..=255, ..])
}

#[cfg(test)]
pub(crate) mod tests;
