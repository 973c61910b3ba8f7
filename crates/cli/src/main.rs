//! The multihome binary.
fn main() {}
