//! For benchmarks: a network's bridge with the port protections of two NICs, in the namespace that this is started in, and no taps:
//! who measures puts devices of these names on the bridge.
//!
//!     protected_ports STATE_DIR [policies] [ovs SOCKET]
//!
//! Prints one line of JSON: the bridge, and name, MAC and address of each port. With `policies`, both NICs may be opened to on TCP port
//! 5201 alone. With `ovs` by the Open vSwitch whose database answers on SOCKET, in user space; there the taps are made, because its ports
//! are named after them: who measures puts others in their place. What is made stays, with the namespace.

use std::net::Ipv4Addr;

use multihome_dataplane::Engine;
use multihome_dataplane::kernel::{Config, Kernel};
use multihome_dataplane::ovs::{self, Datapath, Ovs};
use multihome_model::{Bandwidth, MacAddr, Mtu, RuleAction, names};
use multihome_netlink::Netns;
use multihome_plan::node::{Bridge, Port, Security, Service, Step, Tap};
use multihome_plan::policy::{Policy, Rule, Rules};

fn policy() -> Policy {
    let web = Rule {
        id: "iperf".into(),
        action: RuleAction::Allow,
        protocol: Some(6),
        ports: vec![(5201, 5201)],
        icmp: None,
        peers: None,
    };
    Policy {
        ingress: Rules { rules: vec![web], otherwise: RuleAction::Deny },
        egress: Rules { rules: vec![], otherwise: RuleAction::Allow },
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let state_dir = args.first().ok_or("protected_ports STATE_DIR [policies] [ovs SOCKET]")?;
    let by_ovs = args.iter().position(|a| a == "ovs").and_then(|at| args.get(at + 1));
    let config = Config {
        host: Netns::current()?,
        netns_prefix: format!("bench{}-", std::process::id()),
        state_dir: state_dir.into(),
        tap_owner: None,
        capabilities: multihome_netlink::probe()?,
    };
    let mut engine: Box<dyn Engine> = match by_ovs {
        Some(socket) => {
            Box::new(Ovs::open(ovs::Config { kernel: config, database: socket.into(), datapath: Datapath::Netdev })?)
        }
        None => Box::new(Kernel::open(config)?),
    };
    let bridge = names::device(names::BRIDGE, "bench");
    let mut steps = vec![Step::PutBridge(bridge.clone(), Bridge { alias: "net bench".into(), mtu: Mtu::ETHERNET })];
    let mut ports = vec![];
    for i in 1..3u8 {
        let name = names::device(names::TAP, &format!("bench-{i}"));
        let (mac, address) = (MacAddr([2, 0, 0, 0, 0, i]), Ipv4Addr::new(10, 5, 0, i));
        let security = Security::Strict { mac, ipv4: [address].into(), ipv6: [mac.link_local()].into() };
        let port = Port { dhcp4: Service::Served, dhcp6: Service::Served, security };
        if by_ovs.is_some() {
            let (alias, bridge) = (format!("nic bench/{i}"), bridge.clone());
            let tap = Tap {
                alias,
                bridge,
                mtu: Mtu::ETHERNET,
                queues: 1,
                tx_queue_length: None,
                vlans: None,
                bandwidth: Bandwidth::default(),
            };
            steps.push(Step::PutTap(name.clone(), tap));
        }
        steps.push(Step::PutPort(name.clone(), port));
        if args.iter().any(|a| a == "policies") {
            steps.push(Step::PutPolicy(name.clone(), policy()));
        }
        ports.push(format!(r#"{{"name": "{name}", "mac": "{mac}", "address": "{address}"}}"#));
    }
    if let Some(failed) = engine.apply(&steps).into_iter().next() {
        return Err(Box::new(failed));
    }
    println!(r#"{{"bridge": "{bridge}", "ports": [{}]}}"#, ports.join(", "));
    Ok(())
}
