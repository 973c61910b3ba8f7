use std::net::IpAddr;

use super::*;
use crate::machine::observation::*;

/// Builds machines as short as `ip` would describe them.
#[derive(Clone)]
struct M(MachineObservation);

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

impl M {
    /// One NIC, one default route, and the rules and parameters of a fresh kernel.
    fn healthy() -> Self {
        let mut m = Self(MachineObservation::default())
            .nic("eth0")
            .address("eth0", "10.0.0.5/24")
            .route("default via 10.0.0.1 dev eth0");
        for any in ["0.0.0.0/0", "::/0"] {
            m.0.rules.push(rule(32766, any, 254));
        }
        m.sysctl("all/arp_ignore", "0").sysctl("all/rp_filter", "0")
    }

    fn two() -> Self {
        Self::healthy().nic("eth1").address("eth1", "10.1.0.5/24")
    }

    fn nic(mut self, name: &str) -> Self {
        let index = self.0.links.len() as u32 + 2;
        self.0.links.push(Link {
            index,
            name: name.into(),
            hardware: true,
            driver: "virtio_net".into(),
            up: true,
            carrier: true,
            mtu: 1500,
            mac: Some(format!("52:54:00:00:00:{index:02x}")),
            ..Link::default()
        });
        self
    }

    fn link(mut self, name: &str, change: impl Fn(&mut Link)) -> Self {
        change(self.0.links.iter_mut().find(|l| l.name == name).unwrap());
        self
    }

    fn virtual_link(self, name: &str, kind: &str) -> Self {
        self.nic(name).link(name, |l| {
            l.hardware = false;
            l.driver = String::new();
            l.kind = kind.into();
        })
    }

    fn address(mut self, link: &str, net: &str) -> Self {
        let net: ipnet::IpNet = net.parse().unwrap();
        self.0.addresses.push(Address {
            link: link.into(),
            net,
            scope: "global".into(),
            dynamic: false,
            secondary: false,
            tentative: false,
            dad_failed: false,
            deprecated: false,
            valid_seconds: None,
        });
        let connected = format!("{} dev {link} proto 2", net.trunc());
        self.route(&connected)
    }

    fn route(mut self, spec: &str) -> Self {
        let words: Vec<&str> = spec.split(' ').collect();
        let get = |k: &str| words.iter().position(|w| *w == k).map(|i| words[i + 1].to_owned());
        let number = |k: &str| get(k).map(|v| v.parse::<u32>().unwrap());
        let via: Option<IpAddr> = get("via").map(|v| ip(&v));
        let any = if via.is_some_and(|v| v.is_ipv6()) { "::/0" } else { "0.0.0.0/0" };
        self.0.routes.push(Route {
            to: if words[0] == "default" { any } else { words[0] }.parse().unwrap(),
            via,
            dev: get("dev"),
            hops: vec![],
            table: number("table").unwrap_or(254),
            metric: number("metric").unwrap_or(0),
            source: None,
            protocol: number("proto").unwrap_or(3) as u8,
            kind: "unicast".into(),
            onlink: false,
            mtu: number("mtu"),
            dead: false,
        });
        self
    }

    fn rule(mut self, from: &str, table: u32) -> Self {
        self.0.rules.push(rule(1000 + table, from, table));
        self
    }

    fn sysctl(mut self, key: &str, value: &str) -> Self {
        self.0.sysctls.insert(format!("net/ipv4/conf/{key}"), value.into());
        self
    }

    fn config(mut self, path: &str, text: &str) -> Self {
        self.0.configs.push(ConfigFile { path: path.into(), text: text.into(), mode: 0o644 });
        self
    }

    fn lease(mut self, link: &str, address: &str, server: &str, change: impl Fn(&mut Lease)) -> Self {
        let mut l = Lease {
            link: link.into(),
            client: "dhclient".into(),
            source: format!("/var/lib/dhcp/dhclient.{link}.leases"),
            address: Some(ip(address)),
            server: Some(ip(server)),
            ..Lease::default()
        };
        change(&mut l);
        self.0.leases.push(l);
        self
    }

    fn resolver(mut self, server: &str) -> Self {
        self.0.resolvers.push(Resolver { ip: ip(server), link: None, source: "/etc/resolv.conf:1".into() });
        self
    }

    fn client(mut self, pid: u32, program: &str, link: &str) -> Self {
        let command = format!("{program} {link}");
        self.0.clients.push(DhcpClient { pid, program: program.into(), link: Some(link.into()), ipv6: false, command });
        self
    }

    fn examine(&self, options: &Options) -> Vec<Diagnosis> {
        examine_machine(&self.0, options)
    }

    /// Rules that fire, without remarks.
    fn rules(&self) -> Vec<&'static str> {
        self.with(&Options::default())
    }

    fn with(&self, options: &Options) -> Vec<&'static str> {
        let bad = |d: &Diagnosis| d.finding.severity != Severity::Info;
        self.examine(options).iter().filter(|d| bad(d)).map(|d| d.finding.rule).collect()
    }

    #[track_caller]
    fn only(&self, rule: &str) -> Diagnosis {
        let found = self.examine(&Options::default());
        let bad: Vec<&Diagnosis> = found.iter().filter(|d| d.finding.severity != Severity::Info).collect();
        assert!(bad.len() == 1 && bad[0].finding.rule == rule, "{found:#?}");
        bad[0].clone()
    }

    #[track_caller]
    fn silent(&self) {
        let found = self.examine(&Options::default());
        assert!(found.is_empty(), "{found:#?}");
    }
}

fn rule(priority: u32, from: &str, table: u32) -> Rule {
    Rule {
        priority,
        from: from.parse().unwrap(),
        to: None,
        iif: None,
        oif: None,
        mark: None,
        table,
        action: "lookup".into(),
        invert: false,
        l3mdev: false,
        suppress_prefix: None,
        protocol: 2,
    }
}

fn primary(name: &str) -> Options {
    Options { primary: Some(name.into()), ..Options::default() }
}

#[test]
fn healthy_machines_are_silent() {
    M::healthy().silent();
    M::two().silent();
    // A secondary with a table and a rule of its own.
    M::two()
        .route("10.1.0.0/24 dev eth1 table 101")
        .route("default via 10.1.0.1 dev eth1 table 101")
        .rule("10.1.0.5/32", 101)
        .silent();
    // IPv6 only.
    M(MachineObservation::default())
        .nic("eth0")
        .address("eth0", "2001:db8::5/64")
        .route("default via fe80::1 dev eth0 proto 9")
        .silent();
    // Container engines, libvirt, tunnels.
    M::healthy()
        .virtual_link("docker0", "bridge")
        .address("docker0", "172.17.0.1/16")
        .virtual_link("veth12ab", "veth")
        .link("veth12ab", |l| l.master = Some("docker0".into()))
        .virtual_link("virbr0", "bridge")
        .address("virbr0", "192.168.122.1/24")
        .link("virbr0", |l| l.carrier = false)
        .virtual_link("cali1234", "veth")
        .link("cali1234", |l| l.foreign_peer = true)
        .virtual_link("wg0", "wireguard")
        .address("wg0", "10.0.0.77/24")
        .virtual_link("tailscale0", "tun")
        .address("tailscale0", "100.64.0.7/32")
        .route("default via 10.9.0.1 dev wg0 metric 50 table 51820")
        .virtual_link("ifb0", "ifb")
        .link("ifb0", |l| l.up = false)
        .silent();
    // A VPN that takes the default route.
    M::healthy()
        .virtual_link("tun0", "tun")
        .address("tun0", "10.8.0.2/24")
        .route("default via 10.8.0.1 dev tun0 metric 0")
        .silent();
    // A bond: its ports have no addresses.
    let bond = M::healthy().nic("eth1").nic("eth2").virtual_link("bond0", "bond").address("bond0", "10.5.0.5/24");
    bond.link("eth1", |l| l.master = Some("bond0".into())).link("eth2", |l| l.master = Some("bond0".into())).silent();
    // VLANs on a NIC that has no address itself, and that share its MAC.
    let vlan = M::healthy().nic("eth1").virtual_link("eth1.10", "vlan").address("eth1.10", "10.7.0.5/24");
    vlan.link("eth1.10", |l| {
        l.parent = Some("eth1".into());
        l.mac = Some("52:54:00:00:00:03".into());
    })
    .silent();
    // A container: its NIC is one end of a veth.
    let container =
        M(MachineObservation::default()).virtual_link("eth0", "veth").link("eth0", |l| l.foreign_peer = true);
    container
        .address("eth0", "172.17.0.2/16")
        .route("default via 172.17.0.1 dev eth0")
        .resolver("10.255.255.53")
        .silent();
}

#[test]
fn a_laptop_with_two_ways_gets_remarks_only() {
    let m =
        M::healthy().nic("wlan0").address("wlan0", "10.0.0.6/24").route("default via 10.0.0.1 dev wlan0 metric 600");
    let m = m.link("wlan0", |l| l.wireless = true);
    assert!(m.rules().is_empty(), "{:?}", m.rules());
    assert!(m.examine(&Options::default()).iter().any(|d| d.finding.rule == "same-subnet"));
    // Another network there.
    let m =
        M::healthy().nic("wlan0").address("wlan0", "10.9.0.6/24").route("default via 10.9.0.1 dev wlan0 metric 600");
    assert!(m.link("wlan0", |l| l.wireless = true).rules().is_empty());
}

#[test]
fn an_unreachable_default_route_is_none() {
    // As older kernels show one for IPv6 on every machine.
    let mut m = M::healthy().address("eth0", "2001:db8::5/64").route("default via fe80::1 dev lo metric 4294967295");
    let r = m.0.routes.last_mut().unwrap();
    (r.kind, r.via) = ("unreachable".into(), None);
    m.silent();
    assert!(m.0.default_in_force(crate::machine::Family::V6).is_none());
}

#[test]
fn an_isolated_machine_gets_a_remark_only() {
    let mut m = M::healthy();
    m.0.routes.retain(|r| r.to.prefix_len() > 0);
    assert_eq!(m.examine(&Options::default())[0].finding.severity, Severity::Info);
    assert!(m.rules().is_empty());
}

#[test]
fn several_default_routes() {
    let m = M::two().route("default via 10.1.0.1 dev eth1 metric 100");
    let found = m.examine(&Options::default());
    let rules: Vec<&str> = found.iter().map(|d| d.finding.rule).collect();
    assert_eq!(rules, ["several-default-routes", "asymmetric-replies"]);
    assert_eq!(
        found[0].finding.evidence,
        ["default via 10.0.0.1 dev eth0", "default via 10.1.0.1 dev eth1 metric 100"]
    );
    assert!(found[0].finding.fix.contains("ip route del default via 10.1.0.1 dev eth1 metric 100"));
    // A wireless NIC as a fallback is usual on a laptop.
    assert!(!m.link("eth1", |l| l.wireless = true).rules().contains(&"several-default-routes"));
}

#[test]
fn equal_metrics() {
    let m = M::two().route("default via 10.1.0.1 dev eth1");
    assert!(m.rules().contains(&"equal-metrics") && !m.rules().contains(&"several-default-routes"));
    // Two advertised IPv6 routers, as the kernel merges them.
    let mut v6 = M::two()
        .address("eth0", "2001:db8::5/64")
        .address("eth1", "2001:db8:1::5/64")
        .route("default via fe80::1 dev eth0 proto 9 metric 1024");
    assert!(!v6.rules().contains(&"equal-metrics"));
    let route = v6.0.routes.last_mut().unwrap();
    (route.dev, route.via) = (None, None);
    route.hops = vec![("eth0".into(), Some(ip("fe80::1"))), ("eth1".into(), Some(ip("fe80::2")))];
    assert!(v6.rules().contains(&"equal-metrics"));
}

#[test]
fn a_default_route_on_the_wrong_nic() {
    assert_eq!(M::two().with(&primary("eth1")), ["default-route-wrong-nic"]);
    assert!(M::two().with(&primary("eth0")).is_empty());
    // The configuration says which by itself, and names the gateway to use.
    let said = "auto eth1\niface eth1 inet static\n address 10.1.0.5/24\n gateway 10.1.0.1\niface eth0 inet dhcp\n";
    let m = M::two().config("/etc/network/interfaces", said).client(7, "dhclient", "eth0");
    let both = m.clone().route("default via 10.1.0.1 dev eth1 metric 9");
    assert!(both.rules().contains(&"several-default-routes") && !both.rules().contains(&"default-route-wrong-nic"));
    let d = m.only("default-route-wrong-nic");
    assert!(d.finding.fix.contains("ip route append default via 10.1.0.1 dev eth1"), "{}", d.finding.fix);
    assert!(d.finding.evidence.contains(&"/etc/network/interfaces:2: gateway 10.1.0.1".to_owned()), "{d:#?}");
}

#[test]
fn no_default_route() {
    let mut m = M::two();
    m.0.routes.retain(|r| r.to.prefix_len() > 0);
    let m = m.lease("eth0", "10.0.0.5", "10.0.0.1", |l| l.routers = vec![ip("10.0.0.1")]);
    let d = m.only("no-default-route");
    assert_eq!(d.actions.len(), 1);
    assert!(d.finding.fix.contains("ip route append default via 10.0.0.1 dev eth0"));
}

#[test]
fn one_subnet_on_two_nics() {
    let m = M::healthy().nic("eth1").address("eth1", "10.0.0.6/24");
    assert_eq!(m.rules(), ["same-subnet", "arp-flux"]);
    // On purpose: said so, or with a table and a rule each.
    let bound = Options { bound: vec![vec!["eth0".into(), "eth1".into()]], ..Options::default() };
    assert!(m.with(&bound).is_empty());
    let own = m.route("10.0.0.0/24 dev eth1 table 101").rule("10.0.0.6/32", 101).sysctl("all/arp_ignore", "1");
    let own = own.route("10.0.0.0/24 dev eth0 table 100").rule("10.0.0.5/32", 100);
    own.silent();
    // In two VRFs the same subnet is two networks.
    let vrf = M::healthy().virtual_link("red", "vrf").nic("eth1").address("eth1", "10.0.0.6/24");
    vrf.link("eth1", |l| l.master = Some("red".into())).silent();
}

#[test]
fn arp_flux_needs_arp_ignore_0() {
    let m = M::healthy().nic("eth1").address("eth1", "10.0.0.6/24");
    assert!(m.rules().contains(&"arp-flux"));
    assert!(!m.clone().sysctl("all/arp_ignore", "1").rules().contains(&"arp-flux"));
    assert!(!M::two().rules().contains(&"arp-flux"));
    let d = m.examine(&Options::default()).into_iter().find(|d| d.finding.rule == "arp-flux").unwrap();
    assert!(d.finding.fix.contains("sysctl -w net.ipv4.conf.eth1.arp_ignore=1"), "{}", d.finding.fix);
}

#[test]
fn one_dhcp_server_for_two_nics() {
    let routed = |l: &mut Lease| l.routers = vec![ip("10.0.0.1")];
    let m = M::two().lease("eth0", "10.0.0.5", "10.0.0.2", routed);
    assert!(!m.rules().contains(&"one-dhcp-server"));
    let quiet = m.clone().lease("eth1", "10.1.0.5", "10.0.0.2", |_| {});
    assert!(quiet.rules().is_empty(), "as on clouds where only the primary is told of a router");
    let m = m.lease("eth1", "10.1.0.5", "10.0.0.2", routed);
    assert!(m.rules().contains(&"one-dhcp-server"));
}

#[test]
fn replies_by_another_nic() {
    let leased = |l: &mut Lease| l.routers = vec![ip("10.1.0.1")];
    let m = M::two().lease("eth1", "10.1.0.5", "10.1.0.2", leased);
    let d = m.only("asymmetric-replies");
    assert_eq!(d.finding.severity, Severity::Warning);
    assert!(d.finding.fix.contains("ip rule add pref 1103 from 10.1.0.5/32 lookup 103"), "{}", d.finding.fix);
    // Strict filtering drops the requests themselves, whichever of the two values is 1.
    for key in ["all/rp_filter", "eth1/rp_filter"] {
        let strict = m.clone().sysctl(key, "1").only("asymmetric-replies");
        assert_eq!(strict.finding.severity, Severity::Error, "{key}");
    }
    assert_eq!(m.clone().sysctl("all/rp_filter", "2").only("asymmetric-replies").finding.severity, Severity::Warning);
    m.route("default via 10.1.0.1 dev eth1 table 101").rule("10.1.0.5/32", 101).silent();
    // A table without a rule is not used.
    M::two().route("default via 10.1.0.1 dev eth1 table 101").only("asymmetric-replies");
}

#[test]
fn packets_too_large() {
    let vxlan = |mtu| {
        M::healthy().virtual_link("vx0", "vxlan").link("vx0", move |l| {
            l.mtu = mtu;
            l.parent = Some("eth0".into());
        })
    };
    vxlan(1450).silent();
    vxlan(65485).silent();
    assert!(vxlan(1500).only("overlay-mtu").finding.fix.contains("ip link set vx0 mtu 1450"));
    let leased = M::healthy().lease("eth0", "10.0.0.5", "10.0.0.1", |l| l.mtu = Some(1400));
    assert!(leased.clone().only("lease-mtu").finding.fix.contains("mtu 1400"));
    leased.link("eth0", |l| l.mtu = 1400).silent();
}

#[test]
fn mtu_above_the_path() {
    let probed = |lost| {
        let mut m = M::healthy();
        let path_mtu = Some(PathMtu { gateway: ip("10.0.0.1"), answered: 1400, lost });
        m.0.probes.push(Probe { link: "eth0".into(), path_mtu, ..Probe::default() });
        m
    };
    assert_eq!(probed(Some(1420)).only("mtu-above-path").actions, [Action::SetMtu { link: "eth0".into(), mtu: 1400 }]);
    probed(None).silent();
    let mut limited = probed(Some(1420));
    limited.0.routes.iter_mut().filter(|r| r.to.prefix_len() == 0).for_each(|r| r.mtu = Some(1400));
    limited.silent();
}

#[test]
fn a_nic_without_an_address() {
    let m = M::healthy().nic("eth1");
    assert!(m.only("no-address").finding.message.contains("no DHCP client"));
    assert!(m.clone().client(9, "udhcpc", "eth1").only("no-address").finding.message.contains("gets no answer"));
    m.clone().link("eth1", |l| l.carrier = false).silent();
    m.clone()
        .config(
            "/etc/network/interfaces",
            "iface eth1 inet manual\niface eth0 inet static\n address 10.0.0.5/24\n gateway 10.0.0.1\n",
        )
        .silent();
    m.virtual_link("eth1.5", "vlan")
        .address("eth1.5", "10.9.0.5/24")
        .link("eth1.5", |l| l.parent = Some("eth1".into()))
        .silent();
}

#[test]
fn a_nic_that_nothing_configures() {
    let m = M::healthy().nic("eth1").link("eth1", |l| {
        l.up = false;
        l.carrier = false;
    });
    m.only("not-configured");
    // A spare port of a server is usual.
    assert!(m.clone().link("eth1", |l| l.driver = "ixgbe".into()).rules().is_empty());
    let said = "[Match]\nName=eth1\n[Link]\nActivationPolicy=down\n[Network]\n";
    m.clone()
        .config("/etc/systemd/network/1.network", said)
        .config(
            "/etc/systemd/network/0.network",
            "[Match]\nName=eth0\n[Network]\nAddress=10.0.0.5/24\nGateway=10.0.0.1\n",
        )
        .silent();
}

#[test]
fn several_dhcp_clients() {
    let m = M::healthy().client(10, "dhclient", "eth0");
    m.silent();
    let d = m.client(11, "udhcpc", "eth0").only("several-dhcp-clients");
    assert_eq!(d.finding.evidence, ["process 10: dhclient eth0", "process 11: udhcpc eth0"]);
    assert!(d.finding.fix.contains("stop dhclient (process 10)"));
    M::two().client(10, "dhclient", "eth0").client(11, "dhclient", "eth1").silent();
    // One dhcpcd that is several processes.
    M::healthy().client(10, "dhcpcd", "eth0").client(11, "dhcpcd", "eth0").silent();
}

#[test]
fn name_servers_by_the_wrong_nic() {
    M::healthy().resolver("192.0.2.53").silent();
    M::two().resolver("192.0.2.53").silent();
    assert_eq!(M::two().resolver("10.1.0.53").rules(), ["dns-wrong-nic"], "on the secondary's network");
    assert!(M::two().resolver("10.1.0.53").resolver("192.0.2.53").rules().is_empty(), "another one is good");
    let named = |l: &mut Lease| l.dns = vec![ip("192.0.2.53")];
    let m = M::two().resolver("192.0.2.53").lease("eth1", "10.1.0.5", "10.1.0.2", named);
    assert!(m.only("dns-wrong-nic").finding.message.contains("was named on eth1, and is asked by eth0"));
    m.lease("eth0", "10.0.0.5", "10.0.0.2", named).silent();
    let mut cut = M::healthy().resolver("192.0.2.53");
    cut.0.routes.retain(|r| r.to.prefix_len() > 0);
    assert_eq!(cut.rules(), ["dns-unreachable"]);
}

#[test]
fn what_is_not_written_down() {
    let said = |text: &str| M::healthy().config("/etc/network/interfaces", text);
    said("iface eth0 inet static\n address 10.0.0.5/24\n gateway 10.0.0.1\n").silent();
    let d = said("iface eth9 inet dhcp\n").only("not-persistent");
    assert_eq!(
        d.finding.message,
        "address 10.0.0.5/24 and the default route via 10.0.0.1 of eth0 is in the kernel and in no configuration file"
    );
    assert!(
        d.finding.fix.contains("address 10.0.0.5/24\n") && d.finding.fix.contains("gateway 10.0.0.1"),
        "{}",
        d.finding.fix
    );
    // A daemon's own address.
    said("iface eth0 inet static\n address 10.0.0.5/24\n gateway 10.0.0.1\n").address("eth0", "10.0.0.77/32").silent();
    // A client whose lease is not known may have set both.
    said("iface eth0 inet dhcp\n").client(5, "udhcpc", "eth0").silent();
    let leased = |l: &mut Lease| l.routers = vec![ip("10.0.0.1")];
    said("iface eth0 inet dhcp\n").lease("eth0", "10.0.0.5", "10.0.0.1", leased).silent();
}

#[test]
fn a_mac_that_no_nic_has() {
    let said = |mac: &str| {
        let text = format!(
            "network:\n  ethernets:\n    lan:\n      match: {{macaddress: \"{mac}\"}}\n      addresses: [10.0.0.5/24]\n      routes: [{{to: default, via: 10.0.0.1}}]\n"
        );
        M::healthy().config("/etc/netplan/1.yaml", &text)
    };
    said("52:54:00:00:00:02").silent();
    let d = said("52:54:00:AA:00:02").only("mac-mismatch");
    assert_eq!(d.finding.evidence[0], "/etc/netplan/1.yaml:4: match: {macaddress: \"52:54:00:AA:00:02\"}");
    assert!(d.finding.fix.contains("replace 52:54:00:AA:00:02 by 52:54:00:00:00:02"), "{}", d.finding.fix);
    // An entry for a NIC that is unplugged at the moment, beside one for this one.
    let unplugged = said("52:54:00:00:00:02")
        .config("/etc/netplan/2.yaml", "network: {ethernets: {dock: {match: {macaddress: \"52:54:00:aa:00:09\"}}}}");
    assert!(unplugged.rules().is_empty());
    let permanent = said("52:54:00:aa:00:02").link("eth0", |l| l.permanent_mac = Some("52:54:00:aa:00:02".into()));
    permanent.silent();
}

#[test]
fn doubled_addresses_and_macs() {
    let mut m = M::healthy();
    m.0.probes.push(Probe {
        link: "eth0".into(),
        duplicates: vec![(ip("10.0.0.5"), "02:00:00:00:00:99".into())],
        ..Probe::default()
    });
    assert!(m.only("duplicate-address").finding.evidence[0].contains("02:00:00:00:00:99 on eth0"));
    let mut failed = M::healthy().address("eth0", "2001:db8::5/64");
    failed.0.addresses[1].dad_failed = true;
    failed.only("duplicate-address");
    let twin = M::two().link("eth1", |l| l.mac = Some("52:54:00:00:00:02".into()));
    twin.only("duplicate-mac");
    let mut heard = M::healthy();
    heard.0.probes.push(Probe { link: "eth0".into(), own_mac_seen: Some("ARP packet".into()), ..Probe::default() });
    assert_eq!(heard.only("duplicate-mac").finding.severity, Severity::Error);
}

#[test]
fn silent_gateways() {
    let probed = |mac: Option<&str>| {
        let mut m = M::healthy();
        let gateways = vec![(ip("10.0.0.1"), mac.map(str::to_owned))];
        m.0.probes.push(Probe { link: "eth0".into(), gateways, ..Probe::default() });
        m
    };
    probed(Some("02:00:00:00:00:01")).silent();
    assert_eq!(probed(None).only("gateway-silent").finding.severity, Severity::Error);
    // Without root, the kernel's own failure says the same.
    let neighbour = |state: &str| {
        let mut m = M::healthy();
        m.0.neighbours.push(Neighbour { link: "eth0".into(), ip: ip("10.0.0.1"), mac: None, state: state.into() });
        m
    };
    neighbour("STALE").silent();
    assert!(
        neighbour("FAILED").only("gateway-silent").finding.evidence.contains(&"10.0.0.1 dev eth0 FAILED".to_owned())
    );
}

#[test]
fn every_finding_is_complete() {
    let sick = M::two()
        .route("default via 10.1.0.1 dev eth1")
        .nic("eth2")
        .address("eth2", "10.1.0.6/24")
        .nic("eth3")
        .resolver("10.1.0.53")
        .config("/etc/network/interfaces", "iface eth8 inet dhcp\n")
        .client(1, "dhclient", "eth2")
        .client(2, "udhcpc", "eth2");
    let found = sick.examine(&Options::default());
    assert!(found.len() >= 7, "{found:#?}");
    for d in &found {
        let f = &d.finding;
        for text in [&f.subject, &f.message, &f.consequence, &f.fix] {
            assert!(!text.is_empty(), "{f:?}");
        }
        assert!(!f.evidence.is_empty(), "{f:?}");
    }
    let order: Vec<Severity> = found.iter().map(|d| d.finding.severity).collect();
    assert!(order.is_sorted());
}

#[test]
fn an_observation_survives_being_saved() {
    let m = M::two().route("default via 10.1.0.1 dev eth1").rule("10.1.0.5/32", 101);
    let text = serde_json::to_string(&m.0).unwrap();
    assert_eq!(serde_json::from_str::<MachineObservation>(&text).unwrap(), m.0);
}
