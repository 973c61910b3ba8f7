//! A guest's kernel in a network namespace of its own, with its NICs cabled to a second namespace that stands for the
//! networks: dnsmasq serves there by the rule that Multihome's own server follows. The guest's `/etc`, `/run` and `/var/lib`
//! are private, so that no tool touches this machine's.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use multihome_guest::state::{KernelState, expected};
use multihome_guest::{File, Guest};
use multihome_model::{Addressing, Family};
use multihome_plan::route::{FamilyPlan, Method, NicPlan, RoutePlan};

use super::kernel::observed;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// What the guest's devices are called before anybody names them.
pub fn kernel_name(index: usize) -> String {
    format!("ens{}", index + 3)
}

/// Whether a tool is here; says that the test is skipped where it is not.
pub fn have(test: &str, tools: &[&str]) -> bool {
    for tool in tools {
        let found = tool.starts_with('/') && Path::new(tool).exists()
            || ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|d| Path::new(d).join(tool).exists());
        if !found {
            println!("SKIPPED {test}: {tool} is not installed");
            return false;
        }
    }
    true
}

/// Whether namespaces can be made here; says that the test is skipped where they cannot.
pub fn can_have_namespaces(test: &str) -> bool {
    let root = Command::new("unshare").args(["--net", "--mount", "true"]).output().is_ok_and(|o| o.status.success());
    if !root {
        println!("SKIPPED {test}: needs root and namespaces");
    }
    root
}

/// Runs a program and returns what it wrote to standard output.
pub fn output(command: &mut Command) -> String {
    let o = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (out, err) = (String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr));
    assert!(o.status.success(), "{command:?}: {}\n{out}\n{err}", o.status);
    out.into_owned()
}

/// A guest and its networks.
pub struct Lab {
    pub plan: RoutePlan,
    guest: String,
    networks: String,
    dir: tempfile::TempDir,
    children: Vec<Child>,
    holder: u32,
}

impl Lab {
    /// Makes the namespaces and NICs, all down, and starts DHCP where the plan has it.
    pub fn new(plan: RoutePlan) -> Self {
        Self::with(plan, false)
    }

    /// The same on networks whose servers name a router to whoever asks, as servers do that know of no plan.
    pub fn with_routers_everywhere(plan: RoutePlan) -> Self {
        Self::with(plan, true)
    }

    fn with(plan: RoutePlan, routers: bool) -> Self {
        let id = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let (guest, networks) = (format!("mhg{id}"), format!("mhn{id}"));
        let dir = tempfile::tempdir().unwrap();
        for d in ["etc", "etc-work", "run", "var", "root"] {
            std::fs::create_dir(dir.path().join(d)).unwrap();
        }
        // Daemons that give up root must be able to look inside.
        output(Command::new("chmod").arg("755").arg(dir.path()));
        for ns in [&guest, &networks] {
            output(Command::new("ip").args(["netns", "add", ns]));
            output(Command::new("ip").args(["-n", ns, "link", "set", "lo", "up"]));
        }
        // Routers forward, or their neighbour advertisements say that they are none; and have their addresses at once.
        let sysctl =
            "cd /proc/sys/net/ipv6/conf; echo 1 >all/forwarding; echo 0 >default/accept_dad; echo 0 >all/accept_dad";
        output(Command::new("nsenter").arg(format!("--net=/run/netns/{networks}")).args(["--", "sh", "-ec", sysctl]));
        let mut lab = Lab { plan, guest, networks, dir, children: vec![], holder: 0 };
        for (i, nic) in lab.plan.nics.iter().enumerate() {
            lab.cable(i, nic);
        }
        lab.hold();
        lab.serve(routers);
        lab
    }

    fn cable(&self, index: usize, nic: &NicPlan) {
        let (peer, name, mac) = (format!("net{index}"), kernel_name(index), nic.mac.to_string());
        let ip = |args: &[&str]| output(Command::new("ip").args(args));
        ip(&[
            "-n",
            &self.networks,
            "link",
            "add",
            &peer,
            "mtu",
            "9216",
            "type",
            "veth",
            "peer",
            "name",
            &name,
            "netns",
            &self.guest,
        ]);
        ip(&["-n", &self.guest, "link", "set", &name, "address", &mac]);
        if nic.ipv6.as_ref().is_some_and(is_unknown) {
            let router = format!("{}1/64", unknown_prefix(index));
            ip(&["-n", &self.networks, "address", "add", &router, "dev", &peer, "nodad"]);
        }
        for f in [&nic.ipv4, &nic.ipv6].into_iter().flatten() {
            if let (Some(gateway), Some(bits)) = (f.gateway, prefix_bits(f)) {
                ip(&["-n", &self.networks, "address", "add", &format!("{gateway}/{bits}"), "dev", &peer, "nodad"]);
            }
        }
        ip(&["-n", &self.networks, "link", "set", &peer, "up"]);
    }

    /// dnsmasq, told what the plan says: the router to primaries only, specific routes whether the client asks or not.
    fn serve(&mut self, routers: bool) {
        let mut conf = String::from("port=0\nno-ping\nleasefile-ro\ndhcp-authoritative\nno-hosts\nno-resolv\n");
        let mut serves = false;
        for (i, nic) in self.plan.nics.iter().enumerate() {
            for f in [&nic.ipv4, &nic.ipv6].into_iter().flatten() {
                if matches!(f.method, Method::Server | Method::Guard) {
                    serves = true;
                    conf += &subnet_conf(i, nic, f, routers);
                }
            }
        }
        if !serves {
            return;
        }
        let path = self.dir.path().join("dnsmasq.conf");
        std::fs::write(&path, conf).unwrap();
        let mut c = Command::new("nsenter");
        c.arg(format!("--net=/run/netns/{}", self.networks));
        c.args(["--", "dnsmasq", "--keep-in-foreground", "--user=root", "--pid-file="]);
        c.arg(format!("--conf-file={}", path.display()));
        self.spawn(c, "dnsmasq");
    }

    fn spawn(&mut self, mut c: Command, log: &str) {
        let log = std::fs::File::create(self.dir.path().join(format!("{log}.log"))).unwrap();
        c.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.children.push(c.spawn().unwrap_or_else(|e| panic!("{c:?}: {e}")));
    }

    /// Makes the guest's own view of files, held by a process: `/etc` over the machine's, and its own `/run` and state.
    fn hold(&mut self) {
        let d = self.dir.path().display();
        let script = format!(
            "mount -t overlay overlay -o lowerdir=/etc,upperdir={d}/etc,workdir={d}/etc-work /etc
             mount --bind {d}/run /run
             for v in dhcp NetworkManager cloud; do
                 [ ! -d /var/lib/$v ] || {{ mkdir -p {d}/var/$v; mount --bind {d}/var/$v /var/lib/$v; }}
             done
             mount -t sysfs -o ro sysfs /sys
             touch {d}/held
             exec sleep 600"
        );
        let mut c = Command::new("nsenter");
        c.arg(format!("--net=/run/netns/{}", self.guest));
        c.args(["--", "unshare", "--mount", "--propagation", "private", "--", "sh", "-ec", &script]);
        self.spawn(c, "hold");
        let end = Instant::now() + Duration::from_secs(5);
        while !self.dir.path().join("held").exists() {
            assert!(Instant::now() < end, "no private files: {}", self.logs());
            std::thread::sleep(Duration::from_millis(10));
        }
        self.holder = self.children.last().unwrap().id();
    }

    /// A shell in the guest. A script that ends in `exec` makes the child what it became.
    fn shell(&self, script: &str) -> Command {
        let mut c = Command::new("nsenter");
        c.args(["--target", &self.holder.to_string(), "--mount", "--net", "--", "sh", "-ec"]);
        c.arg(format!("cd /; {script}"));
        c
    }

    /// Runs a script in the guest to its end.
    pub fn run(&self, script: &str) -> String {
        output(&mut self.shell(script))
    }

    /// Starts a program in the guest that stays. It is ended with the lab.
    pub fn start(&mut self, log: &str, command: &str) {
        let c = self.shell(&format!("exec {command}"));
        self.spawn(c, log);
    }

    /// NetworkManager with a message bus of its own.
    pub fn start_network_manager(&mut self) {
        let main = "[main]\nplugins=keyfile\nauth-polkit=false\nno-auto-default=*\ndhcp=internal\ndns=none\nrc-manager=unmanaged\n";
        let bus = "<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>\
                   <policy context='default'><allow user='*'/><allow own='*'/><allow send_type='method_call'/>\
                   <allow send_type='signal'/><allow receive_type='signal'/><allow receive_type='method_call'/>\
                   <allow receive_type='method_return'/><allow receive_type='error'/></policy></busconfig>";
        self.install(&[
            File { path: "/etc/NetworkManager/NetworkManager.conf".into(), mode: 0o644, content: main.into() },
            File { path: "/etc/dbus-1/lab.conf".into(), mode: 0o644, content: bus.into() },
        ]);
        self.run("mkdir -p /run/dbus");
        self.start("dbus", "dbus-daemon --config-file=/etc/dbus-1/lab.conf --nofork --nopidfile");
        let socket = self.dir.path().join("run/dbus/system_bus_socket");
        let end = Instant::now() + Duration::from_secs(5);
        while !socket.exists() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.start("NetworkManager", "NetworkManager --no-daemon --log-level=INFO");
    }

    /// A directory outside the guest's own.
    pub fn scratch(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Writes files into the guest's `/etc`.
    pub fn install(&self, files: &[File]) {
        for f in files {
            let Some(rest) = f.path.strip_prefix("/etc/") else { panic!("{} is not below /etc", f.path) };
            let path = self.dir.path().join("etc").join(rest);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &f.content).unwrap();
            output(Command::new("chmod").arg(format!("{:o}", f.mode)).arg(&path));
        }
    }

    /// Names devices as udev would by the `.link` files of a dialect.
    pub fn name_devices(&self, files: &[File]) {
        for f in files.iter().filter(|f| f.path.ends_with(".link")) {
            let value = |key: &str| f.content.lines().find_map(|l| l.strip_prefix(key)).unwrap();
            let nic = self.plan.nics.iter().position(|n| n.mac.to_string() == value("MACAddress=")).unwrap();
            let (old, new) = (kernel_name(nic), value("Name="));
            output(Command::new("ip").args(["-n", &self.guest, "link", "set", &old, "name", new]));
        }
    }

    /// What the guest's kernel holds now.
    pub fn observed(&self) -> KernelState {
        observed(&self.guest, &self.plan)
    }

    /// What keeps the kernel from the planned state, after some time to get there; a second more where nothing does.
    pub fn settle(&self, seconds: u64) -> Vec<String> {
        let want = expected(&self.plan);
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut left = want.differences(&self.observed());
        while !left.is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(200));
            left = want.differences(&self.observed());
        }
        if left.is_empty() {
            std::thread::sleep(Duration::from_secs(1));
            left = want.differences(&self.observed());
        }
        left
    }

    /// Waits until the kernel holds what the plan says, and still does a second later.
    pub fn expect(&self, dialect: &str, seconds: u64) {
        let left = self.settle(seconds);
        let seen = self.observed();
        for family in [Family::IPv4, Family::IPv6] {
            assert!(seen.default_routes(family).count() <= 1, "{dialect}: {:?}", seen.routes);
        }
        assert!(left.is_empty(), "{dialect}: {left:#?}\n{}", self.logs());
        for f in expected(&self.plan).foreign.iter().filter(|f| f.family == Family::IPv6) {
            let end = Instant::now() + Duration::from_secs(seconds);
            while self.observed().links[&f.nic].ipv6.is_empty() {
                assert!(Instant::now() < end, "{dialect}: {} follows no router\n{}", f.nic, self.logs());
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    }

    fn logs(&self) -> String {
        let mut out = String::new();
        for e in std::fs::read_dir(self.dir.path())
            .unwrap()
            .flatten()
            .filter(|e| e.path().extension().is_some_and(|x| x == "log"))
        {
            let text = std::fs::read_to_string(e.path()).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().filter(|l| !l.contains("state file")).take(40).collect();
            out += &format!("--- {}\n", e.file_name().to_string_lossy());
            tail.iter().rev().for_each(|l| out += &format!("{l}\n"));
        }
        out + &output(Command::new("ip").args(["-n", &self.guest, "address"]))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for c in self.children.iter_mut().rev() {
            let _ = Command::new("kill").arg(c.id().to_string()).output();
            let end = Instant::now() + Duration::from_secs(2);
            while Instant::now() < end && matches!(c.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = c.kill();
            let _ = c.wait();
        }
        for ns in [&self.guest, &self.networks] {
            // What tools left running in a namespace that is only ours: DHCP clients.
            if let Ok(o) = Command::new("ip").args(["netns", "pids", ns]).output() {
                for pid in String::from_utf8_lossy(&o.stdout).split_whitespace() {
                    let _ = Command::new("kill").args(["-9", pid]).output();
                }
            }
            let _ = Command::new("ip").args(["netns", "del", ns]).output();
        }
    }
}

/// The length of a subnet's prefix, which a plan tells by its address; the fixtures' other subnets have 24 bits.
fn prefix_bits(f: &FamilyPlan) -> Option<u8> {
    Some(f.address.map_or(if f.gateway?.is_ipv4() { 24 } else { 64 }, |a| a.prefix_len()))
}

/// A family that is there although the network says nothing of it.
fn is_unknown(f: &FamilyPlan) -> bool {
    f.method == Method::Guard && f.gateway.is_none() && f.address.is_none()
}

/// What the router there advertises: addresses are formed, and nobody answers DHCPv6.
fn unknown_prefix(index: usize) -> String {
    format!("fd00:77:{index}::")
}

fn subnet_conf(index: usize, nic: &NicPlan, f: &FamilyPlan, routers: bool) -> String {
    let (tag, mac) = (format!("n{index}"), nic.mac);
    if is_unknown(f) && f.addressing.is_some() {
        let lifetime = if f.default_route { 1800 } else { 0 };
        let range = format!("dhcp-range=set:{tag},{},ra-only,64,1h", unknown_prefix(index));
        return format!("interface=net{index}\nenable-ra\n{range}\nra-param=net{index},5,{lifetime}\n");
    }
    let Some(gateway) = f.gateway else { return String::new() };
    // A foreign server gives an address of its own choice.
    let address = f.address.map_or_else(|| last_octet(gateway, 77), |a| a.addr());
    let hop = |f: &FamilyPlan| -> Vec<String> { f.routes.iter().map(|r| format!("{},{}", r.to, r.via)).collect() };
    match gateway {
        IpAddr::V4(g) => {
            let network = last_octet(gateway, 0);
            let mut out = format!("interface=net{index}\ndhcp-range=set:{tag},{network},static,255.255.255.0,1h\n");
            out += &format!("dhcp-host={mac},{address}\ndhcp-option-force=tag:{tag},26,{}\n", nic.mtu);
            let mut routes = hop(f);
            if routers && !f.default_route {
                out += &format!("dhcp-option=tag:{tag},3,{g}\n");
            } else if f.default_route {
                routes.push(format!("0.0.0.0/0,{g}"));
                out += &format!("dhcp-option=tag:{tag},3,{g}\n");
                f.dns.iter().for_each(|d| out += &format!("dhcp-option=tag:{tag},6,{d}\n"));
            } else {
                out += &format!("dhcp-option=tag:{tag},3\ndhcp-option=tag:{tag},6\n");
            }
            if !routes.is_empty() {
                out += &format!("dhcp-option-force=tag:{tag},121,{}\n", routes.join(","));
            }
            out
        }
        IpAddr::V6(g) => {
            let network = last_octet(g.into(), 0);
            let mode = match f.addressing {
                Some(Addressing::Slaac) => "ra-only",
                Some(Addressing::Stateless) => "ra-stateless",
                _ => "static",
            };
            let mut out = format!("interface=net{index}\nenable-ra\ndhcp-range=set:{tag},{network},{mode},64,1h\n");
            // Router lifetime 0 on a secondary.
            out += &format!("ra-param=net{index},5,{}\n", if f.default_route || routers { 1800 } else { 0 });
            out + &if mode == "static" { format!("dhcp-host={mac},[{address}]\n") } else { String::new() }
        }
    }
}

fn last_octet(a: IpAddr, last: u8) -> IpAddr {
    match a {
        IpAddr::V4(a) => {
            let [x, y, z, _] = a.octets();
            [x, y, z, last].into()
        }
        IpAddr::V6(a) => {
            let mut o = a.octets();
            o[15] = last;
            o.into()
        }
    }
}

/// A guest of this plan that is known to call its devices what the kernel calls them.
pub fn guest_with_kernel_names(plan: &RoutePlan) -> Guest {
    let mut g = super::fixtures::guest(plan.clone());
    g.devices = plan.nics.iter().enumerate().map(|(i, n)| (n.name.clone(), kernel_name(i))).collect();
    g
}
