//! The guard's rewriting, against answers made by hand to break it.
#![allow(clippy::unwrap_used)]

use multihome_dhcp::guard::v4::{Answer, Kind, refusal, rewrite};
use multihome_dhcp::guard::{Dropped, Role, ra, v6};
use multihome_model::{MacAddr, Mtu};
use proptest::prelude::*;

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

/// An ACK with these options, in order, and fields `file` and `sname`.
fn ack(options: &[(u8, &[u8])], file: &[u8], sname: &[u8]) -> Vec<u8> {
    let mut out = vec![0u8; 240];
    out[..4].copy_from_slice(&[2, 1, 6, 0]);
    out[16..20].copy_from_slice(&[10, 0, 0, 5]);
    out[28..34].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    out[44..44 + sname.len()].copy_from_slice(sname);
    out[108..108 + file.len()].copy_from_slice(file);
    out[236..240].copy_from_slice(&[99, 130, 83, 99]);
    for (code, body) in [(53u8, &[5u8][..]), (54, &[10, 0, 0, 1])].iter().chain(options) {
        out.extend([*code, body.len() as u8]);
        out.extend(*body);
    }
    out.push(255);
    out
}

/// Reads options back, as a client would: joined, overloaded fields included.
fn read(payload: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found: Vec<(u8, Vec<u8>)> = vec![];
    let mut take = |mut b: &[u8]| {
        while let Some(&code) = b.first() {
            match code {
                0 => b = &b[1..],
                255 => break,
                _ => {
                    let len = usize::from(b[1]);
                    match found.iter_mut().find(|(c, _)| *c == code) {
                        Some((_, whole)) => whole.extend(&b[2..2 + len]),
                        None => found.push((code, b[2..2 + len].to_vec())),
                    }
                    b = &b[2 + len..];
                }
            }
        }
        found.iter().find(|(c, _)| *c == 52).map_or(0, |(_, b)| b[0])
    };
    let overload = take(&payload[240..]);
    if overload & 1 != 0 {
        take(&payload[108..236]);
    }
    if overload & 2 != 0 {
        take(&payload[44..108]);
    }
    found.retain(|(c, _)| *c != 52);
    found
}

fn get(payload: &[u8], code: u8) -> Option<Vec<u8>> {
    read(payload).into_iter().find(|(c, _)| *c == code).map(|(_, b)| b)
}

fn secondary(payload: &[u8]) -> Answer {
    rewrite(payload, &role(false)).unwrap()
}

fn primary(payload: &[u8]) -> Answer {
    rewrite(payload, &role(true)).unwrap()
}

const ROUTER: (u8, &[u8]) = (3, &[10, 0, 0, 1]);
const SPECIFIC: &[u8] = &[16, 10, 50, 10, 0, 0, 1];
const BOTH: &[u8] = &[16, 10, 50, 10, 0, 0, 1, 0, 10, 0, 0, 1];
const DNS: (u8, &[u8]) = (6, &[10, 0, 0, 53]);

#[test]
fn a_secondary_keeps_specific_routes_and_nothing_else_that_leads_out() {
    let said = ack(
        &[
            ROUTER,
            DNS,
            (15, b"x.example"),
            (33, &[10, 53, 1, 1, 10, 0, 0, 1]),
            (119, b"\x01a\0"),
            (121, BOTH),
            (249, BOTH),
        ],
        &[],
        &[],
    );
    let a = secondary(&said);
    for code in [3, 6, 15, 33, 119] {
        assert_eq!(get(&a.payload, code), None, "option {code}");
    }
    assert_eq!(get(&a.payload, 121).unwrap(), SPECIFIC);
    assert_eq!(get(&a.payload, 249).unwrap(), SPECIFIC);
    assert_eq!((a.router, a.kind, a.server), (None, Kind::Acknowledge, Some([10, 0, 0, 1].into())));
    // Only a default: then there is nothing left to say. Two halves are a default, too.
    let halves = [1, 0, 10, 0, 0, 1, 1, 128, 10, 0, 0, 1];
    assert_eq!(get(&secondary(&ack(&[(121, &halves)], &[], &[])).payload, 121), None);
}

#[test]
fn a_primary_is_told_both_ways() {
    let a = primary(&ack(&[ROUTER, (121, SPECIFIC)], &[], &[]));
    assert_eq!(get(&a.payload, 121).unwrap(), BOTH);
    assert_eq!(get(&a.payload, 3).unwrap(), [10, 0, 0, 1]);
    let a = primary(&ack(&[(121, BOTH)], &[], &[]));
    assert_eq!(get(&a.payload, 3).unwrap(), [10, 0, 0, 1]);
    assert_eq!(a.router, Some([10, 0, 0, 1].into()));
    let a = primary(&ack(&[ROUTER, DNS], &[], &[]));
    assert_eq!((get(&a.payload, 121), get(&a.payload, 6).unwrap()), (None, vec![10, 0, 0, 53]));
    // Routers that are none.
    for wrong in [[0, 0, 0, 0], [10, 0, 0, 5]] {
        assert_eq!(primary(&ack(&[(3, &wrong)], &[], &[])).router, None);
    }
    // Option 121 comes before option 3 (RFC 3442).
    let a = primary(&ack(&[ROUTER, (121, BOTH)], &[], &[])).payload;
    let codes: Vec<u8> = read(&a).into_iter().map(|(c, _)| c).collect();
    assert!(codes.iter().position(|c| *c == 121) < codes.iter().position(|c| *c == 3), "{codes:?}");
}

#[test]
fn options_in_every_hiding_place_are_found() {
    // In the boot file's field, in the server name's, and split in two.
    let file = [3, 4, 10, 0, 0, 1, 255];
    let a = secondary(&ack(&[(52, &[1])], &file, &[]));
    assert_eq!((get(&a.payload, 3), a.payload[108..236].iter().all(|b| *b == 0)), (None, true));
    let a = secondary(&ack(&[(52, &[2])], &[], &file));
    assert_eq!(get(&a.payload, 3), None);
    let a = secondary(&ack(&[(121, &BOTH[..9]), (121, &BOTH[9..])], &[], &[]));
    assert_eq!(get(&a.payload, 121).unwrap(), SPECIFIC);
    // A boot file that is one stays.
    let a = secondary(&ack(&[ROUTER], b"pxelinux.0", &[]));
    assert_eq!(&a.payload[108..118], b"pxelinux.0");
}

#[test]
fn what_cannot_be_read_is_dropped() {
    let whole = ack(&[ROUTER], &[], &[]);
    let mut cut = whole.clone();
    cut.truncate(whole.len() - 4);
    for (what, bytes) in [
        ("a router that is cut short", cut),
        ("no message type", [&whole[..240], &[255][..]].concat()),
        ("a wrong cookie", [&whole[..236], &[1, 2, 3, 4], &whole[240..]].concat()),
        ("option 52 that says 7", ack(&[(52, &[7])], &[], &[])),
        ("option 52 in an overloaded field", ack(&[(52, &[1])], &[52, 1, 2, 255], &[])),
        ("a router of three bytes", ack(&[(3, &[1, 2, 3])], &[], &[])),
        ("a route of 33 bits", ack(&[(121, &[33, 1, 1, 1, 1, 1, 10, 0, 0, 1])], &[], &[])),
        ("a route without next hop", ack(&[(249, &[16, 10, 50])], &[], &[])),
        ("a lease of two bytes", ack(&[(51, &[1, 2])], &[], &[])),
    ] {
        for primary in [false, true] {
            assert!(matches!(rewrite(&bytes, &role(primary)), Err(Dropped::Malformed(_))), "{what}");
        }
    }
    let mut request = whole;
    request[0] = 1;
    assert!(matches!(rewrite(&request, &role(true)), Err(Dropped::NotAnAnswer(_))));
}

#[test]
fn leases_are_shortened_never_lengthened() {
    let day = 86400u32.to_be_bytes();
    let a = secondary(&ack(&[(51, &day), (58, &43200u32.to_be_bytes())], &[], &[]));
    assert_eq!((a.seconds, get(&a.payload, 51).unwrap()), (Some(3600), 3600u32.to_be_bytes().to_vec()));
    assert_eq!(get(&a.payload, 58).unwrap(), 1800u32.to_be_bytes());
    let a = secondary(&ack(&[(51, &120u32.to_be_bytes())], &[], &[]));
    assert_eq!(a.seconds, Some(120));
}

#[test]
fn the_mtu_is_the_networks_at_most() {
    let small = Role { mtu: Mtu::new(1450).unwrap(), ..role(false) };
    let said = |options: &[(u8, &[u8])]| get(&rewrite(&ack(options, &[], &[]), &small).unwrap().payload, 26).unwrap();
    assert_eq!(said(&[]), 1450u16.to_be_bytes());
    assert_eq!(said(&[(26, &9000u16.to_be_bytes())]), 1450u16.to_be_bytes());
    assert_eq!(said(&[(26, &1400u16.to_be_bytes())]), 1400u16.to_be_bytes());
}

#[test]
fn a_renewal_can_be_turned_into_a_refusal() {
    let mut said = ack(&[ROUTER], &[], &[]);
    said[12..16].copy_from_slice(&[10, 0, 0, 5]);
    let a = primary(&said);
    assert!(a.renewal);
    let nak = refusal(&a);
    assert_eq!((get(&nak, 53).unwrap(), get(&nak, 54).unwrap()), (vec![6], vec![10, 0, 0, 1]));
    assert_eq!((&nak[12..28], &nak[28..34]), (&[0; 16][..], &said[28..34]));
}

#[test]
fn long_answers_fit_where_they_fitted() {
    // An answer that fills 548 bytes and the two fields stays within 548 bytes.
    let long = [7u8; 120];
    let big: Vec<(u8, &[u8])> = vec![(52, &[3]), (43, &[1; 200]), (60, &[2; 60])];
    let mut file = vec![200, 100];
    file.extend(&long[..100]);
    file.push(255);
    let mut sname = vec![201, 50];
    sname.extend(&long[..50]);
    sname.push(255);
    let said = ack(&big, &file, &sname);
    assert!(said.len() < 548);
    let a = secondary(&said);
    assert!(a.payload.len() <= 548, "{}", a.payload.len());
    for (code, len) in [(43, 200), (60, 60), (200, 100), (201, 50)] {
        assert_eq!(get(&a.payload, code).unwrap().len(), len);
    }
}

/// A router advertisement with these options.
fn advert(lifetime: u16, options: &[&[u8]]) -> Vec<u8> {
    let mut out = vec![134, 0, 0, 0, 64, 0x48];
    out.extend(lifetime.to_be_bytes());
    out.extend([0; 8]);
    options.iter().for_each(|o| out.extend(*o));
    out
}

#[test]
fn a_default_route_in_one_option_is_in_all_on_the_primary() {
    let specific = [24, 10, 50, 0, 10, 0, 0, 1];
    let any = [0, 10, 0, 0, 1];
    // Only in 249; a client that knows 121 looks at nothing else.
    let said = ack(&[(121, &specific), (249, &any)], &[], &[]);
    let a = primary(&said);
    assert_eq!(a.router, Some([10, 0, 0, 1].into()));
    assert_eq!(get(&a.payload, 121), Some([&specific[..], &any].concat()));
    assert_eq!((get(&a.payload, 249), get(&a.payload, 3)), (Some(any.to_vec()), Some(vec![10, 0, 0, 1])));
    let b = secondary(&said);
    assert_eq!((b.router, b.offered), (None, Some([10, 0, 0, 1].into())));
    assert_eq!((get(&b.payload, 121), get(&b.payload, 249), get(&b.payload, 3)), (Some(specific.to_vec()), None, None));
}

#[test]
fn advertisements_lose_the_default_route_and_keep_the_rest() {
    let prefix: Vec<u8> = [&[3, 4, 64, 0xc0][..], &[0; 12], &[0xfd, 0, 0, 1], &[0; 12]].concat();
    let specific = [24, 2, 32, 0, 0, 0, 7, 8, 0xfd, 0, 0, 0x50, 0, 0, 0, 0];
    let everything = [24, 1, 0, 0, 0, 0, 7, 8];
    let dns: Vec<u8> = [&[25, 3, 0, 0, 0, 0, 7, 8][..], &[1; 16]].concat();
    let said = advert(1800, &[&prefix, &specific, &everything, &dns, &[5, 1, 0, 0, 0, 0, 0x23, 0x28]]);
    let a = ra::rewrite(&said, &role(false)).unwrap();
    assert_eq!(a.message[5..8], [0x40, 0, 0]);
    assert!(a.offers && a.autonomous == [0xfd00_0001_0000_0000]);
    assert_eq!(a.message[16..48], prefix[..]);
    assert_eq!(a.message[48..64], specific);
    // For no time at all: a guest may have heard them when the NIC was the primary.
    assert_eq!(a.message[64..72], [24, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(a.message[72..96], [&[25, 3, 0, 0, 0, 0, 0, 0][..], &[1; 16]].concat());
    assert_eq!(a.message[96..], [5, 1, 0, 0, 0, 0, 5, 220]);
    let a = ra::rewrite(&said, &role(true)).unwrap();
    assert_eq!(a.message[5..8], said[5..8]);
    assert_eq!(a.message.len(), said.len());
    for wrong in [advert(0, &[&[3, 0]]), advert(0, &[&[3, 2, 64, 0, 0, 0, 0, 0]]), vec![134, 0, 0], advert(0, &[&[1]])]
    {
        assert!(matches!(ra::rewrite(&wrong, &role(false)), Err(Dropped::Malformed(_))));
    }
}

#[test]
fn dhcpv6_answers_lose_name_servers_and_show_what_they_give() {
    let mut ia = vec![0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 24, 0xfd];
    ia.extend([0; 14]);
    ia.push(5);
    ia.extend([0, 0, 1, 0, 0, 0, 2, 0]);
    let mut said = vec![7, 1, 2, 3, 0, 3, 0, ia.len() as u8];
    said.extend(&ia);
    let plain = said.clone();
    said.extend([0, 23, 0, 16]);
    said.extend([9; 16]);
    let a = v6::rewrite(&said, &role(false)).unwrap();
    assert_eq!((a.payload, a.given), (plain, vec![("fd00::5".parse().unwrap(), 512)]));
    assert_eq!(v6::rewrite(&said, &role(true)).unwrap().payload, said);
    said[0] = 2;
    assert!(v6::rewrite(&said, &role(true)).unwrap().given.is_empty());
    said.truncate(said.len() - 1);
    assert!(matches!(v6::rewrite(&said, &role(true)), Err(Dropped::Malformed(_))));
    said[0] = 10;
    assert!(matches!(v6::rewrite(&said, &role(true)), Err(Dropped::NotAnAnswer(_))));
}

fn any_options() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    let code =
        prop_oneof![Just(3u8), Just(6), Just(33), Just(51), Just(52), Just(119), Just(121), Just(249), any::<u8>()];
    proptest::collection::vec((code, proptest::collection::vec(any::<u8>(), 0..40)), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_that_a_server_says_gives_a_secondary_a_way_out(
        options in any_options(),
        file in proptest::collection::vec(any::<u8>(), 0..128),
        sname in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let options: Vec<(u8, &[u8])> = options.iter().map(|(c, b)| (*c, b.as_slice())).collect();
        let said = ack(&options, &file, &sname);
        if let Ok(a) = rewrite(&said, &role(false))
            && a.kind != Kind::Refuse
        {
            prop_assert!(a.payload.len() <= said.len().max(548));
            for (code, body) in read(&a.payload) {
                prop_assert!(![3, 6, 15, 33, 119].contains(&code));
                if code == 121 || code == 249 {
                    let mut rest = &body[..];
                    while let Some(len) = rest.first() {
                        prop_assert!(*len > 1 && *len <= 32);
                        rest = &rest[1 + usize::from(len.div_ceil(8)) + 4..];
                    }
                }
            }
        }
    }

    #[test]
    fn an_answer_that_was_rewritten_stays_as_it_is(options in any_options(), primary: bool) {
        let options: Vec<(u8, &[u8])> = options.iter().map(|(c, b)| (*c, b.as_slice())).collect();
        if let Ok(once) = rewrite(&ack(&options, &[], &[]), &role(primary)) {
            prop_assert_eq!(rewrite(&once.payload, &role(primary)).map(|a| read(&a.payload)), Ok(read(&once.payload)));
        }
    }

    #[test]
    fn no_bytes_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..600), primary: bool) {
        let _ = rewrite(&bytes, &role(primary));
        let _ = v6::rewrite(&bytes, &role(primary));
        let mut advert = bytes.clone();
        if advert.len() > 2 {
            advert[0] = 134;
            advert[1] = 0;
        }
        if let Ok(a) = ra::rewrite(&advert, &role(primary)) {
            prop_assert!(primary || a.message[6..8] == [0, 0]);
        }
    }
}
