//! Commands of iproute2, to paste into a shell: they bring a running machine to its planned state until it reboots.

use std::fmt::Write;

use ipnet::IpNet;

use crate::Guest;
use crate::view::{How, Nic, Stack, no_rule};

const HEAD: &str = r#"#!/bin/sh
# In force until the next reboot. Run as root.
set -eu

# Sets d to the device with this MAC.
nic() {
    d=$(ip -o link show | sed -n "/link\/ether $1 /s/^[0-9]*: \([^:@]*\).*/\1/p" | head -n 1)
    [ -n "$d" ] || { echo "error: there is no NIC with MAC $1" >&2; exit 1; }
}
# Removes the default routes by d from the main table.
no_default() {
    n=0
    while [ $n -lt 16 ] && ip "$1" route del default dev "$d" table main 2>/dev/null; do n=$((n + 1)); done
}
# Router advertisements bring no default route by d ($1: accept_ra or accept_ra_defrtr).
no_router() {
    f=/proc/sys/net/ipv6/conf/$d/$1
    [ ! -e "$f" ] || echo 0 >"$f"
}
"#;

pub(crate) fn script(guest: &Guest) -> String {
    let mut out = HEAD.to_owned();
    for nic in &guest.nics() {
        let _ = writeln!(out, "\n# {}\nnic {}", nic.plan.name, nic.plan.mac);
        let _ = writeln!(out, "ip link set dev \"$d\" mtu {} up", nic.plan.mtu);
        let v6 = nic.v6();
        if !v6.is_served() {
            out.push_str("no_router accept_ra\n");
        } else if !v6.is_primary() {
            out.push_str("no_router accept_ra_defrtr\n");
        }
        for s in nic.stacks() {
            family(&mut out, nic, &s);
        }
        if !nic.dns().is_empty() {
            let list: Vec<String> = nic.dns().iter().map(ToString::to_string).collect();
            let _ = writeln!(out, "# name servers: {}", list.join(" "));
        }
    }
    out
}

fn family(out: &mut String, nic: &Nic<'_>, s: &Stack<'_>) {
    let f = format!("-{}", s.digit());
    // Any other default route by this NIC is what this script is there to remove.
    let _ = writeln!(out, "no_default {f}");
    let plan = nic.plan.family(s.family).filter(|_| s.how() != How::Nothing);
    let Some(plan) = plan else { return };
    match plan.address {
        Some(a) => address(out, s, &a),
        None if s.is_dhcp() => drop(writeln!(out, "# its DHCP server knows the address: run the DHCP client on $d")),
        None => drop(writeln!(out, "# its router knows the prefix: the kernel forms the address")),
    }
    if s.lacks_rule() {
        let _ = writeln!(out, "# {}", no_rule("$d", s));
    }
    let (Some(_), Some(gateway)) = (plan.address, plan.gateway) else { return };
    if s.is_primary() {
        let _ = writeln!(out, "ip {f} route replace default via {gateway} dev \"$d\" metric {}", s.metric());
    }
    for r in s.routes() {
        let _ = writeln!(out, "ip {f} route replace {} via {} dev \"$d\"", r.to, r.via);
    }
    if let Some(t) = s.own_table() {
        let _ = writeln!(out, "ip {f} route replace {} dev \"$d\" table {}", t.prefix, t.id);
        let _ = writeln!(out, "ip {f} route replace default via {} dev \"$d\" table {}", t.gateway, t.id);
        let _ = writeln!(out, "ip {f} rule del pref {} 2>/dev/null || true", t.priority);
        let _ = writeln!(out, "ip {f} rule add pref {} from {} lookup {}", t.priority, t.from, t.id);
    }
}

/// The address that the plan names, whoever serves it: the record is the NIC's for as long as the NIC lives.
fn address(out: &mut String, s: &Stack<'_>, a: &IpNet) {
    // Without it the routes below could not name an address that is still being looked for duplicates of.
    let nodad = if s.digit() == 6 { " nodad" } else { "" };
    let _ = writeln!(out, "ip -{} address replace {a} dev \"$d\"{nodad}", s.digit());
}
