//! Addresses of links.

use std::net::IpAddr;

use crate::error::Result;
use crate::msg::{self, Msg};
use crate::neigh::{family, read_ip};
use crate::rtnl::Rtnl;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 0x02;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// The link, by index.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// Prefix length in bits, 0 to 32 or 0 to 128.
    pub prefix: u8,
}

/// `IFA_F_PERMANENT`, in the 8 bits of flags that the header has.
const PERMANENT: u8 = 0x80;

/// `struct ifaddrmsg`.
fn head(address: &Address) -> [u8; 8] {
    let mut head = [0; 8];
    head[0] = family(address.ip);
    head[1] = address.prefix;
    head[4..8].copy_from_slice(&address.index.to_ne_bytes());
    head
}

fn message(kind: u16, flags: i32, op: &'static str, a: &Address) -> Msg {
    let subject = format!("{}/{} on link {}", a.ip, a.prefix, a.index);
    let mut m = Msg::new(kind, flags, op, subject).raw(&head(a));
    let octets = octets(a.ip);
    m.attr(IFA_LOCAL, &octets);
    m.attr(IFA_ADDRESS, &octets);
    m
}

pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

impl Rtnl {
    /// Adds an address, or leaves it if it is there. An IPv6 address is usable at once: duplicate
    /// detection (RFC 4862, section 5.4) is off, because the same gateway address stands on every node.
    /// With `route` off the kernel installs no route to the prefix.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn address_set(&mut self, address: &Address, route: bool) -> Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let mut m = message(libc::RTM_NEWADDR, flags, "set address", address);
        let mut bits = 0;
        if address.ip.is_ipv6() {
            bits |= IFA_F_NODAD;
        }
        if !route {
            bits |= IFA_F_NOPREFIXROUTE;
        }
        m.u32(IFA_FLAGS, bits);
        self.socket.request(m)
    }

    /// Deletes an address.
    ///
    /// # Errors
    /// [`crate::Error::is_missing`] if it is not there.
    pub fn address_delete(&mut self, address: &Address) -> Result<()> {
        self.socket.request(message(libc::RTM_DELADDR, 0, "delete address", address))
    }

    /// Every address of the namespace, both families, link-local ones included.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub fn addresses(&mut self) -> Result<Vec<Address>> {
        let m = Msg::new(libc::RTM_GETADDR, 0, "list", "addresses").raw(&[0; 8]);
        self.socket.dump(m, |body| {
            let attributes = body.get(8..)?;
            let ip = msg::find(attributes, IFA_LOCAL).or(msg::find(attributes, IFA_ADDRESS))?;
            Some(Address { index: msg::u32_at(body, 4)?, ip: read_ip(ip)?, prefix: *body.get(1)? })
        })
    }

    /// The addresses that end by themselves: the kernel or a client of the node was told them by a router or a DHCP
    /// server, for a time (`IFA_F_PERMANENT` is not set; include/uapi/linux/if_addr.h).
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn passing_addresses(&mut self) -> Result<Vec<Address>> {
        let m = Msg::new(libc::RTM_GETADDR, 0, "list", "addresses").raw(&[0; 8]);
        self.socket.dump(m, |body| {
            let attributes = body.get(8..)?;
            let ip = msg::find(attributes, IFA_LOCAL).or(msg::find(attributes, IFA_ADDRESS))?;
            let address = Address { index: msg::u32_at(body, 4)?, ip: read_ip(ip)?, prefix: *body.get(1)? };
            (*body.get(2)? & PERMANENT == 0).then_some(address)
        })
    }
}
