//! What each dialect says of the same plans.

use insta::assert_snapshot;
use multihome_guest::{Dialect, Guest, render};

#[path = "support/fixtures.rs"]
#[allow(dead_code)]
mod fixtures;
use fixtures::{dual, foreign, formed, guest, three};

/// All files, one after the other; the parts of vendor data are shown once, in the test below.
fn shown(dialect: Dialect, guest: &Guest) -> String {
    let files = render(dialect, guest);
    let kept = files.iter().filter(|f| f.path != "vendor-data");
    kept.map(|f| format!("# {} {:04o}\n{}\n", f.path, f.mode, f.content)).collect()
}

#[test]
fn every_dialect_of_every_plan() {
    for dialect in Dialect::ALL {
        assert_snapshot!(format!("{dialect}-three"), shown(dialect, &guest(three())));
        assert_snapshot!(format!("{dialect}-dual"), shown(dialect, &guest(dual())));
        assert_snapshot!(format!("{dialect}-foreign"), shown(dialect, &guest(foreign())));
        assert_snapshot!(format!("{dialect}-formed"), shown(dialect, &guest(formed())));
    }
}

#[test]
fn a_guest_whose_device_names_are_known_is_not_renamed() {
    let mut g = guest(dual());
    g.devices = [("web-a", "ens3"), ("web-b", "ens4")].map(|(a, b)| (a.to_owned(), b.to_owned())).into();
    for dialect in [Dialect::IfcfgRhel, Dialect::IfcfgSuse, Dialect::Ifupdown] {
        let files = render(dialect, &g);
        assert!(files.iter().all(|f| !f.path.ends_with(".link")), "{dialect}");
        assert!(
            files.iter().any(|f| f.path.contains("ens3") || f.content.contains("iface ens3 inet static")),
            "{dialect}"
        );
    }
}

#[test]
fn a_network_config_of_the_users_own_is_handed_on_alone() {
    let mut g = guest(three());
    g.network_config = Some("version: 2\n".into());
    let files = multihome_guest::seed::files(&g);
    let content = |path: &str| files.iter().find(|f| f.path == path).map(|f| f.content.as_str());
    assert_eq!(content("network-config"), Some("version: 2\n"));
    assert_eq!(content("vendor-data"), Some("#cloud-config\n{}\n"));
}

#[test]
fn names_of_dialects_are_read_back() {
    for d in Dialect::ALL {
        assert_eq!(d.name().parse(), Ok(d));
    }
    let e = "systemd".parse::<Dialect>().unwrap_err().to_string();
    assert!(e.starts_with("dialect \"systemd\" is not known: use cloud-init-v1, "), "{e}");
}

#[test]
fn a_guest_without_nics_gets_files_that_say_so() {
    for d in Dialect::ALL {
        render(d, &guest(multihome_plan::route::RoutePlan { nics: vec![] }));
    }
}
