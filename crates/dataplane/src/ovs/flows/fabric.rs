//! The bridge of a fabric, or of a device: it sorts by VLAN as the database says of its ports (`normal`), and learns.

use multihome_ovsdb::openflow::{Actions, Flow, Match};

use super::{IN, LEARN, Piece, SAID};

/// The rules of the bridge, whoever is on it.
pub(super) fn base() -> Vec<Flow> {
    vec![Flow::new(SAID, 0, Match::any()).then(LEARN), Flow::new(LEARN, 0, Match::any()).does(Actions::none().normal())]
}

/// What comes from a network's bridge.
pub(super) fn far(number: u32) -> Piece {
    Piece { flows: vec![Flow::new(IN, 10, Match::any().in_port(number)).then(LEARN)], ..Piece::default() }
}

/// What comes from the wire. A tag that says nothing but a priority is of no network's; and the VLAN that stands inside for what
/// has no tag is not one of the wire's.
pub(super) fn device(number: u32, inner: Option<u16>) -> Piece {
    let own = || Match::any().in_port(number);
    let mut flows = vec![Flow::new(IN, 10, own()).then(LEARN), Flow::new(IN, 30, own().vlan(0))];
    flows.extend(inner.map(|id| Flow::new(IN, 30, own().vlan(id))));
    Piece { flows, ..Piece::default() }
}
