//! Machines made sick on purpose, each in network namespaces of its own: the finding is there, its cure
//! is applied, the finding is gone. And healthy machines, of which nothing may be said.
//!
//! Needs root and iproute2; without root every test says that it was skipped.
#![allow(clippy::unwrap_used)]

mod lab;

use lab::Machine;
use multihome_doctor::Severity;
use multihome_doctor::machine::{Options, examine_machine};

macro_rules! machine {
    ($test:literal) => {
        match Machine::new($test) {
            Some(m) => m,
            None => return,
        }
    };
}

/// One NIC with a default route.
fn one(m: &Machine) {
    m.nic("eth0", 0).address("eth0", "10.0.0.5/24");
    m.ip("route add default via 10.0.0.1");
}

/// Two NICs on two networks, the default route by the first.
fn two(m: &Machine) {
    one(m);
    m.nic("eth1", 1).address("eth1", "10.1.0.5/24");
}

#[test]
fn healthy_static_machines_are_silent() {
    let m = machine!("healthy_static_machines_are_silent");
    two(&m);
    m.silent();
    m.ip("route add 10.1.0.0/24 dev eth1 table 101");
    m.ip("route add default via 10.1.0.1 table 101");
    m.ip("rule add pref 1001 from 10.1.0.5 lookup 101");
    m.silent();
}

#[test]
fn a_healthy_dhcp_client_is_silent() {
    let m = machine!("a_healthy_dhcp_client_is_silent");
    m.nic("eth0", 0);
    m.dhcp_server(0, &["3,10.0.0.1", "6,10.0.0.1"]);
    m.udhcpc("eth0");
    m.file("/etc/resolv.conf", "nameserver 10.0.0.1\n");
    m.file("/etc/network/interfaces", "auto eth0\niface eth0 inet dhcp\n");
    m.silent();
}

#[test]
fn ipv6_only_is_silent() {
    let m = machine!("ipv6_only_is_silent");
    m.nic("eth0", 0).address("eth0", "fd00::5/64");
    m.router("-6 addr add fd00::1/64 dev br0 nodad");
    m.ip("-6 route add default via fd00::1");
    m.silent();
    m.ip("-6 route replace default via fd00::99");
    assert_eq!(m.rules(), ["gateway-silent"]);
}

#[test]
fn bridges_of_container_engines_are_silent() {
    let m = machine!("bridges_of_container_engines_are_silent");
    one(&m);
    m.ip("link add docker0 type bridge");
    m.ip("addr add 172.17.0.1/16 dev docker0");
    m.ip("link set docker0 up");
    m.ip("link add veth12ab type veth peer name ceth0");
    m.ip("link set veth12ab master docker0 up");
    m.ip("link add virbr0 type bridge");
    m.ip("addr add 10.0.0.77/28 dev virbr0");
    m.silent();
}

#[test]
fn two_nics_bound_on_purpose_are_silent() {
    let m = machine!("two_nics_bound_on_purpose_are_silent");
    one(&m);
    m.nic("eth1", 0).address("eth1", "10.0.0.6/24");
    let bound = Options { bound: vec![vec!["eth0".into(), "eth1".into()]], ..Options::default() };
    let bad: Vec<_> = m.examine(&bound).into_iter().filter(|d| d.finding.severity != Severity::Info).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

/// This very machine: nothing but what its own kernel says, too.
#[test]
fn this_machine_gets_no_false_alarm() {
    let look = multihome_doctor::collect::Look { probe: false, ..Default::default() };
    let seen = multihome_doctor::collect::collect(&look).unwrap();
    assert!(seen.links.iter().any(|l| l.loopback), "{seen:?}");
    for d in examine_machine(&seen, &Options::default()) {
        let said = d.finding.rule == "gateway-silent" && d.finding.evidence.iter().any(|e| e.ends_with("FAILED"));
        assert!(said || d.finding.severity == Severity::Info, "{d:#?}");
    }
}

#[test]
fn several_default_routes_are_reduced_to_one() {
    let m = machine!("several_default_routes_are_reduced_to_one");
    two(&m);
    m.ip("route add default via 10.1.0.1 dev eth1 metric 200");
    assert_eq!(m.rules(), ["several-default-routes", "asymmetric-replies"]);
    m.cure("several-default-routes");
    assert_eq!(m.ip("route show default").trim(), "default via 10.0.0.1 dev eth0");
    m.silent();
    m.undo();
    assert_eq!(m.rules(), ["several-default-routes", "asymmetric-replies"]);
}

#[test]
fn equal_metrics_are_told_from_others() {
    let m = machine!("equal_metrics_are_told_from_others");
    two(&m);
    m.ip("route append default via 10.1.0.1 dev eth1");
    assert_eq!(m.rules()[0], "equal-metrics");
    m.cure("equal-metrics");
    m.silent();
    m.undo();
    assert_eq!(m.ip("route show default").lines().count(), 2);
    assert_eq!(m.rules()[0], "equal-metrics");
}

#[test]
fn the_default_route_moves_to_the_right_nic() {
    let m = machine!("the_default_route_moves_to_the_right_nic");
    two(&m);
    let eth1 = "iface eth1 inet static\n  address 10.1.0.5/24\n  gateway 10.1.0.1\n";
    m.file("/etc/network/interfaces", &format!("{eth1}iface eth0 inet static\n  address 10.0.0.5/24\n  # 10.0.0.1\n"));
    assert!(m.rules().contains(&"default-route-wrong-nic"), "{:?}", m.rules());
    m.cure("default-route-wrong-nic");
    assert_eq!(m.ip("route show default").trim(), "default via 10.1.0.1 dev eth1 proto static");
    m.silent();
    m.undo();
    assert!(m.rules().contains(&"default-route-wrong-nic"));
    let primary = Options { primary: Some("eth0".into()), ..Options::default() };
    assert!(m.examine(&primary).iter().all(|d| d.finding.rule != "default-route-wrong-nic"));
}

#[test]
fn a_missing_default_route_is_set_from_the_lease() {
    let m = machine!("a_missing_default_route_is_set_from_the_lease");
    m.nic("eth0", 0);
    m.dhcp_server(0, &["3,10.0.0.1"]);
    m.dhclient("eth0");
    m.until("a default route", || m.ip("route show default").contains("via"));
    m.silent();
    m.ip("route del default");
    assert_eq!(m.rules(), ["no-default-route"]);
    m.cure("no-default-route");
    m.silent();
}

#[test]
fn one_subnet_on_two_nics_gets_tables_and_arp_rules() {
    let m = machine!("one_subnet_on_two_nics_gets_tables_and_arp_rules");
    one(&m);
    m.nic("eth1", 0).address("eth1", "10.0.0.6/24");
    assert_eq!(m.rules(), ["same-subnet", "arp-flux"]);
    m.cure("same-subnet");
    assert_eq!(m.rules(), ["arp-flux"]);
    let way = m.ip("route get 10.0.0.1 from 10.0.0.6");
    assert!(way.contains("dev eth1"), "{way}");
    m.cure("arp-flux");
    m.silent();
}

#[test]
fn one_dhcp_server_for_two_nics_is_seen() {
    let m = machine!("one_dhcp_server_for_two_nics_is_seen");
    m.nic("eth0", 0);
    m.nic("eth1", 0);
    m.dhcp_server(0, &["3,10.0.0.1"]);
    m.dhclient("eth0");
    let second = m.dhclient("eth1");
    assert!(m.rules().contains(&"one-dhcp-server"), "{:?}", m.rules());
    // The cure that the finding names: a network of its own, without a gateway.
    m.end(second);
    m.ip("addr flush dev eth1");
    m.move_to("eth1", 1);
    m.address("eth1", "10.1.0.5/24");
    m.ip("route replace default via 10.0.0.1 dev eth0");
    m.silent();
}

/// An off-link client that reaches the secondary address by the secondary's gateway, in a network that
/// drops foreign source addresses, while the machine filters strictly itself.
#[test]
fn replies_leave_by_their_own_nic_again() {
    let m = machine!("replies_leave_by_their_own_nic_again");
    two(&m);
    m.router("addr add 203.0.113.1/32 dev lo");
    m.router_sysctl("net/ipv4/conf/br0/rp_filter", "1");
    m.ip("route add default via 10.1.0.1 dev eth1 metric 200");
    m.sysctl("net/ipv4/conf/eth1/rp_filter", "1");
    let reached = || m.router_ping("203.0.113.1", "10.1.0.5");
    assert!(!reached(), "the sick machine must not answer");
    let found = m.examine(&Options::default());
    let strict = found.iter().find(|d| d.finding.rule == "asymmetric-replies").unwrap();
    assert_eq!(strict.finding.severity, Severity::Error, "{strict:#?}");
    m.cure("asymmetric-replies");
    assert!(reached(), "the cured machine must answer: {}", m.ip("rule"));
    m.cure("several-default-routes");
    m.silent();
    assert!(reached());
    // Less strict machines are warned, and the network alone stops them.
    m.undo();
    m.sysctl("net/ipv4/conf/eth1/rp_filter", "2");
    assert!(!reached());
    assert!(m.rules().contains(&"asymmetric-replies"));
}

#[test]
fn an_overlay_gets_the_mtu_that_fits() {
    let m = machine!("an_overlay_gets_the_mtu_that_fits");
    one(&m);
    if !m.try_ip("link add vx0 type vxlan id 7 dstport 4789 dev eth0") {
        println!("SKIPPED an_overlay_gets_the_mtu_that_fits: this kernel has no VXLAN devices");
        return;
    }
    m.silent();
    // The kernel keeps a new tunnel below its device, and does not follow when that one changes.
    m.ip("link set eth0 mtu 1400");
    assert_eq!(m.rules(), ["overlay-mtu"]);
    m.cure("overlay-mtu");
    m.silent();
    assert!(m.ip("link show vx0").contains("mtu 1350"));
    // One that names its address instead of a device.
    m.ip("link del vx0");
    m.ip("link add vx1 mtu 1500 type vxlan id 8 dstport 4789 local 10.0.0.5 remote 10.0.0.1");
    assert_eq!(m.rules(), ["overlay-mtu"]);
}

#[test]
fn the_lease_names_a_smaller_mtu() {
    let m = machine!("the_lease_names_a_smaller_mtu");
    m.nic("eth0", 0);
    m.dhcp_server(0, &["3,10.0.0.1", "26,1400"]);
    m.dhclient("eth0");
    assert_eq!(m.rules(), ["lease-mtu"]);
    m.cure("lease-mtu");
    m.silent();
    m.undo();
    assert!(m.ip("link show eth0").contains("mtu 1500"));
}

#[test]
fn the_path_takes_less_than_the_nic() {
    let m = machine!("the_path_takes_less_than_the_nic");
    one(&m);
    m.silent();
    m.router("link set br0 mtu 1400");
    m.router("link set p-eth0 mtu 1400");
    assert_eq!(m.rules(), ["mtu-above-path"]);
    m.cure("mtu-above-path");
    assert!(m.ip("link show eth0").contains("mtu 1400"));
    m.silent();
}

#[test]
fn a_nic_that_is_up_without_an_address() {
    let m = machine!("a_nic_that_is_up_without_an_address");
    one(&m);
    m.nic("eth1", 1);
    assert_eq!(m.rules(), ["no-address"]);
    let client = m.udhcpc_without_answer("eth1");
    m.until("the client", || m.examine(&Options::default())[0].finding.message.contains("gets no answer"));
    m.end(client);
    m.address("eth1", "10.1.0.5/24");
    m.silent();
}

#[test]
fn a_nic_that_nothing_configures() {
    let m = machine!("a_nic_that_nothing_configures");
    one(&m);
    m.file("/etc/network/interfaces", "iface eth0 inet static\n  address 10.0.0.5/24\n  gateway 10.0.0.1\n");
    m.nic("eth1", 1);
    m.ip("link set eth1 down");
    assert_eq!(m.rules(), ["not-configured"]);
    m.cure("not-configured");
    m.silent();
    assert!(m.read("/etc/network/interfaces.d/multihome-eth1").contains("iface eth1 inet dhcp"));
}

#[test]
fn two_dhcp_clients_on_one_nic() {
    let m = machine!("two_dhcp_clients_on_one_nic");
    m.nic("eth0", 0);
    m.dhcp_server(0, &["3,10.0.0.1"]);
    m.dhclient("eth0");
    assert!(!m.rules().contains(&"several-dhcp-clients"));
    let second = m.udhcpc("eth0");
    assert!(m.rules().contains(&"several-dhcp-clients"), "{:?}", m.rules());
    m.end(second);
    assert!(!m.rules().contains(&"several-dhcp-clients"));
}

#[test]
fn name_servers_by_the_wrong_nic() {
    let m = machine!("name_servers_by_the_wrong_nic");
    two(&m);
    m.file("/etc/resolv.conf", "# by hand\nnameserver 10.1.0.53\n");
    let found = m.examine(&Options::default());
    assert_eq!(found[0].finding.rule, "dns-wrong-nic");
    assert_eq!(found[0].finding.evidence[0], "/etc/resolv.conf:2: nameserver 10.1.0.53");
    for good in ["10.0.0.1", "203.0.113.53"] {
        m.file("/etc/resolv.conf", &format!("nameserver {good}\n"));
        m.silent();
    }
    m.ip("route del default");
    assert_eq!(m.rules(), ["dns-unreachable"]);
}

#[test]
fn what_is_not_written_down_is_written_down() {
    let m = machine!("what_is_not_written_down_is_written_down");
    one(&m);
    m.file("/etc/network/interfaces", "source interfaces.d/*\nauto eth9\niface eth9 inet dhcp\n");
    assert_eq!(m.rules(), ["not-persistent"]);
    m.cure("not-persistent");
    m.silent();
    m.undo();
    assert_eq!(m.rules(), ["not-persistent"]);
}

#[test]
fn the_configuration_names_another_mac() {
    let m = machine!("the_configuration_names_another_mac");
    one(&m);
    let netplan = "network:\n  version: 2\n  ethernets:\n    lan:\n      match:\n        macaddress: 52:54:00:DE:AD:01\n      \
                   addresses: [10.0.0.5/24]\n      routes: [{to: default, via: 10.0.0.1}]\n";
    m.file("/etc/netplan/50-cloud-init.yaml", netplan);
    let found = m.examine(&Options::default());
    assert_eq!(found[0].finding.rule, "mac-mismatch");
    assert_eq!(found[0].finding.evidence[0], "/etc/netplan/50-cloud-init.yaml:6: macaddress: 52:54:00:DE:AD:01");
    m.cure("mac-mismatch");
    m.silent();
}

#[test]
fn somebody_else_has_the_address() {
    let m = machine!("somebody_else_has_the_address");
    one(&m);
    m.silent();
    m.router("addr add 10.0.0.5/32 dev br0");
    // The router does not answer who asks with its own address, so that it seems silent, too.
    assert_eq!(m.rules()[0], "duplicate-address");
    m.router("addr del 10.0.0.5/32 dev br0");
    m.silent();
}

#[test]
fn the_kernel_found_a_doubled_ipv6_address() {
    let m = machine!("the_kernel_found_a_doubled_ipv6_address");
    one(&m);
    m.sysctl("net/ipv6/conf/eth0/accept_dad", "1");
    m.router("-6 addr add fd00::5/64 dev br0 nodad");
    m.ip("-6 addr add fd00::5/64 dev eth0");
    m.until("duplicate detection", || m.ip("-6 addr show dev eth0").contains("dadfailed"));
    assert_eq!(m.rules(), ["duplicate-address"]);
    m.ip("-6 addr del fd00::5/64 dev eth0");
    m.silent();
}

#[test]
fn somebody_else_has_the_mac() {
    let m = machine!("somebody_else_has_the_mac");
    one(&m);
    let twin = m.twin("eth0", "10.0.0.66/24");
    // From when the twin speaks on.
    m.until("duplicate-mac", || m.rules().contains(&"duplicate-mac"));
    m.end(twin);
    m.router("link del twin");
    m.silent();
}

#[test]
fn a_gateway_that_is_not_there() {
    let m = machine!("a_gateway_that_is_not_there");
    m.nic("eth0", 0).address("eth0", "10.0.0.5/24");
    m.ip("route add default via 10.0.0.99");
    assert_eq!(m.rules(), ["gateway-silent"]);
    m.ip("route replace default via 10.0.0.1");
    m.silent();
}

/// The race of the guides: two DHCP NICs, two servers that both name a router. The cure is for the
/// client's own configuration, and holds when it starts again.
#[test]
fn two_dhcp_nics_race_no_more() {
    let m = machine!("two_dhcp_nics_race_no_more");
    for n in [0, 1] {
        m.nic(&format!("eth{n}"), n);
        m.dhcp_server(n, &[&format!("3,10.{n}.0.1")]);
    }
    m.dhclient("eth0");
    m.until("a default route", || m.ip("route show default").contains("10.0.0.1"));
    let second = m.dhclient("eth1");
    // This client's script replaces; others leave both.
    m.until("the other one", || m.ip("route show default").contains("10.1.0.1"));
    m.ip("route append default via 10.0.0.1 dev eth0 proto dhcp");
    let found = m.examine(&Options { primary: Some("eth0".into()), ..Options::default() });
    assert_eq!(found[0].finding.rule, "default-route-wrong-nic", "{found:#?}");
    m.apply(&found[0].actions);
    m.end(second);
    m.ip("addr flush dev eth1");
    m.dhclient("eth1");
    assert_eq!(m.ip("route show default").trim(), "default via 10.0.0.1 dev eth0 proto dhcp");
    // Its server still names a router, so that others may reach it by there.
    assert_eq!(m.rules(), ["asymmetric-replies"]);
    m.cure("asymmetric-replies");
    m.silent();
}

/// The same with systemd-networkd, whose two default routes have one metric and whose leases are read.
#[test]
fn networkd_keeps_its_cure() {
    let m = machine!("networkd_keeps_its_cure");
    for n in [0, 1] {
        m.nic(&format!("eth{n}"), n);
        m.dhcp_server(n, &[&format!("3,10.{n}.0.1"), "26,1400"]);
        let text = format!("[Match]\nName=eth{n}\n[Network]\nDHCP=ipv4\n");
        m.file(&format!("/etc/systemd/network/20-eth{n}.network"), &text);
    }
    let Some(first) = m.networkd() else {
        println!("SKIPPED networkd_keeps_its_cure: systemd-networkd is not installed");
        return;
    };
    m.until("both leases", || m.ip("route show default").lines().count() == 2);
    let rules = m.rules();
    assert_eq!(rules[0], "equal-metrics", "{rules:?}");
    assert!(rules.contains(&"asymmetric-replies"), "{rules:?}");
    // networkd takes no MTU from a lease unless it is told to, and here the server says one all the same.
    for rule in ["equal-metrics", "asymmetric-replies", "lease-mtu", "lease-mtu"] {
        m.cure(rule);
    }
    m.silent();
    m.end(first);
    let kept = m.ip("route show default");
    let lost = if kept.contains("eth0") { "eth1" } else { "eth0" };
    for n in [0, 1] {
        m.ip(&format!("addr flush dev eth{n}"));
        m.ip(&format!("route flush dev eth{n}"));
    }
    m.networkd();
    m.until("both leases", || (0..2).all(|n| m.ip(&format!("-4 addr show dev eth{n}")).contains("inet ")));
    m.until("a default route", || m.ip("route show default").contains("via"));
    let now = m.ip("route show default");
    assert!(now.lines().count() == 1 && !now.contains(lost), "{now}");
    let own = m.ip("route show table all");
    assert!(own.lines().any(|l| l.starts_with("default via") && l.contains(lost) && l.contains("table")), "{own}");
    let rules = m.rules();
    assert!(rules.is_empty(), "{rules:?}");
}

/// Devices that not every kernel has.
#[test]
fn a_vlan_on_a_bare_nic_is_silent() {
    let m = machine!("a_vlan_on_a_bare_nic_is_silent");
    one(&m);
    m.nic("eth1", 1);
    if !m.try_ip("link add link eth1 name eth1.10 type vlan id 10") {
        println!("SKIPPED a_vlan_on_a_bare_nic_is_silent: this kernel has no VLAN devices");
        return;
    }
    m.address("eth1.10", "10.7.0.5/24");
    m.ip("link set eth1.10 up");
    m.silent();
}

#[test]
fn a_bond_of_two_nics_is_silent() {
    let m = machine!("a_bond_of_two_nics_is_silent");
    if !m.try_ip("link add bond0 type bond mode active-backup") {
        println!("SKIPPED a_bond_of_two_nics_is_silent: this kernel has no bond devices");
        return;
    }
    for nic in ["eth0", "eth1"] {
        m.nic(nic, 0);
        m.ip(&format!("link set {nic} down"));
        m.ip(&format!("link set {nic} master bond0"));
    }
    m.ip("link set bond0 up");
    m.address("bond0", "10.0.0.5/24");
    m.ip("route add default via 10.0.0.1");
    m.silent();
}
