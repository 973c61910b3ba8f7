//! The IPv6 routers of a network, by what they advertise.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::Duration;

use ipnet::Ipv6Net;
use multihome_dhcp::client::ra::Advertised;

use crate::watch::{Pace, Time, Watch};

/// Routers that are remembered.
const MOST: usize = 8;

#[derive(Debug, Clone)]
pub(crate) struct Routers {
    pub(crate) watch: Watch,
    said: BTreeMap<Ipv6Addr, (Advertised, Time)>,
    chosen: Option<Ipv6Addr>,
}

impl Routers {
    pub(crate) fn new(pace: Pace, first: Time) -> Self {
        Self { watch: Watch::new(pace, first), said: BTreeMap::new(), chosen: None }
    }

    pub(crate) fn heard(&mut self, router: Ipv6Addr, said: Advertised, now: Time) {
        self.watch.heard(now);
        if self.said.len() < MOST || self.said.contains_key(&router) {
            self.said.insert(router, (said, now));
        }
        self.expire(now);
    }

    /// Forgets default routers whose time is over (RFC 4861 section 6.3.4).
    pub(crate) fn expire(&mut self, now: Time) {
        let lives = |(said, at): &(Advertised, Time)| {
            said.lifetime > 0 && now < *at + Duration::from_secs(said.lifetime.into())
        };
        let stays = self.chosen.filter(|c| self.said.get(c).is_some_and(lives));
        self.chosen = stays.or_else(|| self.said.iter().find(|(_, r)| lives(r)).map(|(a, _)| *a));
    }

    /// The default router that is believed: the first that was heard, for as long as it is one.
    pub(crate) fn default(&self) -> Option<Ipv6Addr> {
        self.chosen
    }

    /// Who said something of the subnet, and what that is: the default router, else any.
    pub(crate) fn subnet(&self) -> Option<(Ipv6Addr, Ipv6Net)> {
        let by = |a: &Ipv6Addr| Some((*a, *self.said.get(a)?.0.prefixes.first()?));
        self.chosen.as_ref().and_then(by).or_else(|| self.said.keys().find_map(by))
    }

    /// Whether one of them says that addresses come from DHCPv6.
    pub(crate) fn managed(&self) -> bool {
        self.said.values().any(|(s, _)| s.managed)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.said.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::SELDOM;

    #[test]
    fn a_router_is_one_for_as_long_as_it_says() {
        let said = |lifetime| Advertised { lifetime, managed: false, prefixes: vec!["fd00::/64".parse().unwrap()] };
        let (a, b): (Ipv6Addr, Ipv6Addr) = ("fe80::a".parse().unwrap(), "fe80::b".parse().unwrap());
        let mut r = Routers::new(SELDOM, Duration::ZERO);
        r.heard(b, said(100), Duration::ZERO);
        r.heard(a, said(1000), Duration::from_secs(1));
        assert_eq!(r.default(), Some(b), "the first that was heard");
        r.expire(Duration::from_secs(101));
        assert_eq!((r.default(), r.subnet().map(|s| s.0)), (Some(a), Some(a)));
        r.heard(a, said(0), Duration::from_secs(102));
        assert_eq!((r.default(), r.subnet().map(|s| s.0)), (None, Some(a)), "it takes itself back, and not its prefix");
    }
}
