//! For tests only: a node in a network namespace of its own, with real guests in QEMU.
//!
//! `multihome serve` runs as a process inside the namespace, and everything that a user would do goes through the
//! command line there. Nothing of the machine's own network is touched. Only processes that were started here are ended.

mod cluster;
mod kubernetes;
mod lan;
mod manifest;
pub mod vswitch;
pub mod wire;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub use cluster::{Cluster, FAR};
pub use kubernetes::Kubernetes;
pub use lan::Lan;
pub use manifest::{dual_stack, network, vm};
use serde_json::Value;
use vswitch::Vswitch;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Why tests of this tier cannot run here; `None` if they can.
pub fn cannot_run() -> Option<String> {
    let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.starts_with(b"0\n"));
    if !root {
        return Some("it makes network namespaces and needs root".into());
    }
    for program in ["ip", "nft", "qemu-system-x86_64"] {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
        if !found.is_ok_and(|o| o.status.success()) {
            return Some(format!("{program} is not installed: scripts/setup test installs it"));
        }
    }
    None
}

/// Says that a test is skipped, in the form that the closing summary counts.
pub fn skipped(name: &str) -> bool {
    match cannot_run() {
        Some(why) => {
            println!("SKIPPED {name}: {why}");
            true
        }
        None => false,
    }
}

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The demo guest's kernel and initramfs, built once.
pub fn guest() -> &'static (PathBuf, PathBuf) {
    static GUEST: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    GUEST.get_or_init(|| {
        let root = repository();
        let dir = root.join("target/guest");
        let cache = std::env::var_os("MULTIHOME_CACHE").map_or_else(|| root.join("target/cache"), PathBuf::from);
        let status = Command::new(root.join("scripts/guest/build")).arg(&dir).env("MULTIHOME_CACHE", cache).status();
        assert!(status.is_ok_and(|s| s.success()), "the guest could not be built");
        (dir.join("vmlinuz"), dir.join("initrd"))
    })
}

/// The directory of a Debian guest with cloud-init: `vmlinuz`, `initrd` and `disk.qcow2`; built once per recipe.
///
/// # Errors
/// Why it cannot be built here.
pub fn debian() -> Result<PathBuf, String> {
    for program in ["mmdebstrap", "mke2fs", "qemu-img"] {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
        if !found.is_ok_and(|o| o.status.success()) {
            return Err(format!("{program} is not installed: scripts/setup test installs it"));
        }
    }
    let root = repository();
    let cache = std::env::var_os("MULTIHOME_CACHE").map_or_else(|| root.join("target/cache"), PathBuf::from);
    let built = Command::new(root.join("scripts/guest/debian")).env("MULTIHOME_CACHE", cache).output();
    let built = built.map_err(|e| e.to_string())?;
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Ok(PathBuf::from(String::from_utf8_lossy(&built.stdout).trim()))
}

/// Waits for a condition, looking ten times a second.
///
/// # Panics
/// If it does not come true in time.
pub fn eventually<T>(what: &str, seconds: u64, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(v) = probe() {
            return v;
        }
        assert!(start.elapsed() < Duration::from_secs(seconds), "did not happen within {seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A node in a network namespace of its own.
#[derive(Debug)]
pub struct Node {
    binary: PathBuf,
    netns: String,
    dir: tempfile::TempDir,
    server: Option<Child>,
    /// What the program is started with.
    role: Vec<String>,
    /// How its commands reach the API, if not by what the server wrote.
    kubeconfig: Option<PathBuf>,
}

impl Node {
    /// Makes the namespace and starts the server, with the demo guest as image `guest`.
    ///
    /// # Panics
    /// If anything of that fails.
    pub fn start(binary: &str) -> Self {
        let mut node = Self::new(binary, &["serve", "--node-name", "node1"]);
        node.serve();
        node.import_guest();
        node
    }

    /// Makes the namespace with an Open vSwitch of its own, and starts the server, whose data plane that is.
    ///
    /// # Errors
    /// Why there is no Open vSwitch.
    ///
    /// # Panics
    /// If anything else of that fails.
    pub fn on_open_vswitch(binary: &str) -> Result<(Self, Vswitch), String> {
        let mut node = Self::new(binary, &["serve", "--node-name", "node1"]);
        let netns = format!("--net=/run/netns/{}", node.netns);
        let spawn = move |c: &mut Command| {
            let mut inside = Command::new("nsenter");
            inside.arg(&netns).arg("--").arg(c.get_program()).args(c.get_args());
            inside.envs(c.get_envs().filter_map(|(key, value)| Some((key, value?))));
            inside.stdout(Stdio::null()).stderr(Stdio::null()).spawn()
        };
        let vswitch = Vswitch::start(Box::new(spawn))?;
        let database = vswitch.database().display().to_string();
        node.role.truncate(3);
        node.role.extend(["--dataplane", "ovs", "--ovs-database", database.as_str()].map(str::to_owned));
        node.serve();
        node.import_guest();
        Ok((node, vswitch))
    }

    /// Makes the namespace, and starts nothing yet; `role` is what the program will be started with.
    ///
    /// # Panics
    /// If it cannot be made.
    fn new(binary: &str, role: &[&str]) -> Self {
        let netns = format!("mhtest-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        run("ip", &["netns", "add", &netns]);
        run("ip", &["-n", &netns, "link", "set", "lo", "up"]);
        let dir = tempfile::Builder::new().prefix("mhtest").tempdir().expect("a temporary directory");
        let kernel = ["--dataplane", "kernel"].map(str::to_owned);
        let role = role.iter().map(|s| (*s).to_owned()).chain(kernel).collect();
        Self { binary: binary.into(), netns, dir, server: None, role, kubeconfig: None }
    }

    /// Imports the demo guest as image `guest`.
    fn import_guest(&self) {
        let (kernel, initramfs) = guest();
        let text = |p: &PathBuf| p.to_string_lossy().into_owned();
        self.cli(&["image", "import", "guest", "--kernel", &text(kernel), "--initramfs", &text(initramfs)]);
    }

    /// Where the server keeps its data.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The namespace's name.
    pub fn netns(&self) -> &str {
        &self.netns
    }

    /// Starts the server, and waits until it answers.
    ///
    /// # Panics
    /// If it does not.
    pub fn serve(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("serve.log"))
            .expect("the log can be written");
        let role: Vec<&str> = self.role.iter().map(String::as_str).collect();
        let mut command = self.command(&role);
        let again = log.try_clone().expect("a second handle");
        command.stdout(log).stderr(again).stdin(Stdio::null());
        self.server = Some(command.spawn().expect("the server starts"));
        eventually("the server answers", 60, || {
            let out = self.try_cli(&["get", "ns", "-o", "name"]);
            out.status.success().then_some(())
        });
    }

    /// The server's process id.
    pub fn server_pid(&self) -> u32 {
        self.server.as_ref().map_or(0, Child::id)
    }

    /// Ends the server with SIGKILL. VMs run on.
    pub fn kill_server(&mut self) {
        if let Some(mut child) = self.server.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Makes a node that is no part of anything yet: join it to an API with [`Node::join`].
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn alone(binary: &str) -> Self {
        Self::new(binary, &["agent", "--node-name", "node1"])
    }

    /// Starts the node's agent for the API of a kubeconfig, with the demo guest as image `guest`.
    ///
    /// # Panics
    /// If it does not start.
    pub fn join(&mut self, kubeconfig: PathBuf) {
        self.kubeconfig = Some(kubeconfig);
        self.serve();
        self.import_guest();
    }

    /// Starts a command of the program that goes on beside the server, with a kubeconfig; what it says goes into the server's log.
    ///
    /// # Panics
    /// If it does not start.
    pub fn beside(&self, kubeconfig: &Path, args: &[&str]) -> Child {
        let path = self.dir.path().join("serve.log");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(path).expect("the log can be written");
        let again = log.try_clone().expect("a second handle");
        let mut command = self.command(args);
        command.env("KUBECONFIG", kubeconfig).stdout(log).stderr(again).stdin(Stdio::null());
        command.spawn().expect("the program starts")
    }

    fn command(&self, args: &[&str]) -> Command {
        // Not «ip netns exec»: that makes a mount namespace of its own, in which namespaces that the server makes would
        // be lost to the next one. nsenter replaces itself, so that the child's pid is the program's.
        let mut c = Command::new("nsenter");
        c.arg(format!("--net=/run/netns/{}", self.netns)).arg("--").arg(&self.binary).args(args);
        c.env("MULTIHOME_DATA_DIR", self.data_dir()).env_remove("KUBECONFIG");
        if let Some(path) = &self.kubeconfig {
            c.env("KUBECONFIG", path);
        }
        c.env("MULTIHOME_NETNS_PREFIX", format!("{}-", self.netns));
        c
    }

    /// Runs a command of the program, and returns its outcome.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn try_cli(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the program runs")
    }

    /// Runs a command of the program that is to succeed, and returns what it printed.
    ///
    /// # Panics
    /// If it fails.
    pub fn cli(&self, args: &[&str]) -> String {
        let out = self.try_cli(args);
        let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "multihome {args:?} failed:\n{stdout}{stderr}");
        stdout.into_owned()
    }

    /// Applies a manifest.
    ///
    /// # Panics
    /// If it is not taken whole.
    pub fn apply(&self, manifest: &str) {
        let out = self.try_apply(manifest);
        assert!(out.status.success(), "{manifest}\n{}", String::from_utf8_lossy(&out.stderr));
    }

    /// Applies a manifest, and returns the outcome.
    ///
    /// # Panics
    /// If the program cannot be started.
    pub fn try_apply(&self, manifest: &str) -> Output {
        let path = self.dir.path().join(format!("{}.yaml", NEXT.fetch_add(1, Ordering::SeqCst)));
        std::fs::write(&path, manifest).expect("the manifest can be written");
        self.try_cli(&["apply", "-f", &path.to_string_lossy()])
    }

    /// One object as JSON; `Null` if it does not exist.
    pub fn get(&self, kind: &str, name: &str) -> Value {
        let out = self.try_cli(&["get", kind, name, "-o", "json"]);
        serde_json::from_slice(&out.stdout).unwrap_or(Value::Null)
    }

    /// Waits until a NIC is Ready, and returns it.
    ///
    /// # Panics
    /// If it does not become so within a minute.
    pub fn ready(&self, nic: &str) -> Value {
        let start = Instant::now();
        loop {
            let v = self.get("nic", nic);
            let conditions = v.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
            if conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True") {
                return v;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "NIC {nic} did not become ready: {conditions:#?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Runs a shell command in a guest; whether it succeeded, and what it printed.
    pub fn guest_sh(&self, vm: &str, script: &str) -> (bool, String) {
        let out = self.try_cli(&["vm", "exec", vm, "--", "/bin/sh", "-c", script]);
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// The default routes that a guest has, as its own `ip route` shows them.
    pub fn default_routes(&self, vm: &str) -> Vec<String> {
        let (_, text) = self.guest_sh(vm, "ip route");
        text.lines().map(str::trim).filter(|l| l.starts_with("default")).map(str::to_owned).collect()
    }

    /// The IPv6 default routes that a guest has.
    pub fn default_routes6(&self, vm: &str) -> Vec<String> {
        let (_, text) = self.guest_sh(vm, "ip -6 route");
        text.lines().map(str::trim).filter(|l| l.starts_with("default")).map(str::to_owned).collect()
    }

    /// The devices of ours that the namespace holds, by name.
    pub fn devices(&self) -> Vec<String> {
        let out = Command::new("ip").args(["-n", &self.netns, "-o", "link"]).output().expect("ip runs");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        text.lines()
            .filter_map(|l| l.split(": ").nth(1))
            .map(|n| n.split('@').next().unwrap_or(n).to_owned())
            .filter(|n| n.starts_with("mh"))
            .collect()
    }

    /// What the server said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("serve.log")).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
        self.kill_server();
        let out = self.try_cli(&["teardown", "--purge"]);
        if !out.status.success() && !std::thread::panicking() {
            eprintln!("teardown failed: {}", String::from_utf8_lossy(&out.stderr));
        }
        let _ = Command::new("ip").args(["netns", "del", &self.netns]).status();
    }
}

/// Captures what passes a device of a namespace for as long as `work` takes; one line of tcpdump per frame.
fn capture(netns: &str, device: &str, file: &Path, expression: &str, work: impl FnOnce()) -> String {
    let netns = format!("--net=/run/netns/{netns}");
    let output = std::fs::File::create(file).expect("a file for the capture");
    let child = Command::new("nsenter")
        .args([&netns, "--", "tcpdump", "-l", "-n", "-e", "-i", device, "--immediate-mode", expression])
        .stdout(output)
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.expect("tcpdump starts");
    let mut said = std::io::BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    // It says «listening on …» once it hears.
    while std::io::BufRead::read_line(&mut said, &mut line).is_ok_and(|n| n > 0) && !line.contains("listening") {
        line.clear();
    }
    work();
    let _ = child.kill();
    let _ = child.wait();
    std::fs::read_to_string(file).unwrap_or_default()
}

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status();
    assert!(status.is_ok_and(|s| s.success()), "{program} {args:?} failed");
}
