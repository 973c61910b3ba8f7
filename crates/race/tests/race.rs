//! Every client once behind Multihome's server and once behind its guard, each time with something that makes the
//! secondary NIC first: one default route, by the primary, after the boot and after a renewal.
#![allow(clippy::unwrap_used)]

use multihome_race::boot::{Scenario, Servers, boot};
use multihome_race::client::Client;
use multihome_race::judge::Verdict;
use multihome_race::machine::Machine;

fn can(test: &str, client: Client) -> bool {
    let why = match (Machine::new(), client.lacks()) {
        (Err(e), _) => e.to_string(),
        (_, Some(program)) => format!("{program} is not installed"),
        _ => return true,
    };
    println!("SKIPPED {test}: {}", why.trim());
    false
}

fn wins(test: &str, client: Client, scenarios: [Scenario; 2]) {
    if !can(test, client) {
        return;
    }
    for (servers, scenario) in [Servers::Multihome, Servers::Guarded].into_iter().zip(scenarios) {
        let o = boot(client, scenario, servers, 1).unwrap();
        let good = Verdict::default();
        assert_eq!((o.boot, o.renewal), (good, good), "{test}: {}, {}", servers.name(), scenario.name());
    }
}

#[test]
fn udhcpc_with_debians_script() {
    wins("udhcpc_with_debians_script", Client::UdhcpcDebian, [Scenario::Slow, Scenario::Slow]);
}

#[test]
fn udhcpc_with_alpines_script() {
    wins("udhcpc_with_alpines_script", Client::UdhcpcAlpine, [Scenario::Replugged, Scenario::Slow]);
}

#[test]
fn udhcpc_with_cirros_script() {
    wins("udhcpc_with_cirros_script", Client::UdhcpcCirros, [Scenario::LateCarrier, Scenario::Replugged]);
}

#[test]
fn dhclient() {
    wins("dhclient", Client::Dhclient, [Scenario::Slow, Scenario::LateCarrier]);
}

#[test]
fn dhcpcd() {
    wins("dhcpcd", Client::Dhcpcd, [Scenario::Replugged, Scenario::Replugged]);
}

#[test]
fn networkd() {
    wins("networkd", Client::Networkd, [Scenario::LateCarrier, Scenario::Slow]);
}

#[test]
fn network_manager() {
    wins("network_manager", Client::NetworkManager, [Scenario::Replugged, Scenario::LateCarrier]);
}

/// The measure itself: what it must find where nobody decides.
#[test]
fn without_multihome_the_race_is_lost() {
    let test = "without_multihome_the_race_is_lost";
    if !can(test, Client::UdhcpcDebian) || !can(test, Client::Networkd) {
        return;
    }
    let o = boot(Client::UdhcpcDebian, Scenario::Slow, Servers::Plain, 1).unwrap();
    assert_eq!(o.boot, Verdict { wrong: true, doubled: false, missing: false });
    let o = boot(Client::Networkd, Scenario::Slow, Servers::Plain, 1).unwrap();
    assert_eq!(o.boot, Verdict { wrong: true, doubled: true, missing: false });
}
