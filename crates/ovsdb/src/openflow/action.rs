//! What is done with a frame (section 7.2.6, and ovs-actions(7)).

use super::matching::{Field, field};
use super::pad;

const OUTPUT: u16 = 0;
const POP_VLAN: u16 = 18;
const GROUP: u16 = 22;
const SET_FIELD: u16 = 25;
const COPY_FIELD: u16 = 28;
const EXPERIMENTER: u16 = 0xffff;
/// Nicira's number, whose extensions are Open vSwitch's.
const NICIRA: u32 = 0x2320;
const RESUBMIT_TABLE: u16 = 14;
const OUTPUT_REG: u16 = 15;
const LEARN2: u16 = 45;
/// In the 16-bit port of an extension: where the frame came in.
const SAME_PORT: u16 = 0xfff8;

/// Learning where a MAC is: a flow about frames for the source of this one (ovs-actions(7), `learn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learn {
    /// The table that it is added to.
    pub table: u8,
    /// Its priority there.
    pub priority: u16,
    /// Its cookie, by which it can be removed.
    pub cookie: u64,
    /// How long it stays after the last frame from there, in seconds.
    pub idle: u16,
    /// The register that it puts the port into.
    pub reg: u8,
    /// How many there may be with this cookie.
    pub limit: u32,
}

/// Actions in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Actions(pub(super) Vec<u8>);

impl Actions {
    /// None: what comes to an end with these is dropped.
    pub fn none() -> Self {
        Self::default()
    }

    fn add(mut self, kind: u16, body: &[u8]) -> Self {
        let mut action = kind.to_be_bytes().to_vec();
        action.extend([0; 2]);
        action.extend_from_slice(body);
        pad(&mut action);
        let length = u16::try_from(action.len()).unwrap_or(u16::MAX);
        action[2..4].copy_from_slice(&length.to_be_bytes());
        self.0.extend(action);
        self
    }

    fn nicira(self, subtype: u16, body: &[u8]) -> Self {
        let head = [&NICIRA.to_be_bytes()[..], &subtype.to_be_bytes(), body].concat();
        self.add(EXPERIMENTER, &head)
    }

    /// Sends it out of a port.
    pub fn output(self, port: u32) -> Self {
        let body = [&port.to_be_bytes()[..], &[0; 2], &[0; 6]].concat();
        self.add(OUTPUT, &body)
    }

    /// Sends it out of the port that a register holds.
    pub fn output_reg(self, reg: u8) -> Self {
        // «offset << 6 | bits - 1»: all 32.
        let body = [&31u16.to_be_bytes()[..], &field::reg(reg).header(false), &[0; 2], &[0; 6]].concat();
        self.nicira(OUTPUT_REG, &body)
    }

    /// Forwards it as a learning bridge with VLANs does, by what the database says of the ports (`OFPP_NORMAL`).
    pub fn normal(self) -> Self {
        self.output(0xffff_fffa)
    }

    /// Hands it to a group.
    pub fn group(self, id: u32) -> Self {
        self.add(GROUP, &id.to_be_bytes())
    }

    /// Takes the outermost VLAN tag away.
    pub fn pop_vlan(self) -> Self {
        self.add(POP_VLAN, &[0; 4])
    }

    /// Gives a field a value.
    pub fn set(self, field: Field, value: &[u8]) -> Self {
        let body = [&field.header(false)[..], value].concat();
        self.add(SET_FIELD, &body)
    }

    /// Copies one field into another of the same length.
    pub fn copy(self, from: Field, to: Field) -> Self {
        let bits = from.bits().to_be_bytes();
        let body = [&bits[..], &[0; 2], &[0; 2], &[0; 2], &from.header(false), &to.header(false)].concat();
        self.add(COPY_FIELD, &body)
    }

    /// Looks it up in another table, and comes back.
    pub fn resubmit(self, table: u8) -> Self {
        let body = [&SAME_PORT.to_be_bytes()[..], &[table], &[0; 3]].concat();
        self.nicira(RESUBMIT_TABLE, &body)
    }

    /// Learns that its source is where it came from.
    pub fn learn(self, learn: &Learn) -> Self {
        let mut b = learn.idle.to_be_bytes().to_vec();
        b.extend([0; 2]);
        b.extend(learn.priority.to_be_bytes());
        b.extend(learn.cookie.to_be_bytes());
        b.extend([0; 2]);
        b.extend([learn.table, 0]);
        b.extend([0; 4]);
        b.extend(learn.limit.to_be_bytes());
        b.extend([0; 4]);
        // «Match» the destination with what is now the source: bits 12-11 say match, bit 13 that the source is a field.
        b.extend(48u16.to_be_bytes());
        b.extend(field::ETH_SRC.header(false));
        b.extend([0; 2]);
        b.extend(field::ETH_DST.header(false));
        b.extend([0; 2]);
        // «Load» the port that it came in by into the register.
        let load: u16 = 1 << 11 | 32;
        b.extend(load.to_be_bytes());
        b.extend(field::IN_PORT.header(false));
        b.extend([0; 2]);
        b.extend(field::reg(learn.reg).header(false));
        b.extend([0; 2]);
        self.nicira(LEARN2, &b)
    }
}
