//! What is needed to undo cures, on disk before anything is changed.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Error, Place};
use crate::machine::{Route, Rule};

const PATH: &str = "/var/lib/multihome/doctor-undo.json";

/// How to undo one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "kebab-case")]
pub enum Undo {
    /// Restores a file with its text and permission bits, or removes it if there was none.
    File {
        /// Path on the machine.
        path: String,
        /// What it was.
        old: Option<(String, u32)>,
    },
    /// Sets a kernel parameter back.
    Sysctl {
        /// Path below `/proc/sys`.
        key: String,
        /// What it was.
        value: String,
    },
    /// Adds a route that was deleted.
    AddRoute {
        /// The route.
        route: Route,
    },
    /// Deletes a route that was added.
    DeleteRoute {
        /// The route.
        route: Route,
    },
    /// Deletes a rule that was added.
    DeleteRule {
        /// The rule.
        rule: Rule,
    },
    /// Sets the MTU of a link back.
    SetMtu {
        /// The link.
        link: String,
        /// What it was, in bytes.
        mtu: u32,
    },
    /// Has a program read its configuration again.
    Run {
        /// Program and arguments.
        argv: Vec<String>,
    },
}

impl fmt::Display for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, old: Some(_) } => write!(f, "{path} is as it was"),
            Self::File { path, old: None } => write!(f, "{path} is removed"),
            Self::Sysctl { key, value } => write!(f, "{key} is {value} again"),
            Self::AddRoute { route } => write!(f, "the route to {} by {} is back", route.to, dev(route)),
            Self::DeleteRoute { route } => write!(f, "the route to {} by {} is removed", route.to, dev(route)),
            Self::DeleteRule { rule } => write!(f, "the rule from {} is removed", rule.from),
            Self::SetMtu { link, mtu } => write!(f, "{link} has MTU {mtu} again"),
            Self::Run { argv } => f.write_str(&argv.join(" ")),
        }
    }
}

fn dev(r: &Route) -> &str {
    r.dev.as_deref().unwrap_or("none")
}

/// Everything that was applied and not undone since, in order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Journal {
    /// How to undo each step.
    pub entries: Vec<Undo>,
}

impl Journal {
    /// The journal of a place, if there is one.
    ///
    /// # Errors
    /// When it cannot be read or understood.
    pub fn load(place: &Place) -> Result<Option<Self>, Error> {
        let Some((text, _)) = place.read(PATH)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|source| Error::Journal { path: PATH.into(), source })
    }

    /// Writes it, readable by its owner only, and to the disk; an empty one is removed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, place: &Place) -> Result<(), Error> {
        if self.entries.is_empty() {
            return match std::fs::remove_file(place.path(PATH)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::File { path: PATH.into(), source: e }),
                _ => Ok(()),
            };
        }
        let text = serde_json::to_string_pretty(self).map_err(|source| Error::Journal { path: PATH.into(), source })?;
        place.write(PATH, &text, 0o600)
    }
}
