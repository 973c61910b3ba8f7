//! Changes of links and of their addresses, as they happen.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use crate::error::{Error, Result};
use crate::link::{Link, parse};
use crate::msg;
use crate::netns::Netns;
use crate::socket::Socket;

// include/uapi/linux/rtnetlink.h
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV6_IFADDR: u32 = 9;

/// What happened to a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// It is new or something about it changed.
    Changed(Link),
    /// It is gone.
    Gone(Link),
    /// An address of it came, went or changed; its index.
    Addressed(u32),
    /// Events were lost because they came faster than they were read: look at everything again.
    Lost,
}

/// A subscription to the events of links and addresses of one namespace. The descriptor becomes readable when there
/// are events; it may be used with an event loop.
#[derive(Debug)]
pub struct LinkEvents {
    socket: Socket,
}

impl AsFd for LinkEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for LinkEvents {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_fd().as_raw_fd()
    }
}

impl LinkEvents {
    /// Subscribes in the calling thread's namespace.
    ///
    /// # Errors
    /// When the system refuses the socket.
    pub fn open() -> Result<Self> {
        let socket = Socket::open(libc::NETLINK_ROUTE)?;
        for group in [RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR] {
            socket.join(group)?;
        }
        Ok(Self { socket })
    }

    /// Subscribes in a namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the system refuses the socket.
    pub fn open_in(netns: &Netns) -> Result<Self> {
        netns.run(Self::open)?
    }

    /// The events that are there now, without waiting.
    ///
    /// # Errors
    /// When the socket fails for another reason than lost events.
    pub fn read(&mut self) -> Result<Vec<LinkEvent>> {
        let mut events = Vec::new();
        loop {
            match self.socket.receive(false) {
                Ok(None) => return Ok(events),
                Ok(Some(datagram)) => {
                    for m in msg::messages(datagram) {
                        if matches!(m.kind, libc::RTM_NEWADDR | libc::RTM_DELADDR) {
                            // struct ifaddrmsg
                            events.extend(msg::u32_at(m.body, 4).map(LinkEvent::Addressed));
                            continue;
                        }
                        // A bridge sends messages of family AF_BRIDGE about its ports too, which
                        // say less than the link's own; those are left out.
                        let own = m.body.first() == Some(&0);
                        match parse(m.body) {
                            Some(link) if own && m.kind == libc::RTM_NEWLINK => {
                                events.push(LinkEvent::Changed(link));
                            }
                            Some(link) if own && m.kind == libc::RTM_DELLINK => {
                                events.push(LinkEvent::Gone(link));
                            }
                            _ => {}
                        }
                    }
                }
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => events.push(LinkEvent::Lost),
                Err(e) => return Err(Error::io("read", "link events", e)),
            }
        }
    }
}
