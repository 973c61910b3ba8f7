//! An Open vSwitch of a test's own: ovsdb-server and ovs-vswitchd with private sockets, in whichever network namespace the test
//! starts them. The machine's own is not needed, and not touched.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts a command, for example in a network namespace.
pub type Spawn = Box<dyn Fn(&mut Command) -> io::Result<Child> + Send>;

/// The daemons; they end with it.
pub struct Vswitch {
    dir: TempDir,
    spawn: Spawn,
    server: Option<Child>,
    switch: Option<Child>,
}

/// The path of a program of Debian's package openvswitch-switch, if it is here.
fn program(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().map(|d| Path::new(d).join(name)).find(|p| p.exists())
}

fn end(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Vswitch {
    /// Starts both daemons with an empty database.
    ///
    /// # Errors
    /// Why they cannot be started: a sentence.
    pub fn start(spawn: Spawn) -> Result<Self, String> {
        let schema = Path::new("/usr/share/openvswitch/vswitch.ovsschema");
        if program("ovs-vswitchd").is_none() || !schema.exists() {
            return Err("there is no ovs-vswitchd: install openvswitch-switch".to_owned());
        }
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let mut this = Self { dir, spawn, server: None, switch: None };
        let database = this.dir.path().join("conf.db");
        this.run("ovsdb-tool", &["create", &text(&database), &text(schema)])?;
        this.start_server()?;
        this.vsctl(&["--no-wait", "init"])?;
        this.start_switch()?;
        Ok(this)
    }

    /// The socket of ovsdb-server; those of bridges are beside it.
    pub fn database(&self) -> PathBuf {
        self.dir.path().join("db.sock")
    }

    fn command(&self, name: &str) -> Result<Command, String> {
        let mut command = Command::new(program(name).ok_or_else(|| format!("there is no {name}"))?);
        for variable in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR"] {
            command.env(variable, self.dir.path());
        }
        Ok(command)
    }

    /// Runs one of its tools, and returns what it prints.
    ///
    /// # Errors
    /// What the tool said, if it failed.
    pub fn run(&self, name: &str, args: &[&str]) -> Result<String, String> {
        let out = self.command(name)?.args(args).output().map_err(|e| format!("{name}: {e}"))?;
        match out.status.success() {
            true => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
            false => Err(format!("{name} {args:?}: {}", String::from_utf8_lossy(&out.stderr))),
        }
    }

    /// Runs ovs-vsctl.
    ///
    /// # Errors
    /// As [`Vswitch::run`].
    pub fn vsctl(&self, args: &[&str]) -> Result<String, String> {
        let database = format!("--db=unix:{}", text(&self.database()));
        self.run("ovs-vsctl", &[&[database.as_str(), "--timeout=20"], args].concat())
    }

    /// Runs ovs-ofctl on a bridge.
    ///
    /// # Errors
    /// As [`Vswitch::run`].
    pub fn ofctl(&self, command: &str, bridge: &str, args: &[&str]) -> Result<String, String> {
        let socket = format!("unix:{}", text(&self.dir.path().join(format!("{bridge}.mgmt"))));
        self.run("ovs-ofctl", &[&["--timeout=5", "-O", "OpenFlow15", command, socket.as_str()], args].concat())
    }

    fn daemon(&self, name: &str, args: &[String]) -> Result<Child, String> {
        let log = File::create(self.dir.path().join(format!("{name}.log"))).map_err(|e| e.to_string())?;
        let mut command = self.command(name)?;
        command.args(args).args(["-vconsole:warn", "-vsyslog:off", "-vfile:off"]).stderr(log);
        (self.spawn)(&mut command).map_err(|e| format!("{name}: {e}"))
    }

    /// Starts ovsdb-server.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn start_server(&mut self) -> Result<(), String> {
        let path = |name: &str| text(&self.dir.path().join(name));
        let args =
            [path("conf.db"), format!("--remote=punix:{}", path("db.sock")), format!("--unixctl={}", path("db.ctl"))];
        self.server = Some(self.daemon("ovsdb-server", &args)?);
        self.wait_for("ovsdb-server", |s| s.vsctl(&["--no-wait", "list-br"]))
    }

    /// Starts ovs-vswitchd.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn start_switch(&mut self) -> Result<(), String> {
        let path = |name: &str| text(&self.dir.path().join(name));
        let args = [format!("unix:{}", path("db.sock")), format!("--pidfile={}", path("ovs-vswitchd.pid"))];
        self.switch = Some(self.daemon("ovs-vswitchd", &args)?);
        self.wait_for("ovs-vswitchd", |s| s.run("ovs-appctl", &["ofproto/list"]))
    }

    fn wait_for(&self, name: &str, answers: impl Fn(&Self) -> Result<String, String>) -> Result<(), String> {
        let started = Instant::now();
        loop {
            match answers(self) {
                Ok(_) => return Ok(()),
                Err(e) if started.elapsed() > PATIENCE => {
                    let log = self.dir.path().join(format!("{name}.log"));
                    return Err(format!("{e}; {}", std::fs::read_to_string(log).unwrap_or_default()));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Ends ovsdb-server at once, as a crash would.
    pub fn kill_server(&mut self) {
        end(&mut self.server);
        // It would take the socket for somebody's.
        let _ = std::fs::remove_file(self.database());
    }

    /// Ends ovs-vswitchd at once, as a crash would.
    pub fn kill_switch(&mut self) {
        end(&mut self.switch);
        let _ = std::fs::remove_file(self.dir.path().join("ovs-vswitchd.pid"));
    }

    /// Prints what a failed test wants to know: ports, flows that were used, and what the daemons complained of.
    fn explain(&self) {
        let shown = |result: Result<String, String>| result.unwrap_or_else(|e| e);
        println!("{}", shown(self.vsctl(&["show"])));
        let files = std::fs::read_dir(self.dir.path()).into_iter().flatten().flatten();
        let names = files.filter_map(|f| f.file_name().into_string().ok());
        for bridge in names.filter_map(|n| n.strip_suffix(".mgmt").map(str::to_owned)) {
            let bridge = bridge.as_str();
            println!("{bridge}:");
            let flows = shown(self.ofctl("dump-flows", bridge, &["--no-names"]));
            for flow in flows.lines().filter(|f| !f.contains("n_packets=0,")) {
                println!("{flow}");
            }
        }
        println!("connections: {}", shown(self.run("ovs-appctl", &["dpctl/dump-conntrack"])));
        for name in ["ovsdb-server", "ovs-vswitchd"] {
            let log = std::fs::read_to_string(self.dir.path().join(format!("{name}.log")));
            println!("{name}: {}", log.unwrap_or_default());
        }
    }

    /// The process ids of ovsdb-server and ovs-vswitchd, where they run.
    pub fn pids(&self) -> [Option<u32>; 2] {
        [&self.server, &self.switch].map(|c| c.as_ref().map(Child::id))
    }
}

impl Drop for Vswitch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.explain();
        }
        end(&mut self.switch);
        end(&mut self.server);
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
