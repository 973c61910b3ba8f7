//! VLANs on real uplinks: trunks beside networks of one VLAN and of none, and a VLAN that changes. The cable is a tap, so that
//! its other end sees every frame with the tag that it has on the wire.

use std::collections::BTreeMap;

use multihome_model::checked::check_network;
use multihome_model::{NetworkSpec, NetworkType, PortSecurity, TrunkRange, VlanSpec};
use multihome_netlink::{Capability, Rtnl, Tap as TapDevice};
use multihome_plan::node::{Fabric, NodeFacts, NodeInput, NodeNetwork, NodeNic, build, tap_name};

use super::uplinks::{cabled, sh};
use super::*;

const TAG: u16 = 0x8100;
const SERVICE_TAG: u16 = 0x88a8;
const CABLE: &str = "lan0";

/// What another machine on the wire is.
const FAR: [u8; 6] = [0x52, 0x54, 0, 0, 9, 9];

/// A network with one NIC of its number.
struct Rider {
    n: u8,
    kind: NetworkType,
    vlan: Option<VlanSpec>,
    security: PortSecurity,
}

fn access(n: u8, id: u32) -> Rider {
    let vlan = Some(VlanSpec { id: Some(id), ..Default::default() });
    Rider { n, kind: NetworkType::Vlan, vlan, security: PortSecurity::Strict }
}

fn trunk(n: u8, ranges: &[(u32, u32)], native: Option<u32>) -> Rider {
    let trunk = ranges.iter().map(|(first, last)| TrunkRange { first: *first, last: Some(*last) }).collect();
    let vlan = Some(VlanSpec { id: native, trunk, shared: false });
    Rider { n, kind: NetworkType::VlanTrunk, vlan, security: PortSecurity::Strict }
}

/// A network of a namespace that shares its VLAN with others'.
fn shared(n: u8, id: u32) -> Rider {
    let vlan = Some(VlanSpec { id: Some(id), shared: true, ..Default::default() });
    Rider { vlan, ..access(n, id) }
}

fn untagged(n: u8) -> Rider {
    Rider { n, kind: NetworkType::Untagged, vlan: None, security: PortSecurity::Strict }
}

fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, n)
}

/// What a node with these networks on a fabric with the cable is to hold. All of them are one subnet, so that nothing but
/// their VLANs keeps them apart.
fn planned(riders: &[Rider], fabric: Fabric) -> NodeState {
    let mtus = riders.iter().map(|r| (r.n, Mtu::ETHERNET)).collect();
    sized(riders, fabric, &mtus)
}

/// The same with the largest packet of each network.
fn sized(riders: &[Rider], fabric: Fabric, mtus: &BTreeMap<u8, Mtu>) -> NodeState {
    let networks = riders.iter().map(|r| {
        let mut spec = NetworkSpec { r#type: r.kind, vlan: r.vlan.clone(), ..Default::default() };
        if r.kind != NetworkType::VlanTrunk {
            let none = multihome_model::IpFamilySpec {
                cidr: Some("10.0.0.0/24".into()),
                dhcp: Some(multihome_model::DhcpMode::None),
                ..Default::default()
            };
            spec.ipv4 = Some(none);
        }
        NodeNetwork {
            uid: format!("net{}", r.n),
            key: format!("default/net{}", r.n),
            spec: check_network("n", &spec).unwrap(),
            mtu: mtus[&r.n],
            vni: None,
            vpc_uid: None,
        }
    });
    let nics = riders.iter().map(|r| NodeNic {
        uid: format!("nic{}", r.n),
        key: format!("default/nic{}", r.n),
        network: format!("default/net{}", r.n),
        mac: mac(r.n),
        addresses: vec![address(r.n).into()],
        security: r.security,
        queues: 1,
        tx_queue_length: None,
        bandwidth: Bandwidth::default(),
    });
    let node = NodeFacts { fabrics: [("mgmt".to_owned(), fabric)].into(), ..Default::default() };
    build(&NodeInput { node, networks: networks.collect(), nics: nics.collect(), ..NodeInput::default() })
}

fn cable() -> Fabric {
    Fabric { device: Some(IfName::new(CABLE).unwrap()), bond: None }
}

/// A host with a cable, and who is at its other end.
pub fn wired(host: &Host) -> Guest {
    let tap = TapDevice { name: CABLE, multi_queue: false, vnet_hdr: !plain() };
    let fd = host.netns.run(|| tap.create(None).and_then(|()| tap.open())).unwrap().unwrap();
    sh(&host.netns, &format!("ip link set {CABLE} up"));
    Guest::new(fd, FAR, address(99))
}

fn plugged(host: &Host, engine: &AnyEngine, n: u8) -> Guest {
    let tap = tap_name(&format!("nic{n}"));
    let guest = Guest::new(engine.open_tap(&tap, 1).unwrap().remove(0), mac(n).0, address(n));
    forwards(host, tap.as_str());
    guest
}

/// Waits until the uplinks forward, too. What Open vSwitch's bridges have is what its database says that they have.
fn settled(host: &Host, state: &NodeState) {
    if let Some(vswitch) = &host.vswitch {
        let vswitch = vswitch.lock().unwrap();
        for bridge in vswitch.vsctl(&["list-br"]).unwrap().lines() {
            let said = vswitch.vsctl(&["list-ports", bridge]).unwrap();
            let mut said: Vec<&str> = said.lines().chain([bridge]).collect();
            // A port's line says « NUMBER(NAME): addr:MAC».
            let shown = vswitch.ofctl("show", bridge, &[]).unwrap();
            let name = |line: &'_ str| Some(line.split_once("): addr:")?.0.split_once('(')?.1.to_owned());
            let mut there: Vec<String> = shown.lines().filter_map(name).collect();
            said.sort_unstable();
            there.sort_unstable();
            assert_eq!(there, said, "the ports of {bridge}");
        }
    }
    for name in state.uplinks.keys().chain(state.fabrics.values().flat_map(|f| &f.uplink).map(|u| &u.device)) {
        forwards(host, name.as_str());
    }
}

/// A broadcast that nobody else says, with a tag or without. The last byte of a MAC is that of its address.
fn shout(from: [u8; 6], tag: Option<u16>, word: &str) -> Vec<u8> {
    let mut packet = ipv4(address(from[5]), Ipv4Addr::BROADCAST, 253, &[word.as_bytes(), &[b' '; 40]].concat());
    if let Some(id) = tag {
        packet = [&id.to_be_bytes()[..], &[8, 0], &packet].concat();
    }
    ethernet(BROADCAST, from, if tag.is_some() { TAG } else { 0x0800 }, &packet)
}

/// The tag that a frame with a word has at somebody: none heard, no tag, or that tag.
fn heard(at: &Guest, patience: std::time::Duration, word: &str) -> Option<Option<u16>> {
    let frame = at.sees(patience, |f| f.windows(word.len()).any(|w| w == word.as_bytes()))?;
    let kind = u16::from_be_bytes([frame[12], frame[13]]);
    Some((kind == TAG).then(|| u16::from_be_bytes([frame[14], frame[15]]) & 0xfff))
}

/// Skips the test where this kernel lacks what VLANs need.
pub(super) fn vlans(test: &str) -> Option<Host> {
    for capability in [Capability::Vlan, Capability::BridgeVlanFiltering].into_iter().filter(|_| !OVS) {
        if let Err(why) = capabilities().check(capability) {
            println!("SKIPPED {test}: this kernel has no {}: {why}", capability.name());
            return None;
        }
    }
    host(test)
}

#[test]
fn tags_are_kept_out_of_a_network_that_has_no_vlan() {
    let Some(host) = host("tags_are_kept_out_of_a_network_that_has_no_vlan") else { return };
    let mut far = wired(&host);
    let mut engine = host.engine();
    let state = planned(&[untagged(1)], cable());
    reach(&mut engine, &state);
    settled(&host, &state);
    let mut guest = plugged(&host, &engine, 1);
    // Nothing keeps the NIC from saying anything but that it is on a network without VLANs.
    let open = Port { dhcp4: Service::Open, dhcp6: Service::Open, security: Security::Promiscuous };
    assert!(engine.apply(&[Step::PutPort(tap_name("nic1"), open)]).is_empty());
    let double = |from| {
        let inner = shout(from, Some(7), "double");
        ethernet(BROADCAST, from, SERVICE_TAG, &[&[0, 5, 0x81, 0], &inner[14..]].concat())
    };
    for tag in [Some(100), Some(0), Some(4094), None] {
        let word = format!("tag-{tag:?}");
        let patience = if tag.is_none() { PATIENCE } else { SILENCE };
        let expected = tag.is_none().then_some(None);
        guest.send(&shout(guest.mac, tag, &word));
        assert_eq!(heard(&far, patience, &word), expected, "out: {word}");
        far.send(&shout(FAR, tag, &word));
        assert_eq!(heard(&guest, patience, &word), expected, "in: {word}");
    }
    guest.send(&double(guest.mac));
    far.send(&double(FAR));
    assert_eq!((heard(&far, SILENCE, "double"), heard(&guest, SILENCE, "double")), (None, None));
}

#[test]
fn a_trunk_shares_vlans_with_the_networks_of_its_fabric_and_nothing_else() {
    let Some(host) = vlans("a_trunk_shares_vlans_with_the_networks_of_its_fabric_and_nothing_else") else { return };
    let mut far = wired(&host);
    let mut engine = host.engine();
    let with = || vec![access(1, 100), access(2, 400), untagged(3), trunk(4, &[(90, 110), (200, 200)], Some(300))];
    let state = planned(&with(), cable());
    reach(&mut engine, &state);
    settled(&host, &state);
    let inner = state.fabrics.values().next().unwrap().uplink.as_ref().unwrap().untagged.unwrap().get();
    assert_eq!(inner, 4094);
    let mut all: Vec<Guest> = (1..=4).map(|n| plugged(&host, &engine, n)).collect();
    // Who says what with which tag, and what is heard by access 100, access 400, untagged, trunk and wire.
    let none = None;
    let plain = Some(None);
    let tagged = |id: u16| Some(Some(id));
    let wire = 4;
    type Heard = Option<Option<u16>>;
    #[rustfmt::skip]
    let said: [(&str, usize, Option<u16>, [Heard; 5]); 14] = [
        ("access 100", 0, None, [none, none, none, tagged(100), tagged(100)]),
        ("access 400", 1, None, [none, none, none, none, tagged(400)]),
        ("untagged", 2, None, [none, none, none, none, plain]),
        ("trunk 100", 3, Some(100), [plain, none, none, none, tagged(100)]),
        ("trunk 110", 3, Some(110), [none, none, none, none, tagged(110)]),
        ("trunk native", 3, None, [none, none, none, none, tagged(300)]),
        ("trunk not its own", 3, Some(400), [none; 5]),
        ("trunk inner", 3, Some(inner), [none; 5]),
        ("wire 100", wire, Some(100), [plain, none, none, tagged(100), none]),
        ("wire 200", wire, Some(200), [none, none, none, tagged(200), none]),
        ("wire 300", wire, Some(300), [none, none, none, plain, none]),
        ("wire 400", wire, Some(400), [none, plain, none, none, none]),
        ("wire 500", wire, Some(500), [none; 5]),
        ("wire inner", wire, Some(inner), [none; 5]),
    ];
    let mut says = |who: usize, tag, word: &str, expected: &[Heard; 5]| {
        let speaker = if who == wire { &mut far } else { &mut all[who] };
        speaker.send(&shout(speaker.mac, tag, word));
        for (i, expected) in expected.iter().enumerate().filter(|(i, _)| *i != who) {
            let at = if i == wire { &far } else { &all[i] };
            let patience = if expected.is_some() { PATIENCE } else { SILENCE };
            assert_eq!(heard(at, patience, word), *expected, "{word} at {i}");
        }
    };
    for (word, who, tag, expected) in &said {
        says(*who, *tag, word, expected);
    }
    says(wire, None, "wire without", &[none, none, plain, none, none]);
    // A strict trunk NIC has one MAC, with or without a tag.
    let stranger = [0x52, 0x54, 0, 0xbb, 0, 1];
    for tag in [None, Some(100)] {
        all[3].send(&shout(stranger, tag, "stranger"));
        assert_eq!((heard(&far, SILENCE, "stranger"), heard(&all[0], SILENCE, "stranger")), (None, None), "{tag:?}");
    }
    // A router behind it answers a network of one VLAN: unicast finds its way, by what the bridges learned.
    all[3].send(&shout(mac(4).0, Some(100), "here I am"));
    assert_eq!(heard(&all[0], PATIENCE, "here I am"), plain);
    let answer = ethernet(mac(4).0, mac(1).0, 0x0800, &ipv4(address(1), address(4), 253, b"to the router          "));
    all[0].send(&answer);
    assert_eq!(heard(&all[3], PATIENCE, "to the router"), tagged(100));
    assert_eq!(heard(&far, SILENCE, "to the router"), none);
}

#[test]
fn the_tags_of_a_trunk_are_in_the_copies_of_what_is_said_there() {
    let test = "the_tags_of_a_trunk_are_in_the_copies_of_what_is_said_there";
    let Some(host) = vlans(test) else { return };
    if let Err(why) = capabilities().check(Capability::Mirror) {
        return println!("SKIPPED {test}: this kernel cannot copy what a device takes in and gives out: {why}");
    }
    let mut far = wired(&host);
    let mut engine = host.engine();
    let mut state = planned(&[access(1, 100), access(2, 400), trunk(3, &[(90, 110)], Some(300))], cable());
    let (spoken, to) = (tap_name("nic3"), tap_name("nic2"));
    state.mirrors.insert(spoken, multihome_plan::node::Mirror { to, direction: Default::default() });
    reach(&mut engine, &state);
    settled(&host, &state);
    let [mut access, hearer, mut trunk] = [1, 2, 3].map(|n| plugged(&host, &engine, n));
    let tagged = |id: u16| Some(Some(id));
    let words =
        [("tagged", Some(100), tagged(100)), ("native", None, Some(None)), ("not its own", Some(400), tagged(400))];
    for (word, tag, copy) in words {
        trunk.send(&shout(trunk.mac, tag, word));
        assert_eq!(heard(&hearer, PATIENCE, word), copy, "{word}");
    }
    access.send(&shout(access.mac, None, "by a neighbour"));
    assert_eq!(heard(&trunk, PATIENCE, "by a neighbour"), tagged(100));
    assert_eq!(heard(&hearer, PATIENCE, "by a neighbour"), tagged(100));
    far.send(&shout(FAR, Some(300), "from the wire"));
    assert_eq!(heard(&hearer, PATIENCE, "from the wire"), Some(None));
    far.send(&shout(FAR, Some(200), "not for it"));
    assert_eq!(heard(&hearer, SILENCE, "not for it"), None);
}

/// Whether the node's own device is as it was before anybody took it.
fn given_back(host: &Host) -> bool {
    let link = Rtnl::open_in(&host.netns).unwrap().link(CABLE).unwrap().unwrap();
    let silent =
        host.netns.run(|| sysctl::read(&format!("net/ipv6/conf/{CABLE}/disable_ipv6"))).unwrap().unwrap() == "1";
    link.master == 0 && !silent && std::fs::read_dir(host.state.path().join("state")).unwrap().count() == 0
}

#[test]
fn a_trunk_comes_and_goes_and_a_kill_at_any_step_ends_where_it_should() {
    let Some(host) = vlans("a_trunk_comes_and_goes_and_a_kill_at_any_step_ends_where_it_should") else { return };
    let mut far = wired(&host);
    let without = planned(&[access(1, 100), untagged(3)], cable());
    let with = planned(&[access(1, 100), untagged(3), trunk(4, &[(90, 110)], None)], cable());
    let mut engine = host.engine();
    reach(&mut engine, &without);
    settled(&host, &without);
    let mut guests: Vec<Guest> = [1, 3].into_iter().map(|n| plugged(&host, &engine, n)).collect();
    let mut round = 0;
    let mut works = |state: &NodeState| {
        settled(&host, state);
        for (guest, tag) in guests.iter_mut().zip([Some(100), None]) {
            round += 1;
            let (out, back) = (format!("out {round}."), format!("back {round}."));
            guest.send(&shout(guest.mac, None, &out));
            assert_eq!(heard(&far, PATIENCE, &out), Some(tag), "{out}");
            far.send(&shout(FAR, tag, &back));
            assert_eq!(heard(guest, PATIENCE, &back), Some(None), "{back}");
        }
    };
    works(&without);
    for (from, to) in [(&without, &with), (&with, &without)] {
        for killed_after in 0..=diff(from, to).len() {
            reach(&mut host.engine(), from);
            let failed = host.engine().apply(&diff(from, to)[..killed_after]);
            assert!(failed.is_empty(), "{failed:#?}");
            let mut engine = host.engine();
            reach(&mut engine, to);
            works(to);
        }
    }
    // A trunk with nothing else, and what somebody spoilt.
    let alone = planned(&[trunk(4, &[(1, 4094)], None)], cable());
    let mut engine = host.engine();
    reach(&mut engine, &alone);
    let mut rtnl = Rtnl::open_in(&host.netns).unwrap();
    let index = rtnl.index(CABLE).unwrap();
    match &host.vswitch {
        None => {
            rtnl.vlans_delete(index, false, &[multihome_netlink::BridgeVlan::tagged(7, 9)]).unwrap();
            rtnl.vlans_add(index, false, &[multihome_netlink::BridgeVlan::native(11)]).unwrap();
        }
        Some(vswitch) => {
            vswitch.lock().unwrap().vsctl(&["set", "Port", CABLE, "trunks=7,9", "tag=11"]).map(drop).unwrap();
        }
    }
    assert_ne!(engine.observe().unwrap(), alone);
    reach(&mut engine, &alone);
    assert!(!given_back(&host));
    assert!(host.engine().teardown().is_empty());
    assert!(given_back(&host));
}

#[test]
fn a_vlan_changes_while_a_guest_talks() {
    let Some(host) = vlans("a_vlan_changes_while_a_guest_talks") else { return };
    let far = wired(&host);
    let mut engine = host.engine();
    let index = || Rtnl::open_in(&host.netns).unwrap().index(tap_name("nic1").as_str()).unwrap();
    reach(&mut engine, &planned(&[access(1, 100)], cable()));
    let (tap, mut guest) = (index(), plugged(&host, &engine, 1));
    // Alone on the cable, and beside a trunk.
    for beside in [&[][..], &[(1, 4000)][..]] {
        let riders = |id| -> Vec<Rider> {
            let trunks = beside.iter().map(|range| trunk(4, &[*range], None));
            [access(1, id)].into_iter().chain(trunks).collect()
        };
        let (before, after) = (planned(&riders(100), cable()), planned(&riders(200), cable()));
        reach(&mut engine, &before);
        settled(&host, &before);
        guest.send(&shout(guest.mac, None, "old"));
        assert_eq!(heard(&far, PATIENCE, "old"), Some(Some(100)));
        let stop = std::sync::atomic::AtomicBool::new(false);
        let tags = std::thread::scope(|scope| {
            let talking = scope.spawn(|| {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) && n < 5000 {
                    n += 1;
                    guest.send(&shout(guest.mac, None, &format!("talk {n}.")));
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                n
            });
            reach(&mut engine, &after);
            settled(&host, &after);
            stop.store(true, Ordering::Relaxed);
            let sent = talking.join().unwrap();
            let mut tags = Vec::new();
            while let Some(frame) = far.sees(SILENCE, |f| f.windows(5).any(|w| w == b"talk ")) {
                tags.push(u16::from_be_bytes([frame[14], frame[15]]) & 0xfff);
            }
            println!("{} of {sent} frames passed while the VLAN changed", tags.len());
            tags
        });
        // Each frame in one VLAN or the other, never back, and on the same tap.
        assert!(tags.is_sorted() && tags.iter().all(|t| [100, 200].contains(t)), "{tags:?}");
        assert_eq!(index(), tap);
        guest.send(&shout(guest.mac, None, "new"));
        assert_eq!(heard(&far, PATIENCE, "new"), Some(Some(200)));
        // Two networks change places.
        let pair = |a, b| planned(&[access(1, a), access(2, b)], cable());
        reach(&mut engine, &pair(200, 300));
        let swapped = pair(300, 200);
        reach(&mut engine, &swapped);
        settled(&host, &swapped);
        guest.send(&shout(guest.mac, None, "swapped"));
        assert_eq!(heard(&far, PATIENCE, "swapped"), Some(Some(300)));
    }
}

#[test]
fn networks_that_share_a_vlan_are_one_with_a_trunk_and_without() {
    let Some(host) = vlans("networks_that_share_a_vlan_are_one_with_a_trunk_and_without") else { return };
    let mut far = wired(&host);
    let mut engine = host.engine();
    let mut guests = Vec::new();
    for beside in [None, Some(trunk(4, &[(100, 100)], None))] {
        let state = planned(&[shared(1, 100), shared(2, 100)].into_iter().chain(beside).collect::<Vec<_>>(), cable());
        reach(&mut engine, &state);
        settled(&host, &state);
        if guests.is_empty() {
            guests.extend([1, 2].map(|n| plugged(&host, &engine, n)));
        }
        guests[0].send(&shout(mac(1).0, None, "to all"));
        assert_eq!(heard(&guests[1], PATIENCE, "to all"), Some(None));
        assert_eq!(heard(&far, PATIENCE, "to all"), Some(Some(100)));
        far.send(&shout(FAR, Some(100), "from afar"));
        assert!(guests.iter().all(|g| heard(g, PATIENCE, "from afar") == Some(None)));
    }
    // One of them stops sharing, by another id: each is by itself.
    let apart = planned(&[shared(1, 100), access(2, 200)], cable());
    reach(&mut engine, &apart);
    settled(&host, &apart);
    guests[0].send(&shout(mac(1).0, None, "alone"));
    assert_eq!((heard(&far, PATIENCE, "alone"), heard(&guests[1], SILENCE, "alone")), (Some(Some(100)), None));
}

#[test]
fn a_trunk_stays_while_its_fabric_becomes_a_bond_and_a_device_again() {
    let Some(host) = cabled("a_trunk_stays_while_its_fabric_becomes_a_bond_and_a_device_again") else { return };
    sh(&host.outside, "ip addr add 10.0.0.254/24 dev tagged");
    let mut engine = host.engine();
    let name = |n: &str| IfName::new(n).unwrap();
    let device = || Fabric { device: Some(name("nic0")), bond: None };
    let bond = |nics: &[&str]| Fabric {
        device: Some(names::device(names::BOND, "data")),
        bond: Some(multihome_plan::node::Bond {
            alias: "fabric data".into(),
            mode: multihome_model::BondMode::ActiveBackup,
            miimon: 50,
            nics: nics.iter().map(|n| name(n)).collect(),
            mtu: Mtu::ETHERNET,
        }),
    };
    let mut guest = None;
    for fabric in [device(), bond(&["nic0"]), bond(&["nic1", "nic0"]), device(), bond(&["nic1"])] {
        let said = format!("{fabric:?}");
        let state = planned(&[access(1, 100), trunk(4, &[(1, 4000)], None)], fabric);
        reach(&mut engine, &state);
        let guest = guest.get_or_insert_with(|| plugged(&host, &engine, 1));
        // A switch learns anew where a NIC is by what it says.
        assert!((0..10).any(|_| guest.ping(address(254), address(254))), "{said}");
    }
    assert!(host.engine().teardown().is_empty());
    let links = Rtnl::open_in(&host.netns).unwrap().links().unwrap();
    assert!(links.iter().filter(|l| l.name.starts_with("nic")).all(|l| l.master == 0 && l.up));
    assert_eq!(std::fs::read_dir(host.state.path().join("state")).unwrap().count(), 0, "no note stays");
}

/// Applies these networks, each with its largest packet, and says what the cable's is then.
fn holds(host: &Host, engine: &mut AnyEngine, riders: Vec<(Rider, u32)>) -> u32 {
    let mtus = riders.iter().map(|(r, mtu)| (r.n, Mtu::new(*mtu).unwrap())).collect();
    let riders: Vec<Rider> = riders.into_iter().map(|(r, _)| r).collect();
    reach(engine, &sized(&riders, cable(), &mtus));
    Rtnl::open_in(&host.netns).unwrap().link(CABLE).unwrap().unwrap().mtu
}

#[test]
fn a_device_has_the_mtu_that_is_needed_and_in_the_end_its_own() {
    let Some(host) = host("a_device_has_the_mtu_that_is_needed_and_in_the_end_its_own") else { return };
    let _far = wired(&host);
    let mut engine = host.engine();
    assert_eq!(holds(&host, &mut engine, vec![(untagged(1), 9000)]), 9000);
    assert_eq!(holds(&host, &mut engine, vec![(untagged(1), 1400)]), 1500, "never less than it was found at");
    assert_eq!(holds(&host, &mut engine, vec![(untagged(1), 9000)]), 9000);
    // Another engine, as after a restart, knows as much.
    drop(engine);
    let mut engine = host.engine();
    assert_eq!(holds(&host, &mut engine, vec![(untagged(1), 4000)]), 4000);
    assert_eq!(holds(&host, &mut engine, vec![]), 1500);
    assert_eq!(holds(&host, &mut engine, vec![(untagged(1), 9000)]), 9000);
    sh(&host.netns, &format!("ip link set {CABLE} mtu 9216"));
    assert_eq!(holds(&host, &mut engine, vec![(untagged(1), 4000)]), 9216, "what somebody else has set stays");
    assert_eq!(holds(&host, &mut engine, vec![]), 9216);
}

#[test]
fn a_device_carries_what_the_largest_of_its_vlans_needs() {
    let Some(host) = vlans("a_device_carries_what_the_largest_of_its_vlans_needs") else { return };
    let _far = wired(&host);
    let mut engine = host.engine();
    assert_eq!(holds(&host, &mut engine, vec![(access(1, 100), 9000), (access(2, 200), 4000)]), 9000);
    assert_eq!(holds(&host, &mut engine, vec![(access(1, 100), 2000), (access(2, 200), 4000)]), 4000);
    assert_eq!(holds(&host, &mut engine, vec![(access(1, 100), 2000)]), 2000);
    let on_a_fabric = vec![(trunk(3, &[(300, 310)], None), 3000), (access(1, 100), 2000)];
    assert_eq!(holds(&host, &mut engine, on_a_fabric), 3000);
    assert_eq!(holds(&host, &mut engine, vec![(access(1, 100), 2000)]), 2000);
    assert_eq!(holds(&host, &mut engine, vec![]), 1500);
}
