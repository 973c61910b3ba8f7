//! The rules for a VM: what was planned against what the guest shows.

use crate::network::faults;
use crate::{Finding, GuestNic, NicObservation, Severity, VmObservation};

/// Everything that is wrong with a VM, the worst first.
pub fn examine_vm(vm: &VmObservation) -> Vec<Finding> {
    let mut found = vec![];
    vm.nics.iter().for_each(|n| found.extend(claims(n)));
    if !runs(vm, &mut found) {
        found.sort_by_key(|f| f.severity);
        return found;
    }
    for nic in &vm.nics {
        found.extend(carried(nic));
        found.extend(probed(nic).filter(|f| nic.network_fault.is_none() || f.rule != "network-broken"));
        found.extend(attached(vm, nic));
        if vm.agent && nic.attached.is_ok() {
            found.extend(shown(vm, nic));
        }
    }
    if vm.agent {
        found.extend(default_routes(vm));
    } else {
        found.push(Finding {
            severity: Severity::Warning,
            rule: "agent-silent",
            subject: format!("vm/{}", vm.name),
            message: "the guest agent does not answer, so that nobody can tell what routes the guest has".into(),
            evidence: vec!["condition AgentConnected is not True".into()],
            consequence: "a wrong default route in the guest stays unseen".into(),
            fix: "install and start qemu-guest-agent in the guest".into(),
        });
    }
    found.sort_by_key(|f| f.severity);
    found
}

fn claims(nic: &NicObservation) -> Option<Finding> {
    let why = nic.claimed.as_ref().err()?;
    Some(Finding {
        severity: Severity::Error,
        rule: "no-address",
        subject: format!("nic/{}", nic.name),
        message: format!("NIC {} has no address or MAC of its own: {why}", nic.name),
        evidence: vec![format!("condition Claimed is False: {why}")],
        consequence: "the VM does not get this NIC".into(),
        fix: format!("change the NIC with «kubectl edit nic {}», or its network {}", nic.name, nic.network),
    })
}

fn runs(vm: &VmObservation, found: &mut Vec<Finding>) -> bool {
    if vm.phase == "Running" {
        return true;
    }
    if vm.wanted {
        let reason = vm.reason.clone().unwrap_or_else(|| "its instance is not up yet".into());
        found.push(Finding {
            severity: Severity::Error,
            rule: "not-running",
            subject: format!("vm/{}", vm.name),
            message: format!("the VM is to run and does not: {reason}"),
            evidence: vec![format!("phase is {:?}", if vm.phase.is_empty() { "none" } else { &vm.phase })],
            consequence: "nothing on its addresses answers".into(),
            fix: "mend what the sentence names; the VM is tried again by itself".into(),
        });
    }
    false
}

fn carried(nic: &NicObservation) -> Option<Finding> {
    let fault = nic.network_fault.as_ref()?;
    Some(Finding {
        severity: Severity::Error,
        rule: "network-broken",
        subject: format!("net/{}", nic.network),
        message: format!("network {} of NIC {} is not carried as it should be: {fault}", nic.network, nic.name),
        evidence: vec![format!("status.connectivity of net/{}: {fault}", nic.network)],
        consequence: "VMs of other nodes and hosts outside are not reached by it".into(),
        fix: "mend what the sentence names; it is tried again by itself".into(),
    })
}

/// What the VM's node found wrong with the network of a NIC.
fn probed(nic: &NicObservation) -> impl Iterator<Item = Finding> {
    let seen = nic.connectivity.iter();
    seen.flat_map(|(node, seen)| faults(&nic.network, node, seen))
}

fn attached(vm: &VmObservation, nic: &NicObservation) -> Option<Finding> {
    let why = match &nic.attached {
        Err(why) => why.clone(),
        Ok(()) if !nic.link_up => {
            return Some(Finding {
                severity: Severity::Warning,
                rule: "link-down",
                subject: format!("nic/{}", nic.name),
                message: format!("NIC {} is unplugged on purpose: its link state is Down", nic.name),
                evidence: vec!["spec.linkState is Down".into()],
                consequence: "the guest has no traffic on it".into(),
                fix: format!("«multihome nic link {} up»", nic.name),
            });
        }
        Ok(()) => return None,
    };
    nic.claimed.is_ok().then(|| Finding {
        severity: Severity::Error,
        rule: "not-attached",
        subject: format!("nic/{}", nic.name),
        message: format!("NIC {} is not in VM {}: {why}", nic.name, vm.name),
        evidence: vec![format!("condition Attached is not True: {why}")],
        consequence: "the guest does not see it".into(),
        fix: "mend what the sentence names; plugging is tried again by itself".into(),
    })
}

/// Whether the guest shows a NIC that QEMU has, with the address that it should have.
fn shown(vm: &VmObservation, nic: &NicObservation) -> Option<Finding> {
    let subject = format!("nic/{}", nic.name);
    let Some(guest) = &nic.guest else {
        return Some(Finding {
            severity: Severity::Error,
            rule: "not-seen",
            subject,
            message: format!("VM {} has NIC {} plugged in, and the guest does not show it", vm.name, nic.name),
            evidence: vec!["no interface with its MAC in guest-network-get-interfaces".into()],
            consequence: "the guest has no traffic on it".into(),
            fix: "load the driver of its model in the guest, or use model virtio".into(),
        });
    };
    let address = nic.address.as_ref()?;
    let bare = |a: &str| a.split('/').next().unwrap_or_default().to_owned();
    let v4: Vec<&String> = guest.addresses.iter().filter(|a| !a.contains(':')).collect();
    if v4.iter().any(|a| bare(a) == bare(address)) {
        return None;
    }
    if v4.is_empty() {
        let waiting = nic.served && !nic.leased;
        return Some(Finding {
            severity: if waiting { Severity::Warning } else { Severity::Error },
            rule: "no-guest-address",
            subject,
            message: format!("{} in the guest is there without an address; it should have {address}", guest.name),
            evidence: vec![evidence(guest), lease_evidence(nic)],
            consequence: format!("network {} is not reachable from the guest", nic.network),
            fix: if nic.leased {
                format!(
                    "look at the DHCP client of {} in the guest: it took its lease and did not configure it",
                    guest.name
                )
            } else {
                format!("start a DHCP client on {} in the guest, or configure {address} there", guest.name)
            },
        });
    }
    Some(Finding {
        severity: Severity::Error,
        rule: "wrong-address",
        subject,
        message: format!("{} in the guest has {}, which is not its own; it should have {address}", guest.name, v4[0]),
        evidence: vec![evidence(guest)],
        consequence: "port security drops what it sends from there".into(),
        fix: format!("use DHCP on {}, or configure {address}; or give the NIC that address in its spec", guest.name),
    })
}

/// What the rules say of one address family.
struct Words {
    is6: bool,
    route: &'static str,
    by_hand: &'static str,
}

const FAMILIES: [Words; 2] = [
    Words {
        is6: false,
        route: "default route",
        by_hand: "use DHCP on all NICs of the guest, and remove routes that were configured by hand",
    },
    Words {
        is6: true,
        route: "IPv6 default route",
        by_hand: "follow router advertisements on all NICs of the guest, and remove routes that were configured by hand",
    },
];

impl Words {
    fn primary<'a>(&self, vm: &'a VmObservation) -> Option<&'a NicObservation> {
        vm.nics.iter().find(|n| self.is_primary(n))
    }

    fn is_primary(&self, nic: &NicObservation) -> bool {
        if self.is6 { nic.primary6 } else { nic.primary }
    }

    fn routes<'a>(&self, guest: &'a GuestNic) -> impl Iterator<Item = &'a String> {
        let is6 = self.is6;
        guest.default_routes.iter().filter(move |r| r.contains(':') == is6)
    }
}

fn default_routes(vm: &VmObservation) -> Vec<Finding> {
    FAMILIES.iter().flat_map(|f| default_routes_of(vm, f)).collect()
}

fn default_routes_of(vm: &VmObservation, family: &Words) -> Vec<Finding> {
    let the = family.route;
    let an = if family.is6 { "an" } else { "a" };
    let mut found = vec![];
    let holders: Vec<(&NicObservation, &GuestNic)> = vm
        .nics
        .iter()
        .filter_map(|n| Some((n, n.guest.as_ref()?)))
        .filter(|(_, g)| family.routes(g).next().is_some())
        .collect();
    let lines: Vec<String> = holders
        .iter()
        .flat_map(|(_, g)| family.routes(g).map(move |r| format!("default via {r} dev {}", g.name)))
        .collect();
    // IPv6 moves at once, by router advertisements.
    let moving = vm.nics.iter().filter(|_| !family.is6).find_map(|n| n.moving.clone());
    let severity = if moving.is_some() { Severity::Info } else { Severity::Error };
    let Some(primary) = family.primary(vm) else {
        if let Some((n, _)) = holders.first() {
            found.push(Finding {
                severity: Severity::Error,
                rule: "unplanned-default-route",
                subject: format!("vm/{}", vm.name),
                message: format!(
                    "the guest has {an} {the} by NIC {}, and no network of the VM offers a gateway",
                    n.name
                ),
                evidence: lines,
                consequence: "traffic to everywhere goes to a router that nobody planned".into(),
                fix: "remove the route in the guest, or set the gateway of a network".into(),
            });
        }
        return found;
    };
    let repair = moving
        .clone()
        .map_or_else(|| family.by_hand.to_owned(), |m| format!("wait: {m}; or renew the lease in the guest"));
    if lines.is_empty() {
        found.extend(if family.is6 { no_default6(vm, primary) } else { no_default4(vm, primary, severity, &moving) });
        return found;
    }
    for (nic, guest) in holders.iter().filter(|(n, _)| !family.is_primary(n)) {
        found.push(Finding {
            severity,
            rule: "default-route-on-secondary",
            subject: format!("nic/{}", nic.name),
            message: format!(
                "the guest has {an} {the} by {} (NIC {}); it should be by NIC {} alone",
                guest.name, nic.name, primary.name
            ),
            evidence: lines.clone(),
            consequence: "traffic to other networks leaves by the wrong NIC".into(),
            fix: repair.clone(),
        });
    }
    if lines.len() > 1 && found.is_empty() {
        found.push(Finding {
            severity,
            rule: "several-default-routes",
            subject: format!("vm/{}", vm.name),
            message: format!("the guest has {} {the}s; it should have one", lines.len()),
            evidence: lines,
            consequence: "which of them is used depends on the order in which clients ran".into(),
            fix: repair,
        });
    }
    found
}

fn no_default4(
    vm: &VmObservation,
    primary: &NicObservation,
    severity: Severity,
    moving: &Option<String>,
) -> Option<Finding> {
    let gateway = primary.gateway.clone().unwrap_or_default();
    Some(Finding {
        severity: if primary.leased || moving.is_some() { severity } else { Severity::Warning },
        rule: "no-default-route",
        subject: format!("vm/{}", vm.name),
        message: format!("the guest has no default route; it should go by NIC {} via {gateway}", primary.name),
        evidence: vec!["no default route in the guest's routing table".into(), lease_evidence(primary)],
        consequence: "the guest reaches its own networks only".into(),
        fix: match moving {
            Some(m) => format!("wait: {m}; or renew the lease in the guest"),
            None => format!("renew the DHCP lease of NIC {} in the guest", primary.name),
        },
    })
}

/// A guest that speaks no IPv6 on a NIC needs no route there, and of a foreign router nobody knows before it speaks.
fn no_default6(vm: &VmObservation, primary: &NicObservation) -> Option<Finding> {
    let guest = primary.guest.as_ref()?;
    let gateway = primary.gateway6.as_ref()?;
    if !guest.addresses.iter().any(|a| a.contains(':')) {
        return None;
    }
    Some(Finding {
        severity: Severity::Error,
        rule: "no-default-route",
        subject: format!("vm/{}", vm.name),
        message: format!("the guest has no IPv6 default route; it should go by NIC {} to {gateway}", primary.name),
        evidence: vec!["no IPv6 default route in the guest's routing table".into(), evidence(guest)],
        consequence: "the guest reaches its own networks only".into(),
        fix: format!(
            "let {0} follow router advertisements in the guest: sysctl -w net.ipv6.conf.{0}.accept_ra=2",
            guest.name
        ),
    })
}

fn evidence(guest: &GuestNic) -> String {
    if guest.addresses.is_empty() {
        format!("{}: no addresses", guest.name)
    } else {
        format!("{}: {}", guest.name, guest.addresses.join(", "))
    }
}

fn lease_evidence(nic: &NicObservation) -> String {
    match (nic.served, nic.leased) {
        (false, _) => "DHCP is not served by Multihome on its network".into(),
        (true, true) => "the guest took its lease".into(),
        (true, false) => "the guest has not asked for its address".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(name: &str, primary: bool, routes: &[&str]) -> NicObservation {
        NicObservation {
            name: name.into(),
            network_fault: None,
            connectivity: None,
            network: "net".into(),
            claimed: Ok(()),
            attached: Ok(()),
            link_up: true,
            address: Some("10.0.0.5/24".into()),
            gateway: Some("10.0.0.1".into()),
            primary,
            primary6: primary,
            gateway6: Some("fd00::1".into()),
            served: true,
            leased: true,
            moving: None,
            guest: Some(GuestNic {
                name: format!("eth-{name}"),
                addresses: vec!["10.0.0.5/24".into()],
                default_routes: routes.iter().map(ToString::to_string).collect(),
            }),
        }
    }

    fn vm(nics: Vec<NicObservation>) -> VmObservation {
        VmObservation {
            name: "default/web".into(),
            wanted: true,
            phase: "Running".into(),
            reason: None,
            agent: true,
            nics,
        }
    }

    fn rules(vm: &VmObservation) -> Vec<&'static str> {
        examine_vm(vm).iter().map(|f| f.rule).collect()
    }

    #[test]
    fn a_healthy_vm_has_no_findings() {
        assert!(rules(&vm(vec![nic("a", true, &["10.0.0.1"]), nic("b", false, &[])])).is_empty());
    }

    #[test]
    fn default_routes_are_judged() {
        assert_eq!(rules(&vm(vec![nic("a", true, &[]), nic("b", false, &[])])), ["no-default-route"]);
        assert_eq!(
            rules(&vm(vec![nic("a", true, &["10.0.0.1"]), nic("b", false, &["10.1.0.1"])])),
            ["default-route-on-secondary"]
        );
        assert_eq!(rules(&vm(vec![nic("a", true, &["10.0.0.1", "10.0.0.2"])])), ["several-default-routes"]);
        assert_eq!(rules(&vm(vec![nic("a", false, &["10.0.0.1"])])), ["unplanned-default-route"]);
    }

    #[test]
    fn ipv6_is_judged_by_itself() {
        let both = |a: &[&str], b: &[&str]| {
            let mut nics = vec![nic("a", true, a), nic("b", false, b)];
            nics.iter_mut().for_each(|n| n.guest.as_mut().unwrap().addresses.push("fe80::5/64".into()));
            vm(nics)
        };
        assert!(rules(&both(&["10.0.0.1", "fe80::1"], &[])).is_empty());
        let found = examine_vm(&both(&["10.0.0.1"], &["fe80::1"]));
        assert_eq!(found.iter().map(|f| f.rule).collect::<Vec<_>>(), ["default-route-on-secondary"]);
        assert!(found[0].message.starts_with("the guest has an IPv6 default route by eth-b"), "{}", found[0].message);
        assert_eq!(rules(&both(&["10.0.0.1", "fe80::1", "fe80::2"], &[])), ["several-default-routes"]);
        assert_eq!(rules(&both(&["10.0.0.1"], &[])), ["no-default-route"]);
        // Of a router of others nobody knows, and a guest without IPv6 needs none.
        let mut foreign = both(&["10.0.0.1"], &[]);
        foreign.nics[0].gateway6 = None;
        assert!(rules(&foreign).is_empty());
        // The families may have different primaries.
        let mut two = both(&["10.0.0.1"], &["fe80::1"]);
        (two.nics[0].primary6, two.nics[1].primary6) = (false, true);
        assert!(rules(&two).is_empty());
    }

    #[test]
    fn a_route_on_its_way_is_no_error() {
        let mut a = nic("a", true, &[]);
        a.moving = Some("the default route moves from b to a at 12:00".into());
        let found = examine_vm(&vm(vec![a, nic("b", false, &["10.1.0.1"])]));
        assert_eq!(found[0].severity, Severity::Info);
        assert!(found[0].fix.contains("moves from b to a"));
    }

    #[test]
    fn nics_are_judged() {
        let mut missing = nic("a", true, &[]);
        missing.guest = None;
        assert!(rules(&vm(vec![missing])).contains(&"not-seen"));
        let mut bare = nic("a", true, &["10.0.0.1"]);
        bare.guest.as_mut().unwrap().addresses.clear();
        assert_eq!(rules(&vm(vec![bare])), ["no-guest-address"]);
        let mut wrong = nic("a", true, &["10.0.0.1"]);
        wrong.guest.as_mut().unwrap().addresses = vec!["10.0.0.9/24".into()];
        assert_eq!(rules(&vm(vec![wrong])), ["wrong-address"]);
        let mut out = nic("a", true, &["10.0.0.1"]);
        out.attached = Err("no slot".into());
        assert!(rules(&vm(vec![out])).contains(&"not-attached"));
    }

    #[test]
    fn what_the_node_found_out_about_a_network_is_told_once() {
        use multihome_model::connectivity::{GATEWAY_SILENT, LAYER2_FAILED};
        use multihome_model::{Connectivity, FamilyConnectivity, ProbeResult};
        let fault = |word| Some(ProbeResult::new(false, word, "10.0.0.1 does not answer ARP"));
        let four = FamilyConnectivity { gateway: fault(GATEWAY_SILENT), ..FamilyConnectivity::default() };
        let seen = Connectivity { ipv4: Some(four), ..Connectivity::default() };
        let mut a = nic("a", true, &["10.0.0.1"]);
        a.connectivity = Some(("node1".into(), seen));
        let found = examine_vm(&vm(vec![a.clone()]));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].message, "network net on node node1: 10.0.0.1 does not answer ARP");
        a.network_fault = Some("no bridge".into());
        a.connectivity =
            Some(("node1".into(), Connectivity { layer2: fault(LAYER2_FAILED), ..Connectivity::default() }));
        assert_eq!(rules(&vm(vec![a])), ["network-broken"]);
    }

    #[test]
    fn a_silent_agent_and_a_stopped_vm() {
        let mut silent = vm(vec![nic("a", true, &[])]);
        silent.agent = false;
        assert_eq!(rules(&silent), ["agent-silent"]);
        let mut stopped = vm(vec![nic("a", true, &[])]);
        stopped.phase = "Failed".into();
        assert_eq!(rules(&stopped), ["not-running"]);
        stopped.wanted = false;
        assert!(rules(&stopped).is_empty());
    }
}
