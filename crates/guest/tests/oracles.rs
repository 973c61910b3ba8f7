//! What others make of our files: tools that read images, and cloud-init's own readers of seeds and metadata.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;

use multihome_guest::{Dialect, File, metadata, render, seed};
use serde_json::{Value, json};
use support::fixtures::{dual, foreign, guest, served, three};
use support::lab::{have, output};
use support::metadata_server::{EC2, python, serve};

fn write_all(dir: &std::path::Path, files: &[File]) {
    for f in files {
        let path = dir.join(f.path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &f.content).unwrap();
    }
}

#[test]
fn the_seed_is_an_iso9660_image_with_our_names_and_label() {
    if !have("the_seed_is_an_iso9660_image_with_our_names_and_label", &["isoinfo", "blkid"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("seed.iso");
    let mut g = guest(three());
    // A file that fills a sector exactly, one that is empty, and one of several sectors.
    let mut files = seed::files(&g);
    files.extend([("exact", 2048), ("empty", 0), ("long-name-with-many-letters.txt", 9000)].map(|(path, n)| File {
        path: path.into(),
        mode: 0o644,
        content: "x".repeat(n),
    }));
    std::fs::write(&image, seed::iso9660(&files)).unwrap();
    let isoinfo = |args: &[&str]| output(Command::new("isoinfo").arg("-i").arg(&image).args(args));
    let about = isoinfo(&["-d"]);
    assert!(about.contains("Volume id: cidata\n") && about.contains("Joliet with UCS level 3 found"), "{about}");
    assert!(about.contains("Rock Ridge signatures version 1 found"), "{about}");
    for names in ["-R", "-J"] {
        for f in &files {
            assert_eq!(isoinfo(&[names, "-x", &format!("/{}", f.path)]), f.content, "{names} {}", f.path);
        }
        let list = isoinfo(&[names, "-f"]);
        assert_eq!(list.lines().count(), files.len(), "{list}");
    }
    let probed = output(Command::new("blkid").args(["-p", "-o", "export"]).arg(&image));
    assert!(probed.contains("LABEL=cidata\n") && probed.contains("TYPE=iso9660\n"), "{probed}");
    // Same guest, same bytes; another guest, others.
    assert_eq!(seed::image(&g), seed::image(&g.clone()));
    let before = seed::image(&g);
    g.name = "db".into();
    assert_ne!(before, seed::image(&g));
    mounted(&image, &files);
}

/// As the guest's kernel reads it.
fn mounted(image: &std::path::Path, files: &[File]) {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.lines().any(|l| l.trim() == "iso9660") {
        return println!("SKIPPED the_seed_is_mounted_by_the_kernel: this kernel has no iso9660");
    }
    let dir = tempfile::tempdir().unwrap();
    output(Command::new("mount").args(["-o", "loop,ro"]).arg(image).arg(dir.path()));
    let read: Vec<_> = files.iter().map(|f| std::fs::read_to_string(dir.path().join(&f.path))).collect();
    output(Command::new("umount").arg(dir.path()));
    for (f, text) in files.iter().zip(read) {
        assert_eq!(text.unwrap(), f.content, "{}", f.path);
    }
}

/// cloud-init takes the seed's vendor-data apart into what we put in, and finds its cloud-config valid.
#[test]
fn cloud_init_reads_vendor_data() {
    if !have("cloud_init_reads_vendor_data", &["cloud-init", "/usr/bin/python3"]) {
        return;
    }
    let script = r##"
import json, sys
from cloudinit.user_data import UserDataProcessor
class Paths:
    def get_ipath_cur(self, _): return "/nonexistent"
    get_cpath = get_ipath_cur
message = UserDataProcessor(Paths()).process(sys.stdin.read())
parts = [p for p in message.walk() if p.get_content_maintype() != "multipart"]
print(json.dumps([[p.get_content_type(), p.get_payload(decode=True).decode()] for p in parts]))
"##;
    let parts_of = |data: &str| -> Vec<(String, String)> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("data"), data).unwrap();
        let stdin = std::fs::File::open(dir.path().join("data")).unwrap();
        let text = output(Command::new("/usr/bin/python3").args(["-c", script]).stdin(stdin));
        serde_json::from_str(&text).unwrap()
    };
    let mut g = guest(three());
    let vendor = seed::files(&g).into_iter().find(|f| f.path == "vendor-data").unwrap().content;
    let parts = parts_of(&vendor);
    let kinds: Vec<&str> = parts.iter().map(|(k, _)| k.as_str()).collect();
    assert_eq!(kinds, ["text/cloud-config", "text/cloud-boothook"]);
    assert!(
        parts[1].1.starts_with("#cloud-boothook\n#!/bin/sh\n") && parts[1].1.contains("4 rule 1002 10.101.0.50 102\n")
    );

    // A user's own data goes along whatever it is, where the layout has no vendor data.
    g.user_data = Some("#!/bin/sh\necho \"Grüße\"\n--==multihome==--\n".into());
    let r = metadata::respond(&g, "web-mgmt", "GET", "/latest/user-data", &[]);
    let parts = parts_of(&r.body);
    let kinds: Vec<&str> = parts.iter().map(|(k, _)| k.as_str()).collect();
    assert_eq!(kinds, ["text/x-shellscript", "text/cloud-config", "text/cloud-boothook"]);
    assert_eq!(Some(&parts[0].1), g.user_data.as_ref());

    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("vendor.yaml");
    std::fs::write(&config, &parts[1].1).unwrap();
    let said = output(Command::new("cloud-init").args(["schema", "-c"]).arg(&config));
    assert!(said.contains("Valid cloud-config"), "{said}");
}

#[test]
fn cloud_init_finds_network_config_valid() {
    if !have("cloud_init_finds_network_config_valid", &["cloud-init"]) {
        return;
    }
    let help = output(Command::new("cloud-init").args(["schema", "--help"]));
    if !help.contains("--schema-type") {
        return println!(
            "SKIPPED cloud_init_finds_network_config_valid: this cloud-init knows no schema of network-config"
        );
    }
    for plan in [three(), dual(), foreign()] {
        for dialect in [Dialect::CloudInitV1, Dialect::CloudInitV2] {
            let dir = tempfile::tempdir().unwrap();
            write_all(dir.path(), &render(dialect, &guest(plan.clone())));
            let file = dir.path().join("network-config");
            output(Command::new("cloud-init").args(["schema", "-t", "network-config", "-c"]).arg(file));
        }
    }
}

#[test]
fn cloud_init_walks_ec2_metadata() {
    if !have("cloud_init_walks_ec2_metadata", &["cloud-init", "/usr/bin/python3"]) {
        return;
    }
    let address = serve(guest(three()));
    for version in ["latest", "2021-03-23", "2018-09-24", "2016-09-02", "2009-04-04"] {
        let got = python(EC2, &[&address, version, "{}"]);
        let tree = &got["tree"];
        assert_eq!(tree["instance-id"], "i-0c0ffee0");
        assert_eq!((&tree["mac"], &tree["local-ipv4"]), (&json!("52:54:00:00:00:10"), &json!("10.100.0.50")));
        assert!(tree["public-keys"]["key-0"].to_string().contains("ssh-ed25519"), "{tree}");
        let macs = tree["network"]["interfaces"]["macs"].as_object().unwrap();
        // The static NIC is not listed, or cloud-init would ask for an address there.
        let names: Vec<&String> = macs.keys().collect();
        assert_eq!(names, ["52:54:00:00:00:10", "52:54:00:00:00:11"]);
        assert!(macs.values().all(|m| m.get("device-number").is_none()), "{macs:?}");
        assert_eq!(macs["52:54:00:00:00:11"]["subnet-ipv4-cidr-block"], "10.101.0.0/24");
        // No route of cloud-init's own making.
        assert!(
            got["config"].to_string().contains("52:54:00:00:00:11") && !got["config"].to_string().contains("routes")
        );
        assert!(got["user"].as_str().unwrap().starts_with("Content-Type: multipart/mixed"));
    }
}

#[test]
fn cloud_init_reads_openstack_metadata() {
    if !have("cloud_init_reads_openstack_metadata", &["cloud-init", "/usr/bin/python3"]) {
        return;
    }
    let mut g = guest(dual());
    g.user_data = Some("#cloud-config\npackages: [nginx]\n".into());
    let address = serve(g.clone());
    let script = r#"
import json, sys
from cloudinit import sources
from cloudinit.sources.helpers import openstack
r = openstack.MetadataReader(sys.argv[1], timeout=5, retries=0).read_v2()
print(json.dumps({"version": r["version"], "metadata": r["metadata"], "network": r["networkdata"],
    "user": r["userdata"].decode(), "vendor": sources.convert_vendordata(r["vendordata"])}))
"#;
    let got = python(script, &[&address]);
    assert_eq!(got["version"], 2);
    assert_eq!((&got["metadata"]["uuid"], &got["metadata"]["hostname"]), (&json!("i-0c0ffee0"), &json!("web")));
    assert_eq!(Some(got["user"].as_str().unwrap()), g.user_data.as_deref());
    assert!(got["vendor"].as_str().unwrap().contains("6 rule 1002 fd00:2::5 102"), "{}", got["vendor"]);
    let expected = &render(Dialect::OpenStack, &g)[0].content;
    assert_eq!(got["network"], serde_json::from_str::<Value>(expected).unwrap());
}

/// netplan's other renderer: one NetworkManager connection per NIC, by MAC.
#[test]
fn netplan_renders_for_network_manager() {
    if !have("netplan_renders_for_network_manager", &["netplan"]) {
        return;
    }
    for plan in [three(), dual(), foreign()] {
        let dir = tempfile::tempdir().unwrap();
        write_all(dir.path(), &render(Dialect::Netplan, &guest(plan.clone())));
        std::fs::write(dir.path().join("etc/netplan/00.yaml"), "network: {version: 2, renderer: NetworkManager}\n")
            .unwrap();
        output(Command::new("netplan").args(["generate", "--root-dir"]).arg(dir.path()));
        let run = dir.path().join("run/NetworkManager/system-connections");
        let texts: Vec<String> =
            std::fs::read_dir(run).unwrap().map(|e| std::fs::read_to_string(e.unwrap().path()).unwrap()).collect();
        assert_eq!(texts.len(), plan.nics.len());
        for nic in &plan.nics {
            let mac = nic.mac.to_string().to_uppercase();
            let text = texts.iter().find(|t| t.to_uppercase().contains(&mac)).unwrap_or_else(|| panic!("{texts:?}"));
            let v4 = nic.ipv4.as_ref().filter(|f| !f.default_route && f.method != multihome_plan::route::Method::None);
            let asks = text.contains("[ipv4]\nmethod=auto");
            assert!(v4.is_none() || !asks || text.contains("never-default=true"), "{text}");
        }
    }
}

/// cloud-init's renderer for RHEL and SUSE, whose tools are not in Debian: its files name one default route per family at
/// most, where the plan has a static one, and no table.
#[test]
fn cloud_init_renders_sysconfig_with_one_default_route() {
    if !have("cloud_init_renders_sysconfig_with_one_default_route", &["cloud-init"]) {
        return;
    }
    let sources = [Dialect::CloudInitV1, Dialect::CloudInitV2];
    for (plan, v4, v6) in [(three(), 0, 1), (dual(), 1, 1), (foreign(), 0, 0), (served(), 0, 0)] {
        for (distribution, dialect) in ["centos", "opensuse"].iter().flat_map(|d| sources.map(|s| (d, s))) {
            let dir = tempfile::tempdir().unwrap();
            write_all(dir.path(), &render(dialect, &guest(plan.clone())));
            let mut c = Command::new("cloud-init");
            c.current_dir(dir.path()).args(["devel", "net-convert", "-p", "network-config", "-k", "yaml", "-d", "out"]);
            output(c.args(["-D", distribution, "-O", "sysconfig"]));
            let text = output(Command::new("grep").args(["-rhs", ""]).arg(dir.path().join("out/etc/sysconfig")));
            let count = |wanted: &[&str]| {
                let hit = |l: &str| wanted.iter().any(|w| l.starts_with(w));
                text.lines().filter(|l| hit(l)).count()
            };
            let what = format!("{dialect}, {distribution}: {text}");
            // Upstream's renderer writes no routes for SUSE at all; SUSE's package is patched.
            let (v4, v6) = if *distribution == "opensuse" { (0, 0) } else { (v4, v6) };
            assert_eq!(count(&["GATEWAY=", "GATEWAY0=0", "default ", "0.0.0.0/0 "]), v4, "{what}");
            assert_eq!(count(&["IPV6_DEFAULTGW=", "::/0 "]), v6, "{what}");
            let dropped = count(&["10.60.0.0/16 ", "ADDRESS0=10.60.0.0", "ADDRESS1=10.60.0.0"]) == 0;
            assert!(dropped == (*distribution == "opensuse" || plan.nics.len() == 3 && v6 == 0), "{what}");
            assert!(!text.contains("table"), "{what}");
        }
    }
}
