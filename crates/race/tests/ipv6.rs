//! IPv6 clients on two networks that both have a router: one default route, by the primary, addresses as planned, name
//! servers of the primary alone; told by Multihome, and by servers of others behind its guard.
#![allow(clippy::unwrap_used)]

use std::net::Ipv6Addr;

use multihome_model::{Addressing, DhcpMode};
use multihome_race::boot::{LEASE, Lab};
use multihome_race::client::{Asks, Client};
use multihome_race::judge::{Verdict, look, name_servers};
use multihome_race::machine::Machine;
use multihome_race::networks::{address6, checked, route_plan, spec6};
use multihome_race::outside::Foreign;
use multihome_race::wait_for;

/// Who tells the guest, and how it gets its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Multihome(Addressing),
    Others(Foreign),
}

const ALL: [By; 6] = [
    By::Multihome(Addressing::Stateful),
    By::Multihome(Addressing::Stateless),
    By::Multihome(Addressing::Slaac),
    By::Others(Foreign::Radvd),
    By::Others(Foreign::Kea6),
    By::Others(Foreign::DnsmasqRa),
];

impl By {
    /// Whether guests get their addresses by DHCPv6.
    fn is_stateful(self) -> bool {
        matches!(
            self,
            Self::Multihome(Addressing::Stateful) | Self::Others(Foreign::Kea6) | Self::Others(Foreign::DnsmasqRa)
        )
    }

    fn is_dhcp(self) -> bool {
        self.is_stateful() || self == Self::Multihome(Addressing::Stateless)
    }
}

fn prefix(nic: usize) -> [u16; 4] {
    [0xfd00, 0x100 + nic as u16, 0, 0]
}

fn check(client: Client, by: By) {
    let (mode, addressing, foreign) = match by {
        By::Multihome(a) => (DhcpMode::Server, a, Foreign::Nobody),
        By::Others(f) => (DhcpMode::Guard, Addressing::Slaac, f),
    };
    let networks = checked(&[0, 1].map(|i| spec6(i, mode, addressing))).unwrap();
    let mut lab = Lab::beside(foreign, &networks, Some(networks.clone())).unwrap();
    let asks = if by.is_stateful() { Asks::V6 } else { Asks::V6Settings };
    lab.start(client, asks).unwrap();
    let what = format!("{}, {by:?}", client.name());
    let seen = lab.settles(true).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(seen.verdict("eth0"), Verdict::default(), "{what}: {:?}", seen.all);
    for (i, addresses) in seen.addresses.iter().enumerate() {
        let parsed: Vec<Ipv6Addr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        assert!(parsed.iter().all(|a| a.segments()[..4] == prefix(i)), "{what}: {parsed:?}");
        if by == By::Multihome(Addressing::Stateful) {
            assert_eq!(parsed, [address6(i)], "{what}");
        }
    }
    // The kernel keeps no name servers; dhclient reads no advertisements.
    if client != Client::Kernel {
        let known = wait_for("a name server", 10, || {
            let known = name_servers(&lab.guest)?;
            Ok((!known.is_empty()).then_some(known))
        });
        assert_eq!(
            known.unwrap_or_else(|e| panic!("{what}: {e}\n{}", lab.guest.logs())),
            ["fd00:100::1".to_owned()].into(),
            "{what}"
        );
    }
    // Neither does the kernel as it is set up take specific routes, nor dhcpcd 9.
    let dnsmasq = by == By::Others(Foreign::DnsmasqRa);
    if matches!(client, Client::Networkd | Client::NetworkManager) && !dnsmasq {
        for i in 0..2 {
            let route = format!("fd50:{i}::/32 fe80::1 eth{i}");
            let has = |r: &String| r.starts_with(&format!("fd50:{i}::/32 ")) || (i == 0 && r.starts_with("fd50::/32 "));
            assert!(seen.all.iter().any(has), "{what}: no {route} in {:?}", seen.all);
        }
    }
}

fn all(test: &str, client: Client) {
    let lack = client.lacks().or_else(|| ALL.iter().find_map(|b| if let By::Others(f) = b { f.lacks() } else { None }));
    let why = match (Machine::new(), lack) {
        (Err(e), _) => e.to_string(),
        (_, Some(program)) => format!("{program} is not installed"),
        _ => String::new(),
    };
    if !why.is_empty() {
        return println!("SKIPPED {test}: {}", why.trim());
    }
    std::thread::scope(|scope| {
        for by in ALL {
            let can = match client {
                Client::Kernel => !by.is_stateful(),
                Client::Dhclient => by.is_dhcp(),
                _ => true,
            };
            if can {
                scope.spawn(move || check(client, by));
            }
        }
    });
}

#[test]
fn the_kernel() {
    all("the_kernel", Client::Kernel);
}

#[test]
fn dhclient() {
    all("dhclient", Client::Dhclient);
}

#[test]
fn dhcpcd() {
    all("dhcpcd", Client::Dhcpcd);
}

#[test]
fn networkd() {
    all("networkd", Client::Networkd);
}

#[test]
fn network_manager() {
    all("network_manager", Client::NetworkManager);
}

/// The measure itself: what it must find where nobody decides.
#[test]
fn without_multihome_there_are_two_default_routes() {
    let test = "without_multihome_there_are_two_default_routes";
    if let Err(e) = Machine::new() {
        return println!("SKIPPED {test}: {e}");
    }
    if let Some(program) = Foreign::Radvd.lacks() {
        return println!("SKIPPED {test}: {program} is not installed");
    }
    let networks = checked(&[0, 1].map(|i| spec6(i, DhcpMode::Guard, Addressing::Slaac))).unwrap();
    let mut lab = Lab::beside(Foreign::Radvd, &networks, None).unwrap();
    lab.start(Client::Kernel, Asks::V6).unwrap();
    assert!(lab.settles(true).unwrap().verdict("eth0").doubled);
}

/// A default route that moves while the guest runs: followed without anybody asking, and nothing of it is left behind.
fn moves(test: &str, client: Client) {
    if let Err(e) = Machine::new() {
        return println!("SKIPPED {test}: {e}");
    }
    if let Some(program) = client.lacks().or(Foreign::Radvd.lacks()) {
        return println!("SKIPPED {test}: {program} is not installed");
    }
    let one = |by: By| {
        let (mode, foreign) = match by {
            By::Multihome(_) => (DhcpMode::Server, Foreign::Nobody),
            By::Others(f) => (DhcpMode::Guard, f),
        };
        let networks = checked(&[0, 1].map(|i| spec6(i, mode, Addressing::Slaac))).unwrap();
        let mut lab = Lab::beside(foreign, &networks, Some(networks.clone())).unwrap();
        lab.start(client, Asks::V6Settings).unwrap();
        let what = format!("{test}, {by:?}");
        assert_eq!(lab.settles(true).unwrap().verdict("eth0"), Verdict::default(), "{what}");
        lab.node.tell(&route_plan(&networks, 1, LEASE)).unwrap();
        wait_for("the move", 20, || Ok(look(&lab.guest, true)?.verdict("eth1").right().then_some(())))
            .unwrap_or_else(|e| panic!("{what}: {e}: {:?}", look(&lab.guest, true)));
        if client != Client::Kernel {
            wait_for("the other name server", 20, || {
                Ok((name_servers(&lab.guest)? == ["fd00:101::1".to_owned()].into()).then_some(()))
            })
            .unwrap_or_else(|e| panic!("{what}: {e}: {:?}", name_servers(&lab.guest)));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| one(By::Multihome(Addressing::Slaac)));
        scope.spawn(|| one(By::Others(Foreign::Radvd)));
    });
}

#[test]
fn the_kernel_follows() {
    moves("the_kernel_follows", Client::Kernel);
}

#[test]
fn dhcpcd_follows() {
    moves("dhcpcd_follows", Client::Dhcpcd);
}

#[test]
fn networkd_follows() {
    moves("networkd_follows", Client::Networkd);
}

#[test]
fn network_manager_follows() {
    moves("network_manager_follows", Client::NetworkManager);
}
