//! Which NIC of a VM holds the default route, per address family.

use multihome_model::Family;

/// What the choice depends on, for one NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Name of the NIC, unique within the VM.
    pub name: &'a str,
    /// Its place.
    pub order: i32,
    /// Whether it says `primary: true`.
    pub wants: bool,
    /// Whether its network offers a gateway for the family.
    pub offers_gateway: bool,
}

/// The name of the NIC that holds the default route: the one that asks for it, else the one with the lowest order, the
/// name deciding between equals; always one whose network offers a gateway, and none where no network does.
pub fn choose<'a>(candidates: &[Candidate<'a>]) -> Option<&'a str> {
    candidates
        .iter()
        .filter(|c| c.offers_gateway)
        .min_by(|a, b| (!a.wants, a.order, a.name).cmp(&(!b.wants, b.order, b.name)))
        .map(|c| c.name)
}

/// Both families.
pub const FAMILIES: [Family; 2] = [Family::IPv4, Family::IPv6];

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(name: &str, order: i32, wants: bool, offers_gateway: bool) -> Candidate<'_> {
        Candidate { name, order, wants, offers_gateway }
    }

    #[test]
    fn wish_then_order_then_name() {
        assert_eq!(choose(&[nic("b", 0, false, true), nic("a", 0, false, true)]), Some("a"));
        assert_eq!(choose(&[nic("a", 0, false, true), nic("b", 9, true, true)]), Some("b"));
        assert_eq!(choose(&[nic("a", 0, false, false), nic("b", 9, false, true)]), Some("b"));
        assert_eq!(choose(&[nic("a", 0, true, false)]), None);
    }
}
