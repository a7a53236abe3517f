//! What the directory's inventory does to last resorts.

use crate::support::{ACTIVE, DAY, Device, HANDED_OUT, USED, last_resort, single_use};
use larder_lifecycle::{DirectoryStatus, Kind};
use larder_pool::{
    DirectoryRow, Erasure, Held, JoinError, KeyPackageRef, Reconciled, Verdict, key_package_ref_from_slice,
};

fn told(key_package_ref: &KeyPackageRef, held: Held) -> DirectoryRow {
    DirectoryRow {
        key_package_ref: key_package_ref.clone(),
        held,
        reserved_until: None,
    }
}

fn reconcile(device: &mut Device, directory: &[DirectoryRow]) -> Reconciled {
    device.in_tx(|tx, pool, now| pool.reconcile(tx, directory, now))
}

#[test]
fn what_the_directory_says_of_the_other_kind_is_no_word_of_it() {
    let mut device = Device::new("alice/phone");
    let kept_back = device.stock_last_resort().key_package_ref;
    let ordinary = device.stock(1).remove(0).key_package_ref;
    let before = device.dump();
    let lies = [
        (kept_back, single_use(DirectoryStatus::Revoked)),
        (ordinary, last_resort(DirectoryStatus::Gone)),
    ];
    for (key_package_ref, held) in &lies {
        device.confirm(key_package_ref, Verdict::Held(*held));
    }
    assert_eq!(device.dump(), before);
    let directory = lies.map(|(key_package_ref, held)| DirectoryRow {
        key_package_ref,
        held,
        reserved_until: None,
    });
    let reconciled = reconcile(&mut device, &directory);
    let both_are_lost = Reconciled {
        moved: 2,
        lost: 2,
        ..Reconciled::default()
    };
    assert_eq!(reconciled, both_are_lost);
    // Their private keys stay.
    device.assert_consistent(2);
}

#[test]
fn x2_a_last_resort_that_this_device_cannot_serve_is_revoked_there() {
    let mut device = Device::new("alice/phone");
    let erased = device.stock_last_resort().key_package_ref;
    device.confirm(&erased, Verdict::Held(last_resort(DirectoryStatus::Gone)));
    let unknown = |byte| key_package_ref_from_slice(&[byte; 32]).unwrap();
    let served = device.stock_last_resort().key_package_ref;
    let directory = [
        told(&erased, last_resort(DirectoryStatus::Available)),
        told(&served, last_resort(DirectoryStatus::Available)),
        told(&unknown(1), HANDED_OUT),
        told(&unknown(2), last_resort(DirectoryStatus::Retiring)),
        told(&unknown(3), last_resort(DirectoryStatus::Gone)),
    ];
    let mut revoke_there = reconcile(&mut device, &directory).revoke_there;
    revoke_there.sort();
    let mut expected = [erased, unknown(1), unknown(2)];
    expected.sort();
    assert_eq!(revoke_there, expected);
    device.assert_consistent(1);
}

#[test]
fn a_lost_upload_of_a_last_resort_is_sent_again_and_absence_erases_nothing() {
    let mut device = Device::new("alice/phone");
    device.stock_last_resort();
    device.mint_last_resort();
    let first = device.begin_upload();
    let reconciled = reconcile(&mut device, &[]);
    let the_confirmed_one_is_lost = Reconciled {
        upload_again: 1,
        moved: 1,
        lost: 1,
        ..Reconciled::default()
    };
    assert_eq!(reconciled, the_confirmed_one_is_lost);
    device.assert_consistent(2);
    assert_eq!(device.begin_upload(), first);
}

#[test]
fn an_inventory_confirms_replaces_and_erases_last_resorts() {
    let mut device = Device::new("alice/phone");
    let gone = device.stock_last_resort().key_package_ref;
    let old = device.mint_last_resort();
    let new = device.mint_last_resort();
    let directory = [
        told(&gone, last_resort(DirectoryStatus::Gone)),
        told(&old, last_resort(DirectoryStatus::Retiring)),
        told(&new, last_resort(DirectoryStatus::Available)),
    ];
    let reconciled = reconcile(&mut device, &directory);
    assert_eq!(
        (reconciled.moved, reconciled.erased, reconciled.upload_again),
        (2, 1, 0)
    );
    device.assert_consistent(2);
    let before = device.dump();
    device.now = device.now.plus(60);
    assert_eq!(reconcile(&mut device, &directory), Reconciled::default());
    assert_eq!(device.dump(), before, "a second pass finds nothing");
}

#[test]
fn a_last_resort_that_retires_in_favour_of_an_unknown_one_is_due() {
    // After a restore: the directory holds a newer one, which this device does not know any more.
    let mut device = Device::new("alice/phone");
    let old = device.stock_last_resort().key_package_ref;
    reconcile(&mut device, &[told(&old, last_resort(DirectoryStatus::Retiring))]);
    assert!(device.last_resort_due());
    assert_eq!(device.health().last_resort, None);
    device.now = device.now.plus(DAY);
    assert_eq!(device.sweep().retired, 1);
}

#[test]
fn c6_the_directory_knows_of_a_use_before_the_welcome_arrives() {
    let mut device = Device::new("bob/phone");
    let upload = device.stock_last_resort();
    let used = [told(&upload.key_package_ref, HANDED_OUT)];
    assert_eq!(reconcile(&mut device, &used), Reconciled::default());
    assert!(device.last_resort_due());
    let before = device.dump();
    device.now = device.now.plus(5);
    reconcile(&mut device, &used);
    device.confirm(&upload.key_package_ref, USED);
    device.confirm(&upload.key_package_ref, ACTIVE);
    assert_eq!(device.dump(), before, "only the first use is news");
}

#[test]
fn no_kind_is_told_to_be_in_a_state_of_the_other() {
    use DirectoryStatus as D;
    for status in D::ALL {
        let single_use = !matches!(status, D::Retiring | D::Gone);
        let last_resort = !matches!(status, D::Reserved | D::Spent | D::Lapsed);
        for (kind, fits) in [(Kind::SingleUse, single_use), (Kind::LastResort, last_resort)] {
            let held = Held::new(kind, status, true);
            assert_eq!(held.is_some(), fits, "{kind:?}, {status:?}");
            let told = held.map(|held| (held.kind(), held.status(), held.used()));
            assert!(told.is_none_or(|told| told == (kind, status, true)));
        }
    }
    assert_eq!(
        Some(ACTIVE),
        Held::new(Kind::LastResort, D::Available, false).map(Verdict::Held)
    );
}

#[test]
fn a_last_resort_ends_as_the_directory_says() {
    for (status, expected) in [
        (DirectoryStatus::Revoked, Erasure::Revoked),
        (DirectoryStatus::Expired, Erasure::Expired),
        (DirectoryStatus::Gone, Erasure::Replaced),
    ] {
        let mut bob = Device::new("bob/phone");
        let upload = bob.stock_last_resort();
        let invitation = Device::new("alice/phone").invite(&upload);
        let reconciled = reconcile(&mut bob, &[told(&upload.key_package_ref, last_resort(status))]);
        assert_eq!(reconciled.erased, 1);
        bob.assert_consistent(0);
        match bob.join(&invitation) {
            Err(JoinError::Erased { cause, .. }) => assert_eq!(cause, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_a_restored_directory_does_not_name_is_kept_and_not_counted_on() {
    let mut device = Device::new("alice/phone");
    let kept_back = device.stock_last_resort().key_package_ref;
    let ordinary = device.stock(1).remove(0).key_package_ref;
    device.mint(1);
    let lies = [
        told(&kept_back, single_use(DirectoryStatus::Available)),
        told(&ordinary, last_resort(DirectoryStatus::Available)),
    ];
    let distrusted = device.in_tx(|tx, pool, now| pool.distrust(tx, &lies, None, now));
    assert_eq!(distrusted, 2);
    let health = device.health();
    assert_eq!((health.available, health.reserved, health.unconfirmed), (0, 1, 1));
    assert_eq!(health.last_resort, None);
    device.assert_consistent(3);
    device.now = device.now.plus(DAY);
    assert_eq!(device.sweep().retired, 1);
    let again = device.in_tx(|tx, pool, now| pool.distrust(tx, &[], Some(now), now));
    assert_eq!(again, 0);
    assert!(
        device.bundle(&ordinary).is_none(),
        "no invitation is expected any more"
    );
    device.assert_consistent(1);
}

#[test]
fn an_older_last_resort_that_is_confirmed_retires_no_newer_one() {
    let mut device = Device::new("alice/phone");
    let (older, newer) = (device.mint_last_resort(), device.mint_last_resort());
    device.confirm(&older, ACTIVE);
    device.now = device.now.plus(DAY);
    assert_eq!(device.sweep(), Default::default());
    assert_eq!(device.begin_upload()[0].key_package_ref, newer);
    device.confirm(&newer, ACTIVE);
    device.now = device.now.plus(DAY);
    assert_eq!(device.sweep().retired, 1);
    assert!(device.bundle(&newer).is_some());
}
