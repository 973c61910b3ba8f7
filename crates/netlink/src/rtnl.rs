//! The handle through which links, addresses, routes and neighbours are changed.

use crate::error::Result;
use crate::netns::Netns;
use crate::socket::Socket;

/// A routing-netlink socket of one network namespace.
///
/// It stays in the namespace that it was opened in, so it may be sent to any thread. A request
/// costs some microseconds; it never waits for anything but the kernel.
#[derive(Debug)]
pub struct Rtnl {
    pub(crate) socket: Socket,
}

impl Rtnl {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// When the system refuses the socket.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Socket::open(libc::NETLINK_ROUTE)? })
    }

    /// Opens a socket in a namespace, by way of a thread of its own.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the system refuses the socket.
    pub fn open_in(netns: &Netns) -> Result<Self> {
        netns.run(Self::open)?
    }
}
