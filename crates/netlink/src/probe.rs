//! What this machine's kernel can do, found out by doing it in a namespace that is thrown away.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::link::{LinkChange, LinkKind, NewLink, VethPeer};
use crate::msg::Msg;
use crate::netns::Netns;
use crate::nft;
use crate::rtnl::Rtnl;
use crate::socket::Socket;
use crate::tap::Tap;

/// One thing that a kernel may or may not be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// Bridges.
    Bridge,
    /// Pairs of virtual Ethernet devices.
    Veth,
    /// VXLAN devices.
    Vxlan,
    /// TAP devices, which VMs need.
    Tap,
    /// 802.1Q sub-interfaces.
    Vlan,
    /// Bonds of several devices.
    Bond,
    /// Bridges that sort frames by VLAN.
    BridgeVlanFiltering,
    /// nftables for frames that a bridge forwards: port security.
    BridgeNftables,
    /// Address translation by nftables.
    Nat,
    /// nftables hooks on one device's ingress.
    NetdevHook,
    /// nftables that copy what a device takes in and gives out to another device.
    Mirror,
    /// Connection tracking for frames that a bridge forwards.
    BridgeConntrack,
    /// Macvlan devices.
    Macvlan,
    /// The kernel's data path for Open vSwitch.
    OvsDatapath,
}

impl Capability {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Bridge,
        Self::Veth,
        Self::Vxlan,
        Self::Tap,
        Self::Vlan,
        Self::Bond,
        Self::BridgeVlanFiltering,
        Self::BridgeNftables,
        Self::Nat,
        Self::NetdevHook,
        Self::Mirror,
        Self::BridgeConntrack,
        Self::Macvlan,
        Self::OvsDatapath,
    ];

    /// Its name as the Node shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Veth => "veth",
            Self::Vxlan => "vxlan",
            Self::Tap => "tap",
            Self::Vlan => "vlan",
            Self::Bond => "bond",
            Self::BridgeVlanFiltering => "bridge-vlan-filtering",
            Self::BridgeNftables => "bridge-nftables",
            Self::Nat => "nat",
            Self::NetdevHook => "netdev-hook",
            Self::Mirror => "mirror",
            Self::BridgeConntrack => "bridge-conntrack",
            Self::Macvlan => "macvlan",
            Self::OvsDatapath => "ovs-datapath",
        }
    }
}

/// What was found: for each capability, that it is there, or the reason why it is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    found: BTreeMap<Capability, Option<String>>,
}

impl Capabilities {
    /// `Ok` if the kernel can, otherwise its own reason in a sentence.
    ///
    /// # Errors
    /// The reason why it cannot.
    pub fn check(&self, capability: Capability) -> std::result::Result<(), &str> {
        match self.found.get(&capability) {
            Some(None) => Ok(()),
            Some(Some(reason)) => Err(reason),
            None => Err("not probed"),
        }
    }

    /// Every capability, with the reason why not if it is missing.
    pub fn iter(&self) -> impl Iterator<Item = (Capability, Option<&str>)> {
        self.found.iter().map(|(c, reason)| (*c, reason.as_deref()))
    }
}

/// Tries everything in a namespace of its own that is gone afterwards. Takes some 100 ms, most of
/// it in the `nft` program.
///
/// # Errors
/// Only when no namespace can be made, for example without root.
pub fn probe() -> Result<Capabilities> {
    let netns = Netns::anonymous()?;
    netns.run(|| {
        let mut rtnl = Rtnl::open()?;
        let found = Capability::ALL.into_iter().map(|c| (c, attempt(&mut rtnl, c).err().map(|e| text(&e)))).collect();
        Ok(Capabilities { found })
    })?
}

fn text(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    // nft repeats the offending line below its message; the first line says it.
    text.lines().next().unwrap_or_default().to_owned()
}

fn link(rtnl: &mut Rtnl, name: &str, kind: LinkKind<'_>) -> Result<u32> {
    rtnl.create(&NewLink { name, kind, change: LinkChange::default() })
}

/// Looks for a family of generic netlink (include/uapi/linux/genetlink.h); the kernel loads its module, if it has it.
fn generic_family(name: &str) -> Result<()> {
    const CONTROL: u16 = 0x10;
    const GET_FAMILY: u8 = 3;
    const FAMILY_NAME: u16 = 2;
    // Command, version, reserved.
    let mut m = Msg::new(CONTROL, 0, "look for generic netlink family", name).raw(&[GET_FAMILY, 1, 0, 0]);
    m.text(FAMILY_NAME, name);
    Socket::open(libc::NETLINK_GENERIC)?.query(m, |_| Some(()))
}

fn attempt(rtnl: &mut Rtnl, capability: Capability) -> Result<()> {
    let bridge = |vlan_filtering| LinkKind::Bridge { ageing: 30_000, vlan_filtering };
    match capability {
        Capability::Bridge => link(rtnl, "probe-br", bridge(false)).map(drop),
        Capability::BridgeVlanFiltering => {
            link(rtnl, "probe-brv", bridge(true))?;
            let there = rtnl.link("probe-brv")?;
            if there.is_some_and(|l| l.vlan_filtering) {
                return Ok(());
            }
            Err(Error::kernel("turn on VLAN filtering of", "bridge", libc::EOPNOTSUPP))
        }
        Capability::Veth => {
            let peer = VethPeer { name: "probe-v1", netns: None, mac: None, mtu: None };
            link(rtnl, "probe-v0", LinkKind::Veth { peer }).map(drop)
        }
        Capability::Vxlan => {
            let local = Some(std::net::Ipv4Addr::LOCALHOST.into());
            let kind = LinkKind::Vxlan { vni: 1, port: 4789, local, ttl: 64, learning: false, underlay: None };
            link(rtnl, "probe-vx", kind).map(drop)
        }
        Capability::Tap => Tap { name: "probe-tap", multi_queue: true, vnet_hdr: true }.create(None),
        Capability::Vlan => {
            let parent = rtnl.index("probe-v0")?;
            link(rtnl, "probe-vl", LinkKind::Vlan { parent, id: 100 }).map(drop)
        }
        Capability::Bond => link(rtnl, "probe-bo", LinkKind::Bond { mode: 1, miimon: 100 }).map(drop),
        Capability::Macvlan => {
            let parent = rtnl.index("probe-v0")?;
            link(rtnl, "probe-mv", LinkKind::Macvlan { parent }).map(drop)
        }
        Capability::BridgeNftables => nft::load(
            "table bridge probe { set s { type ifname . ether_addr . ipv4_addr; }; chain c { \
             type filter hook prerouting priority -300; \
             iifname . ether saddr . ip saddr @s accept; arp saddr ip 0.0.0.0 drop; }; }",
        ),
        Capability::Nat => nft::load(
            "table inet probenat { chain c { type nat hook postrouting priority 100; \
             ip saddr 192.0.2.0/24 masquerade; }; }",
        ),
        Capability::OvsDatapath => generic_family("ovs_datapath"),
        Capability::NetdevHook => nft::load(
            "table netdev probe { chain c { type filter hook ingress device \"probe-v0\" \
             priority 0; }; }",
        ),
        Capability::Mirror => nft::load(
            "table netdev probemi { chain i { type filter hook ingress device \"probe-v0\" priority 0; \
             dup to \"probe-v1\"; }; chain e { type filter hook egress device \"probe-v0\" priority 0; \
             dup to \"probe-v1\"; }; }",
        ),
        Capability::BridgeConntrack => nft::load(
            "table bridge probect { chain c { type filter hook forward priority 0; \
             ct state established accept; }; }",
        ),
    }
}
