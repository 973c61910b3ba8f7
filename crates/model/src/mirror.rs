//! To which NIC what another says and hears is copied.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Violations, names};

/// To which NIC what this one says and hears is copied, so that the VM of that NIC can capture it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MirrorSpec {
    /// The NIC that gets the copies, in the same namespace and on any network. It is not mirrored itself. Copies are made while
    /// both NICs are on one node.
    pub to: String,
    /// What is copied. Default: Both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<MirrorDirection>,
}

/// What of a NIC is copied: what reaches the guest (Ingress), what leaves it (Egress), or both, which is the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, Default)]
pub enum MirrorDirection {
    /// What reaches the guest and what leaves it.
    #[default]
    Both,
    /// What reaches the guest.
    Ingress,
    /// What leaves the guest, what port security and policies drop included.
    Egress,
}

impl MirrorDirection {
    /// Whether what reaches the guest is copied.
    pub fn ingress(self) -> bool {
        self != Self::Egress
    }

    /// Whether what leaves the guest is copied.
    pub fn egress(self) -> bool {
        self != Self::Ingress
    }

    /// The direction that is copied, if any is.
    pub fn of(ingress: bool, egress: bool) -> Option<Self> {
        match (ingress, egress) {
            (true, true) => Some(Self::Both),
            (true, false) => Some(Self::Ingress),
            (false, true) => Some(Self::Egress),
            (false, false) => None,
        }
    }
}

impl fmt::Display for MirrorDirection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Both => "both ways",
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

impl MirrorSpec {
    /// What is copied.
    pub fn direction(&self) -> MirrorDirection {
        self.direction.unwrap_or_default()
    }

    /// Checks what the NIC of this name says.
    pub(crate) fn check(name: &str, spec: Option<&Self>, v: &mut Violations) {
        const AT: &str = "spec.mirror.to";
        let Some(spec) = spec else { return };
        if spec.to.is_empty() {
            v.add(AT, "the NIC that gets the copies is missing: name another NIC of this namespace");
        } else if spec.to == name {
            v.add(AT, format!("NIC {name:?} cannot be mirrored to itself: name another NIC of this namespace"));
        } else {
            v.take(AT, names::dns_label(&spec.to));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_names_another_nic() {
        let said = |to: &str| {
            let mut v = Violations::default();
            MirrorSpec::check("web", Some(&MirrorSpec { to: to.into(), direction: None }), &mut v);
            v.into_result(()).err().map(|v| v.to_string()).unwrap_or_default()
        };
        assert_eq!(said("cap"), "");
        assert!(said("web").contains("cannot be mirrored to itself: name another"), "{}", said("web"));
        assert!(said("").contains("is missing: name another"), "{}", said(""));
        assert!(said("other/cap").contains("spec.mirror.to"), "{}", said("other/cap"));
    }

    #[test]
    fn a_direction_is_what_it_copies() {
        for d in [MirrorDirection::Both, MirrorDirection::Ingress, MirrorDirection::Egress] {
            assert_eq!(MirrorDirection::of(d.ingress(), d.egress()), Some(d));
        }
        assert_eq!(MirrorDirection::of(false, false), None);
    }
}
