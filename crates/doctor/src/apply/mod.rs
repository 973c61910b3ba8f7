//! Carries out the steps of cures, and undoes them.
//!
//! What every step will need to be undone is written to a journal and to the disk before the first
//! change, so that a crash at any point leaves a machine that `undo` brings back. Undoing is
//! idempotent: what is as it was already stays.

mod edit;
mod journal;
mod kernel;

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::machine::fix::Action;

pub use edit::edited;
pub use journal::{Journal, Undo};

/// Why a step could not be carried out or undone.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error("{path}")]
    File {
        /// Which.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] multihome_netlink::Error),
    /// The journal cannot be read.
    #[error("the undo journal {path} cannot be understood")]
    Journal {
        /// Where it is.
        path: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A program that was to read its configuration again failed.
    #[error("{command}: {why}")]
    Program {
        /// Program and arguments.
        command: String,
        /// What it said.
        why: String,
    },
    /// A file is not text.
    #[error("{0} is not text")]
    NotText(String),
}

/// Where cures are applied: the kernel of the calling thread's network namespace, and the files below
/// a root directory.
#[derive(Debug, Clone)]
pub struct Place {
    /// The root; programs are run only where it is `/`.
    pub root: PathBuf,
}

impl Place {
    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn read(&self, path: &str) -> Result<Option<(String, u32)>, Error> {
        let real = self.path(path);
        let fail = |source| Error::File { path: path.to_owned(), source };
        let bytes = match std::fs::read(&real) {
            Ok(b) => b,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(fail(e)),
        };
        let mode = std::fs::metadata(&real).map_err(fail)?.permissions().mode() & 0o7777;
        let text = String::from_utf8(bytes).map_err(|_| Error::NotText(path.to_owned()))?;
        Ok(Some((text, mode)))
    }

    /// Writes a file so that after a crash there is either the old or the new one, whole.
    fn write(&self, path: &str, text: &str, mode: u32) -> Result<(), Error> {
        let real = self.path(path);
        let fail = |source| Error::File { path: path.to_owned(), source };
        let dir = real.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(dir).map_err(fail)?;
        let name = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // A dot keeps programs that read whole directories from taking it.
        let temporary = dir.join(format!(".{name}.multihome"));
        let write = || {
            let mut file =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
            std::io::Write::write_all(&mut file, text.as_bytes())?;
            file.set_permissions(std::fs::Permissions::from_mode(mode))?;
            file.sync_all()?;
            std::fs::rename(&temporary, &real)?;
            std::fs::File::open(dir)?.sync_all()
        };
        write().map_err(fail)
    }
}

/// Applies steps. If one fails, those before it are undone.
///
/// # Errors
/// The step that failed; the machine is as it was, unless undoing failed, too, which is then the error.
pub fn apply(place: &Place, actions: &[Action]) -> Result<Vec<String>, Error> {
    let mut journal = Journal::load(place)?.unwrap_or_default();
    let before = journal.clone();
    let mut todo: Vec<&Action> = vec![];
    for action in actions {
        // Several findings may ask for the same step.
        if todo.contains(&action) {
            continue;
        }
        if let Some(undo) = undo_of(place, action)? {
            journal.entries.push(undo);
            todo.push(action);
        }
    }
    journal.save(place)?;
    let mut notes = vec![];
    for action in todo {
        match carry_out(place, action) {
            Ok(note) => notes.extend(note),
            Err(e) => {
                let entries = journal.entries.split_off(before.entries.len());
                revert(place, &entries)?;
                before.save(place)?;
                return Err(e);
            }
        }
    }
    Ok(notes)
}

/// Undoes everything that was applied and not undone since; says what. None if there is nothing.
///
/// # Errors
/// The first thing that could not be undone, after everything else was; the journal stays.
pub fn undo(place: &Place) -> Result<Option<Vec<String>>, Error> {
    let Some(journal) = Journal::load(place)?.filter(|j| !j.entries.is_empty()) else { return Ok(None) };
    let said = revert(place, &journal.entries)?;
    Journal::default().save(place)?;
    Ok(Some(said))
}

/// How to undo a step, from how things are now; none if there is nothing to do.
fn undo_of(place: &Place, action: &Action) -> Result<Option<Undo>, Error> {
    Ok(match action {
        Action::WriteFile { path, content, .. } => match place.read(path)? {
            Some((old, _)) if old == *content => None,
            old => Some(Undo::File { path: path.clone(), old }),
        },
        Action::EditFile { path, .. } => Some(Undo::File { path: path.clone(), old: place.read(path)? }),
        Action::Sysctl { key, value } => {
            let old = multihome_netlink::sysctl::read(key)?;
            (old != *value).then(|| Undo::Sysctl { key: key.clone(), value: old })
        }
        Action::AddRoute { route } => {
            let there = kernel::route_is_there(route)?;
            (!there).then(|| Undo::DeleteRoute { route: route.clone() })
        }
        Action::DeleteRoute { route } => {
            kernel::route_is_there(route)?.then(|| Undo::AddRoute { route: route.clone() })
        }
        Action::AddRule { rule } => {
            let there = kernel::rule_is_there(rule)?;
            (!there).then(|| Undo::DeleteRule { rule: rule.clone() })
        }
        Action::SetMtu { link, mtu } => {
            let old = kernel::mtu(link)?;
            (old != *mtu).then(|| Undo::SetMtu { link: link.clone(), mtu: old })
        }
        Action::Run { argv } => Some(Undo::Run { argv: argv.clone() }),
    })
}

fn carry_out(place: &Place, action: &Action) -> Result<Option<String>, Error> {
    match action {
        Action::WriteFile { path, content, mode } => place.write(path, content, *mode)?,
        Action::EditFile { path, edits, mode } => {
            let (text, mode) = place.read(path)?.unwrap_or((String::new(), *mode));
            place.write(path, &edited(&text, edits), mode)?;
        }
        Action::Sysctl { key, value } => drop(multihome_netlink::sysctl::set(key, value)?),
        Action::AddRoute { route } => kernel::add_route(route)?,
        Action::DeleteRoute { route } => kernel::delete_route(route)?,
        Action::AddRule { rule } => kernel::add_rule(rule)?,
        Action::SetMtu { link, mtu } => kernel::set_mtu(link, *mtu)?,
        Action::Run { argv } => return run(place, argv),
    }
    Ok(None)
}

/// Runs a program; that it is not there is a note, that it fails an error.
fn run(place: &Place, argv: &[String]) -> Result<Option<String>, Error> {
    let command = argv.join(" ");
    let Some((program, args)) = argv.split_first() else { return Ok(None) };
    if place.root != Path::new("/") {
        return Ok(Some(format!("not run, because the files are below {}: {command}", place.root.display())));
    }
    match Command::new(program).args(args).output() {
        Ok(out) if out.status.success() => Ok(None),
        Ok(out) => {
            let why = String::from_utf8_lossy(&out.stderr).trim().to_owned();
            Err(Error::Program { command, why: if why.is_empty() { out.status.to_string() } else { why } })
        }
        Err(e) => Ok(Some(format!("not run ({e}): {command}"))),
    }
}

/// Undoes one entry; says what, if there is something to say.
fn revert_one(place: &Place, entry: &Undo) -> Result<Option<String>, Error> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    match entry {
        Undo::File { path, old: Some((text, mode)) } => place.write(path, text, *mode)?,
        Undo::File { path, old: None } => match std::fs::remove_file(place.path(path)) {
            Err(e) if ![NotFound, NotADirectory].contains(&e.kind()) => {
                return Err(Error::File { path: path.clone(), source: e });
            }
            _ => {}
        },
        Undo::Sysctl { key, value } => drop(multihome_netlink::sysctl::set(key, value)?),
        Undo::AddRoute { route } => kernel::add_route(route)?,
        Undo::DeleteRoute { route } => kernel::delete_route(route)?,
        Undo::DeleteRule { rule } => kernel::delete_rule(rule)?,
        Undo::SetMtu { link, mtu } => kernel::set_mtu(link, *mtu)?,
        Undo::Run { .. } => return Ok(None),
    }
    Ok(Some(entry.to_string()))
}

/// Undoes entries, the last first, and goes on after a failure; programs read their configuration
/// again when all files are back.
fn revert(place: &Place, entries: &[Undo]) -> Result<Vec<String>, Error> {
    let mut said = vec![];
    let mut first_error = None;
    for entry in entries.iter().rev() {
        match revert_one(place, entry) {
            Ok(text) => said.extend(text),
            Err(e) => first_error = first_error.or(Some(e)),
        }
    }
    let mut ran: Vec<&[String]> = vec![];
    for entry in entries {
        if let Undo::Run { argv } = entry
            && !ran.contains(&argv.as_slice())
        {
            ran.push(argv);
            // Everything is back; a program that does not like it is reported and no reason to stop.
            said.push(match run(place, argv) {
                Ok(None) => argv.join(" "),
                Ok(Some(note)) => note,
                Err(e) => e.to_string(),
            });
        }
    }
    first_error.map_or(Ok(said), Err)
}

#[cfg(test)]
mod tests;
