//! What a node holds of ours, read back from the kernel.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use multihome_model::{Bandwidth, BitRate, BondMode, IfName, MacAddr, Mtu, VlanId, names};
use multihome_netlink::nft::{Family, Nft};
use multihome_netlink::{
    Address, BridgeVlan, FdbEntry, Idempotent, Link, Netns, Route, Rtnl, Shape, TABLE_MAIN, sysctl,
};
use multihome_plan::node::{
    Bond, Bridge, Domain, Egress, FabricBridge, FabricUplink, Leg, NodeState, PortVlans, Tap, Uplink, UplinkKind,
};

use super::bridge::{bound_mac, learns, read_tap_alias};
use super::domain::{LEGS, REPLIES, forwarding_key};
use super::fabric::read_vlans;
use super::policy::Known;
use super::security::{TABLE, TAGGED, UNTAGGED, device_name, is_assigned};
use super::{Kernel, floating, is_ours, private, returns, router};
use crate::error::Result;

/// Where a port that has no bridge is said to be. No device has this name.
const NOWHERE: &str = "-";

/// The same as a name.
pub(super) fn nowhere() -> IfName {
    IfName::new(NOWHERE).expect("a dash is a device name")
}

/// The host's links and what belongs to them.
pub(super) struct Host {
    links: Vec<Link>,
    names: HashMap<u32, String>,
    fdb: HashMap<u32, Vec<FdbEntry>>,
    addresses: Vec<Address>,
    /// Of bridges that sort by VLAN and their ports; empty where there is no such bridge.
    vlans: HashMap<u32, Vec<BridgeVlan>>,
    /// Where another engine has the bridges: which of them each device is a port of.
    beside: Option<HashMap<String, IfName>>,
    /// The VLANs that are closed from the wire, by device.
    inner_tags: Vec<(IfName, VlanId)>,
    /// The devices whose tagged frames are refused, and those whose tagged frames are sorted.
    untagged: BTreeSet<IfName>,
    tagged: BTreeSet<IfName>,
    /// The addresses that uplinks ask nobody for.
    own: BTreeMap<IfName, BTreeSet<IpAddr>>,
    /// How much reaches the guests of taps that have a limit, in bytes per second.
    shapes: HashMap<u32, Shape>,
    /// How much their guests may send.
    rates: BTreeMap<IfName, BitRate>,
}

/// A domain's namespace as it is inside.
struct Inside {
    links: Vec<Link>,
    addresses: Vec<Address>,
    routes: Vec<Route>,
    nat: BTreeSet<IpNet>,
    symmetric: BTreeSet<IfName>,
    /// Who may open connections into private networks, by the leg.
    admits: BTreeMap<IfName, Option<BTreeSet<IpNet>>>,
}

impl Host {
    /// The forwarding entries of a device.
    pub(super) fn entries(&self, index: u32) -> &[FdbEntry] {
        self.fdb.get(&index).map(Vec::as_slice).unwrap_or_default()
    }

    /// The addresses that an uplink asks nobody for.
    pub(super) fn own(&self, uplink: &IfName) -> BTreeSet<IpAddr> {
        self.own.get(uplink).cloned().unwrap_or_default()
    }

    pub(super) fn ours(&self, prefix: &'static str, kind: &'static str) -> impl Iterator<Item = (IfName, &Link)> {
        self.links
            .iter()
            .filter(move |l| l.kind == kind && is_ours(&l.name, prefix))
            .filter_map(|l| Some((IfName::new(l.name.as_str()).ok()?, l)))
    }

    fn bridge_of(&self, link: &Link) -> IfName {
        if let Some(bridges) = &self.beside
            && let Some(bridge) = bridges.get(&link.name)
        {
            return bridge.clone();
        }
        let master = self.names.get(&link.master).filter(|_| self.beside.is_none());
        let name = master.map_or(NOWHERE, String::as_str);
        IfName::new(name).unwrap_or_else(|_| nowhere())
    }

    /// The tap of an index.
    pub(super) fn tap(&self, index: u32) -> Option<IfName> {
        let name = self.names.get(&index).filter(|name| is_ours(name, names::TAP))?;
        IfName::new(name.as_str()).ok()
    }

    /// Whether the fixed entries of a port are exactly these.
    fn fixed(&self, link: &Link, wanted: Option<[u8; 6]>) -> bool {
        if self.beside.is_some() {
            return true;
        }
        let entries = self.entries(link.index);
        let mut fixed: Vec<[u8; 6]> =
            entries.iter().filter(|e| e.permanent && !e.own && Some(e.mac) != link.mac).map(|e| e.mac).collect();
        fixed.dedup();
        fixed == wanted.into_iter().collect::<Vec<_>>()
    }
}

/// The alias, unless something that has no words of its own is not as it must be.
fn alias_if(right: bool, alias: &str) -> String {
    if right { alias.to_owned() } else { String::new() }
}

/// An MTU that no plan can ask for is not right either.
fn mtu_of(link: &Link) -> (Mtu, bool) {
    match Mtu::new(link.mtu) {
        Ok(mtu) => (mtu, true),
        Err(_) => (Mtu::ETHERNET, false),
    }
}

fn nets(addresses: &[Address], index: u32) -> BTreeSet<IpNet> {
    addresses
        .iter()
        .filter(|a| a.index == index && is_assigned(a.ip))
        .filter_map(|a| IpNet::new(a.ip, a.prefix).ok())
        .collect()
}

fn only_v4(addresses: &[Address], index: u32) -> Option<Ipv4Addr> {
    let mut all = addresses.iter().filter(|a| a.index == index && a.prefix == 31);
    match (all.next()?.ip, all.next()) {
        (IpAddr::V4(a), None) => Some(a),
        _ => None,
    }
}

impl Kernel {
    /// Reads what the host's namespace holds.
    pub(super) fn look(&mut self) -> Result<Host> {
        let links = self.rtnl.links()?;
        let mut fdb: HashMap<u32, Vec<FdbEntry>> = HashMap::new();
        for entry in self.rtnl.fdb()? {
            fdb.entry(entry.index).or_default().push(entry);
        }
        let names = links.iter().map(|l| (l.index, l.name.clone())).collect();
        let sorts = links.iter().any(|l| l.vlan_filtering && is_ours(&l.name, names::FABRIC));
        let vlans = if sorts { self.rtnl.vlans()? } else { HashMap::new() };
        Ok(Host {
            names,
            fdb,
            beside: self.beside.as_ref().map(|b| b.bridges.clone()),
            addresses: self.rtnl.addresses()?,
            vlans,
            inner_tags: self.inner_tags()?,
            untagged: self.devices(UNTAGGED)?,
            tagged: self.devices(TAGGED)?,
            own: self.own_addresses()?,
            shapes: self.rtnl.shapes()?,
            rates: self.look_at_rates()?,
            links,
        })
    }

    pub(crate) fn observed(&mut self) -> Result<NodeState> {
        // The facts may have been changed by somebody else: read them anew.
        self.ports = None;
        let ports = self.known_ports()?.clone();
        self.policies = None;
        let Known { policies, members } = self.known_policies()?.clone();
        let host = self.look()?;
        let mut state = NodeState { ports, policies, members, ..NodeState::default() };
        for (name, link) in host.ours(names::BRIDGE, "bridge") {
            let (mtu, right) = mtu_of(link);
            let alias = alias_if(link.up && right, &link.alias);
            state.bridges.insert(name, Bridge { alias, mtu });
        }
        for (name, link) in host.ours(names::BOND, "bond") {
            state.bonds.insert(name, observed_bond(&host, link));
        }
        for (name, link) in host.ours(names::FABRIC, "bridge") {
            state.fabrics.insert(name, observed_fabric(&host, link));
        }
        for (prefix, kind) in [(names::VXLAN, "vxlan"), (names::VLAN, "vlan")] {
            for (name, link) in host.ours(prefix, kind) {
                let (mtu, right) = mtu_of(link);
                // What a tunnel learns is said with what it knows.
                let right = right && link.up && (kind == "vxlan" || link.port.learning == Some(true));
                if let Some(kind) = self.uplink_kind(link)? {
                    let (alias, bridge) = (alias_if(right, &link.alias), host.bridge_of(link));
                    // A tunnel's are told with what it knows of other nodes.
                    let wire = !matches!(kind, UplinkKind::Vxlan { .. });
                    let own = if wire { host.own(&name) } else { BTreeSet::new() };
                    state.uplinks.insert(name, Uplink { alias, bridge, mtu, kind, own });
                }
            }
        }
        // Devices of the node's own that are ports of ours. What a network calls its uplink stands on its bridge.
        for link in host.links.iter().filter(|l| l.master != 0 && is_own(&l.name)) {
            let Some(bridge) = host.links.iter().find(|b| b.index == link.master && is_ours(&b.name, names::BRIDGE))
            else {
                continue;
            };
            let Ok(name) = IfName::new(link.name.as_str()) else { continue };
            let known = host.untagged.contains(&name);
            let right = known && link.up && link.mtu >= bridge.mtu && link.port.learning == Some(true);
            let alias = format!("uplink {}", bridge.alias.strip_prefix("net ").unwrap_or(&bridge.alias));
            let uplink = Uplink {
                alias: alias_if(right, &alias),
                bridge: host.bridge_of(link),
                mtu: mtu_of(bridge).0,
                kind: UplinkKind::Device,
                own: host.own(&name),
            };
            state.uplinks.insert(name, uplink);
        }
        for (name, link) in host.ours(names::TAP, "tun") {
            let tap = observed_tap(&host, link, state.ports.get(&name));
            state.taps.insert(name, tap);
        }
        if self.beside.is_none() {
            state.remotes = self.observe_remotes(&host)?.clone();
        }
        state.mirrors = self.observe_mirrors(&host)?;
        self.observe_domains(&host, &mut state)?;
        Ok(state)
    }

    fn observe_domains(&mut self, host: &Host, state: &mut NodeState) -> Result<()> {
        let mut legs: BTreeMap<IfName, &Link> = host.ours(names::LEG, "veth").collect();
        let mut ways: BTreeMap<IfName, &Link> = host.ours(names::EGRESS, "veth").collect();
        let mut floats: BTreeMap<IfName, &Link> = host.ours(names::FLOATING, "veth").collect();
        let forwarding = self.forwarding()?;
        let prefix = self.netns_name(names::NETNS);
        let mut found = Vec::new();
        for full in Netns::list()? {
            let Some(hash) = full.strip_prefix(&prefix) else { continue };
            let name = format!("{}{hash}", names::NETNS);
            if !is_ours(&name, names::NETNS) {
                continue;
            }
            // It may be gone again by now.
            let Some(netns) = Netns::open(&full).unless_missing()? else { continue };
            let inside = look_inside(&netns)?;
            found.push((name, netns, inside));
        }
        let ends: BTreeMap<_, _> =
            found.iter().flat_map(|(name, _, inside)| router::ends(&inside.links, name)).collect();
        for (name, netns, inside) in found {
            let mut domain = Domain::default();
            for far in inside.links.iter().filter(|l| l.kind == "veth") {
                let joined = |near: &&Link| near.index == far.parent && near.parent == far.index;
                if is_ours(&far.name, names::PEER) {
                    continue;
                }
                if let Some(name) = find(&legs, joined) {
                    let near = legs.remove(&name).unwrap_or(far);
                    domain.legs.extend(observed_leg(host, &inside, near, far).map(|leg| (name, leg)));
                } else if let Some(name) = find(&floats, joined) {
                    let near = floats.remove(&name).unwrap_or(far);
                    let (bridge, fixed) = (host.bridge_of(near), host.fixed(near, far.mac));
                    let (mut rtnl, mut nft) = (Rtnl::open_in(&netns)?, Nft::open_in(&netns)?);
                    let seen = floating::observed(&mut rtnl, &mut nft, (&name, near), far, bridge, fixed)?;
                    domain.floating.extend(seen.map(|f| (name, f)));
                } else if let Some(name) = find(&ways, joined) {
                    let near = ways.remove(&name).unwrap_or(far);
                    domain.egress = observed_egress(host, &inside, name, near, far, &forwarding);
                }
            }
            let mut rtnl = Rtnl::open_in(&netns)?;
            router::observe(&mut rtnl, &inside.links, &ends, &mut domain)?;
            domain.returns = returns::observed(&mut rtnl, &mut Nft::open_in(&netns)?, &name)?;
            state.domains.insert(name, domain);
        }
        // Ends whose domain is gone lead nowhere, and a tunnel that was made and not moved in does not either; they are shown in
        // domains that nobody wants.
        let halfway = host.ours(names::ROUTER, "vxlan").map(|(name, _)| name);
        let ends = legs.into_keys().chain(ways.into_keys()).chain(floats.into_keys());
        for (i, name) in ends.chain(halfway).enumerate() {
            let leg = Leg {
                alias: String::new(),
                bridge: nowhere(),
                peer: name.clone(),
                mac: MacAddr([0; 6]),
                addresses: BTreeSet::new(),
                mtu: Mtu::ETHERNET,
                symmetric: false,
                admits: None,
            };
            let lost = Domain { legs: BTreeMap::from([(name, leg)]), ..Domain::default() };
            state.domains.insert(format!("{}lost-{i}", names::NETNS), lost);
        }
        Ok(())
    }

    /// Whether what answers come in by forwards, and each way out by name.
    fn forwarding(&mut self) -> Result<impl Fn(&str) -> bool + use<>> {
        let outside = self.outside_devices()?;
        let links = self.rtnl.links()?;
        let ways = links.into_iter().map(|l| l.name).filter(|n| is_ours(n, names::EGRESS));
        let devices: Vec<String> = outside.iter().cloned().chain(ways).collect();
        let on: HashMap<String, bool> = self.config.host.run(|| {
            let on = |d: &String| sysctl::read(&forwarding_key(d)).is_ok_and(|v| v == "1");
            devices.iter().map(|d| (d.clone(), on(d))).collect()
        })?;
        let all = outside.iter().all(|d| on.get(d) == Some(&true));
        Ok(move |way: &str| all && on.get(way) == Some(&true))
    }
}

fn find(ends: &BTreeMap<IfName, &Link>, joined: impl Fn(&&Link) -> bool) -> Option<IfName> {
    ends.iter().find(|(_, near)| joined(near)).map(|(name, _)| name.clone())
}

fn look_inside(netns: &Netns) -> Result<Inside> {
    let mut rtnl = Rtnl::open_in(netns)?;
    let mut nft = Nft::open_in(netns)?;
    let facts = nft.elements(Family::Inet, TABLE, "nat_facts").unless_missing();
    let facts = match facts {
        Err(e) if e.is_unsupported() => Vec::new(),
        other => other?.unwrap_or_default(),
    };
    let symmetric = match nft.elements(Family::Inet, REPLIES, LEGS).unless_missing() {
        Err(e) if e.is_unsupported() => Vec::new(),
        other => other?.unwrap_or_default(),
    };
    let net = |key: &[u8]| {
        let (ip, prefix) = key.split_at_checked(4)?;
        let ip: [u8; 4] = ip.try_into().ok()?;
        let prefix = u32::from_ne_bytes(prefix.try_into().ok()?);
        Some(IpNet::V4(Ipv4Net::new(ip.into(), u8::try_from(prefix).ok()?).ok()?))
    };
    let links = rtnl.links()?;
    let mut admits = BTreeMap::new();
    for leg in links.iter().filter(|l| l.kind == "veth" && is_ours(&l.name, names::GATEWAY)) {
        if let Ok(name) = IfName::new(leg.name.as_str()) {
            let seen = private::observed(&mut nft, &name)?;
            admits.insert(name, seen);
        }
    }
    Ok(Inside {
        links,
        admits,
        addresses: rtnl.addresses()?,
        routes: rtnl.routes()?,
        nat: facts.iter().filter_map(|e| net(&e.key)).collect(),
        symmetric: symmetric.iter().filter_map(|e| device_name(&e.key)).collect(),
    })
}

/// Whether a device may carry a fabric: one of the node's own, or a bond of ours.
fn is_own(name: &str) -> bool {
    !name.starts_with("mh") || is_ours(name, names::BOND)
}

fn observed_fabric(host: &Host, link: &Link) -> FabricBridge {
    let (mtu, right) = mtu_of(link);
    let vlans = |index| read_vlans(host.vlans.get(&index).map(Vec::as_slice).unwrap_or_default());
    let inside = vlans(link.index);
    let mut right = right && link.up && link.vlan_filtering && inside.as_ref().is_some_and(|v| v.native.is_none());
    let port = host.links.iter().find(|l| l.master == link.index && is_own(&l.name));
    let uplink = port.and_then(|port| {
        let device = IfName::new(port.name.as_str()).ok()?;
        let there = vlans(port.index);
        right &= there.is_some() && port.up && port.mtu >= link.mtu && port.port.learning == Some(true);
        let PortVlans { tagged, native: untagged } = there.unwrap_or_default();
        let closed: Vec<VlanId> = host.inner_tags.iter().filter(|(d, _)| *d == device).map(|(_, id)| *id).collect();
        right &= host.tagged.contains(&device) && closed == untagged.into_iter().collect::<Vec<_>>();
        Some(FabricUplink { device, tagged, untagged })
    });
    FabricBridge { alias: alias_if(right, &link.alias), mtu, uplink, inside: inside.unwrap_or_default().tagged }
}

fn observed_bond(host: &Host, link: &Link) -> Bond {
    let (mtu, right) = mtu_of(link);
    let nics = host.links.iter().filter(|l| l.master == link.index);
    let (number, miimon) = link.bond.unwrap_or_default();
    let mode = BondMode::ALL.into_iter().find(|m| m.number() == number).unwrap_or_default();
    Bond {
        alias: alias_if(right && link.up && nics.clone().all(|n| n.up), &link.alias),
        mode,
        miimon,
        nics: nics.filter_map(|n| IfName::new(n.name.as_str()).ok()).collect(),
        mtu,
    }
}

fn observed_tap(host: &Host, link: &Link, port: Option<&multihome_plan::node::Port>) -> Tap {
    let (mtu, right) = mtu_of(link);
    let learning = Some(learns(port));
    let right = right
        && link.up
        && (host.beside.is_some() || link.port.learning == learning && link.port.unicast_flood == learning)
        && host.fixed(link, bound_mac(port));
    let (alias, queues, tx_queue_length) = read_tap_alias(&link.alias, link);
    let bridge = host.bridge_of(link);
    let vlans = is_ours(bridge.as_str(), names::FABRIC)
        .then(|| read_vlans(host.vlans.get(&link.index).map(Vec::as_slice).unwrap_or_default()));
    let right = right && vlans != Some(None);
    // A rate that is none of ours shows as none.
    let bandwidth = Bandwidth {
        ingress: host.shapes.get(&link.index).and_then(|shape| BitRate::of_bytes(shape.rate)),
        egress: IfName::new(link.name.as_str()).ok().and_then(|name| host.rates.get(&name).copied()),
    };
    Tap { alias: alias_if(right, &alias), bridge, mtu, queues, tx_queue_length, vlans: vlans.flatten(), bandwidth }
}

fn observed_leg(host: &Host, inside: &Inside, near: &Link, far: &Link) -> Option<Leg> {
    let (mtu, right) = mtu_of(far);
    let right = right && near.up && far.up && near.mtu == far.mtu && host.fixed(near, far.mac);
    let peer = IfName::new(far.name.as_str()).ok()?;
    Some(Leg {
        alias: alias_if(right, &near.alias),
        bridge: host.bridge_of(near),
        symmetric: inside.symmetric.contains(&peer),
        admits: inside.admits.get(&peer).cloned().unwrap_or_default(),
        peer,
        mac: MacAddr(far.mac.unwrap_or_default()),
        addresses: nets(&inside.addresses, far.index),
        mtu,
    })
}

fn observed_egress(
    host: &Host,
    inside: &Inside,
    name: IfName,
    near: &Link,
    far: &Link,
    forwarding: &impl Fn(&str) -> bool,
) -> Option<Egress> {
    let host_address = only_v4(&host.addresses, near.index);
    let peer_address = only_v4(&inside.addresses, far.index);
    let default = inside.routes.iter().any(|r| {
        r.prefix == 0 && r.table == TABLE_MAIN && r.oif == far.index && r.gateway == host_address.map(IpAddr::from)
    });
    let right = near.up && far.up && default && forwarding(name.as_str());
    Some(Egress {
        alias: alias_if(right, &near.alias),
        host: name,
        peer: IfName::new(far.name.as_str()).ok()?,
        host_address: host_address.unwrap_or(Ipv4Addr::UNSPECIFIED),
        peer_address: peer_address.unwrap_or(Ipv4Addr::UNSPECIFIED),
        nat: inside.nat.clone(),
    })
}
