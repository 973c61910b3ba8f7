//! A layout for a hypervisor: one routing table per role of its interfaces, as VRFs or by rules, in the
//! machine's own language. Pure.
//!
//! The first role, or the one named `management`, keeps the main table and the default route.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::config::Dialect;
use super::fix::{Action, Fixer, OwnTable, Piece, Remedy, commands, sysctls};
use super::observation::MachineObservation;
use super::query::{Family, is_global, subnet};
use super::vrf;

/// How tables are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// By the VRF device that an interface belongs to (Documentation/networking/vrf.rst).
    Vrf,
    /// By rules on source addresses.
    Rules,
}

/// A role and its interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Role {
    /// Its name, such as `storage`.
    pub name: String,
    /// Its interfaces; several are bound on purpose, as for iSCSI.
    pub links: Vec<String>,
}

/// What is to be done for a role.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RolePlan {
    /// The role.
    #[serde(flatten)]
    pub role: Role,
    /// Routing tables of its interfaces; empty for the one that keeps the main table.
    pub tables: Vec<u32>,
    /// What it comes to, in a sentence.
    pub summary: String,
    /// How to get there, as text.
    pub text: String,
    /// How to get there, as steps.
    pub actions: Vec<Action>,
}

/// A whole layout.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Layout {
    /// How tables are chosen.
    pub style: Style,
    /// Why it is that style, where it was not asked for.
    pub why: String,
    /// The machine's language.
    pub dialect: Dialect,
    /// The roles.
    pub roles: Vec<RolePlan>,
}

/// Numbers of the tables: the first role that gets one has 101, or 1001 for a VRF.
const RULE_TABLES: u32 = 101;
const VRF_TABLES: u32 = 1001;

/// Reads `ROLE=IFACE[:IFACE…],…`.
///
/// # Errors
/// With a sentence for the user.
pub fn parse(text: &str) -> Result<Vec<Role>, String> {
    let mut roles: Vec<Role> = vec![];
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (name, links) = part.split_once('=').ok_or(format!("{part:?} is not ROLE=IFACE"))?;
        let fits = !name.is_empty() && name.len() <= 11 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !fits {
            // «vrf-» before it has to fit a device name of 15 characters.
            return Err(format!("role {name:?} is not a name of 1 to 11 letters, digits and dashes"));
        }
        let links: Vec<String> = links.split(':').map(str::to_owned).collect();
        let taken =
            |l: &String| roles.iter().any(|r| r.links.contains(l)) || links.iter().filter(|x| *x == l).count() > 1;
        if let Some(twice) = links.iter().find(|l| taken(l)) {
            return Err(format!("interface {twice:?} has two roles"));
        }
        if roles.iter().any(|r| r.name == name) {
            return Err(format!("role {name:?} is named twice; join its interfaces with a colon"));
        }
        roles.push(Role { name: name.to_owned(), links });
    }
    if roles.is_empty() { Err("no role is named".into()) } else { Ok(roles) }
}

/// Plans a layout.
///
/// # Errors
/// With a sentence for the user.
pub fn layout(o: &MachineObservation, roles: &[Role], wish: Option<Style>) -> Result<Layout, String> {
    let f = Fixer::new(o);
    for link in roles.iter().flat_map(|r| &r.links) {
        o.link(link).ok_or(format!("there is no interface {link:?}"))?;
        if !o.addresses_of(link).any(is_global) {
            return Err(format!("{link} has no address yet: give it one first"));
        }
    }
    let (style, why) = style(&f, wish)?;
    let main = roles.iter().position(|r| r.name == "management").unwrap_or(0);
    let mut number = if style == Style::Vrf { VRF_TABLES } else { RULE_TABLES };
    let mut plans = vec![];
    for (i, role) in roles.iter().enumerate() {
        let plan = if i == main {
            keeps_main(&f, role)
        } else if style == Style::Vrf {
            number += 1;
            by_vrf(&f, role, number - 1)
        } else {
            let first = number;
            number += role.links.len() as u32;
            by_rules(&f, role, first)
        };
        plans.push(plan);
    }
    Ok(Layout { style, why, dialect: f.dialect, roles: plans })
}

fn style(f: &Fixer<'_>, wish: Option<Style>) -> Result<(Style, String), String> {
    let said = vrf::can_say(f.dialect);
    match wish {
        Some(Style::Vrf) if !said => Err(format!("{} has no words for VRFs: use --style rules", f.dialect.name())),
        Some(Style::Vrf) if f.o.kernel_vrf == Some(false) => {
            Err("this kernel has no VRF devices: use --style rules".into())
        }
        Some(style) => Ok((style, "as asked for".into())),
        None if !said => Ok((Style::Rules, format!("{} has no words for VRFs", f.dialect.name()))),
        None if f.o.kernel_vrf == Some(true) => Ok((Style::Vrf, "the kernel has VRF devices".into())),
        None => Ok((Style::Rules, "this kernel has no VRF devices".into())),
    }
}

/// Subnets, addresses and gateway of a link, IPv4 and IPv6.
fn facts(f: &Fixer<'_>, link: &str) -> (Vec<IpNet>, Option<IpAddr>) {
    let nets: Vec<IpNet> = f.o.addresses_of(link).filter(|a| is_global(a) && !a.secondary).map(|a| a.net).collect();
    (nets, f.o.gateway(link, Family::V4).map(|(g, _)| g))
}

fn list(nets: &[IpNet]) -> String {
    nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn keeps_main(f: &Fixer<'_>, role: &Role) -> RolePlan {
    let all: Vec<String> = role.links.iter().map(|l| format!("{l} {}", list(&facts(f, l).0))).collect();
    let gateway = role.links.iter().find_map(|l| facts(f, l).1);
    let way = gateway.map_or_else(|| "no gateway is known".to_owned(), |g| format!("default route via {g}"));
    let summary = format!("{}: the main table, {way}", all.join(", "));
    RolePlan { role: role.clone(), tables: vec![], summary, text: String::new(), actions: vec![] }
}

fn by_rules(f: &Fixer<'_>, role: &Role, first: u32) -> RolePlan {
    let mut cure = Remedy::default();
    let mut tables = vec![];
    let mut said = vec![];
    for (i, link) in role.links.iter().enumerate() {
        let number = first + i as u32;
        tables.push(number);
        let (nets, gateway) = facts(f, link);
        for v6 in [false, true] {
            let mine: Vec<&IpNet> = nets.iter().filter(|n| n.addr().is_ipv6() == v6).collect();
            if mine.is_empty() {
                continue;
            }
            let gateway = if v6 { f.o.gateway(link, Family::V6).map(|(g, _)| g) } else { gateway };
            let table = OwnTable {
                number,
                gateway,
                subnets: mine.iter().map(|n| n.trunc()).collect(),
                from: mine.iter().map(|n| n.addr()).collect(),
                priority: 1000 + number,
            };
            let routes = table.routes(link).into_iter().map(|route| Action::AddRoute { route });
            let actions = routes.chain(table.rules().into_iter().map(|rule| Action::AddRule { rule })).collect();
            let purpose = if v6 { "role6" } else { "role" };
            let piece = Piece { purpose, no_default: true, table: Some(table), ..Piece::default() };
            cure = cure.and(f.write(link, &piece)).and(Remedy { say: vec![], actions });
        }
        let way = gateway.map_or_else(|| "no gateway".to_owned(), |g| format!("via {g}"));
        said.push(format!("{link} {} in table {number}, {way}", list(&nets)));
    }
    cure = cure.and(one_answers(f, role));
    plan(role, tables, said.join("; "), cure)
}

/// Where interfaces share a subnet, each answers for its own addresses only, and takes packets that
/// the main table would send by another one (rp_filter 2, as open-iscsi asks for bound ports).
fn one_answers(f: &Fixer<'_>, role: &Role) -> Remedy {
    let net = |l: &str| f.o.global(l, Family::V4).first().map(|a| subnet(a));
    let mine: Vec<&String> = role.links.iter().collect();
    let shared =
        |l: &&&String| f.o.uplinks().iter().any(|u| u.name != l.as_str() && net(&u.name) == net(l) && net(l).is_some());
    let pairs: Vec<(String, String)> = mine
        .iter()
        .filter(shared)
        .flat_map(|l| [("arp_ignore", "1"), ("arp_announce", "2"), ("rp_filter", "2")].map(|(k, v)| (l, k, v)))
        .map(|(l, k, v)| (format!("net/ipv4/conf/{l}/{k}"), v.to_owned()))
        .collect();
    if pairs.is_empty() { Remedy::default() } else { sysctls(&role.name, &pairs) }
}

fn by_vrf(f: &Fixer<'_>, role: &Role, table: u32) -> RolePlan {
    let gateway = role.links.iter().find_map(|l| facts(f, l).1);
    let nets: Vec<String> = role.links.iter().map(|l| format!("{l} {}", list(&facts(f, l).0))).collect();
    let way = gateway.map_or_else(|| "no gateway".to_owned(), |g| format!("via {g}"));
    let summary = format!("{} in VRF vrf-{}, table {table}, {way}", nets.join(", "), role.name);
    let mut cure = vrf::write(f, role, table, gateway).and(one_answers(f, role));
    cure.say
        .push(format!("programs of this role run as «ip vrf exec vrf-{} PROGRAM», or bind to the device", role.name));
    plan(role, vec![table], summary, cure)
}

fn plan(role: &Role, tables: Vec<u32>, summary: String, cure: Remedy) -> RolePlan {
    let mut text = cure.text();
    if text.is_empty() {
        text = commands(&cure.actions).join("\n");
    }
    RolePlan { role: role.clone(), tables, summary, text, actions: cure.actions }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::observation::{Address, ConfigFile, Link, Route};

    /// A hypervisor: management, storage, migration, and two ports for iSCSI in one subnet.
    fn hypervisor(path: &str, text: &str) -> MachineObservation {
        let mut o = MachineObservation { kernel_vrf: Some(true), ..MachineObservation::default() };
        for (i, net) in ["10.0.0.5/24", "10.1.0.5/24", "10.2.0.5/24", "10.3.0.5/24", "10.3.0.6/24"].iter().enumerate() {
            let name = format!("eth{i}");
            o.links.push(Link {
                index: i as u32 + 2,
                name: name.clone(),
                hardware: true,
                up: true,
                carrier: true,
                mtu: 1500,
                mac: Some(format!("52:54:00:00:00:0{i}")),
                ..Link::default()
            });
            o.addresses.push(Address {
                link: name,
                net: net.parse().unwrap(),
                scope: "global".into(),
                dynamic: false,
                secondary: false,
                tentative: false,
                dad_failed: false,
                deprecated: false,
                valid_seconds: None,
            });
        }
        for (dev, via, table) in [("eth0", "10.0.0.1", 254), ("eth1", "10.1.0.1", 50)] {
            let t = OwnTable { number: table, gateway: via.parse().ok(), subnets: vec![], from: vec![], priority: 0 };
            o.routes.extend(t.routes(dev) as Vec<Route>);
        }
        o.configs.push(ConfigFile { path: path.into(), text: text.into(), mode: 0o644 });
        o
    }

    const ROLES: &str = "management=eth0,storage=eth1,migration=eth2,iscsi=eth3:eth4";

    #[test]
    fn roles_are_read_and_refused() {
        assert_eq!(parse(ROLES).unwrap()[3].links, ["eth3", "eth4"]);
        for bad in
            ["", "storage", "storage=eth1,iscsi=eth1", "a=eth1,a=eth2", "=eth1", "muchtoolongname=eth1", "a=e1:e1"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let o = hypervisor("", "");
        assert!(layout(&o, &parse("storage=eth9").unwrap(), None).unwrap_err().contains("no interface"));
    }

    #[test]
    fn rules_give_every_role_a_table() {
        let o = hypervisor("/etc/network/interfaces", "iface eth0 inet dhcp\n");
        let l = layout(&o, &parse(ROLES).unwrap(), Some(Style::Rules)).unwrap();
        let tables: Vec<&[u32]> = l.roles.iter().map(|r| r.tables.as_slice()).collect();
        assert_eq!(tables, [&[][..], &[101], &[102], &[103, 104]]);
        let storage = &l.roles[1].text;
        assert!(storage.contains("ip rule add pref 1101 from 10.1.0.5/32 lookup 101"), "{storage}");
        assert!(storage.contains("default via 10.1.0.1 dev eth1 table 101"), "{storage}");
        let iscsi = &l.roles[3].text;
        assert!(iscsi.contains("net.ipv4.conf.eth4.arp_ignore=1") && iscsi.contains("from 10.3.0.6/32"), "{iscsi}");
        assert!(!storage.contains("arp_ignore"), "{storage}");
    }

    #[test]
    fn vrfs_where_kernel_and_dialect_have_them() {
        let roles = parse(ROLES).unwrap();
        for (path, text, wanted) in [
            ("/etc/netplan/1.yaml", "network: {ethernets: {eth0: {dhcp4: true}}}", "vrfs:"),
            ("/etc/systemd/network/1.network", "[Match]\nName=eth1\n", "Kind=vrf"),
            ("/etc/NetworkManager/system-connections/a", "[connection]\nid=a\ninterface-name=eth1\n", "type=vrf"),
            ("/etc/network/interfaces", "iface eth1 inet manual\n", "type vrf table 1001"),
            ("", "", "ip link add vrf-storage type vrf table 1001"),
        ] {
            let l = layout(&hypervisor(path, text), &roles, None).unwrap();
            assert_eq!(l.style, Style::Vrf, "{path}");
            assert!(l.roles[1].text.contains(wanted), "{path}: {}", l.roles[1].text);
        }
        let rhel = hypervisor("/etc/sysconfig/network-scripts/ifcfg-eth0", "BOOTPROTO=dhcp\n");
        assert_eq!(layout(&rhel, &roles, None).unwrap().style, Style::Rules);
        assert!(layout(&rhel, &roles, Some(Style::Vrf)).is_err());
        let mut old = hypervisor("", "");
        old.kernel_vrf = Some(false);
        assert_eq!(layout(&old, &roles, None).unwrap().style, Style::Rules);
        assert!(layout(&old, &roles, Some(Style::Vrf)).is_err());
    }
}
