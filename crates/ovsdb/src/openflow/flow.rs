//! A flow: what it is about, and what is done.

use super::action::Actions;
use super::matching::Match;

const GOTO_TABLE: u16 = 1;
const WRITE_METADATA: u16 = 2;
const APPLY_ACTIONS: u16 = 4;
/// Nothing in particular: any port, any group, no buffer.
const ANY: u32 = u32::MAX;

/// A flow. Its cookie follows from all of it, so that who reads it back knows whether it is still the one that was meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// Its table.
    pub table: u8,
    /// The flow of the highest priority is the one that counts.
    pub priority: u16,
    /// What it is about.
    pub matching: Match,
    /// What is done at once.
    pub actions: Actions,
    /// Bits of the metadata that are set then.
    pub metadata: u64,
    /// The table that is next; none ends it.
    pub goto: Option<u8>,
    /// How long it stays, in seconds; 0 for ever.
    pub lasts: u16,
}

/// What a flow mod does (`OFPFC_…`).
#[derive(Debug, Clone, Copy)]
pub(super) enum Command {
    Add = 0,
    Delete = 3,
    DeleteStrict = 4,
}

impl Flow {
    /// A flow that drops.
    pub fn new(table: u8, priority: u16, matching: Match) -> Self {
        Self { table, priority, matching, ..Self::default() }
    }

    /// The same with actions.
    pub fn does(self, actions: Actions) -> Self {
        Self { actions, ..self }
    }

    /// The same with bits of the metadata set.
    pub fn marks(self, metadata: u64) -> Self {
        Self { metadata, ..self }
    }

    /// The same with a table that is next.
    pub fn then(self, table: u8) -> Self {
        Self { goto: Some(table), ..self }
    }

    /// The same for so many seconds.
    pub fn lasts(self, seconds: u16) -> Self {
        Self { lasts: seconds, ..self }
    }

    fn instructions(&self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut add = |kind: u16, body: &[u8]| {
            all.extend(kind.to_be_bytes());
            all.extend(u16::try_from(4 + body.len()).unwrap_or(u16::MAX).to_be_bytes());
            all.extend_from_slice(body);
        };
        if self.actions != Actions::none() {
            add(APPLY_ACTIONS, &[&[0; 4], self.actions.0.as_slice()].concat());
        }
        if self.metadata != 0 {
            let bits = self.metadata.to_be_bytes();
            add(WRITE_METADATA, &[&[0; 4][..], &bits, &bits].concat());
        }
        if let Some(table) = self.goto {
            add(GOTO_TABLE, &[table, 0, 0, 0]);
        }
        all
    }

    /// What all of it comes to (FNV-1a). The topmost bit is left to flows that are learned, and all ones mean no cookie.
    pub fn cookie(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let head = [&[self.table][..], &self.priority.to_be_bytes()].concat();
        for byte in [head, self.matching.0.clone(), self.instructions()].concat() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash >> 1
    }

    /// `struct ofp_flow_mod` without its header.
    pub(super) fn body(&self, command: Command) -> Vec<u8> {
        let (cookie, instructions) = match command {
            Command::Add => (self.cookie(), self.instructions()),
            // One that another took the place of is not removed.
            Command::Delete | Command::DeleteStrict => (self.cookie(), vec![]),
        };
        let mask = if matches!(command, Command::Add) { 0 } else { u64::MAX };
        body(command, (self.table, self.priority, self.lasts), (cookie, mask), &self.matching, &instructions)
    }
}

/// Removes flows of a table by their cookie, or all of them.
pub(super) fn forget(table: u8, cookie: Option<u64>) -> Vec<u8> {
    let cookie = cookie.map_or((0, 0), |c| (c, u64::MAX));
    body(Command::Delete, (table, 0, 0), cookie, &Match::any(), &[])
}

fn body(
    command: Command,
    (table, priority, lasts): (u8, u16, u16),
    cookie: (u64, u64),
    matching: &Match,
    instructions: &[u8],
) -> Vec<u8> {
    let mut b = cookie.0.to_be_bytes().to_vec();
    b.extend(cookie.1.to_be_bytes());
    b.extend([table, command as u8]);
    // Whether it is used or not.
    b.extend([0; 2]);
    b.extend(lasts.to_be_bytes());
    b.extend(priority.to_be_bytes());
    b.extend(ANY.to_be_bytes());
    b.extend(ANY.to_be_bytes());
    b.extend(ANY.to_be_bytes());
    // No flags, no importance.
    b.extend([0; 4]);
    b.extend(matching.encode());
    b.extend_from_slice(instructions);
    b
}
