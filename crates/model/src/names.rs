//! Names of devices, namespaces and claims, derived from what they belong to.
//!
//! A device's name is a prefix for its kind and a hash of its resource's uid, so that it never changes and two
//! resources of one name never meet; the interface alias carries the readable name.

use std::net::IpAddr;

use sha2::{Digest, Sha256};

use crate::{IfName, MacAddr, ParseError};

/// Prefix of a network's bridge.
pub const BRIDGE: &str = "mhb";
/// Prefix of a NIC's tap.
pub const TAP: &str = "mht";
/// Prefix of an overlay's VXLAN device.
pub const VXLAN: &str = "mhx";
/// Prefix of a VLAN uplink.
pub const VLAN: &str = "mhv";
/// Prefix of a fabric's bond.
pub const BOND: &str = "mhu";
/// Prefix of a fabric's bridge, which carries trunks.
pub const FABRIC: &str = "mhf";
/// Prefix of Open vSwitch's bridge for a device of the node's own that no trunk rides on.
pub const DEVICE_BRIDGE: &str = "mhd";
/// Prefix of the end, on the bridge of a fabric or a device, of what leads from a network's bridge in Open vSwitch.
pub const PATCH: &str = "mhw";
/// Prefix of a gateway leg's end on the bridge.
pub const LEG: &str = "mhl";
/// Prefix of a gateway leg's end in the routing domain.
pub const GATEWAY: &str = "mhg";
/// Prefix of a routing domain's way out, the host's end.
pub const EGRESS: &str = "mhe";
/// Prefix of a routing domain's tunnel to the same domain on other nodes; inside the domain.
pub const ROUTER: &str = "mhr";
/// Prefix of a routing domain's link to another domain; inside the domain.
pub const PEER: &str = "mhp";
/// Prefix of a floating address's leg on the bridge of the network that it is from.
pub const FLOATING: &str = "mho";
/// Prefix of a floating address's leg in the routing domain of the NIC that it leads to.
pub const FLOATING_PEER: &str = "mhi";
/// Prefix of a routing domain's network namespace.
pub const NETNS: &str = "mh-";

/// Eleven hex digits that stand for `key`.
pub fn short_hash(key: &str) -> String {
    Sha256::digest(key.as_bytes()).iter().take(6).map(|b| format!("{b:02x}")).collect::<String>()[..11].to_owned()
}

/// A device name of one kind for one resource.
pub fn device(prefix: &str, uid: &str) -> IfName {
    IfName::new(format!("{prefix}{}", short_hash(uid))).expect("a three-letter prefix and eleven hex digits fit")
}

/// A MAC derived from a uid: locally administered and unicast. `attempt` gives another one after a collision.
pub fn derived_mac(uid: &str, attempt: u32) -> MacAddr {
    let digest = Sha256::digest(format!("{uid}/{attempt}").as_bytes());
    MacAddr([0x02, digest[0], digest[1], digest[2], digest[3], digest[4]])
}

/// The first two octets of every MAC that nodes probe from: locally administered and unicast. The data plane knows by them
/// what no guest need hear.
pub const PROBE_MAC: [u8; 2] = [0x0e, 0x6d];

/// The MAC that a node probes a network from.
pub fn probe_mac(node: &str, network_uid: &str) -> MacAddr {
    let digest = Sha256::digest(format!("probe {node} {network_uid}").as_bytes());
    MacAddr([PROBE_MAC[0], PROBE_MAC[1], digest[0], digest[1], digest[2], digest[3]])
}

/// Eight octets that stand for `key` on the wire.
pub fn wire_hash(key: &str) -> u64 {
    let digest = Sha256::digest(key.as_bytes());
    u64::from_be_bytes([digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7]])
}

/// The name of the AddressClaim for an IP address in a network.
pub fn ip_claim(network: &str, address: IpAddr) -> String {
    let text = match address {
        IpAddr::V4(a) => a.to_string().replace('.', "-"),
        IpAddr::V6(a) => a.segments().map(|s| format!("{s:x}")).join("-"),
    };
    format!("{network}.{text}")
}

/// The name of the AddressClaim for a MAC in a network.
pub fn mac_claim(network: &str, mac: MacAddr) -> String {
    format!("{network}.mac-{}", mac.hex())
}

/// Checks a DNS label (RFC 1123 section 2.1): 1 to 63 of a-z, 0-9 and '-', starting and ending with a letter or digit.
pub fn dns_label(name: &str) -> Result<(), ParseError> {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    let ok = bytes.len() <= 63
        && edge(bytes.first().copied())
        && edge(bytes.last().copied())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
    if ok {
        Ok(())
    } else {
        Err(ParseError(format!(
            "name {name:?} is not a DNS label: use 1 to 63 of a-z, 0-9 and '-', starting and ending with a letter or digit"
        )))
    }
}

/// Splits `NAME` or `NAMESPACE/NAME`; without a namespace, `default_namespace` is meant.
pub fn split_ref<'a>(reference: &'a str, default_namespace: &'a str) -> (&'a str, &'a str) {
    reference.split_once('/').unwrap_or((default_namespace, reference))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_fit_and_are_stable() {
        let a = device(TAP, "7f3c");
        assert_eq!(a.as_str().len(), 14);
        assert_eq!(a, device(TAP, "7f3c"));
        assert_ne!(a, device(TAP, "7f3d"));
    }

    #[test]
    fn derived_macs_are_local_and_unicast() {
        for attempt in 0..50 {
            let mac = derived_mac("uid", attempt);
            assert_eq!(mac.0[0] & 3, 2);
        }
        assert_ne!(derived_mac("uid", 0), derived_mac("uid", 1));
    }

    #[test]
    fn claims_are_names_that_an_api_takes() {
        assert_eq!(ip_claim("mgmt", "10.0.0.5".parse().unwrap()), "mgmt.10-0-0-5");
        assert_eq!(ip_claim("mgmt", "fd00::5".parse().unwrap()), "mgmt.fd00-0-0-0-0-0-0-5");
        assert_eq!(mac_claim("mgmt", MacAddr([2, 0, 0, 0, 0, 1])), "mgmt.mac-020000000001");
    }

    #[test]
    fn labels() {
        assert!(dns_label("web-1").is_ok());
        for bad in ["", "Web", "-a", "a-", "a.b", &"a".repeat(64)] {
            assert!(dns_label(bad).is_err(), "{bad}");
        }
    }
}
