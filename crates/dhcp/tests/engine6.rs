//! The DHCPv6 engine against the rules of RFC 8415 section 18.3.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv6Addr};

use multihome_dhcp::v6::{Fact, Message, Record, handle};
use multihome_model::{Addressing, MacAddr, Mtu};
use multihome_plan::route::{FamilyPlan, Method, NicPlan};
use proptest::prelude::*;

const SERVER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OURS: &str = "fd00:1::5";
const CLIENT: &[u8] = &[0, 1, 0, 1, 9, 9, 9, 9, 2, 0, 0, 0, 0, 9];

fn plan(addressing: Addressing) -> NicPlan {
    NicPlan {
        name: "n".into(),
        mac: MacAddr([2, 0, 0, 0, 0, 9]),
        mtu: Mtu::ETHERNET,
        ipv4: None,
        ipv6: Some(FamilyPlan {
            method: Method::Server,
            address: Some(format!("{OURS}/64").parse().unwrap()),
            addressing: Some(addressing),
            gateway: Some("fd00:1::1".parse().unwrap()),
            default_route: true,
            metric: 100,
            routes: vec![],
            dns: vec![IpAddr::V6("fd00::53".parse().unwrap())],
            domain: Some("example.com".into()),
            search_domains: vec![],
            ntp: vec![],
            lease_seconds: 1000,
            table: None,
        }),
    }
}

fn record() -> Record {
    Record::new(&plan(Addressing::Stateful), SERVER).unwrap()
}

fn option(code: u16, body: &[u8]) -> Vec<u8> {
    let mut out = code.to_be_bytes().to_vec();
    out.extend((body.len() as u16).to_be_bytes());
    out.extend(body);
    out
}

fn ia(iaid: u8, addresses: &[&str]) -> Vec<u8> {
    let mut body = vec![0, 0, 0, iaid, 0, 0, 0, 0, 0, 0, 0, 0];
    for a in addresses {
        let mut inner = a.parse::<Ipv6Addr>().unwrap().octets().to_vec();
        inner.extend([0; 8]);
        body.extend(option(5, &inner));
    }
    option(3, &body)
}

fn message(kind: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![kind, 1, 2, 3];
    parts.iter().for_each(|p| out.extend(p));
    out
}

fn to_us(kind: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    let ids = [option(1, CLIENT), option(2, record().duid())];
    message(kind, &[&ids[..], parts].concat())
}

fn answer(bytes: &[u8]) -> (Option<Vec<u8>>, Fact) {
    let outcome = handle(&record(), &Message::parse(bytes).unwrap());
    (outcome.reply, outcome.fact)
}

/// The first option of a code in an answer, or in an option's body.
fn find(mut bytes: &[u8], code: u16) -> Option<Vec<u8>> {
    while bytes.len() >= 4 {
        let len = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        if u16::from_be_bytes([bytes[0], bytes[1]]) == code {
            return Some(bytes[4..4 + len].to_vec());
        }
        bytes = &bytes[4 + len..];
    }
    None
}

/// Address, preferred and valid lifetime of the first address in the first association.
fn given(reply: &[u8]) -> Option<(Ipv6Addr, u32, u32)> {
    let ia = find(&reply[4..], 3)?;
    let a = find(&ia[12..], 5)?;
    let octets: [u8; 16] = a[..16].try_into().ok()?;
    let number = |at: usize| u32::from_be_bytes(a[at..at + 4].try_into().unwrap());
    Some((octets.into(), number(16), number(20)))
}

fn ours() -> Ipv6Addr {
    OURS.parse().unwrap()
}

#[test]
fn four_messages() {
    let (reply, fact) = answer(&message(1, &[option(1, CLIENT), ia(7, &[])]));
    let reply = reply.unwrap();
    assert_eq!((reply[0], &reply[1..4], fact), (2, &[1, 2, 3][..], Fact::Advertised));
    assert_eq!(given(&reply), Some((ours(), 1000, 1000)));
    assert_eq!(find(&reply[4..], 7), Some(vec![255]));
    assert_eq!(find(&reply[4..], 1).unwrap(), CLIENT);
    assert_eq!(find(&reply[4..], 2).unwrap(), [0, 3, 0, 1, 2, 0, 0, 0, 0, 1]);
    let ia_na = find(&reply[4..], 3).unwrap();
    assert_eq!(ia_na[..12], [0, 0, 0, 7, 0, 0, 1, 244, 0, 0, 3, 32]);
    let (reply, fact) = answer(&to_us(3, &[ia(7, &[OURS])]));
    let reply = reply.unwrap();
    assert_eq!((reply[0], fact), (7, Fact::Given(ours())));
    assert_eq!(find(&reply[4..], 23).unwrap(), "fd00::53".parse::<Ipv6Addr>().unwrap().octets());
    assert_eq!(find(&reply[4..], 24).unwrap(), b"\x07example\x03com\0");
}

#[test]
fn two_messages_where_the_client_says_so() {
    let (reply, fact) = answer(&message(1, &[option(1, CLIENT), option(14, &[]), ia(7, &[])]));
    let reply = reply.unwrap();
    assert_eq!((reply[0], fact), (7, Fact::Given(ours())));
    assert_eq!(find(&reply[4..], 14), Some(vec![]));
}

#[test]
fn the_duid_is_no_identity() {
    let other = [option(1, &[0, 4, 1, 1, 1, 1]), ia(1, &[])];
    assert_eq!(given(&answer(&message(1, &other)).0.unwrap()).unwrap().0, ours());
}

#[test]
fn renewals_take_back_what_is_not_its_own() {
    for kind in [5, 6] {
        let ids = if kind == 5 { vec![option(1, CLIENT), option(2, record().duid())] } else { vec![option(1, CLIENT)] };
        let (reply, fact) = answer(&message(kind, &[&ids[..], &[ia(7, &["fd00:1::99"])]].concat()));
        let reply = reply.unwrap();
        assert_eq!(fact, Fact::Given(ours()));
        let inside = find(&reply[4..], 3).unwrap();
        let second = &inside[12 + 28..];
        assert_eq!(find(second, 5).unwrap()[16..], [0; 8], "the wrong address gets lifetime 0");
    }
}

#[test]
fn one_address_no_prefixes_no_temporary_ones() {
    let pd = option(25, &[0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0]);
    let ta = option(4, &[0, 0, 0, 4]);
    let (reply, _) = answer(&to_us(3, &[ia(1, &[]), ia(2, &[]), ta, pd]));
    let reply = reply.unwrap();
    assert_eq!(given(&reply).unwrap().0, ours());
    let rest = &reply[4..];
    assert_eq!(find(&find(rest, 25).unwrap()[12..], 13).unwrap()[..2], [0, 6]);
    assert_eq!(find(&find(rest, 4).unwrap()[4..], 13).unwrap()[..2], [0, 2]);
}

#[test]
fn confirm_release_decline_inform() {
    let (reply, fact) = answer(&message(4, &[option(1, CLIENT), ia(7, &[OURS])]));
    assert_eq!((find(&reply.unwrap()[4..], 13).unwrap()[..2].to_vec(), fact), (vec![0, 0], Fact::Confirmed(true)));
    let (reply, fact) = answer(&message(4, &[option(1, CLIENT), ia(7, &["fd00:2::5"])]));
    assert_eq!((find(&reply.unwrap()[4..], 13).unwrap()[..2].to_vec(), fact), (vec![0, 4], Fact::Confirmed(false)));
    assert!(answer(&message(4, &[option(1, CLIENT), ia(7, &[])])).0.is_none());
    assert_eq!(answer(&to_us(8, &[ia(7, &[OURS])])).1, Fact::Released);
    assert_eq!(answer(&to_us(9, &[ia(7, &[OURS])])).1, Fact::Declined);
    assert_eq!(answer(&to_us(8, &[ia(7, &["fd00:1::99"])])).1, Fact::Nothing);
    let (reply, fact) = answer(&message(11, &[]));
    let reply = reply.unwrap();
    assert_eq!(fact, Fact::Informed);
    assert_eq!(find(&reply[4..], 32).unwrap(), 1000u32.to_be_bytes());
    assert!(find(&reply[4..], 23).is_some());
}

#[test]
fn messages_that_break_the_rules_are_ignored() {
    let stranger = option(2, &[0, 3, 0, 1, 9, 9, 9, 9, 9, 9]);
    for bytes in [
        message(1, &[ia(1, &[])]),
        to_us(1, &[ia(1, &[])]),
        message(3, &[option(1, CLIENT), ia(1, &[])]),
        message(3, &[option(1, CLIENT), stranger.clone(), ia(1, &[])]),
        message(5, &[option(1, CLIENT), stranger, ia(1, &[OURS])]),
        to_us(6, &[ia(1, &[OURS])]),
    ] {
        let (reply, fact) = answer(&bytes);
        assert!(reply.is_none() && matches!(fact, Fact::Ignored(_)), "{bytes:?}: {fact:?}");
    }
}

#[test]
fn a_stateless_network_gives_settings_and_no_address() {
    let r = Record::new(&plan(Addressing::Stateless), SERVER).unwrap();
    let bytes = message(1, &[option(1, CLIENT), ia(7, &[])]);
    let outcome = handle(&r, &Message::parse(&bytes).unwrap());
    let reply = outcome.reply.unwrap();
    assert_eq!((given(&reply), outcome.fact), (None, Fact::Nothing));
    assert_eq!(find(&find(&reply[4..], 3).unwrap()[12..], 13).unwrap()[..2], [0, 2]);
    assert_eq!(Record::new(&plan(Addressing::Slaac), SERVER), None);
}

proptest! {
    #[test]
    fn an_answer_is_whole_whatever_is_asked(kind in 1u8..12, body in proptest::collection::vec(any::<u8>(), 0..120), ids: bool) {
        let mut bytes = if ids { to_us(kind, &[]) } else { message(kind, &[option(1, CLIENT)]) };
        bytes.extend(body);
        if let Ok(m) = Message::parse(&bytes)
            && let Some(reply) = handle(&record(), &m).reply
        {
            let mut rest = &reply[4..];
            while !rest.is_empty() {
                let len = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
                rest = &rest[4 + len..];
            }
        }
    }
}
