//! `ifcfg-`, `ifroute-`, `ifrule-` and `ifsysctl-` files of SUSE, read by wicked.

use std::fmt::Write;

use ipnet::IpNet;

use crate::view::{How, Nic, Stack, no_rule};
use crate::{File, Guest};

const DIR: &str = "/etc/sysconfig/network";

pub(crate) fn files(guest: &Guest) -> Vec<File> {
    let mut out = vec![];
    for nic in &guest.nics() {
        out.extend(super::link(nic));
        let dev = &nic.device;
        out.push(File::new(format!("{DIR}/ifcfg-{dev}"), 0o644, ifcfg(nic)));
        for (kind, text) in [("ifroute", routes(nic)), ("ifrule", rules(nic)), ("ifsysctl", sysctl(nic))] {
            if !text.is_empty() {
                out.push(File::new(format!("{DIR}/{kind}-{dev}"), 0o644, text));
            }
        }
    }
    out
}

/// The address that wicked is told to set although a server would give the same one: wicked puts the routes of a NIC's own
/// table in place before it has a lease, when their gateway cannot be reached yet, and does not try again.
fn told_anyway(s: &Stack<'_>) -> Option<IpNet> {
    s.own_table().filter(|_| s.is_served()).and_then(|t| IpNet::new(t.from, t.prefix.prefix_len()).ok())
}

/// Whether it takes from the network what that tells.
fn listens(s: &Stack<'_>) -> bool {
    s.is_served() && told_anyway(s).is_none()
}

/// Whether it asks a DHCP server. Router advertisements are the kernel's matter, which wicked leaves alone.
fn asks(s: &Stack<'_>) -> bool {
    listens(s) && s.how() != How::Router { info: false }
}

fn ifcfg(nic: &Nic<'_>) -> String {
    let mut out = String::new();
    for s in nic.stacks() {
        if s.lacks_rule() {
            let _ = writeln!(out, "# {}", no_rule(&nic.device, &s));
        }
        if told_anyway(&s).is_some() {
            let _ = writeln!(
                out,
                "# IPv{}: the address that the server keeps for this NIC, set here, because wicked sets the routes of a \
                 NIC's own table only with static addresses",
                s.digit()
            );
        }
    }
    let [v4, v6] = nic.stacks();
    let proto = match (asks(&v4), asks(&v6)) {
        (true, true) => "dhcp",
        (true, false) => "dhcp4",
        (false, true) => "dhcp6",
        (false, false) if nic.stacks().iter().all(|s| s.how() == How::Nothing) => "none",
        (false, false) => "static",
    };
    let mode = if nic.is_primary() { "auto" } else { "hotplug" };
    let _ = writeln!(out, "STARTMODE={mode}\nBOOTPROTO={proto}\nLLADDR={}\nMTU={}", nic.plan.mac, nic.plan.mtu);
    if asks(&v6) && v6.how() == (How::Router { info: true }) {
        let _ = writeln!(out, "DHCLIENT6_MODE=info");
    }
    let addresses = nic.stacks().into_iter().filter_map(|s| s.address().or_else(|| told_anyway(&s)));
    for (i, a) in addresses.enumerate() {
        let _ = writeln!(out, "IPADDR{}={a}", if i == 0 { String::new() } else { format!("_{i}") });
    }
    if nic.stacks().iter().any(asks) {
        let _ = writeln!(out, "DHCLIENT_SET_DEFAULT_ROUTE={}", if nic.is_primary() { "yes" } else { "no" });
        let metric = nic.stacks().iter().filter(|s| asks(s)).map(Stack::metric).min().unwrap_or(0);
        let _ = writeln!(out, "DHCLIENT_ROUTE_PRIORITY={metric}");
        if !nic.stacks().iter().any(|s| asks(s) && s.wants_dns()) {
            let _ = writeln!(out, "DHCLIENT_UPDATE=\"default,no-dns\"");
        }
    }
    if !nic.dns().is_empty() {
        let list: Vec<String> = nic.dns().iter().map(ToString::to_string).collect();
        let _ = writeln!(out, "# In {DIR}/config: NETCONFIG_DNS_STATIC_SERVERS=\"{}\"", list.join(" "));
    }
    if !nic.search().is_empty() {
        let _ = writeln!(out, "# In {DIR}/config: NETCONFIG_DNS_STATIC_SEARCHLIST=\"{}\"", nic.search().join(" "));
    }
    out
}

/// Destination, gateway, netmask, interface, options (ifroute(5)).
fn routes(nic: &Nic<'_>) -> String {
    let mut out = String::new();
    let dev = &nic.device;
    for s in nic.stacks() {
        if let Some(via) = s.default_via() {
            let _ = writeln!(out, "{} {via} - {dev}", if s.digit() == 4 { "default" } else { "::/0" });
        }
        for r in s.routes() {
            let _ = writeln!(out, "{} {} - {dev}", r.to, r.via);
        }
        if let Some(t) = s.own_table() {
            let _ = writeln!(out, "{} - - {dev} table {}", t.prefix, t.id);
            let any = if s.digit() == 4 { "default" } else { "::/0" };
            let _ = writeln!(out, "{any} {} - {dev} table {}", t.gateway, t.id);
        }
    }
    out
}

fn rules(nic: &Nic<'_>) -> String {
    let mut out = String::new();
    for s in nic.stacks() {
        if let Some(t) = s.own_table() {
            let (digit, bits) = (s.digit(), s.host_bits());
            let _ = writeln!(out, "ipv{digit} from {}/{bits} table {} pref {}", t.from, t.id, t.priority);
        }
    }
    out
}

/// What ifcfg cannot say of router advertisements.
fn sysctl(nic: &Nic<'_>) -> String {
    let v6 = nic.v6();
    match (listens(&v6), v6.is_primary()) {
        (true, true) => String::new(),
        (true, false) => "net.ipv6.conf.$INTERFACE.accept_ra_defrtr = 0\n".into(),
        (false, _) => "net.ipv6.conf.$INTERFACE.accept_ra = 0\n".into(),
    }
}
