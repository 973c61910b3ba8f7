//! Dumps with everything that the kernel says, for those who judge a machine and change nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::Result;
use crate::msg::{self, Msg};
use crate::neigh::read_ip;
use crate::route::Route;
use crate::rtnl::Rtnl;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_F_SECONDARY: u32 = 0x01;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_DEPRECATED: u32 = 0x20;
const IFA_F_TENTATIVE: u32 = 0x40;
const IFA_F_PERMANENT: u32 = 0x80;

const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_CACHEINFO: u16 = 12;
const RTAX_MTU: u16 = 2;
const RTNH_F_DEAD: u32 = 1;
const RTNH_F_LINKDOWN: u32 = 16;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NTF_ROUTER: u8 = 0x80;

/// An address with what the kernel knows about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressInfo {
    /// The link, by index.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// Prefix length in bits.
    pub prefix: u8,
    /// The other end, of a point-to-point address.
    pub peer: Option<IpAddr>,
    /// Scope (`RT_SCOPE_…`): 0 global, 253 link, 254 host.
    pub scope: u8,
    /// It has a lifetime: a DHCP client or a router advertisement gave it.
    pub dynamic: bool,
    /// An additional IPv4 address of its subnet, or a temporary IPv6 one (RFC 8981).
    pub secondary: bool,
    /// Duplicate detection is not finished (RFC 4862, section 5.4).
    pub tentative: bool,
    /// Duplicate detection found another holder.
    pub dad_failed: bool,
    /// Past its preferred lifetime.
    pub deprecated: bool,
    /// Seconds that it stays valid; none is forever.
    pub valid: Option<u32>,
    /// Seconds that it stays preferred; none is forever.
    pub preferred: Option<u32>,
}

/// One of several next hops of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop {
    /// The device, by index.
    pub oif: u32,
    /// The gateway.
    pub gateway: Option<IpAddr>,
    /// Share of the traffic, 1 to 256.
    pub weight: u32,
}

/// A route with what the kernel knows about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteInfo {
    /// The route.
    pub route: Route,
    /// Scope (`RT_SCOPE_…`): 0 everywhere, 253 the link.
    pub scope: u8,
    /// Next hops of a multipath route; empty otherwise.
    pub next_hops: Vec<NextHop>,
    /// Its own MTU in bytes.
    pub mtu: Option<u32>,
    /// Seconds until it is gone; none is forever.
    pub expires: Option<u32>,
    /// Its device is down or has no carrier, so that it is not used.
    pub dead: bool,
}

/// An IP neighbour with its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighbourInfo {
    /// The device, by index.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// The MAC address, if known.
    pub mac: Option<[u8; 6]>,
    /// State (`NUD_…` of linux/neighbour.h), bits: 1 incomplete, 2 reachable, 4 stale, 0x20 failed.
    pub state: u16,
    /// It said that it is a router.
    pub router: bool,
}

impl Rtnl {
    /// Every address of the namespace with flags and lifetimes.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub fn address_infos(&mut self) -> Result<Vec<AddressInfo>> {
        let m = Msg::new(libc::RTM_GETADDR, 0, "list", "addresses").raw(&[0; 8]);
        self.socket.dump(m, address)
    }

    /// Every route of the namespace with all that is known of it; cached ones are left out.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub fn route_infos(&mut self) -> Result<Vec<RouteInfo>> {
        let mut all = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut head = [0; 12];
            head[0] = family as u8;
            let m = Msg::new(libc::RTM_GETROUTE, 0, "list", "routes").raw(&head);
            match self.socket.dump(m, route) {
                Ok(routes) => all.extend(routes),
                Err(e) if e.is_unsupported() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }

    /// Every IP neighbour of the namespace with its state.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub fn neighbour_infos(&mut self) -> Result<Vec<NeighbourInfo>> {
        let m = Msg::new(libc::RTM_GETNEIGH, 0, "list", "neighbours").raw(&[0; 12]);
        self.socket.dump(m, neighbour)
    }
}

fn lifetime(seconds: u32) -> Option<u32> {
    (seconds != u32::MAX).then_some(seconds)
}

fn address(body: &[u8]) -> Option<AddressInfo> {
    let attributes = body.get(8..)?;
    let local = msg::find(attributes, IFA_LOCAL).and_then(read_ip);
    let other = msg::find(attributes, IFA_ADDRESS).and_then(read_ip);
    let ip = local.or(other)?;
    let flags = msg::find(attributes, IFA_FLAGS).and_then(|d| msg::u32_at(d, 0)).unwrap_or(u32::from(*body.get(2)?));
    let cache = msg::find(attributes, IFA_CACHEINFO);
    let number = |at| cache.and_then(|d| msg::u32_at(d, at)).and_then(lifetime);
    Some(AddressInfo {
        index: msg::u32_at(body, 4)?,
        ip,
        prefix: *body.get(1)?,
        peer: other.filter(|o| *o != ip),
        scope: *body.get(3)?,
        dynamic: flags & IFA_F_PERMANENT == 0,
        secondary: flags & IFA_F_SECONDARY != 0,
        tentative: flags & IFA_F_TENTATIVE != 0,
        dad_failed: flags & IFA_F_DADFAILED != 0,
        deprecated: flags & IFA_F_DEPRECATED != 0,
        valid: number(4),
        preferred: number(0),
    })
}

fn route(body: &[u8]) -> Option<RouteInfo> {
    let plain = crate::route::parse(body)?;
    let attributes = body.get(12..)?;
    let mut flags = msg::u32_at(body, 8)?;
    let mut next_hops = Vec::new();
    let mut data = msg::find(attributes, RTA_MULTIPATH).unwrap_or(&[]);
    // struct rtnexthop: length, flags, weight less one, device; then attributes.
    while let (Some(len), Some(oif)) = (msg::u16_at(data, 0), msg::u32_at(data, 4)) {
        let Some(hop) = data.get(8..usize::from(len)) else { break };
        flags |= u32::from(data[2]);
        let gateway = msg::find(hop, 5 /* RTA_GATEWAY */).and_then(read_ip);
        next_hops.push(NextHop { oif, gateway, weight: u32::from(data[3]) + 1 });
        data = data.get(msg::align(usize::from(len))..).unwrap_or(&[]);
    }
    let metrics = msg::find(attributes, RTA_METRICS).unwrap_or(&[]);
    // rta_cacheinfo.rta_expires, in hundredths of a second (USER_HZ); 0 is never.
    let expires = msg::find(attributes, RTA_CACHEINFO).and_then(|d| msg::u32_at(d, 8)).unwrap_or(0);
    Some(RouteInfo {
        route: plain,
        scope: *body.get(6)?,
        next_hops,
        mtu: msg::find(metrics, RTAX_MTU).and_then(|d| msg::u32_at(d, 0)),
        expires: (expires > 0).then_some(expires / 100),
        dead: flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN) != 0,
    })
}

fn neighbour(body: &[u8]) -> Option<NeighbourInfo> {
    let attributes = body.get(12..)?;
    Some(NeighbourInfo {
        index: msg::u32_at(body, 4)?,
        ip: read_ip(msg::find(attributes, NDA_DST)?)?,
        mac: msg::find(attributes, NDA_LLADDR).and_then(|d| d.try_into().ok()),
        state: msg::u16_at(body, 8)?,
        router: *body.get(10)? & NTF_ROUTER != 0,
    })
}

/// The unspecified address of a family as the kernel numbers it.
pub(crate) fn unspecified(family: u8) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => Some(Ipv4Addr::UNSPECIFIED.into()),
        libc::AF_INET6 => Some(Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_make_the_readers_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (address(&body), route(&body), neighbour(&body));
        }

        #[test]
        fn no_next_hops_make_the_reader_panic(data in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut m = Msg::new(24, 0, "test", "").raw(&[2, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]);
            m.attr(RTA_MULTIPATH, &data);
            m.attr(RTA_METRICS, &data);
            m.attr(RTA_CACHEINFO, &data);
            let bytes = m.seal(1)[msg::HEADER..].to_vec();
            prop_assert!(route(&bytes).is_some());
        }
    }
}
