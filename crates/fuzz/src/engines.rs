//! Our own servers, and the frames that bring them their messages.

use std::net::Ipv4Addr;
use std::sync::LazyLock;

use multihome_dhcp::{frame, frame6, v4, v6};
use multihome_model::checked::{CheckedNetwork, check_network};
use multihome_model::{IpFamilySpec, MacAddr, Mtu, NetworkSpec};
use multihome_plan::route::{VmNic, plan};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

struct Records {
    v4: v4::Record,
    v6: v6::Record,
}

/// What a secondary NIC is told.
static RECORDS: LazyLock<Option<Records>> = LazyLock::new(|| {
    let family = |cidr: &str, gateway: &str, dns: &str| IpFamilySpec {
        cidr: Some(cidr.into()),
        gateway: Some(gateway.into()),
        dns: vec![dns.into()],
        ..IpFamilySpec::default()
    };
    let network = |a: u8| -> Option<CheckedNetwork> {
        let spec = NetworkSpec {
            ipv4: Some(family(&format!("10.0.{a}.0/24"), &format!("10.0.{a}.1"), "10.0.0.53")),
            ipv6: Some(family(&format!("fd00:{a}::/64"), &format!("fd00:{a}::1"), "fd00::53")),
            ..NetworkSpec::default()
        };
        check_network("net", &spec).ok()
    };
    let networks = [network(1)?, network(0)?];
    let nic = |name, order, mac, at: usize| VmNic {
        name,
        order,
        wants_primary: false,
        mac,
        network: &networks[at],
        mtu: Mtu::ETHERNET,
        ipv4: Some([10, 0, 1 - at as u8, 5].into()),
        ipv6: format!("fd00:{}::5", 1 - at).parse().ok(),
    };
    let plan = plan(&[nic("a", 0, MacAddr([2, 0, 0, 0, 0, 8]), 0), nic("b", 1, MAC, 1)]);
    let told = plan.nic("b")?;
    Some(Records { v4: v4::Record::new(told, Some("guest"), SERVER)?, v6: v6::Record::new(told, MAC)? })
});

/// Several messages, each after its length in two octets.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (len, rest) = bytes.split_first_chunk::<2>()?;
        let (message, rest) = rest.split_at(usize::from(u16::from_be_bytes(*len)).min(rest.len()));
        bytes = rest;
        Some(message)
    })
    .take(16)
}

pub(crate) fn dhcp4(bytes: &[u8]) {
    let Some(records) = RECORDS.as_ref() else { unreachable!("the records are valid") };
    let mut state = v4::PortState::default();
    for message in messages(bytes) {
        let Ok(m) = v4::Message::parse(message) else { continue };
        for via in [v4::Via::Port, v4::Via::Gateway] {
            let Some((reply, _)) = v4::handle(&records.v4, &mut state, &m, via).reply else { continue };
            assert!(reply.len() >= 300 && reply.len() <= 1472, "{} bytes", reply.len());
            assert_eq!(reply[0], 2, "a reply");
            assert_eq!(reply[28..34], MAC.0, "for the NIC");
            let yours = [reply[16], reply[17], reply[18], reply[19]];
            assert!(yours == [0; 4] || yours == records.v4.address().octets(), "its own address or none: {yours:?}");
            let mut rest = &reply[240..];
            while let [code, len, ..] = *rest {
                match code {
                    0 => rest = &rest[1..],
                    255 => break,
                    _ => {
                        assert!(code != 3 && code != 6, "option {code} for a secondary");
                        rest = &rest[2 + usize::from(len)..];
                    }
                }
            }
        }
    }
}

pub(crate) fn dhcp6(bytes: &[u8]) {
    let Some(records) = RECORDS.as_ref() else { unreachable!("the records are valid") };
    for message in messages(bytes) {
        let Ok(m) = v6::Message::parse(message) else { continue };
        let Some(reply) = v6::handle(&records.v6, &m).reply else { continue };
        assert!(matches!(reply[0], 2 | 7), "an advertise or a reply");
        assert_eq!(reply[1..4], message[1..4], "of the same transaction");
        let mut rest = &reply[4..];
        while let Some((head, body)) = rest.split_first_chunk::<4>() {
            let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
            assert!(head[..2] != [0, 23], "name servers for a secondary");
            rest = &body[len..];
        }
        assert!(rest.is_empty(), "it ends with its last option");
    }
}

pub(crate) fn frames(bytes: &[u8]) {
    for pending in [false, true] {
        if let Some(d) = frame::parse_udp(bytes, pending) {
            let end = |mac, address, port| frame::End { mac, address, port };
            let from = end(d.source_mac, d.source, d.source_port);
            let to = end(MAC, d.destination, d.destination_port);
            let built = frame::build_udp(from, to, d.payload);
            let read = built.as_deref().and_then(|b| frame::parse_udp(b, false));
            assert_eq!(read, Some(d), "what is built is read");
        }
        if let Some(p) = frame6::parse(bytes, pending) {
            let end = |mac, address| frame6::End { mac, address };
            if let Some(d) = p.udp() {
                let ports = (d.source_port, d.destination_port);
                let built = frame6::build_udp(
                    end(p.source_mac, p.source),
                    end(p.destination_mac, p.destination),
                    ports,
                    d.payload,
                );
                let read = built.as_deref().and_then(|b| frame6::parse(b, false)).is_some_and(|q| q.udp() == Some(d));
                assert!(read, "what is built is read");
            }
        }
    }
    let _ = frame::answer_arp(bytes, SERVER, MAC);
}
