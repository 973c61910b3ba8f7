//! Networks that change while a guest runs: whatever its client is, it follows at the next renewal and keeps nothing of
//! what it was told before; and a default route that moves is never there twice.
#![allow(clippy::unwrap_used)]

use multihome_race::boot::Servers;
use multihome_race::client::Client;
use multihome_race::live::{Change, Followed, follows, follows_its_link, moves};
use multihome_race::machine::Machine;

/// Says that a test cannot run here, and why, if so.
fn skipped(test: &str, client: Client) -> bool {
    let why = match (Machine::new(), client.lacks()) {
        (Err(e), _) => e.to_string(),
        (_, Some(program)) => format!("{program} is not installed"),
        _ => return false,
    };
    println!("SKIPPED {test}: {}", why.trim());
    true
}

/// `never`: what the client takes from no answer at all.
fn follow(test: &str, client: Client, never: &[Change]) {
    if skipped(test, client) {
        return;
    }
    std::thread::scope(|scope| {
        let moved = [Servers::Multihome, Servers::Guarded].map(|s| (s, scope.spawn(move || moves(client, s))));
        for (change, guest) in Change::ALL.map(|c| (c, scope.spawn(move || follows(client, c, false)))) {
            let want = if never.contains(&change) { Followed::Never } else { Followed::Yes };
            // NetworkManager 1.42 sets an MTU when it activates a connection, and by no lease after that.
            if client != Client::NetworkManager || change != Change::Mtu {
                assert_eq!(guest.join().unwrap().unwrap(), want, "{test}: {}", change.name());
            }
        }
        for (servers, guest) in moved {
            let [between, after] = guest.join().unwrap().unwrap();
            let what = format!("{test}, {}", servers.name());
            assert_eq!(between.defaults, [""; 0], "{what}: {:?}", between.all);
            assert!(after.verdict("eth1").right(), "{what}: {:?}", after.all);
        }
    });
}

/// Clients that watch their link ask again when it comes back, long before their renewal.
#[test]
fn link_watchers_follow_their_link() {
    for client in [Client::Dhcpcd, Client::Networkd] {
        if skipped("link_watchers_follow_their_link", client) {
            return;
        }
        std::thread::scope(|scope| {
            for (change, guest) in Change::ALL.map(|c| (c, scope.spawn(move || follows_its_link(client, c)))) {
                let never = client == Client::Networkd && change == Change::Mtu;
                let want = if never { Followed::Never } else { Followed::Yes };
                assert_eq!(guest.join().unwrap().unwrap(), want, "{}: {}", client.name(), change.name());
            }
        });
    }
}

#[test]
fn udhcpc_with_debians_script_follows() {
    follow("udhcpc_with_debians_script_follows", Client::UdhcpcDebian, &[Change::Routes]);
}

#[test]
fn udhcpc_with_alpines_script_follows() {
    follow("udhcpc_with_alpines_script_follows", Client::UdhcpcAlpine, &[Change::Mtu]);
}

#[test]
fn udhcpc_with_cirros_script_follows() {
    follow("udhcpc_with_cirros_script_follows", Client::UdhcpcCirros, &[]);
}

#[test]
fn dhclient_follows() {
    follow("dhclient_follows", Client::Dhclient, &[]);
}

#[test]
fn dhcpcd_follows() {
    follow("dhcpcd_follows", Client::Dhcpcd, &[]);
}

#[test]
fn networkd_follows() {
    follow("networkd_follows", Client::Networkd, &[Change::Mtu]);
}

#[test]
fn network_manager_follows() {
    follow("network_manager_follows", Client::NetworkManager, &[]);
}
