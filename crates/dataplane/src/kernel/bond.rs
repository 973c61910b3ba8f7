//! Bonds of the node's own devices. Those are not ours: each is noted before anything of it is changed, and is given back
//! as it was, whoever was killed in between.

use multihome_model::IfName;
use multihome_netlink::{Capability, Idempotent, Link, LinkChange, LinkKind, NewLink};
use multihome_plan::node::Bond;

use super::Kernel;
use crate::error::{Error, Result};

/// The note that a device was up when a bond took it.
const UP: &str = "up";

/// The notes of the devices that a bond has taken, or was about to take.
fn members(bond: &IfName) -> String {
    format!("bond-{bond}")
}

fn state(up: bool) -> LinkChange<'static> {
    LinkChange { up: Some(up), ..LinkChange::default() }
}

impl Kernel {
    pub(super) fn put_bond(&mut self, name: &IfName, bond: &Bond) -> Result<()> {
        let what = || format!("a bond of {}", bond.nics.iter().map(IfName::as_str).collect::<Vec<_>>().join(" and "));
        self.require(Capability::Bond, what)?;
        let there = self.expect(name, "bond")?;
        // Nothing is changed before it is known that everything can be.
        for nic in &bond.nics {
            self.may_join(nic, there.as_ref()).map_err(|reason| match reason {
                Ok(reason) => Error::Unsupported { what: what(), reason },
                Err(e) => e,
            })?;
        }
        let (mode, miimon) = (bond.mode.number(), bond.miimon);
        let index = match &there {
            None => {
                let kind = LinkKind::Bond { mode, miimon };
                let index = self.rtnl.create(&NewLink { name: name.as_str(), kind, change: LinkChange::default() })?;
                self.silence(name.as_str())?;
                index
            }
            Some(link) => {
                if link.bond.is_none_or(|(has, _)| has != mode) {
                    // The kernel takes another mode of an empty bond alone. What rides on it stays where it is.
                    self.release(name, link.index, |_| true)?;
                    self.rtnl.change(link.index, &state(false))?;
                }
                if link.bond != Some((mode, miimon)) {
                    self.rtnl.set_bond(link.index, mode, miimon)?;
                }
                link.index
            }
        };
        self.release(name, index, |nic| !bond.nics.contains(nic))?;
        for nic in &bond.nics {
            self.enslave(name, index, nic)?;
        }
        let mtu = self.rtnl.link_at(index)?.is_none_or(|l| l.mtu != bond.mtu.get());
        let change = LinkChange { mtu: mtu.then_some(bond.mtu.get()), alias: Some(&bond.alias), ..state(true) };
        Ok(self.rtnl.change(index, &change)?)
    }

    /// Whether a device can be a part of a bond. The outer error is a sentence's end, or what the kernel refused.
    fn may_join(
        &mut self,
        nic: &IfName,
        bond: Option<&Link>,
    ) -> std::result::Result<(), std::result::Result<String, Error>> {
        let link = self.rtnl.link(nic.as_str()).map_err(|e| Err(e.into()))?;
        let Some(link) = link else { return Err(Ok(format!("there is no device {nic}"))) };
        if bond.is_some_and(|b| b.index == link.master) {
            return Ok(());
        }
        if link.master != 0 {
            let owner = self.rtnl.link_at(link.master).map_err(|e| Err(e.into()))?.map(|l| l.name).unwrap_or_default();
            return Err(Ok(format!("{nic} is a part of {owner}")));
        }
        match self.why_needed(&link).map_err(Err)? {
            Some(reason) => Err(Ok(format!("{nic}: {reason}"))),
            None => Ok(()),
        }
    }

    fn enslave(&mut self, bond: &IfName, index: u32, nic: &IfName) -> Result<()> {
        let Some(link) = self.rtnl.link(nic.as_str())? else { return Ok(()) };
        if link.master == index {
            // Somebody may have set it down.
            return if link.up { Ok(()) } else { Ok(self.rtnl.change(link.index, &state(true))?) };
        }
        self.note(&members(bond), nic.as_str())?;
        if link.up {
            self.note(UP, nic.as_str())?;
        }
        self.hold_ipv6(nic.as_str())?;
        // The kernel takes devices that are down, and brings them up itself.
        self.rtnl.change(link.index, &state(false))?;
        Ok(self.rtnl.change(link.index, &LinkChange { master: Some(index), ..LinkChange::default() })?)
    }

    /// Gives back devices of a bond, and those that it was about to take.
    fn release(&mut self, bond: &IfName, index: u32, which: impl Fn(&IfName) -> bool) -> Result<()> {
        let mut all = self.all_noted(&members(bond));
        all.extend(self.rtnl.links()?.into_iter().filter(|l| l.master == index).map(|l| l.name));
        all.sort();
        all.dedup();
        for name in all {
            let Ok(nic) = IfName::new(name) else { continue };
            if which(&nic) {
                self.give_back(bond, index, &nic)?;
            }
        }
        Ok(())
    }

    fn give_back(&mut self, bond: &IfName, index: u32, nic: &IfName) -> Result<()> {
        if let Some(link) = self.rtnl.link(nic.as_str())? {
            if link.master == index && index != 0 {
                let change = LinkChange { master: Some(0), ..LinkChange::default() };
                self.rtnl.change(link.index, &change).unless_missing()?;
            }
            self.release_ipv6(nic.as_str())?;
            if self.noted(UP, nic.as_str()) {
                self.rtnl.change(link.index, &state(true)).unless_missing()?;
            }
        }
        if self.noted(UP, nic.as_str()) {
            self.forget_note(UP, nic.as_str())?;
        }
        if self.noted(&members(bond), nic.as_str()) {
            self.forget_note(&members(bond), nic.as_str())?;
        }
        Ok(())
    }

    pub(super) fn delete_bond(&mut self, name: &IfName) -> Result<()> {
        let index = self.expect(name, "bond")?.map_or(0, |l| l.index);
        self.release(name, index, |_| true)?;
        self.delete_device(name)
    }
}
