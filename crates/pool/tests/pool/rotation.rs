//! R-C10: another signature key, credential or set of capabilities replaces the pool. Publish the new, have it confirmed,
//! revoke the old, drain what is reserved.

use crate::support::{self, ACTIVE, DAY, Device, private_keys, single_use, tables_holding};
use larder_lifecycle::{DirectoryStatus, Kind, Level, PoolPolicy};
use larder_pool::openmls::prelude::{BasicCredential, Capabilities, ExtensionType, OpenMlsProvider as _};
use larder_pool::{Held, KeyPackagePool, KeyPackageRef, Upload, Verdict};

fn refs(uploads: &[Upload]) -> Vec<KeyPackageRef> {
    let mut refs: Vec<_> = uploads
        .iter()
        .map(|upload| upload.key_package_ref.clone())
        .collect();
    refs.sort();
    refs
}

fn outdated(device: &mut Device) -> Vec<KeyPackageRef> {
    let mut refs = device.outdated();
    refs.sort();
    refs
}

fn how_many(device: &mut Device) -> u32 {
    device.in_tx(|tx, pool, now| pool.how_many(tx, now))
}

fn small() -> Device {
    Device::with_policy("alice/phone", PoolPolicy::new(4, 2, 16).unwrap())
}

fn generations(device: &mut Device) -> i64 {
    let sql = "SELECT count(*) FROM keypackage_pool_generations";
    device
        .store
        .connection_mut()
        .query_row(sql, [], |row| row.get(0))
        .unwrap()
}

#[test]
fn r_c10_a_changed_signature_key_begins_a_generation_that_counts_from_zero() {
    let mut device = small();
    device.stock(4);
    assert_eq!((device.health().available, how_many(&mut device)), (4, 0));
    assert_eq!(device.outdated(), []);

    device.rotate();
    let health = device.health();
    assert_eq!(
        (health.available, health.outdated, health.level),
        (0, 4, Level::Empty)
    );
    assert_eq!(health.last_upload, None);
    assert!(device.in_tx(|tx, pool, now| pool.needs_replenishing(tx, now)));
    assert_eq!(how_many(&mut device), 4);
    device.assert_consistent(4);

    let new = device.stock(4);
    assert_eq!(new.len(), 4);
    for upload in &new {
        let leaf = support::key_package(upload).leaf_node().clone();
        assert_eq!(leaf.signature_key(), &device.credential.signature_key);
    }
    let health = device.health();
    assert_eq!(
        (health.available, health.outdated, health.level),
        (4, 4, Level::Good)
    );
}

#[test]
fn a_changed_credential_and_changed_capabilities_begin_a_generation_and_their_order_does_not() {
    let mut device = small();
    device.stock(4);
    let capabilities = |extensions: &[u16]| {
        let extensions = extensions
            .iter()
            .map(|&value| ExtensionType::Unknown(value))
            .collect();
        Capabilities::builder().extensions(extensions).build()
    };
    let same = device.pool.clone();
    device.pool = same.clone().with_capabilities(capabilities(&[0xF001, 0xF002]));
    assert_eq!(how_many(&mut device), 4);
    device.stock(4);
    for equal in [
        capabilities(&[0xF002, 0xF001]),
        capabilities(&[0xF001, 0xF002, 0xF001]),
        // Every process has GREASE values of its own (RFC 9420 §13.5).
        device.in_tx(|tx, _, _| Ok(capabilities(&[0xF001, 0xF002]).with_grease(tx.provider().rand()))),
        Capabilities::builder()
            .extensions(vec![
                ExtensionType::LastResort,
                ExtensionType::Unknown(0xF001),
                ExtensionType::Unknown(0xF002),
            ])
            .build(),
    ] {
        device.pool = same.clone().with_capabilities(equal);
        assert_eq!(how_many(&mut device), 0);
    }
    device.pool = same;
    assert_eq!(how_many(&mut device), 0, "an application may go back");

    device.credential.credential = BasicCredential::new(b"alice/renamed".to_vec()).into();
    device.pool =
        larder_pool::KeyPackagePool::for_identity(device.policy, support::SUITE, &device.credential);
    assert_eq!(how_many(&mut device), 4);
    assert_eq!(device.health().outdated, 8);
}

#[test]
fn r_c10_the_old_ones_are_named_only_once_the_new_ones_are_confirmed() {
    let mut device = small();
    let old = refs(&device.stock(4));
    device.rotate();
    assert_eq!(device.outdated(), [], "nothing is minted");
    device.mint(4);
    assert_eq!(device.outdated(), [], "nothing is uploaded");
    let new = device.begin_upload();
    for upload in &new {
        assert_eq!(device.outdated(), [], "some are not confirmed");
        let available = Verdict::Held(Held::available(Kind::SingleUse));
        device.confirm(&upload.key_package_ref, available);
    }
    assert_eq!(outdated(&mut device), old);
    assert!(
        old.iter().all(|old| device.bundle(old).is_some()),
        "naming them erases nothing"
    );

    let revoked: Vec<_> = old
        .iter()
        .map(|old| (old.clone(), Verdict::Held(single_use(DirectoryStatus::Revoked))))
        .collect();
    let confirmed = device.in_tx(|tx, pool, now| pool.confirm(tx, &revoked, now));
    assert_eq!((confirmed.moved, confirmed.erased), (0, 4));
    device.assert_consistent(4);
    assert_eq!(device.outdated(), []);
    assert_eq!(device.health().outdated, 0);
}

#[test]
fn without_room_for_new_ones_the_old_ones_are_named_at_once() {
    let mut device = Device::with_policy("alice/phone", PoolPolicy::new(4, 2, 4).unwrap());
    let old = refs(&device.stock(4));
    device.rotate();
    assert_eq!(
        how_many(&mut device),
        0,
        "the hard cap holds for all generations together"
    );
    assert_eq!(
        outdated(&mut device),
        old,
        "or the pool would stay empty for 60 days"
    );
}

#[test]
fn r_c10_an_old_reserved_key_package_still_joins_and_is_never_named() {
    let mut bob = small();
    let old = bob.stock(4);
    let (reserved, unnoticed) = (&old[0], &old[1]);
    let reserved_there = Verdict::Held(single_use(DirectoryStatus::Reserved));
    bob.confirm(&reserved.key_package_ref, reserved_there);
    bob.rotate();
    bob.stock(4);
    assert_eq!(outdated(&mut bob), refs(&old[1..]));

    // One that was reserved before this device was told.
    for upload in [reserved, unnoticed] {
        let invitation = Device::new("carol/phone").invite(upload);
        let private = private_keys(&bob.bundle(&upload.key_package_ref).unwrap());
        assert_eq!(bob.join(&invitation).unwrap().group.members().count(), 2);
        let dump = bob.dump();
        // The encryption key is that of the leaf now.
        assert!(private.iter().any(|key| tables_holding(&dump, key).is_empty()));
    }
    assert_eq!(outdated(&mut bob), refs(&old[2..]));
    bob.assert_consistent(6);
    assert_eq!(bob.health().available, 4);
}

#[test]
fn what_was_never_sent_is_withdrawn_by_the_sweep_and_what_may_have_arrived_is_revoked_first() {
    let mut device = small();
    device.mint(4);
    let sent = device.in_tx(|tx, pool, now| pool.begin_upload(tx, 1, now));
    assert_eq!(device.sweep(), Default::default(), "all of it is current");
    device.rotate();
    assert_eq!(device.begin_upload(), [], "no directory would take an old one");
    device.stock(4);
    assert_eq!(device.outdated(), refs(&sent));
    assert_eq!(device.sweep().withdrawn, 3);
    device.assert_consistent(5);
    assert_eq!(device.outdated(), refs(&sent));
    // The directory does not know it.
    device.confirm(&sent[0].key_package_ref, Verdict::Rejected);
    device.assert_consistent(4);
    assert_eq!(device.outdated(), []);
}

#[test]
fn c6_a_last_resort_of_an_old_generation_is_due_and_retires_when_the_new_one_is_confirmed() {
    let mut bob = small();
    let old = bob.stock_last_resort();
    let invitation = Device::new("carol/phone").invite(&old);
    assert!(!bob.last_resort_due());
    bob.rotate();
    assert!(bob.last_resort_due());
    assert_eq!(bob.health().last_resort, None);
    let new = bob.mint_last_resort();
    assert!(!bob.last_resort_due());
    assert_eq!(bob.begin_upload().len(), 1);
    bob.now = bob.now.plus(2 * DAY);
    assert_eq!(bob.sweep(), Default::default(), "the new one is not confirmed");
    bob.confirm(&new, ACTIVE);
    assert_eq!(bob.join(&invitation).unwrap().kind, Kind::LastResort);
    assert!(
        !bob.last_resort_due(),
        "the use of an old one is no use of the new one"
    );
    bob.now = bob.now.plus(DAY);
    assert_eq!(bob.sweep().retired, 1);
    bob.assert_consistent(1);
}

#[test]
fn a_last_resort_that_never_left_is_withdrawn_like_any_other() {
    let mut device = small();
    device.mint_last_resort();
    device.mint(1);
    device.rotate();
    let sent = device.mint_last_resort();
    assert_eq!(device.begin_upload().len(), 1);
    assert_eq!(device.sweep().withdrawn, 2);
    device.assert_consistent(1);
    device.mint_last_resort();
    device.in_tx(|tx, _, now| KeyPackagePool::begin_anew(tx, now));
    device.assert_consistent(1);
    assert!(device.bundle(&sent).is_some(), "an upload may be under way");
}

#[test]
fn generations_without_rows_are_forgotten() {
    let mut device = small();
    for _ in 0..3 {
        let uploads = device.stock(2);
        for upload in uploads {
            let revoked = Verdict::Held(single_use(DirectoryStatus::Revoked));
            device.confirm(&upload.key_package_ref, revoked);
        }
        device.rotate();
    }
    assert_eq!(generations(&mut device), 3);
    device.stock(2);
    device.now = device.now.plus(30 * DAY);
    assert_eq!(device.sweep().forgotten, 6);
    assert_eq!(generations(&mut device), 1);
    device.assert_consistent(2);
}
