//! Links: create, change, delete, look up and dump, with bridge ports' attributes.
//!
//! Numbers from include/uapi/linux/if_link.h and if_bridge.h. Nothing here decides which links
//! there should be.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::error::{Error, Result};
use crate::msg::{self, Msg};
use crate::rtnl::Rtnl;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_PROMISCUITY: u16 = 30;
const IFLA_CARRIER: u16 = 33;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_PERM_ADDRESS: u16 = 54;
const IFLA_PARENT_DEV_BUS_NAME: u16 = 57;
const RTEXT_FILTER_SKIP_STATS: u32 = 8;

const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;

const BR_FORWARD_DELAY: u16 = 1;
const BR_AGEING: u16 = 4;
const BR_STP: u16 = 5;
const BR_VLAN_FILTERING: u16 = 7;
const BR_MCAST_SNOOPING: u16 = 23;
const BR_VLAN_DEFAULT_PVID: u16 = 39;

const PORT_STATE: u16 = 1;
const BR_STATE_FORWARDING: u8 = 3;
const PORT_HAIRPIN: u16 = 4;
const PORT_LEARNING: u16 = 8;
const PORT_UNICAST_FLOOD: u16 = 9;
const PORT_MCAST_FLOOD: u16 = 27;
const PORT_BCAST_FLOOD: u16 = 30;
const PORT_NEIGH_SUPPRESS: u16 = 32;
const PORT_ISOLATED: u16 = 33;

const TUN_MULTI_QUEUE: u16 = 7;
const BOND_MODE: u16 = 1;
const BOND_MIIMON: u16 = 3;
const VXLAN_ID: u16 = 1;
const VXLAN_LINK: u16 = 3;
const VXLAN_LOCAL: u16 = 4;
const VXLAN_TTL: u16 = 5;
const BR_FDB_MAX_LEARNED: u16 = 49;
/// How many addresses a bridge learns. Those of NICs are told to it, and are not among them.
const MOST_LEARNED: u32 = 16_384;
const VXLAN_LEARNING: u16 = 7;
const VXLAN_PORT: u16 = 15;
const VXLAN_LOCAL6: u16 = 17;

/// What a new link is.
#[derive(Debug, Clone)]
pub enum LinkKind<'a> {
    /// A bridge without spanning tree, forward delay and multicast snooping. It learns at most 16,384 addresses, on kernels from 6.7
    /// on; others know no such limit, and take no notice of it.
    Bridge {
        /// How long a learned address lives, in hundredths of a second (the kernel's default: 30000).
        ageing: u32,
        /// Whether the bridge sorts frames by VLAN; not every kernel can. Ports then have no VLAN but those that they
        /// are told ([`Rtnl::vlans_add`]).
        vlan_filtering: bool,
    },
    /// A VXLAN tunnel end point (RFC 7348) whose remote ends are forwarding-database entries.
    Vxlan {
        /// VXLAN network identifier, 1 to 16777215.
        vni: u32,
        /// UDP port; IANA's is 4789.
        port: u16,
        /// This node's own tunnel address; without one the kernel chooses by route.
        local: Option<IpAddr>,
        /// Time to live of outer packets; 0 copies the inner one.
        ttl: u8,
        /// Whether remote ends are learned from traffic.
        learning: bool,
        /// The device that tunnels leave by, by index.
        underlay: Option<u32>,
    },
    /// A pair of virtual Ethernet devices.
    Veth {
        /// The other end.
        peer: VethPeer<'a>,
    },
    /// An 802.1Q sub-interface.
    Vlan {
        /// The index of the device below.
        parent: u32,
        /// VLAN id, 1 to 4094.
        id: u16,
    },
    /// A bond without devices yet.
    Bond {
        /// The mode's number (include/uapi/linux/if_bonding.h).
        mode: u8,
        /// How often the links of its devices are looked at, in milliseconds.
        miimon: u32,
    },
    /// A macvlan in bridge mode.
    Macvlan {
        /// The index of the device below.
        parent: u32,
    },
}

/// The other end of a new veth pair. It starts down (the kernel refuses an end that is up before it
/// has a peer); bring it up through a socket of its namespace.
#[derive(Debug, Clone)]
pub struct VethPeer<'a> {
    /// Its name, at most 15 bytes.
    pub name: &'a str,
    /// The namespace that it is created in directly; `None` for the socket's own.
    pub netns: Option<BorrowedFd<'a>>,
    /// Its MAC address; the kernel draws one if `None`.
    pub mac: Option<[u8; 6]>,
    /// Its MTU in bytes.
    pub mtu: Option<u32>,
}

/// A link to create.
#[derive(Debug, Clone)]
pub struct NewLink<'a> {
    /// Its name, at most 15 bytes.
    pub name: &'a str,
    /// What it is.
    pub kind: LinkKind<'a>,
    /// What is set on it in the same batch.
    pub change: LinkChange<'a>,
}

/// What to set on a link; `None` leaves a thing as it is.
#[derive(Debug, Clone, Default)]
pub struct LinkChange<'a> {
    /// Administrative state.
    pub up: Option<bool>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Transmit queue length in packets.
    pub tx_queue_length: Option<u32>,
    /// The bridge that it becomes a port of, by index; 0 leaves its bridge.
    pub master: Option<u32>,
    /// MAC address.
    pub mac: Option<[u8; 6]>,
    /// Readable alias, at most 255 bytes; empty removes it.
    pub alias: Option<&'a str>,
    /// New name, at most 15 bytes.
    pub name: Option<&'a str>,
    /// The namespace to move it to.
    pub netns: Option<BorrowedFd<'a>>,
    /// Attributes as a bridge port.
    pub port: PortFlags,
}

/// Attributes of a bridge port; `None` leaves one as it is, or says that it was not reported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortFlags {
    /// Source addresses are learned.
    pub learning: Option<bool>,
    /// Unicast to unknown addresses is flooded here.
    pub unicast_flood: Option<bool>,
    /// Multicast is flooded here.
    pub multicast_flood: Option<bool>,
    /// Broadcast is flooded here.
    pub broadcast_flood: Option<bool>,
    /// Talks to ports that are not isolated only.
    pub isolated: Option<bool>,
    /// Frames may leave by the port that they came in on.
    pub hairpin: Option<bool>,
    /// ARP and ND are answered from the bridge's own tables.
    pub neigh_suppress: Option<bool>,
}

impl PortFlags {
    fn each(&self) -> [(u16, Option<bool>); 7] {
        [
            (PORT_LEARNING, self.learning),
            (PORT_UNICAST_FLOOD, self.unicast_flood),
            (PORT_MCAST_FLOOD, self.multicast_flood),
            (PORT_BCAST_FLOOD, self.broadcast_flood),
            (PORT_ISOLATED, self.isolated),
            (PORT_HAIRPIN, self.hairpin),
            (PORT_NEIGH_SUPPRESS, self.neigh_suppress),
        ]
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A link as the kernel reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Index in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Readable alias; empty if none.
    pub alias: String,
    /// Kind (`bridge`, `veth`, `vxlan`, `tun`, …); empty for real devices and loopback.
    pub kind: String,
    /// Administrative state.
    pub up: bool,
    /// Whether there is a carrier: for a tap, whether somebody has it open.
    pub carrier: bool,
    /// Operational state (RFC 2863): 6 is up, 2 down, 0 unknown, 7 lower layer down.
    pub operstate: u8,
    /// MTU in bytes.
    pub mtu: u32,
    /// Transmit queue length in packets.
    pub tx_queue_length: u32,
    /// Whether a tap takes several descriptors at a time.
    pub multi_queue: bool,
    /// MAC address, of devices that have one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// The MAC address that the hardware came with, where it says so.
    pub permanent_mac: Option<[u8; 6]>,
    /// The bus that its hardware is on (`pci`, `virtio`, `usb`); empty for devices without hardware.
    pub bus: String,
    /// Whether it is loopback.
    pub loopback: bool,
    /// The bridge that it is a port of, by index; 0 if none.
    pub master: u32,
    /// The device below or the veth peer, by index; 0 if none.
    pub parent: u32,
    /// The id of the namespace that `parent` is in, if another one.
    pub parent_netnsid: Option<i32>,
    /// How many holders want every frame.
    pub promiscuity: u32,
    /// VXLAN network identifier, of VXLAN devices.
    pub vni: Option<u32>,
    /// The device that tunnels leave by, by index, of VXLAN devices that name one; 0 if none.
    pub underlay: u32,
    /// UDP port, of VXLAN devices.
    pub vxlan_port: Option<u16>,
    /// The own tunnel address, of VXLAN devices.
    pub vxlan_local: Option<IpAddr>,
    /// VLAN id, of 802.1Q sub-interfaces.
    pub vlan: Option<u16>,
    /// Whether a bridge sorts frames by VLAN.
    pub vlan_filtering: bool,
    /// Mode's number and milliseconds between looks at the links, of bonds.
    pub bond: Option<(u8, u32)>,
    /// Attributes as a bridge port.
    pub port: PortFlags,
    /// Whether it is a bridge port that forwards: some moments after it has a carrier.
    pub forwarding: bool,
}

/// `struct ifinfomsg`.
pub(crate) fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut head = [0; 16];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..16].copy_from_slice(&change.to_ne_bytes());
    head
}

/// A device name as the kernel takes one: 1 to 15 bytes, no slash, no space, no NUL.
pub(crate) fn check_name<'a>(op: &'static str, name: &'a str) -> Result<&'a str> {
    let fits = !name.is_empty()
        && name.len() < libc::IFNAMSIZ
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace());
    if fits {
        return Ok(name);
    }
    Err(Error::Invalid { op, what: format!("{name:?} is not a device name of 1 to 15 characters") })
}

fn up_flags(up: Option<bool>) -> (u32, u32) {
    let flag = libc::IFF_UP as u32;
    (if up == Some(true) { flag } else { 0 }, if up.is_some() { flag } else { 0 })
}

impl Rtnl {
    /// Every link of the namespace.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let mut m = Msg::new(libc::RTM_GETLINK, 0, "list", "links").raw(&ifinfo(0, 0, 0));
        m.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        self.socket.dump(m, parse)
    }

    /// The link of a name, if there is one.
    ///
    /// # Errors
    /// When the kernel refuses for a reason other than that there is none.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let mut m = Msg::new(libc::RTM_GETLINK, 0, "look up", name).raw(&ifinfo(0, 0, 0));
        m.text(IFLA_IFNAME, check_name("look up", name)?);
        m.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        self.one(m)
    }

    /// The link of an index, if there is one.
    ///
    /// # Errors
    /// When the kernel refuses for a reason other than that there is none.
    pub fn link_at(&mut self, index: u32) -> Result<Option<Link>> {
        let mut m = Msg::new(libc::RTM_GETLINK, 0, "look up", format!("link {index}")).raw(&ifinfo(index, 0, 0));
        m.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        self.one(m)
    }

    fn one(&mut self, m: Msg) -> Result<Option<Link>> {
        match self.socket.query(m, parse) {
            Ok(link) => Ok(Some(link)),
            Err(e) if e.is_missing() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The index of a link that must be there.
    ///
    /// # Errors
    /// `ENODEV` if there is none ([`Error::is_missing`]).
    pub fn index(&mut self, name: &str) -> Result<u32> {
        self.link(name)?.map(|link| link.index).ok_or_else(|| Error::kernel("look up", name, libc::ENODEV))
    }

    /// Creates a link, sets everything asked for in the same batch, and returns its index.
    /// If a later part of the batch fails the link is deleted again.
    ///
    /// # Errors
    /// [`Error::is_exists`] if the name is taken; otherwise what the kernel refused.
    pub fn create(&mut self, link: &NewLink<'_>) -> Result<u32> {
        let name = check_name("create", link.name)?;
        let mut msgs = vec![creation(link)?];
        msgs.extend(changes(Target::Name(name), &later(link))?);
        let mut results = self.socket.batch(msgs).into_iter();
        results.next().unwrap_or(Ok(()))?;
        for result in results {
            if let Err(e) = result {
                let _ = self.delete(name);
                return Err(e);
            }
        }
        self.index(name)
    }

    /// Changes a link by index.
    ///
    /// # Errors
    /// The first thing that the kernel refused; what came before it is done.
    pub fn change(&mut self, index: u32, change: &LinkChange<'_>) -> Result<()> {
        let msgs = changes(Target::Index(index), change)?;
        self.socket.batch(msgs).into_iter().collect()
    }

    /// Changes a link by name.
    ///
    /// # Errors
    /// As [`Rtnl::change`].
    pub fn change_named(&mut self, name: &str, change: &LinkChange<'_>) -> Result<()> {
        let msgs = changes(Target::Name(check_name("change", name)?), change)?;
        self.socket.batch(msgs).into_iter().collect()
    }

    /// Gives a bond another mode and interval. Another mode needs a bond that is down and has no devices.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn set_bond(&mut self, index: u32, mode: u8, miimon: u32) -> Result<()> {
        let there = self.link_at(index)?.and_then(|l| l.bond);
        let mut m =
            Msg::new(libc::RTM_NEWLINK, 0, "set the mode of", format!("bond {index}")).raw(&ifinfo(index, 0, 0));
        m.nest(IFLA_LINKINFO, |m| {
            m.text(IFLA_INFO_KIND, "bond");
            m.nest(IFLA_INFO_DATA, |m| {
                // The kernel refuses the mode that it has already on a bond that is up.
                if there.is_none_or(|(has, _)| has != mode) {
                    m.u8(BOND_MODE, mode);
                }
                m.u32(BOND_MIIMON, miimon);
            });
        });
        self.socket.request(m)
    }

    /// Deletes a link by name. A veth takes its peer with it.
    ///
    /// # Errors
    /// [`Error::is_missing`] if there is none.
    pub fn delete(&mut self, name: &str) -> Result<()> {
        let mut m = Msg::new(libc::RTM_DELLINK, 0, "delete", name).raw(&ifinfo(0, 0, 0));
        m.text(IFLA_IFNAME, check_name("delete", name)?);
        self.socket.request(m)
    }

    /// Deletes many links in one batch; one result per name, in order.
    pub fn delete_all(&mut self, names: &[&str]) -> Vec<Result<()>> {
        let msgs = names
            .iter()
            .map(|name| {
                let mut m = Msg::new(libc::RTM_DELLINK, 0, "delete", *name).raw(&ifinfo(0, 0, 0));
                m.text(IFLA_IFNAME, name);
                m
            })
            .collect();
        self.socket.batch(msgs)
    }
}

/// What the kernel does not take in the creating message itself. A bridge would take an MTU there,
/// but goes on following its ports' unless its own is changed (br_if.c, `BROPT_MTU_SET_BY_USER`).
fn later<'a>(link: &NewLink<'a>) -> LinkChange<'a> {
    let bridge = matches!(link.kind, LinkKind::Bridge { .. });
    let mtu = link.change.mtu.filter(|_| bridge);
    LinkChange { mtu, mac: None, name: None, ..link.change.clone() }
}

fn creation(link: &NewLink<'_>) -> Result<Msg> {
    let (op, kind) = match &link.kind {
        LinkKind::Bridge { .. } => ("create bridge", "bridge"),
        LinkKind::Vxlan { .. } => ("create vxlan device", "vxlan"),
        LinkKind::Veth { .. } => ("create veth pair", "veth"),
        LinkKind::Vlan { .. } => ("create vlan device", "vlan"),
        LinkKind::Bond { .. } => ("create bond", "bond"),
        LinkKind::Macvlan { .. } => ("create macvlan device", "macvlan"),
    };
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let mut m = Msg::new(libc::RTM_NEWLINK, flags, op, link.name).raw(&ifinfo(0, 0, 0));
    m.text(IFLA_IFNAME, link.name);
    if let (Some(mtu), false) = (link.change.mtu, matches!(link.kind, LinkKind::Bridge { .. })) {
        m.u32(IFLA_MTU, mtu);
    }
    if let Some(mac) = link.change.mac {
        m.attr(IFLA_ADDRESS, &mac);
    }
    match &link.kind {
        LinkKind::Vlan { parent, .. } | LinkKind::Macvlan { parent } => m.u32(IFLA_LINK, *parent),
        LinkKind::Veth { peer } => {
            check_name(op, peer.name)?;
        }
        LinkKind::Bridge { .. } | LinkKind::Vxlan { .. } | LinkKind::Bond { .. } => {}
    }
    m.nest(IFLA_LINKINFO, |m| {
        m.text(IFLA_INFO_KIND, kind);
        m.nest(IFLA_INFO_DATA, |m| kind_data(m, &link.kind));
    });
    Ok(m)
}

fn kind_data(m: &mut Msg, kind: &LinkKind<'_>) {
    match kind {
        LinkKind::Bridge { ageing, vlan_filtering } => {
            m.u32(BR_STP, 0);
            m.u32(BR_FORWARD_DELAY, 0);
            m.u32(BR_AGEING, *ageing);
            m.u8(BR_MCAST_SNOOPING, 0);
            m.u32(BR_FDB_MAX_LEARNED, MOST_LEARNED);
            if *vlan_filtering {
                m.u8(BR_VLAN_FILTERING, 1);
                m.u16(BR_VLAN_DEFAULT_PVID, 0);
            }
        }
        LinkKind::Vxlan { vni, port, local, ttl, learning, underlay } => {
            m.u32(VXLAN_ID, *vni);
            match local {
                Some(IpAddr::V4(a)) => m.attr(VXLAN_LOCAL, &a.octets()),
                Some(IpAddr::V6(a)) => m.attr(VXLAN_LOCAL6, &a.octets()),
                None => {}
            }
            m.u8(VXLAN_TTL, *ttl);
            m.u8(VXLAN_LEARNING, u8::from(*learning));
            m.attr(VXLAN_PORT, &port.to_be_bytes());
            if let Some(index) = underlay {
                m.u32(VXLAN_LINK, *index);
            }
        }
        LinkKind::Veth { peer } => m.nest(1 /* VETH_INFO_PEER */, |m| {
            m.put_raw(&ifinfo(0, 0, 0));
            m.text(IFLA_IFNAME, peer.name);
            if let Some(mac) = peer.mac {
                m.attr(IFLA_ADDRESS, &mac);
            }
            if let Some(mtu) = peer.mtu {
                m.u32(IFLA_MTU, mtu);
            }
            if let Some(fd) = peer.netns {
                m.u32(IFLA_NET_NS_FD, fd.as_raw_fd() as u32);
            }
        }),
        LinkKind::Vlan { id, .. } => m.u16(1 /* IFLA_VLAN_ID */, *id),
        LinkKind::Macvlan { .. } => m.u32(1 /* IFLA_MACVLAN_MODE */, 4 /* bridge */),
        LinkKind::Bond { mode, miimon } => {
            m.u8(BOND_MODE, *mode);
            m.u32(BOND_MIIMON, *miimon);
        }
    }
}

#[derive(Clone, Copy)]
enum Target<'a> {
    Index(u32),
    Name(&'a str),
}

impl Target<'_> {
    fn message(&self, op: &'static str, flags: u32, change: u32) -> Msg {
        match self {
            Self::Index(index) => {
                Msg::new(libc::RTM_NEWLINK, 0, op, format!("link {index}")).raw(&ifinfo(*index, flags, change))
            }
            Self::Name(name) => {
                let mut m = Msg::new(libc::RTM_NEWLINK, 0, op, *name).raw(&ifinfo(0, flags, change));
                m.text(IFLA_IFNAME, name);
                m
            }
        }
    }
}

/// The messages that make a change. The master comes first, because port attributes need it, and
/// the administrative state last, so that a device never forwards half configured.
fn changes(target: Target<'_>, change: &LinkChange<'_>) -> Result<Vec<Msg>> {
    let mut msgs = Vec::new();
    if change.mac.is_some()
        || change.mtu.is_some()
        || change.tx_queue_length.is_some()
        || change.alias.is_some()
        || change.master.is_some()
    {
        let mut m = target.message("configure", 0, 0);
        if let Some(mac) = change.mac {
            m.attr(IFLA_ADDRESS, &mac);
        }
        if let Some(mtu) = change.mtu {
            m.u32(IFLA_MTU, mtu);
        }
        if let Some(length) = change.tx_queue_length {
            m.u32(IFLA_TXQLEN, length);
        }
        if let Some(alias) = change.alias {
            m.attr(IFLA_IFALIAS, alias.as_bytes());
        }
        if let Some(master) = change.master {
            m.u32(IFLA_MASTER, master);
        }
        msgs.push(m);
    }
    if !change.port.is_empty() {
        let mut m = target.message("set bridge port attributes of", 0, 0);
        m.nest(IFLA_LINKINFO, |m| {
            m.text(IFLA_INFO_SLAVE_KIND, "bridge");
            m.nest(IFLA_INFO_SLAVE_DATA, |m| {
                for (kind, value) in change.port.each() {
                    if let Some(on) = value {
                        m.u8(kind, u8::from(on));
                    }
                }
            });
        });
        msgs.push(m);
    }
    if change.up.is_some() {
        let (flags, mask) = up_flags(change.up);
        msgs.push(target.message("set the state of", flags, mask));
    }
    if change.name.is_some() || change.netns.is_some() {
        let Target::Index(_) = target else {
            return Err(Error::Invalid { op: "change", what: "renaming and moving need the link's index".into() });
        };
        let mut m = target.message("rename or move", 0, 0);
        if let Some(name) = change.name {
            m.text(IFLA_IFNAME, check_name("rename", name)?);
        }
        if let Some(fd) = change.netns {
            m.u32(IFLA_NET_NS_FD, fd.as_raw_fd() as u32);
        }
        msgs.push(m);
    }
    Ok(msgs)
}

/// Reads an `RTM_NEWLINK` body; `None` if it is too short to be one.
pub(crate) fn parse(body: &[u8]) -> Option<Link> {
    let flags = msg::u32_at(body, 8)?;
    let mut link = Link {
        index: msg::u32_at(body, 4)?,
        up: flags & libc::IFF_UP as u32 != 0,
        carrier: flags & libc::IFF_LOWER_UP as u32 != 0,
        loopback: flags & libc::IFF_LOOPBACK as u32 != 0,
        ..Link::default()
    };
    for a in msg::attrs(body.get(16..)?) {
        match a.kind {
            IFLA_IFNAME => link.name = a.text(),
            IFLA_IFALIAS => link.alias = a.text(),
            IFLA_MTU => link.mtu = a.u32(),
            IFLA_TXQLEN => link.tx_queue_length = a.u32(),
            IFLA_ADDRESS => link.mac = a.data.try_into().ok(),
            IFLA_PERM_ADDRESS => link.permanent_mac = a.data.try_into().ok(),
            IFLA_PARENT_DEV_BUS_NAME => link.bus = a.text(),
            IFLA_MASTER => link.master = a.u32(),
            IFLA_LINK => link.parent = a.u32(),
            IFLA_LINK_NETNSID => link.parent_netnsid = Some(a.u32() as i32),
            IFLA_OPERSTATE => link.operstate = a.u8(),
            IFLA_PROMISCUITY => link.promiscuity = a.u32(),
            IFLA_CARRIER => link.carrier = a.u8() != 0,
            IFLA_LINKINFO => parse_info(&mut link, a.data),
            _ => {}
        }
    }
    Some(link)
}

fn parse_info(link: &mut Link, info: &[u8]) {
    let mut slave = String::new();
    for a in msg::attrs(info) {
        match a.kind {
            IFLA_INFO_KIND => link.kind = a.text(),
            IFLA_INFO_SLAVE_KIND => slave = a.text(),
            IFLA_INFO_DATA => parse_data(link, a.data),
            IFLA_INFO_SLAVE_DATA if slave == "bridge" => {
                parse_port(&mut link.port, a.data);
                let state = msg::find(a.data, PORT_STATE).and_then(|d| d.first());
                link.forwarding = state == Some(&BR_STATE_FORWARDING);
            }
            _ => {}
        }
    }
}

fn parse_data(link: &mut Link, data: &[u8]) {
    for a in msg::attrs(data) {
        match (link.kind.as_str(), a.kind) {
            ("bridge", BR_VLAN_FILTERING) => link.vlan_filtering = a.u8() != 0,
            ("tun", TUN_MULTI_QUEUE) => link.multi_queue = a.u8() != 0,
            ("vlan", 1) => link.vlan = Some(a.u16()),
            ("bond", BOND_MODE) => link.bond.get_or_insert_default().0 = a.u8(),
            ("bond", BOND_MIIMON) => link.bond.get_or_insert_default().1 = a.u32(),
            ("vxlan", VXLAN_ID) => link.vni = Some(a.u32()),
            ("vxlan", VXLAN_LINK) => link.underlay = a.u32(),
            ("vxlan", VXLAN_PORT) => link.vxlan_port = Some(u16::from_be(a.u16())),
            ("vxlan", VXLAN_LOCAL) => {
                link.vxlan_local = <[u8; 4]>::try_from(a.data).ok().map(IpAddr::from);
            }
            ("vxlan", VXLAN_LOCAL6) => {
                link.vxlan_local = <[u8; 16]>::try_from(a.data).ok().map(IpAddr::from);
            }
            _ => {}
        }
    }
}

fn parse_port(port: &mut PortFlags, data: &[u8]) {
    for a in msg::attrs(data) {
        let on = Some(a.u8() != 0);
        match a.kind {
            PORT_LEARNING => port.learning = on,
            PORT_UNICAST_FLOOD => port.unicast_flood = on,
            PORT_MCAST_FLOOD => port.multicast_flood = on,
            PORT_BCAST_FLOOD => port.broadcast_flood = on,
            PORT_ISOLATED => port.isolated = on,
            PORT_HAIRPIN => port.hairpin = on,
            PORT_NEIGH_SUPPRESS => port.neigh_suppress = on,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&body);
        }

        #[test]
        fn no_attributes_make_the_reader_panic(
            kind in "(bridge|vxlan|vlan|tun|bond|)", data in proptest::collection::vec(any::<u8>(), 0..60)
        ) {
            let mut m = Msg::new(16, 0, "test", "").raw(&ifinfo(1, 0, 0));
            m.nest(IFLA_LINKINFO, |m| {
                m.text(IFLA_INFO_KIND, &kind);
                m.attr(IFLA_INFO_DATA, &data);
                m.text(IFLA_INFO_SLAVE_KIND, "bridge");
                m.attr(IFLA_INFO_SLAVE_DATA, &data);
            });
            let bytes = m.seal(1)[msg::HEADER..].to_vec();
            prop_assert!(parse(&bytes).is_some_and(|l| l.kind == kind));
        }
    }
}
