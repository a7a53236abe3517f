//! A private key that was erased is in no file any more.

use std::fs;
use std::path::Path;

use crate::scan::Scanner;
use crate::support::{self, Device, SUITE, private_keys, single_use, tables_holding};
use larder_lifecycle::{DirectoryStatus, GRACE_SECONDS, Kind, LAST_RESORT_RETIRING_SECONDS, PoolPolicy};
use larder_pool::openmls::prelude::{
    BasicCredential, KeyPackage, KeyPackageBundle, LeafNodeParameters, MlsGroup,
};
use larder_pool::rusqlite::Connection;
use larder_pool::{
    CborCodec, Held, KeyPackagePool, KeyPackageRef, LocalStore, PoolError, StoreError, Verdict,
};
use openmls_sqlite_storage::SqliteStorageProvider;
use openmls_traits::OpenMlsProvider;
use openmls_traits::storage::StorageProvider as _;

const VICTIMS: usize = 6;
const SURVIVORS: usize = 5;

/// The init key and the encryption key of each, as OpenMLS holds them.
fn keys_of(device: &mut Device, refs: &[KeyPackageRef]) -> Vec<Vec<u8>> {
    refs.iter()
        .flat_map(|key_package_ref| private_keys(&device.bundle(key_package_ref).unwrap()))
        .collect()
}

fn device(name: &str) -> (Device, Vec<KeyPackageRef>) {
    let mut device = Device::new(name);
    let refs = device.mint((VICTIMS + SURVIVORS) as u32);
    device.begin_upload();
    (device, refs)
}

/// The files of a device, and of two kinds of backups made now: a copy of the files, and a copy by SQLite.
fn assert_in_no_file(device: &mut Device, erased: &Scanner, kept: &Scanner, kept_keys: usize) {
    let copied = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(device.directory.path()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copied.path().join(path.file_name().unwrap())).unwrap();
    }
    let by_sqlite = tempfile::tempdir().unwrap();
    let target = by_sqlite.path().join("backup.sqlite");
    device
        .store
        .connection_mut()
        .execute("VACUUM INTO ?1", [target.to_str().unwrap()])
        .unwrap();
    let places = [device.directory.path(), copied.path(), by_sqlite.path()];
    let found = erased.scan_files(&places);
    assert!(found.is_empty(), "{found:?}");
    for place in places {
        assert_eq!(
            kept.keys_in(place),
            kept_keys,
            "what was not erased is still seen"
        );
    }
    assert!(!device.store.purge_owed().unwrap());
}

/// Erases the first few of a pool in one way, and looks for their keys before and after.
fn erased_by(erase: impl FnOnce(&mut Device, &[KeyPackageRef])) {
    let (mut device, refs) = device("alice/phone");
    let (victims, survivors) = refs.split_at(VICTIMS);
    let keys = keys_of(&mut device, victims);
    let kept_keys = keys_of(&mut device, survivors);
    let (scanner, kept) = (Scanner::new(&keys), Scanner::new(&kept_keys));
    assert_eq!(
        scanner.keys_in(device.directory.path()),
        2 * VICTIMS,
        "all of them are seen before"
    );
    erase(&mut device, victims);
    assert!(device.bundle(&victims[0]).is_none());
    assert_in_no_file(&mut device, &scanner, &kept, kept_keys.len());
}

fn verdict(device: &mut Device, victims: &[KeyPackageRef], verdict: Verdict) {
    let verdicts: Vec<_> = victims.iter().cloned().map(|victim| (victim, verdict)).collect();
    let confirmed = device.in_tx(|tx, pool, now| pool.confirm(tx, &verdicts, now));
    assert_eq!(confirmed.erased as usize, victims.len());
}

#[test]
fn c5_the_keys_of_rejected_key_packages_are_in_no_file() {
    erased_by(|device, victims| verdict(device, victims, Verdict::Rejected));
}

#[test]
fn c5_the_keys_of_key_packages_that_ended_in_the_directory_are_in_no_file() {
    for status in [
        DirectoryStatus::Lapsed,
        DirectoryStatus::Expired,
        DirectoryStatus::Revoked,
    ] {
        erased_by(|device, victims| verdict(device, victims, Verdict::Held(single_use(status))));
    }
}

#[test]
fn c5_the_keys_of_expired_key_packages_are_in_no_file_after_the_grace() {
    let (mut device, refs) = device("alice/phone");
    device.now = device.now.plus(PoolPolicy::default().lifetime_seconds / 2);
    let later = device.mint(SURVIVORS as u32);
    let keys = keys_of(&mut device, &refs);
    let kept_keys = keys_of(&mut device, &later);
    let (scanner, kept) = (Scanner::new(&keys), Scanner::new(&kept_keys));
    assert_eq!(scanner.keys_in(device.directory.path()), keys.len());

    device.now = device
        .now
        .plus(PoolPolicy::default().lifetime_seconds / 2 + GRACE_SECONDS);
    let swept = device.in_tx(|tx, pool, now| pool.sweep(tx, now));
    assert_eq!(swept.expired as usize, refs.len());
    assert_in_no_file(&mut device, &scanner, &kept, kept_keys.len());
}

#[test]
fn c5_c6_the_keys_of_a_replaced_last_resort_are_in_no_file_a_day_later() {
    let mut device = Device::new("alice/phone");
    let replace = |device: &mut Device| {
        let Device {
            store,
            pool,
            signer,
            now,
            ..
        } = device;
        store
            .transaction(|tx| {
                let minted = pool.mint_last_resort(tx, signer, *now)?;
                let held = Verdict::Held(Held::available(Kind::LastResort));
                pool.begin_upload(tx, usize::MAX, *now)?;
                pool.confirm(tx, &[(minted.clone(), held)], *now)?;
                Ok::<_, PoolError>(minted)
            })
            .unwrap()
    };
    let old = replace(&mut device);
    let keys = keys_of(&mut device, &[old]);
    let scanner = Scanner::new(&keys);
    device.now = device.now.plus(60);
    let new = replace(&mut device);
    let kept_keys = keys_of(&mut device, &[new]);
    let kept = Scanner::new(&kept_keys);
    device.now = device.now.plus(LAST_RESORT_RETIRING_SECONDS - 1);
    device.in_tx(|tx, pool, now| pool.sweep(tx, now));
    assert_eq!(
        scanner.keys_in(device.directory.path()),
        2,
        "invitations may be under way"
    );
    device.now = device.now.plus(1);
    device.in_tx(|tx, pool, now| pool.sweep(tx, now));
    assert_in_no_file(&mut device, &scanner, &kept, kept_keys.len());
}

#[test]
fn c5_the_keys_of_an_older_generation_that_was_never_sent_anywhere_are_in_no_file() {
    let mut device = Device::new("alice/phone");
    let refs = device.mint(VICTIMS as u32);
    let keys = keys_of(&mut device, &refs);
    let scanner = Scanner::new(&keys);
    assert_eq!(scanner.keys_in(device.directory.path()), keys.len());
    // Another credential is another generation, and replaces the pool once the directory has it.
    device.credential.credential = BasicCredential::new(b"alice/tablet".to_vec()).into();
    device.pool = KeyPackagePool::for_identity(PoolPolicy::default(), SUITE, &device.credential);
    let survivors = device.mint(PoolPolicy::default().target());
    for survivor in &survivors {
        device.confirm(survivor, Verdict::Held(Held::available(Kind::SingleUse)));
    }
    let swept = device.in_tx(|tx, pool, now| pool.sweep(tx, now));
    assert_eq!(swept.withdrawn as usize, VICTIMS);
    let kept_keys = keys_of(&mut device, &survivors);
    let kept = Scanner::new(&kept_keys);
    assert_in_no_file(&mut device, &scanner, &kept, kept_keys.len());
}

#[test]
fn c5_r_c3_the_init_key_is_in_no_file_after_the_welcome_and_the_leaf_key_after_its_replacement() {
    let mut bob = Device::new("bob/phone");
    let uploads = bob.stock(6);
    let bundle = bob.bundle(&uploads[2].key_package_ref).unwrap();
    let init_key = bundle.init_private_key().to_vec();
    let leaf_key = private_keys(&bundle)
        .into_iter()
        .find(|key| *key != init_key)
        .unwrap();
    let init = Scanner::new(std::slice::from_ref(&init_key));
    let leaf = Scanner::new(std::slice::from_ref(&leaf_key));
    let others: Vec<_> = [0, 1, 3, 4, 5]
        .iter()
        .map(|&other: &usize| uploads[other].key_package_ref.clone())
        .collect();
    let kept_keys = keys_of(&mut bob, &others);
    let kept = Scanner::new(&kept_keys);
    assert_eq!(
        (
            init.keys_in(bob.directory.path()),
            leaf.keys_in(bob.directory.path())
        ),
        (1, 1)
    );

    let invitation = Device::new("alice/phone").invite(&uploads[2]);
    bob.join(&invitation).unwrap();
    assert_in_no_file(&mut bob, &init, &kept, kept_keys.len());
    // The leaf in the group still has it: RFC 9420 §7.3 makes the leaf of the KeyPackage the member's leaf.
    assert_eq!(leaf.keys_in(bob.directory.path()), 1);
    assert_eq!(
        tables_holding(&bob.dump(), &leaf_key),
        ["openmls_epoch_keys_pairs"]
    );

    let Device { store, signer, .. } = &mut bob;
    store
        .transaction(|tx| -> Result<(), StoreError> {
            let provider = tx.provider();
            let mut group = MlsGroup::load(provider.storage(), &invitation.group_id)?.unwrap();
            group
                .self_update(&provider, signer, LeafNodeParameters::default())
                .unwrap();
            group.merge_pending_commit(&provider).unwrap();
            tx.note_erasure();
            Ok(())
        })
        .unwrap();
    assert_in_no_file(&mut bob, &leaf, &kept, kept_keys.len());
}

#[test]
fn c5_pages_that_split_and_merge_leave_no_copies_behind() {
    let policy = PoolPolicy::new(64, 8, 128).unwrap();
    let mut device = Device::with_policy("alice/phone", policy);
    let mut live = device.mint(96);
    let mut erased = Vec::new();
    // A different part of the pool goes and comes in each round, so that SQLite moves rows between pages.
    for round in 0..6 {
        device.begin_upload();
        let (victims, survivors): (Vec<_>, Vec<_>) = live
            .into_iter()
            .partition(|key_package_ref| key_package_ref.as_slice()[0] % 3 == round % 3);
        erased.extend(keys_of(&mut device, &victims));
        verdict(&mut device, &victims, Verdict::Rejected);
        live = survivors;
        live.extend(device.mint(victims.len() as u32));
    }
    let kept_keys = keys_of(&mut device, &live);
    assert!(erased.len() > 200, "{}", erased.len());
    let (scanner, kept) = (Scanner::new(&erased), Scanner::new(&kept_keys));
    assert_in_no_file(&mut device, &scanner, &kept, kept_keys.len());
}

#[test]
fn c5_a_reader_that_lingers_postpones_the_purge_and_does_not_forget_it() {
    let (mut device, refs) = device("alice/phone");
    let (victims, survivors) = refs.split_at(VICTIMS);
    let keys = keys_of(&mut device, victims);
    let kept_keys = keys_of(&mut device, survivors);
    let (scanner, kept) = (Scanner::new(&keys), Scanner::new(&kept_keys));
    let reader = Connection::open(device.path()).unwrap();
    let mut read = reader
        .prepare("SELECT count(*) FROM openmls_key_packages")
        .unwrap();
    let mut count = || read.query_row([], |row| row.get::<_, usize>(0)).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    assert_eq!(count(), refs.len());

    verdict(&mut device, victims, Verdict::Rejected);
    assert!(device.store.purge_owed().unwrap());
    assert_eq!(
        scanner.keys_in(device.directory.path()),
        keys.len(),
        "the log has them"
    );

    device.store = LocalStore::open(&device.path()).unwrap();
    assert!(device.store.purge_owed().unwrap(), "after a restart too");
    device.health();
    assert!(device.store.purge_owed().unwrap(), "the reader reads on");
    assert_eq!(count(), refs.len());
    assert!(!device.store.scrub().unwrap());

    reader.execute_batch("COMMIT").unwrap();
    assert!(device.store.purge_owed().unwrap());
    device.health();
    assert_in_no_file(&mut device, &scanner, &kept, kept_keys.len());
}

#[test]
fn c5_what_is_owed_is_done_when_the_file_is_opened_again() {
    let (mut device, refs) = device("alice/phone");
    let keys = keys_of(&mut device, &refs[..VICTIMS]);
    let kept_keys = keys_of(&mut device, &refs[VICTIMS..]);
    let (scanner, kept) = (Scanner::new(&keys), Scanner::new(&kept_keys));
    let reader = Connection::open(device.path()).unwrap();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM openmls_key_packages;")
        .unwrap();
    verdict(&mut device, &refs[..VICTIMS], Verdict::Rejected);
    assert!(device.store.purge_owed().unwrap());
    assert_eq!(scanner.keys_in(device.directory.path()), keys.len());

    // The reader was the last to have the file open, and SQLite empties the log then; it must not need to.
    let crashed = tempfile::tempdir().unwrap();
    for name in ["device.sqlite", "device.sqlite-wal"] {
        fs::copy(device.directory.path().join(name), crashed.path().join(name)).unwrap();
    }
    drop(reader);
    device.directory = crashed;
    device.store = LocalStore::open(&device.path()).unwrap();
    assert_in_no_file(&mut device, &scanner, &kept, kept_keys.len());
}

#[test]
fn an_erasure_that_is_undone_owes_nothing() {
    let (mut device, refs) = device("alice/phone");
    let before = device.dump();
    let reader = Connection::open(device.path()).unwrap();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM openmls_key_packages;")
        .unwrap();
    let verdicts = [(refs[0].clone(), Verdict::Rejected)];
    let (pool, now) = (&device.pool, device.now);
    let failed = device.store.transaction(|tx| {
        pool.confirm(tx, &verdicts, now)?;
        Err::<(), _>(PoolError::Randomness)
    });
    assert!(failed.is_err());
    assert!(!device.store.purge_owed().unwrap());

    // The deletion succeeds, the row after it fails, and the caller commits all the same.
    device
        .store
        .connection_mut()
        .execute_batch(
            "CREATE TEMP TRIGGER second BEFORE UPDATE OF status ON keypackage_pool_metadata
             WHEN (SELECT count(*) FROM keypackage_pool_metadata WHERE status >= 6) >= 1
             BEGIN SELECT RAISE(ABORT, 'second'); END",
        )
        .unwrap();
    let verdicts = [
        (refs[0].clone(), Verdict::Rejected),
        (refs[1].clone(), Verdict::Rejected),
    ];
    let failed = device
        .store
        .transaction(|tx| Ok::<_, StoreError>(pool.confirm(tx, &verdicts, now)))
        .unwrap();
    assert!(failed.is_err());
    assert!(!device.store.purge_owed().unwrap());
    assert_eq!(device.dump(), before);
}

/// OpenMLS and SQLite alone, with these settings.
struct Bare {
    crypto: openmls_rust_crypto::RustCrypto,
    storage: SqliteStorageProvider<CborCodec, Connection>,
}

impl OpenMlsProvider for Bare {
    type CryptoProvider = openmls_rust_crypto::RustCrypto;
    type RandProvider = openmls_rust_crypto::RustCrypto;
    type StorageProvider = SqliteStorageProvider<CborCodec, Connection>;

    fn storage(&self) -> &Self::StorageProvider {
        &self.storage
    }

    fn crypto(&self) -> &Self::CryptoProvider {
        &self.crypto
    }

    fn rand(&self) -> &Self::RandProvider {
        &self.crypto
    }
}

/// How many of 64 private keys are still in the files after OpenMLS deleted them all.
fn left_without_a_pool(directory: &Path, secure_delete: &str, checkpoint: bool) -> usize {
    let path = directory.join("bare.sqlite");
    let mut connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    connection
        .pragma_update(None, "secure_delete", secure_delete)
        .unwrap();
    SqliteStorageProvider::<CborCodec, &mut Connection>::new(&mut connection)
        .run_migrations()
        .unwrap();
    let second = Connection::open(&path).unwrap();
    let bare = Bare {
        crypto: support::crypto(),
        storage: SqliteStorageProvider::new(connection),
    };
    let owner = Device::new("alice/phone");
    let bundles: Vec<KeyPackageBundle> = (0..32)
        .map(|_| {
            KeyPackage::builder()
                .build(SUITE, &bare, &owner.signer, owner.credential.clone())
                .unwrap()
        })
        .collect();
    let keys: Vec<_> = bundles.iter().flat_map(private_keys).collect();
    let scanner = Scanner::new(&keys);
    assert_eq!(scanner.keys_in(directory), 64);
    for bundle in &bundles {
        let key_package_ref = bundle.key_package().hash_ref(bare.crypto()).unwrap();
        bare.storage().delete_key_package(&key_package_ref).unwrap();
        let left: Option<KeyPackageBundle> = bare.storage().key_package(&key_package_ref).unwrap();
        assert!(left.is_none());
    }
    if checkpoint {
        let busy: i64 = second
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
            .unwrap();
        assert_eq!(busy, 0);
    }
    scanner.keys_in(directory)
}

#[test]
fn without_any_one_of_the_measures_the_scan_finds_what_is_left() {
    let left = |secure_delete, checkpoint| {
        let directory = tempfile::tempdir().unwrap();
        left_without_a_pool(directory.path(), secure_delete, checkpoint)
    };
    assert_eq!(left("ON", true), 0, "with all of them there is nothing");
    for (secure_delete, checkpoint) in [("OFF", true), ("FAST", true), ("ON", false)] {
        let left = left(secure_delete, checkpoint);
        assert!(
            left > 32,
            "secure_delete={secure_delete}, checkpoint {checkpoint}: {left}"
        );
    }
}
