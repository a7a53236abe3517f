//! A file that has OpenMLS's tables, and the pool's first after a crash.

use std::fs;
use std::path::Path;

use crate::support::Device;
use larder_pool::rusqlite::Connection;
use larder_pool::{CborCodec, LocalStore, StoreError};
use openmls_sqlite_storage::SqliteStorageProvider;

mod schema {
    refinery::embed_migrations!("migrations");
}

/// A file that an application made before it had a pool: OpenMLS's tables and nothing else.
fn without_pool(path: &Path) {
    let mut connection = Connection::open(path).unwrap();
    connection.pragma_update(None, "journal_mode", "wal").unwrap();
    SqliteStorageProvider::<CborCodec, &mut Connection>::new(&mut connection)
        .run_migrations()
        .unwrap();
}

/// Such a file, and the log of what `migrate` does to it, cut at every frame boundary and three times inside
/// each frame: what a crash may leave. Each cut is opened again.
fn crashes_of<T>(migrate: impl FnOnce(&Path) -> T) -> Vec<Result<LocalStore, StoreError>> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("device.sqlite");
    without_pool(&path);
    let before = fs::read(&path).unwrap();
    let log = |path: &Path| path.with_extension("sqlite-wal");
    assert!(!log(&path).exists(), "the last connection emptied it");
    let kept_open = migrate(&path);
    let wal = fs::read(log(&path)).unwrap();
    drop(kept_open);
    assert!(wal.len() > 4096);
    let torn = tempfile::tempdir().unwrap();
    // Frames are 4,096 bytes of page and 24 of header, after a header of 32 bytes.
    (0..wal.len())
        .step_by(1030)
        .chain([wal.len()])
        .enumerate()
        .map(|(number, length)| {
            let path = torn.path().join(format!("{number}.sqlite"));
            fs::write(&path, &before).unwrap();
            fs::write(log(&path), &wal[..length]).unwrap();
            LocalStore::open(&path)
        })
        .collect()
}

#[test]
fn c1_a_crash_at_any_point_of_the_migration_leaves_a_file_that_opens() {
    for store in crashes_of(|path| LocalStore::open(path).unwrap()) {
        let mut device = Device::new("bob/phone");
        device.store = store.unwrap();
        device.stock(2);
        device.stock_last_resort();
        device.assert_consistent(3);
    }
}

#[test]
fn a_migration_in_several_transactions_would_leave_files_that_do_not_open() {
    // So the test above would notice.
    let stores = crashes_of(|path| {
        let mut connection = Connection::open(path).unwrap();
        schema::migrations::runner()
            .set_migration_table_name("larder_pool_migrations")
            .run(&mut connection)
            .unwrap();
        connection
    });
    assert!(stores.iter().any(Result::is_err));
}
