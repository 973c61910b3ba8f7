//! A machine in a network namespace of its own, with a router beside it and its files below a directory.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use multihome_doctor::Severity;
use multihome_doctor::apply::{Place, apply, undo};
use multihome_doctor::collect::{Look, collect};
use multihome_doctor::machine::fix::Action;
use multihome_doctor::machine::{Diagnosis, Options, examine_machine};
use multihome_netlink::{Netns, sysctl};

/// The machine `m` and its router `r`, which has a bridge per network: `br0` with 10.0.0.1/24, `br1`
/// with 10.1.0.1/24. Both are gone when it is dropped.
pub struct Machine {
    m: Netns,
    r: Netns,
    root: tempfile::TempDir,
    children: RefCell<Vec<(u32, Child)>>,
}

/// What a DHCP client's script does here: address and routes, and nothing to the host's files.
/// As Debian's script of dhclient does, it sources the hooks first.
const SCRIPT: &str = r#"#!/bin/sh
for hook in "$(dirname "$0")"/etc/dhcp/dhclient-enter-hooks.d/*; do [ ! -f "$hook" ] || . "$hook"; done
dev=${interface}; addr=${ip:-$new_ip_address}; gw=${router:-$new_routers}
case "${1:-$reason}" in
bound|renew|BOUND|RENEW|REBIND|REBOOT)
    ip addr replace "$addr/24" dev "$dev"
    for g in $gw; do ip route replace default via "$g" dev "$dev" proto dhcp metric "${METRIC:-0}"; break; done
    : >"$(dirname "$0")/bound.$dev" ;;
PREINIT|deconfig) ip link set "$dev" up ;;
esac
exit 0
"#;

fn run(netns: &Netns, program: &str, args: &[&str]) -> (bool, String) {
    let out = netns.run(|| Command::new(program).args(args).output()).unwrap();
    let out = out.unwrap_or_else(|e| panic!("{program}: {e}"));
    (out.status.success(), format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)))
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

impl Machine {
    /// A machine without NICs; none, and a line that says why, where namespaces cannot be made.
    pub fn new(test: &str) -> Option<Self> {
        let made = Netns::anonymous().and_then(|m| Ok((m, Netns::anonymous()?)));
        let (m, r) = match made {
            Ok(both) => both,
            Err(e) => {
                println!("SKIPPED {test}: {e}");
                return None;
            }
        };
        let lab = Self { m, r, root: tempfile::tempdir().unwrap(), children: RefCell::default() };
        lab.ip("link set lo up");
        lab.router("link set lo up");
        for n in [0, 1] {
            lab.router(&format!("link add br{n} type bridge"));
            lab.router(&format!("addr add 10.{n}.0.1/24 dev br{n}"));
            lab.router(&format!("link set br{n} up"));
        }
        lab.r.run(|| sysctl::set("net/ipv4/ip_forward", "1").unwrap()).unwrap();
        // No duplicate detection of link-local addresses to wait for.
        lab.m.run(|| sysctl::set("net/ipv6/conf/default/accept_dad", "0").unwrap()).unwrap();
        lab.file("/dhcp-script", SCRIPT);
        Command::new("chmod").args(["755", &lab.real("/dhcp-script")]).status().unwrap();
        Some(lab)
    }

    fn real(&self, path: &str) -> String {
        self.path(path).display().to_string()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }

    /// A NIC on a network, up.
    pub fn nic(&self, name: &str, network: u8) -> &Self {
        let peer = format!("p-{name}");
        self.ip(&format!("link add {name} type veth peer name {peer}"));
        // The peer goes to the router's namespace by way of a process there.
        let mut holder = self.r.run(|| Command::new("sleep").arg("60").spawn()).unwrap().unwrap();
        self.ip(&format!("link set {peer} netns {}", holder.id()));
        holder.kill().unwrap();
        holder.wait().unwrap();
        self.router(&format!("link set {peer} master br{network} up"));
        self.ip(&format!("link set {name} up"));
        self.until("a carrier", || self.ip(&format!("link show {name}")).contains("state UP"));
        self
    }

    /// Plugs a NIC into another network.
    pub fn move_to(&self, name: &str, network: u8) {
        self.router(&format!("link set p-{name} master br{network}"));
    }

    /// Gives a NIC an address.
    pub fn address(&self, name: &str, net: &str) -> &Self {
        let nodad = if net.contains(':') { " nodad" } else { "" };
        self.ip(&format!("addr add {net} dev {name}{nodad}"));
        self
    }

    /// Runs `ip` in the machine.
    #[track_caller]
    pub fn ip(&self, line: &str) -> String {
        let (ok, text) = run(&self.m, "ip", &words(line));
        assert!(ok, "ip {line}: {text}");
        text
    }

    /// Runs `ip` in the machine; whether it worked.
    pub fn try_ip(&self, line: &str) -> bool {
        run(&self.m, "ip", &words(line)).0
    }

    /// Runs `ip` in the router.
    #[track_caller]
    pub fn router(&self, line: &str) -> String {
        let (ok, text) = run(&self.r, "ip", &words(line));
        assert!(ok, "ip {line} in the router: {text}");
        text
    }

    /// Sets a kernel parameter of the machine.
    pub fn sysctl(&self, key: &str, value: &str) {
        self.m.run(|| sysctl::set(key, value).unwrap()).unwrap();
    }

    /// Sets a kernel parameter of the router.
    pub fn router_sysctl(&self, key: &str, value: &str) {
        self.r.run(|| sysctl::set(key, value).unwrap()).unwrap();
    }

    /// Whether the machine answers the router's echo requests, sent from one of its addresses.
    pub fn router_ping(&self, from: &str, to: &str) -> bool {
        run(&self.r, "ping", &["-n", "-c", "2", "-i", "0.2", "-W", "1", "-I", from, to]).0
    }

    /// Writes a file of the machine.
    pub fn file(&self, path: &str, text: &str) {
        let real = self.path(path);
        std::fs::create_dir_all(real.parent().unwrap_or(Path::new("/"))).unwrap();
        std::fs::write(real, text).unwrap();
    }

    /// Reads a file of the machine.
    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap()
    }

    fn start(&self, netns: &Netns, program: &str, args: &[&str]) -> u32 {
        let child = netns
            .run(|| {
                Command::new(program)
                    .args(args)
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
            })
            .unwrap()
            .unwrap_or_else(|e| panic!("{program}: {e}"));
        let pid = child.id();
        self.children.borrow_mut().push((pid, child));
        pid
    }

    /// Ends a process that this lab started.
    pub fn end(&self, pid: u32) {
        for (_, child) in self.children.borrow_mut().iter_mut().filter(|(p, _)| *p == pid) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// A DHCP server on a network, with options as dnsmasq takes them.
    pub fn dhcp_server(&self, network: u8, options: &[&str]) {
        let range = format!("--dhcp-range=10.{network}.0.50,10.{network}.0.90,255.255.255.0,1h");
        let interface = format!("--interface=br{network}");
        let leases = format!("--dhcp-leasefile={}", self.real("/server.leases"));
        let options: Vec<String> = options.iter().map(|o| format!("--dhcp-option-force={o}")).collect();
        let mut args =
            vec!["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--bind-interfaces", "--no-ping"];
        args.extend(["--pid-file=", "--user=root", &range, &interface, &leases]);
        args.extend(options.iter().map(String::as_str));
        self.start(&self.r, "dnsmasq", &args);
        std::thread::sleep(Duration::from_millis(300));
    }

    /// Waits until the client's script has done all that a lease asks for, not its address alone.
    fn leased(&self, nic: &str) {
        self.until("a lease", || self.path(&format!("/bound.{nic}")).exists());
    }

    /// busybox's client on a NIC, with its address.
    pub fn udhcpc(&self, nic: &str) -> u32 {
        let pid = self.udhcpc_without_answer(nic);
        self.leased(nic);
        pid
    }

    /// busybox's client on a NIC.
    pub fn udhcpc_without_answer(&self, nic: &str) -> u32 {
        let script = self.real("/dhcp-script");
        let _ = std::fs::remove_file(self.path(&format!("/bound.{nic}")));
        self.start(&self.m, "udhcpc", &["-f", "-i", nic, "-s", &script, "-t", "3", "-T", "1", "-A", "2"])
    }

    /// ISC's client on a NIC, with its address and a lease file where the doctor looks for it.
    pub fn dhclient(&self, nic: &str) -> u32 {
        let lease = format!("/var/lib/dhcp/dhclient.{nic}.leases");
        self.file(&lease, "");
        let conf = "/etc/dhcp/dhclient.conf";
        if !self.path(conf).exists() {
            self.file(conf, "request subnet-mask, routers, interface-mtu, domain-name-servers;\ntimeout 10;\n");
        }
        let args = [
            "-4".to_owned(),
            "-d".into(),
            "-cf".into(),
            self.real(conf),
            "-lf".into(),
            self.real(&lease),
            "-pf".into(),
            self.real(&format!("/dhclient.{nic}.pid")),
            "-sf".into(),
            self.real("/dhcp-script"),
            nic.into(),
        ];
        let _ = std::fs::remove_file(self.path(&format!("/bound.{nic}")));
        let pid = self.start(&self.m, "dhclient", &args.each_ref().map(String::as_str));
        self.leased(nic);
        pid
    }

    /// systemd-networkd with its configuration and state below the machine's root; none where it is not installed.
    pub fn networkd(&self) -> Option<u32> {
        let program = ["/lib/systemd/systemd-networkd", "/usr/lib/systemd/systemd-networkd"]
            .into_iter()
            .find(|p| Path::new(p).exists())?;
        for dir in ["/etc/systemd/network", "/run/systemd/netif"] {
            std::fs::create_dir_all(self.path(dir)).unwrap();
            std::fs::create_dir_all(dir).ok()?;
        }
        // The root is a temporary directory that only its owner may enter, and networkd gives up root.
        for dir in ["", "/run", "/run/systemd", "/run/systemd/netif", "/etc", "/etc/systemd", "/etc/systemd/network"] {
            let mode = if dir == "/run/systemd/netif" { "777" } else { "755" };
            Command::new("chmod").args([mode, &self.real(dir)]).status().unwrap();
        }
        // sysfs of this namespace, read-only: networkd then waits for no udev.
        let script = format!(
            "mount -t sysfs -o ro sysfs /sys && mount --bind {0}/etc/systemd/network /etc/systemd/network && \
             mount --bind {0}/run/systemd/netif /run/systemd/netif && exec {program}",
            self.root.path().display()
        );
        Some(self.start(&self.m, "unshare", &["--mount", "sh", "-c", &script]))
    }

    /// Another host on network 0 with the MAC of a NIC, that asks for an address all the time.
    pub fn twin(&self, of: &str, net: &str) -> u32 {
        let shown = self.ip(&format!("link show {of}"));
        let mac = shown.split("link/ether ").nth(1).and_then(|s| s.split(' ').next()).unwrap().to_owned();
        self.router("link add twin type veth peer name p-twin");
        self.router(&format!("link set twin address {mac}"));
        self.router("link set p-twin master br0 up");
        self.router("link set twin up");
        self.router(&format!("addr add {net} dev twin noprefixroute"));
        self.router("route add 10.0.0.98/32 dev twin");
        self.start(&self.r, "ping", &["-n", "-c", "60", "-i", "0.2", "-I", "twin", "10.0.0.98"])
    }

    /// Waits, 15 s at most.
    #[track_caller]
    pub fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(15);
        while !done() {
            assert!(Instant::now() < end, "{what} never came");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn place(&self) -> Place {
        Place { root: self.root.path().to_owned() }
    }

    /// Looks at the machine and judges it.
    pub fn examine(&self, options: &Options) -> Vec<Diagnosis> {
        let look = Look { root: self.root.path().to_owned(), probe: true };
        let seen = self.m.run(|| collect(&look)).unwrap().unwrap();
        assert!(!seen.probes.is_empty(), "nothing was asked: {:?}", seen.notes);
        examine_machine(&seen, options)
    }

    /// The rules that fire, remarks left out.
    pub fn rules(&self) -> Vec<&'static str> {
        let bad = |d: &Diagnosis| d.finding.severity != Severity::Info;
        self.examine(&Options::default()).iter().filter(|d| bad(d)).map(|d| d.finding.rule).collect()
    }

    /// Nothing is said, not even a remark.
    #[track_caller]
    pub fn silent(&self) {
        let found = self.examine(&Options::default());
        assert!(found.is_empty(), "{found:#?}");
    }

    /// Applies the cure of a finding that is there.
    #[track_caller]
    pub fn cure(&self, rule: &str) {
        let found = self.examine(&Options::default());
        let d = found.iter().find(|d| d.finding.rule == rule).unwrap_or_else(|| panic!("no {rule}: {found:#?}"));
        assert!(!d.actions.is_empty(), "{d:#?}");
        self.apply(&d.actions);
    }

    /// Applies steps.
    #[track_caller]
    pub fn apply(&self, actions: &[Action]) {
        let place = self.place();
        self.m.run(|| apply(&place, actions)).unwrap().unwrap();
    }

    /// Takes back all cures.
    #[track_caller]
    pub fn undo(&self) {
        let place = self.place();
        let said = self.m.run(|| undo(&place)).unwrap().unwrap();
        assert!(said.is_some_and(|s| !s.is_empty()));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for (_, child) in self.children.borrow_mut().iter_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
