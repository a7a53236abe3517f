//! What the directory held and does not name any more, and what is valid only later.

use crate::support::{self, DAY, Device, single_use};
use larder_lifecycle::{DirectoryStatus, Kind, Level, POOL_LOST_MAX, PoolPolicy};
use larder_pool::{DirectoryRow, KeyPackageRef, NextAction, Reconciled};

fn inventory(refs: &[KeyPackageRef], status: DirectoryStatus) -> Vec<DirectoryRow> {
    refs.iter()
        .map(|key_package_ref| DirectoryRow {
            key_package_ref: key_package_ref.clone(),
            held: single_use(status),
            reserved_until: None,
        })
        .collect()
}

/// A whole refresh by an inventory, with a directory that takes everything. Returns what it minted.
fn refresh(device: &mut Device, directory: &[DirectoryRow]) -> (Reconciled, u32) {
    let reconciled = device.in_tx(|tx, pool, now| pool.reconcile(tx, directory, now));
    device.sweep();
    let missing = device.in_tx(|tx, pool, now| Ok(pool.plan(tx, now)?.mint));
    if missing > 0 {
        device.stock(missing);
    }
    if device.last_resort_due() {
        device.stock_last_resort();
    }
    (reconciled, missing)
}

fn bundles(device: &mut Device) -> u32 {
    let connection = device.store.connection_mut();
    connection
        .query_row("SELECT count(*) FROM openmls_key_packages", [], |row| row.get(0))
        .unwrap()
}

#[test]
fn what_the_inventory_does_not_name_counts_for_nothing_and_is_replaced() {
    let mut device = Device::new("alice/phone");
    let lost = device.stock(32);
    device.stock_last_resort();
    let reconciled = device.in_tx(|tx, pool, now| pool.reconcile(tx, &[], now));
    assert_eq!((reconciled.lost, reconciled.erased), (33, 0));
    let health = device.health();
    assert_eq!((health.available, health.lost), (0, 32));
    assert_eq!(
        (health.level, health.next_action),
        (Level::Empty, NextAction::Refresh)
    );
    assert_eq!(health.last_resort, None);

    let (_, minted) = refresh(&mut device, &[]);
    assert_eq!(minted, 32);
    let health = device.health();
    assert_eq!((health.available, health.lost), (32, 32));
    assert!(health.last_resort.is_some());
    // An invitation was under way.
    let mut bob = Device::new("bob/laptop");
    let invitation = bob.invite(&lost[0]);
    device.join(&invitation).unwrap();
    assert_eq!(device.health().lost, 31);
}

#[test]
fn a_directory_that_loses_all_daily_stays_within_the_caps() {
    let mut device = Device::new("alice/phone");
    refresh(&mut device, &[]);
    let mut minted = 0;
    for _ in 0..14 {
        for _ in 0..4 {
            minted += refresh(&mut device, &[]).1;
            device.now = device.now.plus(DAY / 4);
        }
    }
    assert!(minted <= 14 * 32, "{minted} were minted in two weeks");
    let health = device.health();
    assert!(health.lost <= POOL_LOST_MAX, "{} are kept", health.lost);
    let kept = bundles(&mut device);
    assert!(kept <= POOL_LOST_MAX + 64 + 2, "{kept} private keys");
}

#[test]
fn the_same_second_is_no_second_day() {
    let mut device = Device::new("alice/phone");
    let minted: u32 = (0..10).map(|_| refresh(&mut device, &[]).1).sum();
    assert_eq!(minted, 64, "the pool, and once what was lost");
    assert_eq!(device.health().next_action, NextAction::Wait);
    device.now = device.now.plus(DAY);
    assert_eq!(refresh(&mut device, &[]).1, 32);
}

#[test]
fn the_oldest_of_the_lost_are_erased_first() {
    let policy = PoolPolicy::new(200, 8, 200).unwrap();
    let mut device = Device::with_policy("alice/phone", policy);
    let old = device.stock(100);
    device.in_tx(|tx, pool, now| pool.reconcile(tx, &[], now));
    device.now = device.now.plus(DAY);
    let new = device.stock(200);
    let reconciled = device.in_tx(|tx, pool, now| pool.reconcile(tx, &[], now));
    assert_eq!((reconciled.lost, reconciled.erased), (200, 44));
    let kept = |device: &mut Device, uploads: &[larder_pool::Upload]| {
        uploads
            .iter()
            .filter(|upload| device.bundle(&upload.key_package_ref).is_some())
            .count()
    };
    assert_eq!((kept(&mut device, &old), kept(&mut device, &new)), (56, 200));
    device.assert_consistent(256);
}

#[test]
fn what_turns_up_again_is_withdrawn_and_never_counts() {
    let mut device = Device::new("alice/phone");
    let lost: Vec<_> = device
        .stock(4)
        .into_iter()
        .map(|upload| upload.key_package_ref)
        .collect();
    device.in_tx(|tx, pool, now| pool.reconcile(tx, &[], now));
    let again = inventory(&lost, DirectoryStatus::Available);
    let reconciled = device.in_tx(|tx, pool, now| pool.reconcile(tx, &again, now));
    assert_eq!(reconciled.revoke_there.len(), 4);
    assert_eq!(device.health().available, 0);
    let revoked = inventory(&lost, DirectoryStatus::Revoked);
    let reconciled = device.in_tx(|tx, pool, now| pool.reconcile(tx, &revoked, now));
    assert_eq!(reconciled.erased, 4);
}

#[test]
fn a_last_resort_that_turns_up_again_is_withdrawn() {
    let mut device = Device::new("alice/phone");
    let upload = device.stock_last_resort();
    device.in_tx(|tx, pool, now| pool.reconcile(tx, &[], now));
    assert!(device.last_resort_due());
    let row = |status| {
        vec![DirectoryRow {
            key_package_ref: upload.key_package_ref.clone(),
            held: support::last_resort(status),
            reserved_until: None,
        }]
    };
    let active = row(DirectoryStatus::Available);
    let reconciled = device.in_tx(|tx, pool, now| pool.reconcile(tx, &active, now));
    assert_eq!(reconciled.revoke_there.len(), 1);
    assert!(device.bundle(&upload.key_package_ref).is_some());
    let gone = row(DirectoryStatus::Gone);
    device.in_tx(|tx, pool, now| pool.reconcile(tx, &gone, now));
    assert!(device.bundle(&upload.key_package_ref).is_none());
}

#[test]
fn what_is_valid_only_later_is_replaced_and_withdrawn() {
    let mut device = Device::new("alice/phone");
    let now = device.now;
    device.now = now.plus(35 * DAY);
    let ahead = device.stock(32);
    device.stock_last_resort();
    device.now = now;
    let health = device.health();
    assert_eq!((health.available, health.not_yet_valid), (0, 32));
    assert_eq!(health.last_resort, None);
    assert_eq!(health.next_action, NextAction::Refresh);
    assert!(device.outdated().is_empty(), "the new ones go first");
    device.stock(32);
    assert!(device.last_resort_due());
    device.stock_last_resort();
    assert_eq!(device.outdated().len(), 32);
    let refs: Vec<_> = ahead.into_iter().map(|upload| upload.key_package_ref).collect();
    let revoked = inventory(&refs, DirectoryStatus::Revoked);
    let named = device
        .in_tx(|tx, pool, _| pool.known(tx))
        .into_iter()
        .filter(|known| known.kind == Kind::SingleUse && !refs.contains(&known.key_package_ref))
        .map(|known| known.key_package_ref)
        .collect::<Vec<_>>();
    let mut directory = inventory(&named, DirectoryStatus::Available);
    directory.extend(revoked);
    device.in_tx(|tx, pool, now| pool.reconcile(tx, &directory, now));
    let health = device.health();
    assert_eq!((health.available, health.not_yet_valid, health.lost), (32, 0, 0));
}
