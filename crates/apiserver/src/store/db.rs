//! The SQLite file: opened, checked and migrated, loaded once, and written in transactions that are on disk when they return.
//!
//! Knows rows, not resources.

use super::object::Key;
use rusqlite::{Connection, params};
use std::path::{Path, PathBuf};

/// The layout of the file; a newer one is refused.
const LAYOUT: i64 = 1;

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory cannot be made or made private.
    #[error("cannot prepare the data directory {}", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another process holds the database.
    #[error("the database {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// SQLite refuses the file.
    #[error("cannot open the database {}", .path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The file was written by a newer version of this program.
    #[error("the database {} has layout {found}, this program knows layouts up to {LAYOUT}", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: i64,
    },
    /// A row holds what is not an object.
    #[error("the database {} holds a damaged object {object}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which object.
        object: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// One stored row.
pub(crate) struct Row {
    pub group: String,
    pub plural: String,
    pub key: Key,
    pub body: Vec<u8>,
}

/// One row to write, or to delete where there is no body.
pub(crate) struct RowWrite<'a> {
    pub group: &'a str,
    pub plural: &'a str,
    pub key: &'a Key,
    pub api_version: &'a str,
    pub body: Option<&'a [u8]>,
}

/// An open database, held exclusively.
pub(crate) struct Database {
    connection: Connection,
}

impl Database {
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let fail = |source: rusqlite::Error| match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                OpenError::InUse(path.to_owned())
            }
            _ => OpenError::Database { path: path.to_owned(), source },
        };
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            private_directory(parent).map_err(|source| OpenError::Directory { path: parent.to_owned(), source })?;
        }
        private_file(path).map_err(|source| OpenError::Directory { path: path.to_owned(), source })?;
        let connection = Connection::open(path).map_err(fail)?;
        Self::prepare(&connection).map_err(fail)?;
        let found: i64 = connection.query_row("PRAGMA user_version", [], |r| r.get(0)).map_err(fail)?;
        match found {
            LAYOUT => {}
            0 => connection
                .execute_batch(&format!(
                    "BEGIN IMMEDIATE;
                     CREATE TABLE object (
                       grp TEXT NOT NULL, plural TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
                       api_version TEXT NOT NULL, body BLOB NOT NULL,
                       PRIMARY KEY (grp, plural, namespace, name)
                     ) WITHOUT ROWID;
                     CREATE TABLE counter (id INTEGER PRIMARY KEY CHECK (id = 0), version INTEGER NOT NULL);
                     INSERT INTO counter VALUES (0, 1);
                     PRAGMA user_version = {LAYOUT};
                     COMMIT;"
                ))
                .map_err(fail)?,
            found => return Err(OpenError::Newer { path: path.to_owned(), found }),
        }
        Ok(Self { connection })
    }

    /// One process, one connection: the lock is taken for good, which also keeps the WAL index in this process's own memory.
    fn prepare(connection: &Connection) -> rusqlite::Result<()> {
        connection.busy_timeout(std::time::Duration::from_millis(500))?;
        connection.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY;")?;
        // the lock is only taken by the first write
        connection.execute_batch("BEGIN IMMEDIATE; COMMIT;")
    }

    /// The last resource version that was given out.
    pub fn version(&self) -> rusqlite::Result<u64> {
        self.connection.query_row("SELECT version FROM counter", [], |r| r.get::<_, i64>(0)).map(i64::unsigned_abs)
    }

    pub fn load(&self, mut each: impl FnMut(Row)) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare("SELECT grp, plural, namespace, name, body FROM object")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (namespace, name): (String, String) = (row.get(2)?, row.get(3)?);
            each(Row { group: row.get(0)?, plural: row.get(1)?, key: Key::new(&namespace, &name), body: row.get(4)? });
        }
        Ok(())
    }

    /// Writes all rows and the new version in one transaction. When it returns, it is on disk.
    pub fn write<'a>(&mut self, version: u64, rows: impl Iterator<Item = RowWrite<'a>>) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        {
            let mut put = transaction.prepare_cached(
                "INSERT INTO object (grp, plural, namespace, name, api_version, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT DO UPDATE SET api_version = excluded.api_version, body = excluded.body",
            )?;
            let mut delete = transaction
                .prepare_cached("DELETE FROM object WHERE grp = ?1 AND plural = ?2 AND namespace = ?3 AND name = ?4")?;
            for row in rows {
                match row.body {
                    Some(body) => put.execute(params![
                        row.group,
                        row.plural,
                        &*row.key.namespace,
                        &*row.key.name,
                        row.api_version,
                        body
                    ])?,
                    None => delete.execute(params![row.group, row.plural, &*row.key.namespace, &*row.key.name])?,
                };
            }
            transaction.prepare_cached("UPDATE counter SET version = ?1")?.execute([version.cast_signed()])?;
        }
        transaction.commit()
    }
}

/// Makes a file, or an existing one, readable by its owner alone: secrets are in it. SQLite gives its log the same mode.
fn private_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))
}

/// Makes a directory, and its missing parents, that only its owner may enter.
pub(crate) fn private_directory(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if path.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_is_read_and_the_file_is_exclusive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/store.db");
        let key = Key::new("ns", "n");
        {
            let mut db = Database::open(&path).unwrap();
            assert!(matches!(Database::open(&path), Err(OpenError::InUse(_))));
            let row = |body| RowWrite { group: "g", plural: "ps", key: &key, api_version: "g/v1", body };
            db.write(5, [row(Some(&b"{}"[..]))].into_iter()).unwrap();
            db.write(6, [row(Some(&b"{\"a\":1}"[..]))].into_iter()).unwrap();
        }
        let db = Database::open(&path).unwrap();
        let mut rows = Vec::new();
        db.load(|r| rows.push((r.group, r.plural, r.key, r.body))).unwrap();
        assert_eq!(rows, [("g".into(), "ps".into(), key, b"{\"a\":1}".to_vec())]);
        assert_eq!(db.version().unwrap(), 6);
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_newer_layout_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
        assert!(matches!(Database::open(&path), Err(OpenError::Newer { found: 99, .. })));
    }
}
