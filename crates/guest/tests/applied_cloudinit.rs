//! A seed or metadata rendered by cloud-init for each of its renderers, applied to a real kernel, its boothook run as at every boot:
//! whatever the renderer drops, the kernel ends in the planned state.
#![allow(clippy::unwrap_used)]

mod support;

use multihome_guest::{Dialect, Guest, metadata, render};
use multihome_plan::route::RoutePlan;
use support::fixtures::{dual, foreign, formed, guest, served, three};
use support::lab::{Lab, can_have_namespaces, have, kernel_name};
use support::metadata_server::{EC2, python, serve};

const NETWORKD: &str = "/lib/systemd/systemd-networkd";

/// Takes a part of a MIME message out as cloud-init does: without its mark.
const BOOTHOOK: &str = r##"/usr/bin/python3 - "$1/vendor-data" >"$1/boothook" <<'END'
import email, sys
for p in email.message_from_file(open(sys.argv[1])).walk():
    if p.get_content_type() == "text/cloud-boothook":
        print(p.get_payload(decode=True).decode().removeprefix("#cloud-boothook").lstrip())
END
"##;

fn plans() -> [(&'static str, RoutePlan); 5] {
    [("three", three()), ("dual", dual()), ("foreign", foreign()), ("served", served()), ("formed", formed())]
}

/// The seed in the guest, rendered for one renderer, with the files in place.
fn rendered(dialect: Dialect, renderer: &str, guest: &Guest) -> Lab {
    let lab = Lab::new(guest.plan.clone());
    let dir = lab.scratch();
    for f in render(dialect, guest) {
        std::fs::write(dir.join(&f.path), f.content).unwrap();
    }
    let vendor = match dialect {
        Dialect::OpenStack => {
            let answer = ask(guest, "/openstack/latest/vendor_data.json");
            let data: serde_json::Value = serde_json::from_str(&answer).unwrap();
            Some(data["cloud-init"].as_str().unwrap().to_owned())
        }
        Dialect::Ec2 => {
            let macs = guest.plan.nics.iter().enumerate().map(|(i, n)| (n.mac.to_string(), kernel_name(i).into()));
            let macs = serde_json::Value::Object(macs.collect()).to_string();
            let read = python(EC2, &[&serve(guest.clone()), "latest", &macs]);
            std::fs::write(dir.join("network-config"), read["config"].to_string()).unwrap();
            Some(ask(guest, "/latest/user-data"))
        }
        _ => None,
    };
    if let Some(text) = vendor {
        std::fs::write(dir.join("vendor-data"), text).unwrap();
    }
    let source = match dialect {
        Dialect::OpenStack => "-p network_data.json -k network_data.json",
        _ => "-p network-config -k yaml",
    };
    let d = dir.display();
    if dialect == Dialect::CloudInitV1 {
        // cloud-init renames devices before it brings them up.
        for (i, nic) in guest.plan.nics.iter().enumerate() {
            lab.run(&format!("ip link set {} name {}", kernel_name(i), guest.device(nic)));
        }
    }
    lab.run(&format!(
        "cd {d}
         cloud-init devel net-convert {source} -d {d}/out -D debian -O {renderer} >{d}/convert.txt 2>&1 || {{ cat {d}/convert.txt; exit 1; }}
         cp -a {d}/out/etc/. /etc/
         set -- {d}
         {BOOTHOOK}"
    ));
    lab
}

fn ask(guest: &Guest, path: &str) -> String {
    let r = metadata::respond(guest, &guest.plan.nics[0].name, "GET", path, &[]);
    assert_eq!(r.status, 200, "{path}");
    r.body
}

/// Runs the boothook, and what the unit that it would enable runs.
fn boothook(lab: &mut Lab) {
    lab.run(&format!("sh {}/boothook", lab.scratch().display()));
    if lab.run("ls /etc/multihome 2>/dev/null || true").contains("routes") {
        lab.start("routes", "/bin/sh /etc/multihome/routes watch");
    }
}

fn ready(test: &str, tools: &[&str]) -> bool {
    can_have_namespaces(test) && have(test, &["cloud-init", "/usr/bin/python3", "dnsmasq"]) && have(test, tools)
}

#[test]
fn networkd_renderer() {
    if !ready("networkd_renderer", &[NETWORKD]) {
        return;
    }
    for (dialect, name, plan) in all() {
        let mut lab = rendered(dialect, "networkd", &guest(plan));
        boothook(&mut lab);
        // After the hook, so that what networkd removes when it starts would show.
        lab.start("networkd", NETWORKD);
        lab.expect(&format!("{dialect}, networkd, {name}"), 20);
        if name == "three" {
            // The routes of a link are gone when it goes down; the program that watches links puts them back.
            let device = lab.run("ip -o link | sed -n '/00:00:00:11 /s/^[0-9]*: \\([^:@]*\\).*/\\1/p'");
            lab.run(&format!("ip link set {0} down; sleep 0.2; ip link set {0} up", device.trim()));
            lab.expect(&format!("{dialect}, networkd, {name}, after its cable was pulled"), 20);
        }
    }
}

#[test]
fn netplan_renderer() {
    if !ready("netplan_renderer", &[NETWORKD, "netplan"]) {
        return;
    }
    for (dialect, name, plan) in all() {
        let mut lab = rendered(dialect, "netplan", &guest(plan));
        // The lab's devices have no permanent address, by which netplan has networkd match.
        lab.run("netplan generate && sed -i s/^PermanentMACAddress=/MACAddress=/ /run/systemd/network/*.network");
        lab.start("networkd", NETWORKD);
        boothook(&mut lab);
        lab.expect(&format!("{dialect}, netplan, {name}"), 20);
    }
}

#[test]
fn network_manager_renderer() {
    if !ready("network_manager_renderer", &["NetworkManager", "dbus-daemon"]) {
        return;
    }
    // NetworkManager forms addresses that no plan can know (RFC 7217) unless its file says otherwise, which cloud-init's does
    // not.
    for (dialect, name, plan) in all().filter(|(_, name, _)| *name != "formed") {
        let mut lab = rendered(dialect, "network-manager", &guest(plan));
        lab.start_network_manager();
        if dialect == Dialect::CloudInitV2 && name == "dual" {
            // What the boothook is for: NetworkManager alone ends elsewhere.
            let left = lab.settle(8);
            assert!(left.iter().any(|d| d.contains("rule is missing")), "{left:?}");
            assert!(left.iter().any(|d| d.contains("route is missing: fd00:60::/32")), "{left:?}");
        }
        boothook(&mut lab);
        lab.expect(&format!("{dialect}, NetworkManager, {name}"), 30);
    }
}

#[test]
fn eni_renderer() {
    if !ready("eni_renderer", &["ifup", "dhclient"]) {
        return;
    }
    for (dialect, name, plan) in all() {
        let mut lab = rendered(dialect, "eni", &guest(plan));
        boothook(&mut lab);
        lab.run("ifup -a");
        lab.expect(&format!("{dialect}, eni, {name}"), 10);
    }
}

fn all() -> impl Iterator<Item = (Dialect, &'static str, RoutePlan)> {
    [Dialect::CloudInitV1, Dialect::CloudInitV2, Dialect::OpenStack]
        .into_iter()
        .flat_map(|d| plans().map(|(n, p)| (d, n, p)))
}
