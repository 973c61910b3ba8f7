//! Routing domains: a network namespace per VPC with gateway legs, and its way out to the host.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use multihome_model::{IfName, names};
use multihome_netlink::nft::{Changes, Data, Element, Family, Nft, load_in};
use multihome_netlink::{
    Address, Capability, Conntrack, Conversation, Idempotent, LinkChange, LinkKind, Netns, NewLink, Offload, Route,
    Rtnl, TABLE_MAIN, VethPeer, set_offload, sysctl,
};
use multihome_plan::node::{Egress, Leg, TRANSIT};

use super::router::router_device;
use super::security::{TABLE, is_assigned};
use super::{Kernel, private};
use crate::error::{Error, Result};

/// What a domain's namespace is made to do. `arp_ignore` 1: a leg answers for its own address and not for other subnets'
/// gateways. `rp_filter` 0, whatever the host has: between peers there and back are different ways. `fwmark_reflect`: what a domain
/// itself answers to a packet with a mark goes by that mark, so that whoever sends by a floating address is told of a packet that
/// is too big by that address, too.
const DOMAIN_SYSCTLS: [(&str, &str); 7] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv4/conf/all/arp_ignore", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/fwmark_reflect", "1"),
    ("net/ipv6/fwmark_reflect", "1"),
];

/// The host's side of all ways out. Nothing goes from one domain to another, nothing but answers comes
/// in, and only what the domains have translated to their transit address goes out.
fn host_rules() -> String {
    format!(
        r#"
table inet {TABLE} {{
    chain forward {{
        type filter hook forward priority -10; policy accept;
        iifname "{e}*" oifname "{e}*" drop
        iifname "{e}*" ip saddr != {TRANSIT} drop
        iifname "{e}*" meta nfproto ipv6 drop
        oifname "{e}*" ct state != {{ established, related }} drop
    }}
    chain postrouting {{
        type nat hook postrouting priority 100; policy accept;
        ip saddr {TRANSIT} oifname != "{e}*" masquerade
    }}
}}
"#,
        e = names::EGRESS
    )
}

/// The domain's side of its way out. The kernel lists ranges as bare edges, so what was asked for is
/// kept a second time, in a set that no rule uses.
fn domain_rules(egress: &Egress) -> String {
    let four = || egress.nat.iter().filter(|n| matches!(n, IpNet::V4(_)));
    let ranges: Vec<String> = four().map(|n| n.to_string()).collect();
    let facts: Vec<String> = four().map(|n| format!("{} . {:#x}", n.network(), n.prefix_len())).collect();
    let elements = |list: &[String]| match list.is_empty() {
        true => String::new(),
        false => format!("elements = {{ {} }}", list.join(", ")),
    };
    format!(
        r#"
table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
    set nat {{ type ipv4_addr; flags interval; auto-merge; {ranges} }}
    set nat_facts {{ type ipv4_addr . mark; {facts} }}
    chain forward {{
        type filter hook forward priority 0; policy accept;
        oifname "{up}" meta nfproto ipv6 drop
        oifname "{up}" ip saddr != @nat drop
        iifname "{up}" ct state != {{ established, related }} drop
    }}
    chain postrouting {{
        type nat hook postrouting priority 100; policy accept;
        oifname "{up}" ip saddr @nat snat ip to {to}
    }}
}}
"#,
        ranges = elements(&ranges),
        facts = elements(&facts),
        up = egress.peer,
        to = egress.peer_address,
    )
}

/// The table in a domain for networks whose replies are to come back through their own gateway. What is forwarded into
/// one gets the gateway's address as its source, so that its guests answer on-link (RFC 1122 section 3.3.1.1).
pub(super) const REPLIES: &str = "multihome-replies";
/// The legs of those networks, in [`REPLIES`].
pub(super) const LEGS: &str = "legs";

fn reply_rules() -> String {
    format!(
        r#"
table inet {REPLIES} {{
    set {LEGS} {{ type ifname; }}
    chain postrouting {{
        type nat hook postrouting priority 100; policy accept;
        oifname @{LEGS} masquerade
    }}
}}
"#
    )
}

/// Ends conversations that a domain remembers and nothing allows any more. A kernel that cannot be asked for them lets them end by
/// themselves; new ones follow the rules all the same.
pub(super) fn end_conversations(netns: &Netns, which: impl FnMut(&Conversation) -> bool) -> Result<()> {
    match Conntrack::open_in(netns)?.end(which) {
        Ok(0) => {}
        Ok(ended) => {
            tracing::debug!(domain = netns.name(), ended, "conversations that nothing allows any more were ended")
        }
        Err(e) if e.is_unsupported() => {
            tracing::warn!("this kernel cannot list conversations: those that nothing allows any more go on: {e}");
        }
        Err(e) => return Err(e.into()),
    }
    Ok(())
}

/// Whether a conversation leaves by a way out, and is from none of the subnets that may.
fn may_not_leave(nat: &BTreeSet<IpNet>, c: &Conversation) -> bool {
    let leaves = matches!(c.reply.destination, IpAddr::V4(a) if TRANSIT.contains(&a));
    leaves && !nat.iter().any(|n| n.contains(&c.original.source))
}

/// Gives a link exactly these addresses; link-local IPv6 ones are the kernel's own.
pub(super) fn set_addresses(rtnl: &mut Rtnl, index: u32, wanted: &BTreeSet<(IpAddr, u8)>) -> Result<()> {
    let addresses = |rtnl: &mut Rtnl| -> Result<BTreeSet<(IpAddr, u8)>> {
        let all = rtnl.addresses()?.into_iter();
        let own = all.filter(|a| a.index == index && is_assigned(a.ip));
        Ok(own.map(|a| (a.ip, a.prefix)).collect())
    };
    for (ip, prefix) in addresses(rtnl)?.difference(wanted) {
        rtnl.address_delete(&Address { index, ip: *ip, prefix: *prefix }).unless_missing()?;
    }
    // Looked at again: the first IPv4 address of a subnet takes the others of it along.
    for (ip, prefix) in wanted.difference(&addresses(rtnl)?) {
        rtnl.address_set(&Address { index, ip: *ip, prefix: *prefix }, true)?;
    }
    Ok(())
}

impl Kernel {
    pub(super) fn netns_name(&self, domain: &str) -> String {
        format!("{}{domain}", self.config.netns_prefix)
    }

    /// The domain's namespace, made and set up if it is not.
    pub(super) fn create_domain(&mut self, domain: &str) -> Result<Netns> {
        let netns = Netns::ensure(&self.netns_name(domain))?;
        netns.run(|| {
            for (key, value) in DOMAIN_SYSCTLS {
                // A kernel without IPv6 has no such parameter.
                sysctl::set(key, value).unless_missing()?;
            }
            let up = LinkChange { up: Some(true), ..LinkChange::default() };
            Rtnl::open()?.change_named("lo", &up)
        })??;
        Ok(netns)
    }

    pub(super) fn delete_domain(&mut self, domain: &str) -> Result<()> {
        // A namespace lives on while anybody is in it, and its tunnel's network identifier is taken for as long as there is the device.
        if let Some((_, mut inside)) = self.inside(domain)? {
            inside.delete(&router_device(domain)).unless_missing()?;
        }
        Netns::delete(&self.netns_name(domain)).unless_missing()?;
        Ok(())
    }

    /// A veth pair from the host's namespace into a domain: there already, or made anew.
    pub(super) fn pair(
        &mut self,
        netns: &Netns,
        inside: &mut Rtnl,
        outer: &IfName,
        inner: &IfName,
    ) -> Result<(u32, u32)> {
        self.require(Capability::Veth, || "gateways".into())?;
        let near = self.expect(outer, "veth")?;
        let far = inside.link(inner.as_str())?;
        if let (Some(near), Some(far)) = (&near, &far)
            && near.parent == far.index
            && far.parent == near.index
        {
            return Ok((near.index, far.index));
        }
        if near.is_some() {
            self.rtnl.delete(outer.as_str()).unless_missing()?;
        }
        if far.is_some() {
            inside.delete(inner.as_str()).unless_missing()?;
        }
        let peer =
            VethPeer { name: inner.as_str(), netns: Some(std::os::fd::AsFd::as_fd(netns)), mac: None, mtu: None };
        let kind = LinkKind::Veth { peer };
        let near = self.rtnl.create(&NewLink { name: outer.as_str(), kind, change: LinkChange::default() })?;
        self.silence(outer.as_str())?;
        if self.beside.as_ref().is_some_and(|b| b.plain) {
            netns.run(|| plain(inner.as_str()))??;
        }
        Ok((near, inside.index(inner.as_str())?))
    }

    pub(super) fn put_leg(&mut self, domain: &str, name: &IfName, leg: &Leg) -> Result<()> {
        let bridge = self.bridge_index(&leg.bridge)?;
        let netns = self.create_domain(domain)?;
        let mut inside = Rtnl::open_in(&netns)?;
        let (outer, inner) = self.pair(&netns, &mut inside, name, &leg.peer)?;
        let there = inside.link_at(inner)?.unwrap_or_default();
        let change = LinkChange {
            mac: (there.mac != Some(leg.mac.0)).then_some(leg.mac.0),
            mtu: (there.mtu != leg.mtu.get()).then_some(leg.mtu.get()),
            up: Some(true),
            ..LinkChange::default()
        };
        inside.change(inner, &change)?;
        let addresses = leg.addresses.iter().map(|n| (n.addr(), n.prefix_len())).collect();
        set_addresses(&mut inside, inner, &addresses)?;
        self.set_symmetric(&netns, &leg.peer, leg.symmetric)?;
        private::set(&netns, leg)?;
        self.plug(name, bridge, "", leg.mtu, false)?;
        // Every node's gateway has the same MAC; here it is behind this port, whoever else claims it.
        self.fix_mac(outer, leg.mac.0)?;
        // The alias says that all of it is done.
        let done = LinkChange { alias: Some(&leg.alias), ..LinkChange::default() };
        Ok(self.rtnl.change(outer, &done)?)
    }

    fn set_symmetric(&mut self, netns: &Netns, leg: &IfName, symmetric: bool) -> Result<()> {
        if symmetric {
            self.require(Capability::Nat, || "symmetric: Gateway".into())?;
        }
        let mut nft = Nft::open_in(netns)?;
        let there = match nft.has_table(Family::Inet, REPLIES) {
            Err(e) if e.is_unsupported() && !symmetric => return Ok(()),
            other => other?,
        };
        if symmetric && !there {
            load_in(netns, &reply_rules())?;
        }
        let key = Data::new().ifname(leg.as_str());
        let mut changes = Changes::new();
        if symmetric {
            changes.add(LEGS, Element::key(key));
        } else if there {
            changes.delete(LEGS, key);
        }
        Ok(nft.apply(Family::Inet, REPLIES, &changes)?)
    }

    pub(super) fn put_egress(&mut self, domain: &str, egress: &Egress) -> Result<()> {
        self.require(Capability::Nat, || "address translation".into())?;
        if let Some(six) = egress.nat.iter().find(|n| matches!(n, IpNet::V6(_))) {
            let reason = "a way out has IPv4 addresses alone".to_owned();
            return Err(Error::Unsupported { what: format!("translation for {six}"), reason });
        }
        let netns = self.create_domain(domain)?;
        let mut inside = Rtnl::open_in(&netns)?;
        if !self.nft.has_table(Family::Inet, TABLE)? {
            load_in(&self.config.host, &host_rules())?;
        }
        // The rules come before the way that they guard.
        load_in(&netns, &domain_rules(egress))?;
        let (outer, inner) = self.pair(&netns, &mut inside, &egress.host, &egress.peer)?;
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        let transit = |ip: Ipv4Addr| BTreeSet::from([(IpAddr::from(ip), 31)]);
        inside.change(inner, &up)?;
        set_addresses(&mut inside, inner, &transit(egress.peer_address))?;
        self.rtnl.change(outer, &up)?;
        set_addresses(&mut self.rtnl, outer, &transit(egress.host_address))?;
        inside.route_set(&Route {
            gateway: Some(egress.host_address.into()),
            oif: inner,
            ..Route::to(Ipv4Addr::UNSPECIFIED.into(), 0)
        })?;
        let key = forwarding_key(egress.host.as_str());
        self.config.host.run(|| sysctl::set(&key, "1"))??;
        self.hold_forwarding()?;
        end_conversations(&netns, |c| may_not_leave(&egress.nat, c))?;
        let done = LinkChange { alias: Some(&egress.alias), ..LinkChange::default() };
        Ok(self.rtnl.change(outer, &done)?)
    }

    pub(super) fn delete_egress(&mut self, domain: &str, host: &IfName) -> Result<()> {
        self.delete_device(host)?;
        if let Some((netns, _)) = self.inside(domain)? {
            end_conversations(&netns, |c| may_not_leave(&BTreeSet::new(), c))?;
        }
        let links = self.rtnl.links()?;
        if links.iter().any(|l| super::is_ours(&l.name, names::EGRESS)) {
            return Ok(());
        }
        self.release_forwarding()
    }

    /// The devices that the host's default routes leave by: answers to what the domains send come in
    /// there, and are forwarded only if the device they come in on forwards.
    pub(super) fn outside_devices(&mut self) -> Result<Vec<String>> {
        let mut indexes: Vec<u32> = self
            .rtnl
            .routes()?
            .into_iter()
            .filter(|r| r.prefix == 0 && r.destination.is_ipv4() && r.table == TABLE_MAIN)
            .map(|r| r.oif)
            .filter(|oif| *oif != 0)
            .collect();
        indexes.sort_unstable();
        indexes.dedup();
        let mut devices = Vec::new();
        for index in indexes {
            devices.extend(self.rtnl.link_at(index)?.map(|l| l.name));
        }
        Ok(devices)
    }

    /// Turns forwarding on for these devices, and notes those that had it off before.
    fn hold_forwarding(&mut self) -> Result<()> {
        for device in self.outside_devices()? {
            let key = forwarding_key(&device);
            if self.config.host.run(|| sysctl::read(&key))?? == "1" {
                continue;
            }
            self.note("forwarding", &device)?;
            self.config.host.run(|| sysctl::set(&key, "1"))??;
        }
        Ok(())
    }

    /// Puts back what [`Kernel::hold_forwarding`] changed.
    pub(super) fn release_forwarding(&mut self) -> Result<()> {
        for device in self.all_noted("forwarding") {
            let key = forwarding_key(&device);
            self.config.host.run(|| sysctl::set(&key, "0"))?.unless_missing()?;
            self.forget_note("forwarding", &device)?;
        }
        Ok(())
    }
}

/// Makes a device of the calling thread's namespace send frames as they are on the wire.
pub(crate) fn plain(name: &str) -> multihome_netlink::Result<()> {
    for which in Offload::ALL {
        match set_offload(name, which, false) {
            // What cannot be switched is not there, or stays as it is and is nobody's to change.
            Err(e) if e.is_unsupported() => {}
            other => other?,
        }
    }
    Ok(())
}

pub(super) fn forwarding_key(device: &str) -> String {
    format!("net/ipv4/conf/{device}/forwarding")
}
