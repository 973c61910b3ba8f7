//! What must hold for any bytes at all: of a foreign DHCP server or router on their way through the guard, of a guest that
//! asks our servers, and of frames from either.
//!
//! `scripts/fuzz` looks for bytes for which it does not hold, guided by what code they reach; what it found interesting is in
//! `corpus`, and `make test` replays it.

mod engines;
mod guard;
mod probe;

/// One thing that takes bytes from outside.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its directory in the corpus.
    pub name: &'static str,
    /// Does what the program would do with these bytes.
    ///
    /// Panics where something does not hold that must.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 7] = [
    Target { name: "guard4", run: guard::dhcp4 },
    Target { name: "guard6", run: guard::dhcp6 },
    Target { name: "advertisement", run: guard::advertisement },
    Target { name: "engine4", run: engines::dhcp4 },
    Target { name: "engine6", run: engines::dhcp6 },
    Target { name: "frames", run: engines::frames },
    Target { name: "probe", run: probe::frames },
];
