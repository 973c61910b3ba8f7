//! Rules that the language of the `nft` program has no words for, and named counters.
//!
//! Such rules look fields up in sets at places of a packet where the language knows no field: in the packet that an ICMP error
//! quotes, for example. Everything else is said in the language, by [`load`](super::load).

use std::time::Duration;

use super::{Family, LIST_TABLE, Nft, SUBSYS, head};
use crate::error::Result;
use crate::msg::{self, Msg};

const NEWRULE: u16 = 6;
const GETRULE: u16 = 7;
const GETOBJ: u16 = 19;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const OBJ_NAME: u16 = 2;
const OBJ_TYPE: u16 = 3;
const OBJ_DATA: u16 = 4;
/// `NFT_OBJECT_COUNTER`.
const COUNTER: u32 = 1;
/// `NFT_REG32_00`: the first of sixteen registers of four bytes; a field takes as many as it needs.
const FIRST_REGISTER: u32 = 8;

/// Where an offset in a packet counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The IP header.
    Network,
    /// What is behind the IP header and its extension headers.
    Transport,
}

/// One part of a rule. A part that cannot be done (there is nothing at this offset, the key is not in the set, the set is full)
/// ends the rule, and the next one of the chain is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// Loads bytes of the packet.
    Payload {
        /// Where the offset counts from.
        base: Base,
        /// Offset in bytes, at most 255.
        offset: u32,
        /// How many bytes, at most 16.
        length: u32,
        /// The first of the registers that they are put into, 0 to 15.
        register: u32,
    },
    /// Loads the protocol behind the IP header and its extension headers: one byte.
    Protocol {
        /// The register, 0 to 15.
        register: u32,
    },
    /// Loads four bytes of zero.
    Zero {
        /// The register, 0 to 15.
        register: u32,
    },
    /// Goes on if the key in the registers from 0 on is in a set.
    Lookup {
        /// The set.
        set: String,
    },
    /// Puts the key in the registers from 0 on into a set, or makes its time begin anew.
    Update {
        /// The set.
        set: String,
        /// How long it stays there.
        timeout: Duration,
    },
    /// Lets the packet pass.
    Accept,
}

/// A rule as the kernel lists it, as far as it copies packets to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copying {
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// The index of the device that it copies to, which may be gone; `None` of a rule that does anything else.
    pub to: Option<u32>,
}

fn number(m: &mut Msg, kind: u16, value: u32) {
    m.attr(kind, &value.to_be_bytes());
}

fn put(m: &mut Msg, expr: &Expr) {
    let mut named = |name: &str, fill: &dyn Fn(&mut Msg)| {
        m.text(EXPR_NAME, name);
        m.nest(EXPR_DATA, |m| fill(m));
    };
    match expr {
        Expr::Payload { base, offset, length, register } => named("payload", &|m| {
            number(m, 1, FIRST_REGISTER + register);
            number(m, 2, if *base == Base::Network { 1 } else { 2 });
            number(m, 3, *offset);
            number(m, 4, *length);
        }),
        Expr::Protocol { register } => named("meta", &|m| {
            number(m, 1, FIRST_REGISTER + register);
            number(m, 2, 16 /* NFT_META_L4PROTO */);
        }),
        Expr::Zero { register } => named("immediate", &|m| {
            number(m, 1, FIRST_REGISTER + register);
            m.nest(2, |m| m.attr(super::DATA_VALUE, &[0; 4]));
        }),
        Expr::Lookup { set } => named("lookup", &|m| {
            m.text(1, set);
            number(m, 2, FIRST_REGISTER);
        }),
        Expr::Update { set, timeout } => named("dynset", &|m| {
            m.text(1, set);
            number(m, 3, 1 /* NFT_DYNSET_OP_UPDATE */);
            number(m, 4, FIRST_REGISTER);
            let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            m.attr(6, &milliseconds.to_be_bytes());
        }),
        Expr::Accept => named("immediate", &|m| {
            number(m, 1, 0 /* NFT_REG_VERDICT */);
            m.nest(2, |m| m.nest(super::DATA_VERDICT, |m| number(m, super::VERDICT_CODE, 1 /* NF_ACCEPT */)));
        }),
    }
}

/// A text that ends with a zero.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(b"\0").unwrap_or(bytes)).into_owned()
}

/// The index of the device that a rule copies to, if it does that and nothing else: a number is loaded, and a copy is sent there.
fn copies_to(expressions: &[u8]) -> Option<u32> {
    let named = |e: &msg::Attr<'_>| Some((text(msg::find(e.data, EXPR_NAME)?), msg::find(e.data, EXPR_DATA)?.to_vec()));
    let all: Vec<_> = msg::attrs(expressions).map(|e| named(&e)).collect();
    match all.as_slice() {
        [Some((first, number)), Some((second, _))] if first == "immediate" && second == "dup" => {
            msg::u32_at(msg::find(msg::find(number, 2)?, super::DATA_VALUE)?, 0)
        }
        _ => None,
    }
}

impl Nft {
    /// Appends rules to chains, all together or not at all.
    ///
    /// # Errors
    /// What the kernel refused; `ENOENT` if the table, a chain or a set is not there.
    pub fn append(&mut self, family: Family, table: &str, rules: &[(String, Vec<Expr>)]) -> Result<()> {
        let message = |(chain, exprs): &(String, Vec<Expr>)| {
            let flags = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
            let subject = format!("{table} {chain}");
            let mut m =
                Msg::new(SUBSYS << 8 | NEWRULE, flags, "add nftables rule", subject).raw(&head(family.number(), 0));
            m.text(RULE_TABLE, table);
            m.text(RULE_CHAIN, chain);
            m.nest(RULE_EXPRESSIONS, |m| exprs.iter().for_each(|e| m.nest(1 /* NFTA_LIST_ELEM */, |m| put(m, e))));
            m
        };
        if rules.is_empty() { Ok(()) } else { self.batch(rules.iter().map(message).collect()) }
    }

    /// The rules of all tables of a family.
    ///
    /// # Errors
    /// What the kernel refused, for example because it has no such family.
    pub fn copying(&mut self, family: Family) -> Result<Vec<Copying>> {
        let m = Msg::new(SUBSYS << 8 | GETRULE, 0, "list nftables rules", "").raw(&head(family.number(), 0));
        self.socket.dump(m, |body| {
            let body = body.get(4..)?;
            let (table, chain) = (text(msg::find(body, RULE_TABLE)?), text(msg::find(body, RULE_CHAIN)?));
            Some(Copying { table, chain, to: copies_to(msg::find(body, RULE_EXPRESSIONS).unwrap_or_default()) })
        })
    }

    /// The named counters of a table, and how many packets each saw.
    ///
    /// # Errors
    /// [`is_missing`](crate::Error::is_missing) if the table is not there, on kernels that say so; no counters on others.
    pub fn counters(&mut self, family: Family, table: &str) -> Result<Vec<(String, u64)>> {
        let mut m = Msg::new(SUBSYS << 8 | GETOBJ, 0, "list nftables counters", table).raw(&head(family.number(), 0));
        m.text(LIST_TABLE, table);
        number(&mut m, OBJ_TYPE, COUNTER);
        self.socket.dump(m, |body| {
            let body = body.get(4..)?;
            let name = text(msg::find(body, OBJ_NAME)?);
            Some((name, msg::be64_at(msg::find(msg::find(body, OBJ_DATA)?, 2)?, 0)?))
        })
    }
}
