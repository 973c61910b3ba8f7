//! nftables: rulesets as text, once, through the `nft` program; elements of sets and maps by
//! netlink, always, because a program costs 15 ms and an element some microseconds.
//!
//! Only our own tables are ever read back. Numbers from include/uapi/linux/netfilter/nf_tables.h.

mod rule;

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use crate::error::{Error, Result};
use crate::msg::{self, Msg};
use crate::netns::Netns;
use crate::socket::{Socket, verdict};

pub use self::rule::{Base, Copying, Expr};

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYS: u16 = 10;
const GETTABLE: u16 = 1;
const DELTABLE: u16 = 2;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;

const TABLE_NAME: u16 = 1;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const ELEM_KEY: u16 = 1;
const ELEM_DATA: u16 = 2;
const ELEM_EXPR: u16 = 7;
const ELEM_KEY_END: u16 = 10;
const ELEM_EXPRESSIONS: u16 = 11;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
/// The list of elements is one attribute, so its length must fit in 16 bits.
const LIST_BYTES: usize = 48 * 1024;

/// The family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4 alone.
    Ip,
    /// IPv6 alone.
    Ip6,
    /// Frames that a bridge forwards.
    Bridge,
    /// Frames as a device takes them in or gives them out.
    Netdev,
    /// ARP to and from the host itself.
    Arp,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Arp => 3,
            Self::Ip => 2,
            Self::Netdev => 5,
            Self::Bridge => 7,
            Self::Ip6 => 10,
        }
    }
}

/// The bytes of a key or a value of a map. Fields are put one after the other; where there is more
/// than one, each is padded to four bytes, as the kernel lays out a concatenation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Data {
    bytes: Vec<u8>,
    fields: usize,
    last: usize,
}

impl Data {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a field of bytes as they are.
    pub fn bytes(mut self, field: &[u8]) -> Self {
        self.bytes.resize(msg::align(self.bytes.len()), 0);
        self.bytes.extend_from_slice(field);
        self.fields += 1;
        self.last = field.len();
        self
    }

    /// Appends a device name (`ifname`: 16 bytes, NUL-padded). Longer names are cut.
    pub fn ifname(self, name: &str) -> Self {
        let mut field = [0; libc::IFNAMSIZ];
        let n = name.len().min(libc::IFNAMSIZ - 1);
        field[..n].copy_from_slice(&name.as_bytes()[..n]);
        self.bytes(&field)
    }

    /// Appends a MAC address (`ether_addr`).
    pub fn mac(self, mac: [u8; 6]) -> Self {
        self.bytes(&mac)
    }

    /// Appends an IP address (`ipv4_addr` or `ipv6_addr`).
    pub fn ip(self, ip: IpAddr) -> Self {
        self.bytes(&crate::addr::octets(ip))
    }

    /// Appends a number in host order (`iface_index`, `mark`).
    pub fn native(self, value: u32) -> Self {
        self.bytes(&value.to_ne_bytes())
    }

    /// Appends a port number or another 16-bit field of a packet, in network order.
    pub fn be16(self, value: u16) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    /// The bytes as the kernel wants them.
    fn laid_out(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        if self.fields > 1 {
            bytes.resize(msg::align(bytes.len()), 0);
        }
        bytes
    }
}

/// What a map says about a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A value.
    Data(Data),
    /// A verdict map's jump to a chain.
    Jump(String),
    /// A verdict map's accept.
    Accept,
    /// A verdict map's drop.
    Drop,
}

/// An element of a set or a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// The key.
    pub key: Data,
    /// The last key of a range, in a set of concatenated ranges.
    pub key_end: Option<Data>,
    /// The value, in a map.
    pub value: Option<Value>,
}

impl Element {
    /// An element of a set.
    pub fn key(key: Data) -> Self {
        Self { key, key_end: None, value: None }
    }

    /// An element of a map.
    pub fn pair(key: Data, value: Data) -> Self {
        Self { key, key_end: None, value: Some(Value::Data(value)) }
    }

    /// An element of a verdict map.
    pub fn verdict(key: Data, value: Value) -> Self {
        Self { key, key_end: None, value: Some(value) }
    }
}

/// An element as the kernel lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// The key's bytes, padded if it is a concatenation.
    pub key: Vec<u8>,
    /// The value's bytes, of a map of values; empty otherwise.
    pub value: Vec<u8>,
    /// How many packets its counter saw, if it has one.
    pub packets: Option<u64>,
    /// How many bytes its counter saw, if it has one.
    pub bytes: Option<u64>,
}

/// Changes of sets and maps of one table that happen all together or not at all.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    steps: Vec<(bool, String, Element)>,
}

impl Changes {
    /// No changes yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an element. One that is there already with the same value is no fault.
    pub fn add(&mut self, set: &str, element: Element) -> &mut Self {
        self.steps.push((true, set.to_owned(), element));
        self
    }

    /// Deletes an element. One that is not there is no fault.
    pub fn delete(&mut self, set: &str, key: Data) -> &mut Self {
        self.steps.push((false, set.to_owned(), Element::key(key)));
        self
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// How many elements are added or deleted.
    pub fn len(&self) -> usize {
        self.steps.len()
    }
}

/// An nftables socket of one network namespace.
#[derive(Debug)]
pub struct Nft {
    socket: Socket,
}

/// `struct nfgenmsg`.
fn head(family: u8, resource: u16) -> [u8; 4] {
    let r = resource.to_be_bytes();
    [family, 0, r[0], r[1]]
}

impl Nft {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// When the system refuses the socket.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Socket::open(libc::NETLINK_NETFILTER)? })
    }

    /// Opens a socket in a namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the system refuses the socket.
    pub fn open_in(netns: &Netns) -> Result<Self> {
        netns.run(Self::open)?
    }

    /// Makes changes in one transaction of the kernel, in order.
    ///
    /// # Errors
    /// What the kernel refused; then nothing has changed. `ENOENT` if the table or a set is not
    /// there.
    pub fn apply(&mut self, family: Family, table: &str, changes: &Changes) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        match self.transact(family, table, &changes.steps) {
            Err(e) if e.is_missing() && changes.steps.iter().any(|(add, ..)| !add) => {}
            done => return done,
        }
        // Something to delete is not there, and a transaction takes no "if": leave it out.
        let mut steps = changes.steps.clone();
        let mut sets: Vec<String> = steps.iter().map(|(_, set, _)| set.clone()).collect();
        sets.sort();
        sets.dedup();
        for set in sets {
            let mut there: std::collections::HashSet<Vec<u8>> =
                self.elements(family, table, &set)?.into_iter().map(|e| e.key).collect();
            steps.retain(|(add, of, element)| {
                if *of != set {
                    return true;
                }
                let key = element.key.laid_out();
                if *add { there.insert(key) || element.value.is_some() } else { there.remove(&key) }
            });
        }
        self.transact(family, table, &steps)
    }

    fn transact(&mut self, family: Family, table: &str, steps: &[(bool, String, Element)]) -> Result<()> {
        let mut msgs = Vec::new();
        let mut rest = steps;
        while let Some((add, set, _)) = rest.first() {
            let mut size = 0;
            let run = rest
                .iter()
                .take_while(|(a, s, e)| {
                    size += e.key.bytes.len() + 128;
                    a == add && s == set && size < LIST_BYTES
                })
                .count()
                .max(1);
            let (now, later) = rest.split_at(run);
            msgs.push(elements_message(family, table, *add, set, now));
            rest = later;
        }
        if msgs.is_empty() {
            return Ok(());
        }
        self.batch(msgs)
    }

    /// Deletes a table with everything in it.
    ///
    /// # Errors
    /// [`Error::is_missing`] if there is none.
    pub fn delete_table(&mut self, family: Family, table: &str) -> Result<()> {
        let mut m = Msg::new(SUBSYS << 8 | DELTABLE, 0, "delete nftables table", table).raw(&head(family.number(), 0));
        m.text(TABLE_NAME, table);
        self.batch(vec![m])
    }

    /// Whether there is a table of a name.
    ///
    /// # Errors
    /// When the kernel refuses for another reason, for example because it has no nftables.
    pub fn has_table(&mut self, family: Family, table: &str) -> Result<bool> {
        let mut m = Msg::new(SUBSYS << 8 | GETTABLE, 0, "look up nftables table", table).raw(&head(family.number(), 0));
        m.text(TABLE_NAME, table);
        match self.socket.query(m, |_| Some(())) {
            Ok(()) => Ok(true),
            Err(e) if e.is_missing() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The names of the tables of a family.
    ///
    /// # Errors
    /// What the kernel refused, for example because it has no such family.
    pub fn tables(&mut self, family: Family) -> Result<Vec<String>> {
        let m = Msg::new(SUBSYS << 8 | GETTABLE, 0, "list nftables tables", "").raw(&head(family.number(), 0));
        self.socket.dump(m, |body| Some(rule::text(msg::find(body.get(4..)?, TABLE_NAME)?)))
    }

    /// The elements of a set or map, in no order.
    ///
    /// # Errors
    /// [`Error::is_missing`] if the table or the set is not there.
    pub fn elements(&mut self, family: Family, table: &str, set: &str) -> Result<Vec<Listed>> {
        let subject = format!("{table} {set}");
        let mut m = Msg::new(SUBSYS << 8 | GETSETELEM, 0, "list nftables set", subject).raw(&head(family.number(), 0));
        m.text(LIST_TABLE, table);
        m.text(LIST_SET, set);
        let lists = self.socket.dump(m, |body| {
            let list = msg::find(body.get(4..)?, LIST_ELEMENTS)?;
            Some(msg::attrs(list).map(|e| parse_element(e.data)).collect::<Vec<_>>())
        })?;
        Ok(lists.into_iter().flatten().collect())
    }

    /// Sends a transaction. The kernel works it off before `send` returns, so every answer is
    /// queued by then (net/netfilter/nfnetlink.c, nfnetlink_rcv_batch).
    fn batch(&mut self, mut msgs: Vec<Msg>) -> Result<()> {
        let mut data = Vec::new();
        let mark = |socket: &mut Socket, kind, data: &mut Vec<u8>| {
            let mut m = Msg::new(kind, libc::NLM_F_REQUEST, "transaction", "").raw(&head(0, SUBSYS));
            let seq = socket.next_seq();
            data.extend_from_slice(m.seal(seq));
            seq
        };
        let first = mark(&mut self.socket, BATCH_BEGIN, &mut data);
        if let Some(last) = msgs.last_mut() {
            last.add_flags(libc::NLM_F_ACK);
        }
        for m in &mut msgs {
            m.add_flags(libc::NLM_F_REQUEST);
            let seq = self.socket.next_seq();
            data.extend_from_slice(m.seal(seq));
        }
        mark(&mut self.socket, BATCH_END, &mut data);
        let name = |m: &Msg| (m.op, m.subject.clone());
        let (op, subject) = msgs.first().map(name).unwrap_or(("transaction", String::new()));
        // A transaction is one datagram: make room for it.
        let room = i32::try_from(data.len().saturating_mul(2)).unwrap_or(i32::MAX).max(4 << 20);
        let grown = crate::socket::set_int(
            std::os::fd::AsFd::as_fd(&self.socket),
            libc::SOL_SOCKET,
            libc::SO_SNDBUFFORCE,
            room,
        );
        grown.and_then(|()| self.socket.send(&data)).map_err(|e| Error::io(op, subject.clone(), e))?;
        let mut acknowledged = false;
        let mut failure = None;
        while let Some(datagram) = self.socket.receive(false).map_err(|e| Error::io(op, subject.clone(), e))? {
            for answer in msg::messages(datagram) {
                let at = (answer.seq.wrapping_sub(first) as usize).wrapping_sub(1);
                let Some(m) = msgs.get(at).or(msgs.first()) else {
                    continue;
                };
                match verdict(&answer, m) {
                    Ok(()) => acknowledged = true,
                    Err(e) => failure = failure.or(Some(e)),
                }
            }
        }
        match failure {
            Some(e) => Err(e),
            None if acknowledged => Ok(()),
            None => Err(Error::Malformed { op, subject, what: "no acknowledgement" }),
        }
    }
}

fn elements_message(family: Family, table: &str, add: bool, set: &str, steps: &[(bool, String, Element)]) -> Msg {
    let (kind, flags, op) = if add {
        (NEWSETELEM, libc::NLM_F_CREATE, "add elements to nftables set")
    } else {
        (DELSETELEM, 0, "delete elements of nftables set")
    };
    let mut m = Msg::new(SUBSYS << 8 | kind, flags, op, format!("{table} {set}")).raw(&head(family.number(), 0));
    m.text(LIST_TABLE, table);
    m.text(LIST_SET, set);
    m.nest(LIST_ELEMENTS, |m| {
        for (_, _, element) in steps {
            m.nest(1 /* NFTA_LIST_ELEM */, |m| put_element(m, element));
        }
    });
    m
}

fn put_element(m: &mut Msg, element: &Element) {
    let data = |m: &mut Msg, kind, data: &Data| {
        m.nest(kind, |m| m.attr(DATA_VALUE, &data.laid_out()));
    };
    data(m, ELEM_KEY, &element.key);
    if let Some(end) = &element.key_end {
        data(m, ELEM_KEY_END, end);
    }
    let code = |m: &mut Msg, code: i32, chain: Option<&str>| {
        m.nest(ELEM_DATA, |m| {
            m.nest(DATA_VERDICT, |m| {
                m.attr(VERDICT_CODE, &code.to_be_bytes());
                if let Some(chain) = chain {
                    m.text(VERDICT_CHAIN, chain);
                }
            });
        });
    };
    match &element.value {
        None => {}
        Some(Value::Data(value)) => data(m, ELEM_DATA, value),
        Some(Value::Jump(chain)) => code(m, -3 /* NFT_JUMP */, Some(chain)),
        Some(Value::Accept) => code(m, 1 /* NF_ACCEPT */, None),
        Some(Value::Drop) => code(m, 0 /* NF_DROP */, None),
    }
}

fn parse_element(data: &[u8]) -> Listed {
    let mut listed = Listed::default();
    for a in msg::attrs(data) {
        match a.kind {
            ELEM_KEY => listed.key = msg::find(a.data, DATA_VALUE).unwrap_or_default().to_vec(),
            ELEM_DATA => listed.value = msg::find(a.data, DATA_VALUE).unwrap_or_default().to_vec(),
            ELEM_EXPR => parse_counter(&mut listed, a.data),
            ELEM_EXPRESSIONS => msg::attrs(a.data).for_each(|e| parse_counter(&mut listed, e.data)),
            _ => {}
        }
    }
    listed
}

/// Reads an expression if it is a counter: name 1, data 2; in it bytes 1 and packets 2.
fn parse_counter(listed: &mut Listed, expression: &[u8]) {
    if msg::find(expression, 1).is_none_or(|name| name.strip_suffix(b"\0") != Some(b"counter")) {
        return;
    }
    let Some(counter) = msg::find(expression, 2) else {
        return;
    };
    listed.bytes = msg::find(counter, 1).and_then(|d| msg::be64_at(d, 0));
    listed.packets = msg::find(counter, 2).and_then(|d| msg::be64_at(d, 0));
}

/// Loads a ruleset text with `nft -f -`, in one transaction, into the calling thread's namespace.
/// Takes some 15 ms: for the rules, once; facts go by [`Nft::apply`].
///
/// # Errors
/// [`Error::Nft`] with what the program said; [`Error::Io`] if there is no such program.
pub fn load(ruleset: &str) -> Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| Error::io("start", "nft", e))?;
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(ruleset.as_bytes()));
    let output = child.wait_with_output().map_err(|e| Error::io("wait for", "nft", e))?;
    if !output.status.success() {
        return Err(Error::Nft(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    written.unwrap_or(Ok(())).map_err(|e| Error::io("write to", "nft", e))
}

/// As [`load`], in a namespace.
///
/// # Errors
/// As [`load`], and when the namespace cannot be entered.
pub fn load_in(netns: &Netns, ruleset: &str) -> Result<()> {
    netns.run(|| load(ruleset))?
}
