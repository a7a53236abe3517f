//! The copies of private keys leave an older pool's file, whatever happens on the way.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use crate::older::{Legacy, SCHEMA, Scene, bundles, foreign, raw, reference, scene};
use crate::scan::Scanner;
use crate::support::{self, Device, dump, private_keys};
use larder_lifecycle::PoolPolicy;
use larder_pool::LocalStore;
use larder_pool::legacy::{LegacyError, LegacyMigration, LegacyStep};
use larder_pool::rusqlite::Connection;
use tempfile::TempDir;

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        // The index of the log does not survive a crash.
        if !path.to_string_lossy().ends_with("-shm") {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// Everything that the two databases say in the end.
fn outcome(store: &mut LocalStore, legacy: &Path) -> (support::Dump, support::Dump) {
    let audit = store.audit().unwrap();
    assert!(audit.is_consistent(), "{audit:?}");
    (
        dump(store.connection_mut()),
        dump(&Connection::open(legacy).unwrap()),
    )
}

/// Interrupts a migration after every one of its steps: once as a caller does, once as a crash does.
fn interrupt_everywhere(journal: &str) {
    let policy = PoolPolicy::new(64, 8, 128).unwrap();
    let mut device = Device::with_policy("alice/phone", policy);
    let live = bundles(&mut device, 9);
    let gone = foreign(4);
    let mut legacy = Legacy::with_schema(SCHEMA, journal);
    for (at, bundle) in live.iter().chain(&gone).enumerate() {
        let statuses = ["available", "created", "reserved"];
        let status = if at < live.len() {
            statuses[at % 3]
        } else {
            "spent"
        };
        legacy.insert(raw(bundle), bundle, status);
    }
    let scanner = Scanner::new(&legacy.keys);
    let (store_files, legacy_files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    copy(device.directory.path(), store_files.path());
    copy(legacy.directory.path(), legacy_files.path());

    let fresh = || {
        let (store, legacy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        copy(store_files.path(), store.path());
        copy(legacy_files.path(), legacy.path());
        (store, legacy)
    };
    let open = |directory: &TempDir| LocalStore::open(&directory.path().join("device.sqlite")).unwrap();
    let migration =
        |directory: &TempDir| LegacyMigration::new(directory.path().join("metadata.db")).batch_rows(2);

    let (whole_store, whole_legacy) = fresh();
    let mut steps = Vec::new();
    let mut crashed = Vec::new();
    migration(&whole_legacy)
        .apply_stepwise(&mut open(&whole_store), |step| {
            steps.push(step);
            let (store, legacy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            copy(whole_store.path(), store.path());
            copy(whole_legacy.path(), legacy.path());
            crashed.push((store, legacy));
            ControlFlow::Continue(())
        })
        .unwrap();
    let expected = outcome(&mut open(&whole_store), &whole_legacy.path().join("metadata.db"));
    assert_eq!(steps.len(), 7 * 2 + 2, "{steps:?}");
    assert_eq!(steps.last(), Some(&LegacyStep::Verified));
    assert_eq!(scanner.keys_in(whole_legacy.path()), 0);

    for (at, (store, legacy)) in crashed.iter().enumerate() {
        let report = migration(legacy).apply(&mut open(store)).unwrap();
        assert!(report.erased);
        assert_eq!(
            outcome(&mut open(store), &legacy.path().join("metadata.db")),
            expected,
            "after a crash at step {at}"
        );
        assert_eq!(scanner.keys_in(legacy.path()), 0);
    }
    for at in 0..steps.len() {
        let (store_directory, legacy) = fresh();
        let mut store = open(&store_directory);
        let mut left = at;
        let interrupted = migration(&legacy).apply_stepwise(&mut store, |_| match left {
            0 => ControlFlow::Break(()),
            _ => {
                left -= 1;
                ControlFlow::Continue(())
            }
        });
        assert!(matches!(interrupted, Err(LegacyError::Interrupted)), "{at}");
        // Looking at it in between shows what is left to do.
        let planned = migration(&legacy).plan(&mut store).unwrap();
        assert!(!planned.erased);
        migration(&legacy).apply(&mut store).unwrap();
        assert_eq!(
            outcome(&mut store, &legacy.path().join("metadata.db")),
            expected,
            "after an interruption at step {at}"
        );
        assert_eq!(scanner.keys_in(legacy.path()), 0);
    }
}

#[test]
fn an_interrupted_migration_is_completed_by_the_next_one_wherever_it_stopped() {
    interrupt_everywhere("DELETE");
}

#[test]
fn an_interrupted_migration_of_a_file_with_a_log_is_completed_too() {
    interrupt_everywhere("WAL");
}

#[test]
fn a_store_that_fails_in_the_middle_leaves_whole_batches() {
    let mut device = Device::new("alice/phone");
    let live = bundles(&mut device, 6);
    let mut legacy = Legacy::new();
    for bundle in &live {
        legacy.insert(raw(bundle), bundle, "available");
    }
    device
        .store
        .connection_mut()
        .execute_batch(
            "CREATE TEMP TRIGGER full BEFORE INSERT ON keypackage_pool_metadata
             WHEN (SELECT count(*) FROM keypackage_pool_metadata) >= 3
             BEGIN SELECT RAISE(ABORT, 'full'); END",
        )
        .unwrap();
    let migration = legacy.migration().batch_rows(2);
    let failed = migration.apply(&mut device.store);
    assert!(matches!(failed, Err(LegacyError::Pool(_))), "{failed:?}");
    let audit = device.store.audit().unwrap();
    assert_eq!(
        (audit.live, audit.without_bundle.len(), audit.without_row.len()),
        (2, 0, 4)
    );
    assert_eq!(legacy.keys_left(), 12 - 4, "only what is in the pool was emptied");
    device
        .store
        .connection_mut()
        .execute_batch("DROP TRIGGER full")
        .unwrap();
    assert_eq!(migration.apply(&mut device.store).unwrap().available, 4);
    device.assert_consistent(6);
    assert_eq!(legacy.keys_left(), 0);
}

#[test]
fn another_accounts_store_is_refused_before_anything_is_erased() {
    let Scene { legacy, .. } = scene();
    let mut other = Device::new("carol/phone");
    let before = (other.dump(), dump(&legacy.connection));
    assert_eq!(legacy.migration().plan(&mut other.store).unwrap().left.len(), 5);
    let refused = legacy.migration().apply(&mut other.store);
    assert!(
        matches!(refused, Err(LegacyError::AnotherStore { live: 5 })),
        "{refused:?}"
    );
    assert_eq!((other.dump(), dump(&legacy.connection)), before);
}

#[test]
fn a_reader_of_the_legacy_file_postpones_the_end() {
    for journal in ["WAL", "DELETE"] {
        let mut device = Device::new("alice/phone");
        let live = bundles(&mut device, 3);
        let mut legacy = Legacy::with_schema(SCHEMA, journal);
        for bundle in &live {
            legacy.insert(raw(bundle), bundle, "available");
        }
        let reader = Connection::open(legacy.path()).unwrap();
        let mut migration = None;
        let busy = legacy.migration().apply_stepwise(&mut device.store, |step| {
            if matches!(step, LegacyStep::Emptied(_)) {
                reader
                    .execute_batch("BEGIN; SELECT count(*) FROM keypackages;")
                    .unwrap();
                migration = Some(step);
            }
            ControlFlow::Continue(())
        });
        assert!(migration.is_some());
        assert!(matches!(busy, Err(LegacyError::Busy)), "{journal}: {busy:?}");
        reader.execute_batch("COMMIT").unwrap();
        assert!(legacy.migration().apply(&mut device.store).unwrap().erased);
        assert_eq!(legacy.keys_left(), 0, "{journal}");
    }
}

#[test]
fn what_the_older_pool_had_deleted_carelessly_goes_too() {
    let Scene {
        mut device,
        mut legacy,
        ..
    } = scene();
    legacy
        .connection
        .pragma_update(None, "secure_delete", "OFF")
        .unwrap();
    let forgotten = foreign(40);
    let others: Vec<_> = forgotten.iter().flat_map(private_keys).collect();
    for bundle in &forgotten {
        legacy.insert(raw(bundle), bundle, "spent");
    }
    for bundle in &forgotten {
        let key = reference(bundle).as_slice().to_vec();
        legacy
            .connection
            .execute("DELETE FROM keypackages WHERE keypackage_ref = ?1", [key])
            .unwrap();
    }
    let scanner = Scanner::new(&others);
    assert!(
        scanner.keys_in(legacy.directory.path()) > 40,
        "they are in free pages"
    );
    legacy.migration().apply(&mut device.store).unwrap();
    assert_eq!(scanner.keys_in(legacy.directory.path()), 0);
    assert_eq!(legacy.keys_left(), 0);
}

#[test]
fn a_copy_of_a_key_elsewhere_in_the_file_is_found_again_and_again() {
    let Scene {
        mut device,
        legacy,
        live,
        ..
    } = scene();
    legacy
        .connection
        .execute_batch("CREATE TABLE backup (key BLOB)")
        .unwrap();
    let init_key = live[1].init_private_key().to_vec();
    legacy
        .connection
        .execute("INSERT INTO backup VALUES (?1)", [&init_key])
        .unwrap();
    for _ in 0..2 {
        match legacy.migration().apply(&mut device.store) {
            Err(LegacyError::Residue(file)) => assert_eq!(file, legacy.path()),
            other => panic!("{other:?}"),
        }
        assert!(!legacy.migration().plan(&mut device.store).unwrap().erased);
    }
    legacy
        .connection
        .execute_batch("PRAGMA secure_delete = OFF; DROP TABLE backup")
        .unwrap();
    assert!(legacy.migration().apply(&mut device.store).unwrap().erased);
    assert_eq!(legacy.keys_left(), 0);
}

#[test]
fn a_hostile_schema_neither_keeps_the_keys_nor_runs() {
    let Scene {
        mut device, legacy, ..
    } = scene();
    legacy
        .connection
        .execute_batch(
            "CREATE TABLE hoard (key BLOB);
             CREATE TRIGGER hoarder BEFORE UPDATE ON keypackages
             BEGIN INSERT INTO hoard VALUES (OLD.private_init_key); END;
             CREATE INDEX by_key ON keypackages (private_init_key, private_encryption_key);",
        )
        .unwrap();
    assert!(legacy.migration().apply(&mut device.store).unwrap().erased);
    assert_eq!(legacy.keys_left(), 0);
    let hoarded: i64 = legacy
        .connection
        .query_row("SELECT count(*) FROM hoard", [], |row| row.get(0))
        .unwrap();
    assert_eq!(hoarded, 0);
    // The index and the trigger need the columns, which stay, empty. So the next run looks again, and finds nothing.
    let columns = legacy.columns();
    assert!(columns.contains(&"private_init_key".to_owned()));
    assert!(!columns.contains(&"keypackage_bytes".to_owned()));
    assert!(legacy.migration().apply(&mut device.store).unwrap().erased);
}

#[test]
fn a_file_that_is_no_legacy_pool_is_refused() {
    let mut device = Device::new("alice/phone");
    let directory = tempfile::tempdir().unwrap();
    let missing = LegacyMigration::new(directory.path().join("nowhere.db"));
    assert!(matches!(
        missing.plan(&mut device.store),
        Err(LegacyError::Open(_))
    ));
    assert!(matches!(
        missing.apply(&mut device.store),
        Err(LegacyError::Open(_))
    ));
    assert_eq!(
        fs::read_dir(directory.path()).unwrap().count(),
        0,
        "nothing is created"
    );

    let garbage = directory.path().join("garbage.db");
    fs::write(&garbage, vec![0x5a; 9000]).unwrap();
    let garbage = LegacyMigration::new(garbage).plan(&mut device.store);
    assert!(matches!(garbage, Err(LegacyError::Open(_))), "{garbage:?}");

    for schema in [
        "CREATE TABLE other (x)",
        "CREATE TABLE t (keypackage_ref, status, created_at, not_after); CREATE VIEW keypackages AS SELECT * FROM t",
        "CREATE VIRTUAL TABLE keypackages USING fts5(keypackage_ref, status, created_at, not_after)",
        "CREATE TABLE keypackages (keypackage_ref, status, created_at)",
    ] {
        let legacy = Legacy::with_schema(schema, "DELETE");
        let refused = legacy.migration().plan(&mut device.store);
        assert!(
            matches!(refused, Err(LegacyError::NotLegacy(_))),
            "{schema}: {refused:?}"
        );
    }
    let device_path = device.path();
    let own = LegacyMigration::new(&device_path).plan(&mut device.store);
    assert!(matches!(own, Err(LegacyError::NotLegacy(_))), "{own:?}");
}

#[test]
fn the_legacy_table_may_lie_in_the_stores_own_file() {
    let mut device = Device::new("alice/phone");
    let live = bundles(&mut device, 5);
    let gone = foreign(2);
    device.store.connection_mut().execute_batch(SCHEMA).unwrap();
    let mut legacy = Legacy {
        directory: tempfile::tempdir().unwrap(),
        connection: Connection::open(device.path()).unwrap(),
        keys: Vec::new(),
    };
    for (bundle, status) in live
        .iter()
        .zip(["available"; 5])
        .chain(gone.iter().zip(["spent"; 2]))
    {
        legacy.insert(raw(bundle), bundle, status);
    }
    drop(legacy);
    let path = device.path();
    let report = LegacyMigration::new(path).apply(&mut device.store).unwrap();
    assert_eq!((report.available, report.spent, report.erased), (5, 2, true));
    device.assert_consistent(5);
    let keys: Vec<_> = gone.iter().flat_map(private_keys).collect();
    assert_eq!(Scanner::new(&keys).keys_in(device.directory.path()), 0);
    let kept: Vec<_> = live.iter().flat_map(private_keys).collect();
    for key in kept {
        assert_eq!(
            support::tables_holding(&device.dump(), &key),
            ["openmls_key_packages"]
        );
    }
}
