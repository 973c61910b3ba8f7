//! IPv4 clients behind the guard, and Kea on both networks, which sends routers, name servers and default routes in
//! options 3, 6, 121 and 249 whether a client asks or not.
#![allow(clippy::unwrap_used)]

use multihome_model::DhcpMode;
use multihome_race::boot::Lab;
use multihome_race::client::{Asks, Client};
use multihome_race::judge::{Verdict, name_servers};
use multihome_race::machine::Machine;
use multihome_race::networks::{checked, spec};
use multihome_race::outside::Foreign;

fn skipped(test: &str, client: Client) -> bool {
    let why = match (Machine::new(), client.lacks().or(Foreign::Kea4.lacks())) {
        (Err(e), _) => e.to_string(),
        (_, Some(program)) => format!("{program} is not installed"),
        _ => return false,
    };
    println!("SKIPPED {test}: {}", why.trim());
    true
}

fn guarded(test: &str, client: Client) {
    if skipped(test, client) {
        return;
    }
    let networks = checked(&[0, 1].map(|i| spec(i, DhcpMode::Guard))).unwrap();
    let mut lab = Lab::beside(Foreign::Kea4, &networks, Some(networks.clone())).unwrap();
    lab.start(client, Asks::V4).unwrap();
    let seen = lab.settled().unwrap();
    assert_eq!(seen.verdict("eth0"), Verdict::default(), "{test}: {:?}", seen.all);
    let known = name_servers(&lab.guest).unwrap();
    assert!(!known.contains("10.101.0.1"), "{test}: {known:?}");
    // Debian's script for udhcpc knows no routes but the default one.
    if client != Client::UdhcpcDebian {
        assert!(seen.all.contains(&"10.51.0.0/16 10.101.0.1 eth1".to_owned()), "{test}: {:?}", seen.all);
    }
}

#[test]
fn udhcpc_with_debians_script() {
    guarded("udhcpc_with_debians_script", Client::UdhcpcDebian);
}

#[test]
fn udhcpc_with_alpines_script() {
    guarded("udhcpc_with_alpines_script", Client::UdhcpcAlpine);
}

#[test]
fn udhcpc_with_cirros_script() {
    guarded("udhcpc_with_cirros_script", Client::UdhcpcCirros);
}

#[test]
fn dhclient() {
    guarded("dhclient", Client::Dhclient);
}

#[test]
fn dhcpcd() {
    guarded("dhcpcd", Client::Dhcpcd);
}

#[test]
fn networkd() {
    guarded("networkd", Client::Networkd);
}

#[test]
fn network_manager() {
    guarded("network_manager", Client::NetworkManager);
}

/// The measure itself: what it must find where nobody decides.
#[test]
fn without_multihome_there_are_two_default_routes() {
    if skipped("without_multihome_there_are_two_default_routes", Client::Networkd) {
        return;
    }
    let networks = checked(&[0, 1].map(|i| spec(i, DhcpMode::Guard))).unwrap();
    let mut lab = Lab::beside(Foreign::Kea4, &networks, None).unwrap();
    lab.start(Client::Networkd, Asks::V4).unwrap();
    let verdict = lab.settled().unwrap().verdict("eth0");
    assert!(verdict.doubled, "{verdict:?}");
}
