//! A file that the first version of the schema made keeps every row, and goes on.

use std::fs;
use std::path::Path;

use crate::support::{DAY, Device, SUITE};
use larder_lifecycle::DirectoryStatus;
use larder_pool::openmls::prelude::tls_codec::Serialize as _;
use larder_pool::openmls::prelude::{KeyPackage, KeyPackageRef, Lifetime, OpenMlsProvider};
use larder_pool::rusqlite::{Connection, params};
use larder_pool::{CborCodec, Held, JoinError, LocalStore, StoreError, Verdict};
use openmls_rust_crypto::RustCrypto;
use openmls_sqlite_storage::SqliteStorageProvider;

mod schema {
    refinery::embed_migrations!("migrations");
}

/// OpenMLS on a bare connection.
struct Bare<'a> {
    crypto: RustCrypto,
    storage: SqliteStorageProvider<CborCodec, &'a Connection>,
}

impl<'a> OpenMlsProvider for Bare<'a> {
    type CryptoProvider = RustCrypto;
    type RandProvider = RustCrypto;
    type StorageProvider = SqliteStorageProvider<CborCodec, &'a Connection>;

    fn storage(&self) -> &Self::StorageProvider {
        &self.storage
    }

    fn crypto(&self) -> &RustCrypto {
        &self.crypto
    }

    fn rand(&self) -> &RustCrypto {
        &self.crypto
    }
}

/// What the first version wrote of one KeyPackage.
struct Row {
    status: i64,
    key_package_ref: KeyPackageRef,
}

/// The file of `device`, as the first version left it: live rows with bundles in each live state, and tombstones.
fn first_version(device: &Device, path: &Path) -> Vec<Row> {
    let mut connection = Connection::open(path).unwrap();
    connection.pragma_update(None, "journal_mode", "wal").unwrap();
    SqliteStorageProvider::<CborCodec, &mut Connection>::new(&mut connection)
        .run_migrations()
        .unwrap();
    schema::migrations::runner()
        .set_target(refinery::Target::Version(1))
        .set_migration_table_name("larder_pool_migrations")
        .run(&mut connection)
        .unwrap();
    let mut rows = Vec::new();
    for status in [1, 2, 2, 3, 4, 5, 6, 7] {
        let provider = Bare {
            crypto: RustCrypto::default(),
            storage: SqliteStorageProvider::new(&connection),
        };
        let not_after = device.now.0 + 60 * DAY;
        let bundle = KeyPackage::builder()
            .key_package_lifetime(Lifetime::init(device.now.0 - 3600, not_after))
            .build(SUITE, &provider, &device.signer, device.credential.clone())
            .unwrap();
        let key_package_ref = bundle.key_package().hash_ref(&provider.crypto).unwrap();
        if status >= 4 {
            use openmls_traits::storage::StorageProvider as _;
            provider.storage.delete_key_package(&key_package_ref).unwrap();
        }
        let now = i64::try_from(device.now.0).unwrap();
        connection
            .execute(
                "INSERT INTO keypackage_pool_metadata (key_package_ref, status, suite, created_at, not_after,
                     uploaded_at, reservation_expires_at, ended_at, spent_group_id)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![
                    key_package_ref.tls_serialize_detached().unwrap(),
                    status,
                    u16::from(SUITE),
                    now,
                    i64::try_from(not_after).unwrap(),
                    now + 1,
                    (status == 3).then_some(now + 2),
                    (status >= 4).then_some(now + 3),
                    (status == 4).then_some(b"group"),
                ],
            )
            .unwrap();
        rows.push(Row {
            status,
            key_package_ref,
        });
    }
    rows
}

/// A device with a file of the first version.
fn upgraded() -> (Device, Vec<Row>) {
    let mut device = Device::new("bob/phone");
    let path = device.directory.path().join("first.sqlite");
    let rows = first_version(&device, &path);
    device.store = LocalStore::open(&path).unwrap();
    (device, rows)
}

fn rows_of(connection: &Connection, generation_or_suite: &str) -> Vec<String> {
    connection
        .prepare(&format!(
            "SELECT hex(key_package_ref) || ' ' || status || ' ' || created_at || ' ' || not_after || ' ' ||
                 ifnull(uploaded_at, '-') || ' ' || ifnull(reservation_expires_at, '-') || ' ' ||
                 ifnull(ended_at, '-') || ' ' || ifnull(hex(spent_group_id), '-') || ' ' || {generation_or_suite}
             FROM keypackage_pool_metadata AS m ORDER BY key_package_ref"
        ))
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

#[test]
fn every_row_of_the_first_version_survives() {
    let mut device = Device::new("bob/phone");
    let path = device.directory.path().join("first.sqlite");
    first_version(&device, &path);
    let before = rows_of(&Connection::open(&path).unwrap(), "suite");
    assert_eq!(before.len(), 8);
    device.store = LocalStore::open(&path).unwrap();
    let suite = "(SELECT suite FROM keypackage_pool_generations AS g WHERE g.generation = m.generation)";
    assert_eq!(rows_of(device.store.connection_mut(), suite), before);
    device.assert_consistent(4);

    let problems: Vec<String> = ["PRAGMA integrity_check", "PRAGMA foreign_key_check"]
        .into_iter()
        .flat_map(|check| {
            let connection = device.store.connection_mut();
            let mut statement = connection.prepare(check).unwrap();
            let rows = statement.query_map([], |row| row.get(0)).unwrap();
            rows.collect::<Result<Vec<String>, _>>().unwrap()
        })
        .collect();
    assert_eq!(problems, ["ok"]);
    let live = device
        .store
        .connection_mut()
        .execute("DELETE FROM keypackage_pool_metadata WHERE status = 1", []);
    assert!(live.is_err(), "the triggers are there again");
}

#[test]
fn what_the_first_version_minted_is_of_the_generation_of_its_key() {
    let (mut device, rows) = upgraded();
    let health = device.health();
    assert_eq!((health.available, health.reserved, health.unconfirmed), (2, 1, 1));
    assert_eq!(
        (health.spent, health.lapsed, health.expired, health.revoked),
        (1, 1, 1, 1)
    );
    assert_eq!(health.outdated, 0, "or an upgrade would replace every pool");
    assert_eq!(device.begin_upload()[0].key_package_ref, rows[0].key_package_ref);
    assert!(device.last_resort_due());
    let before = device.dump();
    device.health();
    assert_eq!(device.dump(), before, "it is found out once");
}

#[test]
fn what_the_first_version_minted_for_another_key_is_outdated() {
    let (mut device, rows) = upgraded();
    device.rotate();
    let health = device.health();
    assert_eq!((health.available, health.outdated), (0, 4));
    device.stock(32);
    let mut available: Vec<_> = rows
        .iter()
        .filter(|row| row.status <= 2)
        .map(|row| row.key_package_ref.clone())
        .collect();
    available.sort();
    let mut outdated = device.outdated();
    outdated.sort();
    assert_eq!(outdated, available);
}

#[test]
fn what_the_first_version_minted_joins_and_its_tombstones_explain() {
    let (mut device, rows) = upgraded();
    let upload = device.begin_upload().remove(0);
    assert_eq!(upload.key_package_ref, rows[0].key_package_ref);
    let invitation = Device::new("alice/phone").invite(&upload);
    device.join(&invitation).unwrap();
    assert!(matches!(
        device.join(&invitation),
        Err(JoinError::AlreadySpent { .. })
    ));
    let lapsed = Verdict::Held(Held::KeyPackage(DirectoryStatus::Lapsed));
    device.confirm(&rows[1].key_package_ref, lapsed);
    device.assert_consistent(2);
}

/// The file of the first version, and the log of what `migrate` does to it, cut at every frame boundary and twice inside
/// each frame: what a crash may leave. Each cut is opened by the present version.
fn crashes_of<T>(migrate: impl FnOnce(&Path) -> T) -> Vec<Result<LocalStore, StoreError>> {
    let device = Device::new("bob/phone");
    let path = device.directory.path().join("first.sqlite");
    first_version(&device, &path);
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
fn c1_a_crash_at_any_point_of_the_migration_leaves_a_file_that_opens_with_every_row() {
    for store in crashes_of(|path| LocalStore::open(path).unwrap()) {
        let mut store = store.unwrap();
        let audit = store.audit().unwrap();
        assert!(audit.is_consistent() && audit.live == 4, "{audit:?}");
        let count = "SELECT count(*) FROM keypackage_pool_metadata";
        let count: usize = store
            .connection_mut()
            .query_row(count, [], |row| row.get(0))
            .unwrap();
        assert_eq!(count, 8);
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
