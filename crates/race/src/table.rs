//! Results: one file per cell, a line per boot, so that a campaign goes on where it stopped; and the page that they make.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::boot::{Outcome, Scenario, Servers};
use crate::client::Client;
use crate::judge::Verdict;

/// One combination that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// The client.
    pub client: Client,
    /// What disturbs it.
    pub scenario: Scenario,
    /// Who serves DHCP.
    pub servers: Servers,
}

/// How many of a cell's judgements found what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Boots that were judged.
    pub boots: usize,
    /// After boots: off-link traffic leaves by the secondary, more than one default route, none.
    pub boot: [usize; 3],
    /// The same after renewals.
    pub renewal: [usize; 3],
    /// Boots that could not be judged: a client got no address, or did not renew.
    pub lost: usize,
}

impl Count {
    /// Whether every boot was judged, and found right.
    pub fn right(&self) -> bool {
        self.lost == 0 && self.boot == [0; 3] && self.renewal == [0; 3]
    }

    fn add(&mut self, o: &Count) {
        self.boots += o.boots;
        self.lost += o.lost;
        (0..3).for_each(|i| {
            self.boot[i] += o.boot[i];
            self.renewal[i] += o.renewal[i];
        });
    }

    /// `boot | renewal` as wrong/doubled/missing each.
    fn text(&self) -> String {
        let three = |n: [usize; 3]| format!("{}/{}/{}", n[0], n[1], n[2]);
        let lost = if self.lost > 0 { format!(", {} not judged", self.lost) } else { String::new() };
        format!("{} · {}{lost}", three(self.boot), three(self.renewal))
    }
}

/// A directory of results.
#[derive(Debug, Clone)]
pub struct Results(PathBuf);

impl Results {
    /// Opens a directory, and makes it if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        Ok(Self(dir.to_owned()))
    }

    fn path(&self, c: Cell) -> PathBuf {
        let version = c.client.version();
        self.0.join(format!("{}-{version}.{}.{}.tsv", c.client.name(), c.scenario.name(), c.servers.name()))
    }

    /// Adds what came of a boot.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&self, c: Cell, outcome: &Result<Outcome>) -> Result<()> {
        let flags = |v: Verdict| [v.wrong, v.doubled, v.missing].map(|f| if f { "1" } else { "0" }).join("\t");
        let line = match outcome {
            Ok(o) => format!("judged\t{}\t{}\n", flags(o.boot), flags(o.renewal)),
            Err(e) => format!("lost\t{}\n", e.to_string().lines().next().unwrap_or_default()),
        };
        let mut file = std::fs::File::options().create(true).append(true).open(self.path(c))?;
        Ok(file.write_all(line.as_bytes())?)
    }

    /// What is known of a cell.
    pub fn count(&self, c: Cell) -> Count {
        let text = std::fs::read_to_string(self.path(c)).unwrap_or_default();
        let mut out = Count::default();
        for line in text.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            match fields[..] {
                ["judged", a, b, c, d, e, f] => {
                    out.boots += 1;
                    for (n, flag) in out.boot.iter_mut().chain(&mut out.renewal).zip([a, b, c, d, e, f]) {
                        *n += usize::from(flag == "1");
                    }
                }
                ["lost", ..] => out.lost += 1,
                // The half of a line of a run that was killed.
                _ => {}
            }
        }
        out
    }

    /// All cells of some clients together, by server.
    pub fn sum(&self, clients: &[Client], servers: Servers) -> Count {
        let mut out = Count::default();
        for client in clients {
            for scenario in Scenario::ALL {
                out.add(&self.count(Cell { client: *client, scenario, servers }));
            }
        }
        out
    }

    /// The reference page.
    pub fn page(&self, clients: &[Client], date: &str, kernel: &str) -> String {
        let mut rows = String::new();
        let mut boots = (usize::MAX, 0);
        for client in clients {
            for scenario in Scenario::ALL {
                let cells = Servers::ALL.map(|servers| self.count(Cell { client: *client, scenario, servers }));
                for c in cells {
                    boots = (boots.0.min(c.boots), boots.1.max(c.boots));
                }
                let texts = cells.map(|c| c.text());
                let _ = writeln!(rows, "| {} | {} | {} |", client.name(), scenario.name(), texts.join(" | "));
            }
        }
        let sums = Servers::ALL.map(|s| self.sum(clients, s));
        let _ = writeln!(rows, "| **all** | | {} |", sums.map(|c| format!("**{}**", c.text())).join(" | "));
        let n = if boots.0 == boots.1 { format!("{}", boots.0) } else { format!("{} to {}", boots.0, boots.1) };
        let versions: Vec<String> = clients.iter().map(|c| format!("{} {}", c.name(), c.version())).collect();
        let judged = sums.iter().map(|c| c.boots).sum::<usize>();
        TEXT.replace("{date}", date)
            .replace("{kernel}", kernel)
            .replace("{n}", &n)
            .replace("{judged}", &judged.to_string())
            .replace("{versions}", &versions.join(", "))
            .replace("{rows}", &rows)
    }
}

const TEXT: &str = include_str!("page.md");

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_campaign_goes_on_after_half_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let results = Results::open(dir.path()).unwrap();
        let cell = Cell { client: Client::UdhcpcAlpine, scenario: Scenario::Slow, servers: Servers::Plain };
        let bad = Verdict { wrong: true, doubled: true, missing: false };
        results.add(cell, &Ok(Outcome { boot: Verdict::default(), renewal: bad })).unwrap();
        results.add(cell, &Err("no address\nand its logs".into())).unwrap();
        std::fs::File::options().append(true).open(results.path(cell)).unwrap().write_all(b"judged\t1\t").unwrap();
        let c = results.count(cell);
        assert_eq!((c.boots, c.boot, c.renewal, c.lost), (1, [0, 0, 0], [1, 1, 0], 1));
        assert!(!c.right());
        assert_eq!(c.text(), "0/0/0 · 1/1/0, 1 not judged");
        let page = results.page(&[Client::UdhcpcAlpine], "2000-01-01", "6.1");
        assert!(
            page.contains("| udhcpc-alpine | slow | 0/0/0 · 0/0/0 | 0/0/0 · 0/0/0 | 0/0/0 · 1/1/0, 1 not judged |")
        );
        assert!(!page.contains('{'));
    }
}
