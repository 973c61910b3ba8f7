//! Types that cannot hold a wrong value. Parse at the door, then trust.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a value is not what its type says; the text names the value and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub String);

/// An IEEE 802.1Q VLAN id, 1 to 4094 (0 and 4095 are reserved, IEEE 802.1Q-2018 table 9-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VlanId(u16);

impl VlanId {
    /// Checks the range.
    pub fn new(id: u32) -> Result<Self, ParseError> {
        match u16::try_from(id) {
            Ok(v @ 1..=4094) => Ok(Self(v)),
            _ => Err(ParseError(format!("VLAN id {id} is out of range: use 1 to 4094"))),
        }
    }
    /// The id.
    pub fn get(self) -> u16 {
        self.0
    }
}

/// A VXLAN network identifier, 1 to 16777215 (24 bits, RFC 7348 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Vni(u32);

impl Vni {
    /// The largest VNI.
    pub const MAX: u32 = 0x00ff_ffff;
    /// Checks the range.
    pub fn new(id: u32) -> Result<Self, ParseError> {
        if (1..=Self::MAX).contains(&id) {
            Ok(Self(id))
        } else {
            Err(ParseError(format!("VNI {id} is out of range: use 1 to {}", Self::MAX)))
        }
    }
    /// The identifier.
    pub fn get(self) -> u32 {
        self.0
    }
}

/// A link's largest packet in bytes, without the Ethernet header: 576 to 65535.
///
/// 576 is what every IPv4 host must take (RFC 791 section 3.1); IPv6 needs [`Mtu::MIN_IPV6`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mtu(u32);

impl Mtu {
    /// The smallest MTU that we accept, in bytes.
    pub const MIN: u32 = 576;
    /// The smallest MTU of a link with IPv6, in bytes (RFC 8200 section 5).
    pub const MIN_IPV6: u32 = 1280;
    /// The usual Ethernet MTU, in bytes.
    pub const ETHERNET: Mtu = Mtu(1500);
    /// Checks the range.
    pub fn new(bytes: u32) -> Result<Self, ParseError> {
        if (Self::MIN..=65535).contains(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(ParseError(format!("MTU {bytes} is out of range: use {} to 65535 bytes", Self::MIN)))
        }
    }
    /// The size in bytes.
    pub fn get(self) -> u32 {
        self.0
    }
    /// This MTU less an encapsulation's overhead, never below [`Mtu::MIN`].
    pub fn minus(self, overhead: u32) -> Mtu {
        Mtu(self.0.saturating_sub(overhead).max(Self::MIN))
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A 48-bit MAC address. Written `52:54:00:12:34:56`, lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Whether the group bit is set: such an address cannot be a NIC's own (IEEE 802-2014 section 8.2.2).
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }
    /// Whether it is all zero.
    pub fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }
    /// Parses what a user wrote for a NIC: must be a unicast address and not zero.
    pub fn parse_nic(s: &str) -> Result<Self, ParseError> {
        let mac: MacAddr = s.parse()?;
        if mac.is_multicast() {
            return Err(ParseError(format!(
                "MAC {s:?} is a multicast address: use one whose first octet is even, such as 52:54:00:12:34:56"
            )));
        }
        if mac.0.starts_with(&crate::names::PROBE_MAC) {
            return Err(ParseError(format!(
                "MAC {s:?} is one that nodes probe networks from (0e:6d:…): use one such as 52:54:00:12:34:56"
            )));
        }
        if mac.is_zero() {
            return Err(ParseError("MAC 00:00:00:00:00:00 is not an address: leave it out to have one chosen".into()));
        }
        Ok(mac)
    }
    /// The link-local IPv6 address that EUI-64 forms from this MAC (RFC 4291 appendix A).
    pub fn link_local(self) -> std::net::Ipv6Addr {
        let m = self.0;
        std::net::Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]])
    }
    /// The MAC that a link-local address was formed from, if it was formed from one.
    pub fn from_link_local(address: std::net::Ipv6Addr) -> Option<Self> {
        let b = address.octets();
        let formed = b.starts_with(&[0xfe, 0x80, 0, 0, 0, 0, 0, 0]) && b[11..13] == [0xff, 0xfe];
        formed.then(|| Self([b[8] ^ 2, b[9], b[10], b[13], b[14], b[15]]))
    }
    /// The address that a guest forms from a prefix of 64 bits and this MAC (RFC 4862 section 5.5.3, RFC 4291
    /// appendix A).
    pub fn eui64(self, prefix: std::net::Ipv6Addr) -> std::net::Ipv6Addr {
        let low = u128::from(self.link_local()) & u128::from(u64::MAX);
        std::net::Ipv6Addr::from((u128::from(prefix) & !u128::from(u64::MAX)) | low)
    }
    /// Twelve hex digits without separators.
    pub fn hex(self) -> String {
        self.0.iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError(format!("MAC {s:?} is malformed: use six octets in hex, such as 52:54:00:12:34:56"));
        let mut out = [0u8; 6];
        let mut parts = s.split([':', '-']);
        for octet in &mut out {
            let part = parts.next().ok_or_else(wrong)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Self(out)) }
    }
}

impl Serialize for MacAddr {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A network device's name: 1 to 15 bytes without `/`, white space or `%` (IFNAMSIZ, linux/if.h).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IfName(String);

impl IfName {
    /// Checks length and characters.
    pub fn new(name: impl Into<String>) -> Result<Self, ParseError> {
        let name = name.into();
        let ok = !name.is_empty()
            && name.len() <= 15
            && name != "."
            && name != ".."
            && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b'%' && b != b':');
        if ok {
            Ok(Self(name))
        } else {
            Err(ParseError(format!(
                "device name {name:?} is not possible: use 1 to 15 letters, digits, '-', '_' or '.'"
            )))
        }
    }
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for IfName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_refused_with_the_value() {
        assert_eq!(VlanId::new(4095).unwrap_err().to_string(), "VLAN id 4095 is out of range: use 1 to 4094");
        assert!(VlanId::new(0).is_err() && VlanId::new(4094).is_ok());
        assert!(Vni::new(0).is_err() && Vni::new(1 << 24).is_err());
        assert!(Mtu::new(575).is_err() && Mtu::new(576).is_ok());
        assert!(MacAddr::parse_nic("01:00:5e:00:00:01").unwrap_err().to_string().contains("multicast"));
        assert!(MacAddr::parse_nic("0e:6d:00:00:00:01").unwrap_err().to_string().contains("probe networks from"));
        assert!("52:54:00:12:34".parse::<MacAddr>().is_err());
        assert!("52:54:00:12:34:56:78".parse::<MacAddr>().is_err());
        assert!(IfName::new("a-name-of-sixteen").is_err());
    }

    #[test]
    fn link_local_follows_eui64() {
        let mac: MacAddr = "52:54:00:12:34:56".parse().unwrap();
        assert_eq!(mac.link_local().to_string(), "fe80::5054:ff:fe12:3456");
    }

    proptest! {
        #[test]
        fn mac_text_round_trips(bytes: [u8; 6]) {
            let mac = MacAddr(bytes);
            prop_assert_eq!(mac.to_string().parse::<MacAddr>().unwrap(), mac);
            prop_assert_eq!(MacAddr::from_link_local(mac.link_local()), Some(mac));
        }
        #[test]
        fn mac_parser_never_panics(s in ".*") {
            let _ = s.parse::<MacAddr>();
        }
    }
}
