//! Routes, of both families and any table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::addr::octets;
use crate::error::Result;
use crate::msg::{self, Msg};
use crate::neigh::{family, read_ip};
use crate::rtnl::Rtnl;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTNH_F_ONLINK: u32 = 4;
const RT_TABLE_COMPAT: u8 = 252;
const RTM_F_CLONED: u32 = 0x200;

/// The main routing table (`RT_TABLE_MAIN`).
pub const TABLE_MAIN: u32 = 254;
/// The routing protocol number that marks a route as ours (`rtm_protocol`; below 128 is free of
/// the numbers in include/uapi/linux/rtnetlink.h between 19 and 41, and 77 of those that daemons use).
pub const PROTOCOL: u8 = 77;

/// What a route does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RouteKind {
    /// Sends it on.
    #[default]
    Unicast,
    /// Drops it silently.
    Blackhole,
    /// Drops it and tells the sender that the host is unreachable.
    Unreachable,
    /// Drops it and tells the sender that it is forbidden.
    Prohibit,
    /// Any other kind, as the kernel numbers it (`RTN_LOCAL` is 2).
    Other(u8),
}

impl RouteKind {
    fn number(self) -> u8 {
        match self {
            Self::Unicast => 1,
            Self::Blackhole => 6,
            Self::Unreachable => 7,
            Self::Prohibit => 8,
            Self::Other(n) => n,
        }
    }

    fn of(number: u8) -> Self {
        match number {
            1 => Self::Unicast,
            6 => Self::Blackhole,
            7 => Self::Unreachable,
            8 => Self::Prohibit,
            n => Self::Other(n),
        }
    }
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Route {
    /// Destination; an unspecified address of length 0 is the default route of its family.
    pub destination: IpAddr,
    /// Prefix length of the destination in bits.
    pub prefix: u8,
    /// Next hop. An IPv4 destination may have an IPv6 one (RFC 8950 section 4), on kernels since 5.2.
    pub gateway: Option<IpAddr>,
    /// The device that it leaves by, by index; 0 lets the kernel choose or is none.
    pub oif: u32,
    /// The next hop is on the link although no address says so.
    pub onlink: bool,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Metric; lower wins. 0 means the kernel's default (0 for IPv4, 1024 for IPv6).
    pub metric: u32,
    /// Routing table; [`TABLE_MAIN`] is the usual one.
    pub table: u32,
    /// What it does.
    pub kind: RouteKind,
    /// Who installed it; ours carry [`PROTOCOL`], the kernel's own 2.
    pub protocol: u8,
}

impl Route {
    /// A unicast route of ours in the main table.
    pub fn to(destination: IpAddr, prefix: u8) -> Self {
        Self {
            destination,
            prefix,
            gateway: None,
            oif: 0,
            onlink: false,
            source: None,
            metric: 0,
            table: TABLE_MAIN,
            kind: RouteKind::Unicast,
            protocol: PROTOCOL,
        }
    }
}

/// `struct rtmsg`.
fn head(r: &Route) -> [u8; 12] {
    let mut head = [0; 12];
    head[0] = family(r.destination);
    head[1] = r.prefix;
    head[4] = u8::try_from(r.table).unwrap_or(RT_TABLE_COMPAT);
    head[5] = r.protocol;
    // An IPv4 route without a next hop has link scope (253), as iproute2 sets it.
    let direct = r.gateway.is_none() && r.kind == RouteKind::Unicast && r.destination.is_ipv4();
    head[6] = if direct { 253 } else { 0 };
    head[7] = r.kind.number();
    let flags = if r.onlink { RTNH_F_ONLINK } else { 0 };
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head
}

fn message(kind: u16, flags: i32, op: &'static str, r: &Route) -> Msg {
    let subject = format!("{}/{} in table {}", r.destination, r.prefix, r.table);
    let mut head = head(r);
    if kind == libc::RTM_DELROUTE {
        // RT_SCOPE_NOWHERE: of any scope.
        head[6] = 255;
    }
    let mut m = Msg::new(kind, flags, op, subject).raw(&head);
    if r.prefix > 0 {
        m.attr(RTA_DST, &octets(r.destination));
    }
    match r.gateway {
        Some(gateway) if gateway.is_ipv4() != r.destination.is_ipv4() => {
            // `struct rtvia`: the family, and the address.
            let mut via = u16::from(family(gateway)).to_ne_bytes().to_vec();
            via.extend(octets(gateway));
            m.attr(RTA_VIA, &via);
        }
        Some(gateway) => m.attr(RTA_GATEWAY, &octets(gateway)),
        None => {}
    }
    if r.oif != 0 {
        m.u32(RTA_OIF, r.oif);
    }
    if let Some(source) = r.source {
        m.attr(RTA_PREFSRC, &octets(source));
    }
    if r.metric != 0 {
        m.u32(RTA_PRIORITY, r.metric);
    }
    m.u32(RTA_TABLE, r.table);
    m
}

impl Rtnl {
    /// Sets a route, replacing the one of the same destination, table and metric.
    ///
    /// # Errors
    /// What the kernel refused; `ENETUNREACH` if the gateway is not on the link.
    pub fn route_set(&mut self, route: &Route) -> Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        self.socket.request(message(libc::RTM_NEWROUTE, flags, "set route", route))
    }

    /// Adds a route beside others of the same destination, table and metric.
    ///
    /// # Errors
    /// [`crate::Error::is_exists`] if exactly it is there; otherwise what the kernel refused.
    pub fn route_append(&mut self, route: &Route) -> Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
        self.socket.request(message(libc::RTM_NEWROUTE, flags, "add route", route))
    }

    /// Deletes a route. What is not said of it (next hop, device, metric of 0) may be anything.
    ///
    /// # Errors
    /// [`crate::Error::is_missing`] if it is not there.
    pub fn route_delete(&mut self, route: &Route) -> Result<()> {
        self.socket.request(message(libc::RTM_DELROUTE, 0, "delete route", route))
    }

    /// Every route of the namespace in every table, both families; cached ones are left out.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub fn routes(&mut self) -> Result<Vec<Route>> {
        let mut all = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut head = [0; 12];
            head[0] = family as u8;
            let m = Msg::new(libc::RTM_GETROUTE, 0, "list", "routes").raw(&head);
            match self.socket.dump(m, parse) {
                Ok(routes) => all.extend(routes),
                // A kernel without IPv6 has no IPv6 routes.
                Err(e) if e.is_unsupported() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }
}

pub(crate) fn parse(body: &[u8]) -> Option<Route> {
    let flags = msg::u32_at(body, 8)?;
    if flags & RTM_F_CLONED != 0 {
        return None;
    }
    let any: IpAddr = match i32::from(*body.first()?) {
        libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut route = Route {
        prefix: *body.get(1)?,
        table: u32::from(*body.get(4)?),
        protocol: *body.get(5)?,
        kind: RouteKind::of(*body.get(7)?),
        onlink: flags & RTNH_F_ONLINK != 0,
        ..Route::to(any, 0)
    };
    for a in msg::attrs(body.get(12..)?) {
        match a.kind {
            RTA_DST => route.destination = read_ip(a.data)?,
            RTA_GATEWAY => route.gateway = read_ip(a.data),
            RTA_VIA => route.gateway = a.data.get(2..).and_then(read_ip),
            RTA_OIF => route.oif = a.u32(),
            RTA_PREFSRC => route.source = read_ip(a.data),
            RTA_PRIORITY => route.metric = a.u32(),
            RTA_TABLE => route.table = a.u32(),
            _ => {}
        }
    }
    Some(route)
}
