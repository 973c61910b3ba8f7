//! The ifcfg dialects, whose tools are not in Debian. A small reader does what network-scripts and wicked document: RHEL's
//! `route-` and `rule-` lines go to `ip route add` and `ip rule add` as they are, SUSE's columns are put in order first.
//! So the lines are proven by the kernel, and their reading is ours.
#![allow(clippy::unwrap_used)]

mod support;

use multihome_guest::{Dialect, File, render};
use support::fixtures::{dual, guest};
use support::lab::{Lab, can_have_namespaces};

/// The value of a shell assignment.
fn value<'a>(file: &'a File, key: &str) -> Option<&'a str> {
    file.content.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('=')).map(|v| v.trim_matches('"'))
}

/// Lines that are no comments.
fn lines(file: &File) -> impl Iterator<Item = &str> {
    file.content.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty())
}

fn family(text: &str) -> &'static str {
    if text.contains(':') { "-6" } else { "-4" }
}

fn apply(dialect: Dialect, commands: &dyn Fn(&File, &str, &str) -> Vec<String>) {
    let lab = Lab::new(dual());
    let files = render(dialect, &guest(dual()));
    lab.name_devices(&files);
    let ordered = ["ifcfg-", "ifroute-", "route-", "route6-", "ifrule-", "rule-", "rule6-"];
    let mut script = String::new();
    for kind in ordered {
        for f in &files {
            let name = f.path.rsplit('/').next().unwrap();
            if let Some(device) = name.strip_prefix(kind) {
                commands(f, kind, device).iter().for_each(|c| script += &format!("{c}\n"));
            }
        }
    }
    lab.run(&script);
    lab.expect(dialect.name(), 5);
}

#[test]
fn ifcfg_of_rhel() {
    if !can_have_namespaces("ifcfg_of_rhel") {
        return;
    }
    apply(Dialect::IfcfgRhel, &|f, kind, device| match kind {
        "ifcfg-" => {
            assert_eq!((value(f, "DEVICE"), value(f, "BOOTPROTO")), (Some(device), Some("none")));
            let mut out = vec![format!("ip link set {device} mtu {} up", value(f, "MTU").unwrap())];
            let (a, bits) = (value(f, "IPADDR").unwrap(), value(f, "PREFIX").unwrap());
            out.push(format!("ip address add {a}/{bits} dev {device}"));
            out.extend(value(f, "IPV6ADDR").map(|a| format!("ip address add {a} dev {device} nodad")));
            out.extend(value(f, "GATEWAY").map(|g| format!("ip route add default via {g} dev {device}")));
            out.extend(value(f, "IPV6_DEFAULTGW").map(|g| format!("ip -6 route add default via {g} dev {device}")));
            out
        }
        "route-" | "rule-" => lines(f).map(|l| format!("ip -4 {} add {l}", kind.trim_end_matches('-'))).collect(),
        "route6-" => lines(f).map(|l| format!("ip -6 route add {l}")).collect(),
        "rule6-" => lines(f).map(|l| format!("ip -6 rule add {l}")).collect(),
        _ => vec![],
    });
}

#[test]
fn ifcfg_of_suse() {
    if !can_have_namespaces("ifcfg_of_suse") {
        return;
    }
    apply(Dialect::IfcfgSuse, &|f, kind, device| match kind {
        "ifcfg-" => {
            assert_eq!(value(f, "BOOTPROTO"), Some("static"));
            let mut out = vec![format!("ip link set {device} mtu {} up", value(f, "MTU").unwrap())];
            for a in [value(f, "IPADDR"), value(f, "IPADDR_1")].into_iter().flatten() {
                let nodad = if a.contains(':') { "nodad" } else { "" };
                out.push(format!("ip address add {a} dev {device} {nodad}"));
            }
            out
        }
        // Destination, gateway, netmask, interface, options.
        "ifroute-" => lines(f)
            .map(|l| {
                let c: Vec<&str> = l.split(' ').collect();
                assert_eq!((c[2], c[3]), ("-", device), "{l}");
                let via = if c[1] == "-" { String::new() } else { format!("via {}", c[1]) };
                format!("ip {} route add {} {via} dev {device} {}", family(l), c[0], c[4..].join(" "))
            })
            .collect(),
        "ifrule-" => lines(f).map(|l| format!("ip -{} rule add {}", &l[3..4], &l[5..])).collect(),
        _ => vec![],
    });
}
