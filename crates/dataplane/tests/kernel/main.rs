//! The kernel engine on a host that is a network namespace, with guests of raw frames. Needs root;
//! without it every test says that it was skipped.
#![allow(clippy::unwrap_used)]

mod balance;
mod bandwidth;
mod conversations;
mod floating;
pub(crate) mod guest;
mod guests;
mod harm;
mod mirror;
mod overlay;
mod policy;
mod router;
mod state;
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
use multihome_model::{Bandwidth, BitRate, IfName, MacAddr, Mtu, VlanId, Vni, names};
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
    state.taps.insert(
        tap.clone(),
        Tap { alias, bridge, mtu, queues: 1, tx_queue_length: None, vlans: None, bandwidth: Bandwidth::default() },
    );
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
    let rate = BitRate::parse("1G").ok();
    state.taps.get_mut(&name(names::TAP, "nic2.20")).unwrap().bandwidth = Bandwidth { ingress: rate, egress: rate };
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
