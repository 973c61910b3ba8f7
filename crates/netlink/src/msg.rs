//! Netlink messages as bytes: a builder, and a reader that never panics.
//!
//! Layout from include/uapi/linux/netlink.h: a 16-byte header, a family header, then attributes
//! of `{len: u16, type: u16, payload}` padded to four bytes. Everything is in host byte order
//! unless an attribute says otherwise.

/// Length of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// Rounds up to the next multiple of four.
pub(crate) const fn align(len: usize) -> usize {
    (len + 3) & !3
}

/// A request being built, with what it does to what, for the error that it may become.
#[derive(Debug, Clone)]
pub(crate) struct Msg {
    buf: Vec<u8>,
    pub(crate) op: &'static str,
    pub(crate) subject: String,
}

impl Msg {
    pub(crate) fn new(kind: u16, flags: i32, op: &'static str, subject: impl Into<String>) -> Self {
        let mut buf = Vec::with_capacity(256);
        buf.extend_from_slice(&0u32.to_ne_bytes());
        buf.extend_from_slice(&kind.to_ne_bytes());
        buf.extend_from_slice(&(flags as u16).to_ne_bytes());
        buf.extend_from_slice(&[0; 8]);
        Self { buf, op, subject: subject.into() }
    }

    /// Appends a family header or other bytes as they are, padded.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.put_raw(bytes);
        self
    }

    pub(crate) fn put_raw(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        self.buf.resize(align(self.buf.len()), 0);
    }

    /// Appends one attribute. The payload is shorter than 64 KiB by construction of all callers;
    /// a longer one would be cut by the u16 length, so it is refused in debug builds.
    pub(crate) fn attr(&mut self, kind: u16, payload: &[u8]) {
        debug_assert!(payload.len() < 0xffff - 4);
        self.buf.extend_from_slice(&((payload.len() + 4) as u16).to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(payload);
        self.pad();
    }

    pub(crate) fn u8(&mut self, kind: u16, value: u8) {
        self.attr(kind, &[value]);
    }

    pub(crate) fn u16(&mut self, kind: u16, value: u16) {
        self.attr(kind, &value.to_ne_bytes());
    }

    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_ne_bytes());
    }

    /// A NUL-terminated string.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attr(kind, &bytes);
    }

    /// Appends a nested attribute whose content the closure writes.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.buf.len();
        self.buf.extend_from_slice(&0u16.to_ne_bytes());
        self.buf.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(self);
        let len = self.buf.len() - start;
        debug_assert!(len < 0xffff);
        self.buf[start..start + 2].copy_from_slice(&(len as u16).to_ne_bytes());
    }

    /// Bytes so far, header included.
    pub(crate) fn len(&self) -> usize {
        self.buf.len()
    }

    pub(crate) fn add_flags(&mut self, flags: i32) {
        let old = u16::from_ne_bytes([self.buf[6], self.buf[7]]);
        self.buf[6..8].copy_from_slice(&(old | flags as u16).to_ne_bytes());
    }

    /// The finished message with its length and sequence number filled in.
    pub(crate) fn seal(&mut self, seq: u32) -> &[u8] {
        let len = self.buf.len() as u32;
        self.buf[0..4].copy_from_slice(&len.to_ne_bytes());
        self.buf[8..12].copy_from_slice(&seq.to_ne_bytes());
        &self.buf
    }
}

/// One received message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) seq: u32,
    pub(crate) body: &'a [u8],
}

/// Splits a datagram into messages; stops at the first one whose length is impossible.
pub(crate) fn messages(mut data: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let len = u32_at(data, 0)? as usize;
        let message = Received {
            kind: u16_at(data, 4)?,
            flags: u16_at(data, 6)?,
            seq: u32_at(data, 8)?,
            body: data.get(HEADER..len)?,
        };
        data = data.get(align(len)..).unwrap_or(&[]);
        Some(message)
    })
}

/// One attribute: type without its flag bits, and payload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attr<'a> {
    pub(crate) kind: u16,
    pub(crate) data: &'a [u8],
}

/// Iterates over attributes; stops at the first one whose length is impossible.
pub(crate) fn attrs(mut data: &[u8]) -> impl Iterator<Item = Attr<'_>> {
    std::iter::from_fn(move || {
        let len = u16_at(data, 0)? as usize;
        let kind = u16_at(data, 2)? & TYPE_MASK;
        let payload = data.get(4..len)?;
        data = data.get(align(len)..).unwrap_or(&[]);
        Some(Attr { kind, data: payload })
    })
}

/// The first attribute of a type.
pub(crate) fn find(data: &[u8], kind: u16) -> Option<&[u8]> {
    attrs(data).find(|a| a.kind == kind).map(|a| a.data)
}

impl<'a> Attr<'a> {
    pub(crate) fn u8(&self) -> u8 {
        self.data.first().copied().unwrap_or(0)
    }

    pub(crate) fn u16(&self) -> u16 {
        u16_at(self.data, 0).unwrap_or(0)
    }

    pub(crate) fn u32(&self) -> u32 {
        u32_at(self.data, 0).unwrap_or(0)
    }

    /// The text up to the first NUL; bytes that are not UTF-8 are replaced.
    pub(crate) fn text(&self) -> String {
        let end = self.data.iter().position(|b| *b == 0).unwrap_or(self.data.len());
        String::from_utf8_lossy(&self.data[..end]).into_owned()
    }
}

pub(crate) fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(data.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(data.get(at..at + 4)?.try_into().ok()?))
}

pub(crate) fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(data.get(at..at + 8)?.try_into().ok()?))
}

/// A number in network byte order, as nftables attributes are.
pub(crate) fn be64_at(data: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(data.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_nested_message_reads_back() {
        let mut m = Msg::new(16, 1, "test", "x").raw(&[0; 16]);
        m.text(3, "br0");
        m.nest(18, |m| {
            m.text(1, "bridge");
            m.nest(2, |m| m.u32(5, 7));
        });
        let bytes = m.seal(9).to_vec();
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!((all.len(), all[0].kind, all[0].seq), (1, 16, 9));
        let body = &all[0].body[16..];
        assert_eq!(attrs(body).next().map(|a| a.text()).as_deref(), Some("br0"));
        let data = find(find(body, 18).unwrap(), 2).unwrap();
        assert_eq!(attrs(data).next().map(|a| a.u32()), Some(7));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            for m in messages(&data) {
                for a in attrs(m.body) {
                    let _ = (a.u8(), a.u16(), a.u32(), a.text());
                    let _ = attrs(a.data).count();
                }
            }
            let _ = attrs(&data).count();
        }
    }
}
