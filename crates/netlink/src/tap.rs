//! TAP devices: persistent ones, and descriptors to hand to QEMU.
//!
//! Constants from include/uapi/linux/if_tun.h. A device is made in the namespace of the thread
//! that calls.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::link::check_name;

/// How often a device that is open is tried again, and how long apart.
const TRIES: u32 = 50;
const BETWEEN: Duration = Duration::from_millis(10);

const IFF_TAP: i16 = 0x0002;
const IFF_MULTI_QUEUE: i16 = 0x0100;
const IFF_NO_PI: i16 = 0x1000;
const IFF_VNET_HDR: i16 = 0x4000;
/// 0x8000, as a signed short.
const IFF_TUN_EXCL: i16 = i16::MIN;

// _IOW('T', n, int)
const TUNSETIFF: u64 = 0x4004_54ca;
const TUNSETPERSIST: u64 = 0x4004_54cb;
const TUNSETOWNER: u64 = 0x4004_54cc;

/// How a TAP device is made and opened; all openers of one device use the same.
#[derive(Debug, Clone, Copy)]
pub struct Tap<'a> {
    /// Name, at most 15 bytes.
    pub name: &'a str,
    /// Several descriptors, one per queue, may be open at the same time.
    pub multi_queue: bool,
    /// Every frame carries a virtio-net header, so that checksums and segmentation are offloaded.
    pub vnet_hdr: bool,
}

impl Tap<'_> {
    fn attach(&self, op: &'static str, extra: i16) -> Result<OwnedFd> {
        let name = check_name(op, self.name)?;
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .map_err(|e| Error::io("open", "/dev/net/tun", e))?;
        // SAFETY: an all-zero ifreq is a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        let mut flags = IFF_TAP | IFF_NO_PI | extra;
        if self.multi_queue {
            flags |= IFF_MULTI_QUEUE;
        }
        if self.vnet_hdr {
            flags |= IFF_VNET_HDR;
        }
        request.ifr_ifru.ifru_flags = flags;
        // SAFETY: TUNSETIFF reads and writes one ifreq, which lives across the call.
        let r = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF as _, &raw mut request) };
        if r < 0 {
            let error = std::io::Error::last_os_error();
            // With IFF_TUN_EXCL the driver says EBUSY where everybody else says EEXIST.
            if extra & IFF_TUN_EXCL != 0 && error.raw_os_error() == Some(libc::EBUSY) {
                return Err(Error::kernel(op, name, libc::EEXIST));
            }
            return Err(Error::io(op, name, error));
        }
        Ok(file.into())
    }

    /// Creates the device so that it stays when nobody has it open. `owner` is the user id that
    /// may open it without being root.
    ///
    /// # Errors
    /// [`Error::is_exists`] if the name is taken.
    pub fn create(&self, owner: Option<u32>) -> Result<()> {
        let fd = self.attach("create tap", IFF_TUN_EXCL)?;
        if let Some(uid) = owner {
            self.ioctl("set the owner of tap", &fd, TUNSETOWNER, uid)?;
        }
        self.ioctl("make persistent tap", &fd, TUNSETPERSIST, 1)
    }

    /// Opens one more descriptor (one queue) of a device that is there. It is in blocking mode. A device that was open a moment ago may
    /// still be held by a program that another thread is starting, until that has let go of what is not its own: up to half a
    /// second is waited for it.
    ///
    /// # Errors
    /// `EBUSY` if a device of one queue is open already; [`Error::is_missing`] if there is none.
    pub fn open(&self) -> Result<OwnedFd> {
        // TUNSETIFF would make a device where there is none; look first.
        let name = std::ffi::CString::new(check_name("open tap", self.name)?).unwrap_or_default();
        // SAFETY: name is NUL-terminated and outlives the call.
        if unsafe { libc::if_nametoindex(name.as_ptr()) } == 0 {
            return Err(Error::kernel("open tap", self.name, libc::ENODEV));
        }
        for _ in 0..TRIES {
            match self.attach("open tap", 0) {
                Err(e) if e.is_busy() => std::thread::sleep(BETWEEN),
                other => return other,
            }
        }
        self.attach("open tap", 0)
    }

    fn ioctl(&self, op: &'static str, fd: &OwnedFd, request: u64, value: u32) -> Result<()> {
        // SAFETY: these requests take an integer by value.
        let r = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, libc::c_ulong::from(value)) };
        if r < 0 { Err(Error::last(op, self.name)) } else { Ok(()) }
    }
}
