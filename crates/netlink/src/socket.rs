//! One netlink socket: requests with their acknowledgements, batches and dumps.
//!
//! A socket belongs to the network namespace of the thread that opened it, for as long as it
//! lives, whichever thread uses it later.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::error::{Error, Result};
use crate::msg::{self, Msg, Received};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_DUMP_INTR`: the table changed during the dump, so it may be inconsistent.
const DUMP_INTERRUPTED: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// Larger than any message that the kernel builds for a dump (32 KiB since 4.x, `netlink_dump`).
const RECEIVE_BUFFER: usize = 64 * 1024;
const DUMP_TRIES: usize = 10;
/// A batch is cut into datagrams below this, well under the send buffer.
const BATCH_BYTES: usize = 128 * 1024;

/// A connected netlink socket.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    seq: u32,
    buf: Vec<u8>,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Socket {
    /// Opens a socket of a netlink protocol (`NETLINK_ROUTE`, `NETLINK_NETFILTER`) in the network
    /// namespace of the calling thread.
    pub(crate) fn open(protocol: i32) -> Result<Self> {
        // SAFETY: socket() takes no pointers; the result is checked before it is owned.
        let raw = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
        if raw < 0 {
            return Err(Error::last("open", "netlink socket"));
        }
        // SAFETY: raw is a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: an all-zero sockaddr_nl is valid; with port 0 the kernel chooses one. Without a
        // port of its own a socket gets no multicast, whose sender 0 would be itself.
        let bound = unsafe {
            let mut address: libc::sockaddr_nl = std::mem::zeroed();
            address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
            libc::bind(raw, (&raw const address).cast(), size_of_val(&address) as u32)
        };
        if bound < 0 {
            return Err(Error::last("bind", "netlink socket"));
        }
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK, libc::NETLINK_GET_STRICT_CHK] {
            // Old kernels lack some of these; everything works without them, with poorer texts.
            let _ = set_int(fd.as_fd(), libc::SOL_NETLINK, option, 1);
        }
        for option in [libc::SO_SNDBUFFORCE, libc::SO_RCVBUFFORCE] {
            let _ = set_int(fd.as_fd(), libc::SOL_SOCKET, option, 4 << 20);
        }
        Ok(Self { fd, seq: 0, buf: vec![0; RECEIVE_BUFFER] })
    }

    /// Joins a multicast group (`RTNLGRP_…`).
    pub(crate) fn join(&self, group: u32) -> Result<()> {
        set_int(self.fd.as_fd(), libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group as i32)
            .map_err(|e| Error::io("subscribe to", "netlink group", e))
    }

    pub(crate) fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1).max(1);
        self.seq
    }

    pub(crate) fn send(&self, data: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer and length describe one live slice.
        let n = unsafe { libc::send(self.fd.as_raw_fd(), data.as_ptr().cast(), data.len(), libc::MSG_NOSIGNAL) };
        if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Receives one datagram; `None` when `wait` is false and nothing is queued.
    pub(crate) fn receive(&mut self, wait: bool) -> io::Result<Option<&[u8]>> {
        let flags = if wait { 0 } else { libc::MSG_DONTWAIT };
        loop {
            // SAFETY: the pointer and length describe our own live buffer.
            let n = unsafe { libc::recv(self.fd.as_raw_fd(), self.buf.as_mut_ptr().cast(), self.buf.len(), flags) };
            if n >= 0 {
                return Ok(Some(&self.buf[..n as usize]));
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EAGAIN) => return Ok(None),
                _ => return Err(error),
            }
        }
    }

    /// Sends one request and waits for its acknowledgement.
    pub(crate) fn request(&mut self, msg: Msg) -> Result<()> {
        self.batch(vec![msg]).pop().unwrap_or(Ok(()))
    }

    /// Sends requests in as few system calls as possible; one result per request, in order.
    /// The kernel carries them out in order, and goes on after one that fails.
    pub(crate) fn batch(&mut self, mut msgs: Vec<Msg>) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(msgs.len());
        let mut rest = &mut msgs[..];
        while !rest.is_empty() {
            let mut data = Vec::new();
            let first = self.seq.wrapping_add(1).max(1);
            let mut count = 0;
            for m in rest.iter_mut() {
                if count > 0 && data.len() + m.len() > BATCH_BYTES {
                    break;
                }
                m.add_flags(libc::NLM_F_REQUEST | libc::NLM_F_ACK);
                let seq = self.next_seq();
                data.extend_from_slice(m.seal(seq));
                count += 1;
            }
            let (now, later) = rest.split_at_mut(count);
            results.extend(self.exchange(&data, first, now));
            rest = later;
        }
        results
    }

    fn exchange(&mut self, data: &[u8], first: u32, msgs: &[Msg]) -> Vec<Result<()>> {
        let failed = |m: &Msg, e: &io::Error| {
            let errno = e.raw_os_error().unwrap_or(libc::EIO);
            Error::kernel(m.op, m.subject.clone(), errno)
        };
        if let Err(e) = self.send(data) {
            return msgs.iter().map(|m| Err(failed(m, &e))).collect();
        }
        let mut results: Vec<Option<Result<()>>> = msgs.iter().map(|_| None).collect();
        let mut open = msgs.len();
        while open > 0 {
            let datagram = match self.receive(true) {
                Ok(Some(datagram)) => datagram,
                Ok(None) => break,
                Err(e) => {
                    return results
                        .into_iter()
                        .zip(msgs)
                        .map(|(r, m)| r.unwrap_or_else(|| Err(failed(m, &e))))
                        .collect();
                }
            };
            for answer in msg::messages(datagram) {
                let at = answer.seq.wrapping_sub(first) as usize;
                let Some(m) = msgs.get(at) else { continue };
                if answer.kind == NLMSG_ERROR && results[at].is_none() {
                    results[at] = Some(verdict(&answer, m));
                    open -= 1;
                }
            }
        }
        results.into_iter().map(|r| r.unwrap_or(Ok(()))).collect()
    }

    /// Sends one request that is answered by one message of data, and hands that to `read`.
    pub(crate) fn query<T>(&mut self, mut m: Msg, mut read: impl FnMut(&[u8]) -> Option<T>) -> Result<T> {
        m.add_flags(libc::NLM_F_REQUEST);
        let seq = self.next_seq();
        self.send(m.seal(seq)).map_err(|e| Error::io(m.op, m.subject.clone(), e))?;
        loop {
            let datagram = self.receive(true).map_err(|e| Error::io(m.op, m.subject.clone(), e))?.unwrap_or(&[]);
            for answer in msg::messages(datagram).filter(|a| a.seq == seq) {
                if answer.kind == NLMSG_ERROR {
                    verdict(&answer, &m)?;
                    continue;
                }
                return read(answer.body).ok_or_else(|| Error::Malformed {
                    op: m.op,
                    subject: m.subject.clone(),
                    what: "a header is cut short",
                });
            }
        }
    }

    /// Dumps a table; messages that `read` answers `None` to are left out. A dump that the kernel
    /// says was interrupted by a change is done again.
    pub(crate) fn dump<T>(&mut self, mut m: Msg, mut read: impl FnMut(&[u8]) -> Option<T>) -> Result<Vec<T>> {
        m.add_flags(libc::NLM_F_REQUEST | libc::NLM_F_DUMP);
        for _ in 0..DUMP_TRIES {
            let seq = self.next_seq();
            self.send(m.seal(seq)).map_err(|e| Error::io(m.op, m.subject.clone(), e))?;
            let (all, interrupted) = self.collect(seq, &m, &mut read)?;
            if !interrupted {
                return Ok(all);
            }
        }
        Err(Error::kernel(m.op, m.subject, libc::EINTR))
    }

    fn collect<T>(&mut self, seq: u32, m: &Msg, read: &mut impl FnMut(&[u8]) -> Option<T>) -> Result<(Vec<T>, bool)> {
        let mut all = Vec::new();
        let mut interrupted = false;
        loop {
            let datagram = self.receive(true).map_err(|e| Error::io(m.op, m.subject.clone(), e))?.unwrap_or(&[]);
            for answer in msg::messages(datagram).filter(|a| a.seq == seq) {
                interrupted |= answer.flags & DUMP_INTERRUPTED != 0;
                match answer.kind {
                    NLMSG_DONE => {
                        let code = msg::u32_at(answer.body, 0).unwrap_or(0) as i32;
                        if code < 0 {
                            return Err(Error::kernel(m.op, m.subject.clone(), -code));
                        }
                        return Ok((all, interrupted));
                    }
                    NLMSG_ERROR => {
                        verdict(&answer, m)?;
                        return Ok((all, interrupted));
                    }
                    _ => all.extend(read(answer.body)),
                }
            }
        }
    }
}

/// Reads an `NLMSG_ERROR`: zero is the acknowledgement.
pub(crate) fn verdict(answer: &Received<'_>, m: &Msg) -> Result<()> {
    let code = msg::u32_at(answer.body, 0).unwrap_or(0) as i32;
    if code == 0 {
        return Ok(());
    }
    Err(Error::Kernel { op: m.op, subject: m.subject.clone(), errno: code.saturating_neg(), message: extended(answer) })
}

/// The extended-ACK text: after the errno and the echoed request (its header only, if capped).
fn extended(answer: &Received<'_>) -> Option<String> {
    if answer.flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let echoed =
        if answer.flags & NLM_F_CAPPED != 0 { msg::HEADER } else { msg::align(msg::u32_at(answer.body, 4)? as usize) };
    let tlvs = answer.body.get(4 + echoed..)?;
    msg::attrs(tlvs).find(|a| a.kind == NLMSGERR_ATTR_MSG).map(|a| a.text())
}

/// Sets an integer socket option.
pub(crate) fn set_int(fd: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the pointer and length describe one live i32.
    let r = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), size_of::<i32>() as libc::socklen_t)
    };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
