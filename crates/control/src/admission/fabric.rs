//! ClusterNetworks and Vpcs.

use kube::ResourceExt;
use multihome_model::checked::{check_cluster_network, check_vpc};
use multihome_model::{ClusterNetwork, Network, Vpc};

use super::{Lookup, Refusal, Request, Verb, Verdict, list, listing, parse};
use crate::vm::is_builtin_fabric;

pub(super) fn validate_fabric(req: &Request<'_>, look: &dyn Lookup) -> Verdict {
    if req.verb == Verb::Delete {
        if is_builtin_fabric(req.name) {
            return Err(Refusal::Forbidden(format!("ClusterNetwork {:?} is built in and stays", req.name)));
        }
        let users: Vec<String> = list::<Network>(look, None)
            .iter()
            .filter(|n| n.spec.fabric() == req.name)
            .map(|n| format!("{}/{}", n.namespace().unwrap_or_default(), n.name_any()))
            .collect();
        return refuse_users(&users, &format!("ClusterNetwork {:?}", req.name), "networks");
    }
    let Some(new) = req.new else { return Ok(()) };
    let fabric: ClusterNetwork = parse(new)?;
    Ok(check_cluster_network(req.name, &fabric.spec)?)
}

pub(super) fn validate_vpc(req: &Request<'_>, look: &dyn Lookup) -> Verdict {
    if req.verb == Verb::Delete {
        let users: Vec<String> = list::<Network>(look, Some(req.namespace))
            .iter()
            .filter(|n| n.spec.vpc.as_deref() == Some(req.name) && n.metadata.deletion_timestamp.is_none())
            .map(|n| n.name_any())
            .collect();
        return refuse_users(&users, &format!("Vpc {:?}", req.name), "networks");
    }
    let Some(new) = req.new else { return Ok(()) };
    let vpc: Vpc = parse(new)?;
    Ok(check_vpc(req.name, &vpc.spec)?)
}

/// Refuses the removal of what others use, naming them.
pub(super) fn refuse_users(users: &[String], what: &str, kind: &str) -> Verdict {
    if users.is_empty() {
        return Ok(());
    }
    Err(Refusal::Forbidden(format!("{what} is used by {kind} {}: delete or change them first", listing(users))))
}
