//! Sets of VLAN ids: what a port of a trunk carries.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::VlanId;

/// A set of VLAN ids, kept as ranges in ascending order that neither overlap nor touch, so that equal sets are equal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(VlanId, VlanId)>", into = "Vec<(VlanId, VlanId)>")]
pub struct VlanSet(Vec<(VlanId, VlanId)>);

impl VlanSet {
    /// Every VLAN id that there is, 1 to 4094.
    pub fn all() -> Self {
        Self(vec![(VlanId::MIN, VlanId::MAX)])
    }

    /// The ranges, both ends included, in ascending order.
    pub fn ranges(&self) -> impl DoubleEndedIterator<Item = (VlanId, VlanId)> + '_ {
        self.0.iter().copied()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an id is in it.
    pub fn contains(&self, id: VlanId) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&id))
    }

    /// Puts one id into it.
    pub fn insert(&mut self, id: VlanId) {
        self.extend([(id, id)]);
    }

    /// What is in this set and not in the other.
    pub fn minus(&self, other: &Self) -> Self {
        let mut left: Vec<(u16, u16)> = self.0.iter().map(|(a, b)| (a.get(), b.get())).collect();
        for (first, last) in other.ranges().map(|(a, b)| (a.get(), b.get())) {
            left = left
                .into_iter()
                .flat_map(|(a, b)| [(a, b.min(first.saturating_sub(1))), (a.max(last + 1), b)])
                .filter(|(a, b)| a <= b)
                .collect();
        }
        let id = |id: u16| VlanId::new(id.into()).ok();
        left.into_iter().filter_map(|(a, b)| Some((id(a)?, id(b)?))).collect()
    }
}

impl Extend<(VlanId, VlanId)> for VlanSet {
    /// Ranges whose ends are swapped are empty.
    fn extend<T: IntoIterator<Item = (VlanId, VlanId)>>(&mut self, ranges: T) {
        self.0.extend(ranges.into_iter().filter(|(first, last)| first <= last));
        self.0.sort_unstable();
        self.0.dedup_by(|next, before| {
            let joins = next.0.get() <= before.1.get() + 1;
            if joins {
                before.1 = before.1.max(next.1);
            }
            joins
        });
    }
}

impl FromIterator<(VlanId, VlanId)> for VlanSet {
    fn from_iter<T: IntoIterator<Item = (VlanId, VlanId)>>(ranges: T) -> Self {
        let mut set = Self::default();
        set.extend(ranges);
        set
    }
}

impl From<Vec<(VlanId, VlanId)>> for VlanSet {
    fn from(ranges: Vec<(VlanId, VlanId)>) -> Self {
        ranges.into_iter().collect()
    }
}

impl From<VlanSet> for Vec<(VlanId, VlanId)> {
    fn from(set: VlanSet) -> Self {
        set.0
    }
}

impl fmt::Display for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.ranges().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match first == last {
                true => write!(f, "{comma}{}", first.get())?,
                false => write!(f, "{comma}{}-{}", first.get(), last.get())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn set(ranges: &[(u32, u32)]) -> VlanSet {
        ranges.iter().map(|(a, b)| (VlanId::new(*a).unwrap(), VlanId::new(*b).unwrap())).collect()
    }

    fn ids(set: &VlanSet) -> BTreeSet<u16> {
        set.ranges().flat_map(|(a, b)| a.get()..=b.get()).collect()
    }

    #[test]
    fn ranges_that_touch_are_one() {
        assert_eq!(set(&[(10, 19), (30, 30), (5, 12), (20, 20)]).to_string(), "5-20,30");
        assert_eq!(VlanSet::all().minus(&set(&[(1, 99), (4094, 4094)])).to_string(), "100-4093");
        assert!(VlanSet::all().minus(&VlanSet::all()).is_empty());
    }

    proptest! {
        #[test]
        fn it_is_a_set(a in proptest::collection::vec((1u32..60, 0u32..9), 0..9), b in proptest::collection::vec((1u32..60, 0u32..9), 0..9)) {
            let ranges = |v: &[(u32, u32)]| set(&v.iter().map(|(first, n)| (*first, first + n)).collect::<Vec<_>>());
            let (a, b) = (ranges(&a), ranges(&b));
            let mut both = a.clone();
            both.extend(b.ranges());
            prop_assert_eq!(ids(&both), &ids(&a) | &ids(&b));
            prop_assert_eq!(ids(&a.minus(&b)), &ids(&a) - &ids(&b));
            prop_assert_eq!(both.minus(&b).minus(&a), VlanSet::default());
            prop_assert!((1..70).all(|i| a.contains(VlanId::new(i).unwrap()) == ids(&a).contains(&(i as u16))));
        }
    }
}
