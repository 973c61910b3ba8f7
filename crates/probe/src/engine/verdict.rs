//! What a prober found, in the words of the resource.

use multihome_model::connectivity::{
    ANSWERS, DHCP_SILENT, GATEWAY_SILENT, IN_PLACE, LAYER2_UNREACHABLE, MTU_HOLE, NO_CARRIER,
};
use multihome_model::{Connectivity, FamilyConnectivity, FamilyRoute, ProbeResult};

use super::{Prober, Want};
use crate::peer::{Peer, Reach};
use crate::routed::Routed;

impl Prober {
    /// What is known now. Results have no time yet. With the cable out, that is told, what was learnt before, and whether the
    /// node's own network is routed to the gateway, which needs no cable.
    pub fn verdict(&self) -> Connectivity {
        let family = |f: FamilyConnectivity| (f != FamilyConnectivity::default()).then_some(f);
        let [routed4, routed6] = self.routed.each_ref().map(Routed::result);
        if !self.carrier {
            let text = format!("{} has no carrier: look at its cable and at the switch", self.subject.device);
            let layer2 = Some(ProbeResult::new(false, NO_CARRIER, text));
            let ipv4 = FamilyConnectivity { learnt: self.learnt4(), routed: routed4, ..FamilyConnectivity::default() };
            let ipv6 = FamilyConnectivity { learnt: self.learnt6(), routed: routed6, ..FamilyConnectivity::default() };
            let (ipv4, ipv6) = (family(ipv4), family(ipv6));
            return Connectivity { layer2, ipv4, ipv6, ..Connectivity::default() };
        }
        let ipv4 = FamilyConnectivity {
            dhcp: self.dhcp4(),
            gateway: self.answering(false),
            learnt: self.learnt4(),
            routed: routed4,
        };
        let ipv6 = FamilyConnectivity {
            dhcp: self.dhcp6(),
            gateway: self.gateway6(),
            learnt: self.learnt6(),
            routed: routed6,
        };
        Connectivity {
            probing: !self.is_settled(),
            layer2: Some(self.layer2()),
            path_mtu: self.path_mtu(),
            ipv4: family(ipv4),
            ipv6: family(ipv6),
        }
    }

    /// Whether everything by which the network is judged is known.
    fn is_settled(&self) -> bool {
        let known = |want: Want, is: bool| want != Want::Expect || is;
        self.peers.values().all(|p| p.reach() != Reach::Unknown)
            && known(self.subject.ipv4, self.servers.watch.answers().is_some())
            && known(self.subject.ipv6, self.routers.watch.answers().is_some())
            && [false, true].into_iter().filter_map(|v6| self.gateway(v6)).all(|(_, answers)| answers.is_some())
    }

    fn layer2(&self) -> ProbeResult {
        let names = |reach: fn(Reach) -> bool| {
            let names: Vec<&str> = self.peers.values().filter(|p| reach(p.reach())).map(|p| p.name.as_str()).collect();
            (names.len(), names.join(", "))
        };
        let (silent, who) = names(|r| r == Reach::Silent);
        let (answering, others) = names(|r| matches!(r, Reach::Whole | Reach::UpTo(_)));
        let at = "look at the VLAN of the switch's ports, at what is between them, and whether the agent runs there";
        match (silent, answering) {
            (0, 0) => ProbeResult::new(true, IN_PLACE, "in place"),
            (0, _) => ProbeResult::new(true, ANSWERS, format!("node {others} answers by {}", self.subject.device)),
            (_, 0) => {
                let text = format!("no other node answers by {}, not node {who}: {at}", self.subject.device);
                ProbeResult::new(false, LAYER2_UNREACHABLE, text)
            }
            _ => {
                let text =
                    format!("node {who} does not answer by {}, and node {others} does: {at}", self.subject.device);
                ProbeResult::new(false, LAYER2_UNREACHABLE, text)
            }
        }
    }

    fn path_mtu(&self) -> Option<ProbeResult> {
        let mtu = self.subject.mtu;
        let hole = |p: &Peer| match p.reach() {
            Reach::UpTo(Some(n)) => Some(format!(
                "packets of more than {n} bytes do not reach node {} and come back, and {mtu} are to: look at the MTU of every switch and tunnel between",
                p.name
            )),
            Reach::UpTo(None) => Some(format!(
                "packets of {mtu} bytes do not reach node {} and come back, and small ones do: look at the MTU of every switch and tunnel between",
                p.name
            )),
            _ => None,
        };
        let holes: Vec<String> = self.peers.values().filter_map(hole).collect();
        if !holes.is_empty() {
            return Some(ProbeResult::new(false, MTU_HOLE, holes.join("; ")));
        }
        let whole = self.peers.values().any(|p| p.reach() == Reach::Whole);
        whole.then(|| ProbeResult::new(true, ANSWERS, format!("packets of {mtu} bytes pass")))
    }

    fn dhcp4(&self) -> Option<ProbeResult> {
        match (self.subject.ipv4, self.servers.watch.answers()) {
            (Want::Nothing, _) | (_, None) | (Want::Listen, Some(false)) => None,
            (_, Some(true)) => Some(ProbeResult::new(true, ANSWERS, self.servers.sentence()?)),
            (Want::Expect, Some(false)) => {
                let text = "no DHCP server answers a DISCOVER; where there is to be none, say ipv4.dhcp: None";
                Some(ProbeResult::new(false, DHCP_SILENT, text))
            }
        }
    }

    fn dhcp6(&self) -> Option<ProbeResult> {
        match (self.subject.ipv6, self.servers6.answers(), self.server6) {
            (Want::Nothing, ..) => None,
            (_, Some(true), Some((server, true))) => {
                Some(ProbeResult::new(true, ANSWERS, format!("{server} answers a SOLICIT")))
            }
            (_, Some(true), Some((server, false))) if self.routers.managed() => {
                Some(ProbeResult::new(false, DHCP_SILENT, format!("{server} says that it has no addresses left")))
            }
            (_, Some(false), _) if self.routers.managed() => {
                let text = "the router says that addresses come from DHCPv6, and no server answers a SOLICIT";
                Some(ProbeResult::new(false, DHCP_SILENT, text))
            }
            _ => None,
        }
    }

    /// The IPv6 gateway; where there is to be one and none advertises itself, that.
    fn gateway6(&self) -> Option<ProbeResult> {
        let silent = self.subject.ipv6 == Want::Expect && self.routers.watch.answers() == Some(false);
        if self.gateway6.is_none() && self.routers.is_empty() && silent {
            let text = "no IPv6 router advertises itself; where there is to be none, say ipv6.dhcp: None";
            return Some(ProbeResult::new(false, GATEWAY_SILENT, text));
        }
        self.answering(true)
    }

    fn answering(&self, ipv6: bool) -> Option<ProbeResult> {
        let how = if ipv6 { "neighbour discovery" } else { "ARP" };
        let (address, answers) = self.gateway(ipv6)?;
        // A gateway may be told to answer no echo; that it is there is known all the same.
        let ping = if ipv6 { self.echo6.answers() } else { self.visit.answers() };
        let echo = match ping {
            Some(true) => " and ping",
            Some(false) => ", and no ping",
            None => "",
        };
        Some(if answers? {
            ProbeResult::new(true, ANSWERS, format!("{address} answers {how}{echo}"))
        } else {
            ProbeResult::new(false, GATEWAY_SILENT, format!("{address} does not answer {how}: look whether it is up"))
        })
    }

    fn learnt4(&self) -> Option<FamilyRoute> {
        let o = self.servers.offer()?;
        Some(FamilyRoute {
            cidr: o.subnet.map(|n| n.to_string()),
            gateway: o.routers.first().map(ToString::to_string),
            server: Some(o.server.to_string()),
            time: None,
        })
    }

    fn learnt6(&self) -> Option<FamilyRoute> {
        let subnet = self.routers.subnet();
        let gateway = self.routers.default();
        let server = gateway.or(subnet.map(|s| s.0))?;
        Some(FamilyRoute {
            cidr: subnet.map(|s| s.1.to_string()),
            gateway: gateway.map(|g| g.to_string()),
            server: Some(server.to_string()),
            time: None,
        })
    }
}
