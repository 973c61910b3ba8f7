//! What a device's driver says of it (ioctl `SIOCETHTOOL`, include/uapi/linux/ethtool.h).

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::error::{Error, Result};
use crate::link::check_name;

const ETHTOOL_GSET: u32 = 1;
const ETHTOOL_GDRVINFO: u32 = 3;
const SIOCETHTOOL: libc::Ioctl = 0x8946 as libc::Ioctl;

/// `struct ethtool_drvinfo`: the command, then texts of fixed lengths and five numbers.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// `struct ethtool_cmd`, as far as its speed goes, which is in two halves.
#[repr(C)]
struct LinkSettings {
    command: u32,
    supported: u32,
    advertising: u32,
    speed_low: u16,
    modes: [u8; 6],
    most: [u32; 2],
    speed_high: u16,
    crossing: [u8; 2],
    partner: u32,
    reserved: [u32; 2],
}

/// Asks the driver of a device of the calling thread's namespace. `T` is the structure of the command that it begins with.
fn ask<T>(op: &'static str, name: &str, answer: &mut T) -> Result<()> {
    let name = check_name(op, name)?;
    // SAFETY: socket() takes no pointers; the result is checked before it is owned.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(Error::last("open", "socket"));
    }
    // SAFETY: raw is a fresh descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(answer).cast();
    // SAFETY: the request's name is NUL-terminated (check_name allows 15 bytes), and its data points to a
    // structure of the size that the command writes, which lives across the call.
    let r = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if r < 0 {
        return Err(Error::last(op, name));
    }
    Ok(())
}

/// What a device leaves to others, or does for them (`ethtool -k`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Offload {
    /// Checksums of what is sent are left to whoever takes it.
    TxChecksum,
    /// TCP segments of what is sent are cut by whoever takes it.
    Segmentation,
    /// The same for other protocols, and where the device cannot.
    GenericSegmentation,
    /// Received packets of a stream are joined to one that is longer than the MTU.
    GenericReceive,
}

impl Offload {
    /// All of them, each after those that depend on it.
    pub const ALL: [Self; 4] = [Self::Segmentation, Self::GenericSegmentation, Self::TxChecksum, Self::GenericReceive];

    /// The commands that read and write it.
    fn commands(self) -> (u32, u32) {
        match self {
            Self::TxChecksum => (0x16, 0x17),
            Self::Segmentation => (0x1e, 0x1f),
            Self::GenericSegmentation => (0x23, 0x24),
            Self::GenericReceive => (0x2b, 0x2c),
        }
    }
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Whether an offload of a device of the calling thread's namespace is on.
///
/// # Errors
/// [`Error::is_missing`] if there is no such device, [`Error::is_unsupported`] if it does not say.
pub fn offload(name: &str, which: Offload) -> Result<bool> {
    let mut value = Value { command: which.commands().0, data: 0 };
    ask("ask the offloads of", name, &mut value)?;
    Ok(value.data != 0)
}

/// Switches an offload of a device of the calling thread's namespace on or off.
///
/// # Errors
/// [`Error::is_missing`] if there is no such device, [`Error::is_unsupported`] if it cannot be switched.
pub fn set_offload(name: &str, which: Offload, on: bool) -> Result<()> {
    let mut value = Value { command: which.commands().1, data: u32::from(on) };
    ask("set the offloads of", name, &mut value)?;
    let _ = value.data;
    Ok(())
}

/// The name of a device's driver, such as `virtio_net` or `veth`, in the calling thread's namespace.
///
/// # Errors
/// [`Error::is_missing`] if there is no such device, [`Error::is_unsupported`] if it does not say.
pub fn driver(name: &str) -> Result<String> {
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    ask("ask the driver of", name, &mut info)?;
    let _ = info.rest;
    let end = info.driver.iter().position(|b| *b == 0).unwrap_or(info.driver.len());
    Ok(String::from_utf8_lossy(&info.driver[..end]).into_owned())
}

/// The speed of a device of the calling thread's namespace, in Mbit/s; `None` where its driver does not know it, as without
/// a carrier.
///
/// # Errors
/// [`Error::is_missing`] if there is no such device, [`Error::is_unsupported`] if it does not say.
pub fn speed(name: &str) -> Result<Option<u32>> {
    let mut s = LinkSettings {
        command: ETHTOOL_GSET,
        supported: 0,
        advertising: 0,
        speed_low: 0,
        modes: [0; 6],
        most: [0; 2],
        speed_high: 0,
        crossing: [0; 2],
        partner: 0,
        reserved: [0; 2],
    };
    ask("ask the speed of", name, &mut s)?;
    let _ = (s.supported, s.advertising, s.modes, s.most, s.crossing, s.partner, s.reserved);
    let speed = u32::from(s.speed_low) | u32::from(s.speed_high) << 16;
    // SPEED_UNKNOWN is -1, in as many bits as the driver fills in.
    Ok((speed != 0 && speed != 0xffff && speed != u32::MAX).then_some(speed))
}
