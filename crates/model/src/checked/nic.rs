//! A NetworkInterface's spec, checked.

use std::net::IpAddr;

use crate::{Bandwidth, Family, MacAddr, MirrorSpec, NetworkInterfaceSpec, ParseError, Violations, names};

/// A NetworkInterface's spec with every value parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckedNic {
    /// MAC that it asks for.
    pub mac: Option<MacAddr>,
    /// IPv4 address that it asks for.
    pub ipv4: Option<IpAddr>,
    /// IPv6 address that it asks for.
    pub ipv6: Option<IpAddr>,
    /// Further addresses of both families.
    pub secondary: Vec<IpAddr>,
    /// How much it may carry, as far as it says so itself.
    pub bandwidth: Bandwidth,
}

impl CheckedNic {
    /// The address that it asks for in one family.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::IPv4 => self.ipv4,
            Family::IPv6 => self.ipv6,
        }
    }
}

/// Checks a NetworkInterface's name and spec.
pub fn check_nic(name: &str, spec: &NetworkInterfaceSpec) -> Result<CheckedNic, Violations> {
    let mut v = Violations::default();
    v.take("metadata.name", names::dns_label(name));
    if spec.network.is_empty() {
        v.add("spec.network", "the network is missing: name the Network that it attaches to");
    } else {
        let (ns, n) = names::split_ref(&spec.network, "default");
        v.take("spec.network", names::dns_label(ns).and(names::dns_label(n)));
    }
    if let Some(vm) = spec.vm() {
        v.take("spec.vm", names::dns_label(vm));
    }
    let mac = spec.mac.as_deref().and_then(|m| v.take("spec.mac", MacAddr::parse_nic(m)));
    if spec.queues.is_some_and(|q| !(1..=16).contains(&q)) {
        let q = spec.queues.unwrap_or_default();
        v.add("spec.queues", format!("{q} queues are out of range: use 1 to 16"));
    }
    group_names(&spec.policies, &mut v);
    let mut secondary = vec![];
    let mut first = [None, None];
    for (i, (family, at)) in [(Family::IPv4, "spec.ipv4"), (Family::IPv6, "spec.ipv6")].into_iter().enumerate() {
        let Some(f) = spec.family(family) else { continue };
        if let Some(a) = &f.address {
            first[i] = v.take(&format!("{at}.address"), address(a, family));
        }
        for (j, a) in f.secondary.iter().enumerate() {
            secondary.extend(v.take(&format!("{at}.secondary[{j}]"), address(a, family)));
        }
    }
    MirrorSpec::check(name, spec.mirror.as_ref(), &mut v);
    let bandwidth = Bandwidth::check("spec.bandwidth", spec.bandwidth.as_ref(), &mut v);
    v.into_result(CheckedNic { mac, ipv4: first[0], ipv6: first[1], secondary, bandwidth })
}

/// Names of SecurityGroups: each possible, and once.
pub(super) fn group_names(list: &[String], v: &mut Violations) {
    for (i, group) in list.iter().enumerate() {
        let at = format!("spec.policies[{i}]");
        let (ns, name) = names::split_ref(group, "default");
        v.take(&at, names::dns_label(ns).and(names::dns_label(name)));
        if list[..i].contains(group) {
            v.add(at, format!("group {group:?} is named twice: name it once"));
        }
    }
    if list.len() > MOST_GROUPS {
        v.add("spec.policies", format!("{} groups are too many: use at most {MOST_GROUPS}", list.len()));
    }
}

/// How many groups a NIC or a network may name.
const MOST_GROUPS: usize = 16;

fn address(text: &str, family: Family) -> Result<IpAddr, ParseError> {
    let right = if family == Family::IPv4 { "10.0.0.5" } else { "fd00:1::5" };
    match text.parse::<IpAddr>() {
        Ok(a) if a.is_ipv4() == (family == Family::IPv4) => Ok(a),
        Ok(a) => Err(ParseError(format!("address {a} is of the other address family: use one such as {right}"))),
        Err(_) => {
            Err(ParseError(format!("address {text:?} is malformed: use one such as {right}, without a prefix length")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NicAddressSpec;

    #[test]
    fn sentences() {
        let nic = NetworkInterfaceSpec {
            network: "mgmt".into(),
            mac: Some("01:00:00:00:00:01".into()),
            ipv4: Some(NicAddressSpec { address: Some("10.0.0.5/24".into()), secondary: vec!["fd00::1".into()] }),
            ..Default::default()
        };
        let text = check_nic("nic-1", &nic).unwrap_err().to_string();
        assert!(
            text.contains("multicast")
                && text.contains("without a prefix length")
                && text.contains("other address family"),
            "{text}"
        );
        assert!(check_nic("nic-1", &NetworkInterfaceSpec { network: "ns/mgmt".into(), ..Default::default() }).is_ok());
        assert!(check_nic("nic-1", &NetworkInterfaceSpec { network: "a/b/c".into(), ..Default::default() }).is_err());
    }
}
