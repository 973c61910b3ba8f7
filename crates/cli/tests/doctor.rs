//! `multihome doctor --fix` by the real program, on a machine in a network namespace: what is applied
//! stays, what cuts the machine off is taken back, and a crash loses nothing. Needs root.
#![allow(clippy::unwrap_used)]

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use multihome_netlink::Netns;

/// A machine with eth0 (10.0.0.5/24) and eth1 (10.1.0.5/24), a router at .1 of both, and files below a directory.
struct Machine {
    m: Netns,
    r: Netns,
    root: tempfile::TempDir,
}

fn run(netns: &Netns, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let out = netns.run(|| Command::new(words[0]).args(&words[1..]).output()).unwrap().unwrap();
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

impl Machine {
    fn new(test: &str) -> Option<Self> {
        let made = Netns::anonymous().and_then(|m| Ok((m, Netns::anonymous()?)));
        let (m, r) = match made {
            Ok(both) => both,
            Err(e) => {
                println!("SKIPPED {test}: {e}");
                return None;
            }
        };
        let lab = Self { m, r, root: tempfile::tempdir().unwrap() };
        // Somebody in the router's namespace, for «ip link set … netns».
        let mut holder = lab.r.run(|| Command::new("sleep").arg("60").spawn()).unwrap().unwrap();
        lab.ip("ip link set lo up");
        for n in [0, 1] {
            lab.ip(&format!("ip link add eth{n} type veth peer name r{n}"));
            lab.ip(&format!("ip link set r{n} netns {}", holder.id()));
            lab.ip(&format!("ip link set eth{n} up"));
            lab.ip(&format!("ip addr add 10.{n}.0.5/24 dev eth{n}"));
            run(&lab.r, &format!("ip addr add 10.{n}.0.1/24 dev r{n}"));
            run(&lab.r, &format!("ip link set r{n} up"));
        }
        holder.kill().unwrap();
        holder.wait().unwrap();
        lab.ip("ip route add default via 10.0.0.1 dev eth0");
        std::fs::create_dir_all(lab.root.path().join("etc/network")).unwrap();
        Some(lab)
    }

    fn ip(&self, line: &str) -> String {
        run(&self.m, line)
    }

    fn interfaces(&self, text: &str) {
        std::fs::write(self.root.path().join("etc/network/interfaces"), text).unwrap();
    }

    fn command(&self, args: &str) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_multihome"));
        c.arg("doctor").args(args.split_whitespace()).arg("--root").arg(self.root.path());
        c.env("MULTIHOME_DATA_DIR", "/nonexistent").env_remove("KUBECONFIG");
        c.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        c
    }

    /// Runs the doctor to its end.
    fn doctor(&self, args: &str) -> (i32, String) {
        let mut command = self.command(args);
        text(&self.m.run(|| command.output()).unwrap().unwrap())
    }

    /// Starts the doctor.
    fn start(&self, args: &str) -> Child {
        let mut command = self.command(args);
        self.m.run(|| command.spawn()).unwrap().unwrap()
    }

    fn journal(&self) -> std::path::PathBuf {
        self.root.path().join("var/lib/multihome/doctor-undo.json")
    }

    fn routes(&self) -> String {
        self.ip("ip route show default")
    }
}

fn text(out: &Output) -> (i32, String) {
    let both = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    (out.status.code().unwrap_or(-1), both)
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(15);
    while !done() {
        assert!(Instant::now() < end, "{what} never came");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Two default routes: the configuration gives both NICs a gateway.
const TWO: &str = "iface eth0 inet static\n  address 10.0.0.5/24\n  gateway 10.0.0.1\n\
                   iface eth1 inet static\n  address 10.1.0.5/24\n  gateway 10.1.0.1\n";

#[test]
fn a_cure_stays_and_can_be_taken_back() {
    let Some(m) = Machine::new("a_cure_stays_and_can_be_taken_back") else { return };
    assert_eq!(m.doctor("").0, 0, "{}", m.doctor("").1);
    m.interfaces(TWO);
    m.ip("ip route add default via 10.1.0.1 dev eth1 metric 5");
    let (code, said) = m.doctor("");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("several-default-routes") && said.contains("asymmetric-replies"), "{said}");
    let (code, said) = m.doctor("--fix");
    assert_eq!(code, 2, "without a terminal and --yes nothing is done: {said}");
    let before = m.routes();
    let (code, said) = m.doctor("--fix --yes --watch 2");
    assert_eq!(code, 0, "{said}");
    assert_eq!(m.routes().trim(), "default via 10.0.0.1 dev eth0");
    let written = std::fs::read_to_string(m.root.path().join("etc/network/interfaces")).unwrap();
    assert!(written.contains("gateway 10.0.0.1") && !written.contains("gateway 10.1.0.1"), "{written}");
    assert!(m.journal().exists());
    assert_eq!(m.doctor("").0, 0);
    let (code, said) = m.doctor("--undo");
    assert_eq!(code, 0, "{said}");
    assert_eq!(m.routes(), before);
    assert_eq!(std::fs::read_to_string(m.root.path().join("etc/network/interfaces")).unwrap(), TWO);
    assert!(!m.journal().exists() && m.ip("ip rule").lines().count() == 3, "{}", m.ip("ip rule"));
}

/// The default route is to go by eth1, whose gateway is not there; the operator's session is cut off, too.
#[test]
fn a_cure_that_cuts_the_machine_off_is_taken_back() {
    let Some(m) = Machine::new("a_cure_that_cuts_the_machine_off_is_taken_back") else { return };
    let said = "iface eth0 inet static\n  address 10.0.0.5/24\n  up true 10.0.0.1\niface eth1 inet static\n  address 10.1.0.5/24\n  gateway 10.1.0.99\n";
    m.interfaces(said);
    let before = m.ip("ip route");
    let child = m.start("--fix --yes --watch 30");
    until("the cure", || m.routes().contains("10.1.0.99"));
    // SIGHUP, as when the terminal goes away.
    send(&child, "HUP");
    let (code, out) = text(&child.wait_with_output().unwrap());
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("everything was taken back"), "{out}");
    assert_eq!(m.ip("ip route"), before);
    assert!(!m.journal().exists());
    assert_eq!(std::fs::read_to_string(m.root.path().join("etc/network/interfaces")).unwrap(), said);
}

/// Killed while it watches: the journal brings everything back.
#[test]
fn a_crash_loses_nothing() {
    let Some(m) = Machine::new("a_crash_loses_nothing") else { return };
    m.interfaces(TWO);
    m.ip("ip route add default via 10.1.0.1 dev eth1 metric 5");
    let before = m.ip("ip route");
    let mut child = m.start("--fix --yes --watch 60");
    until("the cure", || !m.routes().contains("10.1.0.1"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(m.journal().exists());
    assert_eq!(m.doctor("--undo").0, 0);
    assert_eq!(m.ip("ip route"), before);
    assert_eq!(m.doctor("--undo").1, "there is nothing to take back\n");
}

/// Without root, without a server and without a kubeconfig: what the kernel shows is judged, and what
/// needs root is a note.
#[test]
fn nobody_can_look_too() {
    let Some(m) = Machine::new("nobody_can_look_too") else { return };
    m.ip("ip route append default via 10.1.0.1 dev eth1");
    // Nobody may not read a tempdir, nor the build's directory.
    let public = tempfile::tempdir_in("/tmp").unwrap();
    let program = public.path().join("multihome");
    std::fs::copy(env!("CARGO_BIN_EXE_multihome"), &program).unwrap();
    let mode = |p: &Path| std::fs::set_permissions(p, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    mode(public.path());
    let out = m.m.run(|| Command::new(&program).arg("doctor").uid(65534).gid(65534).output()).unwrap().unwrap();
    let (code, said) = text(&out);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("(equal-metrics)") && said.contains("packet sockets need root"), "{said}");
}

#[test]
fn an_observation_can_be_judged_elsewhere() {
    let Some(m) = Machine::new("an_observation_can_be_judged_elsewhere") else { return };
    m.ip("ip route append default via 10.1.0.1 dev eth1");
    let secret = "network: {wifis: {wlan0: {access-points: {x: {\n  password: hunter2\n}}}}}\n";
    std::fs::create_dir_all(m.root.path().join("etc/netplan")).unwrap();
    std::fs::write(m.root.path().join("etc/netplan/1.yaml"), secret).unwrap();
    let file = m.root.path().join("seen.json");
    let (_, here) = m.doctor(&format!("--save {}", file.display()));
    let saved = std::fs::read_to_string(&file).unwrap();
    assert!(!saved.contains("hunter2"), "{saved}");
    let out = Command::new(env!("CARGO_BIN_EXE_multihome")).args(["doctor", "--from"]).arg(&file).output().unwrap();
    let (code, there) = text(&out);
    assert_eq!(code, 1);
    assert!(here.contains("equal-metrics") && there.contains("equal-metrics"), "{here}\n{there}");
}

/// Sends a signal to a child by its number; it has not been waited for, so the number is its own.
fn send(child: &Child, signal: &str) {
    let done = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
    assert!(done.success());
}
