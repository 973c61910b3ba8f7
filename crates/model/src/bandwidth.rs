//! How much a NIC may carry.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ParseError, Violations, quantity};

/// How much a NIC may carry, each way. What is not said is not limited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BandwidthSpec {
    /// What reaches the guest, in bits per second as a quantity such as 100M or 1.5G: 64k to 100G. What is more waits for 50 ms
    /// at most, and is then dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<String>,
    /// What leaves the guest, likewise. What is more than that of a second is dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<String>,
}

/// A rate in whole kilobits per second: 64 kbit/s to 100 Gbit/s. Counted are the bits of Ethernet frames without preamble and
/// checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BitRate(u32);

impl BitRate {
    /// The lowest rate that is taken, in kbit/s: a frame of 1500 bytes in a fifth of a second.
    pub const MIN: u32 = 64;
    /// The highest, in kbit/s.
    pub const MAX: u32 = 100_000_000;

    /// A rate in kbit/s, if it is in range.
    pub fn new(kbits: u32) -> Option<Self> {
        (Self::MIN..=Self::MAX).contains(&kbits).then_some(Self(kbits))
    }

    /// Reads a quantity of bits per second such as `100M`, and rounds it up to whole kilobits.
    ///
    /// # Errors
    /// What is wrong with it, in a sentence.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let wrong = |what: &str| {
            ParseError(format!("bandwidth {text:?} {what}: use 64k to 100G bits per second, such as 100M"))
        };
        let bits = quantity::bytes(text).map_err(|_| wrong("is not a number of bits per second"))?;
        u32::try_from(bits.div_ceil(1000)).ok().and_then(Self::new).ok_or_else(|| wrong("is out of range"))
    }

    /// Kilobits per second.
    pub fn get(self) -> u32 {
        self.0
    }

    /// Bytes per second.
    pub fn bytes(self) -> u64 {
        u64::from(self.0) * 125
    }

    /// The rate of so many bytes per second, if it is one.
    pub fn of_bytes(bytes: u64) -> Option<Self> {
        u32::try_from(bytes / 125).ok().filter(|_| bytes.is_multiple_of(125)).and_then(Self::new)
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (divisor, unit) = match self.0 {
            n if n.is_multiple_of(1_000_000) => (1_000_000, "G"),
            n if n.is_multiple_of(1000) => (1000, "M"),
            _ => (1, "k"),
        };
        write!(f, "{}{unit}", self.0 / divisor)
    }
}

/// How much a NIC may carry, each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct Bandwidth {
    /// What reaches the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<BitRate>,
    /// What leaves the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<BitRate>,
}

impl Bandwidth {
    /// Reads what a spec says.
    pub(crate) fn check(at: &str, spec: Option<&BandwidthSpec>, v: &mut Violations) -> Self {
        let mut rate = |name: &str, text: &Option<String>| {
            text.as_deref().and_then(|t| v.take(&format!("{at}.{name}"), BitRate::parse(t)))
        };
        let Some(spec) = spec else { return Self::default() };
        Self { ingress: rate("ingress", &spec.ingress), egress: rate("egress", &spec.egress) }
    }

    /// Whether nothing is limited.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// These limits, and where there is none those of `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { ingress: self.ingress.or(other.ingress), egress: self.egress.or(other.egress) }
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ways = [("ingress", self.ingress), ("egress", self.egress)];
        let said: Vec<String> = ways.iter().filter_map(|(way, rate)| Some(format!("{way} {}", (*rate)?))).collect();
        f.write_str(if said.is_empty() { "unlimited" } else { "" })?;
        f.write_str(&said.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_quantities_in_range() {
        for (text, kbits, shown) in [
            ("100M", 100_000, "100M"),
            ("1.5G", 1_500_000, "1500M"),
            ("64k", 64, "64k"),
            ("64001", 65, "65k"),
            ("100G", 100_000_000, "100G"),
        ] {
            let rate = BitRate::parse(text).unwrap();
            assert_eq!((rate.get(), rate.to_string().as_str()), (kbits, shown));
            assert_eq!(BitRate::of_bytes(rate.bytes()), Some(rate));
        }
        let said = |text| BitRate::parse(text).unwrap_err().to_string();
        assert_eq!(said("62.9k"), "bandwidth \"62.9k\" is out of range: use 64k to 100G bits per second, such as 100M");
        assert!(said("101G").contains("out of range") && said("fast").contains("is not a number"));
        assert_eq!((BitRate::of_bytes(8001), BitRate::of_bytes(1)), (None, None));
    }

    #[test]
    fn a_nic_says_more_than_its_network() {
        let rate = |text| Some(BitRate::parse(text).unwrap());
        let network = Bandwidth { ingress: rate("1G"), egress: rate("1G") };
        let nic = Bandwidth { ingress: rate("10M"), egress: None };
        assert_eq!(nic.or(network), Bandwidth { ingress: rate("10M"), egress: rate("1G") });
        assert_eq!(nic.or(network).to_string(), "ingress 10M, egress 1G");
        assert_eq!((nic.to_string(), Bandwidth::default().to_string()), ("ingress 10M".into(), "unlimited".into()));
        assert!(Bandwidth::default().or(Bandwidth::default()).is_unlimited());
    }
}
