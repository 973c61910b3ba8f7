//! How much NICs may carry: towards the guest by a queue on the tap (tc-tbf(8)), and from the guest by a table of its own, which is
//! there as long as a NIC has such a limit, so that no other NIC pays for it.
//!
//! A policer of nftables lets pass what its rate makes of a second, and a little more, at once (net/netfilter/nft_limit.c).

use std::collections::BTreeMap;

use multihome_model::{BitRate, IfName};
use multihome_netlink::nft::{Family, load_in};
use multihome_netlink::{Idempotent, Shape};

use super::Kernel;
use super::security::device_name;
use crate::error::{Error, Result};

const TABLE: &str = "multihome-bandwidth";
/// The rate of each NIC in kbit/s, so that it can be read.
const RATES: &str = "rates";
/// What may come at once beside that of a second, in bytes: two of the largest frames that a guest hands over to be divided.
pub(crate) const BURST: u32 = 128 << 10;
/// Towards the guest what flows in this part of a second may come at once, 10 ms, if that is more.
const PART: u64 = 100;

/// Before port security, which need not look at what is too much.
const BASE: &str = r#"
table bridge multihome-bandwidth {
    map rates { type ifname : mark; }
    map from_nic { type ifname : limit; }
    chain prerouting {
        type filter hook prerouting priority -310; policy accept;
        limit name iifname map @from_nic drop
    }
}
"#;

/// The limit's name. Another rate has another, so that one can take the other's place in one transaction.
fn limit(nic: &IfName, rate: BitRate) -> String {
    format!("{nic}-{}", rate.get())
}

fn add(nic: &IfName, rate: BitRate) -> String {
    let (name, bytes) = (limit(nic, rate), rate.bytes());
    format!(
        "add limit bridge {TABLE} {name} {{ rate over {bytes} bytes/second burst {BURST} bytes; }}
add element bridge {TABLE} from_nic {{ \"{nic}\" : \"{name}\" }}
add element bridge {TABLE} {RATES} {{ \"{nic}\" : {} }}
",
        rate.get()
    )
}

fn remove(nic: &IfName, rate: BitRate) -> String {
    format!(
        "delete element bridge {TABLE} from_nic {{ \"{nic}\" }}
delete element bridge {TABLE} {RATES} {{ \"{nic}\" }}
delete limit bridge {TABLE} {}
",
        limit(nic, rate)
    )
}

impl Kernel {
    /// The NICs whose guests may send so much and no more.
    fn read_rates(&mut self) -> Result<BTreeMap<IfName, BitRate>> {
        let listed = self.nft.elements(Family::Bridge, TABLE, RATES).unless_missing()?.unwrap_or_default();
        let rate = |value: &[u8]| BitRate::new(u32::from_ne_bytes(value.try_into().ok()?));
        Ok(listed.iter().filter_map(|e| Some((device_name(&e.key)?, rate(&e.value)?))).collect())
    }

    /// The same, read anew whoever changed them.
    pub(super) fn look_at_rates(&mut self) -> Result<BTreeMap<IfName, BitRate>> {
        let rates = self.read_rates()?;
        self.rates = Some(rates.clone());
        Ok(rates)
    }

    /// Limits what a NIC's guest may send, or lets it send anything.
    pub(super) fn limit_egress(&mut self, nic: &IfName, rate: Option<BitRate>) -> Result<()> {
        let mut text = String::new();
        let mut rates = match self.rates.take() {
            Some(rates) => rates,
            None => self.read_rates()?,
        };
        let before = rates.get(nic).copied();
        if before == rate {
            self.rates = Some(rates);
            return Ok(());
        }
        // What fails leaves them to be read again.
        if rates.is_empty() && !self.nft.has_table(Family::Bridge, TABLE)? {
            text += BASE;
        }
        if let Some(before) = rates.remove(nic) {
            text += &remove(nic, before);
        }
        if let Some(rate) = rate {
            text += &add(nic, rate);
            rates.insert(nic.clone(), rate);
        }
        match rates.is_empty() {
            true => self.delete_bandwidth()?,
            false => load_in(&self.config.host, &text)?,
        }
        self.rates = Some(rates);
        Ok(())
    }

    /// Lets every guest send anything.
    pub(super) fn delete_bandwidth(&mut self) -> Result<()> {
        self.rates = None;
        match self.nft.delete_table(Family::Bridge, TABLE).unless_missing() {
            // A kernel that has no such family has no such table.
            Err(e) if e.is_unsupported() => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }

    /// Limits what reaches a NIC's guest, or lets everything reach it.
    pub(crate) fn shape_tap(&mut self, nic: &IfName, rate: Option<BitRate>) -> Result<()> {
        // One that is gone needs none.
        let Some(index) = self.rtnl.index(nic.as_str()).unless_missing()? else { return Ok(()) };
        // At most 125,000,000.
        let burst = |rate: BitRate| (rate.bytes() / PART).max(BURST.into()) as u32;
        match self.rtnl.shape(index, rate.map(|rate| Shape { rate: rate.bytes(), burst: burst(rate) })) {
            Err(e) if e.is_unsupported() => {
                let what = format!("a limit of what reaches the guest by {nic}");
                Err(Error::Unsupported { what, reason: "this kernel has no sch_tbf".into() })
            }
            other => Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_takes_the_place_of_another() {
        let nic = IfName::new("mht0123456789a").unwrap();
        let [slow, fast] = ["1M", "100G"].map(|text| BitRate::parse(text).unwrap());
        assert!(
            add(&nic, fast)
                .contains("mht0123456789a-100000000 { rate over 12500000000 bytes/second burst 131072 bytes; }")
        );
        assert!(remove(&nic, slow).ends_with("delete limit bridge multihome-bandwidth mht0123456789a-1000\n"));
    }
}
