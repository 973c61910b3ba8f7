//! Two nodes, VMs with Debian's own kernel, and the cables between them: what VLAN, trunk, untagged and overlay networks really put
//! on the wire, seen from neither node. The test runs on both nodes as well, in a role of its own. Needs root and QEMU; without
//! them it says that it was skipped.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use multihome_dataplane::Engine;
use multihome_dataplane::kernel::{Config, Kernel};
use multihome_model::checked::check_network;
use multihome_model::{
    Bandwidth, DhcpMode, IfName, IpFamilySpec, MacAddr, Mtu, NetworkSpec, NetworkType, PortSecurity, TrunkRange,
    VlanSpec, Vni,
};
use multihome_netlink::{Netns, Tap};
use multihome_plan::node::{Fabric, NodeFacts, NodeInput, NodeNetwork, NodeNic, RemoteNic, build, diff, tap_name};

const TEST: &str = "networks_carry_exactly_their_tags_and_whole_jumbo_packets_between_two_nodes";
/// Which of the two nodes this process is on.
const ROLE: &str = "MULTIHOME_WIRE_ROLE";
const READY: &str = "the near node is through";
/// The most that an emulated machine with another one beside it takes to start, and its guests to find each other.
const LONGEST: Duration = Duration::from_secs(180);
/// The fabric's cable, and the one that tunnels go by.
const WIRES: [&str; 2] = ["wire0", "wire1"];
const NEAR: u8 = 1;
const FAR: u8 = 2;

/// The NICs of each node: access to VLAN 100 and 200, untagged, trunk, overlay. All of them but the trunk have an address of one
/// subnet, and so has the trunk's VLAN 100, so that nothing but their networks keeps them apart.
const ACCESS_100: u8 = 1;
const ACCESS_200: u8 = 2;
const UNTAGGED: u8 = 3;
const TRUNK: u8 = 4;
const OVERLAY: u8 = 5;
const ALL: [u8; 5] = [ACCESS_100, ACCESS_200, UNTAGGED, TRUNK, OVERLAY];

fn mac(node: u8, nic: u8) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0, node, nic])
}

fn address(subnet: u8, node: u8, nic: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, subnet, 0, node * 10 + nic)
}

fn tunnel(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, node)
}

fn network(nic: u8) -> NodeNetwork {
    let vlan = |id: u32| Some(VlanSpec { id: Some(id), ..Default::default() });
    let (kind, vlan) = match nic {
        ACCESS_100 => (NetworkType::Vlan, vlan(100)),
        ACCESS_200 => (NetworkType::Vlan, vlan(200)),
        UNTAGGED => (NetworkType::Untagged, None),
        TRUNK => {
            let trunk = vec![TrunkRange { first: 100, last: Some(110) }];
            (NetworkType::VlanTrunk, Some(VlanSpec { id: Some(300), trunk, shared: false }))
        }
        _ => (NetworkType::Overlay, None),
    };
    let subnet = IpFamilySpec { cidr: Some("10.0.0.0/24".into()), dhcp: Some(DhcpMode::None), ..Default::default() };
    let ipv4 = (nic != TRUNK).then_some(subnet);
    let spec = NetworkSpec { r#type: kind, cluster_network: Some("data".into()), vlan, ipv4, ..Default::default() };
    let overlay = kind == NetworkType::Overlay;
    NodeNetwork {
        uid: format!("net{nic}"),
        key: format!("default/net{nic}"),
        spec: check_network("n", &spec).unwrap(),
        mtu: multihome_plan::mtu::ceiling(kind, Mtu::new(9000).unwrap(), false),
        vni: overlay.then(|| Vni::new(7001).unwrap()),
        vpc_uid: None,
    }
}

fn input(node: u8) -> NodeInput {
    let fabric = Fabric { device: Some(IfName::new(WIRES[0]).unwrap()), bond: None };
    let nic = |nic: u8| NodeNic {
        uid: format!("nic{nic}"),
        key: format!("default/nic{nic}"),
        network: format!("default/net{nic}"),
        mac: mac(node, nic),
        addresses: vec![address(0, node, nic).into()],
        security: PortSecurity::Strict,
        queues: 1,
        tx_queue_length: None,
        bandwidth: Bandwidth::default(),
    };
    let tunnel_address = Some(IpAddr::from(tunnel(node)));
    NodeInput {
        node: NodeFacts { fabrics: [("data".to_owned(), fabric)].into(), tunnel_address, ..Default::default() },
        networks: ALL.map(network).into(),
        nics: ALL.map(nic).into(),
        remote: vec![RemoteNic {
            network: format!("default/net{OVERLAY}"),
            vpc: None,
            mac: mac(NEAR + FAR - node, OVERLAY),
            addresses: vec![address(0, NEAR + FAR - node, OVERLAY).into()],
            security: PortSecurity::Strict,
            node: format!("node{}", NEAR + FAR - node),
            via: Some(tunnel(NEAR + FAR - node).into()),
        }],
        ..NodeInput::default()
    }
}

fn sh(netns: &Netns, command: &str) -> String {
    let out = netns.run(|| Command::new("sh").args(["-c", command]).output()).unwrap().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Carries frames from one tap to another for as long as both are there.
fn carry(from: &OwnedFd, to: &OwnedFd) {
    let (mut from, mut to) = (File::from(from.try_clone().unwrap()), File::from(to.try_clone().unwrap()));
    std::thread::spawn(move || {
        let mut frame = vec![0; 65_536];
        loop {
            match from.read(&mut frame) {
                Ok(n) => drop(to.write_all(&frame[..n])),
                // A device that is still down.
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    });
}

/// A guest: a namespace with a kernel's own IP stack, whose eth0 is at the other side of a NIC's tap, as QEMU's would be.
fn guest(engine: &Kernel, node: u8, nic: u8, mtu: Mtu) -> Netns {
    let netns = Netns::anonymous().unwrap();
    let tap = Tap { name: "eth0", multi_queue: false, vnet_hdr: true };
    let own = netns.run(|| tap.create(None).and_then(|()| tap.open())).unwrap().unwrap();
    let port = engine.open_tap(&tap_name(&format!("nic{nic}")), 1).unwrap().remove(0);
    carry(&own, &port);
    carry(&port, &own);
    let run = |command: String| sh(&netns, &command);
    run("echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6".into());
    run(format!("ip link set eth0 address {} mtu {mtu} up", mac(node, nic)));
    if nic == TRUNK {
        run(format!("ip addr add {}/24 dev eth0", address(3, node, nic)));
        for (subnet, id) in [(0, 100), (5, 105)] {
            run(format!("ip link add link eth0 name eth0.{id} type vlan id {id}"));
            run(format!("ip addr add {}/24 dev eth0.{id}", address(subnet, node, nic)));
            run(format!("ip link set eth0.{id} up"));
        }
    } else {
        run(format!("ip addr add {}/24 dev eth0", address(0, node, nic)));
    }
    netns
}

/// Makes this node what it is to be; its guests live as long as what is returned.
fn node(number: u8, state_dir: &Path) -> BTreeMap<u8, Netns> {
    let host = Netns::current().unwrap();
    sh(&host, &format!("ip addr add {}/24 dev {}", tunnel(number), WIRES[1]));
    sh(&host, &format!("ip link set {} mtu 9000 up", WIRES[1]));
    let capabilities = multihome_netlink::probe().unwrap();
    let config =
        Config { host, netns_prefix: String::new(), state_dir: state_dir.to_owned(), tap_owner: None, capabilities };
    let mut engine = Kernel::open(config).unwrap();
    let input = input(number);
    let desired = build(&input);
    let observed = engine.observe().unwrap();
    let failed = engine.apply(&diff(&observed, &desired));
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(engine.observe().unwrap(), desired);
    ALL.into_iter().zip(&input.networks).map(|(nic, n)| (nic, guest(&engine, number, nic, n.mtu))).collect()
}

fn ping(from: &Netns, to: Ipv4Addr, options: &str) -> Child {
    let mut words = vec!["-c1", "-n"];
    words.extend(options.split_whitespace());
    let to = to.to_string();
    words.push(&to);
    from.run(|| Command::new("ping").args(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn()).unwrap().unwrap()
}

fn answered(mut ping: Child) -> bool {
    ping.wait().unwrap().success()
}

/// On the near node: who reaches whom on the far one, and in what size.
fn near(guests: &BTreeMap<u8, Netns>) {
    let started = Instant::now();
    // The far node is ready when the last of its guests is.
    for nic in ALL.into_iter().rev() {
        while !answered(ping(&guests[&nic], address(0, FAR, nic), "-W1")) {
            assert!(started.elapsed() < LONGEST / 2, "NIC {nic} of the far node never answered");
        }
    }
    let pings: Vec<_> = ALL
        .into_iter()
        .flat_map(|a| ALL.map(|b| (a, b)))
        .map(|(a, b)| (a, b, ping(&guests[&a], address(0, FAR, b), "-W3")))
        .collect();
    let reached: BTreeSet<(u8, u8)> = pings.into_iter().filter_map(|(a, b, p)| answered(p).then_some((a, b))).collect();
    let mut expected: BTreeSet<(u8, u8)> = ALL.map(|n| (n, n)).into();
    expected.extend([(ACCESS_100, TRUNK), (TRUNK, ACCESS_100)]);
    assert_eq!(reached, expected);
    // Headers of IPv4 and ICMP are 28 bytes.
    let mut sizes: Vec<(u8, Ipv4Addr, u32)> =
        [ACCESS_100, ACCESS_200, UNTAGGED, TRUNK].map(|n| (n, address(0, FAR, n), 9000)).into();
    sizes.extend([(TRUNK, address(3, FAR, TRUNK), 9000), (TRUNK, address(5, FAR, TRUNK), 9000)]);
    sizes.push((OVERLAY, address(0, FAR, OVERLAY), 8950));
    for (nic, to, mtu) in sizes {
        let sized = |size: u32| answered(ping(&guests[&nic], to, &format!("-W5 -M do -s {}", size - 28)));
        assert!(sized(mtu), "{mtu} bytes from NIC {nic} to {to}");
        assert!(!sized(mtu + 1), "{} bytes from NIC {nic} to {to}", mtu + 1);
    }
    println!("{READY}");
}

/// A frame as it was on a cable.
struct Frame {
    from: [u8; 6],
    /// VLAN id of the first tag.
    tag: Option<u16>,
    /// EtherType behind it.
    kind: u16,
    /// What comes after that.
    payload: Vec<u8>,
}

/// Reads a capture file (draft-ietf-opsawg-pcap; in the byte order of this machine, as QEMU writes it).
fn capture(path: &Path) -> Vec<Frame> {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(bytes[..4], 0xa1b2_c3d4_u32.to_ne_bytes(), "a capture file");
    let mut frames = Vec::new();
    let mut rest = &bytes[24..];
    while let Some(length) = rest.get(8..12) {
        let length = u32::from_ne_bytes(length.try_into().unwrap()) as usize;
        // The last one may have been cut off with its node.
        let Some(frame) = rest.get(16..16 + length) else { break };
        rest = &rest[16 + length..];
        let be16 = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let tagged = be16(12) == 0x8100;
        let at = if tagged { 16 } else { 12 };
        frames.push(Frame {
            from: frame[6..12].try_into().unwrap(),
            tag: tagged.then(|| be16(14) & 0xfff),
            kind: be16(at),
            payload: frame[at + 2..].to_vec(),
        });
    }
    frames
}

/// The longest IPv4 packet, and that none is a part of one (RFC 791 section 3.1: flag MF and fragment offset).
fn longest<'a>(frames: impl Iterator<Item = &'a Frame>) -> u16 {
    let be16 = |f: &Frame, at: usize| u16::from_be_bytes([f.payload[at], f.payload[at + 1]]);
    let packets = frames.filter(|f| f.kind == 0x0800).inspect(|f| assert_eq!(be16(f, 6) & 0x3fff, 0, "a fragment"));
    packets.map(|f| be16(f, 2)).max().unwrap_or_default()
}

fn judge(fabric: &[Frame], tunnels: &[Frame]) {
    let mut tags: BTreeMap<MacAddr, BTreeSet<Option<u16>>> = BTreeMap::new();
    for frame in fabric {
        tags.entry(MacAddr(frame.from)).or_default().insert(frame.tag);
    }
    let mut expected: BTreeMap<MacAddr, BTreeSet<Option<u16>>> = BTreeMap::new();
    for node in [NEAR, FAR] {
        expected.insert(mac(node, ACCESS_100), [Some(100)].into());
        expected.insert(mac(node, ACCESS_200), [Some(200)].into());
        expected.insert(mac(node, UNTAGGED), [None].into());
        expected.insert(mac(node, TRUNK), [Some(100), Some(105), Some(300)].into());
    }
    // Nobody else speaks there: not the overlay's guests, and not the nodes themselves.
    assert_eq!(tags, expected);
    for tag in [None, Some(100), Some(105), Some(200), Some(300)] {
        assert_eq!(longest(fabric.iter().filter(|f| f.tag == tag)), 9000, "{tag:?}");
    }
    assert!(tunnels.iter().all(|f| f.tag.is_none()));
    assert_eq!(longest(tunnels.iter()), 9000);
    // What is in a tunnel is behind 50 bytes of headers, less those of the outer frame.
    let inner = |f: &Frame| f.kind == 0x0800 && f.payload.get(42..48) == Some(&mac(NEAR, OVERLAY).0[..]);
    assert!(tunnels.iter().any(inner), "the overlay's frames in tunnels");
}

/// A VM that is ended when nobody looks any more.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // The script ends its QEMU.
            let _ = Command::new("kill").arg(self.0.id().to_string()).status();
            let _ = self.0.wait();
        }
    }
}

fn start(script: &Path, dir: &Path, role: &str, side: &str) -> Running {
    let mut command = Command::new(script);
    command.env(ROLE, role).env("RUST_BACKTRACE", "0").args(["--memory", "768", "--cpus", "1"]);
    for wire in WIRES {
        let socket = dir.join(format!("{wire}.socket"));
        command.args(["--link", &format!("{wire}={side}:{}", socket.display())]);
        if role == "far" {
            command.args(["--capture", &format!("{wire}={}", dir.join(wire).display())]);
        }
    }
    command.arg("--").arg(std::env::current_exe().unwrap()).args(["--nocapture", "--exact", TEST]);
    let said = File::create(dir.join(role)).unwrap();
    command.stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said);
    Running(command.spawn().unwrap())
}

#[test]
fn networks_carry_exactly_their_tags_and_whole_jumbo_packets_between_two_nodes() {
    let dir = tempfile::tempdir().unwrap();
    match std::env::var(ROLE).as_deref() {
        Ok("near") => return near(&node(NEAR, dir.path())),
        Ok(_) => {
            let _guests = node(FAR, dir.path());
            // The near node's end is the end of this one, too.
            return std::thread::sleep(LONGEST);
        }
        Err(_) => {}
    }
    if let Err(e) = Netns::anonymous() {
        return println!("SKIPPED {TEST}: {e}");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/node-vm");
    let prepared = Command::new(&script).arg("--prepare").output().unwrap();
    if !prepared.status.success() {
        return println!("SKIPPED {TEST}: {}", String::from_utf8_lossy(&prepared.stderr));
    }
    let said = |who: &str| std::fs::read_to_string(dir.path().join(who)).unwrap_or_default();
    let far = start(&script, dir.path(), "far", "listen");
    let mut near = start(&script, dir.path(), "near", "connect");
    let started = Instant::now();
    while near.0.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < LONGEST, "no end: near: {}, far: {}", said("near"), said("far"));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(said("near").contains(READY), "near: {}, far: {}", said("near"), said("far"));
    drop(far);
    let [fabric, tunnels] = WIRES.map(|w| capture(&dir.path().join(w)));
    println!(
        "{} frames on the fabric's cable, {} on the tunnels' in {:?}",
        fabric.len(),
        tunnels.len(),
        started.elapsed()
    );
    judge(&fabric, &tunnels);
}
