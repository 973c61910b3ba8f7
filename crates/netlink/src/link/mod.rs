//! Links: create, change, delete, look up and dump, with bridge ports' attributes.
//!
//! Nothing here decides which links there should be.

mod message;

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

pub(crate) use self::message::parse;
use self::message::{
    BOND_MIIMON, BOND_MODE, IFLA_EXT_MASK, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO,
    PORT_BCAST_FLOOD, PORT_HAIRPIN, PORT_ISOLATED, PORT_LEARNING, PORT_MCAST_FLOOD, PORT_NEIGH_SUPPRESS,
    PORT_UNICAST_FLOOD, RTEXT_FILTER_SKIP_STATS, Target, changes, creation, later,
};
use crate::error::{Error, Result};
use crate::msg::Msg;
use crate::rtnl::Rtnl;

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
