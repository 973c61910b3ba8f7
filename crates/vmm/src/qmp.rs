//! A client of QEMU's machine protocol: commands with answers in any order, events, descriptors.
//!
//! QEMU serves one client per socket at a time; when this one is dropped the next may connect.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use multihome_netlink::fdpass;
use serde_json::{Map, Value, json};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{broadcast, oneshot};

use crate::error::{Error, Result};

/// How long a command may take unless said otherwise. QEMU answers in a millisecond; a machine that
/// emulates on a busy processor is given time.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);
/// Longer lines than this are no QMP.
const MAX_LINE: usize = 16 << 20;
const EVENTS: usize = 256;

/// Something that QEMU reports by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name, for example `DEVICE_DELETED`.
    pub name: String,
    /// Its data; `Null` if none.
    pub data: Value,
}

type Answer = std::result::Result<Value, (String, String)>;

#[derive(Debug, Default)]
struct Waiting {
    closed: bool,
    answers: HashMap<u64, oneshot::Sender<Answer>>,
}

#[derive(Debug)]
struct Inner {
    stream: Arc<UnixStream>,
    write: tokio::sync::Mutex<()>,
    waiting: Arc<Mutex<Waiting>>,
    events: broadcast::Sender<Event>,
    next: AtomicU64,
    reader: tokio::task::AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// A connection to one QEMU. Clones share it.
#[derive(Debug, Clone)]
pub struct Qmp {
    inner: Arc<Inner>,
}

/// One message from QEMU, told apart.
#[derive(Debug, PartialEq)]
enum Message {
    Greeting,
    Event(Event),
    Answer(u64, Answer),
    Other,
}

fn parse(line: &[u8]) -> std::result::Result<Message, String> {
    let value: Value = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    let Value::Object(mut map) = value else { return Err("not an object".into()) };
    if map.contains_key("QMP") {
        return Ok(Message::Greeting);
    }
    if let Some(name) = map.get("event").and_then(Value::as_str) {
        let name = name.to_owned();
        return Ok(Message::Event(Event { name, data: map.remove("data").unwrap_or_default() }));
    }
    let Some(id) = map.get("id").and_then(Value::as_u64) else { return Ok(Message::Other) };
    if let Some(value) = map.remove("return") {
        return Ok(Message::Answer(id, Ok(value)));
    }
    let text = |key| map.get("error").and_then(|e| e.get(key)).and_then(Value::as_str).unwrap_or("?").to_owned();
    Ok(Message::Answer(id, Err((text("class"), text("desc")))))
}

/// Reads lines off a stream into messages until it ends.
struct Lines {
    buf: Vec<u8>,
}

impl Lines {
    async fn next(&mut self, stream: &UnixStream) -> io::Result<Option<Vec<u8>>> {
        let mut seen = 0;
        loop {
            if let Some(end) = self.buf[seen..].iter().position(|b| *b == b'\n') {
                return Ok(Some(self.buf.drain(..=seen + end).collect()));
            }
            seen = self.buf.len();
            if seen > MAX_LINE {
                return Err(io::ErrorKind::InvalidData.into());
            }
            stream.readable().await?;
            let mut chunk = [0; 16 * 1024];
            match stream.try_read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(n) => self.buf.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
    }
}

async fn read_all(
    stream: Arc<UnixStream>,
    mut lines: Lines,
    waiting: Arc<Mutex<Waiting>>,
    events: broadcast::Sender<Event>,
) {
    while let Ok(Some(line)) = lines.next(&stream).await {
        match parse(&line) {
            Ok(Message::Event(event)) => {
                tracing::debug!(name = event.name, data = %event.data, "QEMU event");
                let _ = events.send(event);
            }
            Ok(Message::Answer(id, answer)) => {
                let waiter = waiting.lock().unwrap_or_else(PoisonError::into_inner).answers.remove(&id);
                if let Some(waiter) = waiter {
                    let _ = waiter.send(answer);
                }
            }
            Ok(Message::Greeting | Message::Other) => {}
            Err(error) => {
                tracing::warn!(error, "QEMU sent a line that is no QMP");
                break;
            }
        }
    }
    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.closed = true;
    waiting.answers.clear();
    drop(waiting);
    let _ = events.send(Event { name: Qmp::CLOSED.into(), data: Value::Null });
}

/// A set of descriptors that QEMU holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdSet(u64);

impl FdSet {
    /// The path by which QEMU opens it.
    pub fn path(self) -> String {
        format!("/dev/fdset/{}", self.0)
    }
}

impl Qmp {
    /// The name of the event that is reported when the connection ends. QEMU has none of that name.
    pub const CLOSED: &'static str = "MULTIHOME_CLOSED";

    /// Connects to a socket, waits for the greeting, and makes QEMU take commands.
    ///
    /// # Errors
    /// [`Error::Io`] if nobody listens; [`Error::Timeout`] if no greeting comes, as when another
    /// client holds the socket.
    pub async fn connect(path: &Path, timeout: Duration) -> Result<Self> {
        let stream = UnixStream::connect(path).await.map_err(|e| Error::io("connect to", path.display(), e))?;
        let late = || Error::Timeout { what: "the QMP greeting".into(), after: timeout };
        tokio::time::timeout(timeout, Self::greet(stream)).await.map_err(|_| late())?
    }

    async fn greet(stream: UnixStream) -> Result<Self> {
        let stream = Arc::new(stream);
        let mut lines = Lines { buf: Vec::new() };
        loop {
            let line = lines
                .next(&stream)
                .await
                .map_err(|e| Error::io("read from", "QMP", e))?
                .ok_or(Error::Closed("QEMU"))?;
            match parse(&line).map_err(|what| Error::Malformed { from: "QEMU", what })? {
                Message::Greeting => break,
                _ => continue,
            }
        }
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let (events, _) = broadcast::channel(EVENTS);
        let reader = tokio::spawn(read_all(stream.clone(), lines, waiting.clone(), events.clone()));
        let inner = Inner {
            stream,
            write: tokio::sync::Mutex::new(()),
            waiting,
            events,
            next: AtomicU64::new(1),
            reader: reader.abort_handle(),
        };
        let qmp = Self { inner: Arc::new(inner) };
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Runs a command with its arguments (an object) and returns what it returns.
    ///
    /// # Errors
    /// [`Error::Qmp`] if QEMU refuses; [`Error::Timeout`] after [`COMMAND_TIMEOUT`];
    /// [`Error::Closed`] if QEMU has ended.
    pub async fn execute(&self, command: &str, arguments: Value) -> Result<Value> {
        self.run(command, arguments, None, COMMAND_TIMEOUT).await
    }

    /// As [`Qmp::execute`] with another time limit.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn execute_within(&self, command: &str, arguments: Value, timeout: Duration) -> Result<Value> {
        self.run(command, arguments, None, timeout).await
    }

    /// Hands a descriptor to QEMU under a name that later commands may use.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn getfd(&self, name: &str, fd: BorrowedFd<'_>) -> Result<()> {
        self.run("getfd", json!({ "fdname": name }), Some(fd), COMMAND_TIMEOUT).await.map(drop)
    }

    /// Hands a descriptor to QEMU as a set of its own; returns the path by which QEMU opens it.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn add_fd(&self, fd: BorrowedFd<'_>) -> Result<FdSet> {
        let added = self.run("add-fd", json!({}), Some(fd), COMMAND_TIMEOUT).await?;
        let id = added.get("fdset-id").and_then(Value::as_u64);
        id.map(FdSet).ok_or_else(|| Error::Malformed { from: "QEMU", what: "add-fd without a set".into() })
    }

    /// Lets go of a set. What QEMU has opened of it stays open.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn remove_fd(&self, set: FdSet) -> Result<()> {
        self.execute("remove-fd", json!({ "fdset-id": set.0 })).await.map(drop)
    }

    /// Events from now on. One that reads too slowly is told that it lagged.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.inner.waiting.lock().unwrap_or_else(PoisonError::into_inner).closed
    }

    async fn run(
        &self,
        command: &str,
        arguments: Value,
        fd: Option<BorrowedFd<'_>>,
        timeout: Duration,
    ) -> Result<Value> {
        let id = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.inner.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.closed {
                return Err(Error::Closed("QEMU"));
            }
            waiting.answers.insert(id, answer);
        }
        let mut request = Map::new();
        request.insert("execute".into(), command.into());
        if arguments.as_object().is_some_and(|a| !a.is_empty()) {
            request.insert("arguments".into(), arguments);
        }
        request.insert("id".into(), id.into());
        let mut line = Value::Object(request).to_string().into_bytes();
        line.push(b'\n');
        let exchange = async {
            self.write(&line, fd).await?;
            answered.await.map_err(|_| Error::Closed("QEMU"))
        };
        let outcome = tokio::time::timeout(timeout, exchange).await;
        self.inner.waiting.lock().unwrap_or_else(PoisonError::into_inner).answers.remove(&id);
        match outcome {
            Err(_) => Err(Error::Timeout { what: format!("QMP {command}"), after: timeout }),
            Ok(Err(e)) => Err(e),
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err((class, text)))) => Err(Error::Qmp { command: command.to_owned(), class, text }),
        }
    }

    async fn write(&self, line: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<()> {
        // One line at a time, whole: a line cut short by a timeout would spoil the stream, but QEMU
        // reads until its buffer is full, and our lines are far smaller than a socket's buffer.
        let _turn = self.inner.write.lock().await;
        let stream = &self.inner.stream;
        let mut sent = 0;
        while sent < line.len() {
            stream.writable().await.map_err(|e| Error::io("write to", "QMP", e))?;
            let fds: &[BorrowedFd<'_>] = match &fd {
                Some(fd) if sent == 0 => std::slice::from_ref(fd),
                _ => &[],
            };
            let wrote = stream.try_io(Interest::WRITABLE, || fdpass::send(stream.as_fd(), &line[sent..], fds));
            match wrote {
                Ok(n) => sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Err(Error::Closed("QEMU")),
                Err(e) => return Err(Error::io("write to", "QMP", e)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_are_told_apart() {
        assert_eq!(parse(br#"{"QMP": {"version": {}}}"#), Ok(Message::Greeting));
        assert_eq!(
            parse(br#"{"timestamp": {}, "event": "STOP"}"#),
            Ok(Message::Event(Event { name: "STOP".into(), data: Value::Null }))
        );
        assert_eq!(parse(br#"{"return": {}, "id": 7}"#), Ok(Message::Answer(7, Ok(json!({})))));
        assert_eq!(
            parse(br#"{"id": 7, "error": {"class": "DeviceNotFound", "desc": "no"}}"#),
            Ok(Message::Answer(7, Err(("DeviceNotFound".into(), "no".into()))))
        );
    }

    proptest! {
        #[test]
        fn no_line_makes_the_parser_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&line);
        }

        #[test]
        fn no_json_makes_the_parser_panic(
            key in "(QMP|event|return|error|id|data)", value in "[0-9a-z\"\\[\\]{}:,-]{0,30}"
        ) {
            let _ = parse(format!("{{\"{key}\": {value}}}").as_bytes());
        }
    }

    #[tokio::test]
    async fn answers_find_their_question_and_the_end_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
            let (stream, _) = listener.accept().await.unwrap();
            let (read, mut write) = stream.into_split();
            write.write_all(b"{\"QMP\": {}}\r\n").await.unwrap();
            let mut lines = BufReader::new(read).lines();
            let mut ids = Vec::new();
            while let Some(line) = lines.next_line().await.unwrap() {
                let v: Value = serde_json::from_str(&line).unwrap();
                if v["execute"] == "qmp_capabilities" {
                    let text = format!("{}\n", json!({"return": {}, "id": v["id"]}));
                    write.write_all(text.as_bytes()).await.unwrap();
                    continue;
                }
                ids.push((v["id"].clone(), v["execute"].clone()));
                if ids.len() == 2 {
                    for (id, name) in ids.iter().rev() {
                        let text = format!("{}\n", json!({"return": name, "id": id}));
                        write.write_all(text.as_bytes()).await.unwrap();
                    }
                    write.write_all(b"{\"event\": \"RESUME\"}\n").await.unwrap();
                    break;
                }
            }
        });
        let qmp = Qmp::connect(&path, Duration::from_secs(5)).await.unwrap();
        let mut events = qmp.events();
        let (a, b) = tokio::join!(qmp.execute("one", json!({})), qmp.execute("two", json!({})));
        assert_eq!((a.unwrap(), b.unwrap()), (json!("one"), json!("two")));
        assert_eq!(events.recv().await.unwrap().name, "RESUME");
        server.await.unwrap();
        assert_eq!(events.recv().await.unwrap().name, Qmp::CLOSED);
        assert!(qmp.is_closed());
        assert!(matches!(qmp.execute("three", json!({})).await, Err(Error::Closed(_))));
    }
}
