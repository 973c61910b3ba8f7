//! A client of the guest agent (qemu-ga): one conversation at a time, every step with a time limit,
//! so that a guest without an agent blocks nobody.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use crate::error::{Error, Result};
use crate::guestnet::{self, GuestInterface, GuestRoute};

/// How long an agent may take to answer. It answers in milliseconds where there is one.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer answers than this are nobody's.
const MAX_ANSWER: usize = 16 << 20;
const MAX_FILE: usize = 4 << 20;

/// The connection to the agent of one guest, made when it is first needed.
#[derive(Debug)]
pub struct GuestAgent {
    path: PathBuf,
    line: Mutex<Option<Line>>,
    timeout: Duration,
}

#[derive(Debug)]
struct Line {
    stream: UnixStream,
    buf: Vec<u8>,
    next: u64,
}

/// What a program run in the guest did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; `None` if a signal ended it.
    pub status: Option<i64>,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
}

/// Who the agent is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentInfo {
    /// Its version.
    pub version: String,
    /// The commands that it takes.
    pub commands: Vec<String>,
}

impl Line {
    async fn connect(path: &PathBuf) -> Result<Self> {
        let stream = UnixStream::connect(path).await.map_err(|e| Error::io("connect to", path.display(), e))?;
        let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let next = seed.map_or(1, |d| d.as_micros() as u64 & 0xffff_ffff);
        Ok(Self { stream, buf: Vec::new(), next })
    }

    /// Reads up to and with a byte.
    async fn until(&mut self, end: u8) -> Result<Vec<u8>> {
        let mut seen = 0;
        loop {
            if let Some(at) = self.buf[seen..].iter().position(|b| *b == end) {
                return Ok(self.buf.drain(..=seen + at).collect());
            }
            seen = self.buf.len();
            if seen > MAX_ANSWER {
                let what = format!("an answer of more than {MAX_ANSWER} bytes");
                return Err(Error::Malformed { from: "the guest agent", what });
            }
            let n =
                self.stream.read_buf(&mut self.buf).await.map_err(|e| Error::io("read from", "the guest agent", e))?;
            if n == 0 {
                return Err(Error::Closed("the guest agent"));
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await.map_err(|e| Error::io("write to", "the guest agent", e))
    }

    /// Throws away whatever is under way on either side. The agent answers a delimited
    /// synchronisation with a byte 0xFF, which stands in no other answer.
    async fn synchronise(&mut self) -> Result<()> {
        self.next += 1;
        let id = self.next;
        let mut request = vec![0xff];
        let line = json!({ "execute": "guest-sync-delimited", "arguments": { "id": id } });
        request.extend(format!("{line}\n").into_bytes());
        self.send(&request).await?;
        loop {
            self.until(0xff).await?;
            let answer = self.until(b'\n').await?;
            let value: Option<Value> = serde_json::from_slice(&answer).ok();
            if value.and_then(|v| v.get("return")?.as_u64()) == Some(id) {
                return Ok(());
            }
        }
    }

    async fn ask(&mut self, command: &str, arguments: &Value, answered: bool) -> Result<Value> {
        let mut request = json!({ "execute": command });
        if arguments.as_object().is_some_and(|a| !a.is_empty()) {
            request["arguments"] = arguments.clone();
        }
        self.send(format!("{request}\n").as_bytes()).await?;
        if !answered {
            return Ok(Value::Null);
        }
        let line = self.until(b'\n').await?;
        read_answer(command, &line)
    }
}

fn read_answer(command: &str, line: &[u8]) -> Result<Value> {
    let malformed = |what| Error::Malformed { from: "the guest agent", what };
    let mut value: Value = serde_json::from_slice(line).map_err(|e| malformed(e.to_string()))?;
    if let Some(error) = value.get("error") {
        let text = |key| error.get(key).and_then(Value::as_str).unwrap_or("?").to_owned();
        return Err(Error::Agent { command: command.to_owned(), class: text("class"), text: text("desc") });
    }
    value.get_mut("return").map(Value::take).ok_or_else(|| malformed("neither a result nor an error".into()))
}

impl GuestAgent {
    /// An agent behind a socket. Nothing is connected yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, line: Mutex::new(None), timeout: ANSWER_TIMEOUT }
    }

    /// With another time limit per answer.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs one of the agent's commands.
    ///
    /// # Errors
    /// [`Error::Timeout`] if no agent answers, [`Error::Agent`] if it refuses.
    pub async fn execute(&self, command: &str, arguments: Value) -> Result<Value> {
        self.talk(command, arguments, true).await
    }

    async fn talk(&self, command: &str, arguments: Value, answered: bool) -> Result<Value> {
        let late = || Error::Timeout { what: format!("{command} by the guest agent"), after: self.timeout };
        let conversation = async {
            let mut slot = self.line.lock().await;
            // Taken out: if this is cut short, the next one begins with a new connection.
            let mut line = match slot.take() {
                Some(line) => line,
                None => {
                    let mut line = Line::connect(&self.path).await?;
                    line.synchronise().await?;
                    line
                }
            };
            let answer = line.ask(command, &arguments, answered).await;
            if matches!(answer, Ok(_) | Err(Error::Agent { .. })) {
                *slot = Some(line);
            }
            answer
        };
        let answer = tokio::time::timeout(self.timeout, conversation).await.map_err(|_| late())?;
        match answer {
            // The agent was restarted, as in a reboot: once more on a new connection.
            Err(Error::Closed(_) | Error::Malformed { .. }) => {
                let again = async {
                    let mut line = Line::connect(&self.path).await?;
                    line.synchronise().await?;
                    line.ask(command, &arguments, answered).await
                };
                tokio::time::timeout(self.timeout, again).await.map_err(|_| late())?
            }
            answer => answer,
        }
    }

    /// Lets go of the connection, so that another process can talk to the agent: its socket serves one at a time.
    pub async fn disconnect(&self) {
        self.line.lock().await.take();
    }

    /// Whether an agent answers now.
    pub async fn ping(&self) -> bool {
        self.execute("guest-ping", json!({})).await.is_ok()
    }

    /// Its version and commands.
    ///
    /// # Errors
    /// As [`GuestAgent::execute`].
    pub async fn info(&self) -> Result<AgentInfo> {
        let info = self.execute("guest-info", json!({})).await?;
        let text = |v: &Value, key| v.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let commands = info.get("supported_commands").and_then(Value::as_array);
        let enabled = |c: &&Value| c.get("enabled").and_then(Value::as_bool) != Some(false);
        Ok(AgentInfo {
            version: text(&info, "version"),
            commands: commands.into_iter().flatten().filter(enabled).map(|c| text(c, "name")).collect(),
        })
    }

    /// The guest's interfaces with their addresses.
    ///
    /// # Errors
    /// As [`GuestAgent::execute`].
    pub async fn interfaces(&self) -> Result<Vec<GuestInterface>> {
        let answer = self.execute("guest-network-get-interfaces", json!({})).await?;
        Ok(guestnet::interfaces(&answer))
    }

    /// The guest's routes of both families: from the agent if it knows that command (QEMU 9.1 on),
    /// otherwise read from the guest's `/proc/net`.
    ///
    /// # Errors
    /// As [`GuestAgent::execute`]; a guest that is no Linux and has an old agent refuses.
    pub async fn routes(&self) -> Result<Vec<GuestRoute>> {
        match self.execute("guest-network-get-route", json!({})).await {
            Ok(answer) => return Ok(guestnet::routes(&answer)),
            Err(Error::Agent { class, .. }) if class == "CommandNotFound" => {}
            // Disabled by the guest's owner, or not for this system.
            Err(Error::Agent { .. }) => {}
            Err(e) => return Err(e),
        }
        let mut routes = guestnet::proc_route(&self.read_file("/proc/net/route").await?);
        match self.read_file("/proc/net/ipv6_route").await {
            Ok(text) => routes.extend(guestnet::proc_ipv6_route(&text)),
            // A guest without IPv6 has no such file.
            Err(Error::Agent { .. }) => {}
            Err(e) => return Err(e),
        }
        Ok(routes)
    }

    /// Reads a file of the guest, at most 4 MiB of it.
    ///
    /// # Errors
    /// As [`GuestAgent::execute`].
    pub async fn read_file(&self, path: &str) -> Result<String> {
        let handle = self.execute("guest-file-open", json!({ "path": path, "mode": "r" })).await?;
        let mut content = Vec::new();
        let mut failed = None;
        while content.len() < MAX_FILE {
            let arguments = json!({ "handle": handle, "count": 65_536 });
            match self.execute("guest-file-read", arguments).await {
                Ok(part) => {
                    content.extend(base64_of(&part, "buf-b64"));
                    let count = part.get("count").and_then(Value::as_u64).unwrap_or(0);
                    if count == 0 || part.get("eof").and_then(Value::as_bool) == Some(true) {
                        break;
                    }
                }
                Err(e) => {
                    failed = Some(e);
                    break;
                }
            }
        }
        let _ = self.execute("guest-file-close", json!({ "handle": handle })).await;
        match failed {
            Some(e) => Err(e),
            None => Ok(String::from_utf8_lossy(&content).into_owned()),
        }
    }

    /// Runs a program in the guest and waits for its end, at most `timeout`.
    ///
    /// # Errors
    /// As [`GuestAgent::execute`]; the program runs on after a timeout.
    pub async fn run(&self, program: &str, arguments: &[&str], timeout: Duration) -> Result<Output> {
        let started =
            self.execute("guest-exec", json!({ "path": program, "arg": arguments, "capture-output": true })).await?;
        let pid = started.get("pid").cloned().unwrap_or_default();
        let waiting = async {
            let mut pause = Duration::from_millis(5);
            loop {
                let status = self.execute("guest-exec-status", json!({ "pid": pid })).await?;
                if status.get("exited").and_then(Value::as_bool) == Some(true) {
                    return Ok(Output {
                        status: status.get("exitcode").and_then(Value::as_i64),
                        stdout: base64_of(&status, "out-data"),
                        stderr: base64_of(&status, "err-data"),
                    });
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(200));
            }
        };
        tokio::time::timeout(timeout, waiting)
            .await
            .map_err(|_| Error::Timeout { what: format!("{program} in the guest"), after: timeout })?
    }

    /// Tells the guest to shut down: `powerdown`, `halt` or `reboot`. There is no answer.
    ///
    /// # Errors
    /// [`Error::Timeout`] if no agent is there.
    pub async fn shutdown(&self, mode: &str) -> Result<()> {
        // Before that, a question with an answer: shutting down has none, so silence says nothing.
        self.execute("guest-ping", json!({})).await?;
        self.talk("guest-shutdown", json!({ "mode": mode }), false).await?;
        // The agent goes; whatever it says next belongs to nobody.
        self.line.lock().await.take();
        Ok(())
    }
}

fn base64_of(value: &Value, key: &str) -> Vec<u8> {
    let text = value.get(key).and_then(Value::as_str).unwrap_or_default();
    base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::net::UnixListener;

    proptest! {
        #[test]
        fn no_answer_makes_the_reader_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_answer("x", &line);
        }
    }

    #[tokio::test]
    async fn leftovers_of_an_earlier_talk_are_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (read, mut write) = stream.into_split();
            write.write_all(b"{\"return\": 1}\n{\"ret").await.unwrap();
            let mut lines = BufReader::new(read).split(b'\n');
            while let Some(line) = lines.next_segment().await.unwrap() {
                let line = line.strip_prefix(&[0xff]).unwrap_or(&line);
                let v: Value = serde_json::from_slice(line).unwrap();
                let answer = match v["execute"].as_str().unwrap() {
                    "guest-sync-delimited" => {
                        let mut bytes = vec![0xff];
                        bytes.extend(format!("{}\n", json!({"return": v["arguments"]["id"]})).bytes());
                        bytes
                    }
                    "guest-ping" => b"{\"return\": {}}\n".to_vec(),
                    _ => b"{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no\"}}\n".to_vec(),
                };
                write.write_all(&answer).await.unwrap();
            }
        });
        let agent = GuestAgent::new(path);
        assert!(agent.ping().await);
        assert!(matches!(agent.info().await, Err(Error::Agent { class, .. }) if class == "CommandNotFound"));
        assert!(agent.ping().await);
    }

    #[tokio::test]
    async fn a_guest_without_agent_blocks_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let agent = GuestAgent::new(path).with_timeout(Duration::from_millis(50));
        assert!(matches!(agent.info().await, Err(Error::Timeout { .. })));
        assert!(!agent.ping().await);
    }
}
