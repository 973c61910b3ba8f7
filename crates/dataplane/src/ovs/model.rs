//! Which bridges, ports and facts Open vSwitch is to have, and how its database says so. Pure.
//!
//! What a row stands for is kept with it (`external_ids`, key `multihome`), so that a restart of anybody finds it there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use multihome_model::{BitRate, IfName, MacAddr, VlanId, VlanSet, names};
use multihome_ovsdb::{map, set};
use multihome_plan::node::{Bridge, FabricBridge, Flood, Port, PortVlans, Remote, Uplink};
use multihome_plan::policy::Members;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Datapath;
use super::policy::{Bits, Policed};

/// The key of what a row of ours stands for.
pub(super) const KEY: &str = "multihome";
/// Begins the key of a NIC of another node.
const HOST: &str = "multihome-host ";

/// What a bridge is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    /// A network's.
    Network(Bridge),
    /// A fabric's, which trunks ride on.
    Fabric(FabricBridge),
    /// One for a device of the node's own that networks ride on and no trunk does.
    Device,
}

/// What a port is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Fact {
    /// A NIC's tap.
    Nic {
        /// Its VLANs, on a fabric's bridge.
        vlans: Option<PortVlans>,
        /// What may leave it; nothing, if nothing is known.
        port: Option<Port>,
        /// What may be opened by and towards it; everything, if nothing is said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        policed: Option<Policed>,
        /// How much may leave it, if that is limited.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        egress: Option<Limited>,
    },
    /// The end of a pair of devices into a routing domain, behind which one MAC is.
    Fixed {
        /// The MAC.
        mac: MacAddr,
        /// Whether it is the network's gateway, which every node has.
        gateway: bool,
    },
    /// A VXLAN device.
    Tunnel(Flood),
    /// From a network's bridge to that of a fabric or a device.
    Uplink(Uplink),
    /// The other end of that: an access port of the VLAN, or of what has no tag.
    Far(Option<VlanId>),
    /// A device of the node's own, or a bond; all VLANs, unless it is said which.
    Device(Option<PortVlans>),
}

/// How much may leave a NIC, and the meter of its bridge that sees to it. Another rate has another meter, because making a meter anew
/// removes the flows that ask it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Limited {
    pub(super) rate: BitRate,
    pub(super) meter: u32,
}

/// The highest number of a meter that every data path has. Meters of what NICs ask have their ports' numbers, from 1.
const METERS: u32 = 65_536;

/// A port, and what a tunnel knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortModel {
    pub(super) fact: Fact,
    pub(super) hosts: BTreeMap<MacAddr, Remote>,
}

impl From<Fact> for PortModel {
    fn from(fact: Fact) -> Self {
        Self { fact, hosts: BTreeMap::new() }
    }
}

/// A bridge and its ports, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BridgeModel {
    pub(super) role: Role,
    pub(super) ports: BTreeMap<String, PortModel>,
    /// The port that leads to other nodes.
    pub(super) uplink: Option<String>,
    /// The addresses that are in groups which rules here name; follows from the ports and the groups.
    pub(super) grouped: BTreeMap<IpAddr, Bits>,
}

impl BridgeModel {
    pub(super) fn new(role: Role) -> Self {
        Self { role, ports: BTreeMap::new(), uplink: None, grouped: BTreeMap::new() }
    }

    /// Adds a port, or makes it this.
    pub(super) fn put(&mut self, name: &str, port: PortModel) {
        if matches!(port.fact, Fact::Tunnel(_) | Fact::Uplink(_)) {
            self.uplink = Some(name.to_owned());
        }
        self.ports.insert(name.to_owned(), port);
    }

    /// A limit of what may leave a NIC, with a meter that no other has.
    pub(super) fn limited(&self, rate: BitRate) -> Option<Limited> {
        let of = |p: &PortModel| match &p.fact {
            Fact::Nic { egress: Some(limited), .. } => Some(limited.meter),
            _ => None,
        };
        let taken: BTreeSet<u32> = self.ports.values().filter_map(of).collect();
        let meter = (1..=METERS).rev().find(|id| !taken.contains(id))?;
        Some(Limited { rate, meter })
    }

    /// Takes a port away.
    pub(super) fn take(&mut self, name: &str) -> Option<PortModel> {
        if self.uplink.as_deref() == Some(name) {
            self.uplink = None;
        }
        self.ports.remove(name)
    }
}

/// The bridge of a device of the node's own that no trunk rides on.
pub(super) fn device_bridge(device: &IfName) -> IfName {
    names::device(names::DEVICE_BRIDGE, device.as_str())
}

/// The port of a network's bridge that is a device of the node's own in the plan.
pub(super) fn untagged_port(device: &IfName) -> IfName {
    names::device(names::VLAN, &format!("{device} untagged"))
}

/// The other end of what leads from a network's bridge.
pub(super) fn far_end(near: &str) -> String {
    near.replacen(names::VLAN, names::PATCH, 1)
}

/// And back.
fn near_end(far: &str) -> String {
    far.replacen(names::PATCH, names::VLAN, 1)
}

type Columns = Vec<(&'static str, Value)>;

fn json_of(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// What a row of ours stands for, if it can be read.
pub(super) fn read<T: for<'a> Deserialize<'a>>(ids: &BTreeMap<String, String>) -> Option<T> {
    serde_json::from_str(ids.get(KEY)?).ok()
}

/// What a tunnel knows, as its row says.
pub(super) fn read_hosts(ids: &BTreeMap<String, String>) -> BTreeMap<MacAddr, Remote> {
    let of = |(key, value): (&String, &String)| {
        Some((key.strip_prefix(HOST)?.parse().ok()?, serde_json::from_str(value).ok()?))
    };
    ids.iter().filter_map(of).collect()
}

/// Begins the key of a group, in what the root of the database says of itself.
const GROUP: &str = "multihome-group ";

/// The key of a group's members.
pub(super) fn group_key(group: &str) -> String {
    format!("{GROUP}{group}")
}

/// The members of a group as a value.
pub(super) fn group_value(members: &BTreeSet<IpAddr>) -> String {
    json_of(members)
}

/// The groups that the root of the database knows.
pub(super) fn read_groups(ids: &BTreeMap<String, String>) -> Members {
    let of = |(key, value): (&String, &String)| {
        Some((key.strip_prefix(GROUP)?.to_owned(), serde_json::from_str(value).unwrap_or_default()))
    };
    ids.iter().filter_map(of).collect()
}

/// The key and value for a NIC of another node.
pub(super) fn host_id(mac: MacAddr, remote: Option<&Remote>) -> (String, String) {
    (format!("{HOST}{mac}"), remote.map(json_of).unwrap_or_default())
}

/// The columns of a bridge but for its ports. Without flows it forwards nothing (`fail_mode`).
pub(super) fn bridge_columns(name: &IfName, role: &Role, datapath: Datapath) -> Columns {
    let mac = MacAddr(crate::kernel::bridge::fixed_mac(name)).to_string();
    vec![
        ("datapath_type", json!(datapath.name())),
        ("fail_mode", json!("secure")),
        ("external_ids", map([(KEY, json_of(role)), ("multihome-alias", alias(role).to_owned())])),
        ("other_config", map([("hwaddr", mac.as_str()), ("disable-in-band", "true"), ("mac-table-size", "65536")])),
    ]
}

/// What a bridge is called by people.
pub(super) fn alias(role: &Role) -> &str {
    match role {
        Role::Network(b) => &b.alias,
        Role::Fabric(f) => &f.alias,
        Role::Device => "",
    }
}

/// The MTU of a bridge's own port, in bytes.
pub(super) fn mtu(role: &Role) -> Option<u32> {
    match role {
        Role::Network(b) => Some(b.mtu.get()),
        Role::Fabric(f) => Some(f.mtu.get()),
        Role::Device => None,
    }
}

/// The columns of a bridge's own device.
pub(super) fn own_columns(role: &Role) -> Columns {
    vec![("mtu_request", set(mtu(role)))]
}

/// A VLAN that no plan has (IEEE 802.1Q reserves it): the one of ports that have none.
const NOBODYS: u16 = 4095;

fn ids(vlans: &VlanSet) -> Vec<u16> {
    vlans.ranges().flat_map(|(first, last)| first.get()..=last.get()).collect()
}

/// The VLANs of a port, as a switch that sorts by them is told (ovs-vswitchd.conf.db(5), «VLAN Configuration»). No VLANs at all
/// would mean all of them.
fn vlan_columns(fact: &Fact) -> Columns {
    let columns = |mode: Option<&str>, tag: Option<u16>, trunks: Vec<u16>| {
        vec![("vlan_mode", set(mode)), ("tag", set(tag)), ("trunks", set(trunks))]
    };
    match fact {
        Fact::Nic { vlans: Some(v), .. } | Fact::Device(Some(v)) => {
            let native = v.native.map(VlanId::get);
            let mut trunks = ids(&v.tagged);
            if trunks.is_empty() {
                trunks.push(native.unwrap_or(NOBODYS));
            }
            columns(Some(if native.is_some() { "native-untagged" } else { "trunk" }), native, trunks)
        }
        Fact::Far(id) => columns(Some("access"), Some(id.map_or(0, VlanId::get)), vec![]),
        _ => columns(None, None, vec![]),
    }
}

/// The columns of a port but for its interface and what it stands for.
pub(super) fn port_columns(fact: &Fact) -> Columns {
    vlan_columns(fact)
}

/// What a port stands for, as key and value.
pub(super) fn port_id(fact: &Fact) -> (String, String) {
    (KEY.to_owned(), json_of(fact))
}

/// The columns of a port's interface.
pub(super) fn interface_columns(name: &str, fact: &Fact) -> Columns {
    let patch = |peer: String| vec![("type", json!("patch")), ("options", map([("peer", peer)]))];
    match fact {
        Fact::Uplink(_) => patch(far_end(name)),
        Fact::Far(_) => patch(near_end(name)),
        _ => vec![("type", json!("")), ("options", map::<&str, &str>([]))],
    }
}
