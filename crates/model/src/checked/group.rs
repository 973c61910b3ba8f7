//! A SecurityGroup's spec, checked.

use ipnet::IpNet;

use super::subnet::parse_cidr;
use crate::{Direction, ParseError, RuleAction, SecurityGroupSpec, SecurityRule, Violations, names};

/// A SecurityGroup's spec with every value parsed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckedGroup {
    /// What may be opened towards its NICs.
    pub ingress: Vec<CheckedRule>,
    /// What its NICs may open.
    pub egress: Vec<CheckedRule>,
}

/// A rule with every value parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedRule {
    /// What becomes of what matches.
    pub action: RuleAction,
    /// IP protocol number; any, where nothing is said.
    pub protocol: Option<u8>,
    /// Ranges of ports at the side that is opened to, sorted, without overlaps.
    pub ports: Vec<(u16, u16)>,
    /// ICMP type, and code.
    pub icmp: Option<(u8, Option<u8>)>,
    /// Networks at the other end.
    pub nets: Vec<IpNet>,
    /// Groups at the other end, as they are named.
    pub groups: Vec<String>,
    /// The rule in words.
    pub text: String,
}

impl CheckedGroup {
    /// The rules of one direction.
    pub fn of(&self, direction: Direction) -> &[CheckedRule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

impl CheckedRule {
    /// Whether anyone may be at the other end.
    pub fn is_for_anyone(&self) -> bool {
        self.nets.is_empty() && self.groups.is_empty()
    }
}

/// Checks a SecurityGroup's name and spec.
pub fn check_group(name: &str, spec: &SecurityGroupSpec) -> Result<CheckedGroup, Violations> {
    let mut v = Violations::default();
    v.take("metadata.name", names::dns_label(name));
    let mut out = CheckedGroup::default();
    let directions = [
        (Direction::Ingress, "spec.ingress", &spec.ingress, &mut out.ingress),
        (Direction::Egress, "spec.egress", &spec.egress, &mut out.egress),
    ];
    for (direction, field, rules, checked) in directions {
        if rules.len() > SecurityGroupSpec::MOST_RULES {
            let most = SecurityGroupSpec::MOST_RULES;
            v.add(
                field,
                format!(
                    "{} rules are too many for one direction: use at most {most}, with several ports and peers each",
                    rules.len()
                ),
            );
        }
        for (i, rule) in rules.iter().enumerate() {
            checked.extend(check_rule(direction, &format!("{field}[{i}]"), rule, &mut v));
        }
    }
    v.into_result(out)
}

fn check_rule(direction: Direction, at: &str, rule: &SecurityRule, v: &mut Violations) -> Option<CheckedRule> {
    let protocol = v.take(&format!("{at}.protocol"), protocol(rule.protocol.as_deref()))?;
    let said = rule.protocol.as_deref().unwrap_or("Any");
    let mut ports = vec![];
    if !rule.ports.is_empty() && !matches!(protocol, Some(6 | 17 | 132)) {
        v.add(format!("{at}.ports"), format!("protocol {said} has no ports: use TCP, UDP or SCTP, or leave ports out"));
    }
    for (i, text) in rule.ports.iter().enumerate() {
        ports.extend(v.take(&format!("{at}.ports[{i}]"), port_range(text)));
    }
    let icmp = check_icmp(at, rule, protocol, v);
    let (mut nets, mut groups) = (vec![], vec![]);
    for (i, peer) in rule.peers.iter().enumerate() {
        let at = format!("{at}.peers[{i}]");
        match (&peer.cidr, &peer.group) {
            (Some(cidr), None) => nets.extend(v.take(&format!("{at}.cidr"), parse_cidr(cidr))),
            (None, Some(group)) => {
                let (ns, name) = names::split_ref(group, "default");
                v.take(&format!("{at}.group"), names::dns_label(ns).and(names::dns_label(name)));
                groups.push(group.clone());
            }
            (None, None) => v.add(at, "nobody is named: set cidr or group, or leave peers out, which means anyone"),
            (Some(_), Some(_)) => {
                v.add(at, "cidr and group are both set: name one of them, and the other as a peer of its own")
            }
        }
    }
    let text = in_words(direction, rule);
    Some(CheckedRule { action: rule.action, protocol, ports: merged(ports), icmp, nets, groups, text })
}

fn check_icmp(at: &str, rule: &SecurityRule, protocol: Option<u8>, v: &mut Violations) -> Option<(u8, Option<u8>)> {
    let said = rule.protocol.as_deref().unwrap_or("Any");
    let mut byte = |field: &str, n: Option<u32>| {
        let n = n?;
        let fits = u8::try_from(n).map_err(|_| ParseError(format!("{n} is out of range: use 0 to 255")));
        v.take(&format!("{at}.{field}"), fits)
    };
    let (kind, code) = (byte("icmpType", rule.icmp_type), byte("icmpCode", rule.icmp_code));
    if (rule.icmp_type.is_some() || rule.icmp_code.is_some()) && !matches!(protocol, Some(1 | 58)) {
        v.add(
            format!("{at}.icmpType"),
            format!("protocol {said} has no ICMP types: use ICMP or ICMPv6, or leave icmpType out"),
        );
    }
    if rule.icmp_type.is_none() && rule.icmp_code.is_some() {
        v.add(format!("{at}.icmpCode"), "a code belongs to a type: set icmpType, too");
    }
    kind.map(|k| (k, code))
}

fn protocol(text: Option<&str>) -> Result<Option<u8>, ParseError> {
    let text = text.unwrap_or("Any");
    Ok(Some(match text.to_ascii_lowercase().as_str() {
        "any" => return Ok(None),
        "tcp" => 6,
        "udp" => 17,
        "sctp" => 132,
        "icmp" => 1,
        "icmpv6" => 58,
        number => number.parse().map_err(|_| {
            ParseError(format!(
                "protocol {text:?} is not known: use Any, TCP, UDP, SCTP, ICMP, ICMPv6, or a number from 0 to 255"
            ))
        })?,
    }))
}

fn port_range(text: &str) -> Result<(u16, u16), ParseError> {
    let wrong = || {
        ParseError(format!("port {text:?} is no port and no range of them: use \"22\" or \"8000-8100\", 0 to 65535"))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |t: &str| t.trim().parse::<u16>().map_err(|_| wrong());
    match (port(first)?, port(last)?) {
        (a, b) if a <= b => Ok((a, b)),
        (a, b) => Err(ParseError(format!("range {a}-{b} ends before it starts: swap its ends"))),
    }
}

/// Ranges without overlaps, in order.
fn merged(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut out: Vec<(u16, u16)> = vec![];
    for (first, last) in ranges {
        match out.last_mut() {
            Some(before) if u32::from(first) <= u32::from(before.1) + 1 => before.1 = before.1.max(last),
            _ => out.push((first, last)),
        }
    }
    out
}

/// A rule as it is shown: `Allow TCP 22, 80-90 from 10.0.0.0/8, group web`.
fn in_words(direction: Direction, rule: &SecurityRule) -> String {
    let action = match rule.action {
        RuleAction::Allow => "Allow",
        RuleAction::Deny => "Deny",
    };
    let mut text = format!("{action} {}", rule.protocol.as_deref().unwrap_or("Any"));
    if !rule.ports.is_empty() {
        text += &format!(" {}", rule.ports.join(", "));
    }
    if let Some(kind) = rule.icmp_type {
        text += &format!(" type {kind}");
    }
    if let Some(code) = rule.icmp_code {
        text += &format!(" code {code}");
    }
    let group = |g: &String| format!("group {g}");
    let peers = rule.peers.iter().filter_map(|p| p.cidr.clone().or_else(|| p.group.as_ref().map(group)));
    let peers: Vec<String> = peers.collect();
    text += if direction == Direction::Ingress { " from " } else { " to " };
    text += &if peers.is_empty() { "anyone".to_owned() } else { peers.join(", ") };
    text
}

impl SecurityGroupSpec {
    /// How many rules a group may have for one direction.
    pub const MOST_RULES: usize = 100;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(text: &str) -> Result<CheckedGroup, String> {
        check_group("web", &serde_json::from_str(text).unwrap()).map_err(|v| v.to_string())
    }

    #[test]
    fn what_is_wrong_is_said_with_its_value() {
        let wrong = [
            (r#"{"protocol": "HTTP"}"#, "protocol \"HTTP\" is not known: use Any, TCP, UDP"),
            (r#"{"ports": ["22"]}"#, "protocol Any has no ports: use TCP, UDP or SCTP"),
            (r#"{"protocol": "tcp", "ports": ["70000"]}"#, "port \"70000\" is no port"),
            (r#"{"protocol": "tcp", "ports": ["90-80"]}"#, "range 90-80 ends before it starts"),
            (r#"{"protocol": "udp", "icmpType": 8}"#, "protocol udp has no ICMP types"),
            (r#"{"protocol": "icmp", "icmpCode": 1}"#, "a code belongs to a type"),
            (r#"{"protocol": "icmp", "icmpType": 256}"#, "256 is out of range: use 0 to 255"),
            (r#"{"peers": [{}]}"#, "nobody is named: set cidr or group"),
            (r#"{"peers": [{"cidr": "10.0.0.0/8", "group": "g"}]}"#, "cidr and group are both set"),
            (r#"{"peers": [{"cidr": "10.0.0.1/8"}]}"#, "has host bits set: use 10.0.0.0/8"),
            (r#"{"peers": [{"group": "a/b/c"}]}"#, "b/c"),
        ];
        for (rule, said) in wrong {
            for direction in ["ingress", "egress"] {
                let text = group(&format!(r#"{{"{direction}": [{rule}]}}"#)).unwrap_err();
                assert!(text.contains(said) && text.contains(&format!("spec.{direction}[0]")), "{text}");
            }
        }
    }

    #[test]
    fn what_is_right_is_parsed_and_said_in_words() {
        let rule = r#"{"action": "Deny", "protocol": "TCP", "ports": ["8000-8100", "22", "8050-9000", "23"],
                       "peers": [{"cidr": "fd00::/8"}, {"group": "other/db"}]}"#;
        let checked = group(&format!(r#"{{"ingress": [{rule}], "egress": [{{}}]}}"#)).unwrap();
        let rule = &checked.ingress[0];
        assert_eq!((rule.protocol, &rule.ports[..]), (Some(6), &[(22, 23), (8000, 9000)][..]));
        assert_eq!(rule.text, "Deny TCP 8000-8100, 22, 8050-9000, 23 from fd00::/8, group other/db");
        assert_eq!(checked.egress[0].text, "Allow Any to anyone");
        assert!(checked.egress[0].is_for_anyone() && !rule.is_for_anyone());
        assert_eq!(group(r#"{"egress": [{"protocol": "47"}]}"#).unwrap().egress[0].protocol, Some(47));
    }
}
