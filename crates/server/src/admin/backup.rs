#[cfg(unix)]
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

/// How long a backup waits for a lock that another process holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file cannot be created; it must not exist.
    #[error("the file cannot be created")]
    File(#[source] io::Error),
    /// The database cannot be copied. The file is gone again.
    #[error("the database cannot be copied")]
    Sqlite(#[source] rusqlite::Error),
}

/// Copies a SQLite store to a new file that is readable for its owner only, as it is at one moment. The server may go on
/// meanwhile. When this returns, the copy is on disk.
///
/// # Errors
/// [`BackupError`].
pub fn backup_sqlite(database: &Path, file: &Path) -> Result<(), BackupError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let created = options.open(file).map_err(BackupError::File)?;
    let copied = copy(database, file).map_err(BackupError::Sqlite);
    let copied = copied.and_then(|()| {
        created.sync_all().map_err(BackupError::File)?;
        sync_directory_of(file).map_err(BackupError::File)
    });
    if copied.is_err() {
        // What is left of it must not be taken for a backup. It was created here.
        let _ = std::fs::remove_file(file);
    }
    copied
}

fn copy(database: &Path, file: &Path) -> Result<(), rusqlite::Error> {
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Into an empty file SQLite writes as into none; the target is a value, never a part of the statement.
    let target = file
        .to_str()
        .ok_or(rusqlite::Error::InvalidPath(file.to_owned()))?;
    connection.execute("VACUUM INTO ?1", [target])?;
    Ok(())
}

#[cfg(unix)]
fn sync_directory_of(file: &Path) -> io::Result<()> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory_of(_: &Path) -> io::Result<()> {
    Ok(())
}
