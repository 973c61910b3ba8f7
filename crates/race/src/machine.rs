//! A machine as far as its network and its processes go: namespaces of its own for both, and private `/etc`, `/run`
//! and state of daemons. It ends, with everything that runs on it, when its owner does, however that is.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use multihome_netlink::Netns;

use crate::Result;

/// What the first process of a machine does: make files private, say so, and stay until its standard input ends.
const INIT: &str = r#"
mount -t tmpfs tmpfs /run
mkdir -p /run/.etc /run/.work /run/lock /run/dbus /run/network
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/.etc,workdir=/run/.work /etc
for d in /var/lib/dhcp /var/lib/dhcpcd /var/lib/NetworkManager /var/lib/kea /var/lib/systemd; do
    [ ! -d $d ] || mount -t tmpfs -o mode=755 tmpfs $d
done
mount -t sysfs -o ro sysfs /sys
rm -f /etc/resolv.conf
: >/etc/resolv.conf
ip link set lo up
echo ready
exec cat
"#;

/// A machine in namespaces.
#[derive(Debug)]
pub struct Machine {
    holder: Child,
    init: u32,
    logs: tempfile::TempDir,
    children: Vec<Child>,
}

impl Machine {
    /// Makes one, with nothing running on it and no device but `lo`.
    ///
    /// # Errors
    /// When namespaces cannot be made here: that needs root.
    pub fn new() -> Result<Self> {
        let logs = tempfile::tempdir()?;
        let mut holder = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--", "sh", "-ec", INIT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(logs.path().join("init.log"))?)
            .spawn()?;
        let mut line = String::new();
        let heard = holder.stdout.take().map(|o| BufReader::new(o).read_line(&mut line));
        let mut machine = Self { holder, init: 0, logs, children: vec![] };
        if !matches!(heard, Some(Ok(_))) || line.trim() != "ready" {
            return Err(format!("no machine of its own: {}", machine.log("init")).into());
        }
        let pid = machine.holder.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        machine.init = children.trim().parse().map_err(|_| format!("no single first process: {children:?}"))?;
        Ok(machine)
    }

    /// Its network.
    ///
    /// # Errors
    /// When it has ended.
    pub fn netns(&self) -> Result<Netns> {
        Ok(Netns::of_process(self.init)?)
    }

    fn shell(&self, script: &str) -> Command {
        let mut c = Command::new("nsenter");
        c.args(["--target", &self.init.to_string(), "--net", "--mount", "--pid", "--", "sh", "-ec"]);
        c.arg(format!("cd /; export PATH=/usr/sbin:/usr/bin:/sbin:/bin\n{script}")).stdin(Stdio::null());
        c
    }

    /// Runs a script to its end, and returns what it wrote.
    ///
    /// # Errors
    /// When it fails; with what it said.
    pub fn run(&self, script: &str) -> Result<String> {
        let Output { status, stdout, stderr } = self.shell(script).output()?;
        if !status.success() {
            let said = String::from_utf8_lossy(&stderr);
            return Err(format!("{status} from {:?}: {}", script.lines().next(), said.trim()).into());
        }
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    /// Starts programs that stay, all at once, each under a name by which it can be ended and its log found.
    ///
    /// # Errors
    /// When the machine has ended.
    pub fn start(&mut self, programs: &[(String, String)]) -> Result<()> {
        for (name, command) in programs {
            let log = File::options().create(true).append(true).open(self.logs.path().join(format!("{name}.log")))?;
            let script = format!("echo $$ >/run/{name}.id\nexec {command}");
            self.children.push(self.shell(&script).stdout(log.try_clone()?).stderr(log).spawn()?);
        }
        Ok(())
    }

    /// Sends a signal to a program that was started under that name, if it still runs.
    ///
    /// # Errors
    /// When the machine has ended.
    pub fn signal(&self, name: &str, signal: &str) -> Result<()> {
        self.run(&format!("[ ! -e /run/{name}.id ] || kill -{signal} $(cat /run/{name}.id) 2>/dev/null || true"))?;
        Ok(())
    }

    /// Writes a file, below `/etc` as a rule.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &str, mode: u32, content: &str) -> Result<()> {
        let dir = Path::new(path).parent().map(|p| p.display().to_string()).unwrap_or_default();
        let mut c = self.shell(&format!("mkdir -p {dir}; cat >{path}; chmod {mode:o} {path}"));
        let mut child = c.stdin(Stdio::piped()).spawn()?;
        if let Some(mut to) = child.stdin.take() {
            std::io::Write::write_all(&mut to, content.as_bytes())?;
        }
        if child.wait()?.success() { Ok(()) } else { Err(format!("{path} was not written").into()) }
    }

    /// What a program said.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.logs.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    /// The ends of all logs, for an error message.
    pub fn logs(&self) -> String {
        let mut out = String::new();
        for e in std::fs::read_dir(self.logs.path()).into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(e.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            out += &format!("--- {}\n", e.file_name().to_string_lossy());
            lines[lines.len().saturating_sub(25)..].iter().for_each(|l| out += &format!("{l}\n"));
        }
        out
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The first process reads the end of its input and ends; the kernel ends all others of its namespace.
        drop(self.holder.stdin.take());
        let end = Instant::now() + Duration::from_secs(3);
        while matches!(self.holder.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        for c in &mut self.children {
            let _ = c.wait();
        }
    }
}
