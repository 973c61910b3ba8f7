//! Answers of a DHCPv4 server, rewritten (RFC 2131, RFC 2132, RFC 3396, RFC 3442).

use std::net::Ipv4Addr;

use super::{Dropped, Role};
use crate::v4::message::{COOKIE, FIXED, MIN_SIZE, option};
use crate::v4::record::put;

/// Where `file` and `sname` are in the fixed part (RFC 2131 section 2).
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;
/// Option 33: routes by class, which some clients make whole /8s of.
const CLASSFUL: u8 = 33;
/// The largest UDP payload that every client takes (RFC 2131 section 2: 576 bytes with headers).
const SMALLEST_LIMIT: usize = 548;
const ETHERNET: u16 = 1500;

/// What an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An address is offered.
    Offer,
    /// An address is the client's, or settings without one.
    Acknowledge,
    /// A request is refused.
    Refuse,
}

/// An answer as it is handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The UDP payload.
    pub payload: Vec<u8>,
    /// What it says.
    pub kind: Kind,
    /// The client's MAC.
    pub client: [u8; 6],
    /// The address that the client has or gets.
    pub address: Ipv4Addr,
    /// Prefix length of its subnet, where the answer says so.
    pub prefix: Option<u8>,
    /// Whether it answers a client that uses an address already: a renewal.
    pub renewal: bool,
    /// The server.
    pub server: Option<Ipv4Addr>,
    /// Lease time as it is handed on, in seconds; none in an answer to INFORM.
    pub seconds: Option<u32>,
    /// Lease time as the server said it, in seconds: how long it holds the address.
    pub held: Option<u32>,
    /// The router that the server offered, whether it is handed on or not.
    pub offered: Option<Ipv4Addr>,
    /// The default route that it names after the rewriting.
    pub router: Option<Ipv4Addr>,
    /// The specific routes that it names after the rewriting, encoded (RFC 3442).
    pub routes: Vec<u8>,
    /// The MTU that it names after the rewriting, in bytes.
    pub mtu: Option<u16>,
}

/// Reads whose answer it is, without rewriting it: the client's MAC (`chaddr`).
pub fn client(payload: &[u8]) -> Option<[u8; 6]> {
    payload.get(28..34)?.try_into().ok()
}

/// Rewrites an answer for the NIC that `role` is of.
///
/// # Errors
/// When it cannot be read, is no answer, or does not fit any more.
pub fn rewrite(payload: &[u8], role: &Role) -> Result<Answer, Dropped> {
    let (fixed, _) = payload.split_at_checked(FIXED).ok_or(Dropped::Malformed("too short"))?;
    if fixed[0] != 2 {
        return Err(Dropped::NotAnAnswer("a request"));
    }
    if fixed[1] != 1 || fixed[2] != 6 || fixed[236..240] != COOKIE {
        return Err(Dropped::Malformed("not DHCP over Ethernet"));
    }
    let (mut options, overload) = collect(payload)?;
    let byte = |code: u8| get(&options, code).and_then(|b| <[u8; 1]>::try_from(b).ok()).map(|b| b[0]);
    let kind = match byte(option::TYPE) {
        Some(2) => Kind::Offer,
        Some(5) => Kind::Acknowledge,
        Some(6) => Kind::Refuse,
        Some(_) => return Err(Dropped::NotAnAnswer("a client's message")),
        None => return Err(Dropped::Malformed("no message type")),
    };
    let address_at = |at: usize| Ipv4Addr::new(fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]);
    let (ciaddr, yiaddr) = (address_at(12), address_at(16));
    let address = if yiaddr.is_unspecified() { ciaddr } else { yiaddr };
    let server = get(&options, option::SERVER).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(Ipv4Addr::from);
    let mut answer = Answer {
        payload: vec![],
        kind,
        client: fixed[28..34].try_into().unwrap_or_default(),
        address,
        prefix: get(&options, option::SUBNET_MASK)
            .and_then(|b| <[u8; 4]>::try_from(b).ok())
            .map(|m| u32::from_be_bytes(m).leading_ones() as u8),
        renewal: !ciaddr.is_unspecified(),
        server,
        seconds: None,
        held: None,
        offered: None,
        router: None,
        routes: vec![],
        mtu: None,
    };
    if kind == Kind::Refuse {
        answer.payload = payload.to_vec();
        return Ok(answer);
    }
    answer.offered = routes(&mut options, role, address)?;
    answer.router = routers(&options).next();
    answer.routes = get(&options, option::ROUTES).map(<[u8]>::to_vec).unwrap_or_default();
    if !role.dns4 {
        options.retain(|(code, _)| ![option::DNS, option::DOMAIN, option::SEARCH].contains(code));
    }
    answer.held = number(&options, option::LEASE)?;
    answer.seconds = times(&mut options, role.longest)?;
    mtu(&mut options, role);
    answer.mtu = get(&options, option::MTU).and_then(|b| <[u8; 2]>::try_from(b).ok()).map(u16::from_be_bytes);
    let mut fixed = fixed.to_vec();
    if overload & 1 != 0 {
        fixed[FILE].fill(0);
    }
    if overload & 2 != 0 {
        fixed[SNAME].fill(0);
    }
    answer.payload = encode(fixed, &options, overload, payload.len().max(SMALLEST_LIMIT))?;
    Ok(answer)
}

/// A refusal in an answer's place, so that the client starts afresh and learns its new routes (RFC 2131 section 4.3.2).
pub fn refusal(answer: &Answer) -> Vec<u8> {
    let original = &answer.payload;
    let mut out = original.get(..FIXED).unwrap_or_default().to_vec();
    out[3] = 0;
    out[12..28].fill(0);
    out[44..236].fill(0);
    put(&mut out, option::TYPE, &[6]);
    if let Some(server) = answer.server {
        put(&mut out, option::SERVER, &server.octets());
    }
    put(&mut out, option::TEXT, b"routes or settings have changed: start afresh");
    out.push(option::END);
    out.resize(out.len().max(MIN_SIZE), option::PAD);
    out
}

pub(crate) type Options = Vec<(u8, Vec<u8>)>;

pub(crate) fn get(options: &Options, code: u8) -> Option<&[u8]> {
    options.iter().find(|(c, _)| *c == code).map(|(_, b)| b.as_slice())
}

/// All options by code, in the order of their first appearance; those in several parts joined (RFC 3396 section 5:
/// first the options field, then `file`, then `sname`). Second: what option 52 said.
pub(crate) fn collect(payload: &[u8]) -> Result<(Options, u8), Dropped> {
    let mut options = Options::new();
    read(&payload[FIXED..], &mut options)?;
    let overload = match options.iter().position(|(c, _)| *c == option::OVERLOAD) {
        None => 0,
        Some(at) => match options.remove(at).1.as_slice() {
            [n @ 1..=3] => *n,
            _ => return Err(Dropped::Malformed("option 52 is neither 1, 2 nor 3")),
        },
    };
    if overload & 1 != 0 {
        read(&payload[FILE], &mut options)?;
    }
    if overload & 2 != 0 {
        read(&payload[SNAME], &mut options)?;
    }
    if options.iter().any(|(c, _)| *c == option::OVERLOAD) {
        return Err(Dropped::Malformed("option 52 inside an overloaded field"));
    }
    Ok((options, overload))
}

fn read(mut bytes: &[u8], options: &mut Options) -> Result<(), Dropped> {
    while let Some((&code, rest)) = bytes.split_first() {
        match code {
            option::PAD => bytes = rest,
            option::END => return Ok(()),
            code => {
                let (&len, rest) = rest.split_first().ok_or(Dropped::Malformed("an option without length"))?;
                let cut = rest.split_at_checked(usize::from(len));
                let (body, rest) = cut.ok_or(Dropped::Malformed("an option reaches beyond its field"))?;
                match options.iter_mut().find(|(c, _)| *c == code) {
                    Some((_, whole)) => whole.extend_from_slice(body),
                    None => options.push((code, body.to_vec())),
                }
                bytes = rest;
            }
        }
    }
    Ok(())
}

pub(crate) fn routers(options: &Options) -> impl Iterator<Item = Ipv4Addr> + '_ {
    let body = get(options, option::ROUTER).unwrap_or_default();
    body.chunks_exact(4).map(|a| Ipv4Addr::new(a[0], a[1], a[2], a[3]))
}

/// A route of option 121: prefix length, and the whole entry as it is encoded.
pub(crate) type Entry = (u8, Vec<u8>);

pub(crate) fn entries(mut body: &[u8]) -> Result<Vec<Entry>, Dropped> {
    let mut out = vec![];
    while let Some(&len) = body.first() {
        let size = 1 + usize::from(len.div_ceil(8)) + 4;
        if len > 32 || body.len() < size {
            return Err(Dropped::Malformed("a route of option 121 or 249 is cut short"));
        }
        out.push((len, body[..size].to_vec()));
        body = &body[size..];
    }
    Ok(out)
}

/// Whether an entry stands for everything. Two halves of it do, too.
fn is_default((len, _): &Entry) -> bool {
    *len <= 1
}

/// The next hop of the default route, where the list has one.
pub(crate) fn default_hop(list: &[Entry]) -> Option<Ipv4Addr> {
    list.iter().find(|e| e.0 == 0).map(next_hop)
}

fn next_hop((_, entry): &Entry) -> Ipv4Addr {
    let n = entry.len();
    Ipv4Addr::new(entry[n - 4], entry[n - 3], entry[n - 2], entry[n - 1])
}

/// The rule for routes: on a secondary no router and no default route in any option; on the primary both, because a
/// client that knows option 121 must ignore option 3 (RFC 3442), and one that does not knows only that. Never option 33.
/// Returns the router that the server offered.
fn routes(options: &mut Options, role: &Role, own: Ipv4Addr) -> Result<Option<Ipv4Addr>, Dropped> {
    options.retain(|(c, _)| *c != CLASSFUL);
    if get(options, option::ROUTER).is_some_and(|b| b.is_empty() || b.len() % 4 != 0) {
        return Err(Dropped::Malformed("option 3 is not a list of addresses"));
    }
    let usable = |a: &Ipv4Addr| !a.is_unspecified() && !a.is_broadcast() && *a != own;
    let listed: Vec<Ipv4Addr> = routers(options).filter(usable).collect();
    let mut lists = vec![];
    for code in [option::ROUTES, option::ROUTES_MS] {
        let Some(body) = get(options, code) else { continue };
        lists.push((code, entries(body)?));
    }
    let default = |list: &[Entry]| default_hop(list).filter(usable);
    // Wherever it says so: a client takes one of the three and never looks at the others.
    let offered = listed.first().copied().or_else(|| lists.iter().find_map(|(_, list)| default(list)));
    for (code, mut list) in lists {
        if !role.default4 {
            list.retain(|e| !is_default(e));
        } else if default(&list).is_none() {
            list.retain(|e| e.0 != 0);
            list.extend(offered.map(|router| (0, [&[0][..], &router.octets()].concat())));
        }
        let at = options.iter().position(|(c, _)| *c == code);
        if let Some(at) = at.filter(|_| list.is_empty()) {
            options.remove(at);
        } else if let Some(at) = at {
            options[at].1 = list.into_iter().flat_map(|(_, entry)| entry).collect();
        }
    }
    options.retain(|(c, _)| *c != option::ROUTER);
    if role.default4 {
        let routers = if listed.is_empty() { offered.into_iter().collect() } else { listed };
        if !routers.is_empty() {
            options.push((option::ROUTER, routers.iter().flat_map(|a| a.octets()).collect()));
        }
    }
    Ok(offered)
}

/// The number of seconds that an option is.
fn number(options: &Options, code: u8) -> Result<Option<u32>, Dropped> {
    get(options, code)
        .map(|b| <[u8; 4]>::try_from(b).map(u32::from_be_bytes))
        .transpose()
        .map_err(|_| Dropped::Malformed("a time that is not four bytes"))
}

/// Shortens the lease, so that the guest asks again in time; never lengthens it.
fn times(options: &mut Options, longest: u32) -> Result<Option<u32>, Dropped> {
    let Some(lease) = number(options, option::LEASE)? else { return Ok(None) };
    let lease = lease.min(longest);
    let limits = [(option::LEASE, lease), (option::T1, lease / 2), (option::T2, (u64::from(lease) * 7 / 8) as u32)];
    for (code, limit) in limits {
        if let Some(n) = number(options, code)?
            && let Some((_, body)) = options.iter_mut().find(|(c, _)| *c == code)
        {
            *body = n.min(limit).to_be_bytes().to_vec();
        }
    }
    Ok(Some(lease))
}

fn mtu(options: &mut Options, role: &Role) {
    let most = u16::try_from(role.mtu.get()).unwrap_or(u16::MAX);
    let said = options.iter_mut().find(|(c, _)| *c == option::MTU);
    match said {
        Some((_, body)) => {
            let said = <[u8; 2]>::try_from(body.as_slice()).map_or(u16::MAX, u16::from_be_bytes);
            *body = said.min(most).to_be_bytes().to_vec();
        }
        None if most < ETHERNET => options.push((option::MTU, most.to_be_bytes().to_vec())),
        None => {}
    }
}

/// The message again: what matters first, relay information last (RFC 3046 section 2.1), the rest in its order. Where it
/// would become longer than `limit`, the fields that held options before hold them again.
fn encode(mut out: Vec<u8>, options: &Options, overload: u8, limit: usize) -> Result<Vec<u8>, Dropped> {
    let rank = |code: u8| match code {
        option::TYPE => 0,
        option::SERVER => 1,
        option::LEASE => 2,
        option::SUBNET_MASK => 3,
        // RFC 3442: before option 3.
        option::ROUTES => 4,
        option::ROUTER => 5,
        option::RELAY => 9,
        _ => 6,
    };
    let mut sorted: Vec<&(u8, Vec<u8>)> = options.iter().collect();
    sorted.sort_by_key(|(c, _)| rank(*c));
    let mut coded: Vec<Vec<u8>> = vec![];
    for (code, body) in sorted {
        let mut one = vec![];
        put(&mut one, *code, body);
        coded.push(one);
    }
    let whole: usize = coded.iter().map(Vec::len).sum();
    if out.len() + whole < limit {
        coded.iter().for_each(|c| out.extend_from_slice(c));
    } else {
        // Option 52 and the end take four bytes; each field keeps one for its own end.
        let mut fields = vec![(FIXED..FIXED, limit.saturating_sub(out.len() + 4))];
        for (bit, range) in [(1, FILE), (2, SNAME)] {
            if overload & bit != 0 {
                let room = range.len() - 1;
                fields.push((range, room));
            }
        }
        let mut parts: Vec<Vec<u8>> = vec![vec![]; fields.len()];
        for one in coded {
            let free = |i: &usize| parts[*i].len() + one.len() <= fields[*i].1;
            let at = (0..fields.len()).find(free).ok_or(Dropped::TooLarge)?;
            parts[at].extend_from_slice(&one);
        }
        let mut used = 0;
        for ((range, _), part) in fields.iter().zip(&parts).skip(1).filter(|(_, p)| !p.is_empty()) {
            out[range.start..range.start + part.len()].copy_from_slice(part);
            out[range.start + part.len()] = option::END;
            used |= if *range == FILE { 1 } else { 2 };
        }
        out.extend_from_slice(&parts[0]);
        if used != 0 {
            put(&mut out, option::OVERLOAD, &[used]);
        }
    }
    out.push(option::END);
    out.resize(out.len().max(MIN_SIZE), option::PAD);
    Ok(out)
}
