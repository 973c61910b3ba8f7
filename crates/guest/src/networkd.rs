//! systemd-networkd: one `.network` file per NIC (systemd.network(5)).

use std::fmt::Write;

use crate::view::{Nic, Stack, no_rule};
use crate::{File, Guest};

pub(crate) fn files(guest: &Guest) -> Vec<File> {
    let one = |nic: &Nic<'_>| {
        File::new(format!("/etc/systemd/network/10-multihome-{}.network", nic.device), 0o644, network(nic))
    };
    guest.nics().iter().map(one).collect()
}

fn network(nic: &Nic<'_>) -> String {
    let mut out = String::new();
    for s in nic.stacks().iter().filter(|s| s.lacks_rule()) {
        let _ = writeln!(out, "# {}", no_rule(&nic.device, s));
    }
    let [v4, v6] = nic.stacks();
    // Type=ether leaves out VLANs and bridges on top of the NIC, which have its MAC.
    let _ = writeln!(out, "[Match]\nMACAddress={}\nType=ether\n", nic.plan.mac);
    let _ = writeln!(out, "[Link]\nMTUBytes={}", nic.plan.mtu);
    if !nic.is_primary() {
        let _ = writeln!(out, "RequiredForOnline=no");
    }
    let dhcp = match (v4.is_dhcp(), v6.is_dhcp()) {
        (true, true) => "yes",
        (true, false) => "ipv4",
        (false, true) => "ipv6",
        (false, false) => "no",
    };
    let _ = writeln!(out, "\n[Network]\nDHCP={dhcp}\nIPv6AcceptRA={}", yes_no(v6.is_served()));
    for a in nic.stacks().iter().filter_map(Stack::address) {
        let _ = writeln!(out, "Address={a}");
    }
    for dns in nic.dns() {
        let _ = writeln!(out, "DNS={dns}");
    }
    if !nic.search().is_empty() {
        let _ = writeln!(out, "Domains={}", nic.search().join(" "));
    }
    for s in nic.stacks().iter().filter(|s| s.is_served()) {
        leases(&mut out, s);
    }
    for s in &nic.stacks() {
        routes(&mut out, s);
    }
    out
}

/// What is taken from a server: everything on the primary, all but the gateway and DNS on a secondary. Whether DHCPv6 is
/// asked at all follows from the flags of router advertisements (systemd.network(5), `DHCPv6Client=`).
fn leases(out: &mut String, s: &Stack<'_>) {
    let gateway = if s.is_primary() { "" } else { "UseGateway=no\n" };
    let dns = if s.wants_dns() { "" } else { "UseDNS=no\n" };
    let metric = s.metric();
    if s.digit() == 4 {
        let _ = writeln!(out, "\n[DHCPv4]\nRouteMetric={metric}\n{gateway}{dns}UseMTU=no");
    } else {
        if !dns.is_empty() {
            let _ = write!(out, "\n[DHCPv6]\n{dns}");
        }
        let _ = write!(out, "\n[IPv6AcceptRA]\nRouteMetric={metric}\n{gateway}{dns}");
    }
}

fn routes(out: &mut String, s: &Stack<'_>) {
    if let Some(via) = s.default_via() {
        let _ = writeln!(out, "\n[Route]\nDestination={}\nGateway={via}\nMetric={}", s.any(), s.metric());
    }
    for r in s.routes() {
        let _ = writeln!(out, "\n[Route]\nDestination={}\nGateway={}", r.to, r.via);
    }
    if let Some(t) = s.own_table() {
        let _ = writeln!(out, "\n[Route]\nDestination={}\nGateway={}\nTable={}", s.any(), t.gateway, t.id);
        let _ = writeln!(out, "\n[Route]\nDestination={}\nScope=link\nTable={}", t.prefix, t.id);
        let bits = s.host_bits();
        let _ = writeln!(out, "\n[RoutingPolicyRule]\nFrom={}/{bits}\nTable={}\nPriority={}", t.from, t.id, t.priority);
    }
}

fn yes_no(v: bool) -> &'static str {
    if v { "yes" } else { "no" }
}
