//! For benchmarks: a network's bridge with the port protections of two NICs, in the namespace that this is started in, and no taps:
//! who measures puts devices of these names on the bridge.
//!
//!     protected_ports STATE_DIR [policies]
//!
//! Prints one line of JSON: the bridge, and name, MAC and address of each port. With `policies`, both NICs may be opened to on TCP port
//! 5201 alone. What is made stays, with the namespace.

use std::net::Ipv4Addr;

use multihome_dataplane::Engine;
use multihome_dataplane::kernel::{Config, Kernel};
use multihome_model::{MacAddr, Mtu, RuleAction, names};
use multihome_netlink::Netns;
use multihome_plan::node::{Bridge, Port, Security, Service, Step};
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
    let state_dir = std::env::args().nth(1).ok_or("protected_ports STATE_DIR [policies]")?;
    let config = Config {
        host: Netns::current()?,
        netns_prefix: format!("bench{}-", std::process::id()),
        state_dir: state_dir.into(),
        tap_owner: None,
        capabilities: multihome_netlink::probe()?,
    };
    let mut engine = Kernel::open(config)?;
    let bridge = names::device(names::BRIDGE, "bench");
    let mut steps = vec![Step::PutBridge(bridge.clone(), Bridge { alias: "net bench".into(), mtu: Mtu::ETHERNET })];
    let mut ports = vec![];
    for i in 1..3u8 {
        let name = names::device(names::TAP, &format!("bench-{i}"));
        let (mac, address) = (MacAddr([2, 0, 0, 0, 0, i]), Ipv4Addr::new(10, 5, 0, i));
        let security = Security::Strict { mac, ipv4: [address].into(), ipv6: [mac.link_local()].into() };
        let port = Port { dhcp4: Service::Served, dhcp6: Service::Served, security };
        steps.push(Step::PutPort(name.clone(), port));
        if std::env::args().nth(2).is_some() {
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
