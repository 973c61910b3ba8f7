//! The guard's rewriting.

use std::collections::BTreeMap;

use multihome_dhcp::guard::v4::Kind;
use multihome_dhcp::guard::{Role, ra, v4, v6};
use multihome_model::{MacAddr, Mtu};

fn role(primary: bool) -> Role {
    Role {
        mac: MacAddr([2, 0, 0, 0, 0, 9]),
        default4: primary,
        default6: primary,
        dns4: primary,
        dns6: primary,
        mtu: Mtu::ETHERNET,
        longest: 3600,
    }
}

/// Options as a client reads them. Only of what we wrote, which is well-formed.
fn options(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut all = vec![];
    while let Some((&code, rest)) = bytes.split_first() {
        match code {
            0 => bytes = rest,
            255 => break,
            _ => {
                let len = usize::from(rest[0]);
                all.push((code, &rest[1..=len]));
                bytes = &rest[1 + len..];
            }
        }
    }
    all
}

/// All options, those in several parts joined (RFC 3396); what was overloaded (option 52) is in the fields before the cookie.
fn told(payload: &[u8]) -> BTreeMap<u8, Vec<u8>> {
    let mut parts = options(&payload[240..]);
    let overload = parts.iter().find(|(c, _)| *c == 52).map_or(0, |(_, b)| b[0]);
    if overload & 1 != 0 {
        parts.extend(options(&payload[108..236]));
    }
    if overload & 2 != 0 {
        parts.extend(options(&payload[44..108]));
    }
    let mut all: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    for (code, body) in parts.into_iter().filter(|(c, _)| *c != 52) {
        all.entry(code).or_default().extend_from_slice(body);
    }
    all
}

pub(crate) fn dhcp4(bytes: &[u8]) {
    for primary in [false, true] {
        let Ok(a) = v4::rewrite(bytes, &role(primary)) else { continue };
        if a.kind == Kind::Refuse {
            continue;
        }
        assert!(a.payload.len() <= bytes.len().max(548), "it grew");
        assert!(primary || a.router.is_none(), "a router for a secondary");
        let all = told(&a.payload);
        for code in all.keys() {
            assert!(*code != 33, "classful routes");
            assert!(primary || ![3, 6, 15, 119].contains(code), "option {code} for a secondary");
        }
        for code in [121, 249] {
            let mut rest = all.get(&code).map(Vec::as_slice).unwrap_or_default();
            while let Some(&len) = rest.first() {
                assert!(len <= 32 && (primary || len > 1), "a default route for a secondary");
                rest = &rest[1 + usize::from(len.div_ceil(8)) + 4..];
            }
        }
        let again = v4::rewrite(&a.payload, &role(primary)).map(|b| told(&b.payload));
        assert_eq!(again, Ok(all), "the second time is different");
        let refusal = v4::refusal(&a);
        assert!(v4::rewrite(&refusal, &role(primary)).is_ok_and(|r| r.kind == Kind::Refuse), "a refusal is none");
    }
}

pub(crate) fn dhcp6(bytes: &[u8]) {
    for primary in [false, true] {
        let Ok(a) = v6::rewrite(bytes, &role(primary)) else { continue };
        assert!(a.payload.len() <= bytes.len(), "it grew");
        let mut rest = &a.payload[4..];
        while let Some((head, body)) = rest.split_first_chunk::<4>() {
            let (code, len) =
                (u16::from_be_bytes([head[0], head[1]]), usize::from(u16::from_be_bytes([head[2], head[3]])));
            assert!(primary || ![23, 24].contains(&code), "name servers for a secondary");
            rest = &body[len..];
        }
        assert_eq!(
            v6::rewrite(&a.payload, &role(primary)).map(|b| b.payload),
            Ok(a.payload),
            "the second time is different"
        );
    }
}

pub(crate) fn advertisement(bytes: &[u8]) {
    for primary in [false, true] {
        let Ok(a) = ra::rewrite(bytes, &role(primary)) else { continue };
        assert!(primary || a.message[6..8] == [0, 0], "a router for a secondary");
        let mut rest = &a.message[16..];
        while let [kind, units, ..] = *rest {
            let (option, after) = rest.split_at(usize::from(units) * 8);
            let over = option[4..8] == [0; 4];
            let takes = kind == 25 || kind == 31 || (kind == 24 && option[2] <= 1);
            assert!(primary || !takes || over, "option {kind} for a secondary");
            rest = after;
        }
        let again = ra::rewrite(&a.message, &role(primary)).map(|b| b.message);
        assert_eq!(again, Ok(a.message), "the second time is different");
    }
}
