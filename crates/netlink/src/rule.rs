//! Routing policy rules (`ip rule`), of both families.
//!
//! Numbers from include/uapi/linux/fib_rules.h.

use std::net::IpAddr;

use crate::addr::octets;
use crate::error::Result;
use crate::inspect::unspecified;
use crate::msg::{self, Msg};
use crate::neigh::{family, read_ip};
use crate::rtnl::Rtnl;

const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_OIFNAME: u16 = 17;
const FRA_L3MDEV: u16 = 19;
const FRA_PROTOCOL: u16 = 21;
const FR_ACT_TO_TBL: u8 = 1;
/// `FR_ACT_BLACKHOLE`: dropped without a word.
pub const RULE_BLACKHOLE: u8 = 6;
/// `FR_ACT_UNREACHABLE`: the sender is told.
pub const RULE_UNREACHABLE: u8 = 7;
const FIB_RULE_INVERT: u32 = 2;
const RT_TABLE_COMPAT: u8 = 252;

/// A routing policy rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Order: the lowest is asked first.
    pub priority: u32,
    /// Source prefix; an unspecified address of length 0 is every source of its family.
    pub from: (IpAddr, u8),
    /// Destination prefix; none is every destination.
    pub to: Option<(IpAddr, u8)>,
    /// Name of the device that the packet came in on; of own traffic, `lo`.
    pub iif: Option<String>,
    /// Name of the device that the socket is bound to.
    pub oif: Option<String>,
    /// Firewall mark.
    pub mark: Option<u32>,
    /// Routing table.
    pub table: u32,
    /// What it does: 1 asks the table, others as `FR_ACT_…`.
    pub action: u8,
    /// It holds for what does not match.
    pub invert: bool,
    /// The table is that of the VRF that the packet belongs to.
    pub l3mdev: bool,
    /// Routes of this prefix length or shorter are passed over.
    pub suppress_prefix: Option<u32>,
    /// Who installed it; the kernel's own 2.
    pub protocol: u8,
}

impl Rule {
    /// The rule that sends what comes from one address to a table.
    pub fn from_address(ip: IpAddr, table: u32, priority: u32) -> Self {
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        Self {
            priority,
            from: (ip, bits),
            to: None,
            iif: None,
            oif: None,
            mark: None,
            table,
            action: FR_ACT_TO_TBL,
            invert: false,
            l3mdev: false,
            suppress_prefix: None,
            protocol: 4, // RTPROT_STATIC
        }
    }
}

fn message(kind: u16, flags: i32, op: &'static str, r: &Rule) -> Msg {
    let subject = format!("rule {} from {}/{} lookup {}", r.priority, r.from.0, r.from.1, r.table);
    let mut head = [0; 12];
    head[0] = family(r.from.0);
    head[1] = r.to.map_or(0, |t| t.1);
    head[2] = r.from.1;
    head[4] = u8::try_from(r.table).unwrap_or(RT_TABLE_COMPAT);
    head[7] = r.action;
    head[8..12].copy_from_slice(&if r.invert { FIB_RULE_INVERT } else { 0 }.to_ne_bytes());
    let mut m = Msg::new(kind, flags, op, subject).raw(&head);
    if r.from.1 > 0 {
        m.attr(FRA_SRC, &octets(r.from.0));
    }
    if let Some((to, _)) = r.to {
        m.attr(FRA_DST, &octets(to));
    }
    if let Some(name) = &r.iif {
        m.text(FRA_IIFNAME, name);
    }
    if let Some(name) = &r.oif {
        m.text(FRA_OIFNAME, name);
    }
    if let Some(mark) = r.mark {
        m.u32(FRA_FWMARK, mark);
    }
    if let Some(len) = r.suppress_prefix {
        m.u32(FRA_SUPPRESS_PREFIXLEN, len);
    }
    m.u32(FRA_PRIORITY, r.priority);
    m.u32(FRA_TABLE, r.table);
    m.u8(FRA_PROTOCOL, r.protocol);
    m
}

impl Rtnl {
    /// Adds a rule.
    ///
    /// # Errors
    /// [`crate::Error::is_exists`] if it is there; otherwise what the kernel refused.
    pub fn rule_add(&mut self, rule: &Rule) -> Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        self.socket.request(message(libc::RTM_NEWRULE, flags, "add", rule))
    }

    /// Deletes a rule.
    ///
    /// # Errors
    /// [`crate::Error::is_missing`] if it is not there.
    pub fn rule_delete(&mut self, rule: &Rule) -> Result<()> {
        self.socket.request(message(libc::RTM_DELRULE, 0, "delete", rule))
    }

    /// Every rule of the namespace, both families, in the order in which they are asked.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub fn rules(&mut self) -> Result<Vec<Rule>> {
        let mut all = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut head = [0; 12];
            head[0] = family as u8;
            let m = Msg::new(libc::RTM_GETRULE, 0, "list", "rules").raw(&head);
            match self.socket.dump(m, parse) {
                Ok(rules) => all.extend(rules),
                Err(e) if e.is_unsupported() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }
}

fn parse(body: &[u8]) -> Option<Rule> {
    let none = unspecified(*body.first()?)?;
    let mut rule = Rule {
        from: (none, *body.get(2)?),
        priority: 0,
        table: u32::from(*body.get(4)?),
        action: *body.get(7)?,
        invert: msg::u32_at(body, 8)? & FIB_RULE_INVERT != 0,
        protocol: 0,
        ..Rule::from_address(none, 0, 0)
    };
    for a in msg::attrs(body.get(12..)?) {
        match a.kind {
            FRA_SRC => rule.from.0 = read_ip(a.data)?,
            FRA_DST => rule.to = Some((read_ip(a.data)?, *body.get(1)?)),
            FRA_IIFNAME => rule.iif = Some(a.text()),
            FRA_OIFNAME => rule.oif = Some(a.text()),
            FRA_PRIORITY => rule.priority = a.u32(),
            FRA_FWMARK => rule.mark = Some(a.u32()),
            FRA_TABLE => rule.table = a.u32(),
            FRA_L3MDEV => rule.l3mdev = a.u8() != 0,
            FRA_PROTOCOL => rule.protocol = a.u8(),
            // All ones: not set.
            FRA_SUPPRESS_PREFIXLEN if a.u32() != u32::MAX => rule.suppress_prefix = Some(a.u32()),
            _ => {}
        }
    }
    Some(rule)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rule_reads_back() {
        let mut rule = Rule::from_address(IpAddr::from([10, 0, 0, 5]), 1000, 1001);
        rule.to = Some((IpAddr::from([192, 0, 2, 0]), 24));
        rule.oif = Some("eth1".into());
        rule.suppress_prefix = Some(0);
        let bytes = message(32, 0, "test", &rule).seal(1)[msg::HEADER..].to_vec();
        assert_eq!(parse(&bytes), Some(rule));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(body in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse(&body);
        }
    }
}
