//! Which addresses of a subnet NICs can have, and which one the next NIC gets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use multihome_model::checked::Subnet;

/// No address is left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("all {capacity} addresses of {cidr} are taken")]
pub struct Exhausted {
    /// How many addresses NICs can have there.
    pub capacity: u128,
    /// The subnet.
    pub cidr: String,
}

/// The addresses that NICs can have, as ranges in ascending order that do not overlap.
pub fn usable(subnet: &Subnet) -> Vec<(u128, u128)> {
    let whole = (number(subnet.cidr.network()), number(subnet.cidr.broadcast()));
    let mut ranges: Vec<(u128, u128)> = if subnet.pools.is_empty() {
        vec![whole]
    } else {
        subnet.pools.iter().map(|r| (number(r.first), number(r.last))).collect()
    };
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    let ends = [subnet.cidr.network(), subnet.cidr.broadcast()].into_iter().filter(|a| subnet.is_reserved(*a));
    let single = ends.chain(subnet.gateway).map(|a| (number(a), number(a)));
    let excluded = subnet.exclude.iter().map(|r| (number(r.first), number(r.last)));
    single.chain(excluded).fold(merged, |ranges, hole| ranges.into_iter().flat_map(|r| cut(r, hole)).collect())
}

/// How many addresses NICs can have.
pub fn capacity(subnet: &Subnet) -> u128 {
    usable(subnet).iter().fold(0u128, |sum, (a, b)| sum.saturating_add((b - a).saturating_add(1)))
}

/// How many of `taken` count against [`capacity`].
pub fn used<'a>(subnet: &Subnet, taken: impl IntoIterator<Item = &'a IpAddr>) -> u128 {
    let ranges = usable(subnet);
    taken.into_iter().filter(|a| ranges.iter().any(|(f, l)| (*f..=*l).contains(&number(**a)))).count() as u128
}

/// The lowest address that nobody has.
pub fn choose(subnet: &Subnet, taken: &BTreeSet<IpAddr>) -> Result<IpAddr, Exhausted> {
    for (first, last) in usable(subnet) {
        let mut candidate = first;
        for a in taken.range(address(first, subnet)..=address(last, subnet)) {
            if number(*a) != candidate {
                break;
            }
            candidate += 1;
        }
        if candidate <= last {
            return Ok(address(candidate, subnet));
        }
    }
    Err(Exhausted { capacity: capacity(subnet), cidr: subnet.cidr.to_string() })
}

fn number(a: IpAddr) -> u128 {
    match a {
        IpAddr::V4(a) => u32::from(a).into(),
        IpAddr::V6(a) => a.into(),
    }
}

fn address(n: u128, subnet: &Subnet) -> IpAddr {
    if subnet.cidr.addr().is_ipv4() {
        IpAddr::V4(Ipv4Addr::from(u32::try_from(n).unwrap_or(u32::MAX)))
    } else {
        IpAddr::V6(Ipv6Addr::from(n))
    }
}

fn cut((first, last): (u128, u128), (from, to): (u128, u128)) -> Vec<(u128, u128)> {
    if to < first || from > last {
        return vec![(first, last)];
    }
    let mut out = Vec::with_capacity(2);
    if from > first {
        out.push((first, from - 1));
    }
    if to < last {
        out.push((to + 1, last));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use multihome_model::checked::check_network;
    use multihome_model::{IpFamilySpec, NetworkSpec};
    use proptest::prelude::*;

    fn subnet(cidr: &str, gateway: &str, pools: &[String], exclude: &[String]) -> Subnet {
        let spec = NetworkSpec {
            ipv4: Some(IpFamilySpec {
                cidr: Some(cidr.into()),
                gateway: Some(gateway.into()),
                pools: pools.to_vec(),
                exclude: exclude.to_vec(),
                ..Default::default()
            }),
            ..Default::default()
        };
        check_network("n", &spec).unwrap().ipv4.unwrap()
    }

    #[test]
    fn gateway_and_ends_are_never_chosen() {
        let s = subnet("10.0.0.0/29", "10.0.0.1", &[], &[]);
        assert_eq!(capacity(&s), 5);
        let mut taken = BTreeSet::new();
        while let Ok(a) = choose(&s, &taken) {
            taken.insert(a);
        }
        assert_eq!(
            taken.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            "10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6"
        );
        assert_eq!(choose(&s, &taken).unwrap_err().to_string(), "all 5 addresses of 10.0.0.0/29 are taken");
    }

    proptest! {
        #[test]
        fn chosen_addresses_are_allowed_and_all_are_found(
            pools in proptest::collection::vec((0u8..64, 0u8..64), 0..4),
            exclude in proptest::collection::vec((0u8..64, 0u8..64), 0..4),
        ) {
            let text = |v: Vec<(u8, u8)>| v.into_iter().map(|(a, b)| format!("10.0.0.{}-10.0.0.{}", a.min(b), a.max(b))).collect::<Vec<_>>();
            let s = subnet("10.0.0.0/26", "10.0.0.7", &text(pools), &text(exclude));
            let expected: BTreeSet<IpAddr> =
                (0u8..64).map(|i| IpAddr::from([10, 0, 0, i])).filter(|a| s.refuse(*a).is_none()).collect();
            prop_assert_eq!(capacity(&s), expected.len() as u128);
            let mut taken = BTreeSet::new();
            while let Ok(a) = choose(&s, &taken) {
                prop_assert!(taken.insert(a));
            }
            prop_assert_eq!(used(&s, &taken), taken.len() as u128);
            prop_assert_eq!(taken, expected);
        }
    }
}
