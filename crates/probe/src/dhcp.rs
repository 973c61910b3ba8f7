//! The DHCPv4 servers of a network, by what they offer.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use multihome_dhcp::client::v4::Offer;

use crate::watch::{Pace, Time, Watch};

/// Servers that are remembered.
const MOST: usize = 4;
/// How long a server is remembered that offers nothing any more: three rounds.
const REMEMBERED: Duration = Duration::from_secs(190);

#[derive(Debug, Clone)]
pub(crate) struct Servers {
    pub(crate) watch: Watch,
    offers: BTreeMap<Ipv4Addr, (Offer, Time)>,
    chosen: Option<Offer>,
}

impl Servers {
    pub(crate) fn new(pace: Pace, first: Time) -> Self {
        Self { watch: Watch::new(pace, first), offers: BTreeMap::new(), chosen: None }
    }

    pub(crate) fn heard(&mut self, offer: Offer, now: Time) {
        self.watch.heard(now);
        self.offers.retain(|_, (_, at)| now < *at + REMEMBERED);
        if self.offers.len() < MOST || self.offers.contains_key(&offer.server) {
            self.offers.insert(offer.server, (offer, now));
        }
        // The one that was believed before, as long as it is there; else the one with the lowest address.
        let before = self.chosen.as_ref().and_then(|c| self.offers.get(&c.server));
        self.chosen = before.or(self.offers.values().next()).map(|(o, _)| o.clone());
    }

    /// The offer that is believed. It is kept when its server falls silent.
    pub(crate) fn offer(&self) -> Option<&Offer> {
        self.chosen.as_ref()
    }

    /// What they offer, in one sentence.
    pub(crate) fn sentence(&self) -> Option<String> {
        let chosen = self.offer()?;
        let subnet = chosen.subnet.map_or("an address without a subnet mask".to_owned(), |n| n.to_string());
        let routers: Vec<String> = chosen.routers.iter().map(Ipv4Addr::to_string).collect();
        let router = if routers.is_empty() { "without a router".into() } else { format!("by {}", routers.join(", ")) };
        let others: Vec<String> =
            self.offers.keys().filter(|s| **s != chosen.server).map(Ipv4Addr::to_string).collect();
        let mut text = format!("{} offers {subnet} {router}", chosen.server);
        if !others.is_empty() {
            text += &format!("; so that there are {} servers: also {}", others.len() + 1, others.join(", "));
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::SELDOM;

    fn offer(server: u8, routers: &[u8]) -> Offer {
        Offer {
            transaction: 0,
            address: [10, 0, 0, 99].into(),
            server: [10, 0, 0, server].into(),
            subnet: "10.0.0.0/24".parse().ok(),
            routers: routers.iter().map(|r| [10, 0, 0, *r].into()).collect(),
        }
    }

    #[test]
    fn the_server_that_was_believed_is_believed_on() {
        let mut s = Servers::new(SELDOM, Duration::ZERO);
        s.heard(offer(7, &[1, 2]), Duration::ZERO);
        s.heard(offer(3, &[]), Duration::from_secs(60));
        assert_eq!(
            s.sentence().unwrap(),
            "10.0.0.7 offers 10.0.0.0/24 by 10.0.0.1, 10.0.0.2; so that there are 2 servers: also 10.0.0.3"
        );
        s.heard(offer(3, &[]), Duration::from_secs(240));
        assert_eq!(s.sentence().unwrap(), "10.0.0.3 offers 10.0.0.0/24 without a router");
    }
}
