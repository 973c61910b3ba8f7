//! Floating addresses: the network that they are from, and whether the NIC can have all of one.

use kube::ResourceExt;
use multihome_model::checked::{check_floating_ip, check_network};
use multihome_model::{FloatingIP, Network, Violations};

use super::{Lookup, Request, Verb, Verdict, get, list, parse, spec_changed};
use crate::Key;
use crate::floating;

pub(super) fn validate(req: &Request<'_>, look: &dyn Lookup) -> Verdict {
    let (Some(new), true) = (req.new, req.verb != Verb::Delete) else { return Ok(()) };
    if req.verb == Verb::Update && !spec_changed(req) {
        return Ok(());
    }
    let floating: FloatingIP = parse(new)?;
    let checked = check_floating_ip(req.name, &floating.spec)?;
    let mut v = Violations::default();
    let key = Key::reference(&floating.spec.network, req.namespace);
    if let Some(network) = get::<Network>(look, &key)
        && let Ok(network) = check_network(&key.name, &network.spec)
    {
        if let Some(why) = floating::unfit(&key, &network, &checked) {
            v.add("spec.network", why);
        } else if let Some(why) = checked.address.and_then(|a| network.subnet(checked.family)?.refuse(a)) {
            v.add("spec.address", why);
        }
    }
    if let Some(nic) = checked.nic.as_ref().filter(|_| checked.forwards.is_empty()) {
        let others = list::<FloatingIP>(look, Some(req.namespace)).into_iter();
        let of_family = |o: &FloatingIP| {
            check_floating_ip(&o.name_any(), &o.spec).is_ok_and(|c| c.family == checked.family && c.forwards.is_empty())
        };
        let mut whole = others.filter(|o| o.name_any() != req.name && o.spec.nic.as_ref() == Some(nic) && of_family(o));
        if let Some(other) = whole.next() {
            let text = format!(
                "NIC {nic:?} has all of FloatingIP {:?} already, and what it sends by {:?} can come from one address only: name the \
                 ports to forward",
                other.name_any(),
                checked.family
            );
            v.add("spec.forwards", text);
        }
    }
    Ok(v.into_result(())?)
}
