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

    /// Waits until the data path forgets what flows said that are there no more, which takes some milliseconds, and until it has
    /// told what it counted. `nudge` changes some flow: else ovs-vswitchd looks through the data path twice a second only.
    ///
    /// # Errors
    /// When it does not answer, or cannot be nudged.
    pub fn settle(&mut self, mut nudge: impl FnMut() -> Result<()>) -> Result<()> {
        const WAIT: &str = "revalidator/wait";
        let client = self.client()?;
        // What it is at may have begun before the change, what it does next has not.
        for _ in 0..2 {
            let asked = client.ask(WAIT, json!([]))?;
            nudge()?;
            client.answer(asked, WAIT)?;
        }
        Ok(())
    }

    /// Makes all data paths forget what they were told of flows, and ask again with the next frame. Open vSwitch up to 3.1.0 changes
    /// the wrong entry of the one in user space where two are about the same frames (`flow_put_on_pmd` looks it up by a
    /// frame), so that what flows refuse now might pass for as long as anybody sends it.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn purge(&mut self) -> Result<()> {
        self.client()?.call("revalidator/purge", json!([])).map(drop)
    }

    /// Lets the connection tracker of a data path remember at most so many connections in each of these zones.
    ///
    /// # Errors
    /// When it does not answer, or refuses.
    pub fn limit_zones(&mut self, datapath: &str, zones: &[u16], most: u32) -> Result<()> {
        let limits = zones.iter().map(|zone| format!("zone={zone},limit={most}"));
        let words: Vec<String> = [datapath.to_owned()].into_iter().chain(limits).collect();
        self.client()?.call("dpctl/ct-set-limits", json!(words)).map(drop)
    }

    /// Takes these limits back.
    ///
    /// # Errors
    /// As [`Control::limit_zones`].
    pub fn unlimit_zones(&mut self, datapath: &str, zones: &[u16]) -> Result<()> {
        let zones: Vec<String> = zones.iter().map(ToString::to_string).collect();
        let list = format!("zone={}", zones.join(","));
        self.client()?.call("dpctl/ct-del-limits", json!([datapath, list])).map(drop)
    }

    /// Lets the connection tracker of a data path in user space remember at least so many connections in all.
    ///
    /// # Errors
    /// As [`Control::limit_zones`].
    pub fn raise_connections(&mut self, datapath: &str, least: u32) -> Result<()> {
        let client = self.client()?;
        let most = client.call("dpctl/ct-get-maxconns", json!([datapath]))?;
        let most: Option<u32> = most.as_str().and_then(|text| text.trim().parse().ok());
        if most.is_some_and(|most| most < least) {
            client.call("dpctl/ct-set-maxconns", json!([datapath, least.to_string()]))?;
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
