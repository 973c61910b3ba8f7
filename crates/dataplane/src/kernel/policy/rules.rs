//! The rules of one NIC as text for `nft`.
//!
//! Names begin with the NIC's device. `o` is what the NIC opened, `i` what was opened towards it; `out` is a packet from the NIC,
//! `in` one towards it. A conversation is known by the NIC's address, the other one, the protocol and both ports, in this order
//! whichever way a packet goes.

use std::fmt::Write;

use ipnet::IpNet;
use multihome_model::{Direction, IfName, RuleAction};
use multihome_plan::policy::{ICMP, ICMP6, Peers, Policy, Rule, Rules};

use super::TABLE;

/// How many conversations of one kind (which way, which address family) are remembered of one NIC.
const MOST: u32 = 65_536;
/// How long a TCP connection is remembered that has not been answered, or not in full.
const HANDSHAKE: u32 = 60;
/// How long an idle TCP connection is remembered (RFC 5382 REQ-5: at least 2 h 4 min).
const ESTABLISHED: u32 = 7440;
/// How long a TCP connection is remembered of which one side said that it ends, as Linux does (tcp_fin_timeout and TIME-WAIT).
const CLOSING: u32 = 120;
/// How long what was sent by UDP and its like waits for an answer.
const ASKED: u32 = 60;
/// How long a conversation by UDP and its like is remembered (RFC 4787 REQ-5: at least 2 min).
const ANSWERED: u32 = 180;

/// Protocols with ports other than TCP: UDP, DCCP, SCTP, UDP-Lite.
const PORTED: &str = "17, 33, 132, 136";

/// The rules that are there once, for all NICs.
///
/// Policies speak of conversations between addresses. What makes addresses work is not their business: ARP, neighbour discovery,
/// router advertisements, multicast listeners, and the client side of DHCP, by broadcast as far as the client is concerned, so
/// that nobody speaks to others by those ports. Of a fragmented packet the first fragment alone says what it is; the others
/// are nothing without it, and one that would overwrite the flags of TCP in the first is dropped (RFC 3128).
pub(super) const BASE: &str = r#"
table bridge multihome-policies {
    map from_nic { type ifname . ether_type : verdict; }
    map to_nic { type ifname . ether_type : verdict; }
    set facts1 { type ifname . mark . ipv6_addr . ipv6_addr; }
    set members { type ifname; }
    set fresh { type ifname; flags timeout; timeout 5m; }

    chain fragment {
        ip protocol tcp ip frag-off & 0x1fff == 1 drop
        accept
    }
    chain always {
        ip frag-off & 0x1fff != 0 goto fragment
        ether type ip6 frag frag-off != 0 accept
        ip6 hoplimit 255 icmpv6 type { 133, 134, 135, 136, 137 } accept
        ip6 hoplimit 1 icmpv6 type { 130, 131, 132, 143 } accept
    }
    chain always_out {
        jump always
        ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept
        ip6 daddr ff02::1:2 udp sport 546 udp dport 547 accept
    }
    chain always_in {
        jump always
        ether type ip udp sport 67 udp dport 68 accept
        ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept
    }
    chain prerouting {
        type filter hook prerouting priority -290; policy accept;
        iifname . ether type vmap @from_nic
    }
    chain forward {
        type filter hook forward priority -290; policy accept;
        oifname . ether type vmap @to_nic
    }
}
"#;

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Out,
    In,
}

impl Way {
    pub(super) const ALL: [Self; 2] = [Self::Out, Self::In];

    pub(super) fn name(self) -> &'static str {
        if self == Self::Out { "out" } else { "in" }
    }

    /// What a packet of this way opens.
    pub(super) fn opens(self) -> char {
        if self == Self::Out { 'o' } else { 'i' }
    }

    /// What a packet of the other way opens.
    pub(super) fn answers(self) -> char {
        if self == Self::Out { 'i' } else { 'o' }
    }

    /// The other end's address in a packet of this way.
    fn remote(self) -> &'static str {
        if self == Self::Out { "daddr" } else { "saddr" }
    }
}

/// An address family, by the number that names end with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ip {
    V4,
    V6,
}

impl Ip {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(super) fn digit(self) -> char {
        if self == Self::V4 { '4' } else { '6' }
    }

    fn word(self) -> &'static str {
        if self == Self::V4 { "ip" } else { "ip6" }
    }

    fn icmp(self) -> u8 {
        if self == Self::V4 { ICMP } else { ICMP6 }
    }

    /// Bytes of an address.
    pub(super) fn length(self) -> u32 {
        if self == Self::V4 { 4 } else { 16 }
    }

    /// Bytes before the source address in the header.
    pub(super) fn source(self) -> u32 {
        if self == Self::V4 { 12 } else { 8 }
    }
}

/// The key of a packet's conversation.
fn key(way: Way, ip: Ip) -> String {
    let ip = ip.word();
    match way {
        Way::Out => format!("{ip} saddr . {ip} daddr . meta l4proto . th sport . th dport"),
        Way::In => format!("{ip} daddr . {ip} saddr . meta l4proto . th dport . th sport"),
    }
}

/// The sets of a NIC's conversations, with the way in which they were opened.
pub(super) fn flow_sets(nic: &IfName) -> Vec<(String, Direction)> {
    let ways =
        [("o", Direction::Egress), ("co", Direction::Egress), ("i", Direction::Ingress), ("ci", Direction::Ingress)];
    let both = |(kind, direction)| ["4", "6"].map(|digit| (format!("{nic}-{kind}{digit}"), direction));
    ways.into_iter().flat_map(both).collect()
}

/// The chains of a NIC.
fn chains(nic: &IfName) -> Vec<String> {
    let mut all: Vec<String> =
        ["keep-o", "keep-i", "stray-out", "stray-in", "new-o", "new-i", "says-o", "says-i"].map(str::to_owned).into();
    for way in Way::ALL {
        let w = way.name();
        for set in ['o', 'i'] {
            all.extend([format!("pick-{w}-{set}"), format!("picked-{w}-{set}")]);
        }
        for ip in Ip::ALL.map(Ip::digit) {
            let kinds = ["", "tcp-", "udp-", "icmp-", "echo-", "quoted-", "other-", "asks-", "begins-"];
            all.extend(kinds.map(|kind| format!("{kind}{w}{ip}")));
        }
    }
    all.into_iter().map(|name| format!("{nic}-{name}")).collect()
}

/// The chains that hold what the NIC's rules say, and nothing else.
fn ruled(nic: &IfName) -> Vec<String> {
    let all = ["says-o", "says-i", "pick-out-o", "pick-out-i", "pick-in-o", "pick-in-i"];
    all.map(|name| format!("{nic}-{name}")).into()
}

/// The chain that frames of a NIC begin with: its name, the EtherType, and whether it is for frames from the NIC.
pub(super) fn entries(nic: &IfName) -> Vec<(&'static str, u16, String)> {
    let entry = |way: Way, ip: Ip| {
        let map = if way == Way::Out { "from_nic" } else { "to_nic" };
        let kind = if ip == Ip::V4 { 0x0800 } else { 0x86dd };
        (map, kind, format!("{nic}-{}{}", way.name(), ip.digit()))
    };
    Way::ALL.into_iter().flat_map(|way| Ip::ALL.map(|ip| entry(way, ip))).collect()
}

/// What counts the packets that a rule decided about.
fn counter(nic: &IfName, id: &str) -> String {
    format!("{nic}-{id}")
}

/// The counter of what no rule decided about.
pub(super) fn otherwise(direction: Direction) -> &'static str {
    if direction == Direction::Egress { "else-o" } else { "else-i" }
}

/// The counter of TCP packets that belong to nothing that is known.
pub(super) const STRAY: &str = "stray";
/// The counter of packets that were allowed and could not be remembered.
pub(super) const CROWDED: &str = "crowded";

/// The counters of a NIC with these rules.
pub(super) fn counters(nic: &IfName, policy: &Policy) -> Vec<String> {
    let rules = policy.ingress.rules.iter().chain(&policy.egress.rules).map(|r| r.id.as_str());
    let fixed = [STRAY, CROWDED, otherwise(Direction::Egress), otherwise(Direction::Ingress)];
    fixed.into_iter().chain(rules).map(|id| counter(nic, id)).collect()
}

/// A text being written: declarations first, because chains name each other. Commands of one line each, because the program reads
/// less of what is there for them than for a table.
#[derive(Default)]
struct Text {
    declared: String,
    emptied: String,
    filled: String,
}

impl Text {
    fn chain(&mut self, name: &str, rules: &[String]) {
        let _ = writeln!(self.declared, "add chain bridge {TABLE} {name}");
        let _ = writeln!(self.emptied, "flush chain bridge {TABLE} {name}");
        for rule in rules {
            let _ = writeln!(self.filled, "add rule bridge {TABLE} {name} {rule}");
        }
    }

    fn finish(self, after: &str) -> String {
        let Self { declared, emptied, filled } = self;
        format!("{declared}{emptied}{filled}{after}")
    }
}

/// The text that makes these the rules of a NIC, in one transaction. `whole` writes what knows conversations, too; without it,
/// that goes on as it is. `stale` are counters that nothing counts with any more.
pub(super) fn install(nic: &IfName, policy: &Policy, whole: bool, stale: &[String]) -> String {
    let mut text = Text::default();
    for group in policy.groups() {
        text.declared += &group_sets(group);
    }
    for name in counters(nic, policy) {
        let _ = writeln!(text.declared, "add counter bridge {TABLE} {name}");
    }
    if whole {
        for (set, _) in flow_sets(nic) {
            let address = if set.ends_with('4') { "ipv4_addr" } else { "ipv6_addr" };
            let _ = writeln!(
                text.declared,
                "add set bridge {TABLE} {set} {{ type {address} . {address} . inet_proto . inet_service . inet_service; size {MOST}; flags dynamic,timeout; gc-interval 10s; }}"
            );
        }
        for name in chains(nic).iter().filter(|c| !ruled(nic).contains(c)) {
            text.chain(name, &[]);
        }
        fixed(nic, &mut text);
    }
    for way in Way::ALL {
        let direction = if way == Way::Out { Direction::Egress } else { Direction::Ingress };
        text.chain(
            &format!("{nic}-says-{}", way.opens()),
            &judged(nic, way, policy.of(direction), otherwise(direction)),
        );
    }
    for way in Way::ALL {
        let w = way.name();
        for (set, direction) in [('o', Direction::Egress), ('i', Direction::Ingress)] {
            text.chain(&format!("{nic}-pick-{w}-{set}"), &picked(nic, way, set, policy.of(direction)));
        }
    }
    let gone: String = stale.iter().map(|name| format!("delete counter bridge {TABLE} {name}\n")).collect();
    text.finish(&gone)
}

/// The text that makes the sets of a group.
pub(super) fn group_sets(group: &str) -> String {
    format!(
        "add set bridge {TABLE} {group}-4 {{ type ipv4_addr; }}\nadd set bridge {TABLE} {group}-6 {{ type ipv6_addr; }}\n"
    )
}

/// The text that removes everything of a NIC but its elements.
pub(super) fn remove(nic: &IfName, counters: &[String]) -> String {
    let chains = chains(nic);
    let mut text = String::new();
    chains.iter().for_each(|c| text += &format!("add chain bridge {TABLE} {c}\n"));
    chains.iter().for_each(|c| text += &format!("flush chain bridge {TABLE} {c}\n"));
    chains.iter().for_each(|c| text += &format!("delete chain bridge {TABLE} {c}\n"));
    counters.iter().for_each(|c| text += &format!("delete counter bridge {TABLE} {c}\n"));
    text
}

/// What knows conversations, remembers them, and asks the rules about everything else. What a chain does not know returns.
fn fixed(nic: &IfName, text: &mut Text) {
    for way in Way::ALL {
        let (w, a, b) = (way.name(), way.opens(), way.answers());
        for ip in Ip::ALL {
            let n = ip.digit();
            let known = |kind: &str, set: char, then: &str| {
                let key = key(way, ip);
                format!("{kind}{key} @{nic}-{set}{n} {}", then.replace("KEY", &key))
            };
            let refresh =
                |set: &str, seconds: u32| format!("update @{nic}-{set}{n} {{ KEY timeout {seconds}s }} accept");
            let icmp = ip.icmp();
            text.chain(
                &format!("{nic}-{w}{n}"),
                &[
                    // First what most packets are.
                    format!("meta l4proto 6 jump {nic}-tcp-{w}{n}"),
                    format!("meta l4proto {{ {PORTED} }} jump {nic}-udp-{w}{n}"),
                    format!("meta l4proto {icmp} jump {nic}-icmp-{w}{n}"),
                    format!("jump {nic}-other-{w}{n}"),
                    format!("goto {nic}-new-{a}"),
                ],
            );
            let [ours, theirs] = [a, b].map(|set| known("", set, &refresh(&set.to_string(), ANSWERED)));
            text.chain(&format!("{nic}-udp-{w}{n}"), &[ours, theirs]);
            text.chain(&format!("{nic}-tcp-{w}{n}"), &tcp(nic, way, ip));
            let (word, reply, errors) =
                if ip == Ip::V4 { ("icmp", 0, "3, 11, 12") } else { ("icmpv6", 129, "1, 2, 3, 4") };
            text.chain(
                &format!("{nic}-icmp-{w}{n}"),
                &[
                    format!("{word} type {reply} jump {nic}-echo-{w}{n}"),
                    format!("{word} type {{ {errors} }} jump {nic}-quoted-{w}{n}"),
                ],
            );
        }
        let new = [format!("jump always_{w}"), format!("jump {nic}-says-{a}"), format!("goto {nic}-keep-{a}")];
        text.chain(&format!("{nic}-new-{a}"), &new);
        text.chain(&format!("{nic}-keep-{a}"), &kept(nic, way));
        let mut stray = vec![format!("jump always_{w}"), format!("iifname @fresh jump {nic}-pick-{w}-{a}")];
        stray.push(format!("iifname @fresh jump {nic}-pick-{w}-{b}"));
        if way == Way::In {
            stray = stray.into_iter().map(|r| r.replace("iifname", "oifname")).collect();
        }
        stray.push(format!("counter name \"{}\" drop", counter(nic, STRAY)));
        text.chain(&format!("{nic}-stray-{w}"), &stray);
        for set in ['o', 'i'] {
            let remember = Ip::ALL.map(|ip| {
                let (n, key) = (ip.digit(), key(way, ip));
                format!("update @{nic}-{set}{n} {{ {key} timeout {ESTABLISHED}s }} accept")
            });
            text.chain(&format!("{nic}-picked-{w}-{set}"), &remember);
        }
    }
}

/// A connection is opened by a segment with SYN and without ACK, which the rules judge each time; every other belongs to one
/// that is known, or is astray.
fn tcp(nic: &IfName, way: Way, ip: Ip) -> Vec<String> {
    let (w, a, b, n) = (way.name(), way.opens(), way.answers(), ip.digit());
    let key = key(way, ip);
    let refresh = |set: &str, seconds: u32| format!("update @{nic}-{set}{n} {{ {key} timeout {seconds}s }} accept");
    let known = |flags: &str, set: &str, then: &str| format!("{flags}{key} @{nic}-{set}{n} {then}");
    let (going, answer, end) =
        ("tcp flags & (syn | fin | rst) == 0 ", "tcp flags & syn == syn ", "tcp flags & (fin | rst) != 0 ");
    let leave = |set: char| {
        format!("add @{nic}-c{set}{n} {{ {key} timeout {CLOSING}s }} delete @{nic}-{set}{n} {{ {key} }} accept")
    };
    let (sa, sb) = (a.to_string(), b.to_string());
    let (ca, cb) = (format!("c{a}"), format!("c{b}"));
    vec![
        known(going, &sa, &refresh(&sa, ESTABLISHED)),
        known(going, &sb, &refresh(&sb, ESTABLISHED)),
        "tcp flags & (syn | ack) == syn return".to_owned(),
        known(answer, &sb, &refresh(&sb, HANDSHAKE)),
        known(end, &sa, &leave(a)),
        known(end, &sb, &leave(b)),
        known("", &ca, &refresh(&ca, CLOSING)),
        known("", &cb, &refresh(&cb, CLOSING)),
        // No room among those that end.
        known("", &sa, "accept"),
        known("", &sb, "accept"),
        format!("goto {nic}-stray-{w}"),
    ]
}

/// Remembers what a packet that was allowed opens, and lets it pass.
fn kept(nic: &IfName, way: Way) -> Vec<String> {
    let (w, a) = (way.name(), way.opens());
    let mut out = vec![];
    for ip in Ip::ALL {
        let (n, word, icmp, key) = (ip.digit(), ip.word(), ip.icmp(), key(way, ip));
        let (icmp_word, request) = if ip == Ip::V4 { ("icmp", 8) } else { ("icmpv6", 128) };
        out.extend([
            format!("meta l4proto 6 update @{nic}-{a}{n} {{ {key} timeout {HANDSHAKE}s }} accept"),
            format!("meta l4proto {{ {PORTED} }} update @{nic}-{a}{n} {{ {key} timeout {ASKED}s }} accept"),
            format!("{icmp_word} type {request} jump {nic}-asks-{w}{n}"),
            // Nothing belongs to any other message of this kind.
            format!("ether type {word} meta l4proto {icmp} {icmp_word} type != {request} accept"),
            format!("ether type {word} meta l4proto != {{ 6, {icmp}, {PORTED} }} jump {nic}-begins-{w}{n}"),
        ]);
    }
    out.push(format!("counter name \"{}\" drop", counter(nic, CROWDED)));
    out
}

/// The rules, with the verdict on what none matches. What is allowed returns. No rule leads to another chain, because the kernel
/// follows every way through all chains when one changes.
fn judged(nic: &IfName, way: Way, rules: &Rules, otherwise: &str) -> Vec<String> {
    let verdict = |action: RuleAction, id: &str| {
        let then = match action {
            RuleAction::Allow => "return",
            RuleAction::Deny => "drop",
        };
        format!("counter name \"{}\" {then}", counter(nic, id))
    };
    let mut out = vec![];
    for rule in &rules.rules {
        let verdict = verdict(rule.action, &rule.id);
        out.extend(matches(rule, way.remote(), "dport").into_iter().map(|m| format!("{m} {verdict}")));
    }
    out.push(verdict(rules.otherwise, otherwise));
    out
}

/// The rules for a TCP connection that was there before them: which side opened it is not known, so that rules are asked about
/// either. What is refused returns.
fn picked(nic: &IfName, way: Way, set: char, rules: &Rules) -> Vec<String> {
    let port = if way.opens() == set { "dport" } else { "sport" };
    let verdict = |action: RuleAction| match action {
        RuleAction::Allow => format!("goto {nic}-picked-{}-{set}", way.name()),
        RuleAction::Deny => "return".to_owned(),
    };
    let tcp = rules.rules.iter().filter(|r| r.protocol.is_none_or(|p| p == 6));
    let line = |r: &Rule| {
        let verdict = verdict(r.action);
        matches(r, way.remote(), port).into_iter().map(|m| format!("{m} {verdict}")).collect::<Vec<_>>()
    };
    tcp.flat_map(line).chain([verdict(rules.otherwise)]).collect()
}

/// What a rule matches, as one or more rules of the kernel's.
fn matches(rule: &Rule, remote: &str, port: &str) -> Vec<String> {
    let mut head = String::new();
    if let Some(protocol) = rule.protocol {
        let _ = write!(head, "meta l4proto {protocol} ");
    }
    if !rule.ports.is_empty() {
        let ranges = rule.ports.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") });
        let _ = write!(head, "th {port} {{ {} }} ", ranges.collect::<Vec<_>>().join(", "));
    }
    if let Some((kind, code)) = rule.icmp {
        let word = if rule.protocol == Some(ICMP6) { "icmpv6" } else { "icmp" };
        let _ = write!(head, "{word} type {kind} ");
        if let Some(code) = code {
            let _ = write!(head, "{word} code {code} ");
        }
    }
    match &rule.peers {
        None => vec![head],
        Some(peers) => at_end(peers, remote).into_iter().map(|m| head.clone() + &m).collect(),
    }
}

/// Who is at the other end: networks of each family, members of groups of each family.
fn at_end(peers: &Peers, remote: &str) -> Vec<String> {
    let nets = IpNet::aggregate(&peers.nets.iter().copied().collect());
    let mut out = vec![];
    for ip in Ip::ALL {
        let word = ip.word();
        let list: Vec<String> =
            nets.iter().filter(|n| n.addr().is_ipv4() == (ip == Ip::V4)).map(ToString::to_string).collect();
        match &list[..] {
            [] => {}
            [all] if all.ends_with("/0") => out.push(format!("ether type {word}")),
            list => out.push(format!("{word} {remote} {{ {} }}", list.join(", "))),
        }
        out.extend(peers.groups.iter().map(|g| format!("{word} {remote} @{g}-{}", ip.digit())));
    }
    out
}
