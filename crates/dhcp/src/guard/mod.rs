//! The guard: answers of somebody else's DHCP server and advertisements of somebody else's router, made to say what the
//! route plan says before a guest hears them.
//!
//! [`v4`], [`v6`] and [`ra`] are pure: bytes in, bytes out; only [`server`] opens sockets. What cannot be read is dropped, with the reason.

pub mod ra;
pub mod server;
pub mod v4;
pub mod v6;

use multihome_model::{Family, MacAddr, Mtu};
use multihome_plan::route::{Method, NicPlan};

/// What the guard makes of answers to one NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// The NIC's MAC.
    pub mac: MacAddr,
    /// Whether it holds the IPv4 default route.
    pub default4: bool,
    /// Whether it holds the IPv6 default route.
    pub default6: bool,
    /// Whether it is told IPv4 name servers.
    pub dns4: bool,
    /// Whether it is told IPv6 name servers.
    pub dns6: bool,
    /// The network's MTU: the guest is told no more.
    pub mtu: Mtu,
    /// The longest lease that is handed on, in seconds, so that changes reach the guest.
    pub longest: u32,
}

impl Role {
    /// From a NIC's plan; `None` where nothing is guarded. `dns_on_secondary` is what the network says of name servers,
    /// for IPv4 and IPv6.
    pub fn new(plan: &NicPlan, dns_on_secondary: [bool; 2]) -> Option<Self> {
        let family = |f: Family| plan.family(f).filter(|p| p.method == Method::Guard);
        let (v4, v6) = (family(Family::IPv4), family(Family::IPv6));
        let longest = v4.or(v6)?.lease_seconds;
        let default4 = v4.is_some_and(|p| p.default_route);
        let default6 = v6.is_some_and(|p| p.default_route);
        Some(Self {
            mac: plan.mac,
            default4,
            default6,
            dns4: default4 || dns_on_secondary[0],
            dns6: default6 || dns_on_secondary[1],
            mtu: plan.mtu,
            longest,
        })
    }
}

/// How many answers were not handed on, and why the last was not.
pub type Dropping = (u64, Dropped);

/// Why an answer was not handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Dropped {
    /// It ends in the middle of something, or a length in it cannot be.
    #[error("it cannot be read: {0}")]
    Malformed(&'static str),
    /// It is something that servers do not send to clients.
    #[error("it is not a server's answer: {0}")]
    NotAnAnswer(&'static str),
    /// It comes in fragments. Servers keep to the client's largest message (RFC 2132 section 9.10), and hosts ignore
    /// router advertisements in fragments (RFC 6980).
    #[error("it comes in fragments")]
    Fragment,
    /// What must be said does not fit.
    #[error("it does not fit into the client's largest message or the network's MTU")]
    TooLarge,
}
