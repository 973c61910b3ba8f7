//! Groups of the kind «all»: each bucket gets a copy (section 5.10.1).

use super::action::Actions;

/// What gets a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Its number, from 0 to 0xffffff00, unique in its group.
    pub id: u32,
    /// What is done with the copy. One that would go out where it came in does not.
    pub actions: Actions,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its number, from 1.
    pub id: u32,
    /// Its buckets; none drops.
    pub buckets: Vec<Bucket>,
}

/// What a group mod does (`OFPGC_…`).
#[derive(Debug, Clone, Copy)]
pub(super) enum Command {
    Add = 0,
    Delete = 2,
    InsertBucket = 3,
    RemoveBucket = 5,
}

/// Every group (`OFPG_ALL`).
pub(super) const EVERY: u32 = 0xffff_fffc;
/// The bucket of commands that are about no bucket (`OFPG_BUCKET_ALL`).
pub(super) const NONE: u32 = 0xffff_ffff;
/// After the others (`OFPG_BUCKET_LAST`).
pub(super) const LAST: u32 = 0xffff_fffe;

impl Bucket {
    fn encode(&self) -> Vec<u8> {
        let length = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes();
        let mut b = length(8 + self.actions.0.len()).to_vec();
        b.extend(length(self.actions.0.len()));
        b.extend(self.id.to_be_bytes());
        b.extend_from_slice(&self.actions.0);
        b
    }
}

/// `struct ofp_group_mod` without its header; `at` is the bucket that the command is about.
pub(super) fn body(command: Command, id: u32, at: u32, buckets: &[Bucket]) -> Vec<u8> {
    let buckets: Vec<u8> = buckets.iter().flat_map(Bucket::encode).collect();
    let mut b = (command as u16).to_be_bytes().to_vec();
    // Kind «all».
    b.extend([0, 0]);
    b.extend(id.to_be_bytes());
    b.extend(u16::try_from(buckets.len()).unwrap_or(u16::MAX).to_be_bytes());
    b.extend([0; 2]);
    b.extend(at.to_be_bytes());
    b.extend(buckets);
    b
}
