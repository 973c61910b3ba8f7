//! Policies at ports: real stacks behind taps, on one bridge and behind gateways, in both families.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::Duration;

use multihome_model::{Direction, RuleAction};
use multihome_plan::policy::{Members, Packet, Peers, Policy, Rule, Rules};

use super::*;

const SERVICES: [u16; 3] = [22, 80, 443];

/// A machine with a stack of its own behind a tap, as a VM has one.
struct Machine {
    netns: Netns,
    four: IpAddr,
    six: IpAddr,
}

fn six(n: u8, m: u8) -> Ipv6Addr {
    format!("fd00:{n}::{m}").parse().unwrap()
}

/// Carries frames from one tap to another until either is gone.
fn carry(from: &OwnedFd, to: &OwnedFd) {
    let (mut from, mut to) =
        (std::fs::File::from(from.try_clone().unwrap()), std::fs::File::from(to.try_clone().unwrap()));
    std::thread::spawn(move || {
        let mut buf = [0; 4096];
        let mut failures = 0;
        while failures < 400 {
            match from.read(&mut buf) {
                Ok(n) => {
                    failures = 0;
                    let _ = to.write_all(&buf[..n]);
                }
                Err(_) => {
                    failures += 1;
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    });
}

/// The NIC M of network N, with its IPv6 address among its facts.
fn stack_nic(state: &mut NodeState, n: u8, m: u8) -> IfName {
    let tap = nic(state, n, m, false);
    if let Security::Strict { ipv6, .. } = &mut state.ports.get_mut(&tap).unwrap().security {
        ipv6.insert(six(n, m));
    }
    tap
}

fn stack_plan() -> NodeState {
    let mut state = plan();
    for (n, m) in [(1, 10), (1, 11), (2, 20), (3, 30)] {
        stack_nic(&mut state, n, m);
    }
    state
}

impl Machine {
    fn new(host: &Host, engine: &AnyEngine, n: u8, m: u8, mtu: u32) -> Self {
        let tap = name(names::TAP, &format!("nic{n}.{m}"));
        let outer = engine.open_tap(&tap, 1).unwrap().remove(0);
        let netns = Netns::anonymous().unwrap();
        let inner = netns
            .run(|| {
                let tap = multihome_netlink::Tap { name: "eth0", multi_queue: false, vnet_hdr: !plain() };
                tap.create(None).unwrap();
                for (key, value) in [("accept_dad", "0"), ("accept_ra", "0"), ("addr_gen_mode", "0")] {
                    sysctl::set(&format!("net/ipv6/conf/eth0/{key}"), value).unwrap();
                }
                tap.open().unwrap()
            })
            .unwrap();
        let mut rtnl = Rtnl::open_in(&netns).unwrap();
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        rtnl.change_named("lo", &up).unwrap();
        rtnl.change_named("eth0", &LinkChange { mac: Some(mac(m).0), mtu: Some(mtu), ..up }).unwrap();
        let index = rtnl.index("eth0").unwrap();
        let (four, six) = (IpAddr::from([10, n, 0, m]), IpAddr::V6(six(n, m)));
        for (ip, prefix) in [(four, 24), (six, 64)] {
            rtnl.address_set(&Address { index, ip, prefix }, true).unwrap();
        }
        for (to, via) in [("0.0.0.0", format!("10.{n}.0.1")), ("::", format!("fd00:{n}::1"))] {
            let gateway = Some(via.parse().unwrap());
            rtnl.route_set(&Route { gateway, ..Route::to(to.parse().unwrap(), 0) }).unwrap();
        }
        carry(&outer, &inner);
        carry(&inner, &outer);
        forwards(host, tap.as_str());
        let machine = Self { netns, four, six };
        machine.serve();
        machine
    }

    /// Answers on ports by TCP and UDP what it is told.
    fn serve(&self) {
        for ip in self.addresses() {
            for port in SERVICES {
                let (tcp, udp) = self
                    .netns
                    .run(|| (TcpListener::bind((ip, port)).unwrap(), UdpSocket::bind((ip, port)).unwrap()))
                    .unwrap();
                std::thread::spawn(move || {
                    for stream in tcp.incoming().flatten() {
                        std::thread::spawn(move || echo_back(stream));
                    }
                });
                std::thread::spawn(move || {
                    let mut buf = [0; 4096];
                    while let Ok((n, from)) = udp.recv_from(&mut buf) {
                        let _ = udp.send_to(&buf[..n], from);
                    }
                });
            }
        }
    }

    fn addresses(&self) -> [IpAddr; 2] {
        [self.four, self.six]
    }

    /// A connection that works, if it can be had.
    fn connect(&self, to: IpAddr, port: u16, patience: Duration) -> Option<TcpStream> {
        let to = SocketAddr::new(to, port);
        let stream = self.netns.run(|| TcpStream::connect_timeout(&to, patience)).unwrap().ok()?;
        stream.set_nodelay(true).unwrap();
        talks(&stream, PATIENCE * 2).then_some(stream)
    }

    fn tcp(&self, to: IpAddr, port: u16, expected: bool) -> bool {
        self.connect(to, port, if expected { PATIENCE * 4 } else { SILENCE * 2 }).is_some()
    }

    fn socket(&self, to: IpAddr, port: u16) -> UdpSocket {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
        let socket = self.netns.run(|| UdpSocket::bind((any, 0)).unwrap()).unwrap();
        socket.connect((to, port)).unwrap();
        socket
    }

    fn udp(&self, to: IpAddr, port: u16, expected: bool) -> bool {
        let socket = self.socket(to, port);
        let tries = if expected { 20 } else { 2 };
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        (0..tries).any(|_| socket.send(b"hello").is_ok() && socket.recv(&mut [0; 16]).is_ok())
    }

    fn pings(&self, to: IpAddr, expected: bool) -> bool {
        let wait = if expected { "5" } else { "1" };
        let ping = || Command::new("ping").args(["-c1", "-W", wait, &to.to_string()]).output().unwrap();
        let tries = if expected { 3 } else { 1 };
        (0..tries).any(|_| self.netns.run(ping).unwrap().status.success())
    }
}

fn echo_back(mut stream: TcpStream) {
    let mut buf = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buf) {
        if stream.write_all(&buf[..n]).is_err() {
            return;
        }
    }
}

/// Whether what is said on a connection comes back.
fn talks(mut stream: &TcpStream, patience: Duration) -> bool {
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.write_all(b"hello").is_ok() && stream.read_exact(&mut [0; 5]).is_ok()
}

fn rule(id: &str, action: RuleAction, protocol: u8, ports: &[(u16, u16)]) -> Rule {
    Rule { id: id.into(), action, protocol: Some(protocol), ports: ports.to_vec(), icmp: None, peers: None }
}

fn rules(otherwise: RuleAction, rules: &[Rule]) -> Rules {
    Rules { rules: rules.to_vec(), otherwise }
}

fn nets(list: &[&str]) -> Option<Peers> {
    Some(Peers { nets: list.iter().map(|n| n.parse().unwrap()).collect(), groups: BTreeSet::new() })
}

use RuleAction::{Allow, Deny};

/// Whoever asks is answered, and nobody else comes in.
fn closed_door() -> Policy {
    Policy { ingress: rules(Deny, &[]), egress: rules(Allow, &[]) }
}

fn both_families(what: &str, a: &Machine, b: &Machine, check: impl Fn(&Machine, IpAddr) -> bool, expected: bool) {
    for to in b.addresses() {
        assert_eq!(check(a, to), expected, "{what} to {to}");
    }
}

#[test]
fn rules_hold_for_neighbours_and_behind_gateways_in_both_families() {
    let test = "rules_hold_for_neighbours_and_behind_gateways_in_both_families";
    let Some(host) = host(test) else { return };
    let mut engine = host.engine();
    let mut desired = stack_plan();
    let tap = name(names::TAP, "nic1.10");
    let mut web = rule("web", Allow, 6, &[(80, 443)]);
    let near = Rule { peers: nets(&["10.1.0.0/24", "fd00:1::/64"]), ..rule("near", Deny, 6, &[(443, 443)]) };
    web.peers = None;
    let names4 = rule("dns", Allow, 17, &[(22, 22)]);
    let pings = [rule("ping4", Allow, 1, &[]), rule("ping6", Allow, 58, &[])];
    let ingress = rules(Deny, &[&[near, web, names4][..], &pings[..]].concat());
    let egress = rules(Allow, &[rule("mail", Deny, 6, &[(22, 22)]), rule("dns-out", Deny, 17, &[(80, 80)])]);
    desired.policies.insert(tap.clone(), Policy { ingress, egress });
    let started = Instant::now();
    reach(&mut engine, &desired);
    println!("with the policies of one NIC: {:?}", started.elapsed());
    let a = Machine::new(&host, &engine, 1, 10, 1450);
    let near = Machine::new(&host, &engine, 1, 11, 1450);
    let far = Machine::new(&host, &engine, 3, 30, 1450);
    for (who, other) in [("neighbour", &near), ("behind the gateway", &far)] {
        let what = |text: &str| format!("{who}: {text}");
        both_families(&what("TCP 80 in"), other, &a, |m, to| m.tcp(to, 80, true), true);
        both_families(&what("TCP 22 in"), other, &a, |m, to| m.tcp(to, 22, false), false);
        both_families(&what("TCP 443 in"), other, &a, |m, to| m.tcp(to, 443, who != "neighbour"), who != "neighbour");
        both_families(&what("UDP 22 in"), other, &a, |m, to| m.udp(to, 22, true), true);
        both_families(&what("UDP 80 in"), other, &a, |m, to| m.udp(to, 80, false), false);
        both_families(&what("ping in"), other, &a, |m, to| m.pings(to, true), true);
        both_families(&what("TCP 80 out"), &a, other, |m, to| m.tcp(to, 80, true), true);
        both_families(&what("TCP 22 out"), &a, other, |m, to| m.tcp(to, 22, false), false);
        both_families(&what("UDP 22 out"), &a, other, |m, to| m.udp(to, 22, true), true);
        both_families(&what("UDP 80 out"), &a, other, |m, to| m.udp(to, 80, false), false);
        both_families(&what("ping out"), &a, other, |m, to| m.pings(to, true), true);
        // Between others nothing is refused.
        assert!(near.tcp(far.four, 22, true) && near.tcp(far.six, 22, true));
    }
    let counted = engine.policy_counters().unwrap().remove(&tap).unwrap();
    for id in ["web", "near", "dns", "ping4", "ping6", "mail", "dns-out"] {
        assert!(counted.rules[id] >= 2, "{id}: {counted:?}");
    }
    assert!(counted.otherwise[&Direction::Ingress] >= 8 && counted.otherwise[&Direction::Egress] >= 8, "{counted:?}");
    assert_eq!((counted.rules.len(), counted.crowded), (7, 0));
}

#[test]
fn what_is_answered_passes_with_what_belongs_to_it() {
    let Some(host) = host("what_is_answered_passes_with_what_belongs_to_it") else { return };
    let mut engine = host.engine();
    let mut desired = stack_plan();
    // Into network 3 lead small packets only.
    for leg in desired.domains.values_mut().flat_map(|d| d.legs.values_mut()).filter(|l| l.alias.ends_with("net3")) {
        leg.mtu = Mtu::new(1300).unwrap();
    }
    desired.policies.insert(name(names::TAP, "nic1.10"), closed_door());
    reach(&mut engine, &desired);
    let a = Machine::new(&host, &engine, 1, 10, 1450);
    let near = Machine::new(&host, &engine, 1, 11, 1450);
    let far = Machine::new(&host, &engine, 3, 30, 1300);
    for other in [&near, &far] {
        for to in other.addresses() {
            assert!(a.tcp(to, 80, true) && a.udp(to, 80, true) && a.pings(to, true), "{to}");
            // Its port is closed, which an ICMP error says.
            let socket = a.socket(to, 9);
            socket.set_read_timeout(Some(SILENCE)).unwrap();
            let refused = (0..20).any(|_| {
                let _ = socket.send(b"?");
                socket.recv(&mut [0; 16]).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
            });
            assert!(refused, "{to} says that nobody is there");
        }
        for to in a.addresses() {
            assert!(!other.tcp(to, 80, false) && !other.udp(to, 80, false) && !other.pings(to, false), "{to}");
        }
    }
    // Too large for the way, which the gateway says; then in fragments, and so is the answer.
    for to in far.addresses() {
        let socket = a.socket(to, 443);
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        let arrived = (0..20).any(|_| {
            let _ = socket.send(&[7; 1390]);
            socket.recv(&mut [0; 2048]).is_ok_and(|n| n == 1390)
        });
        assert!(arrived, "1,390 bytes to {to} and back");
        let mut stream = a.connect(to, 443, PATIENCE * 4).unwrap();
        stream.write_all(&[7; 60_000]).unwrap();
        let mut back = vec![0; 60_000];
        stream.set_read_timeout(Some(PATIENCE * 4)).unwrap();
        assert!(stream.read_exact(&mut back).is_ok(), "60,000 bytes to {to} and back");
    }
}

#[test]
fn rules_change_under_running_conversations() {
    let Some(host) = host("rules_change_under_running_conversations") else { return };
    let mut engine = host.engine();
    let mut desired = stack_plan();
    let tap = name(names::TAP, "nic1.10");
    reach(&mut engine, &desired);
    let a = Machine::new(&host, &engine, 1, 10, 1450);
    let b = Machine::new(&host, &engine, 1, 11, 1450);
    let open =
        |from: &Machine, to: &Machine, port| to.addresses().map(|ip| from.connect(ip, port, PATIENCE * 4).unwrap());
    // Before there are any policies.
    let (out, inwards, ssh) = (open(&a, &b, 80), open(&b, &a, 80), open(&b, &a, 22));
    let all_talk = |list: &[TcpStream; 2]| list.iter().all(|s| talks(s, PATIENCE * 4));
    let none_talks = |list: &[TcpStream; 2]| !list.iter().any(|s| talks(s, SILENCE * 2));
    let web = rule("web", Allow, 6, &[(80, 80)]);
    // Of connections that are older than any rule nobody knows who opened them: rules are asked about either end.
    let out_web = rule("out-web", Allow, 6, &[(80, 80)]);
    let mut policy = Policy { ingress: rules(Deny, std::slice::from_ref(&web)), egress: rules(Deny, &[out_web]) };
    desired.policies.insert(tap.clone(), policy.clone());
    reach(&mut engine, &desired);
    assert!(all_talk(&out) && all_talk(&inwards), "what the first rules allow goes on");
    assert!(none_talks(&ssh), "and nothing else does");
    // Another rule: what was counted stays, what is still allowed goes on without a loss.
    let before = engine.policy_counters().unwrap()[&tap].clone();
    let ssh = rule("ssh", Allow, 6, &[(22, 22)]);
    policy.ingress.rules.insert(0, ssh.clone());
    desired.policies.insert(tap.clone(), policy.clone());
    reach(&mut engine, &desired);
    let ssh = open(&b, &a, 22);
    assert!(all_talk(&out) && all_talk(&inwards) && all_talk(&ssh));
    let after = engine.policy_counters().unwrap()[&tap].clone();
    assert!(after.rules["web"] >= before.rules["web"] && after.rules["ssh"] >= 2, "{before:?} {after:?}");
    // Without the first: what it allowed ends.
    policy.ingress.rules.retain(|r| r.id != "web");
    desired.policies.insert(tap.clone(), policy.clone());
    reach(&mut engine, &desired);
    assert!(none_talks(&inwards), "no rule allows it any more");
    assert!(all_talk(&out) && all_talk(&ssh));
    let counted = engine.policy_counters().unwrap()[&tap].clone();
    assert!(!counted.rules.contains_key("web") && counted.stray > 0, "{counted:?}");
    // Egress alone closes, and a restart changes nothing.
    policy.egress = rules(Deny, &[]);
    desired.policies.insert(tap.clone(), policy);
    reach(&mut host.engine(), &desired);
    let mut again = host.engine();
    assert_eq!(diff(&again.observe().unwrap(), &desired), []);
    assert!(none_talks(&out) && all_talk(&ssh));
    assert!(!a.tcp(b.four, 80, false) && !a.pings(b.six, false));
    // And without policies everything passes.
    desired.policies.clear();
    reach(&mut again, &desired);
    assert!(a.tcp(b.four, 80, true) && b.tcp(a.six, 443, true) && all_talk(&ssh));
    assert!(again.policy_counters().unwrap().is_empty());
}

#[test]
fn members_of_groups_come_and_go_without_the_rules_being_written_anew() {
    let Some(host) = host("members_of_groups_come_and_go_without_the_rules_being_written_anew") else { return };
    let mut engine = host.engine();
    let mut desired = stack_plan();
    let tap = name(names::TAP, "nic1.10");
    let group = "g0123456789a".to_owned();
    let peers = Some(Peers { nets: BTreeSet::new(), groups: BTreeSet::from([group.clone()]) });
    let ingress = rules(Deny, &[Rule { peers, ..rule("g", Allow, 6, &[]) }]);
    desired.policies.insert(tap.clone(), Policy { ingress, egress: rules(Allow, &[]) });
    desired.members.insert(group.clone(), BTreeSet::new());
    reach(&mut engine, &desired);
    let a = Machine::new(&host, &engine, 1, 10, 1450);
    let b = Machine::new(&host, &engine, 1, 11, 1450);
    let far = Machine::new(&host, &engine, 3, 30, 1450);
    assert!(!b.tcp(a.four, 80, false) && !far.tcp(a.six, 80, false));
    let with = |m: &[&Machine]| m.iter().flat_map(|m| m.addresses()).collect::<BTreeSet<IpAddr>>();
    desired.members.insert(group.clone(), with(&[&b, &far]));
    let steps = diff(&engine.observe().unwrap(), &desired);
    assert!(matches!(&steps[..], [Step::PutMembers(g, _)] if *g == group), "{steps:?}");
    reach(&mut engine, &desired);
    let talks_to = |m: &Machine| a.addresses().map(|ip| m.connect(ip, 80, PATIENCE * 4).unwrap());
    let (of_b, of_far) = (talks_to(&b), talks_to(&far));
    desired.members.insert(group.clone(), with(&[&far]));
    reach(&mut host.engine(), &desired);
    assert!(of_b.iter().all(|s| !talks(s, SILENCE * 2)), "no member any more");
    assert!(of_far.iter().all(|s| talks(s, PATIENCE * 4)));
    assert!(!b.tcp(a.four, 80, false) && far.tcp(a.four, 80, true));
    desired.policies.clear();
    desired.members.clear();
    reach(&mut host.engine(), &desired);
    assert!(b.tcp(a.four, 443, true));
}

#[test]
fn policies_are_mended_wherever_an_agent_was_killed() {
    let Some(host) = host("policies_are_mended_wherever_an_agent_was_killed") else { return };
    let mut desired = stack_plan();
    let tap = name(names::TAP, "nic1.10");
    desired.policies.insert(tap.clone(), closed_door());
    desired.policies.insert(name(names::TAP, "nic1.11"), closed_door());
    let steps = diff(&NodeState::default(), &desired);
    for killed_after in 0..=steps.len() {
        if killed_after > 3 && !matches!(steps[killed_after - 1], Step::PutPolicy(..) | Step::PutPort(..)) {
            continue;
        }
        assert!(host.engine().apply(&steps[..killed_after]).is_empty());
        reach(&mut host.engine(), &desired);
        assert!(host.engine().teardown().is_empty());
        assert_eq!(host.ruleset(), "", "after {killed_after} steps");
    }
}

#[test]
fn a_table_that_is_half_there_is_mended_or_removed() {
    let Some(host) = kernel_host("a_table_that_is_half_there_is_mended_or_removed") else { return };
    let mut desired = stack_plan();
    let tap = name(names::TAP, "nic1.10");
    desired.policies.insert(tap.clone(), closed_door());
    desired.policies.insert(name(names::TAP, "nic1.11"), closed_door());
    // Killed inside a step: elements of the table are missing, each kind in turn.
    let nft = |text: String| host.netns.run(|| multihome_netlink::nft::load(&text).unwrap()).unwrap();
    let mut engine = host.engine();
    reach(&mut engine, &desired);
    for damage in [
        "flush set bridge multihome-policies facts1".to_owned(),
        "flush map bridge multihome-policies to_nic".to_owned(),
        format!("flush chain bridge multihome-policies {tap}-echo-in4; flush set bridge multihome-policies facts1"),
        "delete table bridge multihome-policies".to_owned(),
        "delete table bridge multihome-policies; add table bridge multihome-policies".to_owned(),
    ] {
        nft(damage.replace("; ", "\n"));
        reach(&mut host.engine(), &desired);
        let a = Machine::new(&host, &engine, 1, 10, 1450);
        let b = Machine::new(&host, &engine, 1, 11, 1450);
        assert!(!a.tcp(b.four, 80, false) && !b.udp(a.six, 80, false), "{damage}");
        drop((a, b));
        // Their taps are free again once nobody holds them.
        desired.taps.values_mut().for_each(|t| t.alias = t.alias.trim_end_matches('+').to_owned() + "+");
        reach(&mut engine, &NodeState::default());
        reach(&mut engine, &desired);
        // Half there, and not wanted any more: it goes.
        let mut without = desired.clone();
        without.policies.clear();
        nft("flush set bridge multihome-policies facts1".into());
        reach(&mut host.engine(), &without);
        assert!(!host.ruleset().contains("multihome-policies"), "{}", host.ruleset());
        engine = host.engine();
        reach(&mut engine, &desired);
    }
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn policy_rules(&mut self) -> Rules {
        let list = (0..self.roll(6)).map(|i| {
            let protocol = [None, Some(6), Some(17), Some(1), Some(58), Some(47), Some(132)][self.roll(7) as usize];
            let ported = matches!(protocol, Some(6 | 17 | 132));
            let ports = (0..self.roll(3)).filter(|_| ported).map(|_| (100 + self.roll(3) as u16 * 10, 115)).collect();
            let icmp = matches!(protocol, Some(1 | 58))
                .then(|| ([8u8, 128, 3][self.roll(3) as usize], (self.roll(2) == 0).then_some(0)))
                .filter(|_| self.roll(2) == 0);
            let peers = (self.roll(2) == 0).then(|| {
                let pool = ["10.1.0.0/24", "10.1.0.11/32", "10.0.0.0/8", "fd00:1::/64", "::/0", "192.0.2.0/24"];
                let nets = (0..self.roll(3)).map(|_| pool[self.roll(6) as usize].parse().unwrap()).collect();
                Peers { nets, groups: (self.roll(3) == 0).then(|| "g1".to_owned()).into_iter().collect() }
            });
            let ports = Some(ports).filter(|p: &Vec<(u16, u16)>| p.iter().all(|(a, b)| a <= b)).unwrap_or_default();
            Rule {
                id: format!("r{i}"),
                action: if self.roll(2) == 0 { Allow } else { Deny },
                protocol,
                ports,
                icmp,
                peers,
            }
        });
        let list: Vec<Rule> = list.collect();
        Rules { rules: list, otherwise: if self.roll(2) == 0 { Allow } else { Deny } }
    }
}

/// Gives what is in a packet its checksum, over the pseudo-header, too (RFC 9293 section 3.1, RFC 8200 section 8.1).
fn summed(from: IpAddr, to: IpAddr, protocol: u8, mut body: Vec<u8>) -> Vec<u8> {
    let at = match (protocol, from.is_ipv4()) {
        (6, _) => 16,
        (17, _) => 6,
        (58, false) => 2,
        _ => return body,
    };
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    body[at..at + 2].fill(0);
    let mut all = [octets(from), octets(to), vec![0, protocol], (body.len() as u16).to_be_bytes().to_vec()].concat();
    all.extend(&body);
    body[at..at + 2].copy_from_slice(&checksum(&all).to_be_bytes());
    body
}

/// A packet from one address to another, and what a rule sees of it.
fn packet(from: IpAddr, to: IpAddr, protocol: u8, port: u16, id: u16, remote: IpAddr) -> (Vec<u8>, Packet) {
    let echo_type = if from.is_ipv4() { 8 } else { 128 };
    let (body, port, icmp) = match protocol {
        6 => {
            let mut segment = id.to_be_bytes().to_vec();
            segment.extend(port.to_be_bytes());
            segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
            (segment, Some(port), None)
        }
        17 | 132 => (udp(id, port), Some(port), None),
        1 | 58 => (echo(echo_type, id), None, Some((echo_type, 0))),
        _ => ([&id.to_be_bytes()[..], &[0; 30]].concat(), None, None),
    };
    let body = summed(from, to, protocol, body);
    let (kind, bytes) = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (0x0800, ipv4(from, to, protocol, &body)),
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut p = vec![0x60, 0, 0, 0, 0, body.len() as u8, protocol, 64];
            p.extend(from.octets());
            p.extend(to.octets());
            p.extend(&body);
            (0x86dd, p)
        }
        _ => unreachable!("one family"),
    };
    let near = |ip: IpAddr| {
        if let IpAddr::V4(a) = ip { a.octets()[3] } else { if ip == IpAddr::V6(six(1, 10)) { 10 } else { 11 } }
    };
    let icmp = icmp.filter(|_| (protocol == 1) == from.is_ipv4());
    (ethernet(mac(near(to)).0, mac(near(from)).0, kind, &bytes), Packet { remote, protocol, port, icmp })
}

#[test]
fn ports_decide_as_the_rules_say() {
    let Some(host) = host("ports_decide_as_the_rules_say") else { return };
    let mut engine = host.engine();
    let mut desired = stack_plan();
    let tap = name(names::TAP, "nic1.10");
    reach(&mut engine, &desired);
    let (mut a, mut b) = (guest(&host, &engine, 1, 10), guest(&host, &engine, 1, 11));
    let ends = |v6: bool| {
        let four = |m: u8| IpAddr::from([10, 1, 0, m]);
        if v6 { (IpAddr::V6(six(1, 10)), IpAddr::V6(six(1, 11))) } else { (four(10), four(11)) }
    };
    let mut dice = Dice(7);
    let members: Members = BTreeMap::from([("g1".to_owned(), [ends(false).1, ends(true).1].into())]);
    let mut decided = [0, 0];
    for round in 0..40u16 {
        let policy = Policy { ingress: dice.policy_rules(), egress: dice.policy_rules() };
        desired.members = policy.groups().into_iter().map(|g| (g.clone(), members[g].clone())).collect();
        // Without what the last round opened.
        desired.policies.remove(&tap);
        let steps = diff(&engine.observe().unwrap(), &desired);
        assert!(engine.apply(&steps).is_empty());
        desired.policies.insert(tap.clone(), policy.clone());
        reach(&mut engine, &desired);
        let mut opened = BTreeSet::new();
        for direction in Direction::ALL {
            let rules = policy.of(direction);
            let mut wanted = vec![];
            a.forget();
            b.forget();
            for n in 0..24u16 {
                let v6 = dice.roll(2) == 1;
                let protocol = [6, 17, 1, 58, 47, 132][dice.roll(6) as usize];
                let port = 90 + dice.roll(4) as u16 * 10;
                let (mine, theirs) = ends(v6);
                let (from, to) = if direction == Direction::Egress { (mine, theirs) } else { (theirs, mine) };
                // Each opens a conversation of its own, and answers none of the other way's.
                let id = round * 100 + n + if direction == Direction::Egress { 10_000 } else { 20_000 };
                let (frame, seen) = packet(from, to, protocol, port, id, theirs);
                let sender = if direction == Direction::Egress { &mut a } else { &mut b };
                sender.send(&frame);
                // Where there are no ports, what one end opened the other answers with whatever it sends.
                let bare = seen.port.is_none() && seen.icmp.is_none();
                let known = bare && opened.contains(&(protocol, v6));
                let allowed = known || rules.allows(&seen, &members);
                opened.extend((bare && allowed).then_some((protocol, v6)));
                wanted.push((frame, seen, allowed));
            }
            // What passes always comes last. Twice: a switch keeps the order of frames that it treats alike, and that of bursts.
            let (sender, hearer) = if direction == Direction::Egress { (&mut a, &b) } else { (&mut b, &a) };
            let heard = RefCell::new(vec![]);
            for target in [hearer.ip, sender.ip] {
                let last = ethernet(BROADCAST, sender.mac, 0x0806, &arp(1, sender.mac, sender.ip, BROADCAST, target));
                sender.send(&last);
                hearer.sees(PATIENCE * 2, |f| {
                    heard.borrow_mut().push(f.to_vec());
                    same(f, &last)
                });
            }
            // Whoever asks what was counted is answered once a switch has learned what it was to learn.
            engine.policy_counters().unwrap();
            if OVS && !plain() {
                // What the kernel does not know it hands to ovs-vswitchd, and what it knows overtakes that.
                hearer.sees(SILENCE * 2, |f| {
                    heard.borrow_mut().push(f.to_vec());
                    false
                });
            }
            for (frame, seen, allowed) in wanted {
                let passed = heard.borrow().iter().any(|f: &Vec<u8>| same(f, &frame));
                assert_eq!(passed, allowed, "round {round} {direction:?} {seen:?}: {rules:#?}");
                decided[usize::from(allowed)] += 1;
            }
        }
    }
    println!("{} packets refused and {} allowed, as the rules say", decided[0], decided[1]);
    assert!(decided.iter().all(|n| *n > 300), "{decided:?}");
}

#[test]
fn what_many_nics_with_policies_cost() {
    let Some(host) = host("what_many_nics_with_policies_cost") else { return };
    let mut engine = host.engine();
    let list: Vec<Rule> = (0..10).map(|i| rule(&format!("r{i}"), Allow, 6, &[(i * 10, i * 10 + 5)])).collect();
    let mut policy = Policy { ingress: rules(Deny, &list), egress: rules(Allow, &[]) };
    let mut times = [vec![], vec![]];
    let mut desired = plan();
    let taps: Vec<IfName> = (100..160).map(|m| nic(&mut desired, 1, m, false)).collect();
    reach(&mut engine, &desired);
    for tap in taps {
        for (i, list) in times.iter_mut().enumerate() {
            policy.egress.otherwise = if i == 0 { Allow } else { Deny };
            let started = Instant::now();
            let failed = engine.apply(&[Step::PutPolicy(tap.clone(), policy.clone())]);
            assert!(failed.is_empty(), "{failed:#?}");
            list.push(started.elapsed());
        }
    }
    for (list, what) in times.iter().zip(["first rules", "other rules"]) {
        println!("{what} of a NIC: {:?} at 10, {:?} at 60", list[10], list[59]);
    }
    let started = Instant::now();
    assert_eq!(engine.policy_counters().unwrap().len(), 60);
    println!("counters of 60 NICs: {:?}", started.elapsed());
    let started = Instant::now();
    assert_eq!(host.engine().observe().unwrap().policies.len(), 60);
    println!("observe the policies of 60 NICs: {:?}", started.elapsed());
}
