//! Mirrors: a NIC that gets copies is not mirrored itself, so that no copy is copied again and nothing runs in a circle.

use kube::ResourceExt;
use multihome_model::{NetworkInterface, NetworkInterfaceSpec, Violations};

use super::{Lookup, list};
use crate::Key;

/// Judges a mirror that is new. The NIC that it names may be missing: it may come later, and go.
pub(super) fn judge(
    look: &dyn Lookup,
    key: &Key,
    spec: &NetworkInterfaceSpec,
    before: Option<&NetworkInterfaceSpec>,
    v: &mut Violations,
) {
    const AT: &str = "spec.mirror.to";
    let to = |spec: &NetworkInterfaceSpec| spec.mirror.as_ref().map(|m| m.to.clone());
    let Some(wanted) = to(spec).filter(|to_| before.and_then(to).as_ref() != Some(to_)) else { return };
    let others = list::<NetworkInterface>(look, Some(&key.namespace));
    let others = others.iter().filter(|n| n.name_any() != key.name && n.metadata.deletion_timestamp.is_none());
    for (other, its) in others.filter_map(|n| Some((n.name_any(), to(&n.spec)?))) {
        if other == wanted {
            v.add(
                AT,
                format!("NIC {wanted:?} is mirrored itself, to NIC {its:?}: mirror to a NIC that is not mirrored"),
            );
        }
        if its == key.name {
            v.add(
                AT,
                format!(
                    "NIC {:?} gets copies of NIC {other:?} and is not mirrored itself: end that with «multihome nic mirror {other} --off» first",
                    key.name
                ),
            );
        }
    }
}
