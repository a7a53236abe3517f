//! A store in one piece, in memory, and a new file from it.

use std::fs::{self, File};
use std::path::Path;

use rusqlite::backup::Backup;
use rusqlite::{Connection, ErrorCode};
use zeroize::Zeroizing;

use crate::error::StoreError;
use crate::rewrite::{NEW, attach, attach_memory, beside, copy, remove_all, synchronise_directory};
use crate::store::{LocalStore, create_private};
use crate::store_key::StoreKey;

/// Which version of the file format a reader and a writer need: 1, or 2 for a write-ahead log, which memory does not have.
const FORMAT_VERSIONS: [usize; 2] = [18, 19];
/// What every database begins with that is not encrypted.
const HEADER: &[u8] = b"SQLite format 3\0";
/// SQLite allocates no more at once.
const IMAGE_BYTES_MAX: usize = i32::MAX as usize;

impl LocalStore {
    /// Everything that is in the file, as the bytes of a SQLite database that is not encrypted: what one transaction would
    /// see, whatever happens after. Nothing is written to a disk.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] for more than 2 GiB, [`StoreError::Sqlite`], [`StoreError::Copy`].
    pub fn snapshot(&mut self) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let mut image = match self.is_encrypted() {
            false => {
                let mut memory = Connection::open_in_memory()?;
                copy_all(self.connection_mut(), &mut memory)?;
                image_of(&memory, "main")?
            }
            true => {
                // Pages that are encrypted cannot be copied into a database that is not.
                let connection = self.connection_mut();
                attach_memory(connection)?;
                let image = copy(connection).and_then(|()| image_of(connection, "rewritten"));
                connection.execute_batch("DETACH rewritten")?;
                image?
            }
        };
        if image.len() > IMAGE_BYTES_MAX {
            return Err(StoreError::TooLarge);
        }
        for at in FORMAT_VERSIONS {
            if let Some(version) = image.get_mut(at) {
                *version = 1;
            }
        }
        Ok(image)
    }

    /// Creates a file from a [`snapshot`](Self::snapshot), and changes it by `prepare` before it has its name: whoever opens it
    /// finds it prepared, or finds no file. What is at `path` is replaced.
    ///
    /// # Errors
    /// [`StoreError::NotASnapshot`] for bytes that are none, those of [`open_encrypted`](Self::open_encrypted), and those of
    /// `prepare`; there is no file then.
    pub fn from_snapshot<T, E: From<StoreError>>(
        path: &Path,
        key: Option<&StoreKey>,
        image: &[u8],
        prepare: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let new = beside(path, NEW);
        let written = write(&new, key, image)
            .and_then(|()| Self::open_with(&new, key))
            .map_err(E::from)
            .and_then(|mut store| prepare(&mut store));
        let placed = written.and_then(|value| {
            place(&new, path).map_err(|error| E::from(error.into()))?;
            Ok(value)
        });
        if placed.is_err() {
            // The next attempt removes what is left of it, too.
            let _ = remove_all(&new);
        }
        placed
    }
}

fn write(new: &Path, key: Option<&StoreKey>, image: &[u8]) -> Result<(), StoreError> {
    if !image.starts_with(HEADER) {
        return Err(StoreError::NotASnapshot);
    }
    if image.len() > IMAGE_BYTES_MAX {
        return Err(StoreError::TooLarge);
    }
    let mut memory = Connection::open_in_memory()?;
    memory.deserialize_read_exact("main", image, image.len(), true)?;
    check(&memory).map_err(not_a_snapshot)?;
    remove_all(new)?;
    create_private(new)?;
    match key {
        Some(key) => {
            attach(&memory, new, key)?;
            copy(&mut memory)?;
            memory.execute_batch("DETACH rewritten")?;
        }
        None => copy_all(&memory, &mut Connection::open(new)?)?,
    }
    Ok(())
}

/// The bytes may come from anybody, and from a disk that fails.
fn check(memory: &Connection) -> Result<(), StoreError> {
    // Nothing that is defined in it is run.
    memory.pragma_update(None, "trusted_schema", false)?;
    let sound: String = memory.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    match sound.as_str() {
        "ok" => Ok(()),
        _ => Err(StoreError::NotASnapshot),
    }
}

fn not_a_snapshot(error: StoreError) -> StoreError {
    match error {
        StoreError::Sqlite(error)
            if matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt | ErrorCode::CannotOpen)
            ) =>
        {
            StoreError::NotASnapshot
        }
        other => other,
    }
}

/// Gives a complete file its name.
fn place(new: &Path, path: &Path) -> std::io::Result<()> {
    File::open(new)?.sync_all()?;
    fs::rename(new, path)?;
    synchronise_directory(path)
}

fn copy_all(from: &Connection, to: &mut Connection) -> Result<(), StoreError> {
    // All pages in one step: nobody else writes meanwhile.
    let backup = Backup::new(from, to)?;
    match backup.step(-1)? {
        rusqlite::backup::StepResult::Done => Ok(()),
        _ => Err(StoreError::Copy),
    }
}

fn image_of(connection: &Connection, database: &str) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    Ok(Zeroizing::new(connection.serialize(database)?.to_vec()))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const ROWS: i64 = 1000;

    fn key(byte: u8) -> Option<StoreKey> {
        cfg!(feature = "sqlcipher").then(|| StoreKey::raw(Zeroizing::new([byte; 32])))
    }

    fn stocked(key: Option<&StoreKey>) -> (TempDir, LocalStore) {
        let directory = tempfile::tempdir().unwrap();
        let mut store = LocalStore::open_with(&directory.path().join("device.sqlite"), key).unwrap();
        let connection = store.connection_mut();
        connection
            .execute_batch("CREATE TABLE canary (row INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT)")
            .unwrap();
        for _ in 0..ROWS {
            connection
                .execute("INSERT INTO canary (text) VALUES ('the canary sings')", [])
                .unwrap();
        }
        (directory, store)
    }

    fn rows(store: &mut LocalStore) -> i64 {
        let sql = "SELECT count(*) FROM canary WHERE text = 'the canary sings'";
        store
            .connection_mut()
            .query_row(sql, [], |row| row.get(0))
            .unwrap()
    }

    #[test]
    fn what_is_in_a_file_is_in_a_file_of_its_snapshot_whichever_of_them_is_encrypted() {
        for (from, to) in [(None, None), (None, key(2)), (key(1), None), (key(1), key(2))] {
            let (directory, mut store) = stocked(from.as_ref());
            let image = store.snapshot().unwrap();
            store.connection_mut().execute("DELETE FROM canary", []).unwrap();
            let path = directory.path().join("other.sqlite");
            let prepared = LocalStore::from_snapshot(&path, to.as_ref(), &image, |store| {
                assert_eq!(rows(store), ROWS);
                let sql = "INSERT INTO canary (text) VALUES ('prepared')";
                store
                    .connection_mut()
                    .execute(sql, [])
                    .map_err(StoreError::from)?;
                Ok::<_, StoreError>(store.connection_mut().last_insert_rowid())
            });
            assert_eq!(prepared.unwrap(), ROWS + 1, "numbers go on");
            let mut other = LocalStore::open_with(&path, to.as_ref()).unwrap();
            assert_eq!(rows(&mut other), ROWS);
            drop((other, store));
            let mut names: Vec<_> = fs::read_dir(directory.path())
                .unwrap()
                .map(|file| file.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            assert_eq!(
                names,
                ["device.sqlite", "other.sqlite"],
                "nothing is left beside them"
            );
        }
    }

    #[test]
    fn taking_a_snapshot_writes_nothing_to_a_disk() {
        let (directory, mut store) = stocked(key(1).as_ref());
        assert!(store.scrub().unwrap());
        let files = || -> Vec<(std::ffi::OsString, Vec<u8>)> {
            let files = fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap());
            let mut files: Vec<_> = files
                .map(|file| (file.file_name(), fs::read(file.path()).unwrap()))
                .filter(|(name, _)| !name.to_string_lossy().ends_with("-shm"))
                .collect();
            files.sort();
            files
        };
        let before = files();
        store.snapshot().unwrap();
        assert!(before == files());
    }

    #[test]
    fn bytes_that_are_no_snapshot_make_no_file() {
        let (directory, mut store) = stocked(None);
        let image = store.snapshot().unwrap();
        let mut damaged = image.clone();
        let middle = damaged.len() / 2;
        damaged[middle..middle + 4096].fill(0xff);
        let path = directory.path().join("other.sqlite");
        for bytes in [&b""[..], b"nonsense", &image[..image.len() / 2], &damaged] {
            let made = LocalStore::from_snapshot(&path, None, bytes, |_| Ok::<_, StoreError>(()));
            assert!(matches!(made, Err(StoreError::NotASnapshot)), "{made:?}");
            assert!(!path.exists() && !beside(&path, NEW).exists());
        }
        let failed = LocalStore::from_snapshot(&path, None, &image, |_| Err::<(), _>(StoreError::Doomed));
        assert!(matches!(failed, Err(StoreError::Doomed)));
        assert!(!path.exists() && !beside(&path, NEW).exists());
    }
}
