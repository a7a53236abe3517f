//! The last resort: not single-use, never counted, replaced soon after use, erased a day later.

use std::collections::BTreeSet;

use crate::support::{
    self, ACTIVE, DAY, Device, SUITE, USED, files_holding, key_package, last_resort, private_keys,
    tables_holding,
};
use larder_lifecycle::{
    DirectoryStatus, Kind, LAST_RESORT_AGE_SECONDS_MAX, LAST_RESORT_RETIRING_SECONDS, Level, PoolPolicy,
    TOMBSTONE_SECONDS,
};
use larder_pool::openmls::prelude::tls_codec::Serialize as _;
use larder_pool::openmls::prelude::{Capabilities, ExtensionType, KeyPackage, KeyPackageIn, ProtocolVersion};
use larder_pool::{Erasure, JoinError, KeyPackagePool, LocalStore, PoolError, Upload, Verdict};

fn keys(device: &mut Device, upload: &Upload) -> Vec<Vec<u8>> {
    private_keys(&device.bundle(&upload.key_package_ref).unwrap())
}

fn assert_erased(device: &mut Device, keys: &[Vec<u8>]) {
    for key in keys {
        assert_eq!(tables_holding(&device.dump(), key), [""; 0]);
        assert!(files_holding(device.directory.path(), key).is_empty());
    }
}

/// R-C7: every extension type that it uses, and its credential type, are in its capabilities.
fn assert_announces_what_it_uses(key_package: &KeyPackage) {
    let capabilities = key_package.leaf_node().capabilities();
    for extension in key_package.extensions().iter() {
        assert!(capabilities.extensions().contains(&extension.extension_type()));
    }
    let credential = key_package.leaf_node().credential().credential_type();
    assert!(capabilities.credentials().contains(&credential));
}

#[test]
fn r_c7_a_last_resort_announces_its_extension_and_openmls_validates_it() {
    let mut device = Device::new("alice/phone");
    let upload = device.stock_last_resort();
    assert_eq!(upload.kind, Kind::LastResort);
    // Validates it, as any adder does.
    let last_resort = key_package(&upload);
    assert!(last_resort.last_resort());
    assert_announces_what_it_uses(&last_resort);
    let extensions = last_resort.leaf_node().capabilities().extensions().to_vec();
    assert!(extensions.contains(&ExtensionType::LastResort));

    let ordinary = device.stock(1).remove(0);
    assert_eq!(ordinary.kind, Kind::SingleUse);
    assert!(!key_package(&ordinary).last_resort());
    assert_announces_what_it_uses(&key_package(&ordinary));

    // Capabilities of the application's own are kept, and the mark is announced once.
    let announced = Capabilities::builder()
        .extensions(vec![ExtensionType::LastResort, ExtensionType::Unknown(0xF0F0)])
        .build();
    device.pool = device.pool.clone().with_capabilities(announced.clone());
    let upload = device.stock_last_resort();
    assert_eq!(key_package(&upload).leaf_node().capabilities(), &announced);
}

#[test]
fn openmls_refuses_a_last_resort_that_does_not_announce_its_extension() {
    // So the test above would notice.
    let device = Device::new("alice/phone");
    let mut store = LocalStore::open(&device.directory.path().join("other.sqlite")).unwrap();
    let bundle = store
        .transaction(|tx| {
            Ok::<_, PoolError>(KeyPackage::builder().mark_as_last_resort().build(
                SUITE,
                &tx.provider(),
                &device.signer,
                device.credential.clone(),
            )?)
        })
        .unwrap();
    let silent = KeyPackageIn::from(bundle.key_package().clone());
    assert!(
        silent
            .validate(&support::crypto(), ProtocolVersion::Mls10)
            .is_err()
    );
}

#[test]
fn r_c5_c7_nothing_of_ours_lives_longer_than_84_days_and_an_hour() {
    let mut device = Device::new("alice/phone");
    let upload = device.stock_last_resort();
    let lifetime = *key_package(&upload).life_time();
    assert!(lifetime.has_acceptable_range());
    assert_eq!(lifetime.not_before(), device.now.0 - 25 * 3600);
    assert_eq!(lifetime.not_after(), device.now.0 + 83 * DAY);

    let mut policy = PoolPolicy::default();
    policy.lifetime_seconds = 83 * DAY;
    device.pool = KeyPackagePool::for_identity(policy, SUITE, &device.credential);
    for upload in device.stock(8) {
        assert!(key_package(&upload).life_time().has_acceptable_range());
    }
    policy.lifetime_seconds += 1;
    device.pool = KeyPackagePool::for_identity(policy, SUITE, &device.credential);
    assert!(matches!(
        device.try_mint(1),
        Err(PoolError::LifetimeTooLong { seconds }) if seconds == 83 * DAY + 1
    ));
    device.assert_consistent(9);
}

#[test]
fn r_c1_no_key_is_used_twice_among_the_last_resort_and_the_pool() {
    let mut device = Device::new("alice/phone");
    let mut uploads = device.stock(32);
    uploads.push(device.stock_last_resort());
    let mut keys = BTreeSet::new();
    for upload in &uploads {
        let key_package = key_package(upload);
        assert!(keys.insert(key_package.hpke_init_key().as_slice().to_vec()));
        // Without the length in front, like the init key.
        let encryption_key = key_package
            .leaf_node()
            .encryption_key()
            .tls_serialize_detached()
            .unwrap();
        assert!(keys.insert(encryption_key[1..].to_vec()));
    }
    assert_eq!(keys.len(), 66);
}

#[test]
fn a_last_resort_is_uploaded_first_and_with_identical_bytes_at_every_attempt() {
    let mut device = Device::new("alice/phone");
    device.mint(2);
    let last_resort = device.mint_last_resort();
    let first = device.begin_upload();
    assert_eq!(first.len(), 3);
    assert_eq!(first[0].key_package_ref, last_resort);
    let kinds = [0, 1, 2].map(|at| first[at].kind);
    assert_eq!(kinds, [Kind::LastResort, Kind::SingleUse, Kind::SingleUse]);
    let hash = key_package(&first[0]).hash_ref(&support::crypto()).unwrap();
    assert_eq!(hash, last_resort);
    device.now = device.now.plus(60);
    device.store = LocalStore::open(&device.path()).unwrap();
    assert_eq!(device.begin_upload(), first);
    assert_eq!(device.health().last_upload, Some(device.now));
    let one = device.in_tx(|tx, pool, now| pool.begin_upload(tx, 1, now));
    assert_eq!(one, first[..1]);

    device.confirm(&last_resort, ACTIVE);
    assert_eq!(device.begin_upload(), first[1..]);
}

#[test]
fn a_last_resort_never_counts_as_available() {
    let mut device = Device::with_policy("alice/phone", PoolPolicy::new(4, 2, 4).unwrap());
    let missing = |device: &mut Device| device.in_tx(|tx, pool, now| pool.how_many(tx, now));
    device.mint_last_resort();
    let health = device.health();
    assert_eq!((health.unconfirmed, health.last_resort), (0, None));
    assert_eq!(missing(&mut device), 4, "the hard cap is that of the others");

    let upload = device.begin_upload().remove(0);
    device.confirm(&upload.key_package_ref, ACTIVE);
    let health = device.health();
    assert_eq!((health.available, health.level), (0, Level::Empty));
    let last_resort = health.last_resort.unwrap();
    assert!(!last_resort.used);
    assert_eq!(last_resort.created_at, device.now);
    assert_eq!(last_resort.not_after.0, device.now.0 + 83 * DAY);
    assert_eq!(missing(&mut device), 4);
    device.mint(4);
    device.assert_consistent(5);
}

#[test]
fn c1_the_audit_covers_last_resorts() {
    let mut device = Device::new("alice/phone");
    device.stock(2);
    let upload = device.stock_last_resort();
    device.assert_consistent(3);
    device
        .store
        .connection_mut()
        .execute_batch(
            "DROP TRIGGER keypackage_pool_metadata_live_rows_stay;
             DELETE FROM keypackage_pool_metadata WHERE kind = 1",
        )
        .unwrap();
    let audit = device.store.audit().unwrap();
    assert_eq!(audit.without_row, [upload.key_package_ref]);
}

#[test]
fn the_row_of_a_live_last_resort_cannot_be_dropped_and_an_erased_one_stays_erased() {
    let mut device = Device::new("alice/phone");
    let upload = device.stock_last_resort();
    let connection = device.store.connection_mut();
    assert!(
        connection
            .execute("DELETE FROM keypackage_pool_metadata", [])
            .is_err()
    );
    device.confirm(
        &upload.key_package_ref,
        Verdict::Held(last_resort(DirectoryStatus::Gone)),
    );
    device.assert_consistent(0);
    let revived = "UPDATE keypackage_pool_metadata SET status = 2, ended_at = NULL";
    assert!(device.store.connection_mut().execute(revived, []).is_err());
}

#[test]
fn r_c2_a_last_resort_opens_two_welcomes_and_an_ordinary_key_package_one() {
    let mut bob = Device::new("bob/phone");
    let upload = bob.stock_last_resort();
    let private = keys(&mut bob, &upload);
    let first = Device::new("alice/phone").invite(&upload);
    let second = Device::new("carol/phone").invite(&upload);
    for invitation in [&first, &second] {
        let joined = bob.join(invitation).unwrap();
        assert_eq!(joined.kind, Kind::LastResort);
        assert_eq!(joined.key_package_ref, upload.key_package_ref);
        assert_eq!(joined.group.members().count(), 2);
        assert!(bob.has_group(&invitation.group_id));
        bob.assert_consistent(1);
    }
    assert_eq!(keys(&mut bob, &upload), private);
    assert_eq!(bob.health().spent, 0);
    assert!(matches!(bob.join(&first), Err(JoinError::GroupExists { .. })));

    let ordinary = bob.stock(1).remove(0);
    let third = Device::new("dave/phone").invite(&ordinary);
    let fourth = Device::new("eve/phone").invite(&ordinary);
    assert_eq!(bob.join(&third).unwrap().kind, Kind::SingleUse);
    assert!(matches!(bob.join(&fourth), Err(JoinError::AlreadySpent { .. })));
}

#[test]
fn r_c2_an_old_welcome_for_a_last_resort_joins_nothing_again_and_a_newer_one_does() {
    let (mut alice, mut bob) = (Device::new("alice/phone"), Device::new("bob/phone"));
    let upload = bob.stock_last_resort();
    let first = alice.invite(&upload);
    bob.join(&first).unwrap();
    alice.remove_others(&first.group_id);
    bob.forget_group(&first.group_id);

    let before = bob.dump();
    match bob.join(&first) {
        Err(JoinError::Replayed { group_id, .. }) => assert_eq!(group_id, first.group_id),
        other => panic!("{other:?}"),
    }
    assert_eq!(bob.dump(), before);

    let second = alice.invite_to(&first.group_id, &upload);
    bob.join(&second).unwrap();
    bob.forget_group(&first.group_id);
    for old in [&first, &second] {
        assert!(matches!(bob.join(old), Err(JoinError::Replayed { .. })));
    }
    // Other groups are no concern of it.
    bob.join(&Device::new("carol/phone").invite(&upload)).unwrap();

    // What it remembers goes with its keys.
    let memory = |bob: &mut Device| -> i64 {
        let count = "SELECT count(*) FROM keypackage_pool_last_resort_joins";
        bob.store
            .connection_mut()
            .query_row(count, [], |row| row.get(0))
            .unwrap()
    };
    assert_eq!(memory(&mut bob), 2);
    bob.confirm(
        &upload.key_package_ref,
        Verdict::Held(last_resort(DirectoryStatus::Gone)),
    );
    assert_eq!(memory(&mut bob), 0);
    assert!(matches!(bob.join(&second), Err(JoinError::Erased { .. })));
}

#[test]
fn r_c4_a_broken_welcome_leaves_the_last_resort_as_it_was() {
    let mut bob = Device::new("bob/phone");
    let upload = bob.stock_last_resort();
    let invitation = Device::new("alice/phone").invite(&upload);
    let before = bob.dump();
    let mut welcome = invitation.welcome.clone();
    *welcome.last_mut().unwrap() ^= 1;
    assert!(bob.join_bytes(&welcome, Some(&invitation.ratchet_tree)).is_err());
    assert_eq!(bob.dump(), before, "not even a use is noted");
    assert!(!bob.last_resort_due());
    bob.join(&invitation).unwrap();
}

#[test]
fn c6_a_last_resort_is_due_when_there_is_none_or_it_was_used_or_is_old() {
    let mut device = Device::new("bob/phone");
    assert!(device.last_resort_due(), "there is none");
    let upload = device.stock_last_resort();
    assert!(!device.last_resort_due());
    let minted = device.now;

    device.now = minted.plus(LAST_RESORT_AGE_SECONDS_MAX - 1);
    assert!(!device.last_resort_due());
    device.now = device.now.plus(1);
    assert!(device.last_resort_due(), "it is 30 days old");
    device.now = minted;

    let invitation = Device::new("alice/phone").invite(&upload);
    device.join(&invitation).unwrap();
    assert!(device.health().last_resort.unwrap().used);
    assert!(device.last_resort_due(), "it was used");
    device.mint_last_resort();
    assert!(!device.last_resort_due(), "its successor is under way");
}

#[test]
fn c6_r_c3_a_replaced_last_resort_is_kept_for_a_day_after_the_confirmation_and_erased_then() {
    let mut bob = Device::new("bob/phone");
    let old = bob.stock_last_resort();
    let init_key = bob
        .bundle(&old.key_package_ref)
        .unwrap()
        .init_private_key()
        .to_vec();
    let (under_way, late) = (
        Device::new("alice/phone").invite(&old),
        Device::new("carol/phone").invite(&old),
    );
    let new = bob.mint_last_resort();
    bob.now = bob.now.plus(3 * DAY);
    assert_eq!(bob.sweep(), Default::default(), "the successor is not confirmed");
    assert_eq!(bob.begin_upload()[0].key_package_ref, new);

    let verdicts = [(new.clone(), ACTIVE)];
    let confirmed = bob.in_tx(|tx, pool, now| pool.confirm(tx, &verdicts, now));
    assert_eq!((confirmed.moved, confirmed.erased), (2, 0));
    let confirmed_at = bob.now;
    bob.now = confirmed_at.plus(LAST_RESORT_RETIRING_SECONDS - 1);
    assert_eq!(bob.sweep(), Default::default());
    bob.confirm(&new, ACTIVE);
    let joined = bob.join(&under_way).unwrap();
    assert_eq!(joined.kind, Kind::LastResort, "a day is not over");
    bob.assert_consistent(2);

    bob.now = confirmed_at.plus(LAST_RESORT_RETIRING_SECONDS);
    assert_eq!(bob.sweep().retired, 1);
    bob.assert_consistent(1);
    assert!(bob.bundle(&new).is_some());
    // The other private key is the leaf's in the joined group, until that is updated.
    assert_erased(&mut bob, &[init_key]);
    let error = bob.join(&late).unwrap_err();
    assert!(
        matches!(&error, JoinError::Erased { cause: Erasure::Replaced, at, .. } if *at == bob.now),
        "{error:?}"
    );

    bob.now = bob.now.plus(TOMBSTONE_SECONDS);
    assert_eq!(bob.sweep().forgotten, 1);
    assert!(matches!(bob.join(&late), Err(JoinError::NotOurs)));
}

#[test]
fn a_last_resort_that_was_never_replaced_ends_with_its_lifetime_and_grace() {
    let mut device = Device::new("alice/phone");
    let upload = device.stock_last_resort();
    let private = keys(&mut device, &upload);
    device.now = device.now.plus(84 * DAY - 1);
    assert_eq!(device.sweep(), Default::default());
    device.now = device.now.plus(1);
    assert_eq!(device.sweep().expired, 1);
    device.assert_consistent(0);
    assert_erased(&mut device, &private);
}

#[test]
fn an_answer_that_comes_late_replaces_nothing_newer() {
    let mut device = Device::new("alice/phone");
    let first = device.mint_last_resort();
    let second = device.mint_last_resort();
    device.confirm(&second, ACTIVE);
    device.confirm(&first, ACTIVE);
    let newest = device.health().last_resort.unwrap();
    assert_eq!(newest.created_at, device.now);
    device.now = device.now.plus(DAY);
    assert_eq!(device.sweep().retired, 1);
    assert!(device.bundle(&first).is_none());
    assert!(device.bundle(&second).is_some());
}

#[test]
fn a_rejected_last_resort_is_erased_and_an_active_one_is_not() {
    let mut device = Device::new("alice/phone");
    let upload = device.stock_last_resort();
    device.confirm(&upload.key_package_ref, Verdict::Rejected);
    device.assert_consistent(1);
    let refused = device.mint_last_resort();
    device.confirm(&refused, Verdict::Rejected);
    device.assert_consistent(1);
    assert!(device.bundle(&refused).is_none());
}

#[test]
fn live_last_resorts_are_bounded() {
    let mut device = Device::with_policy("alice/phone", PoolPolicy::new(4, 2, 5).unwrap());
    for _ in 0..5 {
        assert!(device.last_resort_due());
        let upload = device.stock_last_resort();
        device.confirm(&upload.key_package_ref, USED);
    }
    assert!(!device.last_resort_due(), "a refresh would fail");
    let refused = device.in_tx(|tx, pool, now| {
        let signer = openmls_basic_credential::SignatureKeyPair::new(SUITE.signature_algorithm()).unwrap();
        Ok(pool.mint_last_resort(tx, &signer, now))
    });
    assert!(matches!(refused, Err(PoolError::HardCap { live: 5, .. })));
    device.now = device.now.plus(DAY);
    assert_eq!(device.sweep().retired, 4);
    assert!(device.last_resort_due());
    device.mint_last_resort();
}

#[test]
fn a_last_resort_is_minted_in_one_transaction_or_not_at_all() {
    let mut device = Device::new("alice/phone");
    let before = device.dump();
    device
        .store
        .connection_mut()
        .execute_batch(
            "CREATE TEMP TRIGGER full BEFORE INSERT ON keypackage_pool_metadata
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
        .transaction(|tx| Ok::<_, PoolError>(pool.mint_last_resort(tx, signer, *now)))
        .unwrap();
    assert!(matches!(failed, Err(PoolError::Store(_))), "{failed:?}");
    assert_eq!(
        device.dump(),
        before,
        "not even a bundle, though the caller committed"
    );
}
