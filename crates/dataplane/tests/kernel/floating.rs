//! Floating addresses: a street with a router of somebody else's, and NICs of a routing domain that it reaches.

use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::process::Command;

use multihome_model::checked::check_network;
use multihome_model::{Algorithm, IpFamilySpec, NetworkSpec, NetworkType};
use multihome_plan::node::{
    Fabric, Forward, MOST_POLICY_ROUTES, NodeFloating, NodeInput, NodeNetwork, NodePolicyRoute, Steer, Transport, build,
};

use super::router::{Place, input};
use super::*;

/// A street with a router, which knows the way to 192.88.99.1 and 2001:db8:99::1, at the host's eth1.
pub(super) struct Street {
    pub(super) netns: Netns,
    pub(super) rtnl: Rtnl,
}

impl Street {
    pub(super) fn new(host: &Host) -> Self {
        let netns = Netns::anonymous().unwrap();
        let up = || LinkChange { up: Some(true), ..LinkChange::default() };
        let peer = VethPeer { name: "wire", netns: Some(netns.as_fd()), mac: None, mtu: None };
        let mut near = Rtnl::open_in(&host.netns).unwrap();
        near.create(&NewLink { name: "eth1", kind: LinkKind::Veth { peer }, change: up() }).unwrap();
        let mut rtnl = Rtnl::open_in(&netns).unwrap();
        let wire = rtnl.index("wire").unwrap();
        rtnl.change(wire, &up()).unwrap();
        if OVS {
            // A wire carries whole frames: whoever sends by this one makes its checksums himself, as a real device would.
            let whole = || multihome_netlink::set_offload("wire", multihome_netlink::Offload::TxChecksum, false);
            netns.run(whole).unwrap().unwrap();
        }
        rtnl.change_named("lo", &up()).unwrap();
        let addresses = [
            (wire, "198.18.0.1", 24),
            (1, "192.88.99.1", 32),
            (wire, "2001:db8:18::1", 64),
            (1, "2001:db8:99::1", 128),
        ];
        for (index, address, prefix) in addresses {
            rtnl.address_set(&Address { index, ip: address.parse().unwrap(), prefix }, true).unwrap();
        }
        Self { netns, rtnl }
    }

    /// The index of the street's end of the cable.
    pub(super) fn index(&mut self) -> u32 {
        self.rtnl.index("wire").unwrap()
    }

    /// What ping says of an address.
    fn ping(&self, args: &[&str]) -> (bool, String) {
        let out = self.netns.run(|| Command::new("ping").args(["-c", "1", "-W", "2"]).args(args).output()).unwrap();
        let out = out.unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
    }

    pub(super) fn reaches(&self, to: &str) -> bool {
        self.ping(&[to]).0
    }

    /// Tries a TCP connection, which the guests of raw frames never take.
    fn knocks(&self, at: &str) {
        let at = at.parse().unwrap();
        self.netns.run(|| drop(std::net::TcpStream::connect_timeout(&at, SILENCE))).unwrap();
    }

    pub(super) fn knows(&mut self, address: &str) -> Option<[u8; 6]> {
        let address: IpAddr = address.parse().unwrap();
        self.rtnl.neighbours().unwrap().into_iter().find(|n| n.ip == address).and_then(|n| n.mac)
    }
}

pub(super) fn family(cidr: &str, gateway: &str) -> Option<IpFamilySpec> {
    Some(IpFamilySpec { cidr: Some(cidr.into()), gateway: Some(gateway.into()), ..Default::default() })
}

/// The untagged network of the street, on eth1.
pub(super) fn outside() -> NodeNetwork {
    let spec = NetworkSpec {
        r#type: NetworkType::Untagged,
        cluster_network: Some("street".into()),
        ipv4: family("198.18.0.0/24", "198.18.0.1"),
        ipv6: family("2001:db8:18::/64", "2001:db8:18::1"),
        ..Default::default()
    };
    NodeNetwork {
        uid: "street".into(),
        key: "default/street".into(),
        spec: check_network("street", &spec).unwrap(),
        mtu: Mtu::ETHERNET,
        vni: None,
        vpc_uid: None,
    }
}

const NICS: [Place; 2] = [(1, 10, 0), (1, 11, 0)];

/// Two NICs with both families on an overlay whose IPv4 has a way out by the host, and the street.
pub(super) fn both_families() -> NodeInput {
    let mut input = input(0, &NICS);
    let spec = NetworkSpec {
        r#type: NetworkType::Overlay,
        vpc: Some("red".into()),
        nat_outgoing: Some(true),
        ipv4: family("10.1.0.0/24", "10.1.0.1"),
        ipv6: family("fd00:1::/64", "fd00:1::1"),
        ..Default::default()
    };
    input.networks[0].spec = check_network("net", &spec).unwrap();
    for (nic, (n, m, _)) in input.nics.iter_mut().zip(NICS) {
        nic.addresses.push(format!("fd00:{n}::{m}").parse().unwrap());
    }
    input.vpcs[0].subnets.insert("fd00:1::/64".parse().unwrap());
    input.networks.push(outside());
    input.node.fabrics.insert("street".into(), Fabric { device: IfName::new("eth1").ok(), bond: None });
    input
}

/// An address of the street that leads to NIC 10: all of it, or ports.
pub(super) fn floating(address: &str, forwards: &[Forward]) -> NodeFloating {
    let address: IpAddr = address.parse().unwrap();
    let target = if address.is_ipv4() { "10.1.0.10" } else { "fd00:1::10" };
    NodeFloating {
        uid: format!("float {address}"),
        key: "default/float".into(),
        network: "default/street".into(),
        address,
        node: "node0".into(),
        domain: "red".into(),
        target: forwards.is_empty().then(|| target.parse().unwrap()),
        forwards: forwards
            .iter()
            .map(|f| Forward { backends: [target.parse().unwrap()].into(), ..f.clone() })
            .collect(),
        algorithm: Algorithm::RoundRobin,
    }
}

pub(super) fn planned(floating: &[NodeFloating]) -> NodeState {
    build(&NodeInput { floating: floating.to_vec(), ..both_families() })
}

pub(super) const WEB: Forward =
    Forward { transport: Transport::Tcp, port: 80, target: 8080, backends: BTreeSet::new() };

#[test]
fn a_floating_address_leads_in_and_out_of_a_domain() {
    let Some(host) = host("a_floating_address_leads_in_and_out_of_a_domain") else { return };
    let mut street = Street::new(&host);
    let whole = planned(&[floating("198.18.0.77", &[])]);
    let mut engine = host.engine();
    reach(&mut engine, &whole);
    let mut ten = guest(&host, &engine, 1, 10);
    let mut eleven = guest(&host, &engine, 1, 11);
    // Out: the street sees the floating address.
    assert!(ten.ping_for(ip("192.88.99.1"), ip("10.1.0.1"), PATIENCE), "out by the floating address");
    assert!(street.knows("198.18.0.77").is_some());
    assert!(!eleven.ping_for(ip("192.88.99.1"), ip("10.1.0.1"), SILENCE), "it is one NIC's alone");
    // In: as a stranger on the street sees it. He is told of a packet that is too big by the address that he asked.
    assert!(street.reaches("198.18.0.77"), "in by the floating address");
    let (_, said) = street.ping(&["-M", "do", "-s", "1440", "198.18.0.77"]);
    assert!(said.contains("From 198.18.0.77") && said.contains("mtu = 1450"), "{said}");
    // Ports alone: nothing goes out by it, and nothing but them comes in.
    let ports = planned(&[floating("198.18.0.77", &[WEB])]);
    reach(&mut engine, &ports);
    assert!(!ten.ping_for(ip("192.88.99.1"), ip("10.1.0.1"), SILENCE));
    street.knocks("198.18.0.77:80");
    let syn = ten.sees(PATIENCE, |f| f[12..14] == [8, 0] && f[23] == 6 && f[36..38] == 8080u16.to_be_bytes());
    assert!(syn.is_some(), "the connection arrives at the NIC's port");
    comes_and_goes(&host, &mut engine, &ports);
}

/// A crash half way, and gone without a trace.
fn comes_and_goes(host: &Host, engine: &mut AnyEngine, state: &NodeState) {
    let steps = diff(&NodeState::default(), state);
    reach(engine, &NodeState::default());
    for cut in 0..steps.len() {
        assert!(host.engine().apply(&steps[..cut]).is_empty());
        reach(&mut host.engine(), state);
        reach(&mut host.engine(), &NodeState::default());
    }
    assert_eq!(host.namespaces(), [""; 0]);
    assert!(!host.links().iter().any(|l| l.starts_with("mh")), "{:?}", host.links());
}

/// A UDP datagram over IPv6 that is cited in the answer that its port is closed (RFC 4443 section 3.1).
fn closed(to: Ipv6Addr, from: Ipv6Addr, datagram: &[u8]) -> Vec<u8> {
    icmp6_packet(from, to, [&[1, 4, 0, 0, 0, 0, 0, 0][..], datagram].concat())
}

#[test]
fn a_floating_ipv6_address_leads_in_and_out_and_leaves_ipv4_alone() {
    let Some(host) = host("a_floating_ipv6_address_leads_in_and_out_and_leaves_ipv4_alone") else { return };
    let mut street = Street::new(&host);
    let (world, gateway): (Ipv6Addr, Ipv6Addr) = ("2001:db8:99::1".parse().unwrap(), "fd00:1::1".parse().unwrap());
    let six = "2001:db8:18::77";
    let whole = planned(&[floating(six, &[])]);
    let mut engine = host.engine();
    reach(&mut engine, &whole);
    let mut ten = guest(&host, &engine, 1, 10);
    let mut eleven = guest(&host, &engine, 1, 11);
    assert!(ten.ping6(world, gateway, PATIENCE), "out by the floating address");
    let there = whole.domains[&domain_name("red")].floating.values().next().unwrap().clone();
    assert_eq!(street.knows(six), Some(there.mac.0), "the street sees it");
    assert!(!eleven.ping6(world, gateway, SILENCE), "it is one NIC's alone");
    assert!(ten.ping6(eleven.six, eleven.six, PATIENCE), "its own network is as it was");
    assert!(street.reaches(six), "in by the floating address");
    let (_, said) = street.ping(&["-M", "do", "-s", "1440", six]);
    assert!(said.contains(&format!("From {six}")) && said.contains("mtu=1450"), "{said}");
    // IPv4 of the same NIC goes out as ever: by the host.
    assert!(ten.ping_for(ip("198.51.100.1"), ip("10.1.0.1"), PATIENCE));
    assert!(!ten.ping_for(ip("192.88.99.1"), ip("10.1.0.1"), SILENCE), "and not by the street");
    // What the NIC says of a datagram comes back to whoever sent that, as of the floating address.
    let socket = street.netns.run(|| UdpSocket::bind("[::]:0").unwrap()).unwrap();
    socket.connect((six, 9999)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(b"anybody?").unwrap();
    let seen = ten.sees(PATIENCE, |f| f[12..14] == [0x86, 0xdd] && f[20] == 17 && f[56..58] == 9999u16.to_be_bytes());
    let seen = seen.expect("the datagram arrives");
    let hop = ten.resolve6(gateway, PATIENCE).unwrap();
    let answer = closed("2001:db8:18::1".parse().unwrap(), ten.six, &seen[14..]);
    ten.send(&ethernet(hop, ten.mac, 0x86dd, &answer));
    let refused = socket.recv(&mut [0; 16]).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{refused}");
    // An address of each family: ports of the one, and the whole of the other.
    let two = planned(&[floating(six, &[WEB]), floating("198.18.0.77", &[])]);
    reach(&mut engine, &two);
    assert!(!ten.ping6(world, gateway, SILENCE), "nothing goes out by ports");
    assert!(ten.ping_for(ip("192.88.99.1"), ip("10.1.0.1"), PATIENCE));
    street.knocks("[2001:db8:18::77]:80");
    let syn = ten.sees(PATIENCE, |f| f[12..14] == [0x86, 0xdd] && f[20] == 6 && f[56..58] == 8080u16.to_be_bytes());
    assert!(syn.is_some(), "the connection arrives at the NIC's port");
    comes_and_goes(&host, &mut engine, &whole);
}

#[test]
fn as_many_policy_routes_as_there_may_be_are_asked_before_a_floating_address() {
    let Some(host) = host("as_many_policy_routes_as_there_may_be_are_asked_before_a_floating_address") else { return };
    let _street = Street::new(&host);
    let to = |net: IpNet| NodePolicyRoute { from: "0.0.0.0/0".parse().unwrap(), to: net, action: Steer::Drop };
    let other = |n: usize| to(IpNet::from(IpAddr::from(Ipv4Addr::from(0xac10_0000 + n as u32))));
    let last = to("10.3.0.0/24".parse().unwrap());
    let planned = |routes: usize| {
        let mut input = input(0, &[(1, 10, 0), (3, 30, 0)]);
        input.networks.push(outside());
        input.node.fabrics.insert("street".into(), Fabric { device: IfName::new("eth1").ok(), bond: None });
        input.floating.push(floating("198.18.0.77", &[]));
        input.vpcs[0].policy_routes = (1..routes).map(other).chain((routes > 0).then_some(last.clone())).collect();
        build(&input)
    };
    let mut engine = host.engine();
    reach(&mut engine, &planned(0));
    let mut ten = guest(&host, &engine, 1, 10);
    let _thirty = guest(&host, &engine, 3, 30);
    assert!(ten.ping(ip("10.3.0.30"), ip("10.1.0.1")));
    // Their rules stand in one list with those of the address.
    reach(&mut engine, &planned(MOST_POLICY_ROUTES));
    assert!(!ten.ping_for(ip("10.3.0.30"), ip("10.1.0.1"), SILENCE), "the last of them counts");
    reach(&mut engine, &planned(0));
    assert!(ten.ping(ip("10.3.0.30"), ip("10.1.0.1")));
    reach(&mut engine, &NodeState::default());
}
