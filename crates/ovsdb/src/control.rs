//! Commands for ovs-vswitchd itself (ovs-appctl(8)), over the socket that it makes for them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::client::Client;
use crate::error::{Error, Result};

/// ovs-vswitchd, by the directory that it keeps its sockets in.
#[derive(Debug)]
pub struct Control {
    directory: PathBuf,
    timeout: Duration,
    client: Option<(u32, Client)>,
}

impl Control {
    /// The one that runs from a directory; nothing is asked yet.
    pub fn new(directory: &Path, timeout: Duration) -> Self {
        Self { directory: directory.to_owned(), timeout, client: None }
    }

    /// Waits until the data path forgets what flows said that are there no more: until then frames pass as before, for some
    /// milliseconds.
    ///
    /// # Errors
    /// When it does not answer, or wrote down no process id.
    pub fn settle(&mut self) -> Result<()> {
        let client = self.client()?;
        // What it is at may have begun before the change, what it does next has not.
        for _ in 0..2 {
            client.call("revalidator/wait", json!([]))?;
        }
        Ok(())
    }

    fn client(&mut self) -> Result<&mut Client> {
        let file = self.directory.join("ovs-vswitchd.pid");
        let text = std::fs::read_to_string(&file).map_err(|e| Error::gone(&file, e))?;
        let pid: u32 = text.trim().parse().map_err(|_| Error::nonsense(&file, format!("process id {text:?}")))?;
        let client = match self.client.take() {
            Some((of, client)) if of == pid => client,
            _ => Client::new(self.directory.join(format!("ovs-vswitchd.{pid}.ctl")), "", self.timeout),
        };
        Ok(&mut self.client.insert((pid, client)).1)
    }
}
