//! What the nodes that carry a network found, summed up: one word with its sentences, and the routes in force.

use std::collections::BTreeMap;

use multihome_model::checked::CheckedNetwork;
use multihome_model::connectivity::{CONNECTED, NO_UPLINK, NOT_CARRIED, OK, PROBING, WORST_FIRST};
use multihome_model::{
    Condition, Connectivity, DhcpMode, Family, FamilyConnectivity, FamilyRoute, NetworkStatus, ProbeResult, RouteMode,
    RouteStatus,
};

/// How many sentences a summary holds. The rest is counted.
const MOST: usize = 6;

/// The condition `Connected` with the routes in force, as a network's status tells them.
pub fn sum_up(spec: &CheckedNetwork, nodes: &BTreeMap<String, Connectivity>) -> (Condition, RouteStatus) {
    let (mut connected, route) = (summary(spec, nodes), route(spec, nodes));
    if !route.message.is_empty() {
        connected.message += &format!("; {}", route.message);
    }
    (connected, route)
}

/// The condition `Connected`: the worst word that any node says, and all that is wrong, with the node that says it.
pub fn summary(spec: &CheckedNetwork, nodes: &BTreeMap<String, Connectivity>) -> Condition {
    let unknown = |reason: &str, text: &str| Condition {
        status: "Unknown".into(),
        ..Condition::new(CONNECTED, false, reason, text)
    };
    if nodes.is_empty() {
        return unknown(NOT_CARRIED, "no node carries it: no NIC of it is with a running VM");
    }
    // A network that reaches its own node alone is whole on one node, unless somebody else is to serve it.
    let alone_is_a_fault = nodes.len() > 1 || spec.dhcp.contains(&DhcpMode::Guard);
    let rank = |r: &ProbeResult| WORST_FIRST.iter().position(|w| *w == r.reason).unwrap_or(WORST_FIRST.len());
    let is_fault = |r: &ProbeResult| !r.ok || (alone_is_a_fault && r.reason == NO_UPLINK);
    let mut faults: Vec<(&String, &ProbeResult)> =
        nodes.iter().flat_map(|(n, c)| c.results().map(move |r| (n, r))).filter(|(_, r)| is_fault(r)).collect();
    faults.sort_by_key(|(_, r)| rank(r));
    if let Some((_, worst)) = faults.first() {
        let mut text: Vec<String> =
            faults.iter().take(MOST).map(|(node, r)| format!("on node {node}: {}", r.message)).collect();
        if faults.len() > MOST {
            text.push(format!("and {} more, see status.connectivity", faults.len() - MOST));
        }
        return Condition::new(CONNECTED, false, &worst.reason, text.join("; "));
    }
    if nodes.values().any(|c| c.probing) {
        return unknown(PROBING, "the nodes that carry it have not asked everything yet");
    }
    let names: Vec<&str> = nodes.keys().map(String::as_str).collect();
    let alone = nodes.values().any(|c| c.layer2.as_ref().is_some_and(|l| l.reason == NO_UPLINK));
    if alone {
        let text = format!("it reaches node {} alone: its fabric has no uplink there", names.join(", "));
        return Condition::new(CONNECTED, true, NO_UPLINK, text);
    }
    Condition::new(CONNECTED, true, OK, format!("nothing wrong on node {}", names.join(", ")))
}

/// CIDR and gateway in force: what is written down, or what the nodes learnt. Where they disagree, most of them are
/// believed, and who learnt what is told.
pub fn route(spec: &CheckedNetwork, nodes: &BTreeMap<String, Connectivity>) -> RouteStatus {
    let mut messages = vec![];
    let mut family = |of: Family| {
        let learnt: Vec<(&str, &FamilyRoute)> =
            nodes.iter().filter_map(|(node, c)| Some((node.as_str(), seen(c, of)?.learnt.as_ref()?))).collect();
        if let Some(subnet) = spec.subnet(of) {
            let written = FamilyRoute {
                cidr: Some(subnet.cidr.to_string()),
                gateway: subnet.gateway.map(|g| g.to_string()),
                ..FamilyRoute::default()
            };
            let others: Vec<String> = learnt
                .iter()
                .filter(|(_, l)| l.cidr.is_some() && l.cidr != written.cidr)
                .map(|(node, l)| format!("node {node} learnt {}", sentence(l)))
                .collect();
            if !others.is_empty() {
                messages.push(format!("{} is written down, and {}", subnet.cidr, others.join(", ")));
            }
            return Some(written);
        }
        if spec.route != RouteMode::Auto {
            return None;
        }
        let same = |a: &FamilyRoute, b: &FamilyRoute| (&a.cidr, &a.gateway) == (&b.cidr, &b.gateway);
        let votes = |l: &FamilyRoute| learnt.iter().filter(|(_, o)| same(o, l)).count();
        // The last of equals is what `max_by_key` takes: the first is meant, whose node comes first by name.
        let (_, chosen) = learnt.iter().rev().max_by_key(|(_, l)| votes(l))?;
        if votes(chosen) < learnt.len() {
            let who: Vec<String> = learnt.iter().map(|(n, l)| format!("node {n} learnt {}", sentence(l))).collect();
            messages.push(format!("nodes disagree: {}", who.join(", ")));
        }
        Some((*chosen).clone())
    };
    let (ipv4, ipv6) = (family(Family::IPv4), family(Family::IPv6));
    RouteStatus { mode: spec.route, ipv4, ipv6, message: messages.join("; ") }
}

/// Corrects what a plan takes a network to be by what the nodes learnt of it: a network whose DHCP server names no router
/// offers no gateway, whatever it was taken to have, so that another NIC can hold the default route.
pub fn heed(spec: &mut CheckedNetwork, status: Option<&NetworkStatus>) {
    let route = status.and_then(|s| s.route.as_ref()).filter(|r| r.mode == RouteMode::Auto);
    if let Some(learnt) = route.and_then(|r| r.ipv4.as_ref())
        && learnt.gateway.is_none()
    {
        spec.may_offer_gateway[0] = false;
    }
}

fn seen(c: &Connectivity, family: Family) -> Option<&FamilyConnectivity> {
    match family {
        Family::IPv4 => c.ipv4.as_ref(),
        Family::IPv6 => c.ipv6.as_ref(),
    }
}

fn sentence(l: &FamilyRoute) -> String {
    let or = |text: &Option<String>, none: &str| text.clone().unwrap_or_else(|| none.to_owned());
    format!("{} by {} from {}", or(&l.cidr, "no subnet"), or(&l.gateway, "no gateway"), or(&l.server, "nobody"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use multihome_model::checked::check_network;
    use multihome_model::connectivity::{ANSWERS, DHCP_SILENT, GATEWAY_SILENT, IN_PLACE, NOT_ROUTED};
    use multihome_model::{IpFamilySpec, NetworkSpec, NetworkType};

    fn untagged(cidr: Option<&str>) -> CheckedNetwork {
        let ipv4 = cidr.map(|c| IpFamilySpec { cidr: Some(c.into()), ..IpFamilySpec::default() });
        check_network("n", &NetworkSpec { r#type: NetworkType::Untagged, ipv4, ..NetworkSpec::default() }).unwrap()
    }

    fn node(layer2: &str, gateway: Option<&str>, learnt: Option<(&str, Option<&str>)>) -> Connectivity {
        let learnt = learnt.map(|(cidr, gateway)| FamilyRoute {
            cidr: Some(cidr.into()),
            gateway: gateway.map(str::to_owned),
            server: Some("10.0.0.2".into()),
            time: Some("t".into()),
        });
        let gateway = gateway.map(|word| ProbeResult::new(word == ANSWERS, word, format!("the gateway: {word}")));
        let dhcp = Some(ProbeResult::new(gateway.is_none(), DHCP_SILENT, "no server"));
        // That management is not routed to it changes nothing of what follows.
        let routed = Some(ProbeResult::new(false, NOT_ROUTED, "not routed"));
        Connectivity {
            probing: layer2 == PROBING,
            layer2: Some(ProbeResult::new(true, layer2, "in place")),
            path_mtu: None,
            ipv4: Some(FamilyConnectivity { gateway, dhcp, learnt, routed }),
            ipv6: None,
        }
    }

    fn nodes(list: &[(&str, Connectivity)]) -> BTreeMap<String, Connectivity> {
        list.iter().map(|(n, c)| ((*n).to_owned(), c.clone())).collect()
    }

    #[test]
    fn the_worst_word_comes_first_with_every_sentence() {
        let list = nodes(&[("a", node(IN_PLACE, None, None)), ("b", node(IN_PLACE, Some(GATEWAY_SILENT), None))]);
        let c = summary(&untagged(None), &list);
        assert_eq!((c.status.as_str(), c.reason.as_str()), ("False", GATEWAY_SILENT));
        assert_eq!(c.message, "on node b: the gateway: GatewaySilent; on node b: no server");
    }

    #[test]
    fn what_is_not_known_is_not_told_as_a_fault() {
        let of = |list: &[(&str, Connectivity)]| {
            let c = summary(&untagged(None), &nodes(list));
            (c.status, c.reason)
        };
        assert_eq!(of(&[]), ("Unknown".into(), NOT_CARRIED.into()));
        let (good, young) = (node(IN_PLACE, None, None), node(PROBING, None, None));
        assert_eq!(of(&[("a", good.clone())]), ("True".into(), OK.into()));
        assert_eq!(of(&[("a", good.clone()), ("b", young)]), ("Unknown".into(), PROBING.into()));
        let alone = node(NO_UPLINK, None, None);
        assert_eq!(of(&[("a", alone.clone())]), ("False".into(), NO_UPLINK.into()), "its DHCP server is elsewhere");
        let ours =
            IpFamilySpec { cidr: Some("10.0.0.0/24".into()), dhcp: Some(DhcpMode::Server), ..Default::default() };
        let none = IpFamilySpec { dhcp: Some(DhcpMode::None), ..Default::default() };
        let spec =
            NetworkSpec { r#type: NetworkType::Untagged, ipv4: Some(ours), ipv6: Some(none), ..Default::default() };
        let spec = check_network("n", &spec).unwrap();
        let c = summary(&spec, &nodes(&[("a", alone.clone())]));
        assert_eq!((c.status.as_str(), c.reason.as_str()), ("True", NO_UPLINK));
        assert_eq!(summary(&spec, &nodes(&[("a", alone), ("b", good)])).status, "False");
    }

    #[test]
    fn a_network_whose_server_names_no_router_offers_none() {
        let offers = |gateway: Option<&str>, mode: RouteMode| {
            let ipv4 = Some(FamilyRoute { gateway: gateway.map(str::to_owned), ..FamilyRoute::default() });
            let route = Some(RouteStatus { mode, ipv4, ipv6: None, message: String::new() });
            let mut spec = untagged(None);
            heed(&mut spec, Some(&NetworkStatus { route, ..NetworkStatus::default() }));
            spec.offers_gateway(Family::IPv4)
        };
        assert!(offers(Some("10.0.0.1"), RouteMode::Auto) && offers(None, RouteMode::None));
        assert!(!offers(None, RouteMode::Auto));
        let mut unknown = untagged(None);
        heed(&mut unknown, None);
        assert!(unknown.offers_gateway(Family::IPv4), "until something is learnt, it is taken to have one");
    }

    #[test]
    fn most_nodes_are_believed_and_the_others_named() {
        let right = || node(IN_PLACE, None, Some(("10.0.0.0/24", Some("10.0.0.1"))));
        let wrong = node(IN_PLACE, None, Some(("10.9.0.0/24", None)));
        let r = route(&untagged(None), &nodes(&[("a", wrong.clone()), ("b", right()), ("c", right())]));
        let four = r.ipv4.unwrap();
        assert_eq!((r.mode, four.gateway.as_deref()), (RouteMode::Auto, Some("10.0.0.1")));
        assert!(r.message.contains("node a learnt 10.9.0.0/24 by no gateway from 10.0.0.2"), "{}", r.message);
        let r = route(&untagged(None), &nodes(&[("a", wrong.clone()), ("b", right())]));
        assert_eq!(r.ipv4.unwrap().cidr.as_deref(), Some("10.9.0.0/24"), "the first by name, where as many say so");
        let r = route(&untagged(Some("10.0.0.0/24")), &nodes(&[("a", wrong)]));
        assert_eq!((r.mode, r.ipv4.unwrap().server), (RouteMode::Manual, None));
        assert!(r.message.starts_with("10.0.0.0/24 is written down, and node a learnt 10.9.0.0/24"), "{}", r.message);
        let unasked = CheckedNetwork { route: RouteMode::None, ..untagged(Some("10.0.0.0/24")) };
        assert!(route(&unasked, &nodes(&[])).ipv4.is_some(), "what is written down is in force, whoever is asked");
        let unasked = CheckedNetwork { route: RouteMode::None, ..untagged(None) };
        assert_eq!(route(&unasked, &nodes(&[("a", right())])).ipv4, None);
    }
}
