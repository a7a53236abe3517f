//! Opening a file with a key, without one, and telling why it does not open.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::StoreError;
use crate::store::BUSY_TIMEOUT;
use crate::store_key::StoreKey;

/// Opens a file that is there, and reads from it once: whether the key is right shows then and not before.
pub(crate) fn connect(path: &Path, key: Option<&StoreKey>) -> Result<Connection, StoreError> {
    let connection = unread(path, key)?;
    match read(&connection) {
        Ok(()) => Ok(connection),
        Err(error) if !is_no_database(&error) => Err(error.into()),
        Err(_) if key.is_none() => Err(StoreError::Encrypted),
        Err(_) => {
            drop(connection);
            match read(&unread(path, None)?) {
                Ok(()) => Err(StoreError::NotEncrypted),
                Err(_) => Err(StoreError::WrongKey),
            }
        }
    }
}

/// Whether this program was built with SQLCipher. SQLite alone ignores a key, and would write everything in the clear.
pub(crate) fn require_cipher() -> Result<(), StoreError> {
    let memory = Connection::open_in_memory()?;
    let version = memory.query_row("PRAGMA cipher_version", [], |row| row.get::<_, String>(0));
    match version {
        Ok(version) if !version.is_empty() => Ok(()),
        Ok(_) | Err(rusqlite::Error::QueryReturnedNoRows) => Err(StoreError::NoCipher),
        Err(error) => Err(error.into()),
    }
}

fn unread(path: &Path, key: Option<&StoreKey>) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, OpenFlags::default() - OpenFlags::SQLITE_OPEN_CREATE)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    if let Some(key) = key {
        key.give(&connection)?;
    }
    Ok(connection)
}

fn read(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
}

fn is_no_database(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::NotADatabase)
}
