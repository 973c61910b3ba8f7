//! What VXLAN uplinks know of other nodes.

use std::net::IpAddr;

use multihome_netlink::PortFlags;
use multihome_plan::node::{Flood, Remote};

use super::*;

fn remote(via: &str, addresses: &[&str]) -> Remote {
    let parse = |a: &&str| a.parse::<IpAddr>().unwrap();
    Remote { via: via.parse().unwrap(), addresses: addresses.iter().map(parse).collect() }
}

#[test]
fn what_other_nodes_carry_is_known_and_answered_for() {
    let Some(host) = host("what_other_nodes_carry_is_known_and_answered_for") else { return };
    let mut engine = host.engine();
    let mut desired = plan();
    let uplink = name(names::VXLAN, "net3");
    let to = |nodes: &[&str]| nodes.iter().map(|n| n.parse().unwrap()).collect();
    let known = desired.remotes.get_mut(&uplink).unwrap();
    known.flood = Flood {
        nodes: to(&["192.0.2.2", "192.0.2.9"]),
        unknown: false,
        own: [ip("10.3.0.1").into(), "fd00:3::1".parse().unwrap()].into(),
    };
    known.hosts.insert(mac(40), remote("192.0.2.2", &["10.3.0.40", "fd00:3::40"]));
    known.hosts.insert(mac(41), remote("192.0.2.2", &["10.3.0.41"]));
    reach(&mut engine, &desired);

    // The bridge answers for it, and nothing asks on the underlay.
    let out = host.outside.run(|| {
        let index = Rtnl::open().unwrap().index("world").unwrap();
        multihome_netlink::packet::PacketSocket::open(index, &filter::all()).unwrap()
    });
    let out = out.unwrap();
    let mut guest = guest(&host, &engine, 3, 30);
    assert_eq!(guest.resolve(ip("10.3.0.40"), PATIENCE), Some(mac(40).0));
    assert_eq!(guest.resolve(ip("10.3.0.41"), PATIENCE), Some(mac(41).0));
    let tunnelled = |inner: &[u8]| {
        let mut batch = FrameBatch::new(64, 2048);
        let started = Instant::now();
        let mut seen = false;
        while !seen && started.elapsed() < SILENCE {
            seen = out.receive(&mut batch).is_ok() && batch.iter().any(|f| f.data.get(50..64) == inner.get(..14));
            std::thread::sleep(SILENCE / 50);
        }
        seen
    };
    let question = arp(1, guest.mac, guest.ip, [0; 6], ip("10.3.0.40"));
    assert!(!tunnelled(&question), "the question crossed the underlay");
    let question = arp(1, guest.mac, guest.ip, [0; 6], ip("10.3.0.1"));
    assert_eq!(guest.resolve(ip("10.3.0.1"), PATIENCE), Some([2, 0, 0, 0, 1, 3]), "the gateway of this node");
    assert!(!tunnelled(&ethernet(BROADCAST, guest.mac, 0x0806, &question)), "and no other one is asked");
    // What is for it goes to its node.
    let frame = ethernet(mac(40).0, guest.mac, 0x0800, &ipv4(guest.ip, ip("10.3.0.40"), 1, &echo(8, 1)));
    guest.send(&frame);
    assert!(tunnelled(&frame));
    // What nobody knows goes nowhere.
    let frame = ethernet(mac(99).0, guest.mac, 0x0800, &ipv4(guest.ip, ip("10.3.0.99"), 1, &echo(8, 1)));
    guest.send(&frame);
    assert!(!tunnelled(&frame), "unknown addresses are not flooded");

    // Moved, renumbered, gone, and other nodes; by an engine that was there and by one that starts.
    let known = desired.remotes.get_mut(&uplink).unwrap();
    known.hosts.insert(mac(40), remote("192.0.2.9", &["10.3.0.41", "fd00:3::44"]));
    known.hosts.remove(&mac(41));
    known.flood = Flood { nodes: to(&["192.0.2.9"]), unknown: true, own: [ip("10.3.0.1").into()].into() };
    reach(&mut engine, &desired);
    let known = desired.remotes.get_mut(&uplink).unwrap();
    known.flood.unknown = false;
    known.hosts.insert(mac(42), remote("192.0.2.2", &["10.3.0.42"]));
    reach(&mut host.engine(), &desired);

    // What somebody spoilt is mended.
    let mut rtnl = Rtnl::open_in(&host.netns).unwrap();
    let index = rtnl.index(uplink.as_str()).unwrap();
    let bridge = rtnl.index(name(names::BRIDGE, "net3").as_str()).unwrap();
    match &host.vswitch {
        None => rtnl.neighbour_delete(bridge, "10.3.0.42".parse().unwrap()).unwrap(),
        Some(vswitch) => {
            let bridge = name(names::BRIDGE, "net3");
            vswitch.lock().unwrap().ofctl("del-flows", bridge.as_str(), &["arp,arp_tpa=10.3.0.42"]).map(drop).unwrap();
        }
    }
    let entry =
        FdbEntry { index, mac: mac(40).0, remote: Some("192.0.2.9".parse().unwrap()), own: true, permanent: true };
    assert!(rtnl.fdb_delete(&[entry]).into_iter().all(|r| r.is_ok()));
    if !OVS {
        let port = PortFlags { neigh_suppress: Some(false), ..PortFlags::default() };
        rtnl.change(index, &LinkChange { port, ..LinkChange::default() }).unwrap();
    }
    reach(&mut host.engine(), &desired);

    // A NIC that comes to this node is a port's, and leaves it again for another.
    let mut here = desired.clone();
    here.remotes.get_mut(&uplink).unwrap().hosts.remove(&mac(42));
    nic(&mut here, 3, 42, false);
    reach(&mut engine, &here);
    reach(&mut engine, &desired);
    // An overlay that goes leaves nothing.
    reach(&mut engine, &NodeState::default());
    assert!(rtnl.neighbours().unwrap().iter().all(|n| !n.permanent));
}
