//! One running QEMU: started in a session of its own, found again after a restart of the caller,
//! ended for certain and never mistaken for another process.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use multihome_netlink::process::{self, Process};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::accel::Accelerator;
use crate::agent::GuestAgent;
use crate::command;
use crate::error::{Error, Result};
use crate::qmp::{Event, Qmp};
use crate::spec::{NicAttachment, VmSpec};
use crate::user::User;

const START_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A guest that is still booting loses the power button's event, so it is pressed again.
const PRESS_AGAIN: Duration = Duration::from_secs(3);
const DYING: Duration = Duration::from_millis(500);
const QUIT_TIMEOUT: Duration = Duration::from_secs(5);

/// How VMs are run on this machine.
#[derive(Debug, Clone)]
pub struct VmmConfig {
    /// QEMU's program, for example `qemu-system-x86_64`.
    pub qemu: PathBuf,
    /// The directory with one directory per VM; root's own.
    pub run_root: PathBuf,
    /// The user that QEMU runs as; `None` leaves it the caller's.
    pub user: Option<User>,
    /// The accelerator.
    pub accelerator: Accelerator,
}

impl VmmConfig {
    /// The directory of a VM.
    pub fn dir(&self, id: &str) -> PathBuf {
        self.run_root.join(id)
    }

    /// The ids of the VMs that have a directory, running or not, sorted.
    ///
    /// # Errors
    /// When the run root cannot be read; that it does not exist is no error.
    pub fn list(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.run_root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("list", self.run_root.display(), e)),
        };
        let mut ids: Vec<String> = entries
            .flatten()
            .filter(|entry| entry.path().join("vm.json").exists())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        ids.sort();
        Ok(ids)
    }
}

/// The files of a VM's directory.
#[derive(Debug, Clone)]
pub struct Files {
    /// The directory.
    pub dir: PathBuf,
}

impl Files {
    /// The socket that we command QEMU by.
    pub fn qmp(&self) -> PathBuf {
        self.dir.join("qmp.sock")
    }

    /// A second one, for people.
    pub fn spare_qmp(&self) -> PathBuf {
        self.dir.join("qmp2.sock")
    }

    /// The guest agent's channel.
    pub fn agent(&self) -> PathBuf {
        self.dir.join("agent.sock")
    }

    /// The serial console, to be connected to.
    pub fn console(&self) -> PathBuf {
        self.dir.join("console.sock")
    }

    /// Everything that the guest wrote to its serial console.
    pub fn serial_log(&self) -> PathBuf {
        self.dir.join("serial.log")
    }

    /// What QEMU itself said.
    pub fn stderr(&self) -> PathBuf {
        self.dir.join("qemu.log")
    }

    fn record(&self) -> PathBuf {
        self.dir.join("vm.json")
    }

    fn clear(&self) {
        for path in [self.record(), self.qmp(), self.spare_qmp(), self.agent(), self.console()] {
            let _ = fs::remove_file(path);
        }
    }
}

/// What is kept beside a running QEMU.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    spec: VmSpec,
    accelerator: Accelerator,
    /// Process id and start time; `None` while it is being started.
    process: Option<(u32, u64)>,
}

impl Record {
    /// Written beside and renamed, so that a reader never sees half of it.
    fn write(&self, files: &Files) -> Result<()> {
        let path = files.record();
        let new = path.with_extension("json.new");
        let write = || {
            let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
            serde_json::to_writer(&mut file, self).map_err(std::io::Error::from)?;
            fs::rename(&new, &path)
        };
        write().map_err(|e| Error::io("write", path.display(), e))
    }

    fn read(files: &Files) -> Result<Self> {
        let path = files.record();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NotRunning(files.dir.clone()));
            }
            Err(e) => return Err(Error::io("read", path.display(), e)),
        };
        serde_json::from_slice(&bytes).map_err(|e| Error::Malformed { from: "vm.json", what: e.to_string() })
    }

    /// The QEMU of this record, if it still runs.
    fn process(&self, files: &Files) -> Result<Process> {
        let gone = || Error::NotRunning(files.dir.clone());
        let (pid, start) = match self.process {
            Some(known) => known,
            // The caller was killed between starting QEMU and writing its number down.
            None => search(&command::marker(&files.dir)).ok_or_else(gone)?,
        };
        let process = Process::open(pid, start).map_err(|_| gone())?;
        if process.wait(Duration::ZERO) { Err(gone()) } else { Ok(process) }
    }
}

/// Finds a QEMU by the marker on its command line.
fn search(marker: &str) -> Option<(u32, u64)> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let start = process::start_time(pid).ok()?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        let suffix = format!("opaque={}", marker.replace(',', ",,"));
        let ours = command.split(|b| *b == 0).any(|arg| arg.ends_with(suffix.as_bytes()));
        (ours && process::start_time(pid).ok()? == start).then_some((pid, start))
    })
}

/// How a VM was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The guest shut down by itself when its power button was pressed.
    Guest,
    /// QEMU was told to end.
    Quit,
    /// QEMU was killed.
    Killed,
}

/// A running VM. Dropping it leaves the VM running.
#[derive(Debug)]
pub struct Vm {
    files: Files,
    record: Record,
    process: Arc<AsyncFd<Process>>,
    pub(crate) qmp: Qmp,
    agent: GuestAgent,
    /// One change of the NICs at a time.
    pub(crate) nics: tokio::sync::Mutex<()>,
    /// One change of the drive's medium at a time.
    pub(crate) media: tokio::sync::Mutex<()>,
}

impl Vm {
    /// Starts QEMU, plugs the NICs in, and lets the guest run. If anything fails no QEMU is left.
    ///
    /// # Errors
    /// [`Error::Running`] if this VM runs already, [`Error::StartFailed`] with QEMU's own words.
    pub async fn start(config: &VmmConfig, spec: &VmSpec, nics: Vec<NicAttachment>) -> Result<Self> {
        spec.check()?;
        for nic in &nics {
            spec.check_nic(nic)?;
        }
        let files = Files { dir: config.dir(&spec.id) };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&files.dir)
            .map_err(|e| Error::io("create", files.dir.display(), e))?;
        match Record::read(&files).and_then(|r| r.process(&files)) {
            Ok(_) => return Err(Error::Running(spec.id.clone())),
            Err(Error::NotRunning(_) | Error::Malformed { .. }) => {}
            Err(e) => return Err(e),
        }
        let vm = Self::launch(config, spec, files).await?;
        let ready = async {
            for nic in nics {
                vm.plug_nic(nic).await?;
            }
            vm.qmp.execute("cont", json!({})).await.map(drop)
        };
        if let Err(e) = ready.await {
            vm.kill().await?;
            return Err(e);
        }
        Ok(vm)
    }

    async fn launch(config: &VmmConfig, spec: &VmSpec, files: Files) -> Result<Self> {
        let mut record = Record { spec: spec.clone(), accelerator: config.accelerator, process: None };
        record.write(&files)?;
        let command = command::build(config, spec, &files)?;
        let mut child = tokio::process::Command::from(command)
            .kill_on_drop(false)
            .spawn()
            .map_err(|e| Error::io("start", config.qemu.display(), e))?;
        let pid = child.id().ok_or_else(|| Error::StartFailed("it ended at once".into()))?;
        // It is our child and nobody has waited for it yet, so the number is its own.
        let start = process::start_time(pid)?;
        record.process = Some((pid, start));
        record.write(&files)?;
        let process = Process::open(pid, start)?;
        // Waited for as long as we live, so that it does not stay behind as a zombie.
        let (ended, end) = oneshot::channel();
        tokio::spawn(async move {
            let _ = child.wait().await;
            let _ = ended.send(());
        });
        let socket = files.qmp();
        let connected = tokio::select! {
            qmp = Qmp::connect(&socket, START_TIMEOUT) => qmp,
            _ = end => Err(Error::StartFailed(last_words(&files))),
        };
        let qmp = match connected {
            Ok(qmp) => qmp,
            Err(e) => {
                // It may be on its way out: its socket closes, or is reset, before it has ended.
                let died = !matches!(e, Error::Timeout { .. }) && process.wait(DYING);
                let _ = process.signal(9);
                files.clear();
                return Err(if died { Error::StartFailed(last_words(&files)) } else { e });
            }
        };
        Self::new(files, record, process, qmp)
    }

    fn new(files: Files, record: Record, process: Process, qmp: Qmp) -> Result<Self> {
        let pid = process.pid();
        // `new` is called unsound for types whose descriptor may change under it; a Process holds one
        // OwnedFd for life.
        #[allow(deprecated)]
        let process = AsyncFd::new(process).map_err(|e| Error::io("watch process", pid, e))?;
        let agent = GuestAgent::new(files.agent());
        let (nics, media) = (tokio::sync::Mutex::new(()), tokio::sync::Mutex::new(()));
        Ok(Self { files, record, process: Arc::new(process), qmp, agent, nics, media })
    }

    /// Finds a running VM again by its directory. One that was started but had not got its NICs yet
    /// is paused in `prelaunch`; see [`Vm::status`].
    ///
    /// # Errors
    /// [`Error::NotRunning`] if its QEMU has ended; what it left in the directory is cleared then.
    pub async fn attach(dir: &Path) -> Result<Self> {
        let files = Files { dir: dir.to_owned() };
        let mut record = Record::read(&files)?;
        let process = match record.process(&files) {
            Err(e @ Error::NotRunning(_)) => {
                files.clear();
                return Err(e);
            }
            other => other?,
        };
        if record.process.is_none() {
            record.process = Some((process.pid(), process::start_time(process.pid())?));
            record.write(&files)?;
        }
        let qmp = Qmp::connect(&files.qmp(), CONNECT_TIMEOUT).await?;
        Self::new(files, record, process, qmp)
    }

    /// What it was started as.
    pub fn spec(&self) -> &VmSpec {
        &self.record.spec
    }

    /// The accelerator that it was started with.
    pub fn accelerator(&self) -> Accelerator {
        self.record.accelerator
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.process.get_ref().pid()
    }

    /// The files of its directory.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// The connection to QEMU.
    pub fn qmp(&self) -> &Qmp {
        &self.qmp
    }

    /// The guest agent.
    pub fn agent(&self) -> &GuestAgent {
        &self.agent
    }

    /// Whether an agent in the guest has its channel open: known to QEMU, so that nobody need wait for
    /// the silence of a guest that has none. A change is the event `VSERPORT_CHANGE` of `agentport`.
    ///
    /// # Errors
    /// As any QMP command.
    pub async fn agent_open(&self) -> Result<bool> {
        let all = self.qmp.execute("query-chardev", json!({})).await?;
        let open = |c: &serde_json::Value| {
            c.get("label").and_then(|l| l.as_str()) == Some("agent")
                && c.get("frontend-open").and_then(serde_json::Value::as_bool) == Some(true)
        };
        Ok(all.as_array().into_iter().flatten().any(open))
    }

    /// QEMU's events from now on.
    pub fn events(&self) -> tokio::sync::broadcast::Receiver<Event> {
        self.qmp.events()
    }

    /// QEMU's run state: `running`, `paused`, `prelaunch`, `shutdown`, `internal-error`, …
    ///
    /// # Errors
    /// As any QMP command.
    pub async fn status(&self) -> Result<String> {
        let status = self.qmp.execute("query-status", json!({})).await?;
        status
            .get("status")
            .and_then(|s| s.as_str())
            .map(str::to_owned)
            .ok_or_else(|| Error::Malformed { from: "QEMU", what: "query-status without a status".into() })
    }

    /// Whether QEMU still runs.
    pub fn is_running(&self) -> bool {
        !self.process.get_ref().wait(Duration::ZERO)
    }

    /// Waits until QEMU has ended.
    pub async fn ended(&self) {
        // An error can only mean that the event loop is gone, and we with it.
        let _ = self.process.readable().await;
    }

    async fn ended_within(&self, timeout: Duration) -> bool {
        tokio::time::timeout(timeout, self.ended()).await.is_ok()
    }

    /// Lets the guest run on.
    ///
    /// # Errors
    /// As any QMP command.
    pub async fn resume(&self) -> Result<()> {
        self.qmp.execute("cont", json!({})).await.map(drop)
    }

    /// Presses the power button and waits at most `grace`; then tells QEMU to end; then kills it.
    /// Clears the directory but for the logs.
    ///
    /// # Errors
    /// When even killing fails.
    pub async fn stop(&self, grace: Duration) -> Result<Ending> {
        let deadline = tokio::time::Instant::now() + grace;
        while self.is_running() {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() || self.qmp.execute("system_powerdown", json!({})).await.is_err() {
                break;
            }
            if self.ended_within(left.min(PRESS_AGAIN)).await {
                self.files.clear();
                return Ok(Ending::Guest);
            }
        }
        // It may end before it answers.
        let _ = self.qmp.execute_within("quit", json!({}), QUIT_TIMEOUT).await;
        if self.ended_within(QUIT_TIMEOUT).await {
            self.files.clear();
            return Ok(Ending::Quit);
        }
        self.kill().await?;
        Ok(Ending::Killed)
    }

    /// Kills QEMU at once, as if power failed.
    ///
    /// # Errors
    /// When it does not end within 5 s even so.
    pub async fn kill(&self) -> Result<()> {
        match self.process.get_ref().signal(9) {
            Err(e) if !e.is_missing() => return Err(e.into()),
            _ => {}
        }
        if !self.ended_within(QUIT_TIMEOUT).await {
            return Err(Error::Timeout { what: "killing QEMU".into(), after: QUIT_TIMEOUT });
        }
        self.files.clear();
        Ok(())
    }

    /// Resets the machine at once, as the reset button does.
    ///
    /// # Errors
    /// As any QMP command.
    pub async fn reset(&self) -> Result<()> {
        self.qmp.execute("system_reset", json!({})).await.map(drop)
    }

    /// Has the guest reboot itself, by its agent; a guest that has not within `grace` is reset.
    /// Says whether the guest did it itself.
    ///
    /// # Errors
    /// As any QMP command.
    pub async fn reboot(&self, grace: Duration) -> Result<bool> {
        let mut events = self.events();
        let by_itself = async {
            self.agent.shutdown("reboot").await?;
            loop {
                match events.recv().await {
                    Ok(event) if event.name == "RESET" => return Ok(()),
                    Ok(event) if event.name == Qmp::CLOSED => return Err(Error::Closed("QEMU")),
                    Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(_) => return Err(Error::Closed("QEMU")),
                }
            }
        };
        if matches!(tokio::time::timeout(grace, by_itself).await, Ok(Ok(()))) {
            return Ok(true);
        }
        self.reset().await?;
        Ok(false)
    }
}

/// Ends whatever QEMU still runs for a directory, without asking the guest, and removes the
/// directory with its logs. That there is neither is no fault; a QEMU whose directory somebody removed
/// is found all the same.
///
/// # Errors
/// When QEMU does not end, or the directory cannot be removed.
pub async fn remove(dir: &Path) -> Result<()> {
    let files = Files { dir: dir.to_owned() };
    let stray = || {
        let (pid, start) = search(&command::marker(dir)).ok_or_else(|| Error::NotRunning(dir.to_owned()))?;
        Ok::<_, Error>(Process::open(pid, start)?)
    };
    if let Ok(process) = Record::read(&files).and_then(|r| r.process(&files)).or_else(|_| stray()) {
        let ended = tokio::task::spawn_blocking(move || {
            let _ = process.signal(9);
            process.wait(QUIT_TIMEOUT)
        });
        if !ended.await.unwrap_or(false) {
            return Err(Error::Timeout { what: "killing QEMU".into(), after: QUIT_TIMEOUT });
        }
    }
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", dir.display(), e)),
        _ => Ok(()),
    }
}

fn last_words(files: &Files) -> String {
    let said = fs::read_to_string(files.stderr()).unwrap_or_default();
    let said = said.trim();
    if said.is_empty() { "it said nothing".into() } else { said.to_owned() }
}
