//! What cures write, read by the tools that it is written for. No root; a tool that is not here is named.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use multihome_doctor::apply::{Place, apply};
use multihome_doctor::machine::fix::Action;
use multihome_doctor::machine::layout::{Style, layout, parse};
use multihome_doctor::machine::{ConfigFile, MachineObservation, Options, examine_machine};

/// A guest with two DHCP NICs and two equal default routes, configured by netplan.
fn guest() -> MachineObservation {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../cli/tests/fixtures/two-default-routes.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn have(test: &str, tool: &str) -> bool {
    let found = ["/usr/sbin", "/sbin", "/usr/bin"].iter().any(|d| Path::new(d).join(tool).exists());
    if !found {
        println!("SKIPPED {test}: {tool} is not installed");
    }
    found
}

/// Writes the machine's files and the steps that concern files below a directory.
fn written(o: &MachineObservation, actions: &[Action]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let place = Place { root: dir.path().to_owned() };
    let base =
        o.configs.iter().map(|f| Action::WriteFile { path: f.path.clone(), content: f.text.clone(), mode: f.mode });
    let files = |a: &&Action| matches!(a, Action::WriteFile { .. } | Action::EditFile { .. });
    let all: Vec<Action> = base.chain(actions.iter().filter(files).cloned()).collect();
    apply(&place, &all).unwrap();
    dir
}

fn cures(o: &MachineObservation) -> Vec<Action> {
    let found = examine_machine(o, &Options::default());
    assert_eq!(found.len(), 2, "{found:#?}");
    found.into_iter().flat_map(|d| d.actions).collect()
}

fn netplan(dir: &Path) -> String {
    let out = Command::new("netplan").arg("generate").arg("--root-dir").arg(dir).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut all = String::new();
    let mut files: Vec<_> = std::fs::read_dir(dir.join("run/systemd/network")).unwrap().flatten().collect();
    files.sort_by_key(std::fs::DirEntry::file_name);
    for f in files {
        all += &format!("# {}\n{}\n", f.file_name().display(), std::fs::read_to_string(f.path()).unwrap());
    }
    all
}

#[test]
fn netplan_takes_the_cures() {
    if !have("netplan_takes_the_cures", "netplan") {
        return;
    }
    let o = guest();
    let all = netplan(written(&o, &cures(&o)).path());
    let secondary = all.split("# ").find(|f| f.contains("52:54:00:00:00:11")).unwrap();
    for line in ["DHCP=ipv4", "UseRoutes=false", "Gateway=10.1.0.1", "Table=111", "From=10.1.0.5/32", "Priority=1111"] {
        assert!(secondary.contains(line), "{line} is missing:\n{all}");
    }
    let primary = all.split("# ").find(|f| f.contains("52:54:00:00:00:10")).unwrap();
    assert!(!primary.contains("Table=") && !primary.contains("UseRoutes"), "{primary}");
}

#[test]
fn netplan_takes_the_layouts() {
    if !have("netplan_takes_the_layouts", "netplan") {
        return;
    }
    let o = guest();
    for (style, lines) in [
        (Style::Vrf, &["Kind=vrf", "Table=1001", "VRF=vrf-storage", "Gateway=10.1.0.1"][..]),
        (Style::Rules, &["Table=101", "From=10.1.0.5/32", "Gateway=10.1.0.1"]),
    ] {
        let roles = parse("management=eth0,storage=eth1").unwrap();
        let plan = layout(&o, &roles, Some(style)).unwrap();
        let actions: Vec<Action> = plan.roles.into_iter().flat_map(|r| r.actions).collect();
        let all = netplan(written(&o, &actions).path());
        for line in lines {
            assert!(all.contains(line), "{line} is missing:\n{all}");
        }
    }
}

#[test]
fn ifupdown_takes_the_cures() {
    if !have("ifupdown_takes_the_cures", "ifup") {
        return;
    }
    // A NIC that nothing configures.
    let mut o = guest();
    let text = "source interfaces.d/*\nauto eth0\niface eth0 inet dhcp\n".to_owned();
    o.configs = vec![ConfigFile { path: "/etc/network/interfaces".into(), text, mode: 0o644 }];
    o.managers.clear();
    o.routes.retain(|r| r.dev.as_deref() != Some("eth1"));
    o.addresses.retain(|a| a.link != "eth1");
    o.leases.retain(|l| l.link != "eth1");
    o.links.iter_mut().filter(|l| l.name == "eth1").for_each(|l| (l.up, l.carrier) = (false, false));
    let found = examine_machine(&o, &Options::default());
    assert_eq!(found[0].finding.rule, "not-configured", "{found:#?}");
    let dir = written(&o, &found[0].actions);
    let file = dir.path().join("etc/network/interfaces");
    let state = dir.path().join("state");
    std::fs::create_dir_all(&state).unwrap();
    let mut ifup = Command::new("/usr/sbin/ifup");
    let out = ifup
        .args(["--no-act", "--force", "-v", "-i"])
        .arg(file)
        .arg("--state-dir")
        .arg(state)
        .arg("eth1")
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && said.contains("eth1"), "{said}");
}

/// NetworkManager's reader, offline: it prints the profile as it understands it, and refuses what it does not.
fn nmcli(profile: &Path) -> String {
    let input = std::fs::File::open(profile).unwrap();
    let mut nmcli = Command::new("nmcli");
    let out = nmcli.args(["--offline", "connection", "modify", "ipv4.may-fail", "yes"]).stdin(input).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && !said.contains("warning"), "{}: {said}", profile.display());
    said
}

#[test]
fn network_manager_takes_the_cures() {
    if !have("network_manager_takes_the_cures", "nmcli") {
        return;
    }
    let dir = "/etc/NetworkManager/system-connections";
    let profile = |n: u8| {
        let text = format!(
            "[connection]\nid=lan{n}\ntype=ethernet\ninterface-name=eth{n}\n\n[ipv4]\nmethod=auto\n\n[ipv6]\nmethod=auto\n"
        );
        ConfigFile { path: format!("{dir}/lan{n}.nmconnection"), text, mode: 0o600 }
    };
    let mut o = guest();
    o.configs = vec![profile(0), profile(1)];
    o.managers = vec!["NetworkManager".into()];
    let cured = written(&o, &cures(&o));
    let said = nmcli(&cured.path().join("etc/NetworkManager/system-connections/lan1.nmconnection"));
    for line in ["never-default=true", "0.0.0.0/0,10.1.0.1", "table=111", "priority 1111 from 10.1.0.5 table 111"] {
        assert!(said.contains(line), "{line} is missing:\n{said}");
    }
    let other = nmcli(&cured.path().join("etc/NetworkManager/system-connections/lan0.nmconnection"));
    assert!(!other.contains("never-default=true"), "{other}");
    // A profile that is in no file gets one.
    o.configs.clear();
    let made = written(&o, &cures(&o));
    let said = nmcli(&made.path().join("etc/NetworkManager/system-connections/eth1.nmconnection"));
    assert!(said.contains("never-default=true") && said.contains("mac-address=52:54:00:00:00:11"), "{said}");
    // A VRF per role.
    o.configs = vec![profile(0), profile(1)];
    let plan = layout(&o, &parse("management=eth0,storage=eth1").unwrap(), Some(Style::Vrf)).unwrap();
    let actions: Vec<Action> = plan.roles.into_iter().flat_map(|r| r.actions).collect();
    let laid = written(&o, &actions);
    let said = nmcli(&laid.path().join("etc/NetworkManager/system-connections/vrf-storage.nmconnection"));
    assert!(said.contains("type=vrf") && said.contains("table=1001"), "{said}");
    let port = nmcli(&laid.path().join("etc/NetworkManager/system-connections/lan1.nmconnection"));
    assert!(port.contains("vrf-storage") && port.contains("table=1001"), "{port}");
}
