//! Every dialect applied by its own tool to a real kernel, and the kernel's state compared with the plan.
#![allow(clippy::unwrap_used)]

mod support;

use multihome_guest::{Dialect, File, render};
use multihome_plan::route::RoutePlan;
use support::fixtures::{dual, foreign, formed, guest, served, three};
use support::lab::{Lab, can_have_namespaces, have};

/// Every plan on networks that Multihome serves or guards; and one where servers name routers on secondaries, too.
fn labs() -> impl Iterator<Item = (&'static str, RoutePlan, Lab)> {
    let plans =
        [("three", three()), ("dual", dual()), ("foreign", foreign()), ("served", served()), ("formed", formed())];
    let rogue = || ("three, routers everywhere", three(), Lab::with_routers_everywhere(three()));
    plans.into_iter().map(|(n, p)| (n, p.clone(), Lab::new(p))).chain(std::iter::once_with(rogue))
}

#[test]
fn commands_of_iproute2() {
    if !can_have_namespaces("commands_of_iproute2") {
        return;
    }
    for plan in [three(), dual()] {
        let lab = Lab::new(plan.clone());
        let [File { content, .. }] = &render(Dialect::Ip, &guest(plan.clone()))[..] else { panic!("one script") };
        // A second default route, as the fault leaves it, and the script twice: it mends, and repeats without harm.
        lab.run("ip link set ens4 up; ip route add default dev ens4 metric 7");
        lab.run(content);
        lab.expect("ip", 5);
        lab.run(content);
        lab.expect("ip, again", 5);
    }
}

#[test]
fn systemd_networkd() {
    let networkd = "/lib/systemd/systemd-networkd";
    if !can_have_namespaces("systemd_networkd") || !have("systemd_networkd", &[networkd, "dnsmasq"]) {
        return;
    }
    for (name, plan, mut lab) in labs() {
        lab.install(&render(Dialect::Networkd, &guest(plan)));
        lab.start("networkd", networkd);
        lab.expect(&format!("networkd, {name}"), 20);
    }
}

#[test]
fn netplan_with_networkd() {
    let networkd = "/lib/systemd/systemd-networkd";
    let test = "netplan_with_networkd";
    if !can_have_namespaces(test) || !have(test, &[networkd, "netplan", "dnsmasq"]) {
        return;
    }
    for (name, plan, mut lab) in labs() {
        lab.install(&render(Dialect::Netplan, &guest(plan)));
        // The lab's devices have no permanent address, by which netplan has networkd match.
        lab.run("netplan generate && sed -i s/^PermanentMACAddress=/MACAddress=/ /run/systemd/network/*.network");
        lab.start("networkd", networkd);
        lab.expect(&format!("netplan, {name}"), 20);
    }
}

#[test]
fn network_manager() {
    let test = "network_manager";
    if !can_have_namespaces(test) || !have(test, &["NetworkManager", "dbus-daemon", "dnsmasq"]) {
        return;
    }
    for (name, plan, mut lab) in labs() {
        lab.install(&render(Dialect::NetworkManager, &guest(plan)));
        lab.start_network_manager();
        lab.expect(&format!("NetworkManager, {name}"), 30);
    }
}

#[test]
fn ifupdown() {
    if !can_have_namespaces("ifupdown") || !have("ifupdown", &["ifup", "dhclient", "dnsmasq"]) {
        return;
    }
    for (name, plan, lab) in labs() {
        let files = render(Dialect::Ifupdown, &guest(plan));
        lab.install(&files);
        lab.name_devices(&files);
        lab.run("ifup -a; ifup -a --allow=hotplug");
        lab.expect(&format!("ifupdown, {name}"), 10);
    }
}
