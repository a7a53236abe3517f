//! The files of a database, for their owner alone, whatever the umask and whoever made the directory.

use std::io;
use std::path::Path;

use crate::error::Fault;

/// Creates the database with mode 0600 if there is none, and takes group's and others' permissions off the files of one
/// that is there. SQLite gives the files beside a database the mode of the database itself.
///
/// # Errors
/// [`Fault::NotPrivate`] when a file cannot be created, or others may open it and that cannot be changed (it belongs to
/// another user, or the file system has no modes).
pub(super) fn make_private(database: &Path) -> Result<(), Fault> {
    create_and_restrict(database).map_err(Fault::NotPrivate)
}

#[cfg(unix)]
fn create_and_restrict(database: &Path) -> io::Result<()> {
    use std::fs::OpenOptions;
    use std::os::unix::fs::OpenOptionsExt as _;

    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(database);
    match created {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(_) | Err(_) => {}
    }
    if !database.exists() {
        // A symbolic link to a file that is not there yet.
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(database)?;
    }
    // A database that is there is never opened here: closing it would give up the locks that SQLite has on it in this process.
    let database = database.canonicalize()?;
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut file = database.clone().into_os_string();
        file.push(suffix);
        restrict(Path::new(&file))?;
    }
    Ok(())
}

/// Takes a file's permissions for others than its owner away; a file that is not there is none of theirs.
#[cfg(unix)]
fn restrict(file: &Path) -> io::Result<()> {
    use std::fs::{Permissions, metadata, set_permissions};
    use std::os::unix::fs::PermissionsExt as _;

    let restricted = metadata(file).and_then(|metadata| match metadata.permissions().mode() & 0o077 {
        0 => Ok(()),
        _ => set_permissions(file, Permissions::from_mode(0o600)),
    });
    match restricted {
        // Another process that closes the database removes its log.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(not(unix))]
fn create_and_restrict(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// None of a file that is not there.
    fn mode(file: &Path) -> Option<u32> {
        let metadata = file.metadata().ok()?;
        Some(metadata.permissions().mode() & 0o777)
    }

    #[test]
    fn a_new_database_and_an_open_one_become_their_owners() {
        let directory = tempfile::tempdir().unwrap();
        let (new, old) = (directory.path().join("new"), directory.path().join("old"));
        make_private(&new).unwrap();
        assert_eq!(mode(&new), Some(0o600));
        for name in ["old", "old-wal", "old-shm"] {
            let file = directory.path().join(name);
            write(&file, "kept").unwrap();
            set_permissions(&file, Permissions::from_mode(0o664)).unwrap();
        }
        make_private(&old).unwrap();
        for name in ["old", "old-wal", "old-shm"] {
            let file = directory.path().join(name);
            assert_eq!(
                (mode(&file), std::fs::read(&file).unwrap()),
                (Some(0o600), b"kept".to_vec())
            );
        }
    }

    #[test]
    fn a_link_leads_to_a_private_database_and_the_files_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let (link, database) = (directory.path().join("link"), directory.path().join("database"));
        symlink(&database, &link).unwrap();
        make_private(&link).unwrap();
        assert_eq!(mode(&database), Some(0o600));
        let log = directory.path().join("database-wal");
        write(&log, "").unwrap();
        set_permissions(&log, Permissions::from_mode(0o644)).unwrap();
        make_private(&link).unwrap();
        assert_eq!(mode(&log), Some(0o600));
    }

    #[test]
    fn a_database_that_cannot_be_made_private_is_a_fault() {
        let nowhere = Path::new("/nonexistent/larder/server.db");
        assert!(matches!(make_private(nowhere), Err(Fault::NotPrivate(_))));
    }
}
