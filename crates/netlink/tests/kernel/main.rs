//! Against the real kernel, each test in a network namespace of its own. Needs root; without it
//! every test says that it was skipped.
#![allow(clippy::unwrap_used)]

mod packets;
mod qdisc;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use multihome_netlink::nft::{self, Changes, Data, Element, Family, Nft, Value};
use multihome_netlink::packet::{FrameBatch, PacketSocket, filter};
use multihome_netlink::{
    Address, BridgeVlan, Conntrack, FdbEntry, IcmpSocket, Idempotent, LinkChange, LinkEvent, LinkEvents, LinkKind,
    Netns, NewLink, PortFlags, Route, Rtnl, Rule, Tap, VethPeer, fdpass, process, sysctl, udp,
};

fn namespace(test: &str) -> Option<Netns> {
    match Netns::anonymous() {
        Ok(netns) => Some(netns),
        Err(e) => {
            println!("SKIPPED {test}: {e}");
            None
        }
    }
}

const BRIDGE: LinkKind<'static> = LinkKind::Bridge { ageing: 30_000, vlan_filtering: false };

fn new<'a>(name: &'a str, kind: LinkKind<'a>) -> NewLink<'a> {
    NewLink { name, kind, change: LinkChange { up: Some(true), ..LinkChange::default() } }
}

fn out(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn links_are_what_ip_shows() {
    let Some(netns) = namespace("links_are_what_ip_shows") else {
        return;
    };
    netns
        .run(|| {
            let mut rtnl = Rtnl::open().unwrap();
            let other = Netns::anonymous().unwrap();
            let mac = [2, 0, 0, 0, 0, 1];
            let bridge = NewLink {
                name: "br0",
                kind: BRIDGE,
                change: LinkChange {
                    mac: Some(mac),
                    mtu: Some(1400),
                    alias: Some("network/default/blue"),
                    up: Some(true),
                    ..LinkChange::default()
                },
            };
            let br = rtnl.create(&bridge).unwrap();
            assert!(rtnl.create(&bridge).unwrap_err().is_exists());
            let vx = LinkKind::Vxlan {
                vni: 77,
                port: 4789,
                local: Some(Ipv4Addr::LOCALHOST.into()),
                ttl: 64,
                learning: false,
                underlay: None,
            };
            let vx = rtnl.create(&new("vx0", vx)).unwrap();
            let peer =
                VethPeer { name: "far", netns: Some(other.as_fd()), mac: Some([2, 0, 0, 0, 0, 9]), mtu: Some(1300) };
            let near = rtnl.create(&new("near", LinkKind::Veth { peer })).unwrap();
            let port = PortFlags {
                learning: Some(false),
                isolated: Some(true),
                unicast_flood: Some(false),
                ..PortFlags::default()
            };
            let change = LinkChange { master: Some(br), port, ..LinkChange::default() };
            rtnl.change(near, &change).unwrap();
            rtnl.change_named("vx0", &LinkChange { master: Some(br), ..LinkChange::default() }).unwrap();

            let shown = out("ip", &["-d", "link", "show"]);
            for part in [
                "alias network/default/blue",
                "vxlan id 77 local 127.0.0.1",
                "nolearning",
                "isolated on",
                "02:00:00:00:00:01",
                "mcast_snooping 0",
            ] {
                assert!(shown.contains(part), "{part} is not in {shown}");
            }
            let seen = rtnl.link("br0").unwrap().unwrap();
            assert_eq!((seen.index, seen.mac, seen.mtu, seen.up), (br, Some(mac), 1400, true));
            assert_eq!((seen.kind.as_str(), seen.alias.as_str()), ("bridge", "network/default/blue"));
            let seen = rtnl.link_at(near).unwrap().unwrap();
            assert_eq!((seen.master, seen.port.isolated), (br, Some(true)));
            assert_eq!((seen.port.learning, seen.port.unicast_flood), (Some(false), Some(false)));
            let seen = rtnl.link_at(vx).unwrap().unwrap();
            assert_eq!((seen.vni, seen.vxlan_port), (Some(77), Some(4789)));
            let far = Rtnl::open_in(&other).unwrap().link("far").unwrap().unwrap();
            assert_eq!((far.mtu, far.up, far.mac), (1300, false, Some([2, 0, 0, 0, 0, 9])));
            assert_eq!(rtnl.links().unwrap().iter().filter(|l| l.master == br).count(), 2);

            rtnl.change(near, &LinkChange { up: Some(false), ..LinkChange::default() }).unwrap();
            let moved = LinkChange { netns: Some(other.as_fd()), name: Some("moved"), ..LinkChange::default() };
            rtnl.change(near, &moved).unwrap();
            assert!(Rtnl::open_in(&other).unwrap().link("moved").unwrap().is_some());

            rtnl.delete("br0").unwrap();
            assert!(rtnl.delete("br0").unwrap_err().is_missing());
            assert!(rtnl.delete("br0").unless_missing().unwrap().is_none());
            assert!(rtnl.link("br0").unwrap().is_none());
        })
        .unwrap();
}

#[test]
fn an_error_says_what_failed_and_why() {
    let Some(netns) = namespace("an_error_says_what_failed_and_why") else {
        return;
    };
    let mut rtnl = Rtnl::open_in(&netns).unwrap();
    let e = rtnl.create(&new("v0", LinkKind::Vlan { parent: 1, id: 5000 })).unwrap_err();
    let text = e.to_string();
    assert!(text.starts_with("create vlan device v0: "), "{text}");
    let e = rtnl.create(&new("a name of sixteen", BRIDGE)).unwrap_err().to_string();
    assert!(e.contains("1 to 15 characters"), "{e}");
    // A bridge of 10 bytes MTU is refused in the kernel's own words.
    let small = LinkChange { mtu: Some(10), ..LinkChange::default() };
    let e = rtnl.create(&NewLink { name: "br", kind: BRIDGE, change: small }).unwrap_err().to_string();
    assert!(e.contains("mtu less than device minimum"), "{e}");
}

#[test]
fn addresses_routes_neighbours_and_fdb_are_set_listed_and_deleted() {
    let name = "addresses_routes_neighbours_and_fdb_are_set_listed_and_deleted";
    let Some(netns) = namespace(name) else { return };
    let mut rtnl = Rtnl::open_in(&netns).unwrap();
    let br = rtnl.create(&new("br0", BRIDGE)).unwrap();
    let peer = VethPeer { name: "far", netns: None, mac: None, mtu: None };
    let near = rtnl.create(&new("near", LinkKind::Veth { peer })).unwrap();
    rtnl.change(near, &LinkChange { master: Some(br), ..LinkChange::default() }).unwrap();
    let four = Address { index: br, ip: "10.1.0.1".parse().unwrap(), prefix: 24 };
    let six = Address { index: br, ip: "fd00:1::1".parse().unwrap(), prefix: 64 };
    for a in [&four, &six] {
        rtnl.address_set(a, true).unwrap();
        rtnl.address_set(a, true).unwrap();
    }
    let all = rtnl.addresses().unwrap();
    assert!(all.contains(&four) && all.contains(&six), "{all:?}");

    let mut routes = vec![
        Route { gateway: Some("10.1.0.9".parse().unwrap()), ..Route::to("0.0.0.0".parse().unwrap(), 0) },
        Route { oif: br, table: 7000, ..Route::to("10.9.0.0".parse().unwrap(), 16) },
        Route { gateway: Some("fd00:1::9".parse().unwrap()), metric: 50, ..Route::to("::".parse().unwrap(), 0) },
        Route {
            gateway: Some("192.0.2.1".parse().unwrap()),
            oif: br,
            onlink: true,
            ..Route::to("198.51.100.0".parse().unwrap(), 24)
        },
    ];
    for r in &routes {
        rtnl.route_set(r).unwrap();
        rtnl.route_set(r).unwrap();
    }
    let listed = rtnl.routes().unwrap();
    routes.iter_mut().for_each(|r| r.oif = br);
    for r in &routes {
        assert_eq!(listed.iter().filter(|l| *l == r).count(), 1, "{r:?} in {listed:#?}");
    }
    let shown = netns.run(|| out("ip", &["route", "show", "table", "all"])).unwrap();
    assert!(shown.contains("198.51.100.0/24 via 192.0.2.1 dev br0 proto 77 onlink"), "{shown}");
    rtnl.route_delete(&routes[0]).unwrap();
    assert!(rtnl.route_delete(&routes[0]).unwrap_err().is_missing());

    let ip: IpAddr = "10.1.0.7".parse().unwrap();
    let mac = [2, 0, 0, 0, 0, 7];
    assert!(rtnl.neighbours_set(&[(br, ip, mac)]).pop().unwrap().is_ok());
    assert!(rtnl.neighbours().unwrap().iter().any(|n| n.ip == ip && n.mac == Some(mac) && n.permanent));
    rtnl.neighbour_delete(br, ip).unwrap();

    let entry = FdbEntry { index: near, mac, remote: None, own: false, permanent: true };
    for _ in 0..2 {
        assert!(rtnl.fdb_set(std::slice::from_ref(&entry)).pop().unwrap().is_ok());
    }
    let fdb = rtnl.fdb().unwrap();
    assert_eq!(fdb.iter().filter(|e| **e == entry).count(), 1, "{fdb:#?}");
    let own = rtnl.fdb_of(near).unwrap();
    assert!(own.contains(&entry) && own.iter().all(|e| e.index == near), "{own:#?}");
    let shown = netns.run(|| out("bridge", &["fdb", "show", "dev", "near"])).unwrap();
    assert!(shown.contains("02:00:00:00:00:07 sticky master br0 static"), "{shown}");
    assert!(rtnl.fdb_delete(std::slice::from_ref(&entry)).pop().unwrap().is_ok());
    assert!(rtnl.fdb_delete(&[entry]).pop().unwrap().unwrap_err().is_missing());

    let local = Some(Ipv4Addr::LOCALHOST.into());
    let kind = LinkKind::Vxlan { vni: 5, port: 4789, local, ttl: 0, learning: false, underlay: None };
    let vx = rtnl.create(&new("vx", kind)).unwrap();
    let flood = |last| FdbEntry {
        index: vx,
        mac: [0; 6],
        remote: Some(Ipv4Addr::new(192, 0, 2, last).into()),
        own: true,
        permanent: true,
    };
    let both = [flood(1), flood(2), flood(1)];
    assert!(rtnl.fdb_set(&both).into_iter().all(|r| r.is_ok()));
    let fdb = rtnl.fdb().unwrap();
    assert_eq!(fdb.iter().filter(|e| e.index == vx && e.own && e.mac == [0; 6]).count(), 2, "{fdb:#?}");
    rtnl.address_delete(&four).unwrap();
    assert!(rtnl.address_delete(&four).unwrap_err().is_missing());
}

#[test]
fn named_namespaces_are_those_of_ip_netns() {
    let test = "named_namespaces_are_those_of_ip_netns";
    if namespace(test).is_none() {
        return;
    }
    let name = format!("mh-test-{}", std::process::id());
    let netns = Netns::ensure(&name).unwrap();
    Netns::ensure(&name).unwrap();
    assert!(Netns::list().unwrap().contains(&name));
    assert!(out("ip", &["netns", "list"]).contains(&name));
    assert!(out("ip", &["-n", &name, "link"]).contains("lo"));
    let before = netns.run(|| sysctl::set("net/ipv4/ip_forward", "1")).unwrap().unwrap();
    assert_eq!(before, "0");
    let shown = out("ip", &["netns", "exec", &name, "cat", "/proc/sys/net/ipv4/ip_forward"]);
    assert_eq!(shown.trim(), "1");
    Netns::delete(&name).unwrap();
    assert!(Netns::delete(&name).unwrap_err().is_missing());
    assert!(Netns::open(&name).unwrap_err().is_missing());
    assert!(!Netns::list().unwrap().contains(&name));
    // The handle still works, although the name is gone.
    assert_eq!(netns.run(|| sysctl::read("net/ipv4/ip_forward")).unwrap().unwrap(), "1");
}

#[test]
fn elements_are_what_nft_lists() {
    let Some(netns) = namespace("elements_are_what_nft_lists") else {
        return;
    };
    let rules = "table bridge t {
        set macs { type ifname . ether_addr; counter; }
        set addresses { type ifname . ether_addr . ipv4_addr; }
        set plain { type ether_addr; }
        map marks { type ifname : mark; }
        map verdicts { type ifname : verdict; }
        chain out { }
        chain c { type filter hook prerouting priority -300; iifname . ether saddr @macs accept; }
    }";
    if let Err(e) = nft::load_in(&netns, rules) {
        println!("SKIPPED elements_are_what_nft_lists: {e}");
        return;
    }
    let mut nft = Nft::open_in(&netns).unwrap();
    let mac = [2, 0, 0, 0, 0, 5];
    let mut changes = Changes::new();
    let key = || Data::new().ifname("tap0").mac(mac);
    changes
        .add("macs", Element::key(key()))
        .add("addresses", Element::key(key().ip("10.1.0.5".parse().unwrap())))
        .add("plain", Element::key(Data::new().mac(mac)))
        .add("marks", Element::pair(Data::new().ifname("tap0"), Data::new().native(0x42)))
        .add("verdicts", Element::verdict(Data::new().ifname("tap0"), Value::Jump("out".into())))
        .add("verdicts", Element::verdict(Data::new().ifname("tap1"), Value::Drop));
    nft.apply(Family::Bridge, "t", &changes).unwrap();
    nft.apply(Family::Bridge, "t", &changes).unwrap();
    let shown = netns.run(|| out("nft", &["list", "table", "bridge", "t"])).unwrap();
    for part in [
        "\"tap0\" . 02:00:00:00:00:05 counter packets 0 bytes 0",
        "\"tap0\" . 02:00:00:00:00:05 . 10.1.0.5",
        "{ 02:00:00:00:00:05 }",
        "\"tap0\" : 0x00000042",
        "\"tap0\" : jump out",
        "\"tap1\" : drop",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    let listed = nft.elements(Family::Bridge, "t", "macs").unwrap();
    assert_eq!((listed.len(), listed[0].packets), (1, Some(0)));
    assert_eq!(listed[0].key.len(), 24);
    let listed = nft.elements(Family::Bridge, "t", "marks").unwrap();
    assert_eq!(listed[0].value, 0x42u32.to_ne_bytes());

    // All or nothing: the second set is not there, so the first stays empty of it.
    let mut bad = Changes::new();
    bad.add("plain", Element::key(Data::new().mac([2, 0, 0, 0, 0, 6])));
    bad.add("nowhere", Element::key(Data::new().mac(mac)));
    let e = nft.apply(Family::Bridge, "t", &bad).unwrap_err();
    assert!(e.is_missing(), "{e}");
    assert_eq!(nft.elements(Family::Bridge, "t", "plain").unwrap().len(), 1);

    // A map's value is changed in one transaction; deleting what is not there is no fault.
    let mut swap = Changes::new();
    swap.delete("marks", Data::new().ifname("tap0"))
        .add("marks", Element::pair(Data::new().ifname("tap0"), Data::new().native(7)))
        .delete("plain", Data::new().mac([2, 0, 0, 0, 9, 9]));
    nft.apply(Family::Bridge, "t", &swap).unwrap();
    assert_eq!(nft.elements(Family::Bridge, "t", "marks").unwrap()[0].value, 7u32.to_ne_bytes());

    let mut many = Changes::new();
    for i in 0..10_000u32 {
        let b = i.to_be_bytes();
        many.add("macs", Element::key(Data::new().ifname("tap7").mac([2, 1, b[0], b[1], b[2], b[3]])));
    }
    let start = Instant::now();
    nft.apply(Family::Bridge, "t", &many).unwrap();
    let bulk = start.elapsed();
    assert_eq!(nft.elements(Family::Bridge, "t", "macs").unwrap().len(), 10_001);
    let start = Instant::now();
    for i in 0..100u8 {
        let mut one = Changes::new();
        one.add("macs", Element::key(Data::new().ifname("tap8").mac([2, 2, 0, 0, 0, i])));
        nft.apply(Family::Bridge, "t", &one).unwrap();
    }
    println!("10,000 elements in one transaction: {bulk:?}; one more: {:?}", start.elapsed() / 100);

    assert!(nft.has_table(Family::Bridge, "t").unwrap());
    nft.delete_table(Family::Bridge, "t").unwrap();
    assert!(nft.delete_table(Family::Bridge, "t").unwrap_err().is_missing());
    assert!(!nft.has_table(Family::Bridge, "t").unwrap());
}

#[test]
fn a_tap_is_opened_as_soon_as_nobody_holds_it() {
    let Some(netns) = namespace("a_tap_is_opened_as_soon_as_nobody_holds_it") else { return };
    let open = || {
        let tap = Tap { name: "tap0", multi_queue: false, vnet_hdr: false };
        tap.create(None).unwrap();
        let held = tap.open().unwrap();
        let holder = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            drop(held);
        });
        let opened = tap.open();
        holder.join().unwrap();
        opened.map(drop).unwrap();
    };
    netns.run(open).unwrap();
}

#[test]
fn a_datagram_says_where_it_came_in() {
    let Some(netns) = namespace("a_datagram_says_where_it_came_in") else {
        return;
    };
    netns
        .run(|| {
            let mut rtnl = Rtnl::open().unwrap();
            rtnl.change_named("lo", &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
            let server = udp::open(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 67), Some("lo")).unwrap();
            let client = udp::open(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 68), None).unwrap();
            let to = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 9), 67);
            udp::send(client.as_fd(), b"hello", to, Ipv4Addr::new(127, 0, 0, 3), 0).unwrap();
            let mut buf = [0; 64];
            let seen = udp::receive(server.as_fd(), &mut buf).unwrap();
            assert_eq!((seen.len, seen.to, seen.ifindex), (5, *to.ip(), 1));
            assert_eq!(*seen.from.ip(), Ipv4Addr::new(127, 0, 0, 3));
        })
        .unwrap();
}

#[test]
fn descriptors_travel_with_bytes() {
    let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut file = tempfile();
    file.write_all(b"content").unwrap();
    assert_eq!(fdpass::send(a.as_fd(), b"{}\n", &[file.as_fd(), a.as_fd()]).unwrap(), 3);
    let mut buf = [0; 16];
    let (n, fds) = fdpass::receive(b.as_fd(), &mut buf).unwrap();
    assert_eq!((&buf[..n], fds.len()), (&b"{}\n"[..], 2));
    let mut text = String::new();
    let mut got = std::fs::File::from(fds.into_iter().next().unwrap());
    std::io::Seek::rewind(&mut got).unwrap();
    std::io::Read::read_to_string(&mut got, &mut text).unwrap();
    assert_eq!(text, "content");
}

fn tempfile() -> std::fs::File {
    let path = std::env::temp_dir().join(format!("multihome-fdpass-{}", std::process::id()));
    let file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file
}

#[test]
fn a_process_is_never_mistaken_for_another() {
    let mut command = Command::new("sleep");
    command.arg("60");
    let mut child = process::own_session(&mut command).spawn().unwrap();
    let start = process::start_time(child.id()).unwrap();
    assert!(process::Process::open(child.id(), start + 1).unwrap_err().is_missing());
    let p = process::Process::open(child.id(), start).unwrap();
    assert!(!p.wait(Duration::from_millis(1)));
    p.signal(9).unwrap();
    assert!(p.wait(Duration::from_secs(5)));
    child.wait().unwrap();
    assert!(p.signal(0).unwrap_err().is_missing());
}

#[test]
fn link_events_tell_what_happens() {
    let Some(netns) = namespace("link_events_tell_what_happens") else {
        return;
    };
    let mut events = LinkEvents::open_in(&netns).unwrap();
    let mut rtnl = Rtnl::open_in(&netns).unwrap();
    let index = rtnl.create(&new("br0", BRIDGE)).unwrap();
    // The kernel tells of IPv6 addresses a moment later.
    let addressed = |events: &mut LinkEvents| {
        (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            events.read().unwrap().contains(&LinkEvent::Addressed(index))
        })
    };
    for ip in ["10.0.0.7", "fd00::7"] {
        let address = Address { index, ip: ip.parse().unwrap(), prefix: 24 };
        rtnl.address_set(&address, true).unwrap();
        assert!(addressed(&mut events), "{ip} came");
        rtnl.address_delete(&address).unwrap();
        assert!(addressed(&mut events), "{ip} went");
    }
    rtnl.create(&new("br1", BRIDGE)).unwrap();
    rtnl.delete("br0").unwrap();
    let seen = events.read().unwrap();
    assert!(seen.iter().any(|e| matches!(e, LinkEvent::Changed(l) if l.name == "br1" && l.up)), "{seen:#?}");
    assert!(matches!(seen.last(), Some(LinkEvent::Gone(l)) if l.name == "br0"), "{seen:#?}");
    assert!(events.read().unwrap().is_empty());
}

#[test]
fn the_probe_gives_a_reason_for_what_is_missing() {
    if namespace("the_probe_gives_a_reason_for_what_is_missing").is_none() {
        return;
    }
    let start = Instant::now();
    let found = multihome_netlink::probe().unwrap();
    println!("probed in {:?}", start.elapsed());
    for (capability, reason) in found.iter() {
        println!("{}: {}", capability.name(), reason.unwrap_or("ok"));
        assert!(reason.is_none_or(|r| r.len() > 10));
    }
    assert_eq!(found.iter().count(), multihome_netlink::Capability::ALL.len());
    assert!(found.check(multihome_netlink::Capability::Bridge).is_ok());
}

#[test]
fn operations_cost_microseconds() {
    let Some(netns) = namespace("operations_cost_microseconds") else {
        return;
    };
    netns
        .run(|| {
            let mut rtnl = Rtnl::open().unwrap();
            let br = rtnl.create(&new("br0", BRIDGE)).unwrap();
            let start = Instant::now();
            for i in 0..50 {
                let name = format!("tap{i}");
                Tap { name: &name, multi_queue: false, vnet_hdr: true }.create(None).unwrap();
            }
            println!("create tap: {:?}", start.elapsed() / 50);
            let start = Instant::now();
            for i in 0..50 {
                let change = LinkChange {
                    up: Some(true),
                    master: Some(br),
                    alias: Some("nic/default/x"),
                    port: PortFlags { learning: Some(false), ..PortFlags::default() },
                    ..LinkChange::default()
                };
                rtnl.change_named(&format!("tap{i}"), &change).unwrap();
            }
            println!("master, alias, port flags and up of a tap: {:?}", start.elapsed() / 50);
            let start = Instant::now();
            for _ in 0..100 {
                rtnl.link("tap7").unwrap();
            }
            println!("look up a link: {:?}", start.elapsed() / 100);
            let start = Instant::now();
            let n = rtnl.links().unwrap().len();
            println!("dump {n} links: {:?}", start.elapsed());
            let start = Instant::now();
            for _ in 0..100 {
                netns.run(|| ()).unwrap();
            }
            println!("run something in a namespace: {:?}", start.elapsed() / 100);
            let names: Vec<String> = (0..50).map(|i| format!("tap{i}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let start = Instant::now();
            assert!(rtnl.delete_all(&names).into_iter().all(|r| r.is_ok()));
            println!("delete a tap, 50 in a batch: {:?}", start.elapsed() / 50);
        })
        .unwrap();
}

#[test]
fn what_a_doctor_reads_is_what_ip_set() {
    let Some(netns) = namespace("what_a_doctor_reads_is_what_ip_set") else {
        return;
    };
    netns
        .run(|| {
            let ip = |line: &str| {
                let said = out("ip", &line.split(' ').collect::<Vec<_>>());
                assert_eq!(said, "", "ip {line}");
            };
            for n in [0, 1] {
                ip(&format!("link add v{n} type veth peer name w{n}"));
                ip(&format!("link set v{n} up"));
                ip(&format!("link set w{n} up"));
            }
            ip("addr add 10.0.0.5/24 dev v0 valid_lft 100 preferred_lft 50");
            ip("addr add 10.1.0.5/24 dev v1");
            ip("route add default metric 7 mtu 1400 nexthop via 10.0.0.1 dev v0 nexthop via 10.1.0.1 dev v1 weight 3");
            ip("rule add pref 1001 from 10.1.0.0/24 to 192.0.2.0/24 iif v0 fwmark 5 lookup 1000 suppress_prefixlength 0");
            let mut rtnl = Rtnl::open().unwrap();
            let (v0, v1) = (rtnl.index("v0").unwrap(), rtnl.index("v1").unwrap());
            let addresses = rtnl.address_infos().unwrap();
            let a = addresses.iter().find(|a| a.index == v0 && a.ip.is_ipv4()).unwrap();
            assert!(a.dynamic && a.scope == 0 && a.valid.is_some_and(|v| (90..=100).contains(&v)), "{a:?}");
            assert!(!addresses.iter().find(|a| a.index == v1 && a.ip.is_ipv4()).unwrap().dynamic);
            let routes = rtnl.route_infos().unwrap();
            let r = routes.iter().find(|r| r.route.metric == 7).unwrap();
            let hops: Vec<(u32, u32)> = r.next_hops.iter().map(|h| (h.oif, h.weight)).collect();
            assert_eq!((hops, r.mtu, r.dead), (vec![(v0, 1), (v1, 3)], Some(1400), false));
            let rules = rtnl.rules().unwrap();
            let rule = rules.iter().find(|r| r.priority == 1001).unwrap();
            assert_eq!((rule.from, rule.table, rule.mark), ((IpAddr::from([10, 1, 0, 0]), 24), 1000, Some(5)));
            assert_eq!(rule.to, Some((IpAddr::from([192, 0, 2, 0]), 24)));
            assert_eq!((rule.iif.as_deref(), rule.suppress_prefix), (Some("v0"), Some(0)));
            // Ours as ip shows it, once, and gone again.
            let mine = Rule::from_address(IpAddr::from([10, 0, 0, 5]), 300, 1002);
            rtnl.rule_add(&mine).unwrap();
            assert!(rtnl.rule_add(&mine).unwrap_err().is_exists());
            assert!(out("ip", &["rule"]).contains("1002:\tfrom 10.0.0.5 lookup 300"), "{}", out("ip", &["rule"]));
            rtnl.rule_delete(&mine).unwrap();
            assert!(rtnl.rule_delete(&mine).unwrap_err().is_missing());
            // Two equal default routes beside one another.
            for gateway in [[10, 0, 0, 1], [10, 0, 0, 2]] {
                let route = Route { gateway: Some(gateway.into()), oif: v0, ..Route::to(IpAddr::from([0, 0, 0, 0]), 0) };
                rtnl.route_append(&route).unwrap();
            }
            assert_eq!(out("ip", &["route", "show", "default"]).matches("proto 77").count(), 2);
            ip("neigh add 10.0.0.9 lladdr 02:00:00:00:00:09 dev v0 nud stale");
            let n = rtnl.neighbour_infos().unwrap().into_iter().find(|n| n.ip == IpAddr::from([10, 0, 0, 9])).unwrap();
            assert_eq!((n.state, n.mac), (4, Some([2, 0, 0, 0, 0, 9])));
            assert_eq!(multihome_netlink::driver("v0").unwrap(), "veth");
            assert!(multihome_netlink::driver("nothing").unwrap_err().is_missing());
        })
        .unwrap();
}

#[test]
fn vlans_of_ports_are_what_bridge_shows() {
    let test = "vlans_of_ports_are_what_bridge_shows";
    let Some(netns) = namespace(test) else { return };
    netns
        .run(|| {
            let mut rtnl = Rtnl::open().unwrap();
            let filtering = LinkKind::Bridge { ageing: 30_000, vlan_filtering: true };
            let br = match rtnl.create(&new("br0", filtering)) {
                Ok(index) if rtnl.link_at(index).unwrap().unwrap().vlan_filtering => index,
                other => return println!("SKIPPED {test}: this kernel's bridges do not filter VLANs: {other:?}"),
            };
            let peer = VethPeer { name: "far", netns: None, mac: None, mtu: None };
            let change = LinkChange { master: Some(br), ..LinkChange::default() };
            let near = rtnl.create(&NewLink { name: "near", kind: LinkKind::Veth { peer }, change }).unwrap();
            assert_eq!(rtnl.vlans().unwrap().get(&near).cloned().unwrap_or_default(), [], "none of its own accord");
            let all = [BridgeVlan::native(1), BridgeVlan::tagged(100, 200), BridgeVlan::tagged(4094, 4094)];
            rtnl.vlans_add(near, false, &all).unwrap();
            rtnl.vlans_add(br, true, &[BridgeVlan::tagged(7, 8)]).unwrap();
            assert_eq!(rtnl.vlans().unwrap()[&near], all);
            assert_eq!(rtnl.vlans().unwrap()[&br], [BridgeVlan::tagged(7, 8)]);
            let shown = out("bridge", &["vlan", "show", "dev", "near"]);
            assert!(shown.contains("1 PVID Egress Untagged") && shown.contains("150"), "{shown}");
            // Part of a range, and what is not there.
            rtnl.vlans_delete(near, false, &[BridgeVlan::tagged(101, 300), BridgeVlan::native(1)]).unwrap();
            rtnl.vlans_add(near, false, &[BridgeVlan::native(100)]).unwrap();
            assert_eq!(rtnl.vlans().unwrap()[&near], [BridgeVlan::native(100), BridgeVlan::tagged(4094, 4094)]);
            assert!(rtnl.vlans_add(near, false, &[BridgeVlan::tagged(4095, 4095)]).is_err());
        })
        .unwrap();
}

#[test]
fn conversations_are_listed_and_ended_one_by_one() {
    let Some(netns) = namespace("conversations_are_listed_and_ended_one_by_one") else { return };
    let rules = "table inet t {
        chain translate { type nat hook output priority -100; udp dport 53 dnat ip to 127.0.0.1:5353; }
        chain both { type filter hook output priority 0; ct state invalid drop; }
    }";
    if let Err(e) = nft::load_in(&netns, rules) {
        println!("SKIPPED conversations_are_listed_and_ended_one_by_one: {e}");
        return;
    }
    let (server, client, six) = netns
        .run(|| {
            Rtnl::open().unwrap().change_named("lo", &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
            let bind = |at: &str| std::net::UdpSocket::bind(at).unwrap();
            (bind("127.0.0.1:5353"), bind("127.0.0.1:0"), bind("[::1]:0"))
        })
        .unwrap();
    client.send_to(b"?", "127.0.0.9:53").unwrap();
    six.send_to(b"?", six.local_addr().unwrap()).unwrap();
    let own = six.local_addr().unwrap().port();
    server.recv_from(&mut [0; 4]).unwrap();
    let mut table = Conntrack::open_in(&netns).unwrap();
    let mut seen = vec![];
    assert_eq!(
        table
            .end(|c| {
                seen.push(c.clone());
                false
            })
            .unwrap(),
        0
    );
    let port = client.local_addr().unwrap().port();
    let mine = seen.iter().find(|c| c.original.ports == (port, 53)).unwrap();
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!((mine.original.source, mine.original.destination), (ip("127.0.0.1"), ip("127.0.0.9")));
    assert_eq!((mine.reply.source, mine.reply.ports, mine.reply.protocol), (ip("127.0.0.1"), (5353, port), 17));
    assert!(seen.iter().any(|c| c.original.destination == ip("::1") && c.original.ports == (own, own)), "{seen:?}");
    assert_eq!(table.end(|c| c.original.ports == (port, 53)).unwrap(), 1);
    let mut left = 0;
    table
        .end(|c| {
            left += 1;
            assert_ne!(c.original.ports, (port, 53));
            false
        })
        .unwrap();
    assert_eq!(left, seen.len() - 1, "the others go on");
}

#[test]
fn rules_that_copy_say_where_to_and_others_nothing() {
    let test = "rules_that_copy_say_where_to_and_others_nothing";
    let Some(netns) = namespace(test) else { return };
    if let Err(why) = multihome_netlink::probe().unwrap().check(multihome_netlink::Capability::Mirror) {
        return println!("SKIPPED {test}: {why}");
    }
    netns
        .run(|| {
            let mut rtnl = Rtnl::open().unwrap();
            let peer = VethPeer { name: "far", netns: None, mac: None, mtu: None };
            rtnl.create(&new("near", LinkKind::Veth { peer })).unwrap();
            let far = rtnl.index("far").unwrap();
            let mut nft = Nft::open().unwrap();
            assert!(nft.tables(Family::Netdev).unwrap().is_empty() && nft.copying(Family::Netdev).unwrap().is_empty());
            let chain = "type filter hook ingress device \"near\" priority 0;";
            nft::load(&format!("table netdev a {{ chain c {{ {chain} dup to \"far\"; dup to \"far\" accept; }}; }}"))
                .unwrap();
            nft::load("table netdev b { }\ntable bridge a { }").unwrap();
            assert_eq!(nft.tables(Family::Netdev).unwrap(), ["a", "b"]);
            let rules = nft.copying(Family::Netdev).unwrap();
            let shown: Vec<_> = rules.iter().map(|r| (r.table.as_str(), r.chain.as_str(), r.to)).collect();
            assert_eq!(shown, [("a", "c", Some(far)), ("a", "c", None)]);
        })
        .unwrap();
}
