//! `ifcfg-`, `route-`, `route6-`, `rule-` and `rule6-` files of RHEL up to 9 and its relatives.

use std::fmt::Write;

use crate::view::{How, Nic, Stack, no_rule};
use crate::{File, Guest};

const DIR: &str = "/etc/sysconfig/network-scripts";

pub(crate) fn files(guest: &Guest) -> Vec<File> {
    let mut out = vec![];
    for nic in &guest.nics() {
        out.extend(super::link(nic));
        let dev = &nic.device;
        out.push(File::new(format!("{DIR}/ifcfg-{dev}"), 0o644, ifcfg(nic)));
        for s in nic.stacks() {
            let six = if s.digit() == 6 { "6" } else { "" };
            let routes = routes(nic, &s);
            if !routes.is_empty() {
                out.push(File::new(format!("{DIR}/route{six}-{dev}"), 0o644, routes));
            }
            if let Some(t) = s.own_table() {
                let text = format!(
                    "# NetworkManager reads this file only with the package NetworkManager-dispatcher-routing-rules.\n\
                     from {}/{} lookup {} priority {}\n",
                    t.from,
                    s.host_bits(),
                    t.id,
                    t.priority
                );
                out.push(File::new(format!("{DIR}/rule{six}-{dev}"), 0o644, text));
            }
        }
    }
    out
}

fn ifcfg(nic: &Nic<'_>) -> String {
    let mut out = String::new();
    for s in nic.stacks().iter().filter(|s| s.lacks_rule()) {
        let _ = writeln!(out, "# {}", no_rule(&nic.device, s));
    }
    let _ = writeln!(out, "DEVICE={}\nHWADDR={}\nTYPE=Ethernet", nic.device, nic.plan.mac);
    let _ = writeln!(out, "ONBOOT=yes\nMTU={}", nic.plan.mtu);
    let [v4, v6] = nic.stacks();
    ipv4(&mut out, &v4);
    ipv6(&mut out, &v6);
    let asks = nic.stacks().iter().any(Stack::is_served);
    if asks {
        let _ = writeln!(out, "PEERDNS={}", yes_no(nic.stacks().iter().any(|s| s.is_served() && s.wants_dns())));
    }
    for (i, dns) in nic.dns().iter().enumerate() {
        let _ = writeln!(out, "DNS{}={dns}", i + 1);
    }
    if !nic.search().is_empty() {
        let _ = writeln!(out, "DOMAIN=\"{}\"", nic.search().join(" "));
    }
    out
}

fn ipv4(out: &mut String, s: &Stack<'_>) {
    let _ = writeln!(out, "BOOTPROTO={}", if s.is_dhcp() { "dhcp" } else { "none" });
    if let Some(a) = s.address() {
        let _ = writeln!(out, "IPADDR={}\nPREFIX={}", a.addr(), a.prefix_len());
    }
    if let Some(via) = s.default_via() {
        let _ = writeln!(out, "GATEWAY={via}");
    }
    if s.how() != How::Nothing {
        let _ = writeln!(out, "DEFROUTE={}\nIPV4_ROUTE_METRIC={}", yes_no(s.is_primary()), s.metric());
    }
}

fn ipv6(out: &mut String, s: &Stack<'_>) {
    if s.how() == How::Nothing {
        let _ = writeln!(out, "IPV6INIT=no");
        return;
    }
    let info = s.how() == How::Router { info: true };
    let _ = writeln!(out, "IPV6INIT=yes\nIPV6_AUTOCONF={}", yes_no(s.is_served()));
    let _ = writeln!(out, "DHCPV6C={}", yes_no(s.is_dhcp() || info));
    if info {
        let _ = writeln!(out, "DHCPV6C_OPTIONS=-S");
    }
    if let Some(a) = s.address() {
        let _ = writeln!(out, "IPV6ADDR={a}");
    }
    if let Some(via) = s.default_via() {
        let _ = writeln!(out, "IPV6_DEFAULTGW={via}");
    }
    let _ = writeln!(out, "IPV6_DEFROUTE={}\nIPV6_ROUTE_METRIC={}", yes_no(s.is_primary()), s.metric());
}

/// In the format of `ip route add`, which network-scripts and NetworkManager both read.
fn routes(nic: &Nic<'_>, s: &Stack<'_>) -> String {
    let mut out = String::new();
    for r in s.routes() {
        let _ = writeln!(out, "{} via {} dev {}", r.to, r.via, nic.device);
    }
    if let Some(t) = s.own_table() {
        let _ = writeln!(out, "{} dev {} table {}", t.prefix, nic.device, t.id);
        let _ = writeln!(out, "default via {} dev {} table {}", t.gateway, nic.device, t.id);
    }
    out
}

fn yes_no(v: bool) -> &'static str {
    if v { "yes" } else { "no" }
}
