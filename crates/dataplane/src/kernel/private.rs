//! Private networks: a table per leg in the domain's namespace, which lets nobody else open connections into the network.
//!
//! Both directions of a conversation pass the domain on the node of the NIC, so that what its guests open is known here: what answers
//! that passes. Of what others open every packet is judged and not the first alone, so that a conversation ends with what allowed it.
//! What a floating address led here was opened to the world on purpose, whether that address is on this node or on another one.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use multihome_model::IfName;
use multihome_netlink::nft::{Family, Nft, load_in};
use multihome_netlink::{Idempotent, Netns};
use multihome_plan::node::Leg;

use super::Kernel;
use crate::error::Result;

fn rules(leg: &Leg, admits: &BTreeSet<IpNet>) -> String {
    let all: BTreeSet<IpNet> = admits.iter().copied().chain(leg.addresses.iter().map(IpNet::trunc)).collect();
    let of =
        |v6: bool| all.iter().filter(move |n| n.addr().is_ipv6() == v6).map(ToString::to_string).collect::<Vec<_>>();
    let elements = |list: &[String]| match list.is_empty() {
        true => String::new(),
        false => format!("elements = {{ {} }}", list.join(", ")),
    };
    // The kernel lists ranges as bare edges, so what was asked for is kept a second time, in sets that no rule uses.
    let facts = |v6: bool| {
        let mine = admits.iter().filter(move |n| n.addr().is_ipv6() == v6);
        mine.map(|n| format!("{} . {:#x}", n.network(), n.prefix_len())).collect::<Vec<_>>()
    };
    let table = &leg.peer;
    format!(
        r#"
table inet {table}
delete table inet {table}
table inet {table} {{
    set from4 {{ type ipv4_addr; flags interval; auto-merge; {four} }}
    set from6 {{ type ipv6_addr; flags interval; auto-merge; {six} }}
    set admits4 {{ type ipv4_addr . mark; {facts4} }}
    set admits6 {{ type ipv6_addr . mark; {facts6} }}
    chain forward {{
        type filter hook forward priority 10; policy accept;
        oifname != "{table}" accept
        ct direction reply accept
        ct state related accept
        ct status dnat accept
        ct mark {led} accept
        ip saddr @from4 accept
        ip6 saddr @from6 accept
        reject with icmpx admin-prohibited
    }}
}}
"#,
        led = super::returns::marks(),
        four = elements(&of(false)),
        six = elements(&of(true)),
        facts4 = elements(&facts(false)),
        facts6 = elements(&facts(true)),
    )
}

/// Makes a leg's network private, or open.
pub(super) fn set(netns: &Netns, leg: &Leg) -> Result<()> {
    match &leg.admits {
        Some(admits) => Ok(load_in(netns, &rules(leg, admits))?),
        None => remove(netns, &leg.peer),
    }
}

fn remove(netns: &Netns, leg: &IfName) -> Result<()> {
    match Nft::open_in(netns)?.delete_table(Family::Inet, leg.as_str()).unless_missing() {
        // A kernel that has no such family has no such table.
        Err(e) if e.is_unsupported() => Ok(()),
        other => Ok(other.map(|_| ())?),
    }
}

/// Who may open connections into the network of a leg, read back.
pub(super) fn observed(nft: &mut Nft, leg: &IfName) -> Result<Option<BTreeSet<IpNet>>> {
    match nft.has_table(Family::Inet, leg.as_str()) {
        Err(e) if e.is_unsupported() => return Ok(None),
        Ok(false) => return Ok(None),
        other => drop(other?),
    }
    let mut all = BTreeSet::new();
    for (set, length) in [("admits4", 4), ("admits6", 16)] {
        // A table without these is from another version, and is made anew.
        let Some(elements) = nft.elements(Family::Inet, leg.as_str(), set).unless_missing()? else { return Ok(None) };
        for e in elements {
            let Some((ip, prefix)) = e.key.split_at_checked(length) else { continue };
            let ip: Option<IpAddr> = match length {
                4 => <[u8; 4]>::try_from(ip).ok().map(IpAddr::from),
                _ => <[u8; 16]>::try_from(ip).ok().map(IpAddr::from),
            };
            let prefix = <[u8; 4]>::try_from(prefix).ok().and_then(|p| u8::try_from(u32::from_ne_bytes(p)).ok());
            all.extend(ip.zip(prefix).and_then(|(ip, prefix)| IpNet::new(ip, prefix).ok()));
        }
    }
    Ok(Some(all))
}

impl Kernel {
    /// Removes a leg and what guards its network.
    pub(super) fn delete_leg(&mut self, domain: &str, name: &IfName) -> Result<()> {
        self.delete_device(name)?;
        if let Some((netns, _)) = self.inside(domain)?
            && let Ok(inner) =
                IfName::new(name.as_str().replacen(multihome_model::names::LEG, multihome_model::names::GATEWAY, 1))
        {
            remove(&netns, &inner)?;
        }
        Ok(())
    }
}
