//! Networks beside the underlay: a host on a cable, or on a switch, into nodes.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;

use crate::{NEXT, Node, capture, run};

/// A host of its own on a cable into the node: somebody else's DHCP server and router.
#[derive(Debug)]
pub struct Lan {
    netns: String,
    dir: tempfile::TempDir,
    children: Vec<Child>,
}

impl Lan {
    /// Lays a cable from the node's device `device` to a new host with these addresses.
    ///
    /// # Panics
    /// If that fails.
    pub fn new(node: &Node, device: &str, addresses: &[&str]) -> Self {
        let netns = format!("mhlan-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        run("ip", &["netns", "add", &netns]);
        run(
            "ip",
            &["-n", node.netns(), "link", "add", device, "type", "veth", "peer", "name", "wire", "netns", &netns],
        );
        run("ip", &["-n", node.netns(), "link", "set", device, "up"]);
        Self::with_wire(netns, addresses)
    }

    /// Makes a host with these addresses on a switch of its own, and lays a cable from it to the device `device` of each node.
    ///
    /// # Panics
    /// If that fails.
    pub fn between(nodes: &[&Node], device: &str, addresses: &[&str]) -> Self {
        let netns = format!("mhlan-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        run("ip", &["netns", "add", &netns]);
        let inside = ["-n", &netns];
        run("ip", &[&inside[..], &["link", "add", "wire", "type", "bridge", "mcast_snooping", "0"]].concat());
        for (i, node) in nodes.iter().enumerate() {
            let port = format!("port{}", i + 1);
            let pair = ["link", "add", device, "type", "veth", "peer", "name", &port, "netns", &netns];
            run("ip", &[&["-n", node.netns()][..], &pair].concat());
            run("ip", &["-n", node.netns(), "link", "set", device, "up"]);
            run("ip", &[&inside[..], &["link", "set", &port, "master", "wire", "up"]].concat());
        }
        Self::with_wire(netns, addresses)
    }

    /// Lays another cable, from the node's own network to the host: `device` on both sides, with these addresses.
    ///
    /// # Panics
    /// If that fails.
    pub fn manage(&self, node: &Node, device: &str, address: &str, of_host: &str) {
        let (inside, far) = (["-n", node.netns()], ["-n", &self.netns]);
        let pair = ["link", "add", device, "type", "veth", "peer", "name", device, "netns", &self.netns];
        run("ip", &[&inside[..], &pair].concat());
        for (end, address) in [(inside, address), (far, of_host)] {
            run("ip", &[&end[..], &["addr", "add", address, "dev", device]].concat());
            run("ip", &[&end[..], &["link", "set", device, "up"]].concat());
        }
    }

    /// A host whose device `wire` is there.
    fn with_wire(netns: String, addresses: &[&str]) -> Self {
        run("ip", &["-n", &netns, "link", "set", "lo", "up"]);
        run("ip", &["-n", &netns, "link", "set", "wire", "up"]);
        for a in addresses {
            // Duplicate address detection would keep it from use for a second.
            let at_once: &[&str] = if a.contains(':') { &["nodad"] } else { &[] };
            run("ip", &[&["-n", &netns, "addr", "add", a, "dev", "wire"], at_once].concat());
        }
        let dir = tempfile::Builder::new().prefix("mhlan").tempdir().expect("a temporary directory");
        Self { netns, dir, children: vec![] }
    }

    /// Captures what the host hears for as long as `work` takes; one line of tcpdump per frame.
    ///
    /// # Panics
    /// If tcpdump cannot be run.
    pub fn capture(&self, expression: &str, work: impl FnOnce()) -> String {
        capture(&self.netns, "wire", &self.dir().join("capture"), expression, work)
    }

    /// The MACs that a node's port of the switch hears frames from for as long as `work` takes; nodes are counted from 1.
    ///
    /// # Panics
    /// If tcpdump cannot be run.
    pub fn sources(&self, node: usize, work: impl FnOnce()) -> BTreeSet<String> {
        let port = format!("port{node}");
        let text = capture(&self.netns, &port, &self.dir().join(&port), "inbound", work);
        // A frame's line says «TIME SOURCE > DESTINATION»; others show what is in it.
        let source = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            let source = words.next()?;
            (words.next()? == ">").then(|| source.to_owned())
        };
        text.lines().filter_map(source).collect()
    }

    /// Its directory for files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A command that runs on the host.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut c = Command::new("nsenter");
        c.arg(format!("--net=/run/netns/{}", self.netns)).arg("--").arg(program).args(args);
        c
    }

    /// Starts a server on the host; it ends with it.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn serve(&mut self, program: &str, args: &[&str]) {
        let log = std::fs::File::create(self.dir().join(format!("{}.log", self.children.len()))).expect("a log");
        let again = log.try_clone().expect("a second handle");
        let child = self.command(program, args).stdin(Stdio::null()).stdout(log).stderr(again).spawn();
        self.children.push(child.expect("the server starts"));
    }

    /// Starts a DHCP server, and with options for that a router, that knows nothing of the platform: dnsmasq on the host's wire.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn serve_dhcp(&mut self, options: &[&str]) {
        let leases = format!("--dhcp-leasefile={}", self.dir().join("leases").display());
        let all = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--interface=wire",
            "--bind-interfaces",
            "--log-facility=-",
            &leases,
            "--pid-file=",
            "--dhcp-authoritative",
        ];
        self.serve("dnsmasq", &[&all[..], options].concat());
    }

    /// What its servers said.
    pub fn log(&self) -> String {
        let read = |i| std::fs::read_to_string(self.dir().join(format!("{i}.log"))).unwrap_or_default();
        (0..self.children.len()).map(read).collect()
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of the host's servers:\n{}", self.log());
        }
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = Command::new("ip").args(["netns", "del", &self.netns]).status();
    }
}
