use super::*;

fn file(path: &str, text: &str) -> ConfigFile {
    ConfigFile { path: path.into(), text: text.into(), mode: 0o644 }
}

fn one(path: &str, text: &str) -> NicConfig {
    let mut all = nics(&[file(path, text)]);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn netplan_is_read() {
    let c = one(
        "/etc/netplan/50-cloud-init.yaml",
        "network:\n  version: 2\n  ethernets:\n    web1:\n      match:\n        macaddress: \"52:54:00:AA:00:11\"\n      \
         set-name: eth1\n      dhcp4: true\n      dhcp4-overrides: {use-routes: false}\n      \
         addresses: [10.1.0.5/24, {10.1.0.6/24: {label: x}}]\n      routes:\n      - {to: default, via: 10.1.0.1}\n      \
         - {to: default, via: 10.1.0.2, table: 101}\n",
    );
    assert_eq!((c.id.as_str(), c.line), ("web1", 4));
    assert_eq!(c.macs, [("52:54:00:aa:00:11".to_owned(), 6)]);
    assert_eq!((c.dhcp4, c.never_default), (Some(true), true));
    assert_eq!(c.addresses, [ip("10.1.0.5"), ip("10.1.0.6")]);
    assert_eq!(c.gateways, [ip("10.1.0.1")]);
}

#[test]
fn ports_of_netplan_bridges_need_no_address() {
    let all = nics(&[file(
        "/etc/netplan/1.yaml",
        "network:\n  ethernets:\n    eth1: {dhcp4: false}\n  bridges:\n    br0: {interfaces: [eth1]}\n",
    )]);
    assert!(all.iter().find(|c| c.id == "eth1").unwrap().master);
}

#[test]
fn networkd_is_read() {
    let c = one(
        "/etc/systemd/network/10-eth1.network",
        "[Match]\nName=eth1 en*\n[Network]\nDHCP=ipv4\nAddress=10.1.0.5/24\n[DHCPv4]\nUseGateway=no\n\
         [Route]\nGateway=10.1.0.1\nTable=101\n[Route]\nDestination=10.50.0.0/16\nGateway=10.1.0.2\n\
         [Route]\nGateway=10.1.0.3\n",
    );
    assert_eq!(c.names, ["eth1", "en*"]);
    assert_eq!((c.dhcp4, c.never_default), (Some(true), true));
    assert_eq!(c.gateways, [ip("10.1.0.3")]);
    assert!(glob("en*", "enp3s0") && glob("eth?", "eth1") && !glob("eth?", "eth10") && glob("e[nt]h0", "eth0"));
}

#[test]
fn keyfiles_are_read() {
    let c = one(
        "/etc/NetworkManager/system-connections/eth1.nmconnection",
        "[connection]\nid=wired 1\ntype=ethernet\n[ethernet]\nmac-address=52:54:00:00:00:11\n[ipv4]\nmethod=manual\n\
         address1=10.1.0.5/24,10.1.0.1\nroute1=0.0.0.0/0,10.1.0.9\nroute1_options=table=101\nnever-default=true\n",
    );
    assert_eq!((c.id.as_str(), c.never_default), ("wired 1", true));
    assert_eq!((c.addresses, c.gateways), (vec![ip("10.1.0.5")], vec![ip("10.1.0.1")]));
}

#[test]
fn ifcfg_and_wicked_are_read() {
    let all = nics(&[
        file("/etc/sysconfig/network-scripts/ifcfg-lo", "DEVICE=lo\n"),
        file(
            "/etc/sysconfig/network-scripts/ifcfg-eth1",
            "HWADDR=52:54:00:00:00:11\nBOOTPROTO=none\nIPADDR0=10.1.0.5\nDEFROUTE=no\n",
        ),
        file(
            "/etc/sysconfig/network-scripts/route-eth1",
            "default via 10.1.0.1 dev eth1 table 101\n10.5.0.0/16 via 10.1.0.1\n",
        ),
        file("/etc/sysconfig/network/ifcfg-eth2", "BOOTPROTO='dhcp4'\nDHCLIENT_SET_DEFAULT_ROUTE='no'\n"),
        file("/etc/sysconfig/network/ifroute-eth2", "default 10.2.0.1 - eth2\n"),
    ]);
    assert_eq!(all.len(), 2);
    assert!(all[0].gateways.is_empty() && all[0].never_default && !all[0].bare);
    assert_eq!(all[0].addresses, [ip("10.1.0.5")]);
    assert_eq!((all[1].dialect, all[1].dhcp4), (Dialect::Wicked, Some(true)));
    assert_eq!(all[1].gateways, [ip("10.2.0.1")]);
}

#[test]
fn interfaces_are_read() {
    let all = nics(&[file(
        "/etc/network/interfaces",
        "auto lo\niface lo inet loopback\nallow-hotplug eth0\niface eth0 inet dhcp\niface eth0 inet6 auto\n\
         auto eth1\niface eth1 inet static\n    address 10.1.0.5/24\n    gateway 10.1.0.1\n    up ip route add default via 10.1.0.2 table 101\n\
         iface eth2 inet manual\n",
    )]);
    let get = |n: &str| all.iter().find(|c| c.id == n).unwrap();
    assert_eq!(get("eth0").dhcp4, Some(true));
    assert_eq!((get("eth1").gateways.clone(), get("eth1").line), (vec![ip("10.1.0.1")], 7));
    assert!(get("eth2").bare && !get("eth1").bare);
}

#[test]
fn words_are_found_whole_and_outside_comments() {
    let files =
        [file("/etc/rc.local", "# ip addr add 10.1.0.5/24\nip addr add 10.1.0.50/24 dev eth1\nip a add 10.1.0.5/24\n")];
    assert_eq!(find_word(&files, "10.1.0.5").map(|f| f.1), Some(3));
    assert_eq!(find_word(&files, "10.1.0"), None);
}

#[test]
fn the_dialect_is_what_names_a_nic_or_runs() {
    let mut o = MachineObservation::default();
    assert_eq!(dialect(&o), Dialect::Plain);
    o.configs.push(file("/etc/network/interfaces", "auto lo\niface lo inet loopback\n"));
    assert_eq!(dialect(&o), Dialect::Plain);
    o.managers.push("systemd-networkd".into());
    assert_eq!(dialect(&o), Dialect::Networkd);
    o.configs[0].text += "iface eth0 inet dhcp\n";
    assert_eq!(dialect(&o), Dialect::Ifupdown);
    o.configs.push(file("/etc/netplan/1.yaml", "network: {ethernets: {eth0: {dhcp4: true}}}"));
    assert_eq!(dialect(&o), Dialect::Netplan);
}

#[test]
fn broken_files_say_nothing_and_break_nothing() {
    for path in [
        "/etc/netplan/a.yaml",
        "/etc/systemd/network/a.network",
        "/etc/NetworkManager/system-connections/a",
        "/etc/network/interfaces",
        "/etc/sysconfig/network/ifcfg-a",
    ] {
        for text in [
            "",
            "\u{0}\u{1}",
            "network: [",
            "[",
            "iface",
            "=",
            "iface eth0",
            "[Route]\nGateway=",
            "network: {ethernets: 5}",
        ] {
            let _ = nics(&[file(path, text)]);
        }
    }
}
