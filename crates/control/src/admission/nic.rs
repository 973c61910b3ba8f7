//! NICs: their network, their VM, the other NICs of that VM, and who has their address already.

use std::collections::BTreeSet;
use std::net::IpAddr;

use kube::ResourceExt;
use multihome_model::checked::{CheckedNetwork, CheckedNic, check_network, check_nic};
use multihome_model::kubevirt::{VirtualMachine, VirtualMachineInstance};
use multihome_model::{
    AddressClaim, DhcpMode, MacAddr, Network, NetworkInterface, NetworkInterfaceSpec, Violations, condition, names,
};
use multihome_plan::address;
use multihome_plan::primary::FAMILIES;

use super::network::overlap;
use super::{Lookup, Refusal, Request, Verb, Verdict, get, group, list, listing, mirror, parse, spec_changed};
use crate::Key;
use crate::status::ATTACHED;
use crate::world::network_key;

pub(super) fn validate(req: &Request<'_>, look: &dyn Lookup) -> Verdict {
    let Some(new) = req.new else { return Ok(()) };
    if req.verb == Verb::Update && !spec_changed(req) {
        return Ok(());
    }
    let nic: NetworkInterface = parse(new)?;
    let old: Option<NetworkInterface> = req.old.map(parse).transpose()?;
    let checked = check_nic(req.name, &nic.spec)?;
    let key = Key::new(req.namespace, req.name);
    let mut v = Violations::default();
    let net = Key::reference(&nic.spec.network, req.namespace);
    let Some(network) = get::<Network>(look, &net) else {
        v.add("spec.network", format!("Network {net} does not exist: create it first, or name another"));
        return Ok(v.into_result(())?);
    };
    let network = check_network(&net.name, &network.spec)?;
    if let Some(old) = &old {
        unchangeable(old, &nic.spec, &mut v);
    }
    let before = old.as_ref().map(|o| &o.spec);
    if let Some(vm) = nic.spec.vm() {
        let asked_again = before.is_none_or(|o| o.vm() != Some(vm));
        if asked_again && !vm_exists(look, &Key::new(req.namespace, vm)) {
            v.add(
                "spec.vm",
                format!(
                    "VirtualMachine {vm:?} does not exist in namespace {:?}: create it first, or leave vm out",
                    req.namespace
                ),
            );
        }
        siblings(look, &key, &nic.spec, &net, &network, &mut v);
    }
    if let Some(mac) = checked.mac
        && before.and_then(|b| b.mac.as_deref()).and_then(|m| m.parse::<MacAddr>().ok()) != Some(mac)
    {
        mac_free(look, &key, &net, mac, &mut v);
    }
    group::exist(look, &nic.spec.policies, before.map_or(&[], |b| &b.policies), req.namespace, &mut v);
    group::enforceable(network.kind, &net, &nic.spec.policies, &mut v);
    mirror::judge(look, &key, &nic.spec, before, &mut v);
    addresses(look, &key, &net, &network, &checked, &mut v);
    if req.verb == Verb::Create {
        room(look, &net, &network, &checked, &mut v);
    }
    Ok(v.into_result(())?)
}

fn unchangeable(old: &NetworkInterface, new: &NetworkInterfaceSpec, v: &mut Violations) {
    if old.spec.network != new.network {
        v.add(
            "spec.network",
            format!(
                "the network of a NIC cannot change (it is {:?}): create another NIC on {:?}",
                old.spec.network, new.network
            ),
        );
    }
    let attached =
        old.status.as_ref().and_then(|s| condition::find(&s.conditions, ATTACHED)).is_some_and(|c| c.is_true());
    if let (Some(from), Some(to)) = (old.spec.vm(), new.vm())
        && from != to
        && attached
    {
        v.add(
            "spec.vm",
            format!(
                "NIC {:?} is attached to running VM {from:?}: detach it first with «multihome nic detach {}»",
                old.name_any(),
                old.name_any()
            ),
        );
    }
}

fn vm_exists(look: &dyn Lookup, key: &Key) -> bool {
    get::<VirtualMachine>(look, key).is_some() || get::<VirtualMachineInstance>(look, key).is_some()
}

/// The other NICs of the same VM.
fn siblings(
    look: &dyn Lookup,
    key: &Key,
    spec: &NetworkInterfaceSpec,
    net: &Key,
    network: &CheckedNetwork,
    v: &mut Violations,
) {
    let vm = spec.vm().unwrap_or_default();
    let all = list::<NetworkInterface>(look, Some(&key.namespace));
    let others = all
        .iter()
        .filter(|n| n.spec.vm() == Some(vm) && n.name_any() != key.name && n.metadata.deletion_timestamp.is_none());
    for other in others {
        let name = other.name_any();
        if spec.primary == Some(true) && other.spec.primary == Some(true) {
            v.add(
                "spec.primary",
                format!("NIC {name:?} of VM {vm:?} is primary already: use «multihome nic set-primary {}» to move the default route", key.name),
            );
        }
        let allowed = spec.allow_same_network || other.spec.allow_same_network;
        let their_key = network_key(other);
        if their_key == *net {
            if !allowed {
                v.add(
                    "spec.network",
                    format!("VM {vm:?} has NIC {name:?} on Network {net} already: use another network, or say allowSameNetwork: true"),
                );
            }
            continue;
        }
        let Some(theirs) = get::<Network>(look, &their_key).and_then(|n| check_network(&their_key.name, &n.spec).ok())
        else {
            continue;
        };
        for family in FAMILIES {
            if let (Some(a), Some(b)) = (network.subnet(family), theirs.subnet(family))
                && overlap(&a.cidr, &b.cidr)
                && !allowed
            {
                v.add(
                    "spec.network",
                    format!(
                        "{} of Network {net} overlaps {} of Network {their_key}, where VM {vm:?} has NIC {name:?}: one guest cannot tell them apart",
                        a.cidr, b.cidr
                    ),
                );
            }
        }
    }
}

fn mac_free(look: &dyn Lookup, key: &Key, net: &Key, mac: MacAddr, v: &mut Violations) {
    let claim = Key::new(net.namespace.clone(), names::mac_claim(&net.name, mac));
    let holder = get::<AddressClaim>(look, &claim).map(|c| c.spec.owner).map(|o| Key::new(o.namespace, o.name));
    let asked = || {
        let nics = list::<NetworkInterface>(look, None);
        nics.into_iter()
            .find(|n| {
                network_key(n) == *net
                    && n.spec.mac.as_deref().and_then(|m| m.parse().ok()) == Some(mac)
                    && Key::of(n) != *key
            })
            .map(|n| Key::of(&n))
    };
    if let Some(holder) = holder.filter(|h| h != key).or_else(asked) {
        v.add("spec.mac", format!("MAC {mac} is taken by NIC {holder} on Network {net}: use another, or none"));
    }
}

fn addresses(look: &dyn Lookup, key: &Key, net: &Key, network: &CheckedNetwork, nic: &CheckedNic, v: &mut Violations) {
    for family in FAMILIES {
        let (at, wishes): (&str, Vec<IpAddr>) = match family {
            multihome_model::Family::IPv4 => ("spec.ipv4", wishes(nic, family)),
            multihome_model::Family::IPv6 => ("spec.ipv6", wishes(nic, family)),
        };
        for a in wishes {
            let Some(subnet) = network.subnet(family) else {
                v.add(
                    format!("{at}.address"),
                    format!("address {a} is not possible: Network {net} has no such subnet"),
                );
                continue;
            };
            if subnet.formed_prefix().is_some() && nic.address(family) == Some(a) {
                v.add(
                    format!("{at}.address"),
                    format!("address {a} cannot be given: guests on Network {net} form theirs from their MAC; leave it out, or set addressing: Stateful"),
                );
                continue;
            }
            if let Some(why) = subnet.refuse(a) {
                v.add(format!("{at}.address"), why);
                continue;
            }
            let claim = Key::new(net.namespace.clone(), names::ip_claim(&net.name, a));
            if let Some(owner) = get::<AddressClaim>(look, &claim).map(|c| c.spec.owner)
                && (owner.namespace != key.namespace || owner.name != key.name)
            {
                v.add(
                    format!("{at}.address"),
                    format!("address {a} is taken by NIC {}/{}: use another, or none", owner.namespace, owner.name),
                );
            }
        }
    }
}

fn wishes(nic: &CheckedNic, family: multihome_model::Family) -> Vec<IpAddr> {
    let v4 = family == multihome_model::Family::IPv4;
    nic.address(family).into_iter().chain(nic.secondary.iter().copied().filter(|a| a.is_ipv4() == v4)).collect()
}

/// Whether an address is left to choose.
fn room(look: &dyn Lookup, net: &Key, network: &CheckedNetwork, nic: &CheckedNic, v: &mut Violations) {
    for family in FAMILIES {
        let Some(subnet) = network.subnet(family) else { continue };
        if nic.address(family).is_some() || subnet.dhcp == DhcpMode::Guard {
            continue;
        }
        let capacity = address::capacity(subnet);
        // Counting claims of a large pool costs more than it tells.
        if capacity > 65_536 {
            continue;
        }
        let claims = list::<AddressClaim>(look, Some(&net.namespace));
        let ours: Vec<&AddressClaim> = claims.iter().filter(|c| c.spec.network == net.name).collect();
        let taken: BTreeSet<IpAddr> = ours.iter().filter_map(|c| c.spec.address.parse().ok()).collect();
        if address::used(subnet, &taken) < capacity {
            continue;
        }
        let nics = list::<NetworkInterface>(look, None);
        let idle: Vec<String> = nics
            .iter()
            .filter(|n| network_key(n) == *net && n.spec.vm().is_none())
            .map(|n| Key::of(n).to_string())
            .collect();
        let who = if idle.is_empty() {
            "no NIC of it is detached".to_owned()
        } else {
            format!("detached NICs that could be deleted: {}", listing(&idle))
        };
        v.add(
            "spec.network",
            format!(
                "all {capacity} addresses of Network {net} ({}) are taken; {who}; or enlarge its pools",
                subnet.cidr
            ),
        );
    }
}

/// A refusal that names a missing network, for VM manifests.
pub(super) fn network_of_manifest(look: &dyn Lookup, net: &Key) -> Result<CheckedNetwork, Refusal> {
    super::network::checked(look, net)
}
