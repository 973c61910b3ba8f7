use super::*;
use crate::machine::observation::ConfigFile;

fn machine(path: &str, text: &str) -> MachineObservation {
    let mut o = MachineObservation::default();
    o.links.push(Link {
        index: 3,
        name: "eth1".into(),
        hardware: true,
        up: true,
        carrier: true,
        mtu: 1500,
        mac: Some("52:54:00:00:00:11".into()),
        ..Link::default()
    });
    if !path.is_empty() {
        o.configs.push(ConfigFile { path: path.into(), text: text.into(), mode: 0o644 });
    }
    o
}

fn default_route() -> Route {
    let t = OwnTable { number: MAIN, gateway: Some([10, 1, 0, 1].into()), subnets: vec![], from: vec![], priority: 0 };
    t.routes("eth1").remove(0)
}

/// A cure for a second default route and one for replies, in every dialect, as text.
fn cures(path: &str, text: &str) -> String {
    let o = machine(path, text);
    let f = Fixer::new(&o);
    let route = default_route();
    let net = "10.1.0.5/24".parse().unwrap();
    let replies = f.own_table("eth1", net, Some([10, 1, 0, 1].into()));
    format!("{}\n---\n{}", f.no_default("eth1", &[&route]).text(), replies.text())
}

#[test]
fn every_dialect_has_its_own_cure() {
    let cases: [(&str, &str, &[&str]); 8] = [
        (
            "/etc/netplan/1.yaml",
            "network: {ethernets: {lan: {match: {macaddress: \"52:54:00:00:00:11\"}, dhcp4: true}}}",
            &[
                "90-multihome-eth1-default.yaml",
                "lan:\n",
                "use-routes: false",
                "routing-policy: [{from: \"10.1.0.5/32\"",
                "netplan apply",
            ],
        ),
        (
            "/etc/systemd/network/20-lan.network",
            "[Match]\nName=eth1\n[Network]\nDHCP=yes\n",
            &[
                "20-lan.network.d/90-multihome-default.conf",
                "UseGateway=no",
                "[RoutingPolicyRule]",
                "From=10.1.0.5/32",
                "networkctl reload",
            ],
        ),
        (
            "/etc/NetworkManager/system-connections/lan.nmconnection",
            "[connection]\nid=lan\ninterface-name=eth1\n[ipv4]\nmethod=auto\n",
            &[
                "in /etc/NetworkManager/system-connections/lan.nmconnection",
                "[ipv4]: never-default=true",
                "routing-rule91=priority",
                "nmcli device reapply eth1",
            ],
        ),
        (
            "/etc/sysconfig/network-scripts/ifcfg-eth1",
            "BOOTPROTO=dhcp\n",
            &["set DEFROUTE=no", "rule-eth1", "from 10.1.0.5/32 lookup 103 priority"],
        ),
        (
            "/etc/sysconfig/network/ifcfg-eth1",
            "BOOTPROTO=dhcp4\n",
            &[
                "DHCLIENT_SET_DEFAULT_ROUTE=no",
                "ifrule-eth1",
                "ipv4 from 10.1.0.5/32 table 103",
                "make this NIC static",
            ],
        ),
        (
            "/etc/network/interfaces",
            "iface eth1 inet static\n address 10.1.0.5/24\n gateway 10.1.0.1\n",
            &["remove the line «gateway 10.1.0.1»", "if-up.d/multihome-eth1-replies", "ip rule add pref 1103"],
        ),
        ("/etc/dhcpcd.conf", "interface eth1\n", &["nogateway", "dhcpcd.exit-hook"]),
        ("", "", &["nothing that is known manages", "ip rule add pref 1103 from 10.1.0.5/32 lookup 103"]),
    ];
    for (path, text, wanted) in cases {
        let said = cures(path, text);
        assert!(said.contains("ip route del default via 10.1.0.1 dev eth1"), "{path}: {said}");
        assert!(said.contains("ip route append default via 10.1.0.1 dev eth1 table 103"), "{path}: {said}");
        for w in wanted {
            assert!(said.contains(w), "{path} lacks {w:?}:\n{said}");
        }
    }
}

#[test]
fn a_package_that_lies_idle_manages_nothing() {
    let stock = "# a comment\nhostname\nduid\npersistent\noption rapid_commit\n";
    let mut o = machine("/etc/dhcpcd.conf", stock);
    assert_eq!(config::dialect(&o), Dialect::Plain);
    o.managers.push("dhcpcd".into());
    assert_eq!(config::dialect(&o), Dialect::Dhcpcd);
}

#[test]
fn dhcp_under_ifupdown_goes_to_the_client_that_runs() {
    let mut o = machine("/etc/network/interfaces", "iface eth1 inet dhcp\n");
    let route = default_route();
    assert!(Fixer::new(&o).no_default("eth1", &[&route]).text().contains("/etc/dhcp/dhclient.conf"));
    o.configs.push(ConfigFile {
        path: "/etc/udhcpc/udhcpc.conf".into(),
        text: "NO_GATEWAY=\"eth2\"\n".into(),
        mode: 0o644,
    });
    assert!(Fixer::new(&o).no_default("eth1", &[&route]).text().contains("NO_GATEWAY=\"eth2 eth1\""));
}

#[test]
fn what_is_written_is_understood_again() {
    let o = machine("/etc/systemd/network/20-lan.network", "[Match]\nName=eth1\n");
    let piece = Piece { purpose: "x", no_default: true, dhcp: true, ..Piece::default() };
    for dialect in ["", "/etc/netplan/1.yaml"] {
        let mut o = if dialect.is_empty() {
            o.clone()
        } else {
            machine(dialect, "network: {ethernets: {eth9: {dhcp4: true}}}")
        };
        if dialect.is_empty() {
            o.links[0].name = "eth2".into();
        }
        let link = o.links[0].name.clone();
        let remedy = Fixer::new(&o).write(&link, &piece);
        let file = |a: &Action| match a {
            Action::WriteFile { path, content, mode } => {
                Some(ConfigFile { path: path.clone(), text: content.clone(), mode: *mode })
            }
            _ => None,
        };
        let files: Vec<ConfigFile> = remedy.actions.iter().filter_map(file).collect();
        let read = config::nics(&files);
        assert!(read.iter().any(|c| c.matches(&o.links[0]) && c.never_default && c.dhcp4 == Some(true)), "{files:?}");
    }
}

#[test]
fn a_kernel_that_takes_advertisements_is_told_itself() {
    let o = machine("/etc/network/interfaces", "iface eth1 inet dhcp\n");
    let route =
        Route { protocol: 9, to: "::/0".parse().unwrap(), via: Some("fe80::1".parse().unwrap()), ..default_route() };
    let text = Fixer::new(&o).no_default("eth1", &[&route]).text();
    assert!(text.contains("accept_ra_defrtr") && !text.contains("dhclient.conf"), "{text}");
}
