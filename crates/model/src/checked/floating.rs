//! Floating addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::{Algorithm, Family, FloatingIPSpec, HealthCheck, ParseError, PortForward, Violations, names};

/// A floating address with every value parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedFloatingIP {
    /// The address that is asked for.
    pub address: Option<IpAddr>,
    /// Its family.
    pub family: Family,
    /// The NIC that all of it leads to, and forwards that name none.
    pub nic: Option<String>,
    /// The ports that lead somewhere; all of the address does, to `nic`, if there are none.
    pub forwards: Vec<CheckedForward>,
    /// Which of several NICs a new conversation gets.
    pub algorithm: Algorithm,
    /// How it is found out whether a NIC answers.
    pub health_check: Option<CheckedHealthCheck>,
}

/// A port that leads to a port of NICs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedForward {
    /// Whether it is UDP, and not TCP.
    pub udp: bool,
    /// The port of the floating address, 1 to 65535.
    pub port: u16,
    /// The port of the NIC, 1 to 65535.
    pub target: u16,
    /// The NICs.
    pub to: LeadsTo,
}

/// Which NICs a forward leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeadsTo {
    /// The NIC of the floating address.
    Default,
    /// These, by name.
    Named(Vec<String>),
    /// Those with all these labels.
    Selected(BTreeMap<String, String>),
}

/// How it is found out whether a NIC answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckedHealthCheck {
    /// The TCP port that is asked; without one each target port that leads to the NIC.
    pub port: Option<u16>,
    /// From one question to the next.
    pub interval: Duration,
    /// Until a question counts as not answered.
    pub timeout: Duration,
    /// How many questions in a row must fail until the NIC is not ready, at least 1.
    pub failures: u32,
    /// How many in a row must be answered until it is ready again, at least 1.
    pub successes: u32,
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
    if let Some(nic) = &spec.nic {
        v.take("spec.nic", names::dns_label(nic));
    } else if spec.forwards.is_empty() {
        v.add("spec.nic", "a floating address leads to a NIC: name it, or the ports to forward and the NICs of each");
    }
    let address = spec.address.as_ref().and_then(|a| v.take("spec.address", parse_address(a)));
    if let (Some(address), Some(family)) = (address, spec.family)
        && family_of(address) != family
    {
        v.add("spec.family", format!("address {address} is not of family {family:?}: leave one of the two out"));
    }
    let mut forwards: Vec<CheckedForward> = vec![];
    for (i, f) in spec.forwards.iter().enumerate() {
        let at = format!("spec.forwards[{i}]");
        let outer = v.take(&format!("{at}.port"), parse_port(f.port));
        let inner = v.take(&format!("{at}.targetPort"), parse_port(f.target_port.unwrap_or(f.port)));
        let udp = f.protocol == crate::Protocol::Udp;
        let to = leads_to(&at, f, spec.nic.is_some(), &mut v);
        if let (Some(port), Some(target)) = (outer, inner) {
            if forwards.iter().any(|w| (w.udp, w.port) == (udp, port)) {
                v.add(format!("{at}.port"), format!("port {port} is forwarded twice: name it once"));
            }
            forwards.push(CheckedForward { udp, port, target, to });
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
    let named: BTreeSet<&String> = spec.forwards.iter().flat_map(|f| &f.nics).chain(&spec.nic).collect();
    if named.len() > FloatingIPSpec::MOST_BACKENDS {
        let most = FloatingIPSpec::MOST_BACKENDS;
        let text = format!("{} NICs are too many for one floating address: use at most {most}", named.len());
        v.add("spec.forwards", text);
    }
    let health_check = spec.health_check.as_ref().and_then(|h| health_check(h, &forwards, &mut v));
    let family = address.map(family_of).or(spec.family).unwrap_or(Family::IPv4);
    let (nic, algorithm) = (spec.nic.clone(), spec.algorithm.unwrap_or_default());
    v.into_result(CheckedFloatingIP { address, family, nic, forwards, algorithm, health_check })
}

fn leads_to(at: &str, f: &PortForward, has_default: bool, v: &mut Violations) -> LeadsTo {
    let mut seen = BTreeSet::new();
    for (i, nic) in f.nics.iter().enumerate() {
        let here = format!("{at}.nics[{i}]");
        if !seen.insert(nic) {
            v.add(here, format!("NIC {nic:?} is named twice: name it once"));
        } else {
            v.take(&here, names::dns_label(nic));
        }
    }
    for (key, value) in &f.nic_selector {
        if !is_label(key, value) {
            let text = format!("{key}={value} is not a label: use letters, digits, '-', '_' and '.', such as app: web");
            v.add(format!("{at}.nicSelector"), text);
        }
    }
    match (f.nics.is_empty(), f.nic_selector.is_empty()) {
        (true, true) => {
            if !has_default {
                let text = "this port leads to no NIC: give it nics or a nicSelector, or the address a nic";
                v.add(format!("{at}.nics"), text);
            }
            LeadsTo::Default
        }
        (false, true) => LeadsTo::Named(f.nics.clone()),
        (true, false) => LeadsTo::Selected(f.nic_selector.clone()),
        (false, false) => {
            v.add(
                format!("{at}.nicSelector"),
                "nics and nicSelector both say where this port leads: use one of the two",
            );
            LeadsTo::Default
        }
    }
}

/// Whether these are a key and a value of a label, as Kubernetes has them; the key may have a prefix before a slash.
fn is_label(key: &str, value: &str) -> bool {
    let part = |text: &str| {
        text.len() <= 63
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    let (prefix, name) = key.split_once('/').unwrap_or(("x", key));
    !prefix.is_empty() && prefix.len() <= 253 && part(name) && (value.is_empty() || part(value))
}

fn health_check(h: &HealthCheck, forwards: &[CheckedForward], v: &mut Violations) -> Option<CheckedHealthCheck> {
    let port = h.port.map(|p| v.take("spec.healthCheck.port", parse_port(p)));
    if h.port.is_none() {
        if forwards.is_empty() {
            v.add("spec.healthCheck.port", "a whole address has no port that could be asked: name the TCP port to ask");
        }
        if let Some(f) = forwards.iter().find(|f| f.udp) {
            let text = format!("UDP port {} cannot be asked by TCP: name the TCP port to ask instead", f.port);
            v.add("spec.healthCheck.port", text);
        }
    }
    let mut number = |field: &str, given: Option<u32>, default: u32, most: u32, what: &str| {
        let n = given.unwrap_or(default);
        if (1..=most).contains(&n) {
            return Some(n);
        }
        v.add(format!("spec.healthCheck.{field}"), format!("{n} is out of range: use 1 to {most} {what}"));
        None
    };
    let interval = number("interval", h.interval, 5, 300, "seconds");
    let timeout = number("timeout", h.timeout, 2, 60, "seconds");
    let failures = number("failures", h.failures, 3, 100, "questions");
    let successes = number("successes", h.successes, 1, 100, "questions");
    Some(CheckedHealthCheck {
        port: match port {
            Some(parsed) => Some(parsed?),
            None => None,
        },
        interval: Duration::from_secs(interval?.into()),
        timeout: Duration::from_secs(timeout?.into()),
        failures: failures?,
        successes: successes?,
    })
}

fn parse_port(n: u32) -> Result<u16, ParseError> {
    let fits = u16::try_from(n).ok().filter(|p| *p > 0);
    fits.ok_or_else(|| ParseError(format!("port {n} is out of range: use 1 to 65535")))
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
    use crate::Protocol;

    fn forward(port: u32) -> PortForward {
        PortForward { protocol: Protocol::Tcp, port, ..Default::default() }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_value() {
        let spec = FloatingIPSpec {
            network: "street".into(),
            address: Some("203.0.113".into()),
            nic: Some("web".into()),
            forwards: vec![forward(80), forward(80), forward(70_000)],
            ..Default::default()
        };
        let text = check_floating_ip("web", &spec).unwrap_err().to_string();
        for part in ["\"203.0.113\" is not an IP address", "port 80 is forwarded twice", "port 70000 is out of range"] {
            assert!(text.contains(part), "{text}");
        }
        let good = FloatingIPSpec { address: None, forwards: vec![forward(80)], ..spec };
        let checked = check_floating_ip("web", &good).unwrap();
        let led = CheckedForward { udp: false, port: 80, target: 80, to: LeadsTo::Default };
        assert_eq!((checked.forwards, checked.family), (vec![led], Family::IPv4));
        let both = |family, address: &str| {
            let spec = FloatingIPSpec { family, address: Some(address.into()), ..good.clone() };
            check_floating_ip("web", &spec).map(|c| c.family)
        };
        assert_eq!(both(None, "2001:db8::7").unwrap(), Family::IPv6);
        assert_eq!(both(Some(Family::IPv6), "2001:db8::7").unwrap(), Family::IPv6);
        let text = both(Some(Family::IPv6), "203.0.113.7").unwrap_err().to_string();
        assert!(text.contains("address 203.0.113.7 is not of family IPv6: leave one of the two out"), "{text}");
    }

    #[test]
    fn a_port_leads_to_nics_by_name_or_by_label() {
        let names = |n: usize| (0..n).map(|i| format!("web-{i}")).collect::<Vec<_>>();
        let label = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let checked = |nic: Option<&str>, f: &[PortForward]| {
            let spec = FloatingIPSpec {
                network: "street".into(),
                nic: nic.map(Into::into),
                forwards: f.to_vec(),
                ..Default::default()
            };
            check_floating_ip("web", &spec).map_err(|v| v.to_string())
        };
        let named = |n| PortForward { nics: names(n), ..forward(80) };
        let selected = |key: &str, value: &str| PortForward { nic_selector: label(key, value), ..forward(443) };
        let good = checked(None, &[named(32), selected("example.com/app", "web")]).unwrap();
        assert_eq!(good.forwards[0].to, LeadsTo::Named(names(32)));
        assert_eq!(good.forwards[1].to, LeadsTo::Selected(label("example.com/app", "web")));
        let twice = PortForward { nics: vec!["a".into(), "a".into()], ..forward(80) };
        let both = PortForward { nics: names(1), ..selected("app", "web") };
        for (nic, forwards, said) in [
            (None, vec![], "spec.nic: a floating address leads to a NIC"),
            (None, vec![forward(80)], "spec.forwards[0].nics: this port leads to no NIC"),
            (None, vec![named(33)], "33 NICs are too many for one floating address: use at most 32"),
            (Some("one-more"), vec![named(32)], "33 NICs are too many"),
            (None, vec![twice], "spec.forwards[0].nics[1]: NIC \"a\" is named twice"),
            (None, vec![both], "nics and nicSelector both say where this port leads"),
            (None, vec![selected("app", "w b")], "app=w b is not a label"),
            (None, vec![selected("", "web")], "=web is not a label"),
        ] {
            let text = checked(nic, &forwards).unwrap_err();
            assert!(text.contains(said), "{said}: {text}");
        }
    }

    #[test]
    fn a_health_check_asks_by_tcp_within_bounds() {
        let checked = |forwards: &[PortForward], h: HealthCheck| {
            let spec = FloatingIPSpec {
                network: "street".into(),
                nic: Some("web".into()),
                forwards: forwards.to_vec(),
                health_check: Some(h),
                ..Default::default()
            };
            check_floating_ip("web", &spec).map(|c| c.health_check.unwrap()).map_err(|v| v.to_string())
        };
        let usual = HealthCheck::default();
        let got = checked(&[forward(80)], usual).unwrap();
        let seconds = Duration::from_secs;
        assert_eq!((got.port, got.interval, got.timeout), (None, seconds(5), seconds(2)));
        assert_eq!((got.failures, got.successes), (3, 1));
        let udp = PortForward { protocol: Protocol::Udp, ..forward(53) };
        assert_eq!(
            checked(std::slice::from_ref(&udp), HealthCheck { port: Some(8053), ..usual }).unwrap().port,
            Some(8053)
        );
        for (forwards, h, said) in [
            (vec![udp], usual, "spec.healthCheck.port: UDP port 53 cannot be asked by TCP"),
            (vec![], usual, "a whole address has no port that could be asked"),
            (vec![forward(80)], HealthCheck { port: Some(0), ..usual }, "port 0 is out of range"),
            (
                vec![forward(80)],
                HealthCheck { interval: Some(301), ..usual },
                "301 is out of range: use 1 to 300 seconds",
            ),
            (vec![forward(80)], HealthCheck { timeout: Some(0), ..usual }, "0 is out of range: use 1 to 60 seconds"),
            (
                vec![forward(80)],
                HealthCheck { failures: Some(0), ..usual },
                "spec.healthCheck.failures: 0 is out of range",
            ),
            (vec![forward(80)], HealthCheck { successes: Some(101), ..usual }, "spec.healthCheck.successes: 101"),
        ] {
            let text = checked(&forwards, h).unwrap_err();
            assert!(text.contains(said), "{said}: {text}");
        }
    }
}
