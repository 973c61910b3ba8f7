use super::*;
use crate::machine::fix::Edit;

fn set(section: Option<&str>, key: &str, value: &str) -> Edit {
    Edit::Set { section: section.map(str::to_owned), key: key.into(), value: value.into() }
}

#[test]
fn keys_are_set_where_they_belong() {
    let text = "[connection]\nid=lan\n\n[ipv4]\nmethod=auto\n\n[ipv6]\nmethod=auto\n";
    let once = edited(text, &[set(Some("ipv4"), "never-default", "true")]);
    assert_eq!(once, "[connection]\nid=lan\n\n[ipv4]\nmethod=auto\nnever-default=true\n\n[ipv6]\nmethod=auto\n");
    assert_eq!(edited(&once, &[set(Some("ipv4"), "never-default", "true")]), once);
    assert_eq!(edited(text, &[set(Some("ethernet"), "mtu", "1400")]), format!("{text}[ethernet]\nmtu=1400\n"));
    let shell = "BOOTPROTO=dhcp\nDEFROUTE=\"yes\"\n";
    assert_eq!(edited(shell, &[set(None, "DEFROUTE", "no")]), "BOOTPROTO=dhcp\nDEFROUTE=no\n");
}

#[test]
fn lines_are_removed_replaced_and_appended_once() {
    let text = "iface eth1 inet static\n    address 10.1.0.5/24\n    gateway   10.1.0.1\n";
    let cut = edited(text, &[Edit::Remove { line: "gateway 10.1.0.1".into() }]);
    assert_eq!(cut, "iface eth1 inet static\n    address 10.1.0.5/24\n");
    let append = [Edit::Append { text: "interface eth1\nnogateway".into() }];
    let once = edited("hostname\n", &append);
    assert_eq!(once, "hostname\ninterface eth1\nnogateway\n");
    assert_eq!(edited(&once, &append), once);
    let replaced = edited("mac: AA\n", &[Edit::Replace { from: "AA".into(), to: "bb".into() }]);
    assert_eq!(replaced, "mac: bb\n");
}

#[test]
fn files_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place { root: dir.path().to_owned() };
    std::fs::create_dir_all(place.path("/etc/dhcp")).unwrap();
    std::fs::write(place.path("/etc/dhcp/dhclient.conf"), "timeout 60;\n").unwrap();
    std::fs::set_permissions(place.path("/etc/dhcp/dhclient.conf"), PermissionsExt::from_mode(0o640)).unwrap();
    let actions = [
        Action::EditFile {
            path: "/etc/dhcp/dhclient.conf".into(),
            edits: vec![Edit::Append { text: "interface \"eth1\" { request subnet-mask; }".into() }],
            mode: 0o644,
        },
        Action::WriteFile { path: "/etc/netplan/90-x.yaml".into(), content: "network: {}\n".into(), mode: 0o600 },
        Action::Run { argv: vec!["false".into()] },
    ];
    let notes = apply(&place, &actions).unwrap();
    assert!(notes[0].contains("not run"), "{notes:?}");
    let journal = place.path("/var/lib/multihome/doctor-undo.json");
    assert_eq!(std::fs::metadata(&journal).unwrap().permissions().mode() & 0o777, 0o600);
    let (text, mode) = place.read("/etc/dhcp/dhclient.conf").unwrap().unwrap();
    assert_eq!((text.lines().count(), mode), (2, 0o640));
    assert_eq!(place.read("/etc/netplan/90-x.yaml").unwrap().unwrap().1, 0o600);
    // A second cure goes on in the same journal; one undo brings everything back.
    let more =
        [Action::WriteFile { path: "/etc/netplan/90-x.yaml".into(), content: "network: {a: 1}\n".into(), mode: 0o600 }];
    apply(&place, &more).unwrap();
    undo(&place).unwrap().unwrap();
    assert_eq!(place.read("/etc/dhcp/dhclient.conf").unwrap().unwrap(), ("timeout 60;\n".to_owned(), 0o640));
    assert_eq!(place.read("/etc/netplan/90-x.yaml").unwrap(), None);
    assert!(!journal.exists());
    assert_eq!(undo(&place).unwrap(), None);
}

#[test]
fn a_step_that_fails_takes_the_others_back() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place { root: dir.path().to_owned() };
    let write = |path: &str| Action::WriteFile { path: path.into(), content: "x\n".into(), mode: 0o644 };
    // The last one needs a directory where the first one made a file.
    let failed = apply(&place, &[write("/etc/one"), write("/etc/two"), write("/etc/one/three")]);
    assert!(failed.is_err());
    assert!(!place.path("/etc/one").exists() && !place.path("/etc/two").exists());
    assert_eq!(Journal::load(&place).unwrap(), None);
}

#[test]
fn the_journal_of_a_crash_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place { root: dir.path().to_owned() };
    std::fs::write(place.path("/a"), "new\n").unwrap();
    // As left behind by somebody who died after the journal and the first of two files were written.
    let entries = vec![
        Undo::File { path: "/a".into(), old: Some(("old\n".into(), 0o644)) },
        Undo::File { path: "/b".into(), old: None },
    ];
    Journal { entries }.save(&place).unwrap();
    undo(&place).unwrap().unwrap();
    assert_eq!(std::fs::read_to_string(place.path("/a")).unwrap(), "old\n");
}

#[test]
fn undoing_goes_on_after_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place { root: dir.path().to_owned() };
    std::fs::write(place.path("/a"), "new\n").unwrap();
    std::fs::write(place.path("/blocked"), "a file\n").unwrap();
    let file = |path: &str| Undo::File { path: path.into(), old: Some(("old\n".into(), 0o644)) };
    Journal { entries: vec![file("/a"), file("/blocked/b")] }.save(&place).unwrap();
    assert!(undo(&place).is_err());
    assert_eq!(std::fs::read_to_string(place.path("/a")).unwrap(), "old\n");
    assert!(Journal::load(&place).unwrap().is_some(), "what is left can be tried again");
}
