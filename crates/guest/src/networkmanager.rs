//! NetworkManager keyfiles: one connection per NIC (nm-settings-keyfile(5)).

use std::fmt::Write;

use crate::view::{How, Nic, Stack, no_rule};
use crate::{File, Guest};

pub(crate) fn files(guest: &Guest) -> Vec<File> {
    let one = |nic: &Nic<'_>| {
        let path = format!("/etc/NetworkManager/system-connections/multihome-{}.nmconnection", nic.device);
        // NetworkManager ignores keyfiles that others may read.
        File::new(path, 0o600, keyfile(nic))
    };
    guest.nics().iter().map(one).collect()
}

fn keyfile(nic: &Nic<'_>) -> String {
    let mut out = String::new();
    for s in nic.stacks().iter().filter(|s| s.lacks_rule()) {
        let _ = writeln!(out, "# {}", no_rule(&nic.device, s));
    }
    let _ = writeln!(out, "[connection]\nid=multihome-{}\ntype=ethernet", nic.device);
    let _ = writeln!(out, "\n[ethernet]\nmac-address={}\nmtu={}", nic.plan.mac, nic.plan.mtu);
    for s in nic.stacks() {
        family(&mut out, nic, &s);
    }
    out
}

fn family(out: &mut String, nic: &Nic<'_>, s: &Stack<'_>) {
    let method = match (s.how(), s.digit()) {
        // For IPv6: as router advertisements say, by DHCPv6 or without.
        (How::Dhcp | How::Router { .. }, _) => "auto",
        (How::Static(_), _) => "manual",
        (How::Nothing, 4) => "disabled",
        (How::Nothing, _) => "link-local",
    };
    let _ = writeln!(out, "\n[ipv{}]\nmethod={method}", s.digit());
    if s.how() == How::Nothing {
        return;
    }
    if let Some(a) = s.address() {
        let _ = writeln!(out, "address1={a}");
    }
    if matches!(s.how(), How::Router { .. }) && nic.plan.family(s.family).is_some_and(|p| p.address.is_some()) {
        // The address that the plan knows is the one of the NIC's MAC (RFC 4291 appendix A).
        let _ = writeln!(out, "addr-gen-mode=eui64");
    }
    if let Some(via) = s.default_via() {
        let _ = writeln!(out, "gateway={via}");
    }
    let _ = writeln!(out, "route-metric={}", s.metric());
    if !s.is_primary() {
        // Drops the default route of options 3 and 121, and of router advertisements; keeps the specific ones.
        let _ = writeln!(out, "never-default=true");
    }
    if s.is_served() && !s.wants_dns() {
        let _ = writeln!(out, "ignore-auto-dns=true");
    }
    if s.address().is_some() {
        names(out, nic, s);
    }
    let mut n = 0;
    let mut route = |out: &mut String, line: String, options: Option<String>| {
        n += 1;
        let _ = writeln!(out, "route{n}={line}");
        if let Some(o) = options {
            let _ = writeln!(out, "route{n}_options={o}");
        }
    };
    for r in s.routes() {
        route(out, format!("{},{}", r.to, r.via), None);
    }
    if let Some(t) = s.own_table() {
        route(out, format!("{},{}", s.any(), t.gateway), Some(format!("table={}", t.id)));
        route(out, t.prefix.to_string(), Some(format!("table={}", t.id)));
        // Without a priority the rule is invalid.
        let _ = writeln!(out, "routing-rule1=priority {} from {}/{} table {}", t.priority, t.from, s.host_bits(), t.id);
    }
}

fn names(out: &mut String, nic: &Nic<'_>, s: &Stack<'_>) {
    let of_family: Vec<String> =
        nic.dns().iter().filter(|d| d.is_ipv4() == (s.digit() == 4)).map(ToString::to_string).collect();
    if !of_family.is_empty() {
        let _ = writeln!(out, "dns={};", of_family.join(";"));
        if !nic.search().is_empty() {
            let _ = writeln!(out, "dns-search={};", nic.search().join(";"));
        }
    }
}
