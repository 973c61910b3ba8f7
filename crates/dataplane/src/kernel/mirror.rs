//! What NICs say and hear, copied to another NIC: a table per NIC that is mirrored, in the family netdev and named after its tap.
//!
//! A frame is copied where the tap takes it in and gives it out, before whoever has the bridges sees it and after, so that it is the
//! same below every engine. The copy goes out by the other tap's queue and nowhere else. The rules hold that tap's index: one that is
//! made anew is another, and its mirrors are loaded again. With the device that is mirrored its chains go (or, from Linux 6.16 on, wait
//! for another of its name), and the table stays until it is removed.

use std::collections::BTreeMap;

use multihome_model::{IfName, MirrorDirection, names};
use multihome_netlink::nft::{Copying, Family, load_in};
use multihome_netlink::{Capability, Idempotent};
use multihome_plan::node::Mirror;

use super::observe::{Host, nowhere};
use super::{Kernel, is_ours};
use crate::error::Result;

/// What leaves the guest: before everything else that looks at what a device takes in.
const EGRESS: &str = "egress";
/// What reaches the guest: after everything else.
const INGRESS: &str = "ingress";

fn rules(name: &IfName, mirror: &Mirror) -> String {
    let chain = |wanted: bool, chain: &str, hook: &str, priority: i32| match wanted {
        false => String::new(),
        true => format!(
            "
    chain {chain} {{
        type filter hook {hook} device \"{name}\" priority {priority}; policy accept;
        dup to \"{}\";
    }}",
            mirror.to
        ),
    };
    // The guest's ways are the tap's the other way round.
    let out = chain(mirror.direction.egress(), EGRESS, "ingress", -500);
    let into = chain(mirror.direction.ingress(), INGRESS, "egress", 500);
    format!("table netdev {name}\ndelete table netdev {name}\ntable netdev {name} {{{out}{into}\n}}\n")
}

/// What the rules of one table say. One that copies elsewhere, or does anything else, leads nowhere.
fn read(rules: &[&Copying], host: &Host) -> Mirror {
    let leads = |chain: &str| {
        let mut all = rules.iter().filter(|r| r.chain == chain);
        let first = all.next().map(|r| r.to.and_then(|index| host.tap(index)));
        if all.next().is_some() { Some(None) } else { first }
    };
    let (into, out) = (leads(INGRESS), leads(EGRESS));
    let known = rules.iter().all(|r| [INGRESS, EGRESS].contains(&r.chain.as_str()));
    let direction = MirrorDirection::of(into.is_some(), out.is_some()).unwrap_or_default();
    let mut ends = [into, out].into_iter().flatten();
    let first = ends.next().flatten().filter(|_| known);
    let same = ends.all(|end| end == first);
    Mirror { to: first.filter(|_| same).unwrap_or_else(nowhere), direction }
}

impl Kernel {
    /// Copies what a NIC says and hears to another tap.
    pub(super) fn put_mirror(&mut self, name: &IfName, mirror: &Mirror) -> Result<()> {
        self.require(Capability::Mirror, || format!("a mirror of {name}"))?;
        // What there is no device for is said by the kernel, not by a program that takes a name for a number.
        self.rtnl.index(name.as_str())?;
        self.rtnl.index(mirror.to.as_str())?;
        Ok(load_in(&self.config.host, &rules(name, mirror))?)
    }

    /// Copies nothing of a NIC any more.
    pub(super) fn delete_mirror(&mut self, name: &IfName) -> Result<()> {
        match self.nft.delete_table(Family::Netdev, name.as_str()).unless_missing() {
            // A kernel that has no such family has no such table.
            Err(e) if e.is_unsupported() => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }

    /// Where what NICs say and hear is copied to.
    pub(super) fn observe_mirrors(&mut self, host: &Host) -> Result<BTreeMap<IfName, Mirror>> {
        let tables = match self.nft.tables(Family::Netdev) {
            Err(e) if e.is_unsupported() => return Ok(BTreeMap::new()),
            other => other?,
        };
        let ours: Vec<IfName> =
            tables.into_iter().filter(|t| is_ours(t, names::TAP)).filter_map(|t| IfName::new(t).ok()).collect();
        if ours.is_empty() {
            return Ok(BTreeMap::new());
        }
        let all = self.nft.copying(Family::Netdev)?;
        let of = |name: &IfName| all.iter().filter(|r| r.table == name.as_str()).collect::<Vec<_>>();
        Ok(ours.into_iter().map(|name| (name.clone(), read(&of(&name), host))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_direction_has_its_chain_and_no_other() {
        let [name, to] = ["mht0123456789a", "mht0123456789b"].map(|n| IfName::new(n).unwrap());
        let said = |direction| rules(&name, &Mirror { to: to.clone(), direction });
        let both = said(MirrorDirection::Both);
        assert!(both.contains("hook ingress device \"mht0123456789a\"") && both.contains("hook egress device"));
        assert_eq!(both.matches("dup to \"mht0123456789b\"").count(), 2);
        assert!(!said(MirrorDirection::Ingress).contains("hook ingress"), "what reaches the guest leaves the tap");
        assert!(!said(MirrorDirection::Egress).contains("hook egress"));
    }
}
