//! Elements of nftables sets as rules are written with them, and as they are read back.
//!
//! The kernel lists ranges as bare edges. Prefixes that are to be read back are therefore kept a second time, beside the ranges that rules
//! ask for, as `address . mark` with the prefix length as the mark ([`facts`], [`read_facts`]).

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use multihome_netlink::Idempotent;
use multihome_netlink::nft::{Family, Nft};

use crate::error::Result;

/// The elements that a set begins with; nothing where there are none, which a set cannot say.
pub(super) fn elements(list: impl IntoIterator<Item = String>) -> String {
    let list: Vec<String> = list.into_iter().collect();
    if list.is_empty() { String::new() } else { format!("elements = {{ {} }}", list.join(", ")) }
}

fn of(nets: &BTreeSet<IpNet>, ipv6: bool) -> impl Iterator<Item = &IpNet> {
    nets.iter().filter(move |n| n.addr().is_ipv6() == ipv6)
}

/// Prefixes of one family as ranges.
pub(super) fn ranges(nets: &BTreeSet<IpNet>, ipv6: bool) -> String {
    elements(of(nets, ipv6).map(ToString::to_string))
}

/// The same to be read back.
pub(super) fn facts(nets: &BTreeSet<IpNet>, ipv6: bool) -> String {
    elements(of(nets, ipv6).map(|n| format!("{} . {:#x}", n.network(), n.prefix_len())))
}

/// What [`facts`] wrote into the two sets of a table; `None` where it has no such sets.
pub(super) fn read_facts(nft: &mut Nft, table: &str, sets: [&str; 2]) -> Result<Option<BTreeSet<IpNet>>> {
    let mut all = BTreeSet::new();
    for (set, length) in sets.into_iter().zip([4, 16]) {
        let Some(listed) = nft.elements(Family::Inet, table, set).unless_missing()? else { return Ok(None) };
        all.extend(listed.iter().filter_map(|e| read_net(&e.key, length)));
    }
    Ok(Some(all))
}

/// An address of so many bytes, and the length of its prefix.
fn read_net(key: &[u8], length: usize) -> Option<IpNet> {
    let (ip, prefix) = key.split_at_checked(length)?;
    let prefix = u32::from_ne_bytes(prefix.try_into().ok()?);
    IpNet::new(read_address(ip)?, u8::try_from(prefix).ok()?).ok()
}

/// An address by its bytes.
pub(super) fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}
