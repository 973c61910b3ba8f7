//! The kernel engine on a host that is a network namespace, with guests of raw frames. Needs root;
//! without it every test says that it was skipped.
#![allow(clippy::unwrap_used)]

mod conversations;
mod floating;
pub(crate) mod guest;
mod harm;
mod overlay;
mod policy;
mod router;
pub(crate) mod trunks;
mod uplinks;
mod vm;
mod wire_gateway;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use guest::*;
use ipnet::IpNet;
use multihome_dataplane::Dataplane;
use multihome_dataplane::kernel::{Config, Kernel, Rogue};
use multihome_dataplane::ovs::{self, Datapath, Ovs};
use multihome_model::{IfName, MacAddr, Mtu, VlanId, Vni, names};
use multihome_netlink::packet::{FrameBatch, filter};
use multihome_netlink::{
    Address, Capabilities, FdbEntry, LinkChange, LinkKind, Netns, NewLink, Route, Rtnl, VethPeer, sysctl,
};
use multihome_plan::node::{
    Bridge, Egress, Leg, NodeState, Port, Remotes, Security, Service, Step, Tap, Uplink, UplinkKind, diff,
};
use multihome_testkit::vswitch::Vswitch;

/// Whether this is the suite of the engine of Open vSwitch: the program's name says so.
const OVS: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"ovs");

/// Which data path Open vSwitch has: the one in user space, which every kernel has, unless the environment names the kernel's.
pub(crate) fn datapath() -> Datapath {
    match std::env::var("MULTIHOME_TEST_DATAPATH").as_deref() {
        Ok("system") => Datapath::System,
        _ => Datapath::Netdev,
    }
}

/// Whether taps carry frames as they are on the wire, and nothing else.
pub(crate) fn plain() -> bool {
    OVS && datapath() == Datapath::Netdev
}

/// Why that is not to be had here, if so. The kernel loads the module when somebody asks for it by name.
fn why_no_datapath() -> Option<String> {
    let _ = std::process::Command::new("modprobe").arg("openvswitch").output();
    let missing = datapath() == Datapath::System && !std::path::Path::new("/sys/module/openvswitch").exists();
    missing.then(|| "this kernel has no module openvswitch".to_owned())
}

/// An engine of either kind.
pub(crate) struct AnyEngine(Box<dyn Dataplane>);

impl std::ops::Deref for AnyEngine {
    type Target = dyn Dataplane;
    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl std::ops::DerefMut for AnyEngine {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut *self.0
    }
}

/// A machine with a world outside: 198.51.100.1 answers there, and knows no way back but to the
/// machine's own address.
pub(crate) struct Host {
    netns: Netns,
    outside: Netns,
    prefix: String,
    state: tempfile::TempDir,
    pub(crate) vswitch: Option<Mutex<Vswitch>>,
}

fn capabilities() -> &'static Capabilities {
    static FOUND: OnceLock<Capabilities> = OnceLock::new();
    FOUND.get_or_init(|| multihome_netlink::probe().unwrap())
}

pub(crate) fn host(test: &str) -> Option<Host> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let (netns, outside) = match (Netns::anonymous(), Netns::anonymous()) {
        (Ok(a), Ok(b)) => (a, b),
        (Err(e), _) | (_, Err(e)) => {
            println!("SKIPPED {test}: {e}");
            return None;
        }
    };
    let up = || LinkChange { up: Some(true), ..LinkChange::default() };
    let mut inside = Rtnl::open_in(&netns).unwrap();
    let mut out = Rtnl::open_in(&outside).unwrap();
    let peer = VethPeer { name: "world", netns: Some(outside.as_fd()), mac: None, mtu: None };
    let near = inside.create(&NewLink { name: "out0", kind: LinkKind::Veth { peer }, change: up() }).unwrap();
    out.change_named("world", &up()).unwrap();
    out.change_named("lo", &up()).unwrap();
    let far = out.index("world").unwrap();
    let address = |index, ip: &str, prefix| Address { index, ip: ip.parse().unwrap(), prefix };
    inside.address_set(&address(near, "192.0.2.1", 24), true).unwrap();
    out.address_set(&address(far, "192.0.2.2", 24), true).unwrap();
    out.address_set(&address(1, "198.51.100.1", 32), true).unwrap();
    inside
        .route_set(&Route { gateway: Some("192.0.2.2".parse().unwrap()), ..Route::to("0.0.0.0".parse().unwrap(), 0) })
        .unwrap();
    let prefix = format!("t{}x{}-", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let inside = netns.try_clone().unwrap();
    let spawn = move |c: &mut std::process::Command| inside.run(|| c.spawn()).map_err(std::io::Error::other)?;
    if let Some(why) = OVS.then(why_no_datapath).flatten() {
        println!("SKIPPED {test}: {why}");
        return None;
    }
    let vswitch = match OVS.then(|| Vswitch::start(Box::new(spawn))).transpose() {
        Ok(vswitch) => vswitch.map(Mutex::new),
        Err(why) => {
            println!("SKIPPED {test}: {why}");
            return None;
        }
    };
    Some(Host { netns, outside, prefix, state: tempfile::tempdir().unwrap(), vswitch })
}

/// A host for what only the kernel's engine does.
pub(crate) fn kernel_host(test: &str) -> Option<Host> {
    if OVS {
        println!("SKIPPED {test}: it is about what the kernel's engine holds in nftables");
        return None;
    }
    host(test)
}

impl Host {
    pub(crate) fn kernel_config(&self) -> Config {
        Config {
            host: self.netns.try_clone().unwrap(),
            netns_prefix: self.prefix.clone(),
            state_dir: self.state.path().join("state"),
            tap_owner: None,
            capabilities: capabilities().clone(),
        }
    }

    pub(crate) fn engine(&self) -> AnyEngine {
        let kernel = self.kernel_config();
        AnyEngine(match &self.vswitch {
            None => Box::new(Kernel::open(kernel).unwrap()),
            Some(vswitch) => {
                let config = ovs::Config { kernel, database: vswitch.lock().unwrap().database(), datapath: datapath() };
                Box::new(Ovs::open(config).unwrap())
            }
        })
    }

    pub(crate) fn links(&self) -> Vec<String> {
        let links = Rtnl::open_in(&self.netns).unwrap().links().unwrap();
        links.into_iter().map(|l| l.name).collect()
    }

    fn namespaces(&self) -> Vec<String> {
        let all = Netns::list().unwrap();
        all.into_iter().filter(|n| n.starts_with(&self.prefix)).collect()
    }

    pub(crate) fn ruleset(&self) -> String {
        self.netns
            .run(|| {
                let out = std::process::Command::new("nft").args(["list", "tables"]).output().unwrap();
                String::from_utf8_lossy(&out.stdout).into_owned()
            })
            .unwrap()
    }

    fn forwards(&self) -> String {
        self.netns.run(|| sysctl::read("net/ipv4/conf/out0/forwarding").unwrap()).unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for name in self.namespaces() {
            let _ = Netns::delete(&name);
        }
    }
}

pub(crate) fn name(prefix: &str, uid: &str) -> IfName {
    names::device(prefix, uid)
}

fn mac(n: u8) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0, 0, n])
}

/// A network 10.N.0.0/24 with its gateway at .1 in a domain, and a way out of it.
pub(crate) fn network(state: &mut NodeState, n: u8, domain: &str) {
    let uid = format!("net{n}");
    let alias = |what: &str| format!("{what} default/{uid}");
    let bridge = name(names::BRIDGE, &uid);
    let mtu = Mtu::new(1450).unwrap();
    state.bridges.insert(bridge.clone(), Bridge { alias: alias("net"), mtu });
    let leg = Leg {
        alias: alias("gateway"),
        bridge,
        peer: name(names::GATEWAY, &uid),
        mac: MacAddr([2, 0, 0, 0, 1, n]),
        addresses: BTreeSet::from([
            format!("10.{n}.0.1/24").parse().unwrap(),
            format!("fd00:{n}::1/64").parse().unwrap(),
        ]),
        mtu,
        symmetric: false,
        admits: None,
    };
    let ns = domain_name(domain);
    let domain_state = state.domains.entry(ns).or_default();
    domain_state.legs.insert(name(names::LEG, &uid), leg);
    let host_address = Ipv4Addr::new(169, 254, 64, domain.len() as u8 * 2);
    let egress = domain_state.egress.get_or_insert_with(|| Egress {
        alias: format!("egress {domain}"),
        host: name(names::EGRESS, domain),
        peer: IfName::new("uplink").unwrap(),
        host_address,
        peer_address: Ipv4Addr::from(u32::from(host_address) + 1),
        nat: BTreeSet::new(),
    });
    egress.nat.insert(format!("10.{n}.0.0/24").parse::<IpNet>().unwrap());
}

fn domain_name(domain: &str) -> String {
    format!("{}{}", names::NETNS, names::short_hash(domain))
}

/// A NIC with the address 10.N.0.M.
pub(crate) fn nic(state: &mut NodeState, n: u8, m: u8, served: bool) -> IfName {
    let tap = name(names::TAP, &format!("nic{n}.{m}"));
    let security = Security::Strict {
        mac: mac(m),
        ipv4: BTreeSet::from([Ipv4Addr::new(10, n, 0, m)]),
        ipv6: BTreeSet::from([mac(m).link_local()]),
    };
    state.ports.insert(
        tap.clone(),
        Port { dhcp4: if served { Service::Served } else { Service::Open }, dhcp6: Service::Open, security },
    );
    let bridge = name(names::BRIDGE, &format!("net{n}"));
    let mtu = Mtu::new(1450).unwrap();
    let alias = format!("nic default/n{m}");
    state.taps.insert(tap.clone(), Tap { alias, bridge, mtu, queues: 1, tx_queue_length: None, vlans: None });
    tap
}

/// Networks 1 and 3 in one domain, network 2 in another; two NICs in 1, one in each other.
pub(crate) fn plan() -> NodeState {
    let mut state = NodeState::default();
    network(&mut state, 1, "a");
    network(&mut state, 3, "a");
    network(&mut state, 2, "bb");
    for (n, m) in [(1, 10), (1, 11), (2, 20), (3, 30)] {
        nic(&mut state, n, m, n == 1);
    }
    let kind = UplinkKind::Vxlan { vni: Vni::new(7003).unwrap(), local: None, port: 4789 };
    let uplink = Uplink {
        alias: "uplink default/net3".into(),
        bridge: name(names::BRIDGE, "net3"),
        mtu: Mtu::new(1450).unwrap(),
        kind,
        own: [].into(),
    };
    state.uplinks.insert(name(names::VXLAN, "net3"), uplink);
    state.remotes.insert(name(names::VXLAN, "net3"), Remotes::default());
    state
}

pub(crate) fn reach(engine: &mut AnyEngine, desired: &NodeState) {
    let observed = engine.observe().unwrap();
    let failed = engine.apply(&diff(&observed, desired));
    assert!(failed.is_empty(), "{failed:#?}");
    let observed = engine.observe().unwrap();
    assert_eq!(&observed, desired);
    assert_eq!(diff(&observed, desired), []);
}

pub(crate) fn guest(host: &Host, engine: &AnyEngine, n: u8, m: u8) -> Guest {
    let tap = name(names::TAP, &format!("nic{n}.{m}"));
    let fd = engine.open_tap(&tap, 1).unwrap().remove(0);
    let guest = Guest::new(fd, mac(m).0, Ipv4Addr::new(10, n, 0, m));
    forwards(host, tap.as_str());
    guest
}

/// Waits until something is true, or long enough.
fn eventually(mut is: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is() && started.elapsed() < PATIENCE * 3 {
        std::thread::sleep(SILENCE / 10);
    }
}

/// Waits until a port forwards: the kernel, or ovs-vswitchd, tells a bridge of a carrier when it gets round to it.
fn forwards(host: &Host, port: &str) {
    let mut rtnl = Rtnl::open_in(&host.netns).unwrap();
    let mut forwards = || match &host.vswitch {
        None => rtnl.link(port).unwrap().unwrap().forwarding,
        Some(vswitch) => {
            vswitch.lock().unwrap().vsctl(&["get", "Interface", port, "link_state"]).unwrap().contains("up")
        }
    };
    let started = Instant::now();
    while !forwards() {
        assert!(started.elapsed() < PATIENCE * 3, "{port} does not forward");
        std::thread::sleep(SILENCE / 50);
    }
}

pub(crate) fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

#[test]
fn guests_reach_what_they_should_and_nothing_else() {
    let Some(host) = host("guests_reach_what_they_should_and_nothing_else") else { return };
    let mut engine = host.engine();
    let started = Instant::now();
    reach(&mut engine, &plan());
    println!("three networks, two domains, four NICs: {:?}", started.elapsed());
    let (mut a, b) = (guest(&host, &engine, 1, 10), guest(&host, &engine, 1, 11));
    let (mut other, mut sibling) = (guest(&host, &engine, 2, 20), guest(&host, &engine, 3, 30));
    assert!(a.ping(b.ip, b.ip), "same network");
    assert!(a.ping(ip("10.1.0.1"), ip("10.1.0.1")), "gateway");
    assert_eq!(a.resolve(ip("10.1.0.1"), PATIENCE), Some([2, 0, 0, 0, 1, 1]));
    assert!(a.ping(sibling.ip, ip("10.1.0.1")), "another subnet of the same VPC");
    assert!(sibling.ping(b.ip, ip("10.3.0.1")), "and back");
    assert!(a.ping(ip("198.51.100.1"), ip("10.1.0.1")), "the world outside");
    assert!(other.ping(ip("198.51.100.1"), ip("10.2.0.1")), "from the other VPC too");

    assert!(!a.ping_for(other.ip, ip("10.1.0.1"), SILENCE), "another VPC");
    assert!(a.resolve(other.ip, SILENCE).is_none(), "another network's ARP");
    assert!(a.resolve(ip("10.3.0.1"), SILENCE).is_none(), "another subnet's gateway answers here");
    assert!(a.resolve(ip("192.0.2.1"), SILENCE).is_none(), "the host answers in a network");
    assert!(!a.ping_for(ip("169.254.64.5"), ip("10.1.0.1"), SILENCE), "another domain's way out");

    // Nobody outside comes in by the host, even if he knows the way.
    let mut out = Rtnl::open_in(&host.outside).unwrap();
    let via = Some("192.0.2.1".parse().unwrap());
    out.route_set(&Route { gateway: via, ..Route::to(ip("169.254.64.0").into(), 18) }).unwrap();
    let ping = || std::process::Command::new("ping").args(["-c1", "-W1", "169.254.64.3"]).output();
    if let Ok(output) = host.outside.run(ping).unwrap() {
        assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    // What is of no network of the domain's does not leave it.
    assert_eq!(engine.drops().unwrap().len(), 4);
}

#[test]
fn a_symmetric_network_hears_strangers_from_its_gateway() {
    let Some(host) = host("a_symmetric_network_hears_strangers_from_its_gateway") else { return };
    let mut engine = host.engine();
    let mut desired = plan();
    // Three strangers, because of a flow that is known the translation is remembered.
    for m in [31, 32] {
        nic(&mut desired, 3, m, false);
    }
    reach(&mut engine, &desired);
    let a = guest(&host, &engine, 1, 10);
    let gateway = ip("10.3.0.1");
    let from = |ip: Ipv4Addr| move |f: &[u8]| f[12..14] == [8, 0] && f[26..30] == ip.octets();
    let heard_from = |stranger: &mut Guest, source: Ipv4Addr| {
        a.forget();
        stranger.ping(a.ip, gateway) && a.sees(PATIENCE, from(source)).is_some()
    };
    let mut first = guest(&host, &engine, 3, 30);
    let own = first.ip;
    assert!(heard_from(&mut first, own), "as who it is");
    let plain = desired.clone();
    for leg in desired.domains.values_mut().flat_map(|d| d.legs.values_mut()).filter(|l| l.alias.ends_with("net1")) {
        leg.symmetric = true;
    }
    reach(&mut engine, &desired);
    let mut second = guest(&host, &engine, 3, 31);
    assert!(heard_from(&mut second, ip("10.1.0.1")), "as the gateway");
    // A restart finds it as it is, and it can be taken back.
    let mut again = host.engine();
    assert_eq!(diff(&again.observe().unwrap(), &desired), vec![]);
    reach(&mut again, &plain);
    let mut third = guest(&host, &again, 3, 32);
    let own = third.ip;
    assert!(heard_from(&mut third, own), "as who it is, again");
}

#[test]
fn a_guest_that_lies_is_silent() {
    let Some(host) = host("a_guest_that_lies_is_silent") else { return };
    let mut engine = host.engine();
    let desired = plan();
    reach(&mut engine, &desired);
    let (mut a, b) = (guest(&host, &engine, 1, 10), guest(&host, &engine, 1, 11));
    let stranger = [0x52, 0x54, 0, 0xbb, 0, 1];
    let own6 = mac(10).link_local().octets();
    let b6 = mac(11).link_local().octets();
    let all6: [u8; 16] = "ff02::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let any6 = [0; 16];
    let multi = [0x33, 0x33, 0, 0, 0, 1];
    let (ip_a, ip_b, zero) = (a.ip, b.ip, Ipv4Addr::UNSPECIFIED);
    let all = Ipv4Addr::BROADCAST;
    let lies: Vec<(&str, Vec<u8>)> = vec![
        ("another MAC", ethernet(b.mac, stranger, 0x0800, &ipv4(ip_a, ip_b, 1, &echo(8, 1)))),
        ("another IPv4 source", ethernet(b.mac, a.mac, 0x0800, &ipv4(ip("10.1.0.1"), ip_b, 1, &echo(8, 1)))),
        ("ARP for another's address", ethernet(BROADCAST, a.mac, 0x0806, &arp(2, a.mac, ip("10.1.0.1"), b.mac, ip_b))),
        ("ARP with another's MAC", ethernet(BROADCAST, a.mac, 0x0806, &arp(2, stranger, ip_a, b.mac, ip_b))),
        ("ARP answer from nobody", ethernet(BROADCAST, a.mac, 0x0806, &arp(2, a.mac, zero, b.mac, ip_b))),
        ("a DHCP server", ethernet(BROADCAST, a.mac, 0x0800, &ipv4(ip_a, all, 17, &udp(67, 68)))),
        ("a DHCP server on another port", ethernet(b.mac, a.mac, 0x0800, &ipv4(ip_a, ip_b, 17, &udp(1067, 68)))),
        ("a router", ethernet(multi, a.mac, 0x86dd, &icmp6(own6, all6, 134, any6))),
        ("a redirect", ethernet(multi, a.mac, 0x86dd, &icmp6(own6, b6, 137, b6))),
        ("another IPv6 source", ethernet(multi, a.mac, 0x86dd, &icmp6(b6, all6, 128, any6))),
        ("another's neighbour advertisement", ethernet(multi, a.mac, 0x86dd, &icmp6(own6, all6, 136, b6))),
        ("claiming another's address", ethernet(multi, a.mac, 0x86dd, &icmp6(any6, all6, 135, b6))),
        ("a VLAN tag", ethernet(b.mac, a.mac, 0x8100, &[0, 5, 8, 0, 0x45, 0])),
        ("some other protocol", ethernet(b.mac, a.mac, 0x88cc, &[1; 46])),
        (
            "a request to our own DHCP server",
            ethernet(BROADCAST, a.mac, 0x0800, &ipv4(zero, all, 17, &discover(a.mac))),
        ),
    ];
    let tap = name(names::TAP, "nic1.10");
    let spy = engine.packet_socket(&tap, &filter::dhcp4_requests()).unwrap();
    let before = engine.drops().unwrap()[&tap];
    b.forget();
    for (_, frame) in &lies {
        a.send(frame);
    }
    let heard = b.sees(SILENCE, |f| f[6..12] == a.mac || f[6..12] == stranger);
    let what = heard.and_then(|f| Some(lies.iter().find(|(_, lie)| same(&f, lie))?.0));
    assert_eq!(what, None);
    // All but the DHCP request, which is not a lie, count as such; a data path tells of it now and then.
    let wanted = lies.len() as u64 - 1;
    eventually(|| engine.drops().unwrap()[&tap] - before >= wanted);
    assert_eq!(engine.drops().unwrap()[&tap] - before, wanted);
    // Who pretended to be what is known.
    let known: Vec<_> = engine.rogues().unwrap().into_iter().collect();
    assert_eq!(known, [(tap.clone(), Rogue::Dhcp4), (tap.clone(), Rogue::Router)]);
    // We ourselves heard the request, before the bridge did.
    let mut batch = FrameBatch::new(8, 2048);
    assert_eq!(spy.receive(&mut batch).unwrap(), 1);
    assert_eq!(batch.iter().next().unwrap().data, lies.last().unwrap().1);

    let truths: Vec<(&str, Vec<u8>)> = vec![
        ("ARP probe", ethernet(BROADCAST, a.mac, 0x0806, &arp(1, a.mac, zero, BROADCAST, ip_a))),
        ("own IPv6", ethernet(multi, a.mac, 0x86dd, &icmp6(own6, all6, 128, any6))),
        ("duplicate address detection", ethernet(multi, a.mac, 0x86dd, &icmp6(any6, all6, 135, own6))),
        ("own neighbour advertisement", ethernet(multi, a.mac, 0x86dd, &icmp6(own6, all6, 136, own6))),
        ("router solicitation", ethernet(multi, a.mac, 0x86dd, &icmp6(any6, all6, 133, any6))),
        ("UDP", ethernet(b.mac, a.mac, 0x0800, &ipv4(ip_a, ip_b, 17, &udp(5000, 5001)))),
    ];
    for (what, frame) in &truths {
        a.send(frame);
        assert!(b.sees(PATIENCE, |f| same(f, frame)).is_some(), "{what}");
    }
    // Where somebody else serves DHCP the request goes out to him.
    let mut open = desired.clone();
    open.ports.get_mut(&tap).unwrap().dhcp4 = Service::Open;
    reach(&mut engine, &open);
    let request = &lies.last().unwrap().1;
    a.send(request);
    assert!(b.sees(PATIENCE, |f| same(f, request)).is_some());
    // A promiscuous NIC may say anything, but is no DHCP server or router to whom Multihome or the guard speaks.
    open.ports.get_mut(&tap).unwrap().security = Security::Promiscuous;
    let other = name(names::TAP, "nic1.11");
    assert!(open.ports.contains_key(&other));
    for service in [Service::Served, Service::Guarded] {
        open.ports.get_mut(&other).unwrap().dhcp4 = service;
        open.ports.get_mut(&other).unwrap().dhcp6 = service;
        reach(&mut engine, &open);
        let mut silenced = 0;
        for (what, frame) in lies.iter().filter(|(what, _)| what.starts_with("a DHCP server") || *what == "a router") {
            a.send(frame);
            assert!(b.sees(SILENCE, |f| same(f, frame)).is_none(), "{what} to a port that is {service:?}");
            silenced += 1;
        }
        assert!(silenced == 3, "{silenced}");
    }
    open.ports.get_mut(&other).unwrap().dhcp4 = Service::Open;
    open.ports.get_mut(&other).unwrap().dhcp6 = Service::Open;
    reach(&mut engine, &open);
    for (what, frame) in &lies {
        a.send(frame);
        // But of VLANs a network that is no trunk knows nothing.
        let (patience, passes) = if *what == "a VLAN tag" { (SILENCE, false) } else { (PATIENCE, true) };
        assert_eq!(b.sees(patience, |f| same(f, frame)).is_some(), passes, "{what}");
    }
    // And back: what it was taught is not kept, and the lies end.
    reach(&mut engine, &desired);
    a.send(&lies[0].1);
    assert!(b.sees(SILENCE, |f| same(f, &lies[0].1)).is_none());
    assert!(a.ping(b.ip, b.ip));
    // A tap whose facts are gone may say nothing at all.
    assert!(engine.apply(&[Step::DeletePort(tap)]).is_empty());
    assert!(!a.ping_for(b.ip, b.ip, SILENCE));
}

#[test]
fn what_is_meant_for_the_metadata_service_goes_no_further() {
    let Some(host) = host("what_is_meant_for_the_metadata_service_goes_no_further") else { return };
    let mut engine = host.engine();
    let mut desired = plan();
    let tap = name(names::TAP, "nic1.10");
    let service = ip("169.254.169.254");
    let six = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let own6 = mac(10).link_local().octets();
    let multi = [0x33, 0x33, 0, 0, 0, 1];
    reach(&mut engine, &desired);
    let (mut a, b) = (guest(&host, &engine, 1, 10), guest(&host, &engine, 1, 11));
    for security in [desired.ports[&tap].security.clone(), Security::Promiscuous] {
        desired.ports.get_mut(&tap).unwrap().security = security;
        reach(&mut engine, &desired);
        let spy = engine.packet_socket(&tap, &filter::metadata()).unwrap();
        // To its neighbour's MAC, as to its gateway's.
        let questions = [
            ethernet(BROADCAST, a.mac, 0x0806, &arp(1, a.mac, a.ip, BROADCAST, service)),
            ethernet(b.mac, a.mac, 0x0800, &ipv4(a.ip, service, 6, &[0; 20])),
            ethernet(b.mac, a.mac, 0x0800, &ipv4(a.ip, service, 17, &udp(5000, 53))),
            ethernet(multi, a.mac, 0x86dd, &icmp6(own6, six("ff02::1"), 135, six("fe80::a9fe:a9fe"))),
            ethernet(multi, a.mac, 0x86dd, &icmp6(own6, six("ff02::1"), 135, six("fd00:ec2::254"))),
            ethernet(b.mac, a.mac, 0x86dd, &icmp6(own6, six("fd00:ec2::254"), 128, [0; 16])),
            ethernet(b.mac, a.mac, 0x86dd, &icmp6(own6, six("fe80::a9fe:a9fe"), 128, [0; 16])),
        ];
        b.forget();
        for q in &questions {
            a.send(q);
        }
        let heard = b.sees(SILENCE, |f| questions.iter().any(|q| same(f, q)));
        assert_eq!(heard, None);
        // The service hears all of it but ICMPv6 that asks about nobody.
        let mut batch = FrameBatch::new(16, 2048);
        assert_eq!(spy.receive(&mut batch).unwrap(), questions.len() - 2);
        // What only resembles it passes.
        let near = ethernet(b.mac, a.mac, 0x0800, &ipv4(a.ip, ip("169.254.169.253"), 17, &udp(5000, 53)));
        a.send(&near);
        assert!(b.sees(PATIENCE, |f| same(f, &near)).is_some());
    }
}

#[test]
fn no_guest_hears_or_forges_what_nodes_probe_with() {
    let Some(host) = host("no_guest_hears_or_forges_what_nodes_probe_with") else { return };
    let mut engine = host.engine();
    let mut desired = plan();
    let tap = name(names::TAP, "nic1.10");
    // Whoever may say anything else may not say this.
    desired.ports.get_mut(&tap).unwrap().security = Security::Promiscuous;
    reach(&mut engine, &desired);
    let (mut a, b) = (guest(&host, &engine, 1, 10), guest(&host, &engine, 1, 11));
    let prober = names::probe_mac("node", "uid").0;
    let answer = arp(2, a.mac, a.ip, prober, std::net::Ipv4Addr::UNSPECIFIED);
    let hidden = [ethernet(BROADCAST, a.mac, 0x88b5, &[0; 46]), ethernet(prober, a.mac, 0x0806, &answer)];
    let near = ethernet(BROADCAST, a.mac, 0x88b6, &[0; 46]);
    b.forget();
    for f in hidden.iter().chain([&near]) {
        a.send(f);
    }
    assert!(b.sees(PATIENCE, |f| same(f, &near)).is_some(), "another EtherType passes, sent last");
    b.forget();
    for f in &hidden {
        a.send(f);
    }
    assert_eq!(b.sees(SILENCE, |f| hidden.iter().any(|h| same(f, h))), None);
}

#[test]
fn a_kill_at_any_step_leaks_nothing_and_ends_where_it_should() {
    let test = "a_kill_at_any_step_leaks_nothing_and_ends_where_it_should";
    let Some(host) = host(test) else { return };
    let desired = plan();
    let steps = diff(&NodeState::default(), &desired);
    let before = (host.links(), host.forwards());
    assert_eq!(before.1, "0");
    for killed_after in (0..=steps.len()).step_by(3) {
        let failed = host.engine().apply(&steps[..killed_after]);
        assert!(failed.is_empty(), "{failed:#?}");
        let mut engine = host.engine();
        reach(&mut engine, &desired);
        assert_eq!(host.forwards(), "1");
        // Down again, killed half way, and taken up by another.
        let down = diff(&desired, &NodeState::default());
        let half = killed_after.min(down.len());
        assert!(engine.apply(&down[..half]).is_empty());
        let failed = host.engine().teardown();
        assert!(failed.is_empty(), "{failed:#?}");
        assert_eq!((host.links(), host.forwards()), before, "after {killed_after} steps");
        assert_eq!(host.namespaces(), [""; 0]);
        assert_eq!(host.ruleset(), "");
        assert!(!host.state.path().join("state/forwarding").exists());
    }
}

#[test]
fn what_does_not_change_is_not_touched() {
    let Some(host) = host("what_does_not_change_is_not_touched") else { return };
    let mut engine = host.engine();
    let mut desired = plan();
    reach(&mut engine, &desired);
    let (mut a, b) = (guest(&host, &engine, 1, 10), guest(&host, &engine, 1, 11));
    assert!(a.ping(b.ip, b.ip));
    let hop = a.resolve(b.ip, PATIENCE).unwrap();
    std::thread::scope(|scope| {
        let pinging = scope.spawn(|| {
            let mut lost = 0;
            for _ in 0..200 {
                let packet = ipv4(a.ip, b.ip, 1, &echo(8, 9));
                a.send(&ethernet(hop, a.mac, 0x0800, &packet));
                let back = a.sees(PATIENCE, |f| f[12..14] == [8, 0] && f[34] == 0);
                lost += u32::from(back.is_none());
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            lost
        });
        // Meanwhile agents come and go, NICs, networks and mistakes come and go.
        while !pinging.is_finished() {
            let mut engine = host.engine();
            reach(&mut engine, &desired);
            nic(&mut desired, 1, 12, true);
            network(&mut desired, 4, "cccc");
            reach(&mut engine, &desired);
            desired = plan();
            reach(&mut host.engine(), &desired);
        }
        assert_eq!(pinging.join().unwrap(), 0, "packets lost");
    });
    // What somebody else spoilt is seen, and mended.
    let tap = name(names::TAP, "nic1.10");
    let bridge = name(names::BRIDGE, "net1");
    let mut rtnl = Rtnl::open_in(&host.netns).unwrap();
    let spoil = LinkChange { up: Some(false), master: Some(0), mtu: Some(1400), ..LinkChange::default() };
    rtnl.change_named(tap.as_str(), &spoil).unwrap();
    rtnl.change_named(bridge.as_str(), &LinkChange { up: Some(false), ..LinkChange::default() }).unwrap();
    host.netns.run(|| sysctl::set("net/ipv4/conf/out0/forwarding", "0").unwrap()).unwrap();
    match &host.vswitch {
        None => {
            let index = rtnl.index(name(names::TAP, "nic1.11").as_str()).unwrap();
            let planted = FdbEntry { index, mac: mac(10).0, remote: None, own: false, permanent: true };
            assert!(rtnl.fdb_set(&[planted]).into_iter().all(|r| r.is_ok()));
        }
        Some(vswitch) => {
            let vswitch = vswitch.lock().unwrap();
            vswitch.ofctl("del-flows", bridge.as_str(), &["dl_dst=52:54:00:00:00:0b"]).unwrap();
            vswitch.ofctl("add-flow", bridge.as_str(), &["table=0,priority=99,actions=drop"]).unwrap();
            vswitch.vsctl(&["set", "Port", tap.as_str(), "tag=7"]).unwrap();
            vswitch.vsctl(&["set", "Bridge", bridge.as_str(), "fail_mode=standalone"]).unwrap();
        }
    }
    reach(&mut host.engine(), &desired);
    assert!(a.ping(b.ip, b.ip));
    assert!(a.ping(ip("198.51.100.1"), ip("10.1.0.1")));
    // A domain that somebody deleted is made again.
    let full = format!("{}{}", host.prefix, domain_name("a"));
    Netns::delete(&full).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    reach(&mut host.engine(), &desired);
    assert!(a.ping(ip("198.51.100.1"), ip("10.1.0.1")));
}

#[test]
fn what_cannot_be_done_says_why_and_hinders_nothing_else() {
    let Some(host) = host("what_cannot_be_done_says_why_and_hinders_nothing_else") else { return };
    let mut engine = host.engine();
    let mut desired = plan();
    let vlan = name(names::VLAN, "net2");
    let kind = UplinkKind::Vlan { parent: IfName::new("out0").unwrap(), id: VlanId::new(100).unwrap() };
    let uplink = Uplink {
        alias: "uplink default/net2".into(),
        bridge: name(names::BRIDGE, "net2"),
        mtu: Mtu::new(1450).unwrap(),
        kind,
        own: [].into(),
    };
    desired.uplinks.insert(vlan.clone(), uplink);
    if OVS {
        // A whole device is what Open vSwitch takes, and the node needs this one.
        let failed = engine.apply(&diff(&NodeState::default(), &desired));
        assert_eq!(failed.len(), 1, "{failed:#?}");
        assert!(failed[0].error.is_permanent());
        let text = failed[0].error.to_string();
        assert!(
            text.starts_with("this node cannot do VLAN 100 on out0: out0: it carries the node's own address"),
            "{text}"
        );
        desired.uplinks.remove(&vlan);
        assert_eq!(engine.observe().unwrap(), desired);
    } else if capabilities().check(multihome_netlink::Capability::Vlan).is_ok() {
        reach(&mut engine, &desired);
    } else {
        let failed = engine.apply(&diff(&NodeState::default(), &desired));
        assert_eq!(failed.len(), 1, "{failed:#?}");
        assert!(failed[0].error.is_permanent());
        let text = failed[0].error.to_string();
        assert!(text.starts_with("this node cannot do VLAN 100 on out0: "), "{text}");
        assert!(text.contains("Operation not supported"), "{text}");
        desired.uplinks.remove(&vlan);
        assert_eq!(engine.observe().unwrap(), desired);
    }
    // A device of ours by name that is something else is not touched.
    let foreign = name(names::BRIDGE, "foreign");
    let mut rtnl = Rtnl::open_in(&host.netns).unwrap();
    let peer = VethPeer { name: "x", netns: None, mac: None, mtu: None };
    rtnl.create(&NewLink { name: foreign.as_str(), kind: LinkKind::Veth { peer }, change: LinkChange::default() })
        .unwrap();
    assert_eq!(engine.observe().unwrap(), desired);
    let bridge = Bridge { alias: "net x".into(), mtu: Mtu::ETHERNET };
    let failed = engine.apply(&[Step::PutBridge(foreign, bridge)]);
    assert!(failed[0].error.to_string().contains("it is a veth and not ours"), "{failed:?}");
}

#[test]
fn a_gateway_is_changed_in_place() {
    let Some(host) = host("a_gateway_is_changed_in_place") else { return };
    let mut engine = host.engine();
    let mut desired = plan();
    reach(&mut engine, &desired);
    let mut a = guest(&host, &engine, 1, 10);
    assert!(a.ping(ip("10.1.0.1"), ip("10.1.0.1")));
    let domain = desired.domains.get_mut(&domain_name("a")).unwrap();
    let leg = domain.legs.get_mut(&name(names::LEG, "net1")).unwrap();
    leg.mac = MacAddr([2, 0, 0, 0, 9, 9]);
    leg.mtu = Mtu::new(1400).unwrap();
    leg.addresses = BTreeSet::from(["10.1.0.254/24".parse().unwrap()]);
    domain.egress.as_mut().unwrap().nat.remove(&"10.1.0.0/24".parse::<IpNet>().unwrap());
    reach(&mut engine, &desired);
    assert_eq!(a.resolve(ip("10.1.0.254"), PATIENCE), Some([2, 0, 0, 0, 9, 9]));
    assert!(a.resolve(ip("10.1.0.1"), SILENCE).is_none());
    assert!(!a.ping_for(ip("198.51.100.1"), ip("10.1.0.254"), SILENCE), "no way out any more");
    // Without a way out at all, and back.
    let egress = desired.domains.get_mut(&domain_name("bb")).unwrap().egress.take();
    reach(&mut engine, &desired);
    assert_eq!(host.forwards(), "1", "the other domain still has its way out");
    desired.domains.get_mut(&domain_name("bb")).unwrap().egress = egress;
    reach(&mut engine, &desired);
}

#[test]
fn queues_and_lengths_are_remembered() {
    let Some(host) = host("queues_and_lengths_are_remembered") else { return };
    let mut engine = host.engine();
    let mut desired = plan();
    let tap = name(names::TAP, "nic1.10");
    let wanted = desired.taps.get_mut(&tap).unwrap();
    wanted.queues = 4;
    wanted.tx_queue_length = Some(500);
    reach(&mut engine, &desired);
    assert_eq!(engine.open_tap(&tap, 4).unwrap().len(), 4);
    let wanted = desired.taps.get_mut(&tap).unwrap();
    wanted.queues = 1;
    wanted.tx_queue_length = Some(1000);
    reach(&mut engine, &desired);
    assert_eq!(engine.open_tap(&tap, 1).unwrap().len(), 1);
}

#[test]
fn the_thousandth_nic_costs_what_the_tenth_did() {
    let Some(host) = host("the_thousandth_nic_costs_what_the_tenth_did") else { return };
    let mut engine = host.engine();
    let mut desired = NodeState::default();
    // A bridge has at most 1,023 ports, and walks them when one more joins: ten networks.
    (0..10).for_each(|n| network(&mut desired, n, "a"));
    reach(&mut engine, &desired);
    let mut attach = |n: u32| {
        let tap = name(names::TAP, &format!("many{n}"));
        let b = n.to_be_bytes();
        let mac = MacAddr([0x52, 0x54, 1, b[1], b[2], b[3]]);
        let security = Security::Strict {
            mac,
            ipv4: BTreeSet::from([Ipv4Addr::new(10, b[1], b[2], b[3])]),
            ipv6: BTreeSet::from([mac.link_local()]),
        };
        let wanted = Tap {
            alias: format!("nic default/many{n}"),
            bridge: name(names::BRIDGE, &format!("net{}", n % 10)),
            mtu: Mtu::new(1450).unwrap(),
            queues: 1,
            tx_queue_length: None,
            vlans: None,
        };
        let port = Port { dhcp4: Service::Served, dhcp6: Service::Open, security };
        let started = Instant::now();
        let failed = engine.apply(&[Step::PutPort(tap.clone(), port), Step::PutTap(tap, wanted)]);
        assert!(failed.is_empty(), "{failed:#?}");
        started.elapsed()
    };
    let mut times = Vec::new();
    for n in 0..1000 {
        times.push(attach(n));
    }
    let median = |range: std::ops::Range<usize>| {
        let mut part = times[range].to_vec();
        part.sort();
        part[part.len() / 2]
    };
    println!("attach a NIC: {:?} at 10, {:?} at 1,000", median(5..25), median(980..1000));
    let started = Instant::now();
    let seen = engine.observe().unwrap();
    println!("observe {} NICs: {:?}", seen.taps.len(), started.elapsed());
    assert_eq!(seen.taps.len(), 1000);
}
