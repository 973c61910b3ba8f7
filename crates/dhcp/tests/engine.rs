//! The engine's answers, message by message, as RFC 2131 and the promise of one default route want them.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use multihome_dhcp::v4::{Destination, Fact, Message, MessageType, PortState, Record, Refusal, Via, handle};
use multihome_model::checked::check_network;
use multihome_model::{IpFamilySpec, MacAddr, Mtu, NetworkRoute, NetworkSpec};
use multihome_plan::route::{VmNic, plan};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 5]);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

fn record(primary: bool) -> Record {
    record_with(primary, 1)
}

fn record_with(primary: bool, routes: u8) -> Record {
    record_of(primary, routes, 1450, SERVER)
}

fn record_of(primary: bool, routes: u8, mtu: u32, server: Ipv4Addr) -> Record {
    let network = |i: u8| {
        let spec = NetworkSpec {
            ipv4: Some(IpFamilySpec {
                cidr: Some(format!("10.{i}.0.0/24")),
                gateway: Some(format!("10.{i}.0.1")),
                dns: vec![format!("10.{i}.0.53")],
                ntp: vec![format!("10.{i}.0.123")],
                domain: Some("example.com".into()),
                search_domains: vec!["a.example.com".into()],
                routes: (0..routes).map(|r| NetworkRoute { to: format!("10.{}.0.0/16", 100 + r), via: None }).collect(),
                lease_seconds: Some(600),
                ..Default::default()
            }),
            ..Default::default()
        };
        check_network("n", &spec).unwrap()
    };
    let (a, b) = (network(0), network(1));
    let nic = |name, network, wants_primary, i: u8| VmNic {
        name,
        order: 0,
        wants_primary,
        mac: if i == 0 { MAC } else { MacAddr([2, 0, 0, 0, 0, 9]) },
        network,
        mtu: Mtu::new(mtu).unwrap(),
        ipv4: Some(IpAddr::from([10, i, 0, 5])),
        ipv6: None,
    };
    let p = plan(&[nic("a", &a, primary, 0), nic("b", &b, !primary, 1)]);
    Record::new(p.nic("a").unwrap(), Some("web"), server).unwrap()
}

#[derive(Default)]
struct Request<'a> {
    kind: u8,
    ciaddr: Option<Ipv4Addr>,
    giaddr: Option<Ipv4Addr>,
    broadcast: bool,
    options: &'a [(u8, &'a [u8])],
}

fn packet(r: &Request<'_>) -> Vec<u8> {
    let mut p = vec![0u8; 240];
    p[..3].copy_from_slice(&[1, 1, 6]);
    p[4..8].copy_from_slice(&[1, 2, 3, 4]);
    p[10] = if r.broadcast { 0x80 } else { 0 };
    p[12..16].copy_from_slice(&r.ciaddr.unwrap_or(NONE).octets());
    p[24..28].copy_from_slice(&r.giaddr.unwrap_or(NONE).octets());
    p[28..34].copy_from_slice(&MAC.0);
    p[236..240].copy_from_slice(&[99, 130, 83, 99]);
    p.extend([53, 1, r.kind]);
    for (code, body) in r.options {
        p.extend([*code, body.len() as u8]);
        p.extend(*body);
    }
    p.push(255);
    p
}

struct Answer {
    kind: u8,
    yiaddr: Ipv4Addr,
    options: BTreeMap<u8, Vec<u8>>,
    to: Destination,
    len: usize,
    flags: u8,
}

fn run(record: &Record, state: &mut PortState, r: &Request<'_>, via: Via) -> (Option<Answer>, Fact) {
    let p = packet(r);
    let out = handle(record, state, &Message::parse(&p).unwrap(), via);
    let answer = out.reply.map(|(bytes, to)| {
        assert_eq!(bytes[0], 2);
        assert_eq!(bytes[4..8], [1, 2, 3, 4]);
        let mut options: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        let mut i = 240;
        while bytes[i] != 255 {
            let len = usize::from(bytes[i + 1]);
            options.entry(bytes[i]).or_default().extend(&bytes[i + 2..i + 2 + len]);
            i += 2 + len;
        }
        Answer {
            kind: options[&53][0],
            yiaddr: Ipv4Addr::new(bytes[16], bytes[17], bytes[18], bytes[19]),
            options,
            to,
            len: bytes.len(),
            flags: bytes[10],
        }
    });
    (answer, out.fact)
}

fn ask(record: &Record, state: &mut PortState, r: &Request<'_>) -> (Option<Answer>, Fact) {
    run(record, state, r, Via::Port)
}

const DISCOVER: Request<'_> = Request { kind: 1, ciaddr: None, giaddr: None, broadcast: false, options: &[] };

#[test]
fn the_primary_gets_a_default_route_in_every_form() {
    let (answer, fact) = ask(&record(true), &mut PortState::default(), &DISCOVER);
    let a = answer.unwrap();
    assert_eq!((a.kind, a.yiaddr, a.to, fact), (2, US, Destination::Offered(US), Fact::Offered));
    assert_eq!(a.options[&3], [10, 0, 0, 1]);
    let routes = [16, 10, 100, 10, 0, 0, 1, 0, 10, 0, 0, 1];
    assert_eq!(a.options[&121], routes);
    assert_eq!(a.options[&249], routes);
    assert_eq!(a.options[&1], [255, 255, 255, 0]);
    assert_eq!(a.options[&6], [10, 0, 0, 53]);
    assert_eq!(a.options[&12], b"web");
    assert_eq!(a.options[&15], b"example.com");
    assert_eq!(a.options[&26], 1450u16.to_be_bytes());
    assert_eq!(a.options[&28], [10, 0, 0, 255]);
    assert_eq!(a.options[&42], [10, 0, 0, 123]);
    assert_eq!(a.options[&51], 600u32.to_be_bytes());
    assert_eq!(a.options[&58], 300u32.to_be_bytes());
    assert_eq!(a.options[&59], 525u32.to_be_bytes());
    assert_eq!(a.options[&119], b"\x01a\x07example\x03com\0");
    assert!(!a.options.contains_key(&33));
}

#[test]
fn a_secondary_gets_specific_routes_and_no_default_route_in_any_form() {
    let (a, _) = ask(&record(false), &mut PortState::default(), &DISCOVER);
    let a = a.unwrap();
    assert!([3, 33, 6, 15, 119].iter().all(|code| !a.options.contains_key(code)));
    assert_eq!(a.options[&121], [16, 10, 100, 10, 0, 0, 1]);
    assert_eq!(a.options[&249], a.options[&121]);
    let (a, _) = ask(&record_with(false, 0), &mut PortState::default(), &DISCOVER);
    assert!(!a.unwrap().options.contains_key(&121), "an empty option 121 is not a valid one");
}

#[test]
fn selecting() {
    let r = record(true);
    let mut state = PortState::default();
    let mine = [(50u8, &US.octets()[..]), (54, &SERVER.octets()[..])];
    let (a, fact) = ask(&r, &mut state, &Request { kind: 3, options: &mine, ..Default::default() });
    assert_eq!((a.unwrap().kind, fact), (5, Fact::Acknowledged));
    assert_eq!(state.told.as_ref(), Some(r.told()));
    let other = [(50u8, &US.octets()[..]), (54, &[10, 0, 0, 9][..])];
    let (a, fact) = ask(&r, &mut state, &Request { kind: 3, options: &other, ..Default::default() });
    assert!(a.is_none() && matches!(fact, Fact::Ignored(_)));
    let wrong = [(50u8, &[10, 0, 0, 77][..]), (54, &SERVER.octets()[..])];
    let (a, fact) = ask(&r, &mut state, &Request { kind: 3, options: &wrong, ..Default::default() });
    let a = a.unwrap();
    assert_eq!((a.kind, a.yiaddr, a.to, fact), (6, NONE, Destination::Broadcast, Fact::Refused(Refusal::WrongAddress)));
    assert!(!a.options.contains_key(&51) && !a.options.contains_key(&1));
}

#[test]
fn init_reboot_renewing_and_rebinding() {
    let r = record(true);
    let mut state = PortState::default();
    let reboot = [(50u8, &US.octets()[..])];
    let (a, _) = ask(&r, &mut state, &Request { kind: 3, options: &reboot, ..Default::default() });
    assert_eq!(a.unwrap().kind, 5);
    let elsewhere = [(50u8, &[192, 168, 0, 4][..])];
    let (a, _) = ask(&r, &mut state, &Request { kind: 3, options: &elsewhere, ..Default::default() });
    assert_eq!(a.unwrap().kind, 6);
    let (a, _) = ask(&r, &mut state, &Request { kind: 3, ciaddr: Some(US), ..Default::default() });
    let a = a.unwrap();
    assert_eq!((a.kind, a.to), (5, Destination::Unicast(US)));
    let (a, _) =
        ask(&r, &mut state, &Request { kind: 3, ciaddr: Some(Ipv4Addr::new(10, 0, 0, 6)), ..Default::default() });
    assert_eq!(a.unwrap().kind, 6);
}

#[test]
fn a_renewal_after_the_primary_changed_is_refused_so_that_the_old_route_really_goes() {
    let mut state = PortState::default();
    let renew = Request { kind: 3, ciaddr: Some(US), ..Default::default() };
    ask(&record(true), &mut state, &renew);
    let (a, fact) = ask(&record(false), &mut state, &renew);
    assert_eq!((a.unwrap().kind, fact), (6, Fact::Refused(Refusal::RoutesChanged)));
    assert_eq!(ask(&record(false), &mut state, &DISCOVER).0.unwrap().kind, 2);
    let take = [(50u8, &US.octets()[..]), (54, &SERVER.octets()[..])];
    let (a, _) = ask(&record(false), &mut state, &Request { kind: 3, options: &take, ..Default::default() });
    assert!(!a.unwrap().options.contains_key(&3));
    assert_eq!(ask(&record(false), &mut state, &renew).0.unwrap().kind, 5);
}

#[test]
fn a_refusal_that_was_lost_is_told_again_until_the_client_starts_afresh() {
    let mut state = PortState::default();
    let renew = Request { kind: 3, ciaddr: Some(US), ..Default::default() };
    ask(&record(true), &mut state, &renew);
    for _ in 0..3 {
        let (a, fact) = ask(&record(false), &mut state, &renew);
        assert_eq!((a.unwrap().kind, fact), (6, Fact::Refused(Refusal::RoutesChanged)));
    }
    let take = [(50u8, &US.octets()[..])];
    let (a, fact) = ask(&record(false), &mut state, &Request { kind: 3, options: &take, ..Default::default() });
    assert_eq!((a.unwrap().kind, fact), (5, Fact::Acknowledged));
    assert_eq!(ask(&record(false), &mut state, &renew).0.unwrap().kind, 5);
}

#[test]
fn an_mtu_that_changed_is_no_renewal() {
    let mut state = PortState::default();
    let renew = Request { kind: 3, ciaddr: Some(US), ..Default::default() };
    ask(&record_of(true, 1, 1450, SERVER), &mut state, &renew);
    let (a, fact) = ask(&record_of(true, 1, 1400, SERVER), &mut state, &renew);
    assert_eq!((a.unwrap().kind, fact), (6, Fact::Refused(Refusal::RoutesChanged)));
}

#[test]
fn a_server_that_is_called_otherwise_refuses_under_the_name_that_the_client_knows() {
    let mut state = PortState::default();
    let renew = Request { kind: 3, ciaddr: Some(US), ..Default::default() };
    ask(&record(true), &mut state, &renew);
    let other = Ipv4Addr::new(10, 0, 0, 2);
    let record = record_of(true, 1, 1450, other);
    let a = ask(&record, &mut state, &renew).0.unwrap();
    assert_eq!((a.kind, &a.options[&54][..]), (6, &SERVER.octets()[..]));
    let release = [(54u8, &SERVER.octets()[..])];
    let mut gone = state.clone();
    let (_, fact) =
        ask(&record, &mut gone, &Request { kind: 7, ciaddr: Some(US), options: &release, ..Default::default() });
    assert_eq!(fact, Fact::Released);
    let a = ask(&record, &mut state, &DISCOVER).0.unwrap();
    assert_eq!((a.kind, &a.options[&54][..]), (2, &other.octets()[..]));
}

#[test]
fn a_client_that_keeps_renewing_what_nobody_knows_is_acknowledged() {
    let renew = Request { kind: 3, ciaddr: Some(US), ..Default::default() };
    assert_eq!(ask(&record(true), &mut PortState::default(), &renew).0.unwrap().kind, 5);
}

#[test]
fn release_decline_and_inform() {
    let r = record(true);
    let mut state = PortState { told: Some(r.told().clone()) };
    let server = [(54u8, &SERVER.octets()[..])];
    let (a, fact) = ask(&r, &mut state, &Request { kind: 7, ciaddr: Some(US), options: &server, ..Default::default() });
    assert!(a.is_none() && fact == Fact::Released && state.told.is_none());
    let decline = [(50u8, &US.octets()[..]), (54, &SERVER.octets()[..])];
    let (a, fact) = ask(&r, &mut state, &Request { kind: 4, options: &decline, ..Default::default() });
    assert!(a.is_none() && fact == Fact::Declined);
    let (a, _) = ask(&r, &mut state, &Request { kind: 8, ciaddr: Some(US), ..Default::default() });
    let a = a.unwrap();
    assert_eq!((a.kind, a.yiaddr, a.to), (5, NONE, Destination::Unicast(US)));
    assert!([51, 58, 59].iter().all(|code| !a.options.contains_key(code)) && a.options.contains_key(&3));
    let (a, _) = ask(&r, &mut state, &Request { kind: 8, ciaddr: Some(SERVER), ..Default::default() });
    assert!(a.is_none());
}

#[test]
fn the_client_id_is_echoed_and_never_the_identity() {
    let id = [(61u8, &[255, 1, 2, 3, 4, 5][..])];
    let (a, _) =
        ask(&record(true), &mut PortState::default(), &Request { kind: 1, options: &id, ..Default::default() });
    let a = a.unwrap();
    assert_eq!((a.yiaddr, &a.options[&61][..]), (US, &[255, 1, 2, 3, 4, 5][..]));
}

#[test]
fn a_client_that_invents_routes_is_known_by_what_it_asks_for() {
    let ask = |list: &[u8]| {
        let p = packet(&Request { kind: 1, options: &[(55, list)], ..Default::default() });
        Message::parse(&p).unwrap().invents_routes()
    };
    assert!(ask(&[1, 3, 26, 252, 42, 15, 6, 12]), "ConnMan");
    assert!(!ask(&[1, 3, 6, 12, 15, 28, 42]), "udhcpc");
    assert!(!ask(&[1, 3, 26, 252, 42, 15, 6]));
}

#[test]
fn relays() {
    let relay = Ipv4Addr::new(10, 0, 0, 200);
    let info = [(82u8, &[1, 2, 7, 7][..])];
    let r = Request { kind: 1, giaddr: Some(relay), options: &info, ..Default::default() };
    let (a, fact) = run(&record(true), &mut PortState::default(), &r, Via::Port);
    assert!(a.is_none() && matches!(fact, Fact::Ignored(_)), "a guest cannot play a relay on its port");
    let (a, _) = run(&record(true), &mut PortState::default(), &r, Via::Gateway);
    let a = a.unwrap();
    assert_eq!((a.to, &a.options[&82][..]), (Destination::Relay(relay), &[1, 2, 7, 7][..]));
    let wrong = [(50u8, &[1, 1, 1, 1][..])];
    let r = Request { kind: 3, giaddr: Some(relay), options: &wrong, ..Default::default() };
    let (a, _) = run(&record(true), &mut PortState::default(), &r, Via::Gateway);
    let a = a.unwrap();
    assert_eq!((a.kind, a.to, a.flags), (6, Destination::Relay(relay), 0x80));
}

#[test]
fn broadcast_is_used_only_where_it_is_asked_for() {
    let r = Request { kind: 1, broadcast: true, ..Default::default() };
    assert_eq!(ask(&record(true), &mut PortState::default(), &r).0.unwrap().to, Destination::Broadcast);
}

#[test]
fn answers_fit_what_the_client_takes_and_the_routes_go_first() {
    let r = record_with(true, 60);
    let (a, _) = ask(&r, &mut PortState::default(), &DISCOVER);
    let a = a.unwrap();
    assert!(a.len <= 548 && a.options.contains_key(&3), "{} bytes", a.len);
    let big = [(57u8, &1500u16.to_be_bytes()[..])];
    let (a, _) = ask(&r, &mut PortState::default(), &Request { kind: 1, options: &big, ..Default::default() });
    let a = a.unwrap();
    assert!(a.len <= 1472);
    assert_eq!(a.options[&121].len(), 60 * 7 + 5, "a long option 121 is split and put together again");
    let (a, _) = ask(&record(false), &mut PortState::default(), &DISCOVER);
    assert!(a.unwrap().len >= 300);
}

#[test]
fn a_strange_mac_is_ignored() {
    let p = {
        let mut p = packet(&DISCOVER);
        p[33] = 99;
        p
    };
    let out = handle(&record(true), &mut PortState::default(), &Message::parse(&p).unwrap(), Via::Port);
    assert!(out.reply.is_none());
    let mut server_message = packet(&DISCOVER);
    server_message[242] = MessageType::Offer as u8;
    let m = Message::parse(&server_message).unwrap();
    assert!(handle(&record(true), &mut PortState::default(), &m, Via::Port).reply.is_none());
}
