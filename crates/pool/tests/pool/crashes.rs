//! After a crash at any point, the bundles are those of the live rows.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::support::{ACTIVE, DAY, Device, Dump, dump, join_config, single_use};
use larder_lifecycle::DirectoryStatus;
use larder_pool::{JoinError, LocalStore, PoolError, Verdict};

/// What a crash now would leave: the files as they are, opened by a new process.
fn crash(device: &Path) -> (LocalStore, Dump, tempfile::TempDir) {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(device).unwrap() {
        let path = entry.unwrap().path();
        // The shared-memory index does not survive a crash; SQLite rebuilds it.
        if path.extension().is_none_or(|extension| extension != "sqlite-shm") {
            fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    let mut store = LocalStore::open(&copy.path().join("device.sqlite")).unwrap();
    let audit = store.audit().unwrap();
    assert!(audit.is_consistent(), "{audit:?}");
    let dump = dump(store.connection_mut());
    (store, dump, copy)
}

#[test]
fn c1_a_crash_while_minting_leaves_all_or_nothing() {
    let mut device = Device::new("alice/phone");
    device.mint(3);
    let before = device.dump();
    let Device {
        store,
        pool,
        signer,
        now,
        directory,
        ..
    } = &mut device;
    store
        .transaction(|tx| -> Result<(), PoolError> {
            // A small cache makes SQLite write uncommitted pages to the log before the commit.
            tx.connection().pragma_update(None, "cache_size", 1).unwrap();
            for _ in 0..16 {
                pool.mint(tx, signer, 2, *now)?;
                assert_eq!(crash(directory.path()).1, before);
            }
            Ok(())
        })
        .unwrap();
    let log = fs::metadata(device.directory.path().join("device.sqlite-wal")).unwrap();
    assert!(log.len() > 0, "uncommitted or not, pages went through the log");
    assert_eq!(crash(device.directory.path()).1, device.dump());
    device.assert_consistent(35);
}

#[test]
fn a_torn_log_is_all_or_nothing_at_every_length() {
    let mut device = Device::new("alice/phone");
    device.mint(1);
    let before = device.dump();
    device.store.scrub().unwrap();
    device.mint(4);
    let after = device.dump();
    let wal = fs::read(device.directory.path().join("device.sqlite-wal")).unwrap();
    let torn = tempfile::tempdir().unwrap();
    let mut seen_before = 0;
    let mut seen_after = 0;
    // Frames are 4,096 bytes of page and 24 of header: every frame boundary, and twice inside each frame.
    for length in (0..wal.len()).step_by(1373).chain([wal.len() - 1, wal.len()]) {
        fs::copy(device.path(), torn.path().join("device.sqlite")).unwrap();
        fs::write(torn.path().join("device.sqlite-wal"), &wal[..length]).unwrap();
        let _ = fs::remove_file(torn.path().join("device.sqlite-shm"));
        let found = crash(torn.path()).1;
        if found == before {
            seen_before += 1;
        } else {
            assert_eq!(found, after, "a torn log of {length} bytes");
            seen_after += 1;
        }
    }
    assert!(seen_before > 10 && seen_after >= 1, "{seen_before} {seen_after}");
}

#[test]
fn c1_c4_a_crash_while_joining_leaves_the_key_or_the_group() {
    let mut bob = Device::new("bob/phone");
    let upload = bob.stock(2).remove(0);
    let invitation = Device::new("alice/phone").invite(&upload);
    let before = bob.dump();
    let (pool, now, directory) = (&bob.pool, bob.now, &bob.directory);
    bob.store
        .transaction(|tx| -> Result<(), JoinError> {
            tx.connection().pragma_update(None, "cache_size", 1).unwrap();
            pool.join(
                tx,
                &invitation.welcome,
                Some(&invitation.ratchet_tree),
                &join_config(),
                now,
            )?;
            let (mut store, dump, _files) = crash(directory.path());
            assert_eq!(dump, before);
            store.transaction(|tx| {
                pool.join(
                    tx,
                    &invitation.welcome,
                    Some(&invitation.ratchet_tree),
                    &join_config(),
                    now,
                )
            })?;
            Ok(())
        })
        .unwrap();
    let (mut store, after, _files) = crash(bob.directory.path());
    assert_eq!(after, bob.dump());
    assert_eq!(store.audit().unwrap().live, 1);
    let pool = &bob.pool;
    let again = store.transaction(|tx| {
        pool.join(
            tx,
            &invitation.welcome,
            Some(&invitation.ratchet_tree),
            &join_config(),
            now,
        )
    });
    assert!(matches!(again, Err(JoinError::AlreadySpent { .. })));
}

#[test]
fn c1_a_crash_while_erasing_leaves_the_key_and_its_row() {
    let mut device = Device::new("alice/phone");
    let uploads = device.stock(3);
    let before = device.dump();
    let (pool, now, directory) = (&device.pool, device.now, &device.directory);
    let verdicts: Vec<_> = uploads
        .iter()
        .map(|upload| {
            (
                upload.key_package_ref.clone(),
                Verdict::Held(single_use(DirectoryStatus::Lapsed)),
            )
        })
        .collect();
    device
        .store
        .transaction(|tx| -> Result<(), PoolError> {
            assert_eq!(pool.confirm(tx, &verdicts, now)?.erased, 3);
            assert_eq!(crash(directory.path()).1, before);
            Ok(())
        })
        .unwrap();
    assert_eq!(crash(device.directory.path()).0.audit().unwrap().bundles, 0);
}

#[test]
fn c1_a_crash_while_a_last_resort_is_minted_replaced_or_erased_leaves_all_or_nothing() {
    let mut device = Device::new("alice/phone");
    device.stock_last_resort();
    let before = device.dump();
    let Device {
        store,
        pool,
        signer,
        now,
        directory,
        ..
    } = &mut device;
    let new = store
        .transaction(|tx| {
            tx.connection().pragma_update(None, "cache_size", 1).unwrap();
            let new = pool.mint_last_resort(tx, signer, *now)?;
            assert_eq!(crash(directory.path()).1, before);
            Ok::<_, PoolError>(new)
        })
        .unwrap();
    let before = device.dump();
    let verdicts = [(new, ACTIVE)];
    device.in_tx(|tx, pool, now| pool.confirm(tx, &verdicts, now));
    assert_ne!(crash(device.directory.path()).1, before);

    device.now = device.now.plus(DAY);
    let before = device.dump();
    let (pool, now, directory) = (&device.pool, device.now, &device.directory);
    device
        .store
        .transaction(|tx| -> Result<(), PoolError> {
            assert_eq!(pool.sweep(tx, now)?.retired, 1);
            assert_eq!(crash(directory.path()).1, before);
            Ok(())
        })
        .unwrap();
    assert_eq!(crash(device.directory.path()).0.audit().unwrap().bundles, 1);
}

#[test]
fn c4_a_crash_while_joining_with_a_last_resort_leaves_both_the_group_and_the_use_or_neither() {
    let mut bob = Device::new("bob/phone");
    let upload = bob.stock_last_resort();
    let invitation = Device::new("alice/phone").invite(&upload);
    let before = bob.dump();
    let (pool, now, directory) = (&bob.pool, bob.now, &bob.directory);
    bob.store
        .transaction(|tx| -> Result<(), JoinError> {
            tx.connection().pragma_update(None, "cache_size", 1).unwrap();
            let tree = Some(&invitation.ratchet_tree[..]);
            pool.join(tx, &invitation.welcome, tree, &join_config(), now)?;
            assert_eq!(crash(directory.path()).1, before);
            Ok(())
        })
        .unwrap();
    let (store, after, _files) = crash(bob.directory.path());
    assert_eq!(after, bob.dump());
    assert_eq!(store.audit().unwrap().live, 1);
    assert!(bob.has_group(&invitation.group_id) && bob.last_resort_due());
}

#[test]
fn a_panic_rolls_back() {
    let mut device = Device::new("alice/phone");
    device.mint(2);
    let before = device.dump();
    let Device {
        store,
        pool,
        signer,
        now,
        ..
    } = &mut device;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        store.transaction(|tx| -> Result<(), PoolError> {
            pool.mint(tx, signer, 2, *now)?;
            panic!("in the middle of the application");
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(device.dump(), before);
    device.assert_consistent(2);
    device.mint(1);
    device.assert_consistent(3);
}
