//! Kernel parameters below `/proc/sys`, of the calling thread's network namespace.
//! Run them through [`crate::Netns::run`] for another one.

use std::fs;

use crate::error::{Error, Result};

fn path(key: &str) -> Result<String> {
    if key.is_empty() || key.starts_with('/') || key.split('/').any(|part| part == "..") {
        return Err(Error::Invalid { op: "sysctl", what: format!("{key:?} is not a path below /proc/sys") });
    }
    Ok(format!("/proc/sys/{key}"))
}

/// Reads a parameter, without the line's end. The key is a path below `/proc/sys` with slashes,
/// because device names may contain dots: `net/ipv4/conf/eth0/forwarding`.
///
/// # Errors
/// [`Error::is_missing`] if there is no such parameter.
pub fn read(key: &str) -> Result<String> {
    let text = fs::read_to_string(path(key)?).map_err(|e| Error::io("read sysctl", key, e))?;
    Ok(text.trim_end().to_owned())
}

/// Writes a parameter unless it has that value; says what it was before.
///
/// # Errors
/// [`Error::is_missing`] if there is no such parameter; otherwise what the kernel refused.
pub fn set(key: &str, value: &str) -> Result<String> {
    let before = read(key)?;
    if before != value {
        fs::write(path(key)?, value).map_err(|e| Error::io("write sysctl", key, e))?;
    }
    Ok(before)
}
