//! Floating addresses.

use std::net::IpAddr;

use crate::{Family, FloatingIPSpec, ParseError, Violations, names};

/// A floating address with every value parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedFloatingIP {
    /// The address that is asked for.
    pub address: Option<IpAddr>,
    /// Its family.
    pub family: Family,
    /// Forwards: whether it is UDP, the port, and the NIC's port.
    pub forwards: Vec<(bool, u16, u16)>,
}

/// Checks a FloatingIP's name and spec.
///
/// # Errors
/// Everything that is wrong with it, in sentences.
pub fn check_floating_ip(name: &str, spec: &FloatingIPSpec) -> Result<CheckedFloatingIP, Violations> {
    let mut v = Violations::default();
    v.take("metadata.name", names::dns_label(name));
    if spec.network.is_empty() {
        v.add("spec.network", "a floating address is from a network: name one of type Vlan or Untagged");
    }
    v.take("spec.nic", names::dns_label(&spec.nic));
    let address = spec.address.as_ref().and_then(|a| v.take("spec.address", parse_address(a)));
    if let (Some(address), Some(family)) = (address, spec.family)
        && family_of(address) != family
    {
        v.add("spec.family", format!("address {address} is not of family {family:?}: leave one of the two out"));
    }
    let mut forwards: Vec<(bool, u16, u16)> = vec![];
    for (i, f) in spec.forwards.iter().enumerate() {
        let at = format!("spec.forwards[{i}]");
        let mut port = |field: &str, n: u32| {
            let fits = u16::try_from(n).ok().filter(|p| *p > 0);
            v.take(
                &format!("{at}.{field}"),
                fits.ok_or_else(|| ParseError(format!("port {n} is out of range: use 1 to 65535"))),
            )
        };
        let outer = port("port", f.port);
        let inner = port("targetPort", f.target_port.unwrap_or(f.port));
        let udp = f.protocol == crate::Protocol::Udp;
        if let (Some(outer), Some(inner)) = (outer, inner) {
            if forwards.iter().any(|(u, p, _)| (*u, *p) == (udp, outer)) {
                v.add(format!("{at}.port"), format!("port {outer} is forwarded twice: name it once"));
            }
            forwards.push((udp, outer, inner));
        }
    }
    if forwards.len() > FloatingIPSpec::MOST_FORWARDS {
        let text = format!(
            "{} ports are too many for one floating address: use at most {}, or none for the whole address",
            forwards.len(),
            FloatingIPSpec::MOST_FORWARDS
        );
        v.add("spec.forwards", text);
    }
    let family = address.map(family_of).or(spec.family).unwrap_or(Family::IPv4);
    v.into_result(CheckedFloatingIP { address, family, forwards })
}

fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::IPv4 } else { Family::IPv6 }
}

fn parse_address(text: &str) -> Result<IpAddr, ParseError> {
    text.parse().map_err(|_| {
        ParseError(format!("address {text:?} is not an IP address: use one such as 203.0.113.7 or 2001:db8::7"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PortForward, Protocol};

    #[test]
    fn what_is_wrong_is_said_with_its_value() {
        let forward = |port| PortForward { protocol: Protocol::Tcp, port, target_port: None };
        let spec = FloatingIPSpec {
            network: "street".into(),
            family: None,
            address: Some("203.0.113".into()),
            nic: "web".into(),
            forwards: vec![forward(80), forward(80), forward(70_000)],
        };
        let text = check_floating_ip("web", &spec).unwrap_err().to_string();
        for part in ["\"203.0.113\" is not an IP address", "port 80 is forwarded twice", "port 70000 is out of range"] {
            assert!(text.contains(part), "{text}");
        }
        let good = FloatingIPSpec { address: None, forwards: vec![forward(80)], ..spec };
        let checked = check_floating_ip("web", &good).unwrap();
        assert_eq!((checked.forwards, checked.family), (vec![(false, 80, 80)], Family::IPv4));
        let both = |family, address: &str| {
            let spec = FloatingIPSpec { family, address: Some(address.into()), ..good.clone() };
            check_floating_ip("web", &spec).map(|c| c.family)
        };
        assert_eq!(both(None, "2001:db8::7").unwrap(), Family::IPv6);
        assert_eq!(both(Some(Family::IPv6), "2001:db8::7").unwrap(), Family::IPv6);
        let text = both(Some(Family::IPv6), "203.0.113.7").unwrap_err().to_string();
        assert!(text.contains("address 203.0.113.7 is not of family IPv6: leave one of the two out"), "{text}");
    }
}
