//! Links as messages: numbers from include/uapi/linux/if_link.h and if_bridge.h.

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use super::{Link, LinkChange, LinkKind, NewLink, PortFlags, check_name, ifinfo};
use crate::error::{Error, Result};
use crate::msg::{self, Msg};

pub(super) const IFLA_ADDRESS: u16 = 1;
pub(super) const IFLA_IFNAME: u16 = 3;
pub(super) const IFLA_MTU: u16 = 4;
pub(super) const IFLA_LINK: u16 = 5;
pub(super) const IFLA_MASTER: u16 = 10;
pub(super) const IFLA_TXQLEN: u16 = 13;
pub(super) const IFLA_OPERSTATE: u16 = 16;
pub(super) const IFLA_LINKINFO: u16 = 18;
pub(super) const IFLA_IFALIAS: u16 = 20;
pub(super) const IFLA_NET_NS_FD: u16 = 28;
pub(super) const IFLA_EXT_MASK: u16 = 29;
pub(super) const IFLA_PROMISCUITY: u16 = 30;
pub(super) const IFLA_CARRIER: u16 = 33;
pub(super) const IFLA_LINK_NETNSID: u16 = 37;
pub(super) const IFLA_PERM_ADDRESS: u16 = 54;
pub(super) const IFLA_PARENT_DEV_BUS_NAME: u16 = 57;
pub(super) const RTEXT_FILTER_SKIP_STATS: u32 = 8;

pub(super) const IFLA_INFO_KIND: u16 = 1;
pub(super) const IFLA_INFO_DATA: u16 = 2;
pub(super) const IFLA_INFO_SLAVE_KIND: u16 = 4;
pub(super) const IFLA_INFO_SLAVE_DATA: u16 = 5;

pub(super) const BR_FORWARD_DELAY: u16 = 1;
pub(super) const BR_AGEING: u16 = 4;
pub(super) const BR_STP: u16 = 5;
pub(super) const BR_VLAN_FILTERING: u16 = 7;
pub(super) const BR_MCAST_SNOOPING: u16 = 23;
pub(super) const BR_VLAN_DEFAULT_PVID: u16 = 39;

pub(super) const PORT_STATE: u16 = 1;
pub(super) const BR_STATE_FORWARDING: u8 = 3;
pub(super) const PORT_HAIRPIN: u16 = 4;
pub(super) const PORT_LEARNING: u16 = 8;
pub(super) const PORT_UNICAST_FLOOD: u16 = 9;
pub(super) const PORT_MCAST_FLOOD: u16 = 27;
pub(super) const PORT_BCAST_FLOOD: u16 = 30;
pub(super) const PORT_NEIGH_SUPPRESS: u16 = 32;
pub(super) const PORT_ISOLATED: u16 = 33;

pub(super) const TUN_MULTI_QUEUE: u16 = 7;
pub(super) const BOND_MODE: u16 = 1;
pub(super) const BOND_MIIMON: u16 = 3;
pub(super) const VXLAN_ID: u16 = 1;
pub(super) const VXLAN_LINK: u16 = 3;
pub(super) const VXLAN_LOCAL: u16 = 4;
pub(super) const VXLAN_TTL: u16 = 5;
pub(super) const BR_FDB_MAX_LEARNED: u16 = 49;
/// How many addresses a bridge learns. Those of NICs are told to it, and are not among them.
pub(super) const MOST_LEARNED: u32 = 16_384;
pub(super) const VXLAN_LEARNING: u16 = 7;
pub(super) const VXLAN_PORT: u16 = 15;
pub(super) const VXLAN_LOCAL6: u16 = 17;

/// What the kernel does not take in the creating message itself. A bridge would take an MTU there,
/// but goes on following its ports' unless its own is changed (br_if.c, `BROPT_MTU_SET_BY_USER`).
pub(super) fn later<'a>(link: &NewLink<'a>) -> LinkChange<'a> {
    let bridge = matches!(link.kind, LinkKind::Bridge { .. });
    let mtu = link.change.mtu.filter(|_| bridge);
    LinkChange { mtu, mac: None, name: None, ..link.change.clone() }
}

pub(super) fn creation(link: &NewLink<'_>) -> Result<Msg> {
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

fn up_flags(up: Option<bool>) -> (u32, u32) {
    let flag = libc::IFF_UP as u32;
    (if up == Some(true) { flag } else { 0 }, if up.is_some() { flag } else { 0 })
}

#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
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
pub(super) fn changes(target: Target<'_>, change: &LinkChange<'_>) -> Result<Vec<Msg>> {
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
