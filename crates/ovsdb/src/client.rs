//! A connection to the database server.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::frames::Frames;
use crate::transaction::{Done, Transaction, read};
use crate::value::{Row, Uuid};

/// The rows of a table that changed, as they are now; `None` for one that was removed.
pub type Updates = BTreeMap<Uuid, Option<Row>>;

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    frames: Frames,
}

/// A client of one database, which connects by itself when something is asked and the last connection broke.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    database: &'static str,
    timeout: Duration,
    connection: Option<Connection>,
    connected: u64,
    next: u64,
    sent: u64,
    updates: Vec<Value>,
}

impl Client {
    /// A client of a database behind a Unix socket; nothing is asked yet. An answer that takes longer than `timeout` is none.
    pub fn new(path: impl Into<PathBuf>, database: &'static str, timeout: Duration) -> Self {
        let path = path.into();
        Self { path, database, timeout, connection: None, connected: 0, next: 0, sent: 0, updates: vec![] }
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many times it was connected: another number than before means that what was [monitored](Self::monitor) no longer is.
    pub fn connections(&self) -> u64 {
        self.connected
    }

    /// How many transactions were sent.
    pub fn transactions(&self) -> u64 {
        self.sent
    }

    /// Whether the server is there: connects if need be, and takes in what came meanwhile.
    pub fn is_connected(&mut self) -> bool {
        if self.connect().is_err() {
            return false;
        }
        self.pump(Instant::now()).is_ok()
    }

    fn connect(&mut self) -> Result<&mut Connection> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let stream = UnixStream::connect(&self.path).map_err(|e| Error::gone(&self.path, e))?;
                self.connected += 1;
                self.updates.clear();
                Connection { stream, frames: Frames::default() }
            }
        };
        Ok(self.connection.insert(connection))
    }

    fn write(&mut self, message: &Value) -> Result<()> {
        let (path, timeout) = (self.path.clone(), self.timeout);
        let stream = &mut self.connect()?.stream;
        let written =
            stream.set_write_timeout(Some(timeout)).and_then(|()| stream.write_all(message.to_string().as_bytes()));
        written.map_err(|e| {
            self.connection = None;
            Error::gone(&path, e)
        })
    }

    /// The next message, if one comes until then.
    fn receive(&mut self, until: Instant) -> Result<Option<Value>> {
        let path = self.path.clone();
        loop {
            let connection = self.connect()?;
            match connection.frames.next() {
                Ok(Some(message)) => return Ok(Some(message)),
                Ok(None) => {}
                Err(what) => {
                    self.connection = None;
                    return Err(Error::nonsense(&path, what));
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            let mut bytes = [0; 65536];
            let stream = &mut connection.stream;
            let read = match left.is_zero() {
                // What is there; a wait of any length would be one of some milliseconds.
                true => stream.set_nonblocking(true).and_then(|()| {
                    let read = stream.read(&mut bytes);
                    stream.set_nonblocking(false).and(read)
                }),
                false => stream.set_read_timeout(Some(left)).and_then(|()| stream.read(&mut bytes)),
            };
            let source = match read {
                Ok(0) => ErrorKind::UnexpectedEof.into(),
                Ok(n) => {
                    connection.frames.push(&bytes[..n]);
                    continue;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if Instant::now() >= until {
                        return Ok(None);
                    }
                    continue;
                }
                Err(e) => e,
            };
            self.connection = None;
            return Err(Error::gone(&path, source));
        }
    }

    /// Takes in one message that is no answer to us. Whether we are alive is asked by the server now and then (section 4.1.11).
    fn hear(&mut self, message: Value) -> Result<()> {
        match message.get("method").and_then(Value::as_str) {
            Some("echo") => {
                let answer = json!({ "id": message.get("id"), "result": message.get("params"), "error": null });
                self.write(&answer)
            }
            Some("update") => {
                self.updates.extend(message.get("params").and_then(|p| p.get(1)).cloned());
                Ok(())
            }
            // Answers to what was given up, and what was not asked for.
            _ => Ok(()),
        }
    }

    fn pump(&mut self, until: Instant) -> Result<()> {
        while let Some(message) = self.receive(until)? {
            self.hear(message)?;
        }
        Ok(())
    }

    /// Calls a method and returns its result.
    pub(crate) fn call(&mut self, method: &'static str, params: Value) -> Result<Value> {
        let id = self.ask(method, params)?;
        self.answer(id, method)
    }

    /// Asks something whose answer is taken later: nothing else may be asked before.
    pub(crate) fn ask(&mut self, method: &'static str, params: Value) -> Result<u64> {
        self.next += 1;
        let id = self.next;
        self.write(&json!({ "method": method, "params": params, "id": id }))?;
        Ok(id)
    }

    /// The result of what was asked.
    pub(crate) fn answer(&mut self, id: u64, method: &'static str) -> Result<Value> {
        let (before, until) = (self.connected, Instant::now() + self.timeout);
        while let Some(mut message) = self.receive(until)? {
            if self.connected != before {
                break;
            }
            if message.get("method").is_some() || message.get("id") != Some(&json!(id)) {
                self.hear(message)?;
                continue;
            }
            if let Some(error) = message.get("error").filter(|e| !e.is_null()) {
                let text = |key: &str| error.get(key).and_then(Value::as_str).map(str::to_owned);
                let error = text("error").unwrap_or_else(|| error.to_string());
                return Err(Error::Refused { error, details: text("details").unwrap_or_default(), operation: None });
            }
            return Ok(message.get_mut("result").map(Value::take).unwrap_or_default());
        }
        // An answer that comes late is not one to what is asked next.
        self.connection = None;
        let path = self.path.display().to_string();
        Err(Error::Silent { path, seconds: self.timeout.as_secs(), what: method })
    }

    /// Carries out a transaction, and returns what each operation did.
    ///
    /// # Errors
    /// [`Error::Refused`] if nothing was done. After any other error it is not known whether it was.
    pub fn transact(&mut self, transaction: &Transaction) -> Result<Vec<Done>> {
        self.sent += 1;
        let answer = self.call("transact", transaction.params(self.database))?;
        read(&answer, &self.path)
    }

    /// Asks to be told of every change of columns of a table ([`Client::updates`]).
    ///
    /// # Errors
    /// When the server refuses, as for a table that it does not have.
    pub fn monitor(&mut self, table: &str, columns: &[&str]) -> Result<Updates> {
        let requests = json!({ table: { "columns": columns } });
        let answer = self.call("monitor", json!([self.database, table, requests]))?;
        Ok(changed(&answer, table))
    }

    /// What changed of the monitored tables since the last time, by table; waits for a change until then, if there is none.
    ///
    /// # Errors
    /// When the connection breaks: then nothing is monitored any more.
    pub fn updates(&mut self, until: Instant) -> Result<BTreeMap<String, Updates>> {
        let before = self.connected;
        loop {
            let mut all: BTreeMap<String, Updates> = BTreeMap::new();
            for update in std::mem::take(&mut self.updates) {
                for table in update.as_object().into_iter().flat_map(|o| o.keys()) {
                    all.entry(table.clone()).or_default().extend(changed(&update, table));
                }
            }
            if !all.is_empty() {
                return Ok(all);
            }
            match self.receive(until)? {
                Some(message) => self.hear(message)?,
                None => return Ok(all),
            }
            if self.connected != before {
                let source = std::io::Error::from(ErrorKind::ConnectionReset);
                return Err(Error::gone(&self.path, source));
            }
        }
    }
}

/// Reads a table's part of `<table-updates>` (section 4.1.6).
fn changed(updates: &Value, table: &str) -> Updates {
    let rows = updates.get(table).and_then(Value::as_object).into_iter().flatten();
    let row = |change: &Value| change.get("new").and_then(Value::as_object).cloned().map(Row);
    rows.map(|(uuid, change)| (Uuid(uuid.clone()), row(change))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A server that says this in answer to each request, in order, and hangs up after the last.
    fn server(script: Vec<Vec<String>>) -> (tempfile::TempDir, Client, std::thread::JoinHandle<()>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let thread = std::thread::spawn(move || {
            for connection in script {
                let (mut stream, _) = listener.accept().unwrap();
                for answer in connection {
                    let mut bytes = [0; 4096];
                    assert!(stream.read(&mut bytes).unwrap() > 0);
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            }
        });
        let client = Client::new(&path, "Open_vSwitch", Duration::from_secs(5));
        (dir, client, thread)
    }

    #[test]
    fn echoes_and_updates_come_between_a_question_and_its_answer() {
        let between =
            r#"{"method":"update","params":["T",{"T":{"u1":{"new":{"n":5}},"u2":{"old":{"n":1}}}}],"id":null}"#;
        let (_dir, mut client, thread) = server(vec![vec![
            format!(r#"{between}{{"id":"e","method":"echo","params":[1]}}"#),
            // Said after our answer to the echo.
            r#"{"id":99,"result":"late","error":null}{"id":1,"result":[{"count":2}],"error":null}"#.to_owned(),
        ]]);
        let mut transaction = Transaction::new();
        transaction.delete("T", &Where::All);
        assert_eq!(client.transact(&transaction).unwrap()[0].count, 2);
        let updates = client.updates(Instant::now()).unwrap().remove("T").unwrap();
        assert_eq!(updates[&Uuid("u1".into())].as_ref().and_then(|r| r.int("n")), Some(5));
        assert_eq!(updates[&Uuid("u2".into())], None);
        thread.join().unwrap();
    }

    use crate::transaction::Where;

    #[test]
    fn who_hangs_up_is_called_again_by_the_next_question_alone() {
        let (_dir, mut client, thread) = server(vec![
            vec![String::new()],
            vec![r#"{"id":2,"result":[],"error":null}"#.to_owned()],
            vec!["no json".to_owned()],
        ]);
        let ask = |client: &mut Client| client.transact(&Transaction::new());
        assert!(ask(&mut client).unwrap_err().is_gone());
        assert_eq!(ask(&mut client).unwrap(), []);
        assert_eq!(client.connections(), 2);
        // The server has hung up again, which shows when somebody looks.
        while client.connection.is_some() {
            let _ = client.pump(Instant::now());
        }
        assert!(matches!(ask(&mut client), Err(Error::Nonsense { .. })));
        thread.join().unwrap();
        assert!(!client.is_connected());
    }
}
