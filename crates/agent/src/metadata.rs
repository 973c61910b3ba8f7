//! What the metadata service answers on each NIC's port.

use std::sync::Arc;

use kube::ResourceExt;
use multihome_control::vm::VmNicView;
use multihome_guest::Guest;
use multihome_metadata::Told;
use multihome_plan::node::tap_name;

use crate::{Agent, Error, spec};

/// Answers on the ports of a guest's NICs.
pub(crate) fn sync(agent: &Agent, guest: Guest, views: &[VmNicView]) -> Result<(), Error> {
    let guest = Arc::new(guest);
    for v in views {
        let Some(uid) = v.nic.uid() else { continue };
        let Some(ifindex) = agent.plumbing.ifindex(&tap_name(&uid)) else { continue };
        let told = Told {
            guest: guest.clone(),
            nic: v.nic.name_any(),
            mac: v.mac,
            server_mac: spec::server_mac(&v.network.uid().unwrap_or_default(), &v.spec, &agent.config.node),
        };
        agent.metadata.put(&uid, ifindex, told)?;
    }
    Ok(())
}
