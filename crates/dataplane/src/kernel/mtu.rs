//! The largest packet of the node's own devices: raised for networks that ride on them, and lowered again to what is still
//! needed, never below what it was found at. A device that somebody else has set meanwhile stays as he set it.

use multihome_model::{IfName, Mtu, names};
use multihome_netlink::{Idempotent, Link, LinkChange};

use super::{Kernel, is_ours};
use crate::error::Result;

/// What the MTU was found at, what it is to be and what it was before that, in bytes, by device.
const NOTE: &str = "mtu";

struct Raised {
    found: u32,
    /// What we may have made it: the last two, since a crash may come between the note and the change.
    made: [u32; 2],
}

fn read(text: &str) -> Option<Raised> {
    let mut numbers = text.split(' ').map(|n| n.parse().ok());
    let mut next = || numbers.next()?;
    Some(Raised { found: next()?, made: [next()?, next()?] })
}

impl Kernel {
    /// The MTU that a device must be given to carry packets of this size, noted; nothing if it carries them.
    pub(crate) fn raised_mtu(&self, link: &Link, mtu: Mtu) -> Result<Option<u32>> {
        if link.mtu >= mtu.get() {
            return Ok(None);
        }
        // The MTU of a bond of ours is the plan's, and it gives its NICs back with theirs.
        if !is_ours(&link.name, names::BOND) {
            let earlier = self.noted_mtu(link);
            let found = earlier.map_or(link.mtu, |r| r.found);
            self.note_as(NOTE, &link.name, &format!("{found} {} {}", mtu.get(), link.mtu))?;
        }
        Ok(Some(mtu.get()))
    }

    /// What is noted of a device whose MTU is still ours.
    fn noted_mtu(&self, link: &Link) -> Option<Raised> {
        self.note_text(NOTE, &link.name).as_deref().and_then(read).filter(|r| r.made.contains(&link.mtu))
    }

    /// Lowers the MTU of a device that was raised to what VLAN devices on it and the bridge that it is a port of still need.
    pub(crate) fn settle_mtu(&mut self, device: &str) -> Result<()> {
        if !self.noted(NOTE, device) {
            return Ok(());
        }
        let links = self.rtnl.links()?;
        let Some(own) = links.iter().find(|l| l.name == device) else { return self.settle_mtu_to(device, 0) };
        let rides = |l: &&Link| match l.vlan {
            Some(_) => l.parent == own.index && is_ours(&l.name, names::VLAN),
            None => l.index == own.master && (is_ours(&l.name, names::BRIDGE) || is_ours(&l.name, names::FABRIC)),
        };
        let needed = links.iter().filter(rides).map(|l| l.mtu).max().unwrap_or(0);
        self.settle_mtu_to(device, needed)
    }

    /// The same where what is needed, in bytes, is known; 0 for a device that is given back.
    pub(crate) fn settle_mtu_to(&mut self, device: &str, needed: u32) -> Result<()> {
        if !self.noted(NOTE, device) {
            return Ok(());
        }
        let link = self.rtnl.link(device)?;
        let raised = link.as_ref().and_then(|l| self.noted_mtu(l));
        let (Some(link), Some(raised)) = (link, raised) else { return self.forget_note(NOTE, device) };
        let mtu = needed.max(raised.found);
        if mtu < link.mtu {
            self.note_as(NOTE, device, &format!("{} {mtu} {}", raised.found, link.mtu))?;
            self.rtnl.change(link.index, &LinkChange { mtu: Some(mtu), ..LinkChange::default() }).unless_missing()?;
        }
        if mtu == raised.found { self.forget_note(NOTE, device) } else { Ok(()) }
    }

    /// The device that a VLAN device is on.
    pub(crate) fn parent_of(&mut self, name: &IfName) -> Result<Option<String>> {
        let Some(link) = self.rtnl.link(name.as_str())?.filter(|l| l.vlan.is_some()) else { return Ok(None) };
        Ok(self.rtnl.link_at(link.parent)?.map(|l| l.name))
    }
}
