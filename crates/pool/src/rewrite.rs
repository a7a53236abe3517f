//! Writing a store anew under another key, in place of the file that was there.
//!
//! The new file is written beside the old one, compared with it, synchronised and renamed over it. A crash leaves
//! either the old file or the new one under the name, whole.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, named_params};

use crate::error::StoreError;
use crate::open::{connect, require_cipher};
use crate::store::{LocalStore, create_private};
use crate::store_key::StoreKey;

/// The new file, until it takes the name of the old one.
pub(crate) const NEW: &str = "-new";
/// The old file, from when the new one is complete until it is erased.
const OLD: &str = "-old";
/// SQLCipher's salt, or in a file that is not encrypted the words that all of those begin with.
const HEADER_BYTES: usize = 16;
static ERASER: [u8; 1 << 16] = [0; 1 << 16];

/// What has been done. A crash may come after any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// Nothing but the old file holds anything: its log is empty.
    Settled,
    /// The new file is being written.
    Begun,
    /// The new file is written.
    Written,
    /// The new file is synchronised, and opens with its key.
    Proved,
    /// The old file has a second name.
    Kept,
    /// The new file has the name of the old one.
    Replaced,
    /// The old file is overwritten.
    Overwritten,
    /// The old file is gone.
    Erased,
}

impl LocalStore {
    /// Encrypts a file that is not. Nobody may have it open.
    ///
    /// What was there before is overwritten. That does not reach copies which the file system or the drive keep for
    /// themselves (snapshots, journals, spare blocks of a flash drive), so a file is best encrypted from its beginning.
    ///
    /// # Errors
    /// [`StoreError::Encrypted`] when it is encrypted already, [`StoreError::InUse`], [`StoreError::NoCipher`], and
    /// others. Either nothing has happened, or, with [`StoreError::NotErased`], only the old file could not be erased.
    pub fn encrypt(path: &Path, key: &StoreKey) -> Result<(), StoreError> {
        rewrite(path, None, key, |_| ())
    }

    /// Encrypts a file with another key. Nobody may have it open.
    ///
    /// # Errors
    /// [`StoreError::WrongKey`] when `old` is not its key, [`StoreError::NotEncrypted`], [`StoreError::InUse`], and
    /// others. Either nothing has happened, or, with [`StoreError::NotErased`], only the old file could not be erased.
    pub fn change_key(path: &Path, old: &StoreKey, new: &StoreKey) -> Result<(), StoreError> {
        rewrite(path, Some(old), new, |_| ())
    }
}

fn rewrite(
    path: &Path,
    old_key: Option<&StoreKey>,
    new_key: &StoreKey,
    mut step: impl FnMut(Step),
) -> Result<(), StoreError> {
    require_cipher()?;
    finish(path)?;
    let mut connection = connect(path, old_key)?;
    let log = File::options().write(true).open(beside(path, "-wal")).ok();
    exclude_others(&connection)?;
    // Its name is gone, and its pages are in the database.
    if let Some(log) = log {
        overwrite(&log)?;
    }
    step(Step::Settled);

    let new = beside(path, NEW);
    if let Err(error) = write(&mut connection, &new, new_key, &mut step) {
        // What is left of it is encrypted, and the next attempt removes it too.
        let _ = remove_all(&new);
        return Err(error);
    }
    step(Step::Proved);

    // The second name only serves to find the old file after a crash; not every file system has them.
    let old = beside(path, OLD);
    let unnamed = match fs::hard_link(path, &old) {
        Ok(()) => None,
        Err(_) => Some(File::options().write(true).open(path)?),
    };
    synchronise_directory(path)?;
    step(Step::Kept);
    // The lock is held until nobody can reach the old file by its name; elsewhere no open file can be replaced.
    let held = cfg!(unix).then_some(connection);
    fs::rename(&new, path)?;
    synchronise_directory(path).map_err(StoreError::NotErased)?;
    drop(held);
    step(Step::Replaced);
    match unnamed {
        None => erase(path, &old, step),
        Some(file) => overwrite(&file),
    }
    .map_err(StoreError::NotErased)
}

/// Writes the new file and makes sure of it.
fn write(
    connection: &mut Connection,
    new: &Path,
    key: &StoreKey,
    step: &mut impl FnMut(Step),
) -> Result<(), StoreError> {
    remove_all(new)?;
    create_private(new)?;
    attach(connection, new, key)?;
    step(Step::Begun);
    copy(connection)?;
    connection.execute_batch("DETACH rewritten")?;
    step(Step::Written);
    File::open(new)?.sync_all()?;
    prove(new, key)
}

/// Does what a crash left undone: erases the old file if the new one is in place.
pub(crate) fn finish(path: &Path) -> Result<(), StoreError> {
    let old = beside(path, OLD);
    if !old.try_exists()? {
        return Ok(());
    }
    // Of an old file that has not been replaced this is only a second name.
    match header(&old)? == header(path)? {
        true => remove(&old)?,
        false => erase(path, &old, |_| ()).map_err(StoreError::NotErased)?,
    }
    Ok(())
}

fn erase(path: &Path, old: &Path, mut step: impl FnMut(Step)) -> io::Result<()> {
    overwrite(&File::options().write(true).open(old)?)?;
    step(Step::Overwritten);
    remove(old)?;
    synchronise_directory(path)?;
    step(Step::Erased);
    Ok(())
}

/// Takes the file for this connection alone until it is closed, with everything in it and nothing in a log.
fn exclude_others(connection: &Connection) -> Result<(), StoreError> {
    // Waiting for somebody who uses the file helps nobody.
    connection.busy_timeout(Duration::ZERO)?;
    let mode = connection
        .pragma_update(None, "locking_mode", "EXCLUSIVE")
        .and_then(|()| connection.query_row("PRAGMA journal_mode=DELETE", [], |row| row.get::<_, String>(0)));
    match mode {
        Ok(mode) if mode == "delete" => {}
        Ok(_) => return Err(StoreError::InUse),
        Err(error) if is_busy(&error) => return Err(StoreError::InUse),
        Err(error) => return Err(error.into()),
    }
    match connection.execute_batch("BEGIN EXCLUSIVE; COMMIT") {
        Err(error) if is_busy(&error) => Err(StoreError::InUse),
        done => Ok(done?),
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

pub(crate) fn attach(connection: &Connection, new: &Path, key: &StoreKey) -> Result<(), StoreError> {
    let name = new
        .to_str()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidFilename, "not UTF-8"))?;
    connection
        .execute(
            "ATTACH DATABASE :name AS rewritten KEY :key",
            named_params! {":name": name, ":key": key.text().as_str()},
        )
        .map_err(|_| StoreError::Pragma("key"))?;
    // Attaching to a file that is not encrypted is the first use of the cipher in this connection.
    connection.pragma_update(None, "cipher_log_level", "NONE")?;
    connection.pragma_update(Some("rewritten"), "synchronous", 2)?;
    Ok(())
}

/// Attaches a database that is nowhere but in memory, and not encrypted.
pub(crate) fn attach_memory(connection: &Connection) -> Result<(), StoreError> {
    Ok(connection.execute_batch("ATTACH DATABASE ':memory:' AS rewritten KEY ''")?)
}

/// Copies tables, indexes, triggers and rows, and what SQLCipher's function leaves out, and compares.
pub(crate) fn copy(connection: &mut Connection) -> Result<(), StoreError> {
    let transaction = connection.transaction()?;
    transaction.query_row("SELECT sqlcipher_export('rewritten')", [], |_| Ok(()))?;
    for pragma in ["user_version", "application_id"] {
        let value: i64 = transaction.pragma_query_value(Some("main"), pragma, |row| row.get(0))?;
        transaction.pragma_update(Some("rewritten"), pragma, value)?;
    }
    let schema = "SELECT type, name, tbl_name, sql FROM {}.sqlite_schema";
    compare(&transaction, schema)?;
    let tables: Vec<String> = transaction
        .prepare("SELECT name FROM main.sqlite_schema WHERE type = 'table'")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for table in tables {
        let quoted = table.replace('"', "\"\"");
        compare(&transaction, &format!("SELECT * FROM {{}}.\"{quoted}\""))?;
        compare(&transaction, &format!("SELECT count(*) FROM {{}}.\"{quoted}\""))?;
    }
    Ok(transaction.commit()?)
}

/// Fails unless a query, whose `{}` is a database, has the same rows in both.
fn compare(connection: &Connection, query: &str) -> Result<(), StoreError> {
    let [old, new] = ["main", "rewritten"].map(|database| query.replacen("{}", database, 1));
    let differs: bool = connection.query_row(
        &format!("SELECT EXISTS ({old} EXCEPT {new}) OR EXISTS ({new} EXCEPT {old})"),
        [],
        |row| row.get(0),
    )?;
    match differs {
        true => Err(StoreError::Copy),
        false => Ok(()),
    }
}

/// Reads the new file as the next process will, each page with its authentication tag.
fn prove(new: &Path, key: &StoreKey) -> Result<(), StoreError> {
    let connection = connect(new, Some(key))?;
    let mut complaints = connection.prepare("PRAGMA cipher_integrity_check")?;
    match complaints.exists([])? {
        true => Err(StoreError::Copy),
        false => Ok(()),
    }
}

fn overwrite(mut file: &File) -> io::Result<()> {
    let mut left = file.metadata()?.len();
    while left > 0 {
        let length = left.min(ERASER.len() as u64);
        file.write_all(&ERASER[..length as usize])?;
        left -= length;
    }
    file.sync_all()
}

fn header(path: &Path) -> io::Result<Vec<u8>> {
    let mut header = Vec::new();
    File::open(path)?
        .take(HEADER_BYTES as u64)
        .read_to_end(&mut header)?;
    Ok(header)
}

/// Removes a database with its side files.
pub(crate) fn remove_all(database: &Path) -> io::Result<()> {
    for side in ["", "-journal", "-wal", "-shm"] {
        remove(&beside(database, side))?;
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// Makes names durable, where a directory can be synchronised.
pub(crate) fn synchronise_directory(path: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    };
    OpenOptions::new().read(true).open(directory)?.sync_all()
}

#[cfg(test)]
#[cfg(feature = "sqlcipher")]
mod tests {
    use std::cell::RefCell;

    use tempfile::TempDir;
    use zeroize::Zeroizing;

    use super::*;

    const TEXT: &str = "the canary sings at midnight";
    const ROWS: i64 = 300;

    fn raw(byte: u8) -> StoreKey {
        StoreKey::raw(Zeroizing::new([byte; 32]))
    }

    fn rows(store: &mut LocalStore) -> i64 {
        store
            .connection_mut()
            .query_row("SELECT count(*) FROM canary WHERE text = ?1", [TEXT], |row| {
                row.get(0)
            })
            .unwrap()
    }

    /// A file with rows, some of them in the log only.
    fn stocked(key: Option<&StoreKey>) -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("device.sqlite");
        let mut store = LocalStore::open_with(&path, key).unwrap();
        let connection = store.connection_mut();
        connection
            .execute_batch("CREATE TABLE canary (text TEXT)")
            .unwrap();
        for _ in 0..ROWS {
            connection
                .execute("INSERT INTO canary VALUES (?1)", [TEXT])
                .unwrap();
        }
        let crashed = copied(directory.path());
        assert!(
            fs::metadata(beside(&crashed.path().join("device.sqlite"), "-wal"))
                .unwrap()
                .len()
                > 0
        );
        let path = crashed.path().join("device.sqlite");
        (crashed, path)
    }

    /// What a crash now would leave.
    fn copied(directory: &Path) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        for file in fs::read_dir(directory).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "sqlite-shm") {
                fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        copy
    }

    fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|file| file.unwrap().path())
            .map(|path| {
                (
                    path.file_name().unwrap().to_str().unwrap().to_owned(),
                    fs::read(&path).unwrap(),
                )
            })
            .collect();
        files.sort();
        files
    }

    #[test]
    fn a_crash_after_any_step_leaves_the_old_file_or_the_new_one_whole() {
        for old_key in [None, Some(raw(1))] {
            let (directory, path) = stocked(old_key.as_ref());
            let crashes = RefCell::new(Vec::new());
            rewrite(&path, old_key.as_ref(), &raw(2), |step| {
                crashes.borrow_mut().push((step, copied(directory.path())));
            })
            .unwrap();
            let crashes = crashes.into_inner();
            let steps: Vec<Step> = crashes.iter().map(|(step, _)| *step).collect();
            assert_eq!(
                steps,
                [
                    Step::Settled,
                    Step::Begun,
                    Step::Written,
                    Step::Proved,
                    Step::Kept,
                    Step::Replaced,
                    Step::Overwritten,
                    Step::Erased
                ]
            );
            for (step, crashed) in crashes {
                let path = crashed.path().join("device.sqlite");
                if step < Step::Replaced {
                    let mut store = LocalStore::open_with(&path, old_key.as_ref()).unwrap();
                    assert_eq!(rows(&mut store), ROWS, "{step:?}");
                    drop(store);
                    rewrite(&path, old_key.as_ref(), &raw(2), |_| ()).unwrap();
                }
                let mut store = LocalStore::open_encrypted(&path, &raw(2)).unwrap();
                assert_eq!(rows(&mut store), ROWS, "{step:?}");
                drop(store);
                let names: Vec<String> = files(crashed.path()).into_iter().map(|(name, _)| name).collect();
                assert_eq!(names, ["device.sqlite"], "{step:?}: the old file is gone");
            }
        }
    }

    #[test]
    fn what_was_in_the_clear_is_overwritten_before_its_name_goes() {
        let shows = |bytes: &[u8]| bytes.windows(TEXT.len()).any(|window| window == TEXT.as_bytes());
        let (directory, path) = stocked(None);
        let mut seen = Vec::new();
        rewrite(&path, None, &raw(2), |step| {
            for (name, bytes) in files(directory.path()) {
                seen.push((step, name, shows(&bytes)));
            }
        })
        .unwrap();
        let showing = |step| -> Vec<&str> {
            let of_step = seen.iter().filter(|(at, _, shows)| *at == step && *shows);
            of_step.map(|(_, name, _)| name.as_str()).collect()
        };
        assert_eq!(showing(Step::Settled), ["device.sqlite"]);
        assert_eq!(showing(Step::Proved), ["device.sqlite"]);
        assert_eq!(showing(Step::Replaced), ["device.sqlite-old"]);
        assert!(
            seen.iter()
                .any(|(at, name, _)| *at == Step::Overwritten && name == "device.sqlite-old")
        );
        assert!(showing(Step::Overwritten).is_empty());
    }

    #[test]
    fn a_copy_that_differs_is_noticed() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "CREATE TABLE t (x); INSERT INTO t VALUES (1), (2);
                 ATTACH ':memory:' AS rewritten; CREATE TABLE rewritten.t (x);
                 INSERT INTO rewritten.t VALUES (1), (3)",
            )
            .unwrap();
        let compare = |connection: &mut Connection| compare(connection, "SELECT * FROM {}.t");
        assert!(matches!(compare(&mut connection), Err(StoreError::Copy)));
        connection
            .execute_batch("UPDATE rewritten.t SET x = 2 WHERE x = 3")
            .unwrap();
        assert!(compare(&mut connection).is_ok());
    }
}
