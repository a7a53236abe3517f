//! What the directory says, and what time does, to the KeyPackages of a pool.

use crate::support::{
    self, DAY, Device, files_holding, holds, key_package, message, private_keys, single_use, tables_holding,
};
use larder_lifecycle::{DirectoryStatus, Kind, Level, PoolPolicy, SERVING_MARGIN_SECONDS, TOMBSTONE_SECONDS};
use larder_pool::openmls::prelude::tls_codec::Serialize as _;
use larder_pool::{
    DirectoryRow, Held, KeyPackageRef, NextAction, Reconciled, Swept, Upload, Verdict,
    key_package_ref_from_slice,
};

/// Whatever a single-use KeyPackage can be in the directory.
const STATUSES: [DirectoryStatus; 6] = [
    DirectoryStatus::Available,
    DirectoryStatus::Reserved,
    DirectoryStatus::Spent,
    DirectoryStatus::Lapsed,
    DirectoryStatus::Expired,
    DirectoryStatus::Revoked,
];

fn told(upload: &Upload, status: DirectoryStatus) -> DirectoryRow {
    DirectoryRow {
        key_package_ref: upload.key_package_ref.clone(),
        held: single_use(status),
        reserved_until: None,
    }
}

fn foreign(byte: u8) -> KeyPackageRef {
    key_package_ref_from_slice(&[byte; 32]).unwrap()
}

fn reconcile(device: &mut Device, directory: &[DirectoryRow]) -> Reconciled {
    device.in_tx(|tx, pool, now| pool.reconcile(tx, directory, now))
}

fn sweep(device: &mut Device) -> Swept {
    device.in_tx(|tx, pool, now| pool.sweep(tx, now))
}

/// The private keys are in no table and, since the log is emptied, in no file.
fn assert_erased(device: &mut Device, upload: &Upload, keys: &[Vec<u8>]) {
    assert!(device.bundle(&upload.key_package_ref).is_none());
    let dump = device.dump();
    let leaf = key_package(upload);
    // Without the length in front.
    let encryption_key = leaf
        .leaf_node()
        .encryption_key()
        .tls_serialize_detached()
        .unwrap()[1..]
        .to_vec();
    for bytes in keys.iter().chain([&encryption_key]) {
        assert_eq!(tables_holding(&dump, bytes), [""; 0]);
    }
    for key in keys {
        assert_eq!(
            files_holding(device.directory.path(), key),
            [""; 0].map(std::path::PathBuf::from)
        );
    }
}

#[test]
fn every_attempt_uploads_identical_bytes_until_the_directory_answers() {
    let mut device = Device::new("alice/phone");
    let minted = device.mint(3);
    let first = device.begin_upload();
    assert_eq!(first.len(), 3);
    for upload in &first {
        let key_package = key_package(upload);
        assert_eq!(
            key_package.hash_ref(&support::crypto()).unwrap(),
            upload.key_package_ref
        );
        assert!(minted.contains(&upload.key_package_ref));
        assert_eq!(message(key_package), upload.key_package);
    }
    device.now = device.now.plus(60);
    assert_eq!(device.begin_upload(), first);
    device.store = larder_pool::LocalStore::open(&device.path()).unwrap();
    assert_eq!(device.begin_upload(), first, "after a restart too");
    assert_eq!(device.health().last_upload, Some(device.now));

    device.confirm(
        &first[1].key_package_ref,
        Verdict::Held(Held::available(Kind::SingleUse)),
    );
    assert_eq!(device.begin_upload(), [first[0].clone(), first[2].clone()]);
    let one = device.in_tx(|tx, pool, now| pool.begin_upload(tx, 1, now));
    assert_eq!(one, first[..1], "the oldest first");
}

#[test]
fn older_key_packages_are_uploaded_first() {
    let mut device = Device::new("alice/phone");
    let mut minted = Vec::new();
    for _ in 0..8 {
        minted.extend(device.mint(1));
        device.now = device.now.plus(1);
    }
    let uploaded: Vec<_> = device
        .begin_upload()
        .into_iter()
        .map(|upload| upload.key_package_ref)
        .collect();
    assert_eq!(uploaded, minted);
}

#[test]
fn a_confirmed_key_package_is_available_and_a_rejected_one_is_erased() {
    let mut device = Device::new("alice/phone");
    device.mint(2);
    let uploads = device.begin_upload();
    let keys = private_keys(&device.bundle(&uploads[1].key_package_ref).unwrap());
    assert!(
        !files_holding(device.directory.path(), &keys[0]).is_empty(),
        "the scan finds a kept key"
    );

    device.confirm(
        &uploads[0].key_package_ref,
        Verdict::Held(Held::available(Kind::SingleUse)),
    );
    device.confirm(&uploads[1].key_package_ref, Verdict::Rejected);
    let health = device.health();
    assert_eq!((health.available, health.revoked, health.unconfirmed), (1, 1, 0));
    device.assert_consistent(1);
    assert_erased(&mut device, &uploads[1], &keys);
}

#[test]
fn late_and_foreign_answers_change_nothing() {
    let mut device = Device::new("alice/phone");
    let uploads = device.stock(2);
    device.confirm(
        &uploads[0].key_package_ref,
        Verdict::Held(single_use(DirectoryStatus::Reserved)),
    );
    device.confirm(
        &uploads[1].key_package_ref,
        Verdict::Held(single_use(DirectoryStatus::Lapsed)),
    );
    let before = device.dump();
    for verdict in [Verdict::Held(Held::available(Kind::SingleUse)), Verdict::Rejected] {
        device.confirm(&uploads[0].key_package_ref, verdict);
        device.confirm(&uploads[1].key_package_ref, verdict);
        device.confirm(&foreign(7), verdict);
    }
    assert_eq!(device.dump(), before);
}

#[test]
fn absence_from_the_inventory_erases_nothing() {
    let mut device = Device::new("alice/phone");
    let uploads = device.stock(3);
    device.confirm(
        &uploads[0].key_package_ref,
        Verdict::Held(single_use(DirectoryStatus::Reserved)),
    );
    device.mint(1);
    let reconciled = reconcile(&mut device, &[]);
    assert_eq!(
        reconciled,
        Reconciled {
            upload_again: 1,
            moved: 3,
            lost: 3,
            ..Reconciled::default()
        }
    );
    device.assert_consistent(4);
    let before = device.dump();
    reconcile(&mut device, &[]);
    assert_eq!(device.dump(), before, "and the second time changes nothing");
}

#[test]
fn the_directory_is_told_to_revoke_what_nobody_could_open() {
    let mut device = Device::new("alice/phone");
    let uploads = device.stock(2);
    device.confirm(
        &uploads[0].key_package_ref,
        Verdict::Held(single_use(DirectoryStatus::Revoked)),
    );
    let mut unknown = told(&uploads[0], DirectoryStatus::Reserved);
    unknown.key_package_ref = foreign(1);
    let mut gone = unknown.clone();
    gone.key_package_ref = foreign(2);
    gone.held = single_use(DirectoryStatus::Spent);
    let directory = [
        told(&uploads[0], DirectoryStatus::Available),
        told(&uploads[1], DirectoryStatus::Available),
        unknown,
        gone,
    ];
    let mut revoke_there = reconcile(&mut device, &directory).revoke_there;
    revoke_there.sort();
    let mut expected = vec![foreign(1), uploads[0].key_package_ref.clone()];
    expected.sort();
    assert_eq!(revoke_there, expected);
}

#[test]
fn the_inventory_moves_rows_and_keys_survive_until_it_says_that_none_can_be_needed() {
    let mut device = Device::new("alice/phone");
    let uploads = device.stock(6);
    let keys: Vec<_> = uploads
        .iter()
        .map(|upload| private_keys(&device.bundle(&upload.key_package_ref).unwrap()))
        .collect();
    let mut directory: Vec<_> = uploads
        .iter()
        .zip(STATUSES)
        .map(|(upload, status)| told(upload, status))
        .collect();
    directory[1].reserved_until = Some(device.now.plus(3600));
    let reconciled = reconcile(&mut device, &directory);
    assert_eq!((reconciled.moved, reconciled.erased), (2, 3));
    device.assert_consistent(3);
    for (index, status) in STATUSES.into_iter().enumerate() {
        let upload = &uploads[index];
        match status {
            DirectoryStatus::Available | DirectoryStatus::Reserved | DirectoryStatus::Spent => {
                assert!(device.bundle(&upload.key_package_ref).is_some(), "{status:?}");
            }
            _ => assert_erased(&mut device, upload, &keys[index]),
        }
    }
    let hint: i64 = device
        .store
        .connection_mut()
        .query_row(
            "SELECT reservation_expires_at FROM keypackage_pool_metadata WHERE reservation_expires_at NOT NULL",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(hint, i64::try_from(device.now.0 + 3600).unwrap());

    let before = device.dump();
    assert_eq!(reconcile(&mut device, &directory), Reconciled::default());
    assert_eq!(device.dump(), before, "a second pass finds nothing");
}

#[test]
fn a_sweep_erases_nothing_before_the_end_of_grace_and_everything_after_it() {
    let mut device = Device::new("alice/phone");
    let uploads = device.stock(1);
    let keys = private_keys(&device.bundle(&uploads[0].key_package_ref).unwrap());
    let not_after = key_package(&uploads[0]).life_time().not_after();
    let minted = device.now;

    device.now.0 = not_after + DAY - 1;
    let before = device.dump();
    assert_eq!(sweep(&mut device), Swept::default());
    assert_eq!(device.dump(), before);
    device.assert_consistent(1);

    device.now.0 = not_after + DAY;
    assert_eq!(sweep(&mut device).expired, 1);
    device.assert_consistent(0);
    assert_erased(&mut device, &uploads[0], &keys);
    assert_eq!(device.health().expired, 1);

    device.now = device.now.plus(TOMBSTONE_SECONDS - 1);
    assert_eq!(sweep(&mut device), Swept::default());
    device.now = device.now.plus(1);
    assert_eq!(sweep(&mut device).forgotten, 1);
    assert_eq!(device.health().expired, 0);

    // A clock that jumps back revives nothing.
    device.now = minted;
    assert_eq!(sweep(&mut device), Swept::default());
}

#[test]
fn erased_keys_leave_the_files_once_the_last_reader_is_gone() {
    let mut device = Device::new("alice/phone");
    let uploads = device.stock(1);
    let keys = private_keys(&device.bundle(&uploads[0].key_package_ref).unwrap());
    let reader = larder_pool::rusqlite::Connection::open(device.path()).unwrap();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM openmls_key_packages")
        .unwrap();
    device.confirm(
        &uploads[0].key_package_ref,
        Verdict::Held(single_use(DirectoryStatus::Lapsed)),
    );
    assert!(
        !files_holding(device.directory.path(), &keys[0]).is_empty(),
        "the reader still sees it"
    );
    reader.execute_batch("COMMIT").unwrap();
    device.health();
    assert_erased(&mut device, &uploads[0], &keys);
}

#[test]
fn a_pool_refills_to_the_target_and_tells_its_level() {
    let mut device = Device::with_policy("alice/phone", PoolPolicy::new(4, 2, 8).unwrap());
    assert_eq!(device.health().level, Level::Empty);
    let uploads = device.stock(4);
    assert_eq!(device.health().level, Level::Good);
    assert_eq!(device.in_tx(|tx, pool, now| pool.how_many(tx, now)), 0);

    for (upload, (level, low)) in uploads.iter().zip([
        (Level::Good, false),
        (Level::Good, false),
        (Level::Low, true),
        (Level::Empty, true),
    ]) {
        device.confirm(
            &upload.key_package_ref,
            Verdict::Held(single_use(DirectoryStatus::Reserved)),
        );
        assert_eq!(device.health().level, level);
        assert_eq!(
            device.in_tx(|tx, pool, now| pool.needs_replenishing(tx, now)),
            low
        );
    }
    assert_eq!(device.health().reserved, 4);
    assert_eq!(device.in_tx(|tx, pool, now| pool.how_many(tx, now)), 4);
    device.mint(2);
    assert_eq!(
        device.in_tx(|tx, pool, now| pool.how_many(tx, now)),
        2,
        "what is under way counts"
    );
}

#[test]
fn an_aging_pool_is_replaced_before_it_is_no_longer_served() {
    let mut device = Device::with_policy("alice/phone", PoolPolicy::new(4, 2, 16).unwrap());
    let uploads = device.stock(4);
    let first_end = uploads
        .iter()
        .map(|upload| key_package(upload).life_time().not_after())
        .min()
        .unwrap();
    let served_before = first_end - SERVING_MARGIN_SECONDS;
    device.now.0 = served_before - 2 * DAY - 1;
    let health = device.health();
    assert_eq!((health.available, health.expiring_soon), (4, 0));
    device.now.0 += 1;
    let health = device.health();
    assert_eq!((health.available, health.expiring_soon), (4, 4));
    assert_eq!(device.in_tx(|tx, pool, now| pool.how_many(tx, now)), 4);
    device.now.0 = served_before;
    let health = device.health();
    assert_eq!((health.available, health.expired), (0, 4));
    assert_eq!(device.in_tx(|tx, pool, now| pool.available(tx, now)), 0);
    device.assert_consistent(4);
}

#[test]
fn the_byte_scan_finds_both_forms_of_a_key() {
    let key: Vec<u8> = (10..42).collect();
    let mut cbor = Vec::new();
    ciborium::into_writer(&key, &mut cbor).unwrap();
    assert_ne!(
        cbor.len(),
        key.len() + 2,
        "an array of numbers, not a byte string"
    );
    assert!(holds(&cbor, &key) && holds(&key, &key));
    assert!(!holds(&cbor[..cbor.len() - 1], &key));
}

#[test]
fn an_old_copy_gives_up_what_the_directory_calls_spent_and_keeps_the_rest() {
    let mut device = Device::new("alice/phone");
    let uploads = device.stock(4);
    let keys = private_keys(&device.bundle(&uploads[0].key_package_ref).unwrap());
    let inventory = [
        told(&uploads[0], DirectoryStatus::Spent),
        told(&uploads[1], DirectoryStatus::Reserved),
        told(&uploads[2], DirectoryStatus::Available),
        DirectoryRow {
            key_package_ref: foreign(7),
            ..told(&uploads[0], DirectoryStatus::Spent)
        },
    ];
    let given_up = device.in_tx(|tx, pool, now| pool.give_up_spent(tx, &inventory, now));
    assert_eq!(given_up, 1);
    assert_erased(&mut device, &uploads[0], &keys);
    device.assert_consistent(3);
    let given_up = device.in_tx(|tx, pool, now| pool.give_up_spent(tx, &inventory, now));
    assert_eq!(given_up, 0);
}

#[test]
fn the_next_action_is_to_refresh_or_to_wait_when_the_cap_leaves_no_room() {
    let mut device = Device::with_policy("alice/phone", PoolPolicy::new(4, 2, 6).unwrap());
    assert_eq!(device.health().next_action, NextAction::Refresh);
    device.stock_last_resort();
    let uploads = device.stock(4);
    assert_eq!(device.health().next_action, NextAction::None);
    let take = |device: &mut Device, uploads: &[Upload]| {
        for upload in uploads {
            let reserved = Verdict::Held(single_use(DirectoryStatus::Reserved));
            device.confirm(&upload.key_package_ref, reserved);
        }
    };
    take(&mut device, &uploads);
    assert_eq!(device.health().next_action, NextAction::Refresh);
    device.mint(2);
    assert_eq!(device.health().next_action, NextAction::Refresh, "to be uploaded");
    for upload in device.begin_upload() {
        let held = Verdict::Held(Held::available(Kind::SingleUse));
        device.confirm(&upload.key_package_ref, held);
    }
    assert_eq!(device.health().next_action, NextAction::Wait);
}
