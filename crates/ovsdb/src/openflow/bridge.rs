//! A connection to a bridge, by the socket that it is managed by.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::flow::{self, Flow};
use super::group::{self, Bucket, Group};
use super::meter::{self, Meter};
use super::read::{self, Seen};
use super::{HEADER, NICIRA, VERSION, kind, message};
use crate::error::{Error, Result};

/// A change of a bridge's flows or groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Removes all flows and all groups.
    Clear,
    /// Adds a flow, in place of the one with its table, priority and match; that one's counters go on.
    Add(Flow),
    /// Removes the flow with its table, priority and match.
    Remove(Flow),
    /// Removes the flows of a table with this cookie: what was learned.
    Forget {
        /// The table.
        table: u8,
        /// The cookie.
        cookie: u64,
    },
    /// Adds a group.
    Group(Group),
    /// Adds a bucket to a group.
    Join(u32, Bucket),
    /// Takes a bucket out of a group, by its number.
    Leave(u32, u32),
}

impl Change {
    /// The messages that it takes: kind and body.
    fn messages(&self) -> Vec<(u8, Vec<u8>)> {
        let flow = |body| (kind::FLOW_MOD, body);
        let group = |body| (kind::GROUP_MOD, body);
        match self {
            Self::Clear => vec![
                flow(flow::forget(u8::MAX, None)),
                group(group::body(group::Command::Delete, group::EVERY, group::NONE, &[])),
            ],
            Self::Add(f) => vec![flow(f.body(flow::Command::Add))],
            Self::Remove(f) => vec![flow(f.body(flow::Command::DeleteStrict))],
            Self::Forget { table, cookie } => vec![flow(flow::forget(*table, Some(*cookie)))],
            Self::Group(g) => {
                // A bucket at a time: a group may be longer than a message.
                let made = group(group::body(group::Command::Add, g.id, group::NONE, &[]));
                let joins = g.buckets.iter().flat_map(|b| Self::Join(g.id, b.clone()).messages());
                [made].into_iter().chain(joins).collect()
            }
            Self::Join(id, bucket) => {
                let one = std::slice::from_ref(bucket);
                vec![group(group::body(group::Command::InsertBucket, *id, group::LAST, one))]
            }
            Self::Leave(id, bucket) => vec![group(group::body(group::Command::RemoveBucket, *id, *bucket, &[]))],
        }
    }
}

const OPEN: u16 = 0;
const COMMIT: u16 = 4;
/// All of a bundle or nothing, and in order (`OFPBF_ATOMIC`, `OFPBF_ORDERED`).
const TOGETHER: u16 = 3;
const FLOW_DESC: u16 = 1;
const GROUP_DESC: u16 = 7;
/// More parts follow (`OFPMPF_REPLY_MORE`).
const MORE: u16 = 1;

/// A bridge, which is connected to when something is asked of it.
#[derive(Debug)]
pub struct Bridge {
    name: String,
    path: PathBuf,
    timeout: Duration,
    stream: Option<UnixStream>,
    xid: u32,
}

/// A message that was received.
pub(super) struct Heard {
    pub(super) kind: u8,
    pub(super) xid: u32,
    pub(super) body: Vec<u8>,
}

impl Bridge {
    /// The bridge of a name, whose socket is in the directory where ovs-vswitchd keeps them. An answer that takes longer than
    /// `timeout` is none.
    pub fn new(directory: &Path, name: &str, timeout: Duration) -> Self {
        let path = directory.join(format!("{name}.mgmt"));
        Self { name: name.to_owned(), path, timeout, stream: None, xid: 0 }
    }

    /// Whether it is there, and was all the time since something was last asked of it. One that was never asked is not.
    pub fn is_alive(&mut self) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let look = stream.set_nonblocking(true);
        // Nobody speaks to us unasked but to ask whether we are alive, and then we are seldom enough asked to connect anew.
        let read = look.and_then(|()| stream.read(&mut [0; 64]));
        let alive = matches!(read, Err(e) if e.kind() == ErrorKind::WouldBlock);
        if !alive || stream.set_nonblocking(false).is_err() {
            self.stream = None;
        }
        self.stream.is_some()
    }

    /// Makes all these changes at once, or none of them.
    ///
    /// # Errors
    /// [`Error::Flow`] if the bridge refused, and nothing was done. After any other error it is not known.
    pub fn apply(&mut self, changes: &[Change]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let answer = self.bundle(changes);
        if answer.is_err() {
            // Whatever the bridge still says about it is not heard.
            self.stream = None;
        }
        answer
    }

    fn bundle(&mut self, changes: &[Change]) -> Result<()> {
        self.connect()?;
        self.xid += 1;
        let bundle = self.xid;
        let control = |what: u16| [&bundle.to_be_bytes()[..], &what.to_be_bytes(), &TOGETHER.to_be_bytes()].concat();
        let open = self.xid;
        let mut bytes = message(kind::BUNDLE_CONTROL, open, &control(OPEN));
        for (kind, body) in changes.iter().flat_map(Change::messages) {
            self.xid += 1;
            if body.len() + 2 * HEADER + 8 > usize::from(u16::MAX) {
                return Err(Error::nonsense(&self.path, format!("a flow of {} bytes is too long", body.len())));
            }
            let inner = message(kind, self.xid, &body);
            let add = [&bundle.to_be_bytes()[..], &[0; 2], &TOGETHER.to_be_bytes(), &inner].concat();
            bytes.extend(message(kind::BUNDLE_ADD, self.xid, &add));
        }
        self.xid += 1;
        let last = self.xid;
        bytes.extend(message(kind::BUNDLE_CONTROL, last, &control(COMMIT)));
        self.send(&bytes)?;
        self.done(open, last, kind::BUNDLE_CONTROL, "a bundle of flows")
    }

    /// Makes the connection tracker of the bridge's data path forget everything in these zones.
    ///
    /// # Errors
    /// When it refuses, or cannot be asked.
    pub fn forget_zones(&mut self, zones: &[u16]) -> Result<()> {
        // `NXT_CT_FLUSH_ZONE`.
        let flush =
            |zone: &u16| [&NICIRA.to_be_bytes()[..], &29u32.to_be_bytes(), &[0; 6], &zone.to_be_bytes()].concat();
        self.tell(zones.iter().map(|zone| (kind::EXPERIMENTER, flush(zone))).collect())
    }

    /// Makes these meters, in place of those with their numbers.
    ///
    /// # Errors
    /// When it refuses, or cannot be asked.
    pub fn set_meters(&mut self, meters: &[Meter]) -> Result<()> {
        let anew = |m: &Meter| [(kind::METER_MOD, meter::delete(m.id)), (kind::METER_MOD, m.body())];
        self.tell(meters.iter().flat_map(anew).collect())
    }

    /// Says messages that have no answer, and waits until they are done.
    fn tell(&mut self, messages: Vec<(u8, Vec<u8>)>) -> Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let told = self.told(messages);
        if told.is_err() {
            self.stream = None;
        }
        told
    }

    fn told(&mut self, messages: Vec<(u8, Vec<u8>)>) -> Result<()> {
        self.connect()?;
        let first = self.xid + 1;
        let mut bytes = Vec::new();
        for (kind, body) in messages.into_iter().chain([(kind::BARRIER_REQUEST, vec![])]) {
            self.xid += 1;
            bytes.extend(message(kind, self.xid, &body));
        }
        let last = self.xid;
        self.send(&bytes)?;
        self.done(first, last, kind::BARRIER_REPLY, "zones or meters")
    }

    /// Waits until the last of some messages is answered, or any of them is refused.
    fn done(&mut self, first: u32, last: u32, by: u8, what: &'static str) -> Result<()> {
        let until = Instant::now() + self.timeout;
        loop {
            let heard = self.receive(until, what)?;
            match heard.kind {
                kind::ERROR if (first..=last).contains(&heard.xid) => {
                    let code = |at: usize| heard.body.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
                    return Err(Error::Flow { bridge: self.name.clone(), kind: code(0), code: code(2) });
                }
                kind if kind == by && heard.xid == last => return Ok(()),
                _ => {}
            }
        }
    }

    /// The flows that the bridge has, or those of one table.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn flows(&mut self, table: Option<u8>) -> Result<Vec<Seen>> {
        let any = u32::MAX.to_be_bytes();
        // Any port, group and cookie; an empty match.
        let body = [&[table.unwrap_or(u8::MAX), 0, 0, 0][..], &any, &any, &[0; 4], &[0; 16], &[0, 1, 0, 4, 0, 0, 0, 0]]
            .concat();
        let parts = self.multipart(FLOW_DESC, &body)?;
        let all: Option<Vec<Vec<Seen>>> = parts.iter().map(|p| read::flows(p)).collect();
        all.map(|all| all.concat()).ok_or_else(|| Error::nonsense(&self.path, "flows that make no sense"))
    }

    /// The groups that the bridge has: the numbers of their buckets, by group.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn groups(&mut self) -> Result<BTreeMap<u32, Vec<u32>>> {
        let body = [group::EVERY.to_be_bytes(), [0; 4]].concat();
        let parts = self.multipart(GROUP_DESC, &body)?;
        let all: Option<Vec<_>> = parts.iter().map(|p| read::groups(p)).collect();
        let all = all.ok_or_else(|| Error::nonsense(&self.path, "groups that make no sense"))?;
        Ok(all.into_iter().flatten().collect())
    }

    /// The parts of an answer that comes in parts.
    fn multipart(&mut self, what: u16, body: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.connect()?;
        self.xid += 1;
        let xid = self.xid;
        let request = [&what.to_be_bytes()[..], &[0; 2], &[0; 4], body].concat();
        self.send(&message(kind::MULTIPART_REQUEST, xid, &request))?;
        let until = Instant::now() + self.timeout;
        let mut parts = Vec::new();
        loop {
            let heard = self.receive(until, "what a bridge has")?;
            match (heard.kind, heard.body.split_at_checked(8)) {
                (kind::MULTIPART_REPLY, Some((head, rest))) if heard.xid == xid => {
                    parts.push(rest.to_vec());
                    if u16::from_be_bytes([head[2], head[3]]) & MORE == 0 {
                        return Ok(parts);
                    }
                }
                (kind::ERROR, _) if heard.xid == xid => {
                    self.stream = None;
                    return Err(Error::nonsense(&self.path, "that it does not know what is asked"));
                }
                _ => {}
            }
        }
    }

    /// Connects, and says which version we speak (section 6.3.1).
    fn connect(&mut self) -> Result<()> {
        if self.stream.is_some() && self.is_alive() {
            return Ok(());
        }
        let stream = UnixStream::connect(&self.path).map_err(|e| Error::gone(&self.path, e))?;
        self.stream = Some(stream);
        let versions = [0, 1, 0, 8, 0, 0, 0, 1 << VERSION];
        self.xid += 1;
        self.send(&message(kind::HELLO, self.xid, &versions))?;
        let until = Instant::now() + self.timeout;
        let heard = self.receive(until, "its version")?;
        match heard.kind {
            kind::HELLO => Ok(()),
            _ => {
                self.stream = None;
                Err(Error::nonsense(&self.path, "that it does not speak OpenFlow 1.5"))
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(stream) = &mut self.stream else {
            return Err(Error::gone(&self.path, ErrorKind::NotConnected.into()));
        };
        let written = stream.set_write_timeout(Some(self.timeout)).and_then(|()| stream.write_all(bytes));
        written.map_err(|e| {
            self.stream = None;
            Error::gone(&self.path, e)
        })
    }

    /// The next message; answers who asks whether we are alive.
    fn receive(&mut self, until: Instant, what: &'static str) -> Result<Heard> {
        loop {
            let heard = match self.stream.as_mut().map(|stream| next(stream, until)) {
                Some(Ok(heard)) => heard,
                failed => {
                    self.stream = None;
                    return Err(match failed {
                        Some(Err(e)) if !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                            Error::gone(&self.path, e)
                        }
                        None => Error::gone(&self.path, ErrorKind::NotConnected.into()),
                        _ => Error::Silent {
                            path: self.path.display().to_string(),
                            seconds: self.timeout.as_secs(),
                            what,
                        },
                    });
                }
            };
            match heard.kind {
                kind::ECHO_REQUEST => self.send(&message(kind::ECHO_REPLY, heard.xid, &heard.body))?,
                _ => return Ok(heard),
            }
        }
    }
}

/// Reads one message.
pub(super) fn next(stream: &mut UnixStream, until: Instant) -> std::io::Result<Heard> {
    let mut read = |bytes: &mut [u8]| {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left))?;
        stream.read_exact(bytes)
    };
    let mut header = [0; HEADER];
    read(&mut header)?;
    let [_, kind, high, low, xid @ ..] = header;
    let length = usize::from(u16::from_be_bytes([high, low])).checked_sub(HEADER);
    let length =
        length.ok_or_else(|| std::io::Error::new(ErrorKind::InvalidData, "a message shorter than its header"))?;
    let mut body = vec![0; length];
    read(&mut body)?;
    Ok(Heard { kind, xid: u32::from_be_bytes(xid), body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    proptest::proptest! {
        #[test]
        fn no_bytes_from_a_bridge_make_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64)) {
            let dir = tempfile::tempdir().unwrap();
            let listener = UnixListener::bind(dir.path().join("br.mgmt")).unwrap();
            let thread = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.write_all(&message(kind::HELLO, 1, &[]));
                let _ = stream.write_all(&bytes);
            });
            let mut bridge = Bridge::new(dir.path(), "br", Duration::from_millis(50));
            let _ = bridge.flows(None);
            thread.join().unwrap();
        }
    }

    #[test]
    fn a_bridge_that_is_not_there_is_said_to_be_gone() {
        let mut bridge = Bridge::new(Path::new("/nonexistent"), "br0", Duration::from_secs(1));
        assert!(!bridge.is_alive());
        let error = bridge.apply(&[Change::Clear]).unwrap_err();
        assert!(error.is_gone());
        assert!(error.to_string().contains("/nonexistent/br0.mgmt"), "{error}");
    }
}
