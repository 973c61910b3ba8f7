//! Port security: one table of rules, loaded once, and facts per NIC in its sets, so that attaching
//! the ten-thousandth NIC costs what the first one did.
//!
//! Every frame from one of our taps is checked before the bridge sees it (hook prerouting). A tap
//! without facts may send nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use multihome_model::{IfName, MacAddr};
use multihome_netlink::nft::{Changes, Data, Element, Family, Listed, load_in};
use multihome_netlink::{Capability, Idempotent};
use multihome_plan::node::{Port, Security, Service};

use super::Kernel;
use crate::error::Result;

/// The name of our tables, one per family.
pub(super) const TABLE: &str = "multihome";
const MACS: &str = "nic_macs";
const IP4: &str = "nic_ip4";
const IP6: &str = "nic_ip6";
const TARGETS: &str = "nic_targets";
const SERVED: &str = "nic_served";
const SERVED6: &str = "nic_served6";
const GUARDED: &str = "nic_guarded";
const GUARDED6: &str = "nic_guarded6";
const PROMISCUOUS: &str = "nic_promiscuous";
const TRUNKS: &str = "nic_trunks";
const DROPPED: &str = "nic_dropped";
/// As whom a NIC asks DHCP servers.
const CLIENTS: &str = "nic_clients";
const ROGUES: [(Rogue, &str); 3] =
    [(Rogue::Dhcp4, "rogue_dhcp4"), (Rogue::Dhcp6, "rogue_dhcp6"), (Rogue::Router, "rogue_router")];

/// What a guest pretends to be for its network, and may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rogue {
    /// A DHCPv4 server or relay: it sends from port 67 or to port 68.
    Dhcp4,
    /// A DHCPv6 server: it sends from port 547 or to port 546.
    Dhcp6,
    /// A router: it sends router advertisements (RFC 4861 section 4.2).
    Router,
}
/// The devices of the node's own that are ports of networks' bridges.
pub(super) const UNTAGGED: &str = "uplinks_untagged";
/// The devices that are ports of fabrics' bridges.
pub(super) const TAGGED: &str = "uplinks_tagged";
/// The VLANs that stand for frames without a tag inside a fabric's bridge, by its uplink.
pub(super) const INNER_TAGS: &str = "inner_tags";
/// The addresses that each uplink asks nobody for, because every node has them.
pub(super) const OWN: [&str; 2] = ["uplink_own4", "uplink_own6"];

/// An empty set by which a table with these rules is known. Whoever changes a rule counts its name up.
const VERSION: &str = "rules_2";

/// The first rule of each hook is for most of what guests send: TCP, by a NIC that says who it is. What follows asks no more of it,
/// in more words. It decides nothing that they do not.
///
/// `nic_targets` holds what `nic_ip6` does: the target address of neighbour discovery (RFC 4861,
/// section 4.3 and 4.4: at offset 8 of the ICMPv6 message) has no name in this language yet, and a
/// nameless field takes a set of its own type.
///
/// What a guest sends to the metadata service (set `metadata`) is answered at its port, and goes no further: no other guest, no
/// gateway and no uplink sees it, whichever MAC it is sent to. Neighbour solicitations are told by their target.
///
/// Whom a DHCP server gives an address to is said in the request (`chaddr`, at offset 28 of it, RFC 2131 section 2, and so 36 of the
/// datagram): a NIC asks for itself alone, and not so often that it uses up the addresses of a server that
/// is not ours (set `asks_dhcp`). Requests to ours go no further than its port.
///
/// A gateway of ours has the same addresses on every node, and each answers on its own (sets `uplink_own4` and `uplink_own6`): across
/// a tunnel it neither asks nor answers. On a wire it has a MAC of the node's own and does both, for who is there; the node's NICs
/// ask nobody else for it, and hear nobody else who has its addresses.
///
/// A frame with a VLAN tag (IEEE 802.1Q or 802.1ad) passes on fabrics' bridges alone, which sort by it. On a network's own
/// bridge it comes neither from a NIC nor from the wire: a guest there is told of no VLAN, and the other rules would not see
/// what is behind the tag. That goes for a tag that names no VLAN but a priority, too.
///
/// Probes between nodes (set `probes`: EtherType 0x88b5 of crate `probe`) and answers to a node's probe MAC
/// ([`multihome_model::names::PROBE_MAC`]) are for the packet sockets on uplinks: no guest
/// hears or forges them.
///
/// Nothing passes between the host itself and a bridge: the host has no business in a network, and
/// would answer ARP there for its own addresses; nor between it and the wire of a device that it has lent. Of a fabric's bridge there pass the VLAN devices on it, which are ports of
/// networks' bridges; in no other VLAN is the host. (Ports are told apart by sets and not by `meta ibrname`, which not every
/// kernel has. Other bridges of the machine are none of our business.)
const RULES: &str = r#"
table bridge multihome {
    set nic_macs { type ifname . ether_addr; }
    set nic_ip4 { type ifname . ipv4_addr; }
    set nic_ip6 { type ifname . ipv6_addr; }
    set nic_targets { typeof iifname . @th,64,128; }
    set nic_served { type ifname; }
    set nic_served6 { type ifname; }
    set nic_guarded { type ifname; counter; }
    set nic_guarded6 { type ifname; counter; }
    set nic_promiscuous { type ifname; }
    set nic_trunks { type ifname; }
    set nic_dropped { type ifname; counter; }
    set nic_clients { typeof iifname . @th,288,48; }
    set asks_dhcp { type ifname; size 65535; flags dynamic,timeout; timeout 10m; }
    set rogue_dhcp4 { type ifname; size 65535; flags dynamic,timeout; timeout 10m; }
    set rogue_dhcp6 { type ifname; size 65535; flags dynamic,timeout; timeout 10m; }
    set rogue_router { type ifname; size 65535; flags dynamic,timeout; timeout 10m; }
    set metadata { type ipv6_addr; elements = { fe80::a9fe:a9fe, fd00:ec2::254 }; }
    set uplinks_untagged { type ifname; }
    set uplinks_tagged { type ifname; }
    set inner_tags { typeof iifname . vlan id; }
    set uplink_own4 { type ifname . ipv4_addr; }
    set uplink_own6 { typeof oifname . @th,64,128; }
    set probes { type ether_type; elements = { 0x88b5 }; }
    set rules_2 { type ifname; }

    chain refuse {
        iifname @nic_dropped drop
        drop
    }
    chain from_arp {
        arp htype != 1 goto refuse
        arp ptype != ip goto refuse
        arp hlen != 6 goto refuse
        arp plen != 4 goto refuse
        iifname . arp saddr ether != @nic_macs goto refuse
        arp operation request arp saddr ip 0.0.0.0 accept
        iifname . arp saddr ip @nic_ip4 accept
        goto refuse
    }
    chain asks4 {
        iifname . @th,288,48 @nic_clients jump asks_itself
        goto refuse
    }
    chain asks_itself {
        update @asks_dhcp { iifname limit rate over 30/minute burst 60 packets } goto refuse
        ip saddr 0.0.0.0 udp sport 68 accept
        iifname . ip saddr @nic_ip4 accept
    }
    chain from_ip4 {
        udp sport 67 update @rogue_dhcp4 { iifname } goto refuse
        udp dport 68 update @rogue_dhcp4 { iifname } goto refuse
        udp dport 67 goto asks4
        iifname . ip saddr @nic_ip4 accept
        goto refuse
    }
    chain from_ip6 {
        icmpv6 type nd-router-advert update @rogue_router { iifname } goto refuse
        icmpv6 type nd-redirect goto refuse
        udp sport 547 update @rogue_dhcp6 { iifname } goto refuse
        udp dport 546 update @rogue_dhcp6 { iifname } goto refuse
        udp dport 547 update @asks_dhcp { iifname limit rate over 30/minute burst 60 packets } goto refuse
        icmpv6 type nd-neighbor-advert iifname . @th,64,128 != @nic_targets goto refuse
        ip6 saddr :: icmpv6 type nd-neighbor-solicit iifname . @th,64,128 @nic_targets accept
        ip6 saddr :: icmpv6 type { nd-router-solicit, mld-listener-report, mld2-listener-report } accept
        iifname . ip6 saddr @nic_ip6 accept
        goto refuse
    }
    chain tagged {
        iifname @nic_trunks return
        iifname @uplinks_untagged goto refuse
        iifname . vlan id @inner_tags drop
        iifname @uplinks_tagged return
        iifname "mh*" goto refuse
    }
    chain prerouting {
        type filter hook prerouting priority -300; policy accept;
        ether type ip meta l4proto 6 ip daddr != 169.254.169.254 iifname . ether saddr @nic_macs iifname . ip saddr @nic_ip4 accept
        ether type ip6 meta l4proto 6 ip6 daddr != @metadata iifname . ether saddr @nic_macs iifname . ip6 saddr @nic_ip6 accept
        ether type { 8021q, 8021ad } jump tagged
        iifname != "mht*" accept
        ether type @probes drop
        ether type ip ip daddr 169.254.169.254 drop
        ether type arp arp daddr ip 169.254.169.254 drop
        ether type ip6 ip6 daddr @metadata drop
        ether type ip6 icmpv6 type nd-neighbor-solicit @th,64,128 { 0xfe8000000000000000000000a9fea9fe, 0xfd000ec2000000000000000000000254 } drop
        iifname @nic_served ether type ip udp dport 67 drop
        iifname @nic_served6 ether type ip6 udp dport 547 drop
        iifname @nic_served6 ether type ip6 icmpv6 type nd-router-solicit drop
        iifname @nic_promiscuous accept
        iifname . ether saddr != @nic_macs goto refuse
        iifname @nic_trunks accept
        ether type vmap { arp : goto from_arp, ip : goto from_ip4, ip6 : goto from_ip6 }
        goto refuse
    }
    chain speaks4 {
        oifname @nic_served drop
        oifname @nic_guarded drop
    }
    chain speaks6 {
        oifname @nic_served6 drop
        oifname @nic_guarded6 drop
    }
    chain forward {
        type filter hook forward priority -300; policy accept;
        ether type { ip, ip6 } meta l4proto 6 ether daddr & ff:ff:00:00:00:00 != 0e:6d:00:00:00:00 accept
        iifname "mhl*" oifname "mhx*" ether type arp drop
        iifname "mhl*" oifname "mhx*" ether type ip6 icmpv6 type { nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect } drop
        ether type arp oifname . arp daddr ip @uplink_own4 drop
        ether type ip6 icmpv6 type nd-neighbor-solicit oifname . @th,64,128 @uplink_own6 drop
        ether type arp iifname . arp saddr ip @uplink_own4 drop
        ether type ip6 icmpv6 type nd-neighbor-advert iifname . @th,64,128 @uplink_own6 drop
        oifname != "mht*" accept
        ether type @probes drop
        ether daddr & ff:ff:00:00:00:00 == 0e:6d:00:00:00:00 drop
        ether type ip udp dport 68 goto speaks4
        ether type ip6 udp dport 546 goto speaks6
        ether type ip6 icmpv6 type nd-router-advert goto speaks6
        ether type ip6 exthdr frag exists meta l4proto 58 ip6 saddr fe80::/10 goto speaks6
    }
    chain input {
        type filter hook input priority -300; policy accept;
        iifname @nic_trunks accept
        iifname @uplinks_tagged accept
        iifname @uplinks_untagged drop
        iifname "mh*" drop
    }
    chain output {
        type filter hook output priority -300; policy accept;
        oifname @nic_trunks accept
        oifname @uplinks_tagged accept
        oifname "mh*" drop
    }
}
"#;

/// The elements that stand for a port's facts, as set and key.
fn facts(name: &IfName, port: &Port) -> BTreeSet<(&'static str, Data)> {
    let key = || Data::new().ifname(name.as_str());
    let mut facts = BTreeSet::new();
    for (service, served, guarded) in [(port.dhcp4, SERVED, GUARDED), (port.dhcp6, SERVED6, GUARDED6)] {
        match service {
            Service::Served => drop(facts.insert((served, key()))),
            Service::Guarded => drop(facts.insert((guarded, key()))),
            Service::Open => {}
        }
    }
    match &port.security {
        Security::Promiscuous => {
            facts.insert((PROMISCUOUS, key()));
        }
        Security::Trunk(None) => facts.extend([(TRUNKS, key()), (PROMISCUOUS, key())]),
        Security::Trunk(Some(mac)) => {
            facts.extend([(TRUNKS, key()), (DROPPED, key()), (MACS, key().mac(mac.0))]);
        }
        Security::Strict { mac, ipv4, ipv6 } => {
            facts.insert((DROPPED, key()));
            facts.insert((MACS, key().mac(mac.0)));
            if port.dhcp4 != Service::Served {
                facts.insert((CLIENTS, key().mac(mac.0)));
            }
            facts.extend(ipv4.iter().map(|a| (IP4, key().ip((*a).into()))));
            for a in ipv6 {
                facts.insert((IP6, key().ip((*a).into())));
                facts.insert((TARGETS, key().ip((*a).into())));
            }
        }
    }
    facts
}

/// The device name that a key is.
pub(super) fn device_name(key: &[u8]) -> Option<IfName> {
    split(key).map(|(name, _)| name)
}

/// The device name and the rest of a key.
pub(super) fn split(key: &[u8]) -> Option<(IfName, &[u8])> {
    let (name, rest) = key.split_at_checked(16)?;
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    let name = std::str::from_utf8(&name[..end]).ok()?;
    Some((IfName::new(name).ok()?, rest))
}

impl Kernel {
    /// Loads the table if it is not there.
    pub(super) fn ensure_tables(&mut self) -> Result<()> {
        if self.tables {
            return Ok(());
        }
        self.require(Capability::BridgeNftables, || "port security".into())?;
        if !self.nft.has_table(Family::Bridge, TABLE)? {
            load_in(&self.config.host, RULES)?;
        } else if self.nft.elements(Family::Bridge, TABLE, VERSION).unless_missing()?.is_none() {
            // Of an earlier version: replaced in one transaction. Its facts are put back by the next plan; until then
            // nothing leaves a tap.
            load_in(&self.config.host, &format!("delete table bridge {TABLE}\n{RULES}"))?;
            self.ports = None;
        }
        self.tables = true;
        Ok(())
    }

    pub(super) fn delete_tables(&mut self) -> Result<()> {
        self.tables = false;
        self.ports = None;
        for family in [Family::Bridge, Family::Inet] {
            match self.nft.delete_table(family, TABLE).unless_missing() {
                // A kernel that has no such family has no such table.
                Err(e) if e.is_unsupported() => {}
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// The facts that are in the table; read once, then kept.
    pub(super) fn known_ports(&mut self) -> Result<&BTreeMap<IfName, Port>> {
        if self.ports.is_none() {
            self.ports = Some(self.read_ports()?);
        }
        Ok(self.ports.get_or_insert_default())
    }

    pub(super) fn keys(&mut self, set: &str) -> Result<Vec<Listed>> {
        Ok(self.nft.elements(Family::Bridge, TABLE, set).unless_missing()?.unwrap_or_default())
    }

    /// Makes a fact about a device true or not.
    pub(super) fn put_fact(&mut self, set: &'static str, device: &IfName, wanted: bool) -> Result<()> {
        if wanted {
            self.ensure_tables()?;
        }
        let there = self.devices(set)?.contains(device);
        let mut changes = Changes::new();
        let key = Data::new().ifname(device.as_str());
        match (there, wanted) {
            (false, true) => changes.add(set, Element::key(key)),
            (true, false) => changes.delete(set, key),
            _ => return Ok(()),
        };
        Ok(self.nft.apply(Family::Bridge, TABLE, &changes)?)
    }

    /// What is in a set; nothing, where there are no tables.
    pub(super) fn facts_in(&mut self, set: &'static str) -> Result<Vec<Listed>> {
        self.known_ports()?;
        if self.tables { self.keys(set) } else { Ok(vec![]) }
    }

    /// The devices in a set.
    pub(super) fn devices(&mut self, set: &'static str) -> Result<BTreeSet<IfName>> {
        Ok(self.facts_in(set)?.iter().filter_map(|e| device_name(&e.key)).collect())
    }

    /// Reads the facts back.
    pub(super) fn read_ports(&mut self) -> Result<BTreeMap<IfName, Port>> {
        let has = match self.nft.has_table(Family::Bridge, TABLE) {
            Err(e) if e.is_unsupported() => false,
            other => other?,
        };
        self.tables = has;
        if !has {
            return Ok(BTreeMap::new());
        }
        let mut macs = BTreeMap::new();
        for e in self.keys(MACS)? {
            if let Some((name, mac)) = split(&e.key)
                && let Some(mac) = mac.first_chunk::<6>()
            {
                macs.insert(name, MacAddr(*mac));
            }
        }
        let mut ipv4: BTreeMap<IfName, BTreeSet<Ipv4Addr>> = BTreeMap::new();
        let mut ipv6: BTreeMap<IfName, BTreeSet<Ipv6Addr>> = BTreeMap::new();
        for set in [IP4, IP6, TARGETS] {
            for e in self.keys(set)? {
                let Some((name, ip)) = split(&e.key) else { continue };
                match ip.len() {
                    4 => ip.try_into().map(|a: [u8; 4]| ipv4.entry(name).or_default().insert(a.into())),
                    16 => ip.try_into().map(|a: [u8; 16]| ipv6.entry(name).or_default().insert(a.into())),
                    _ => Ok(false),
                }
                .ok();
            }
        }
        let names =
            |list: Vec<Listed>| -> BTreeSet<IfName> { list.iter().filter_map(|e| Some(split(&e.key)?.0)).collect() };
        let mut services = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
        for (set, seen) in [SERVED, GUARDED, SERVED6, GUARDED6].into_iter().zip(&mut services) {
            *seen = names(self.keys(set)?);
        }
        let service = |name: &IfName, of: usize| {
            if services[of].contains(name) {
                Service::Served
            } else if services[of + 1].contains(name) {
                Service::Guarded
            } else {
                Service::Open
            }
        };
        let promiscuous = names(self.keys(PROMISCUOUS)?);
        let trunks = names(self.keys(TRUNKS)?);
        let dropped = names(self.keys(DROPPED)?);
        let mut all: BTreeSet<IfName> = macs.keys().chain(ipv4.keys()).chain(ipv6.keys()).cloned().collect();
        all.extend(services.iter().flatten().chain(&promiscuous).chain(&trunks).chain(&dropped).cloned());
        let port = |name: IfName| {
            let mac = macs.get(&name).copied().unwrap_or(MacAddr([0; 6]));
            let open = promiscuous.contains(&name);
            let security = if trunks.contains(&name) {
                Security::Trunk((!open).then_some(mac))
            } else if open {
                Security::Promiscuous
            } else {
                Security::Strict {
                    mac,
                    ipv4: ipv4.remove(&name).unwrap_or_default(),
                    ipv6: ipv6.remove(&name).unwrap_or_default(),
                }
            };
            let port = Port { dhcp4: service(&name, 0), dhcp6: service(&name, 2), security };
            (name, port)
        };
        Ok(all.into_iter().map(port).collect())
    }

    /// Makes exactly these facts true for a port, or none, in one transaction.
    pub(super) fn put_port(&mut self, name: &IfName, port: Option<&Port>) -> Result<()> {
        if port.is_some() {
            self.ensure_tables()?;
        }
        let known = self.known_ports()?.get(name);
        let mac = super::bridge::bound_mac(known);
        let before = known.map(|p| facts(name, p)).unwrap_or_default();
        let after = port.map(|p| facts(name, p)).unwrap_or_default();
        let mut changes = Changes::new();
        for (set, key) in before.difference(&after) {
            changes.delete(set, key.clone());
        }
        for (set, key) in after.difference(&before) {
            changes.add(set, Element::key(key.clone()));
        }
        if let Err(e) = self.nft.apply(Family::Bridge, TABLE, &changes) {
            // Somebody has been at the table: look at it again next time.
            self.ports = None;
            self.tables = false;
            return Err(e.into());
        }
        let ports = self.ports.get_or_insert_default();
        match port {
            Some(port) => ports.insert(name.clone(), port.clone()),
            None => ports.remove(name),
        };
        self.bind_mac(name, port, mac)
    }

    /// How many frames of each NIC were dropped because it may not send them.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn drops(&mut self) -> Result<BTreeMap<IfName, u64>> {
        let list = self.keys(DROPPED)?;
        Ok(list.iter().filter_map(|e| Some((split(&e.key)?.0, e.packets?))).collect())
    }

    /// The NICs whose guests pretended in the last ten minutes to be what they may not be. Their frames were dropped.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn rogues(&mut self) -> Result<BTreeSet<(IfName, Rogue)>> {
        let mut all = BTreeSet::new();
        if !self.tables {
            return Ok(all);
        }
        for (rogue, set) in ROGUES {
            all.extend(self.keys(set)?.iter().filter_map(|e| Some((split(&e.key)?.0, rogue))));
        }
        Ok(all)
    }
}

/// Whether an address is one that a leg carries because it was told to.
pub(super) fn is_assigned(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => true,
        IpAddr::V6(a) => !a.is_unicast_link_local(),
    }
}
