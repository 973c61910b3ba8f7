//! ifupdown of Debian, with dhclient (interfaces(5)).

use std::fmt::Write;

use crate::ifcfg::link;
use crate::view::{How, Nic, Stack, no_rule};
use crate::{File, Guest};

pub(crate) fn files(guest: &Guest) -> Vec<File> {
    let nics = guest.nics();
    let mut out: Vec<File> = nics.iter().filter_map(link).collect();
    let stanzas: Vec<String> = nics.iter().map(interface).collect();
    out.push(File::new("/etc/network/interfaces.d/multihome", 0o644, stanzas.join("\n")));
    out.extend(hook(&nics));
    out
}

fn interface(nic: &Nic<'_>) -> String {
    let mut out = String::new();
    for s in nic.stacks().iter().filter(|s| s.lacks_rule()) {
        let _ = writeln!(out, "# {}", no_rule(&nic.device, s));
    }
    let dev = &nic.device;
    let _ = writeln!(out, "{} {dev}", if nic.is_primary() { "auto" } else { "allow-hotplug" });
    let [v4, v6] = nic.stacks();
    let method = match v4.how() {
        How::Dhcp => "dhcp",
        How::Static(_) => "static",
        How::Router { .. } | How::Nothing => "manual",
    };
    let _ = writeln!(out, "iface {dev} inet {method}");
    let _ = writeln!(out, "    pre-up ip link set dev $IFACE mtu {}", nic.plan.mtu);
    let sysctl = "/proc/sys/net/ipv6/conf/$IFACE";
    match (v6.is_served(), v6.is_primary()) {
        (true, true) => {}
        (true, false) => drop(writeln!(out, "    pre-up echo 0 > {sysctl}/accept_ra_defrtr")),
        (false, _) => drop(writeln!(out, "    pre-up echo 0 > {sysctl}/accept_ra || true")),
    }
    if v4.how() == How::Nothing {
        let _ = writeln!(out, "    up ip link set dev $IFACE up\n    down ip link set dev $IFACE down");
    }
    body(&mut out, nic, &v4);
    match v6.how() {
        How::Nothing => {}
        How::Dhcp => {
            let _ = writeln!(out, "iface {dev} inet6 dhcp\n    accept_ra 1");
        }
        How::Router { info } => {
            let _ = writeln!(out, "iface {dev} inet6 auto");
            if info {
                let _ = writeln!(out, "    dhcp 1");
            }
        }
        How::Static(_) => {
            // Duplicate address detection would keep the address from being used for a second.
            let _ = writeln!(out, "iface {dev} inet6 static\n    accept_ra 0\n    dad-attempts 0");
        }
    }
    body(&mut out, nic, &v6);
    out
}

fn body(out: &mut String, nic: &Nic<'_>, s: &Stack<'_>) {
    if s.how() == How::Nothing {
        return;
    }
    if let Some(a) = s.address() {
        let _ = writeln!(out, "    address {a}");
    }
    if let Some(via) = s.default_via() {
        let _ = writeln!(out, "    gateway {via}");
    }
    if s.digit() == 4 {
        let _ = writeln!(out, "    metric {}", s.metric());
    }
    let dns: Vec<String> =
        nic.dns().iter().filter(|d| d.is_ipv4() == (s.digit() == 4)).map(ToString::to_string).collect();
    if !dns.is_empty() {
        let _ = writeln!(out, "    dns-nameservers {}", dns.join(" "));
        if !nic.search().is_empty() {
            let _ = writeln!(out, "    dns-search {}", nic.search().join(" "));
        }
    }
    let ip = if s.digit() == 4 { "ip" } else { "ip -6" };
    for r in s.routes() {
        let _ = writeln!(out, "    up {ip} route replace {} via {} dev $IFACE", r.to, r.via);
    }
    if let Some(t) = s.own_table() {
        let _ = writeln!(out, "    up {ip} route replace {} dev $IFACE table {}", t.prefix, t.id);
        let _ = writeln!(out, "    up {ip} route replace default via {} dev $IFACE table {}", t.gateway, t.id);
        let _ = writeln!(out, "    up {ip} rule add pref {} from {} lookup {}", t.priority, t.from, t.id);
        let _ = writeln!(out, "    down {ip} rule del pref {} || true", t.priority);
    }
}

/// `interfaces` has no word for «no default route from DHCP». dhclient sources its enter hooks before it acts on a lease.
fn hook(nics: &[Nic<'_>]) -> Option<File> {
    let mut text = String::new();
    for nic in nics.iter().filter(|n| n.v4().is_dhcp() && !n.v4().is_primary()) {
        let dns = if nic.v4().wants_dns() { "" } else { "; make_resolv_conf() { :; }" };
        let _ = writeln!(text, "    {}) unset new_routers{dns} ;;", nic.device);
    }
    let path = "/etc/dhcp/dhclient-enter-hooks.d/multihome";
    (!text.is_empty()).then(|| {
        File::new(path, 0o644, format!("# Secondary NICs take no default route.\ncase $interface in\n{text}esac\n"))
    })
}
