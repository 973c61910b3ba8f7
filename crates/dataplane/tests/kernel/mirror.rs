//! What NICs say and hear, copied to another NIC: of another network, and below every engine.

use multihome_model::MirrorDirection::{self, Both, Egress, Ingress};
use multihome_netlink::Capability;
use multihome_plan::node::Mirror;

use super::uplinks::sh;
use super::*;

/// Skips the test where this kernel cannot mirror.
fn mirrors(test: &str) -> Option<Host> {
    if let Err(why) = capabilities().check(Capability::Mirror) {
        println!("SKIPPED {test}: this kernel cannot copy what a device takes in and gives out: {why}");
        return None;
    }
    host(test)
}

fn tap(n: u8, m: u8) -> IfName {
    name(names::TAP, &format!("nic{n}.{m}"))
}

/// The plan with its first NIC copied to another.
fn copied(to: &IfName, direction: MirrorDirection) -> NodeState {
    let mut state = plan();
    state.mirrors.insert(tap(1, 10), Mirror { to: to.clone(), direction });
    state
}

/// The plan with a mirror, where this kernel can.
pub fn plan_with_mirror() -> NodeState {
    if capabilities().check(Capability::Mirror).is_err() { plan() } else { copied(&tap(2, 20), Both) }
}

/// A frame that nobody else says.
fn words(from: &Guest, to: &Guest, word: &str) -> Vec<u8> {
    ethernet(to.mac, from.mac, 0x0800, &ipv4(from.ip, to.ip, 253, word.as_bytes()))
}

/// What of a conversation somebody else hears: what the first says, and what it is told. It is heard by who it is meant for anyhow.
fn overheard(a: &mut Guest, b: &mut Guest, by: &Guest) -> (bool, bool) {
    by.forget();
    let (said, told) = (words(a, b, "what the first says"), words(b, a, "what the first is told"));
    a.send(&said);
    assert!(b.sees(PATIENCE, |f| same(f, &said)).is_some(), "the conversation itself");
    b.send(&told);
    assert!(a.sees(PATIENCE, |f| same(f, &told)).is_some(), "the conversation itself");
    let (mut heard, mut end) = ((false, false), Instant::now() + SILENCE);
    while let Some(f) = by.sees(end.saturating_duration_since(Instant::now()), |f| same(f, &said) || same(f, &told)) {
        let twice = if same(&f, &said) { &mut heard.0 } else { &mut heard.1 };
        assert!(!*twice, "one copy of each");
        *twice = true;
        end = Instant::now() + SILENCE;
    }
    heard
}

fn index(host: &Host, name: &IfName) -> u32 {
    Rtnl::open_in(&host.netns).unwrap().index(name.as_str()).unwrap()
}

#[test]
fn what_a_guest_says_and_hears_is_copied_as_its_mirror_says() {
    let Some(host) = mirrors("what_a_guest_says_and_hears_is_copied_as_its_mirror_says") else { return };
    let mut engine = host.engine();
    reach(&mut engine, &plan());
    let (mut a, mut b) = (guest(&host, &engine, 1, 10), guest(&host, &engine, 1, 11));
    let (c, d) = (guest(&host, &engine, 2, 20), guest(&host, &engine, 3, 30));
    assert!(a.ping(b.ip, b.ip));
    assert_eq!(overheard(&mut a, &mut b, &c), (false, false));
    let taps = || [tap(1, 10), tap(1, 11), tap(2, 20), tap(3, 30)].map(|t| index(&host, &t));
    let before = taps();
    for (direction, expected) in [(Both, (true, true)), (Ingress, (false, true)), (Egress, (true, false))] {
        reach(&mut engine, &copied(&tap(2, 20), direction));
        assert_eq!(overheard(&mut a, &mut b, &c), expected, "{direction:?}");
        assert_eq!(overheard(&mut a, &mut b, &d), (false, false), "{direction:?}");
    }
    // What it may not say and nobody else hears; and what Multihome's own DHCP server keeps for itself, which hears it once.
    let lie =
        ethernet(b.mac, [0x52, 0x54, 0, 0xbb, 0, 1], 0x0800, &ipv4(ip("10.1.0.1"), b.ip, 253, b"a lie, a long one"));
    let discover = ipv4(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, 17, &discover(a.mac));
    let request = ethernet(BROADCAST, a.mac, 0x0800, &discover);
    let spies = [tap(1, 10), tap(2, 20)].map(|t| engine.packet_socket(&t, &filter::dhcp4_requests()).unwrap());
    for frame in [&lie, &request] {
        b.forget();
        a.send(frame);
        assert!(c.sees(PATIENCE, |f| same(f, frame)).is_some());
        assert!(b.sees(SILENCE, |f| same(f, frame)).is_none());
    }
    let mut batch = FrameBatch::new(8, 2048);
    assert_eq!(spies.map(|s| s.receive(&mut batch).unwrap_or_default()), [1, 0]);
    // What the one that hears says itself is its own affair.
    let own = words(&c, &a, "what the hearer says");
    let mut c = c;
    c.send(&own);
    assert!(a.sees(SILENCE, |f| same(f, &own)).is_none());
    // Another hears it from now on.
    reach(&mut engine, &copied(&tap(3, 30), Both));
    assert_eq!((overheard(&mut a, &mut b, &c), overheard(&mut a, &mut b, &d)), ((false, false), (true, true)));
    // A restart finds it as it is.
    let mut again = host.engine();
    reach(&mut again, &copied(&tap(3, 30), Both));
    assert_eq!(overheard(&mut a, &mut b, &d), (true, true));
    reach(&mut again, &plan());
    assert_eq!(overheard(&mut a, &mut b, &d), (false, false));
    assert_eq!(taps(), before, "no guest's tap is touched");
    assert!(!host.ruleset().contains("netdev"), "{}", host.ruleset());
}

#[test]
fn a_mirror_finds_devices_that_were_made_anew_and_leaves_nothing_behind() {
    let test = "a_mirror_finds_devices_that_were_made_anew_and_leaves_nothing_behind";
    let Some(host) = mirrors(test) else { return };
    let mut engine = host.engine();
    let wanted = copied(&tap(2, 20), Both);
    reach(&mut engine, &wanted);
    let (mut a, mut b) = (guest(&host, &engine, 1, 10), guest(&host, &engine, 1, 11));
    let mut c = guest(&host, &engine, 2, 20);
    assert_eq!(overheard(&mut a, &mut b, &c), (true, true));
    // What somebody took away or changed is put right.
    let (first, target, other) = (tap(1, 10), tap(2, 20), tap(3, 30));
    let spoilt = [
        format!("nft delete table netdev {first}"),
        format!("nft flush table netdev {first}"),
        format!("nft delete chain netdev {first} egress"),
        format!("nft add rule netdev {first} ingress dup to \"{other}\""),
        format!("nft add rule netdev {first} ingress drop"),
        format!("ip link del {target}"),
        format!("ip link del {first}"),
    ];
    for command in spoilt {
        sh(&host.netns, &command);
        let seen = engine.observe().unwrap();
        assert_ne!((&seen.mirrors, &seen.taps), (&wanted.mirrors, &wanted.taps), "{command}");
        reach(&mut engine, &wanted);
        if command.ends_with(target.as_str()) {
            c = guest(&host, &engine, 2, 20);
        }
        if command.starts_with("ip link") && command.ends_with(first.as_str()) {
            a = guest(&host, &engine, 1, 10);
        }
        assert_eq!(overheard(&mut a, &mut b, &c), (true, true), "{command}");
    }
    // A target that goes and comes back by a plan, and one with more queues.
    let mut gone = wanted.clone();
    gone.mirrors.clear();
    gone.taps.remove(&target);
    gone.ports.remove(&target);
    reach(&mut engine, &gone);
    assert!(!host.ruleset().contains("netdev"), "{}", host.ruleset());
    let mut queues = wanted.clone();
    queues.taps.get_mut(&target).unwrap().queues = 2;
    for state in [&wanted, &queues, &wanted] {
        reach(&mut engine, state);
    }
    c = guest(&host, &engine, 2, 20);
    assert_eq!(overheard(&mut a, &mut b, &c), (true, true));
    // Without a device there is no mirror; and that hinders nothing else.
    let nobody = Mirror { to: tap(9, 99), direction: Both };
    let failed = engine.apply(&[
        Step::PutMirror(first.clone(), nobody),
        Step::PutMirror(first.clone(), wanted.mirrors[&first].clone()),
    ]);
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(engine.observe().unwrap(), wanted);
    // The NIC goes, and nothing of its mirror stays.
    let mut without = wanted.clone();
    without.mirrors.clear();
    without.taps.remove(&first);
    without.ports.remove(&first);
    reach(&mut engine, &without);
    assert!(!host.ruleset().contains("netdev"), "{}", host.ruleset());
    reach(&mut engine, &wanted);
    assert!(engine.teardown().is_empty());
    assert!(!host.ruleset().contains("netdev"), "{}", host.ruleset());
}

#[test]
fn a_large_segment_that_a_guest_leaves_to_others_to_divide_is_copied_divided() {
    let test = "a_large_segment_that_a_guest_leaves_to_others_to_divide_is_copied_divided";
    let Some(host) = mirrors(test) else { return };
    if plain() {
        return println!("SKIPPED {test}: taps of Open vSwitch in user space take frames as they are on the wire");
    }
    let mut engine = host.engine();
    reach(&mut engine, &copied(&tap(2, 20), Both));
    let (mut a, b) = (guest(&host, &engine, 1, 10), guest(&host, &engine, 1, 11));
    let c = guest(&host, &engine, 2, 20);
    // Three segments of 1000 bytes in one (include/uapi/linux/virtio_net.h): the checksum begins at the TCP header and is 16
    // bytes into it; TCPv4; 54 bytes of headers.
    let (segment, header) = (1000u16, 54u16);
    let offload =
        [&[1, 1][..], &header.to_ne_bytes(), &segment.to_ne_bytes(), &34u16.to_ne_bytes(), &16u16.to_ne_bytes()]
            .concat();
    let data: Vec<u8> = (0..3 * segment).map(|n| n as u8).collect();
    let mut tcp =
        [&[0x30, 0x39, 0, 80][..], &7u32.to_be_bytes(), &[0; 4], &[0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0], &data].concat();
    // The sum of the pseudo header, which whoever divides it completes.
    let length = (tcp.len() as u16).to_be_bytes();
    let pseudo = [&a.ip.octets()[..], &b.ip.octets(), &[0, 6], &length].concat();
    tcp[16..18].copy_from_slice(&(!checksum(&pseudo)).to_be_bytes());
    let frame = ethernet(b.mac, a.mac, 0x0800, &ipv4(a.ip, b.ip, 6, &tcp));
    a.send_offloaded(&offload, &frame);
    // Each of both gets every part of it, with checksums that are right.
    for (who, at) in [("the neighbour", &b), ("the hearer", &c)] {
        for n in 0..3u32 {
            let part = at.sees(PATIENCE, |f| f.len() > 54 && f[12..14] == [8, 0] && f[23] == 6);
            let part = part.unwrap_or_else(|| panic!("segment {n} at {who}"));
            let number = u32::from_be_bytes(part[38..42].try_into().unwrap());
            assert_eq!((part.len(), number), (1054, 7 + n * 1000), "{who}");
            let length = ((part.len() - 34) as u16).to_be_bytes();
            let whole = [&part[26..34], &[0, 6], &length, &part[34..]].concat();
            assert_eq!(checksum(&whole), 0, "segment {n} at {who}");
        }
    }
}

#[test]
fn a_kernel_that_cannot_mirror_says_so_and_does_the_rest() {
    let Some(host) = mirrors("a_kernel_that_cannot_mirror_says_so_and_does_the_rest") else { return };
    let mut engine = host.engine();
    reach(&mut engine, &plan());
    // One of which nobody knows that it can.
    let config = Config { capabilities: Capabilities::default(), ..host.kernel_config() };
    let mut cannot = Kernel::open(config).unwrap();
    let wanted = copied(&tap(2, 20), Both);
    let failed = multihome_dataplane::Engine::apply(&mut cannot, &diff(&plan(), &wanted));
    let [failure] = failed.as_slice() else { panic!("{failed:?}") };
    assert!(failure.error.is_permanent(), "{failure}");
    let text = format!("this node cannot do a mirror of {}: not probed", tap(1, 10));
    assert_eq!(failure.error.to_string(), text);
    assert_eq!(engine.observe().unwrap(), plan());
}
