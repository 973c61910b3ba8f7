//! Real DHCP clients on a machine with two NICs, each on a network of its own, and what their kernel makes of it.
//!
//! For tests and benchmarks only. A [`machine::Machine`] is the guest and another one the world outside with its
//! servers; between them is a [`node::Node`] with Multihome's own data plane, servers and guard, or nothing but a cable.
//! [`judge`] looks at the guest's routes alone, whoever made them.

pub mod boot;
pub mod cable;
pub mod client;
pub mod judge;
pub mod live;
pub mod machine;
pub mod networks;
pub mod node;
pub mod outside;
pub mod table;

/// Anything that keeps a measurement from being made; never a verdict on what is measured.
pub type Trouble = Box<dyn std::error::Error + Send + Sync>;
/// The outcome of a step.
pub type Result<T, E = Trouble> = std::result::Result<T, E>;

/// Looks until there is something to see.
///
/// # Errors
/// When there was nothing for so many seconds.
pub fn wait_for<T>(what: &str, seconds: u64, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    loop {
        if let Some(seen) = look()? {
            return Ok(seen);
        }
        if std::time::Instant::now() > end {
            return Err(format!("{what} did not happen in {seconds} s").into());
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
