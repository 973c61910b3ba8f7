//! What may be opened by and towards a NIC: rules in the order in which they are asked, as engines compile them, and an
//! interpreter that says what they mean.
//!
//! Only the first packet of a conversation is judged here; what belongs to one that was allowed passes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use multihome_model::{Direction, RuleAction, names};
use serde::{Deserialize, Serialize};

/// Addresses of the members of groups, by the name that rules know them by.
pub type Members = BTreeMap<String, BTreeSet<IpAddr>>;

/// The protocol number of ICMP (RFC 792).
pub const ICMP: u8 = 1;
/// The protocol number of ICMPv6 (RFC 4443).
pub const ICMP6: u8 = 58;

/// The rules of a NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// What may be opened towards the NIC.
    #[serde(rename = "i")]
    pub ingress: Rules,
    /// What the NIC may open.
    #[serde(rename = "e")]
    pub egress: Rules,
}

/// The rules of one direction: the first that matches decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// The rules, in order.
    #[serde(rename = "r")]
    pub rules: Vec<Rule>,
    /// What becomes of a packet that none matches.
    #[serde(rename = "o")]
    pub otherwise: RuleAction,
}

/// A rule. It matches where everything that it says is true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its name: stays the same for as long as the rule says the same, so that it keeps its counter.
    pub id: String,
    /// What becomes of what matches.
    #[serde(rename = "a")]
    pub action: RuleAction,
    /// IP protocol number; any, where nothing is said.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// Ports at the side that is opened to, both ends included; any, where there is none. Protocols with ports only.
    #[serde(rename = "d", default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<(u16, u16)>,
    /// ICMP type, and code. Of protocols 1 and 58 only.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<(u8, Option<u8>)>,
    /// Who is at the other end; anyone, where nothing is said.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<Peers>,
}

/// Who is at the other end: any of these.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peers {
    /// Networks.
    #[serde(rename = "n", default, skip_serializing_if = "BTreeSet::is_empty")]
    pub nets: BTreeSet<IpNet>,
    /// Members of groups, by the groups' names among [`Members`].
    #[serde(rename = "g", default, skip_serializing_if = "BTreeSet::is_empty")]
    pub groups: BTreeSet<String>,
}

/// What a rule sees of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// The address at the other end.
    pub remote: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// The port that it is opened to, where the protocol has ports.
    pub port: Option<u16>,
    /// ICMP type and code, where it is one.
    pub icmp: Option<(u8, u8)>,
}

impl Policy {
    /// The rules of one direction.
    pub fn of(&self, direction: Direction) -> &Rules {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// The groups that rules name.
    pub fn groups(&self) -> BTreeSet<&String> {
        let rules = self.ingress.rules.iter().chain(&self.egress.rules);
        rules.filter_map(|r| r.peers.as_ref()).flat_map(|p| &p.groups).collect()
    }

    /// Whether nothing is ever refused: then there is nothing to enforce.
    pub fn is_open(&self) -> bool {
        let open =
            |r: &Rules| r.otherwise == RuleAction::Allow && r.rules.iter().all(|r| r.action == RuleAction::Allow);
        open(&self.ingress) && open(&self.egress)
    }
}

impl Rules {
    /// Whether a packet may open a conversation.
    pub fn allows(&self, packet: &Packet, members: &Members) -> bool {
        let rule = self.rules.iter().find(|r| r.matches(packet, members));
        rule.map_or(self.otherwise, |r| r.action) == RuleAction::Allow
    }
}

impl Rule {
    /// Whether everything that the rule says is true of a packet.
    pub fn matches(&self, packet: &Packet, members: &Members) -> bool {
        let in_range = |port: u16| self.ports.iter().any(|(first, last)| (*first..=*last).contains(&port));
        let at_end = |p: &Peers| {
            p.nets.iter().any(|n| n.contains(&packet.remote))
                || p.groups.iter().any(|g| members.get(g).is_some_and(|m| m.contains(&packet.remote)))
        };
        self.protocol.is_none_or(|p| p == packet.protocol)
            && (self.ports.is_empty() || packet.port.is_some_and(in_range))
            && self.icmp.is_none_or(|(t, c)| packet.icmp.is_some_and(|(pt, pc)| t == pt && c.is_none_or(|c| c == pc)))
            && self.peers.as_ref().is_none_or(at_end)
    }
}

/// Whether a protocol has ports where TCP has them: TCP, UDP, DCCP, SCTP, UDP-Lite.
pub fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 33 | 132 | 136)
}

/// The name of a group's members as they are met from one place: a network by itself, or a routing domain. At most 15 bytes.
pub fn members_name(group_uid: &str, place_uid: &str) -> String {
    format!("g{}", names::short_hash(&format!("{group_uid} from {place_uid}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(action: RuleAction, protocol: u8, ports: &[(u16, u16)], nets: &[&str], groups: &[&str]) -> Rule {
        let peers = (!nets.is_empty() || !groups.is_empty()).then(|| Peers {
            nets: nets.iter().map(|n| n.parse().unwrap()).collect(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        });
        Rule { id: "r".into(), action, protocol: Some(protocol), ports: ports.to_vec(), icmp: None, peers }
    }

    #[test]
    fn the_first_that_matches_decides() {
        use RuleAction::{Allow, Deny};
        let members = Members::from([("g".to_owned(), BTreeSet::from(["10.0.0.9".parse().unwrap()]))]);
        let rules = Rules {
            rules: vec![
                rule(Deny, 6, &[(22, 22)], &["10.0.0.0/8"], &[]),
                rule(Allow, 6, &[(20, 30), (80, 80)], &[], &[]),
                rule(Allow, 17, &[], &[], &["g"]),
            ],
            otherwise: Deny,
        };
        let allowed = |remote: &str, protocol, port| {
            let packet = Packet { remote: remote.parse().unwrap(), protocol, port: Some(port), icmp: None };
            rules.allows(&packet, &members)
        };
        assert!(!allowed("10.0.0.9", 6, 22) && allowed("11.0.0.9", 6, 22));
        assert!(allowed("10.0.0.9", 6, 23) && allowed("fd00::1", 6, 80) && !allowed("fd00::1", 6, 81));
        assert!(allowed("10.0.0.9", 17, 53) && !allowed("10.0.0.8", 17, 53) && !allowed("10.0.0.9", 132, 53));
    }

    #[test]
    fn a_name_of_members_is_a_device_name() {
        assert!(members_name("a", "b").len() <= 15);
        assert_ne!(members_name("a", "b"), members_name("a", "c"));
    }
}
