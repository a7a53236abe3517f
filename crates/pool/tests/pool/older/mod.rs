//! An older pool, as applications had one before: its file, and what the pool makes of it.
#![allow(unreachable_pub, reason = "test binaries have no public interface")]

use std::path::PathBuf;

use larder_pool::legacy::{LegacyMigration, LegacyReport};
use larder_pool::openmls::prelude::{KeyPackage, KeyPackageBundle, Lifetime, tls_codec::Serialize as _};
use larder_pool::rusqlite::types::Value;
use larder_pool::rusqlite::{Connection, params};
use larder_pool::{KeyPackageRef, LocalStore, StoreError};
use tempfile::TempDir;

use crate::scan::Scanner;
use crate::support::{self, DAY, Device, message, private_keys};

/// The whole of the older table: bytes and private keys beside the metadata.
pub const SCHEMA: &str = "
    CREATE TABLE keypackages (
        keypackage_ref BLOB PRIMARY KEY,
        keypackage_bytes BLOB NOT NULL,
        private_init_key BLOB NOT NULL,
        private_encryption_key BLOB NOT NULL,
        status TEXT NOT NULL DEFAULT 'created',
        created_at INTEGER NOT NULL,
        uploaded_at INTEGER,
        reserved_at INTEGER,
        spent_at INTEGER,
        not_after INTEGER NOT NULL,
        credential_hash BLOB NOT NULL,
        ciphersuite INTEGER NOT NULL,
        reservation_id TEXT,
        reservation_expires_at INTEGER,
        reserved_by TEXT,
        spent_group_id BLOB,
        spent_by TEXT
    );
    CREATE INDEX idx_status ON keypackages(status);
    CREATE INDEX idx_expiry ON keypackages(not_after);
    CREATE INDEX idx_credential ON keypackages(credential_hash);";

/// When the legacy rows were made.
pub const CREATED: i64 = 1_700_000_000;

pub struct Legacy {
    pub directory: TempDir,
    pub connection: Connection,
    pub keys: Vec<Vec<u8>>,
}

impl Legacy {
    pub fn new() -> Self {
        Self::with_schema(SCHEMA, "DELETE")
    }

    pub fn with_schema(schema: &str, journal: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let connection = Connection::open(directory.path().join("metadata.db")).unwrap();
        connection.pragma_update(None, "journal_mode", journal).unwrap();
        connection.execute_batch(schema).unwrap();
        Self {
            directory,
            connection,
            keys: Vec::new(),
        }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("metadata.db")
    }

    pub fn migration(&self) -> LegacyMigration {
        LegacyMigration::new(self.path())
    }

    /// A row as the older pool wrote it.
    pub fn insert(&mut self, key: Value, bundle: &KeyPackageBundle, status: &str) {
        let keys = private_keys(bundle);
        self.connection
            .execute(
                "INSERT INTO keypackages (keypackage_ref, keypackage_bytes, private_init_key,
                     private_encryption_key, status, created_at, not_after, credential_hash, ciphersuite)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, x'0102', 1)",
                params![
                    key,
                    message(bundle.key_package().clone()),
                    keys[0],
                    keys[1],
                    status,
                    CREATED,
                    i64::try_from(bundle.key_package().life_time().not_after()).unwrap(),
                ],
            )
            .unwrap();
        self.keys.extend(keys);
    }

    pub fn set(&self, key_package_ref: &KeyPackageRef, assignments: &str) {
        let changed = self
            .connection
            .execute(
                &format!("UPDATE keypackages SET {assignments} WHERE keypackage_ref = ?1"),
                [key_package_ref.as_slice()],
            )
            .unwrap();
        assert_eq!(changed, 1);
    }

    pub fn columns(&self) -> Vec<String> {
        let mut statement = self
            .connection
            .prepare("SELECT name FROM pragma_table_info('keypackages')")
            .unwrap();
        let names = statement.query_map([], |row| row.get(0)).unwrap();
        names.collect::<Result<_, _>>().unwrap()
    }

    pub fn keys_left(&self) -> usize {
        Scanner::new(&self.keys).keys_in(self.directory.path())
    }
}

pub fn reference(bundle: &KeyPackageBundle) -> KeyPackageRef {
    bundle.key_package().hash_ref(&support::crypto()).unwrap()
}

pub fn raw(bundle: &KeyPackageBundle) -> Value {
    Value::Blob(reference(bundle).as_slice().to_vec())
}

/// KeyPackages that OpenMLS stored, and no pool knows.
pub fn bundles(device: &mut Device, count: usize) -> Vec<KeyPackageBundle> {
    let Device {
        store,
        signer,
        credential,
        now,
        ..
    } = device;
    store
        .transaction(|tx| -> Result<_, StoreError> {
            let build = |_| {
                KeyPackage::builder()
                    .key_package_lifetime(Lifetime::init(now.0 - 3600, now.0 + 50 * DAY))
                    .build(support::SUITE, &tx.provider(), signer, credential.clone())
                    .unwrap()
            };
            Ok((0..count).map(build).collect())
        })
        .unwrap()
}

/// The same of a device that is gone: nobody has the private keys but the legacy table.
pub fn foreign(count: usize) -> Vec<KeyPackageBundle> {
    bundles(&mut Device::new("bob/phone"), count)
}

/// The pool's row: status, created, not after, uploaded, reservation, ended, group.
pub type PoolRow = (
    i64,
    i64,
    i64,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<Vec<u8>>,
);

pub fn pool_row(store: &mut LocalStore, key_package_ref: &KeyPackageRef) -> Option<PoolRow> {
    store
        .connection_mut()
        .query_row(
            "SELECT status, created_at, not_after, uploaded_at, reservation_expires_at, ended_at, spent_group_id
             FROM keypackage_pool_metadata WHERE key_package_ref = ?1",
            [key_package_ref.tls_serialize_detached().unwrap()],
            |row| {
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                    row.get(5)?,
                    row.get(6)?,
                ))
            },
        )
        .ok()
}

pub fn status(store: &mut LocalStore, bundle: &KeyPackageBundle) -> Option<i64> {
    pool_row(store, &reference(bundle)).map(|row| row.0)
}

/// One row of every kind, in a file that once had more.
pub struct Scene {
    pub device: Device,
    pub legacy: Legacy,
    pub live: Vec<KeyPackageBundle>,
    pub gone: Vec<KeyPackageBundle>,
}

pub fn scene() -> Scene {
    let mut device = Device::new("alice/phone");
    let live = bundles(&mut device, 4);
    // At the same time, which may be another second by now.
    let mut other = Device::new("bob/phone");
    other.now = device.now;
    let gone = bundles(&mut other, 3);
    let mut legacy = Legacy::new();
    for (bundle, status) in live.iter().zip(["created", "available", "reserved", "available"]) {
        legacy.insert(raw(bundle), bundle, status);
    }
    for (bundle, status) in gone.iter().zip(["spent", "expired", "available"]) {
        legacy.insert(raw(bundle), bundle, status);
    }
    let until = CREATED + 3600;
    legacy.set(&reference(&live[1]), "uploaded_at = created_at + 1");
    legacy.set(
        &reference(&live[2]),
        &format!(
            "uploaded_at = created_at + 1, reserved_at = created_at + 2, reservation_id = 'r-1',
                  reserved_by = 'bob', reservation_expires_at = {until}"
        ),
    );
    legacy.set(
        &reference(&gone[0]),
        "uploaded_at = created_at + 1, reserved_at = created_at + 2, spent_at = created_at + 3,
         spent_group_id = x'6772', spent_by = 'bob'",
    );
    Scene {
        device,
        legacy,
        live,
        gone,
    }
}

pub fn expected_of_scene() -> LegacyReport {
    LegacyReport {
        rows: 7,
        created: 1,
        available: 2,
        reserved: 1,
        spent: 1,
        expired: 1,
        with_redundant_columns: 7,
        ..LegacyReport::default()
    }
}
