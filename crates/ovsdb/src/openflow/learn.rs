//! Flows that a bridge makes by itself (ovs-actions(7), `learn`).

use super::matching::{Field, field};

/// What a learned flow has of the frame that it is learned from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It matches a value of a field of 16 bits or less.
    Is(Field, u16),
    /// It matches in the first field what the frame has in the second, in so many of the lowest bits.
    Like(Field, Field, u16),
    /// It loads into the first field what the frame has in the second.
    Load(Field, Field),
    /// It sets this bit of a register.
    Set(u8, u16),
}

/// A flow that is learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learn {
    /// The table that it is added to.
    pub table: u8,
    /// Its priority there.
    pub priority: u16,
    /// Its cookie, by which it can be removed.
    pub cookie: u64,
    /// How long it stays after the last frame that it was for, in seconds.
    pub idle: u16,
    /// How many there may be with this cookie.
    pub limit: u32,
    /// The bit of a register that says afterwards whether there was room.
    pub result: Option<(u8, u16)>,
    /// What it is about, and what it does.
    pub parts: Vec<Part>,
}

/// The source is a value, not a field.
const VALUE: u16 = 1 << 13;
/// What is said is done, not matched.
const LOAD: u16 = 1 << 11;
/// Whether there was room is written down (`NX_LEARN_F_WRITE_RESULT`).
const RESULT: u16 = 4;

impl Learn {
    /// Learning where a MAC is: a register gets the port that it is behind.
    pub fn address(table: u8, cookie: u64, idle: u16, reg: u8, limit: u32) -> Self {
        let parts = vec![
            Part::Like(field::ETH_DST, field::ETH_SRC, field::ETH_SRC.bits()),
            Part::Load(field::reg(reg), field::IN_PORT),
        ];
        Self { table, priority: 1, cookie, idle, limit, result: None, parts }
    }

    /// `struct nx_action_learn2` behind its header.
    pub(super) fn body(&self) -> Vec<u8> {
        let mut b = self.idle.to_be_bytes().to_vec();
        b.extend([0; 2]);
        b.extend(self.priority.to_be_bytes());
        b.extend(self.cookie.to_be_bytes());
        b.extend(self.result.map_or(0, |_| RESULT).to_be_bytes());
        b.extend([self.table, 0]);
        b.extend([0; 4]);
        b.extend(self.limit.to_be_bytes());
        b.extend(self.result.map_or(0, |(_, bit)| bit).to_be_bytes());
        b.extend([0; 2]);
        b.extend(self.result.map(|(reg, _)| field::reg(reg).header(false)).into_iter().flatten());
        self.parts.iter().for_each(|part| part.write(&mut b));
        b
    }
}

impl Part {
    /// `flow_mod_spec`: what it is and how many bits, where they come from, and where they go to.
    fn write(self, b: &mut Vec<u8>) {
        let field = |b: &mut Vec<u8>, f: Field, bit: u16| {
            b.extend(f.header(false));
            b.extend(bit.to_be_bytes());
        };
        match self {
            Self::Is(to, value) => {
                b.extend((VALUE | to.bits()).to_be_bytes());
                b.extend(value.to_be_bytes());
                field(b, to, 0);
            }
            Self::Like(to, from, bits) => {
                b.extend(bits.to_be_bytes());
                field(b, from, 0);
                field(b, to, 0);
            }
            Self::Load(to, from) => {
                b.extend((LOAD | from.bits()).to_be_bytes());
                field(b, from, 0);
                field(b, to, 0);
            }
            Self::Set(reg, bit) => {
                b.extend((VALUE | LOAD | 1).to_be_bytes());
                b.extend(1u16.to_be_bytes());
                field(b, super::field::reg(reg), bit);
            }
        }
    }
}
