//! The policy routes of a Vpc, checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::subnet::parse_cidr;
use crate::{ParseError, PolicyAction, PolicyRoute, Violations};

/// What a policy route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckedAction {
    /// Packets go to this next hop, of the family of source and destination.
    Reroute(IpAddr),
    /// Packets are dropped.
    Drop,
    /// Packets go where other routes say.
    Allow,
}

/// A policy route of one address family with every value parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedPolicyRoute {
    /// Source.
    pub from: IpNet,
    /// Destination, of the same family.
    pub to: IpNet,
    /// What is done.
    pub action: CheckedAction,
}

/// The most that a priority may be.
const HIGHEST: u32 = 32767;
/// The most policy routes that a Vpc may have; each is one or, where it names no address, one for each family.
pub const MOST_POLICY_ROUTES: usize = 1000;

fn any(like: IpAddr) -> IpNet {
    match like {
        IpAddr::V4(_) => IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0),
        IpAddr::V6(_) => IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0),
    }
}

/// Checks policy routes, and returns them in the order in which they are asked, one for each address family that they are for.
pub fn check_policy_routes(routes: &[PolicyRoute], v: &mut Violations) -> Vec<CheckedPolicyRoute> {
    let mut all = vec![];
    if routes.len() > MOST_POLICY_ROUTES {
        v.add(
            "spec.policyRoutes",
            format!("{} policy routes are too many: use up to {MOST_POLICY_ROUTES}", routes.len()),
        );
    }
    for (i, route) in routes.iter().enumerate() {
        let at = format!("spec.policyRoutes[{i}]");
        let priority = route.priority.unwrap_or(0);
        if priority > HIGHEST {
            v.add(format!("{at}.priority"), format!("priority {priority} is out of range: use 0 to {HIGHEST}"));
        }
        let mut cidr = |field: &str, text: &Option<String>| match text {
            Some(text) => v.take(&format!("{at}.{field}"), parse_cidr(text)).map(Some),
            None => Some(None),
        };
        let (from, to) = (cidr("from", &route.from), cidr("to", &route.to));
        let action = check_action(&at, route, v);
        let (Some(from), Some(to), Some(action)) = (from, to, action) else { continue };
        let hop = match action {
            CheckedAction::Reroute(hop) => Some(hop),
            _ => None,
        };
        let families = [from.map(|n| n.addr()), to.map(|n| n.addr()), hop];
        let mixed = families.iter().flatten().any(IpAddr::is_ipv4) && families.iter().flatten().any(IpAddr::is_ipv6);
        if mixed {
            v.add(&at, "from, to and nextHop mix IPv4 and IPv6: use one family");
            continue;
        }
        let both = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
        for like in families.into_iter().flatten().next().map_or(both.to_vec(), |one| vec![one]) {
            let route = CheckedPolicyRoute { from: from.unwrap_or(any(like)), to: to.unwrap_or(any(like)), action };
            all.push((priority, route));
        }
    }
    all.sort_by_key(|(priority, _)| std::cmp::Reverse(*priority));
    all.into_iter().map(|(_, route)| route).collect()
}

fn check_action(at: &str, route: &PolicyRoute, v: &mut Violations) -> Option<CheckedAction> {
    let at = format!("{at}.nextHop");
    match (route.action.unwrap_or_default(), &route.next_hop) {
        (PolicyAction::Reroute, Some(hop)) => {
            let parsed = hop
                .parse()
                .map_err(|_| ParseError(format!("next hop {hop:?} is not an address: use one such as 10.0.0.2")));
            v.take(&at, parsed).map(CheckedAction::Reroute)
        }
        (PolicyAction::Reroute, None) => {
            v.add(at, "Reroute needs a next hop: set nextHop, or action: Drop or Allow");
            None
        }
        (PolicyAction::Drop | PolicyAction::Allow, Some(hop)) => {
            v.add(at, format!("next hop {hop} is for Reroute alone: leave it out"));
            None
        }
        (PolicyAction::Drop, None) => Some(CheckedAction::Drop),
        (PolicyAction::Allow, None) => Some(CheckedAction::Allow),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(yaml: &[&str]) -> Result<Vec<CheckedPolicyRoute>, String> {
        let routes: Vec<PolicyRoute> = yaml.iter().map(|y| serde_json::from_str(y).unwrap()).collect();
        let mut v = Violations::default();
        let all = check_policy_routes(&routes, &mut v);
        v.into_result(all).map_err(|v| v.to_string())
    }

    #[test]
    fn the_highest_comes_first_and_each_has_a_family() {
        let all = checked(&[
            r#"{"to": "0.0.0.0/0", "nextHop": "10.0.0.2"}"#,
            r#"{"priority": 10, "action": "Drop"}"#,
            r#"{"priority": 10, "action": "Allow", "from": "fd00::/64"}"#,
        ])
        .unwrap();
        let text: Vec<String> = all.iter().map(|r| format!("{} {} {:?}", r.from, r.to, r.action)).collect();
        assert_eq!(
            text,
            [
                "0.0.0.0/0 0.0.0.0/0 Drop",
                "::/0 ::/0 Drop",
                "fd00::/64 ::/0 Allow",
                "0.0.0.0/0 0.0.0.0/0 Reroute(10.0.0.2)"
            ]
        );
    }

    #[test]
    fn what_cannot_be_is_said() {
        for (route, said) in [
            (
                r#"{"to": "10.0.0.0/8"}"#,
                "spec.policyRoutes[0].nextHop: Reroute needs a next hop: set nextHop, or action: Drop or Allow",
            ),
            (
                r#"{"action": "Drop", "nextHop": "10.0.0.2"}"#,
                "spec.policyRoutes[0].nextHop: next hop 10.0.0.2 is for Reroute alone: leave it out",
            ),
            (
                r#"{"from": "fd00::/64", "nextHop": "10.0.0.2"}"#,
                "spec.policyRoutes[0]: from, to and nextHop mix IPv4 and IPv6: use one family",
            ),
            (
                r#"{"priority": 32768, "action": "Allow"}"#,
                "spec.policyRoutes[0].priority: priority 32768 is out of range: use 0 to 32767",
            ),
            (
                r#"{"from": "10.0.0.1/24", "nextHop": "10.0.0.2"}"#,
                "spec.policyRoutes[0].from: CIDR \"10.0.0.1/24\" has host bits set: use 10.0.0.0/24",
            ),
        ] {
            assert_eq!(checked(&[route]).unwrap_err(), said);
        }
    }
}
