//! What a device's driver says of itself (ioctl `SIOCETHTOOL`, linux/ethtool.h).

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::error::{Error, Result};
use crate::link::check_name;

const ETHTOOL_GDRVINFO: u32 = 3;
const SIOCETHTOOL: libc::Ioctl = 0x8946 as libc::Ioctl;

/// `struct ethtool_drvinfo`: the command, then texts of fixed lengths and five numbers.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// The name of a device's driver, such as `virtio_net` or `veth`, in the calling thread's namespace.
///
/// # Errors
/// [`Error::is_missing`] if there is no such device, [`Error::is_unsupported`] if it does not say.
pub fn driver(name: &str) -> Result<String> {
    let name = check_name("ask the driver of", name)?;
    // SAFETY: socket() takes no pointers; the result is checked before it is owned.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(Error::last("open", "socket"));
    }
    // SAFETY: raw is a fresh descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    // SAFETY: the request's name is NUL-terminated (check_name allows 15 bytes), and its data points to a
    // structure of the size that the command writes, which lives across the call.
    let r = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if r < 0 {
        return Err(Error::last("ask the driver of", name));
    }
    let _ = info.rest;
    let end = info.driver.iter().position(|b| *b == 0).unwrap_or(info.driver.len());
    Ok(String::from_utf8_lossy(&info.driver[..end]).into_owned())
}
