//! Which networks this node probes, by which device, and who else carries them.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use multihome_control::world::Tables;
use multihome_control::{Change, Key};
use multihome_model::connectivity::{LAYER2_FAILED, NO_CARRIER, NO_UPLINK};
use multihome_model::{DhcpMode, Family, IfName, NetworkType, PortSecurity, RouteMode, names};
use multihome_plan::node::{NodeInput, NodeNetwork, bridge_name, build, tap_name};
use multihome_probe::{Subject, Want};
use tokio::sync::broadcast::error::RecvError;

use crate::{Agent, Error, networks};

/// What is found changes in bursts; what a burst ends with is written.
const BURST: Duration = Duration::from_millis(200);

/// Probes every network that this node carries and that has an uplink, and no other.
pub(crate) async fn sync(agent: &Agent, input: &NodeInput) -> Result<(), Error> {
    let plan = build(input);
    let uplink = |n: &NodeNetwork| {
        let bridge = bridge_name(n);
        let of = plan.uplinks.iter().find(|(_, u)| u.bridge == bridge);
        of.map(|(name, u)| agent.plumbing.ear(name, &u.bridge))
    };
    // Guests that may say anything may be the server or the router.
    let guests = |n: &NodeNetwork| -> Vec<IfName> {
        let open = input.nics.iter().filter(|i| i.network == n.key && i.security == PortSecurity::Promiscuous);
        open.map(|i| tap_name(&i.uid)).collect()
    };
    let wanted: Vec<(&NodeNetwork, IfName, Vec<IfName>)> =
        input.networks.iter().filter_map(|n| Some((n, uplink(n)?, guests(n)))).collect();
    let devices = wanted.iter().flat_map(|(_, uplink, guests)| std::iter::once(uplink).chain(guests)).cloned();
    let indexes = agent.plumbing.indexes_of(devices.collect()).await?;
    let there: HashMap<&str, (&NodeNetwork, u32, Vec<u32>)> = wanted
        .iter()
        .filter_map(|(n, uplink, guests)| {
            let guests = guests.iter().filter_map(|g| indexes.get(g).copied()).collect();
            Some((n.key.as_str(), (*n, *indexes.get(uplink)?, guests)))
        })
        .collect();
    agent.probes.retain(|network| there.contains_key(network));
    for (key, (network, uplink, guests)) in there {
        let subject = subject(&agent.world.read(), &agent.config.node, network, input);
        agent.probes.put(key, uplink, &guests, subject)?;
    }
    look_at_cables(agent, input).await
}

/// Looks whether the cables of fabrics are in.
async fn look_at_cables(agent: &Agent, input: &NodeInput) -> Result<(), Error> {
    let mut seen: HashMap<IfName, bool> = HashMap::new();
    for network in &input.networks {
        let Some(device) = fabric_device(network, input) else { continue };
        let carrier = match seen.get(&device) {
            Some(c) => *c,
            // One that is gone has no cable either.
            None => agent.plumbing.look_at(device.clone()).await?.is_some_and(|(link, _)| link.carrier),
        };
        seen.insert(device, carrier);
        agent.probes.set_carrier(&network.key, carrier);
    }
    Ok(())
}

/// Links have changed: looks at the cables.
pub(crate) async fn links_changed(agent: &Agent) {
    let input = crate::spec::node_input(&agent.world.read(), &agent.config.node);
    if let Err(e) = look_at_cables(agent, &input).await {
        tracing::warn!("the cables of networks are not looked at: {e}");
    }
}

/// The device of the fabric that a network rides on, where it rides on one.
fn fabric_device(network: &NodeNetwork, input: &NodeInput) -> Option<IfName> {
    let device = input.node.fabrics.get(&network.spec.fabric)?.device.clone()?;
    matches!(network.spec.kind, NetworkType::Vlan | NetworkType::Untagged).then_some(device)
}

/// Follows which other nodes carry a network.
async fn follow_peers(agent: &Agent) {
    let mut changes = agent.world.changes();
    let changed = |key: &Key| {
        let peers = peers(&agent.world.read(), &agent.config.node, key);
        agent.probes.set_peers(&key.to_string(), peers);
    };
    let everything = || {
        let all: Vec<Key> = agent.world.read().networks.keys().cloned().collect();
        all.iter().for_each(changed);
    };
    // Heartbeats change nothing here.
    let mut known: HashMap<String, bool> = HashMap::new();
    loop {
        match changes.recv().await {
            Ok(Change::Network(key)) => changed(&key),
            Ok(Change::Node(name)) => {
                let away = is_away(&agent.world.read(), &name);
                if known.insert(name, away) != Some(away) {
                    everything();
                }
            }
            Err(RecvError::Lagged(_)) => everything(),
            Ok(_) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// Whether the agent of a node is known to be away.
fn is_away(t: &Tables, node: &str) -> bool {
    let status = t.nodes.get(&Key::new("", node)).and_then(|n| n.status.as_ref());
    let ready = status.and_then(|s| s.conditions.as_ref()?.iter().find(|c| c.type_ == "Ready"));
    ready.is_some_and(|c| c.status != "True")
}

/// Other nodes that carry a network and could answer. Those that say themselves why they cannot are not asked, nor those
/// whose agent is known to be away.
fn peers(t: &Tables, node: &str, network: &Key) -> BTreeMap<u64, String> {
    let nodes = t.networks.get(network).and_then(|n| n.status.as_ref()).map(|s| &s.connectivity);
    let others = nodes.into_iter().flatten().filter(|(name, _)| *name != node);
    let able = others.filter(|(_, c)| {
        let word = c.layer2.as_ref().map_or("", |l| l.reason.as_str());
        ![LAYER2_FAILED, NO_CARRIER, NO_UPLINK].contains(&word)
    });
    let able = able.filter(|(name, _)| !is_away(t, name));
    able.map(|(name, _)| (names::wire_hash(name), name.clone())).collect()
}

fn subject(t: &Tables, node: &str, network: &NodeNetwork, input: &NodeInput) -> Subject {
    let spec = &network.spec;
    let (namespace, name) = names::split_ref(&network.key, "");
    // Where silence is a fault: where a server or router of somebody else's is taken to be there.
    let want = |family, expected: bool| match spec.dhcp(family) {
        DhcpMode::Guard if expected => Want::Expect,
        DhcpMode::Guard if spec.route != RouteMode::None => Want::Listen,
        _ => Want::Nothing,
    };
    let gateway = |family| spec.subnet(family).and_then(|s| s.gateway).filter(|_| !spec.owns_gateway);
    let device = match (fabric_device(network, input), spec.vlan) {
        (None, _) => "the overlay".to_owned(),
        (Some(d), None) => d.to_string(),
        (Some(d), Some(vlan)) => format!("VLAN {} of {d}", vlan.get()),
    };
    // Only a gateway of somebody else's can be behind other routers; and where nothing is asked of others, it is not either.
    let routed = !spec.owns_gateway && spec.route != RouteMode::None;
    Subject {
        device,
        network: names::wire_hash(&network.uid),
        node: names::wire_hash(node),
        mac: names::probe_mac(node, &network.uid),
        mtu: u16::try_from(network.mtu.get()).unwrap_or(u16::MAX),
        peers: peers(t, node, &Key::new(namespace, name)),
        ipv4: want(Family::IPv4, spec.may_offer_gateway[0]),
        ipv6: want(Family::IPv6, spec.may_offer_gateway[1]),
        gateway4: gateway(Family::IPv4).and_then(|g| match g {
            IpAddr::V4(a) => Some(a),
            IpAddr::V6(_) => None,
        }),
        gateway6: gateway(Family::IPv6).and_then(|g| match g {
            IpAddr::V6(a) => Some(a),
            IpAddr::V4(_) => None,
        }),
        address4: spec.ipv4.as_ref().filter(|_| !spec.owns_gateway).and_then(|s| match s.probe? {
            IpAddr::V4(a) => Some(a),
            IpAddr::V6(_) => None,
        }),
        routed: [routed; 2],
    }
}

/// Probes, and writes what is found, for as long as it is polled.
pub(crate) async fn follow(agent: &Agent) {
    let tell = async {
        loop {
            for network in agent.probes.changed().await {
                let (namespace, name) = names::split_ref(&network, "");
                if let Err(e) = networks::found(agent, &Key::new(namespace, name)).await {
                    tracing::warn!(network, "what was found by probing is not reported: {e}");
                }
            }
            tokio::time::sleep(BURST).await;
        }
    };
    tokio::join!(agent.probes.run(), follow_peers(agent), tell);
}
