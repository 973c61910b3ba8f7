//! What VXLAN uplinks know of other nodes: forwarding entries, and the neighbours that the bridge answers for.
//!
//! A NIC of another node is three facts: the VXLAN device knows which node has its MAC, the bridge knows that the VXLAN device
//! does, and the bridge's neighbours know which addresses it has. With neighbour suppression on the port (bridge(8),
//! `neigh_suppress`; net/bridge/br_arp_nd_proxy.c) the bridge answers who asks for these, and nothing crosses the underlay.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use multihome_model::{IfName, MacAddr, names};
use multihome_netlink::nft::{Changes, Data, Element, Family};
use multihome_netlink::{FdbEntry, Idempotent, LinkChange, Neighbour, PortFlags, sysctl};
use multihome_plan::node::{Flood, Remote, Remotes};

use super::Kernel;
use super::observe::Host;
use super::security::{OWN, TABLE, split};
use crate::error::Result;

/// The forwarding entry that stands for every address nobody knows (vxlan(8)).
pub(crate) const ANYBODY: [u8; 6] = [0; 6];

/// The attributes of a VXLAN uplink as a port.
fn flags(unknown: bool) -> PortFlags {
    PortFlags {
        learning: Some(unknown),
        unicast_flood: Some(unknown),
        neigh_suppress: Some(!unknown),
        ..PortFlags::default()
    }
}

pub(crate) fn copy_to(index: u32, node: IpAddr) -> FdbEntry {
    FdbEntry { index, mac: ANYBODY, remote: Some(node), own: true, permanent: true }
}

/// The entries of a NIC: where the tunnel leads, and that the tunnel leads there.
pub(crate) fn host(index: u32, mac: MacAddr, via: IpAddr) -> [FdbEntry; 2] {
    let entry = FdbEntry { index, mac: mac.0, remote: Some(via), own: true, permanent: true };
    [entry.clone(), FdbEntry { remote: None, own: false, ..entry }]
}

/// The set of addresses that uplinks ask nobody for.
fn own_set(ip: IpAddr) -> &'static str {
    OWN[usize::from(ip.is_ipv6())]
}

fn own_key(uplink: &IfName, ip: IpAddr) -> Data {
    Data::new().ifname(uplink.as_str()).ip(ip)
}

fn first_fault(results: Vec<multihome_netlink::Result<()>>) -> Result<()> {
    Ok(results.into_iter().collect::<multihome_netlink::Result<()>>()?)
}

impl Kernel {
    pub(super) fn put_flood(&mut self, name: &IfName, flood: &Flood) -> Result<()> {
        let index = self.rtnl.index(name.as_str())?;
        let known = self.known_remotes()?.get(name).cloned().unwrap_or_default();
        self.ensure_tables()?;
        self.change_own(name, &known.flood.own, &flood.own)?;
        let gone: Vec<FdbEntry> = known.flood.nodes.difference(&flood.nodes).map(|n| copy_to(index, *n)).collect();
        for result in self.rtnl.fdb_delete(&gone) {
            result.unless_missing()?;
        }
        let all: Vec<FdbEntry> = flood.nodes.iter().map(|n| copy_to(index, *n)).collect();
        first_fault(self.rtnl.fdb_set(&all))?;
        self.rtnl.change(index, &LinkChange { port: flags(flood.unknown), ..LinkChange::default() })?;
        self.remotes.get_or_insert_default().entry(name.clone()).or_default().flood = flood.clone();
        Ok(())
    }

    /// Makes a NIC of another node known, or forgets it.
    pub(super) fn put_remote(&mut self, name: &IfName, mac: MacAddr, remote: Option<&Remote>) -> Result<()> {
        let Some(link) = self.rtnl.link(name.as_str())? else {
            // What it knew went with it.
            return match remote {
                None => Ok(()),
                Some(_) => Ok(self.rtnl.index(name.as_str()).map(drop)?),
            };
        };
        let before = self.known_remotes()?.get(name).and_then(|r| r.hosts.get(&mac)).cloned();
        let has = |r: Option<&Remote>| r.map(|r| r.addresses.clone()).unwrap_or_default();
        for ip in has(before.as_ref()).difference(&has(remote)) {
            // Another NIC may have been told to have it meanwhile.
            if !self.has_other(name, mac, *ip) {
                self.rtnl.neighbour_delete(link.master, *ip).unless_missing()?;
            }
        }
        match remote {
            None => {
                let via = before.map_or(IpAddr::from([0, 0, 0, 0]), |b| b.via);
                for result in self.rtnl.fdb_delete(&host(link.index, mac, via)) {
                    result.unless_missing()?;
                }
            }
            Some(remote) => {
                first_fault(self.rtnl.fdb_set(&host(link.index, mac, remote.via)))?;
                if remote.addresses.iter().any(IpAddr::is_ipv6) {
                    self.admit_ipv6(link.master)?;
                }
                let entries: Vec<_> = remote.addresses.iter().map(|ip| (link.master, *ip, mac.0)).collect();
                first_fault(self.rtnl.neighbours_set(&entries))?;
            }
        }
        let known = self.remotes.get_or_insert_default().entry(name.clone()).or_default();
        match remote {
            Some(remote) => known.hosts.insert(mac, remote.clone()),
            None => known.hosts.remove(&mac),
        };
        Ok(())
    }

    /// Which addresses each uplink asks nobody for.
    pub(super) fn own_addresses(&mut self) -> Result<BTreeMap<IfName, BTreeSet<IpAddr>>> {
        let mut own: BTreeMap<IfName, BTreeSet<IpAddr>> = BTreeMap::new();
        for (set, length) in OWN.into_iter().zip([4, 16]) {
            for e in self.facts_in(set)? {
                let Some((name, ip)) = split(&e.key) else { continue };
                let ip = match length {
                    4 => <[u8; 4]>::try_from(ip).ok().map(IpAddr::from),
                    _ => <[u8; 16]>::try_from(ip).ok().map(IpAddr::from),
                };
                own.entry(name).or_default().extend(ip);
            }
        }
        Ok(own)
    }

    /// Makes exactly these the addresses that a wire is asked for by nobody, and that nobody there has.
    pub(super) fn put_own(&mut self, name: &IfName, wanted: &BTreeSet<IpAddr>) -> Result<()> {
        if !wanted.is_empty() {
            self.ensure_tables()?;
        }
        let there = self.own_addresses()?.remove(name).unwrap_or_default();
        self.change_own(name, &there, wanted)
    }

    fn change_own(&mut self, name: &IfName, there: &BTreeSet<IpAddr>, wanted: &BTreeSet<IpAddr>) -> Result<()> {
        let mut changes = Changes::new();
        for ip in there.difference(wanted) {
            changes.delete(own_set(*ip), own_key(name, *ip));
        }
        for ip in wanted.difference(there) {
            changes.add(own_set(*ip), Element::key(own_key(name, *ip)));
        }
        Ok(self.nft.apply(Family::Bridge, TABLE, &changes)?)
    }

    /// The device is gone, and what it knew with it.
    pub(super) fn forget_remotes(&mut self, name: &IfName) -> Result<()> {
        let own = self.known_remotes()?.get(name).map(|r| r.flood.own.clone()).unwrap_or_default();
        self.change_own(name, &own, &BTreeSet::new())?;
        self.remotes.get_or_insert_default().remove(name);
        Ok(())
    }

    /// Whether a VXLAN uplink learns addresses.
    pub(super) fn learns_remotes(&self, name: &IfName) -> bool {
        self.remotes.as_ref().and_then(|r| r.get(name)).is_some_and(|r| r.flood.unknown)
    }

    fn has_other(&self, name: &IfName, mac: MacAddr, ip: IpAddr) -> bool {
        let known = self.remotes.as_ref().and_then(|r| r.get(name));
        known.is_some_and(|r| r.hosts.iter().any(|(m, h)| *m != mac && h.addresses.contains(&ip)))
    }

    /// Lets a bridge have IPv6 neighbours: without an address of its own, and deaf to routers. What the host says there is dropped
    /// as ever.
    fn admit_ipv6(&mut self, bridge: u32) -> Result<()> {
        let Some(link) = self.rtnl.link_at(bridge)? else { return Ok(()) };
        let name = link.name;
        let set = |key: &str, value: &str| sysctl::set(&format!("net/ipv6/conf/{name}/{key}"), value).unless_missing();
        self.config.host.run(|| {
            if sysctl::read(&format!("net/ipv6/conf/{name}/disable_ipv6")).is_ok_and(|off| off == "0") {
                return Ok(());
            }
            // 1 is «none» (IN6_ADDR_GEN_MODE_NONE).
            set("addr_gen_mode", "1")?;
            set("accept_ra", "0")?;
            set("disable_ipv6", "0").map(drop)
        })??;
        Ok(())
    }

    fn known_remotes(&mut self) -> Result<&BTreeMap<IfName, Remotes>> {
        if self.remotes.is_none() {
            let host = self.look()?;
            self.observe_remotes(&host)?;
        }
        Ok(self.remotes.get_or_insert_default())
    }

    /// Reads back what VXLAN uplinks know. One whose port is not as it must be knows nothing, so that it is told again.
    pub(super) fn observe_remotes(&mut self, host: &Host) -> Result<&BTreeMap<IfName, Remotes>> {
        let mut neighbours: HashMap<(u32, [u8; 6]), BTreeSet<IpAddr>> = HashMap::new();
        let all: Vec<Neighbour> = self.rtnl.neighbours()?;
        for n in all.into_iter().filter(|n| n.permanent) {
            if let Some(mac) = n.mac {
                neighbours.entry((n.index, mac)).or_default().insert(n.ip);
            }
        }
        let mut found = BTreeMap::new();
        for (name, link) in host.ours(names::VXLAN, "vxlan") {
            let unknown = link.port.learning == Some(true);
            let want = flags(unknown);
            if link.port.unicast_flood != want.unicast_flood || link.port.neigh_suppress != want.neigh_suppress {
                continue;
            }
            let mut known = Remotes {
                flood: Flood { nodes: BTreeSet::new(), unknown, own: host.own(&name) },
                hosts: BTreeMap::new(),
            };
            let entries = host.entries(link.index);
            let bridged: BTreeSet<[u8; 6]> = entries.iter().filter(|e| !e.own && e.permanent).map(|e| e.mac).collect();
            for e in entries.iter().filter(|e| e.own) {
                let Some(via) = e.remote else { continue };
                if e.mac == ANYBODY {
                    known.flood.nodes.insert(via);
                } else if bridged.contains(&e.mac) {
                    let addresses = neighbours.get(&(link.master, e.mac)).cloned().unwrap_or_default();
                    known.hosts.insert(MacAddr(e.mac), Remote { via, addresses });
                }
            }
            found.insert(name, known);
        }
        Ok(self.remotes.insert(found))
    }
}
