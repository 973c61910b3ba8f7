//! Zones of the connection tracker: each NIC with policies has some, and room of its own in each.

use std::collections::{BTreeMap, BTreeSet};

use multihome_model::IfName;
use multihome_ovsdb::Control;
use multihome_ovsdb::openflow::Bridge;

use super::Datapath;
use super::policy::{ZONES, zones};
use crate::error::Result;

/// How many conversations are remembered in one zone.
const MOST: u32 = 65_536;

/// What is known of zones.
#[derive(Debug, Default)]
pub(super) struct Zones {
    /// The blocks that NICs had when the database was read, or got since.
    ours: BTreeSet<u16>,
    /// Those whose limits ovs-vswitchd was told since it was last looked at.
    limited: BTreeSet<u16>,
}

impl Zones {
    /// Those of NICs that were there before: their conversations go on.
    pub(super) fn adopt(&mut self, blocks: BTreeSet<u16>) {
        self.ours = blocks;
        self.limited.clear();
    }

    /// Makes new blocks empty, and their room what it is to be. To be done before there are flows that use them.
    pub(super) fn open(
        &mut self,
        wanted: &BTreeMap<u16, IfName>,
        datapath: Datapath,
        control: &mut Control,
        mut empty: impl FnMut(&IfName, &[u16]) -> Result<()>,
    ) -> Result<()> {
        for (block, on) in wanted.iter().filter(|(block, _)| !self.ours.contains(block)) {
            empty(on, &zones(*block))?;
        }
        let fresh: Vec<u16> = wanted.keys().copied().filter(|block| !self.limited.contains(block)).collect();
        if !fresh.is_empty() {
            let all: Vec<u16> = fresh.iter().flat_map(|block| zones(*block)).collect();
            control.limit_zones(datapath.path(), &all, MOST)?;
            if datapath == Datapath::Netdev {
                // Room for all of them together.
                let all = wanted.len().saturating_mul(usize::from(ZONES)).saturating_mul(MOST as usize);
                control.raise_connections(datapath.path(), u32::try_from(all).unwrap_or(u32::MAX))?;
            }
        }
        self.ours.extend(wanted.keys());
        self.limited.extend(fresh);
        Ok(())
    }

    /// Empties blocks that no NIC has any more. To be done after the flows that used them are gone.
    pub(super) fn close(
        &mut self,
        wanted: &BTreeMap<u16, IfName>,
        datapath: Datapath,
        control: &mut Control,
        any: Option<&mut Bridge>,
    ) -> Result<()> {
        let gone: Vec<u16> = self.ours.iter().copied().filter(|block| !wanted.contains_key(block)).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let all: Vec<u16> = gone.iter().flat_map(|block| zones(*block)).collect();
        self.ours.retain(|block| wanted.contains_key(block));
        self.limited.retain(|block| wanted.contains_key(block));
        // Without any bridge the data path is gone, or somebody else's: then they are emptied before they are used again.
        if let Some(bridge) = any {
            bridge.forget_zones(&all)?;
            control.unlimit_zones(datapath.path(), &all)?;
        }
        Ok(())
    }
}
