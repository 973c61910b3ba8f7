//! For arbitrary plans: whatever the dialect, its files set at most one default route per family in the main table, and set
//! it exactly where the plan does. Each dialect is read back by a small reader of its own, not by the code that wrote it.

use multihome_guest::{Dialect, File, render};
use multihome_model::{DhcpMode, Family};
use multihome_plan::route::{Method, RoutePlan};
use proptest::prelude::*;
use serde_json::Value;

#[path = "support/fixtures.rs"]
#[allow(dead_code)]
mod fixtures;
use fixtures::{Shape, guest, plan_of, subnet};

const NAMES: [&str; 5] = ["web-a", "web-b", "eth0", "web-a-name-that-is-long", "db-a"];

#[derive(Debug, Clone)]
struct Fam {
    dhcp: DhcpMode,
    gateway: bool,
    address: bool,
    route: bool,
}

fn fam() -> impl Strategy<Value = Option<Fam>> {
    let dhcp = prop_oneof![Just(DhcpMode::Server), Just(DhcpMode::Guard), Just(DhcpMode::None)];
    let one = (dhcp, any::<bool>(), any::<bool>(), any::<bool>());
    proptest::option::of(one.prop_map(|(dhcp, gateway, address, route)| Fam { dhcp, gateway, address, route }))
}

fn plans() -> impl Strategy<Value = RoutePlan> {
    proptest::collection::vec((fam(), fam(), 1280u32..9000), 0..5).prop_map(|shapes| {
        let shapes: Vec<Shape> = shapes.iter().enumerate().map(|(i, (v4, v6, mtu))| shape(i, v4, v6, *mtu)).collect();
        plan_of(&shapes)
    })
}

fn shape(i: usize, v4: &Option<Fam>, v6: &Option<Fam>, mtu: u32) -> Shape {
    // One guarded family makes the network somebody else's, and IPv6 knows other people's routers by link-local address.
    let others = [v4, v6].iter().any(|f| f.as_ref().is_some_and(|f| f.dhcp == DhcpMode::Guard));
    // Fixtures take static text; a test's process may leak a little.
    let text = |s: String| -> &'static str { s.leak() };
    let family = |f: &Fam, net: String, prefix: u8, to: String| {
        let link_local = others && prefix == 64 && f.dhcp == DhcpMode::Server;
        let router = if link_local { "fe80::1".to_owned() } else { format!("{net}1") };
        let gateway = f.gateway.then(|| text(router));
        let route = (f.route && f.gateway && !link_local).then(|| text(to));
        let zero = if prefix == 24 { "0" } else { "" };
        let spec = subnet(&format!("{net}{zero}/{prefix}"), f.dhcp, gateway, route, &[]);
        (spec, f.address.then(|| text(format!("{net}5"))))
    };
    Shape {
        name: NAMES[i],
        mac: 0x10 + i as u8,
        mtu,
        ipv4: v4.as_ref().map(|f| family(f, format!("10.{i}.0."), 24, format!("10.{}.0.0/16", 100 + i))),
        ipv6: v6.as_ref().map(|f| family(f, format!("fd00:{i}::"), 64, format!("fd10:{i}::/32"))),
    }
}

/// The families of the default routes that the files set in the main table.
fn defaults(dialect: Dialect, files: &[File]) -> Vec<Family> {
    let all = || files.iter().flat_map(|f| f.content.lines().map(move |l| (f, l.trim())));
    let by_gateway = |g: &str| if g.contains(':') { Family::IPv6 } else { Family::IPv4 };
    match dialect {
        Dialect::CloudInitV1 => each(&yaml(files, "network-config")["config"], &|nic| {
            each(&nic["subnets"], &|s| s["gateway"].as_str().map(by_gateway).into_iter().collect())
        }),
        Dialect::CloudInitV2 => each(&yaml(files, "network-config")["ethernets"], &|nic| {
            assert!(!nic.to_string().contains("table") && !nic.to_string().contains("/0"), "{nic}");
            ["gateway4", "gateway6"].iter().filter_map(|k| nic[*k].as_str()).map(by_gateway).collect()
        }),
        Dialect::Netplan => each(&yaml(files, "/etc/netplan/60-multihome.yaml")["network"]["ethernets"], &|nic| {
            let main = |r: &Value| r.get("table").is_none() && r["to"].as_str().is_some_and(|t| t.ends_with("/0"));
            each(&nic["routes"], &|r| {
                main(r).then(|| by_gateway(r["via"].as_str().unwrap_or_default())).into_iter().collect()
            })
        }),
        Dialect::OpenStack => each(&yaml(files, "network_data.json")["networks"], &|n| {
            let any = |r: &Value| ["0.0.0.0", "::"].contains(&r["netmask"].as_str().unwrap_or_default());
            each(&n["routes"], &|r| {
                any(r).then(|| by_gateway(r["gateway"].as_str().unwrap_or_default())).into_iter().collect()
            })
        }),
        Dialect::Networkd => files
            .iter()
            .flat_map(|f| f.content.split("\n["))
            .filter(|s| s.starts_with("Route]") && s.contains("/0\n") && !s.contains("Table="))
            .map(by_gateway_of_section)
            .collect(),
        Dialect::NetworkManager => all().filter_map(|(_, l)| l.strip_prefix("gateway=")).map(by_gateway).collect(),
        Dialect::IfcfgRhel => all()
            .filter(|(_, l)| !l.contains(" table "))
            .filter_map(|(_, l)| {
                l.strip_prefix("GATEWAY=").or(l.strip_prefix("IPV6_DEFAULTGW=")).or(l.strip_prefix("default via "))
            })
            .map(by_gateway)
            .collect(),
        Dialect::IfcfgSuse => all()
            .filter(|(f, l)| f.path.contains("/ifroute-") && !l.contains(" table "))
            .filter_map(|(_, l)| l.strip_prefix("default ").or(l.strip_prefix("::/0 ")))
            .map(by_gateway)
            .collect(),
        Dialect::Ifupdown => all().filter_map(|(_, l)| l.strip_prefix("gateway ")).map(by_gateway).collect(),
        Dialect::Ip => all()
            .filter(|(_, l)| l.contains("route replace default") && !l.contains(" table "))
            .map(|(_, l)| if l.starts_with("ip -6") { Family::IPv6 } else { Family::IPv4 })
            .collect(),
        Dialect::Ec2 => vec![],
    }
}

fn by_gateway_of_section(s: &str) -> Family {
    if s.contains("::/0") { Family::IPv6 } else { Family::IPv4 }
}

fn yaml(files: &[File], path: &str) -> Value {
    let f = files.iter().find(|f| f.path == path).expect("the file");
    serde_saphyr::from_str(&f.content).expect("YAML")
}

/// All that a list's or map's values yield.
fn each(v: &Value, of: &dyn Fn(&Value) -> Vec<Family>) -> Vec<Family> {
    match v {
        Value::Array(l) => l.iter().flat_map(of).collect(),
        Value::Object(m) => m.values().flat_map(of).collect(),
        _ => vec![],
    }
}

/// Whether a DHCP server's router is taken, per NIC that asks, where a dialect can say so.
fn takes_router(dialect: Dialect, files: &[File]) -> Option<usize> {
    let count = |yes: &dyn Fn(&str) -> bool| files.iter().filter(|f| yes(&f.content)).count();
    let v4 = |text: &str| text.contains("DHCP=ipv4") || text.contains("DHCP=yes");
    match dialect {
        Dialect::Networkd => Some(count(&|t| {
            let section = t.split("\n[").find(|s| s.starts_with("DHCPv4]")).unwrap_or_default();
            v4(t) && !section.contains("UseGateway=no")
        })),
        Dialect::NetworkManager => Some(count(&|t| {
            let section = t.split("\n[").find(|s| s.starts_with("ipv4]")).unwrap_or_default();
            section.contains("method=auto") && !section.contains("never-default=true")
        })),
        Dialect::IfcfgRhel => Some(count(&|t| t.contains("BOOTPROTO=dhcp\n") && t.contains("DEFROUTE=yes\nIPV4_"))),
        _ => None,
    }
}

proptest! {
    #[test]
    fn at_most_one_default_route_per_family(plan in plans()) {
        for dialect in Dialect::ALL.into_iter().filter(|d| *d != Dialect::Ec2) {
            let files = render(dialect, &guest(plan.clone()));
            let found = defaults(dialect, &files);
            for family in [Family::IPv4, Family::IPv6] {
                let primary = plan.primary(family).and_then(|n| n.family(family));
                let planned = primary.is_some_and(|f| match dialect {
                    // Commands cannot ask a server, and set the address that is known.
                    Dialect::Ip => f.method != Method::None && f.address.is_some(),
                    _ => f.method == Method::Static,
                });
                let n = found.iter().filter(|f| **f == family).count();
                prop_assert_eq!(n, usize::from(planned), "{} {:?}: {:#?}", dialect, family, files);
            }
            if let Some(n) = takes_router(dialect, &files) {
                prop_assert!(n <= 1, "{}: {:#?}", dialect, files);
            }
        }
    }

    #[test]
    fn the_same_plan_gives_the_same_files(plan in plans()) {
        for dialect in Dialect::ALL {
            prop_assert_eq!(render(dialect, &guest(plan.clone())), render(dialect, &guest(plan.clone())));
        }
    }
}
