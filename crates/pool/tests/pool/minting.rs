//! Minting, and what the database promises.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::{DAY, Device, SUITE, key_package, private_keys, single_use, tables_holding};
use larder_lifecycle::{DirectoryStatus, Kind, PoolPolicy, UnixSeconds};
use larder_pool::{Corrupt, Held, KeyPackagePool, LocalStore, PoolError, StoreError, Verdict};

#[test]
fn a_batch_leaves_one_bundle_for_every_live_row() {
    let mut device = Device::new("alice/phone");
    let minted = device.mint(32);
    device.assert_consistent(32);
    let mut uploaded: Vec<_> = device
        .begin_upload()
        .into_iter()
        .map(|upload| upload.key_package_ref)
        .collect();
    uploaded.sort();
    let mut minted = minted;
    minted.sort();
    assert_eq!(uploaded, minted);
}

#[test]
fn a_batch_of_32_is_one_write_transaction() {
    let mut device = Device::new("alice/phone");
    let commits = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&commits);
    device.store.connection_mut().commit_hook(Some(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        false
    }));
    device.mint(32);
    assert_eq!(commits.load(Ordering::SeqCst), 1);
    device.mint(1);
    assert_eq!(commits.load(Ordering::SeqCst), 2, "the hook counts");
}

#[test]
fn an_error_after_minting_leaves_neither_bundle_nor_row() {
    let mut device = Device::new("alice/phone");
    device.mint(3);
    let before = device.dump();
    let Device {
        store,
        pool,
        signer,
        now,
        ..
    } = &mut device;
    let failed = store.transaction(|tx| {
        pool.mint(tx, signer, 5, *now)?;
        Err::<(), _>(PoolError::Randomness)
    });
    assert!(matches!(failed, Err(PoolError::Randomness)));
    assert_eq!(device.dump(), before);
    device.assert_consistent(3);
}

#[test]
fn a_batch_that_fails_in_the_middle_is_undone_even_if_the_caller_commits() {
    let mut device = Device::new("alice/phone");
    device.mint(3);
    let before = device.dump();
    // The third insert of the batch fails inside SQLite.
    device
        .store
        .connection_mut()
        .execute_batch(
            "CREATE TEMP TRIGGER full BEFORE INSERT ON keypackage_pool_metadata
             WHEN (SELECT count(*) FROM keypackage_pool_metadata) >= 5
             BEGIN SELECT RAISE(ABORT, 'full'); END",
        )
        .unwrap();
    let Device {
        store,
        pool,
        signer,
        now,
        ..
    } = &mut device;
    let failed = store
        .transaction(|tx| Ok::<_, StoreError>(pool.mint(tx, signer, 5, *now)))
        .unwrap();
    assert!(
        matches!(failed, Err(PoolError::Store(StoreError::Sqlite(_)))),
        "{failed:?}"
    );
    assert_eq!(device.dump(), before);
    device.assert_consistent(3);
}

#[test]
fn the_hard_cap_is_reached_and_never_exceeded() {
    let mut device = Device::with_policy("alice/phone", PoolPolicy::new(4, 1, 6).unwrap());
    device.mint(5);
    let refused = device.try_mint(2);
    assert!(matches!(
        refused,
        Err(PoolError::HardCap {
            live: 5,
            asked: 2,
            hard_cap: 6
        })
    ));
    device.assert_consistent(5);
    device.mint(1);
    assert!(device.try_mint(1).is_err());
    assert!(device.try_mint(u32::MAX).is_err());
    device.assert_consistent(6);
}

#[test]
fn lifetimes_are_as_long_as_anyone_accepts() {
    let mut device = Device::new("alice/phone");
    device.mint(32);
    device.mint_last_resort();
    for upload in device.begin_upload() {
        let key_package = key_package(&upload);
        let lifetime = key_package.life_time();
        assert_eq!(lifetime.not_before(), device.now.0 - 25 * 3600);
        assert_eq!(lifetime.not_after(), device.now.0 + 83 * DAY);
        assert!(lifetime.has_acceptable_range());
    }
}

#[test]
fn the_file_keeps_its_promises() {
    let mut device = Device::new("alice/phone");
    let connection = device.store.connection_mut();
    let number = |pragma| {
        connection
            .pragma_query_value(None, pragma, |row| row.get::<_, i64>(0))
            .unwrap()
    };
    assert_eq!(number("synchronous"), 2, "FULL");
    assert_eq!(number("secure_delete"), 1, "ON");
    assert_eq!(number("foreign_keys"), 1);
    let mode: String = connection
        .pragma_query_value(None, "journal_mode", |row| row.get(0))
        .unwrap();
    assert_eq!(mode, "wal");
    let fallible = LocalStore::open(&device.directory.path().join("missing/device.sqlite"));
    assert!(matches!(fallible, Err(StoreError::File(_))));
}

#[cfg(unix)]
#[test]
fn only_the_owner_can_read_the_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut device = Device::new("alice/phone");
    device.mint(1);
    for entry in std::fs::read_dir(device.directory.path()).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn a_reopened_store_holds_what_was_committed() {
    let mut device = Device::new("alice/phone");
    let uploads = device.stock(4);
    let before = device.dump();
    device.store = LocalStore::open(&device.path()).unwrap();
    assert_eq!(device.dump(), before);
    device.assert_consistent(4);
    assert!(device.bundle(&uploads[0].key_package_ref).is_some());
}

#[test]
fn private_keys_are_in_the_table_of_openmls_and_in_no_other() {
    let mut device = Device::new("alice/phone");
    let uploads = device.stock(4);
    device.confirm(
        &uploads[1].key_package_ref,
        Verdict::Held(single_use(DirectoryStatus::Reserved)),
    );
    let dump = device.dump();
    assert!(
        dump.iter()
            .any(|(name, rows)| name == "keypackage_pool_metadata" && rows.len() == 4)
    );
    for upload in &uploads {
        let bundle = device.bundle(&upload.key_package_ref).unwrap();
        for key in private_keys(&bundle) {
            assert_eq!(tables_holding(&dump, &key), ["openmls_key_packages"]);
        }
    }
}

#[test]
fn metadata_of_an_available_key_package_takes_at_most_120_bytes() {
    let rows = 4096;
    let mut device = Device::with_policy("alice/phone", PoolPolicy::new(rows, 8, rows).unwrap());
    device.mint(rows);
    let verdicts: Vec<_> = device
        .begin_upload()
        .into_iter()
        .map(|upload| {
            let held = Verdict::Held(Held::available(Kind::SingleUse));
            (upload.key_package_ref, held)
        })
        .collect();
    device.in_tx(|tx, pool, now| pool.confirm(tx, &verdicts, now));
    assert_eq!(device.health().available, rows);
    let bytes: i64 = device
        .store
        .connection_mut()
        .query_row(
            "SELECT sum(pgsize) FROM dbstat WHERE name IN
             (SELECT name FROM sqlite_schema WHERE tbl_name = 'keypackage_pool_metadata')",
            [],
            |row| row.get(0),
        )
        .unwrap();
    let each = bytes / i64::from(rows);
    assert!((60..=120).contains(&each), "{each} bytes");
}

#[test]
fn a_status_that_was_never_written_fails_closed() {
    let mut device = Device::new("alice/phone");
    let uploads = device.stock(2);
    let connection = device.store.connection_mut();
    assert!(
        connection
            .execute("UPDATE keypackage_pool_metadata SET status = 99", [])
            .is_err(),
        "the schema refuses it too"
    );
    connection
        .execute_batch(
            "PRAGMA ignore_check_constraints = ON;
             UPDATE keypackage_pool_metadata SET status = 99
             WHERE key_package_ref = (SELECT min(key_package_ref) FROM keypackage_pool_metadata);",
        )
        .unwrap();
    let before = device.dump();
    let corrupt = |error: PoolError| {
        assert!(
            matches!(
                error,
                PoolError::Store(StoreError::Corrupt(Corrupt::UnknownStatus(99)))
            ),
            "{error:?}"
        );
    };
    corrupt(device.try_mint(1).unwrap_err());
    let much_later = UnixSeconds(device.now.0 + 365 * DAY);
    let pool: &KeyPackagePool = &device.pool;
    corrupt(
        device
            .store
            .transaction(|tx| pool.sweep(tx, much_later))
            .unwrap_err(),
    );
    corrupt(
        device
            .store
            .transaction(|tx| pool.reconcile(tx, &[], much_later))
            .unwrap_err(),
    );
    corrupt(
        device
            .store
            .transaction(|tx| pool.health(tx, much_later))
            .unwrap_err(),
    );
    corrupt(
        device
            .store
            .transaction(|tx| pool.begin_upload(tx, 9, much_later))
            .unwrap_err(),
    );
    let verdicts: Vec<_> = uploads
        .iter()
        .map(|upload| (upload.key_package_ref.clone(), Verdict::Rejected))
        .collect();
    corrupt(
        device
            .store
            .transaction(|tx| pool.confirm(tx, &verdicts, much_later))
            .unwrap_err(),
    );
    assert!(matches!(
        device.store.audit(),
        Err(StoreError::Corrupt(Corrupt::UnknownStatus(99)))
    ));
    assert_eq!(device.dump(), before);
}

#[test]
fn a_pool_of_another_suite_counts_its_own_and_shares_the_cap() {
    let mut device = Device::with_policy("alice/phone", PoolPolicy::new(4, 1, 6).unwrap());
    device.stock(4);
    let other =
        larder_pool::openmls::prelude::Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;
    assert_ne!(other, SUITE);
    device.pool = KeyPackagePool::for_identity(PoolPolicy::new(4, 1, 6).unwrap(), other, &device.credential);
    assert_eq!(device.health().available, 0);
    assert_eq!(device.in_tx(|tx, pool, now| pool.how_many(tx, now)), 2);
    assert!(device.in_tx(|tx, pool, now| pool.needs_replenishing(tx, now)));
}
