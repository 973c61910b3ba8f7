//! Private networks: a table per leg in the domain's namespace, which lets nobody else open connections into the network.
//!
//! Both directions of a conversation pass the domain on the node of the NIC, so that what its guests open is known here: what answers
//! that passes. Of what others open every packet is judged and not the first alone, so that a conversation ends with what allowed it.
//! What a floating address led here was opened to the world on purpose, whether that address is on this node or on another one.

use std::collections::BTreeSet;

use ipnet::IpNet;
use multihome_model::IfName;
use multihome_netlink::nft::{Family, Nft, load_in};
use multihome_netlink::{Idempotent, Netns};
use multihome_plan::node::Leg;

use super::{Kernel, sets};
use crate::error::Result;

fn rules(leg: &Leg, admits: &BTreeSet<IpNet>) -> String {
    let all: BTreeSet<IpNet> = admits.iter().copied().chain(leg.addresses.iter().map(IpNet::trunc)).collect();
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
        four = sets::ranges(&all, false),
        six = sets::ranges(&all, true),
        facts4 = sets::facts(admits, false),
        facts6 = sets::facts(admits, true),
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
    // A table without these is from another version, and is made anew.
    sets::read_facts(nft, leg.as_str(), ["admits4", "admits6"])
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
