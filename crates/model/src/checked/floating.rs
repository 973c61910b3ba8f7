//! Floating addresses.

use std::net::Ipv4Addr;

use crate::{FloatingIPSpec, ParseError, Violations, names};

/// A floating address with every value parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedFloatingIP {
    /// The address that is asked for.
    pub address: Option<Ipv4Addr>,
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
    let wrong =
        |text: &str| ParseError(format!("address {text:?} is not an IPv4 address: use one such as 203.0.113.7"));
    let address = spec.address.as_ref().and_then(|a| v.take("spec.address", a.parse().map_err(|_| wrong(a))));
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
    v.into_result(CheckedFloatingIP { address, forwards })
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
            address: Some("2001:db8::1".into()),
            nic: "web".into(),
            forwards: vec![forward(80), forward(80), forward(70_000)],
        };
        let text = check_floating_ip("web", &spec).unwrap_err().to_string();
        for part in
            ["\"2001:db8::1\" is not an IPv4 address", "port 80 is forwarded twice", "port 70000 is out of range"]
        {
            assert!(text.contains(part), "{text}");
        }
        let good = FloatingIPSpec { address: None, forwards: vec![forward(80)], ..spec };
        assert_eq!(check_floating_ip("web", &good).unwrap().forwards, [(false, 80, 80)]);
    }
}
