//! For benchmarks: what the n-th NIC on a node costs, in a namespace of its own that is gone afterwards.
//!
//!     attach_many COUNT [ovs]
//!
//! Prints `N MICROSECONDS FLOOR` around each power of ten: the median of 20 attachments (facts, tap, bridge port), and of 20 taps
//! that are made and put on the same bridge with nothing else: what the kernel takes for a device when so many are there. With `ovs` by an
//! Open vSwitch of its own, userspace data path; the floor is then the same tap put there by `ovs-vsctl add-port`.

use std::net::Ipv4Addr;
use std::time::Instant;

use multihome_dataplane::Dataplane;
use multihome_dataplane::kernel::{Config, Kernel};
use multihome_dataplane::ovs::{self, Datapath, Ovs};
use multihome_model::{Bandwidth, MacAddr, Mtu, names};
use multihome_netlink::{LinkChange, Netns, Rtnl};
use multihome_plan::node::{Bridge, Port, Security, Service, Step, Tap};
use multihome_testkit::vswitch::Vswitch;

/// NICs per bridge: the kernel takes at most 1024 ports on one.
const PER_BRIDGE: u32 = 1000;
const SAMPLE: u32 = 20;

fn steps(i: u32) -> [Step; 2] {
    let name = names::device(names::TAP, &format!("nic-{i}"));
    let [_, a, b, c] = i.to_be_bytes();
    let mac = MacAddr([2, 0, 0, a, b, c]);
    let security =
        Security::Strict { mac, ipv4: [Ipv4Addr::from(0x0a00_0000 + i)].into(), ipv6: [mac.link_local()].into() };
    let bridge = names::device(names::BRIDGE, &format!("net-{}", i / PER_BRIDGE));
    let tap = Tap {
        alias: format!("nic bench/{i}"),
        bridge,
        mtu: Mtu::ETHERNET,
        queues: 1,
        tx_queue_length: None,
        vlans: None,
        bandwidth: Bandwidth::default(),
    };
    [
        Step::PutPort(name.clone(), Port { dhcp4: Service::Served, dhcp6: Service::Open, security }),
        Step::PutTap(name, tap),
    ]
}

/// The median of taps made and put on a bridge, in microseconds. They stay until all are made, as NICs do: what a device that went
/// leaves is not to be had by the next one.
fn floor(host: &Netns, bridge: &str) -> Result<u128, multihome_netlink::Error> {
    host.run(|| {
        let mut rtnl = Rtnl::open()?;
        let master = Some(rtnl.index(bridge)?);
        let mut took = vec![];
        let names: Vec<String> = (0..SAMPLE).map(|i| format!("floor{i}")).collect();
        for name in &names {
            let start = Instant::now();
            multihome_netlink::Tap { name, multi_queue: false, vnet_hdr: true }.create(None)?;
            rtnl.change_named(name, &LinkChange { master, up: Some(true), ..LinkChange::default() })?;
            took.push(start.elapsed().as_micros());
        }
        for name in &names {
            rtnl.delete(name)?;
        }
        took.sort_unstable();
        Ok(took[took.len() / 2])
    })?
}

/// The same by Open vSwitch's own tool.
fn floor_of_ovs(host: &Netns, vswitch: &Vswitch, bridge: &str) -> Result<u128, Box<dyn std::error::Error>> {
    let mut took = vec![];
    for _ in 0..SAMPLE {
        let start = Instant::now();
        host.run(|| {
            multihome_netlink::Tap { name: "floor", multi_queue: false, vnet_hdr: false }.create(None)?;
            Rtnl::open()?.change_named("floor", &LinkChange { up: Some(true), ..LinkChange::default() })
        })??;
        vswitch.vsctl(&["add-port", bridge, "floor"])?;
        took.push(start.elapsed().as_micros());
        vswitch.vsctl(&["del-port", bridge, "floor"])?;
        host.run(|| Rtnl::open()?.delete("floor"))??;
    }
    took.sort_unstable();
    Ok(took[took.len() / 2])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: u32 = std::env::args().nth(1).unwrap_or_else(|| "10000".into()).parse()?;
    let dir = std::env::temp_dir().join(format!("mh-attach-many-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let host = Netns::anonymous()?;
    let config = Config {
        host: host.try_clone()?,
        netns_prefix: format!("bench{}-", std::process::id()),
        state_dir: dir.clone(),
        tap_owner: None,
        capabilities: multihome_netlink::probe()?,
    };
    let vswitch = match std::env::args().nth(2).as_deref() {
        Some("ovs") => {
            let inside = host.try_clone()?;
            let spawn = move |c: &mut std::process::Command| inside.run(|| c.spawn()).map_err(std::io::Error::other)?;
            Some(Vswitch::start(Box::new(spawn))?)
        }
        _ => None,
    };
    let mut engine: Box<dyn Dataplane> = match &vswitch {
        Some(v) => {
            let config = ovs::Config { kernel: config, database: v.database(), datapath: Datapath::Netdev };
            Box::new(Ovs::open(config)?)
        }
        None => Box::new(Kernel::open(config)?),
    };
    let mut apply = |steps: &[Step]| match engine.apply(steps).into_iter().next() {
        Some(e) => Err(Box::new(e)),
        None => Ok(()),
    };
    for b in 0..=count / PER_BRIDGE {
        let name = names::device(names::BRIDGE, &format!("net-{b}"));
        apply(&[Step::PutBridge(name, Bridge { alias: format!("net bench/{b}"), mtu: Mtu::ETHERNET })])?;
    }
    let mut marks: Vec<u32> = (1..8).map(|p| 10u32.pow(p)).filter(|n| *n <= count).collect();
    marks.reverse();
    let mut sample = vec![];
    for i in 0..count + SAMPLE {
        let start = Instant::now();
        apply(&steps(i))?;
        if marks.last().is_some_and(|m| i >= *m) {
            sample.push(start.elapsed().as_micros());
            if sample.len() == SAMPLE as usize {
                sample.sort_unstable();
                let bridge = names::device(names::BRIDGE, &format!("net-{}", i / PER_BRIDGE));
                let floor = match &vswitch {
                    Some(v) => floor_of_ovs(&host, v, bridge.as_str())?,
                    None => floor(&host, bridge.as_str())?,
                };
                println!("{} {} {floor}", marks.pop().unwrap_or_default(), sample[sample.len() / 2]);
                sample.clear();
            }
        }
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
