//! One store with a pool for each of several ciphersuites.

use crate::support::{ACTIVE, DAY, Device, single_use};
use larder_lifecycle::{DirectoryStatus, Kind, PoolPolicy};
use larder_pool::openmls::prelude::Ciphersuite;
use larder_pool::{DirectoryRow, Held, KeyPackagePool, KeyPackageRef, PoolError, Upload, Verdict};

const CHACHA: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;

/// A device with a pool of another suite beside its own.
struct Two {
    device: Device,
    other: KeyPackagePool,
}

impl Two {
    fn new() -> Self {
        let policy = PoolPolicy::default().shared_between(2);
        let device = Device::with_policy("alice/phone", policy);
        let other = KeyPackagePool::for_identity(policy, CHACHA, &device.credential);
        Self { device, other }
    }

    /// Exchanges the device's pool with the other one.
    fn swap(&mut self) {
        std::mem::swap(&mut self.device.pool, &mut self.other);
    }

    /// Both pools full, with a last resort each. What was uploaded, of the device's own first.
    fn full() -> (Self, [Vec<Upload>; 2]) {
        let mut two = Self::new();
        let fill = |two: &mut Self| {
            let missing = two.device.in_tx(|tx, pool, now| pool.how_many(tx, now));
            assert_eq!(missing, 16);
            let mut uploads = two.device.stock(missing);
            uploads.push(two.device.stock_last_resort());
            two.swap();
            uploads
        };
        let uploads = [fill(&mut two), fill(&mut two)];
        two.device.assert_consistent(34);
        (two, uploads)
    }

    fn available(&mut self) -> [u32; 2] {
        let mut available = || {
            let available = self.device.health().available;
            self.swap();
            available
        };
        [available(), available()]
    }
}

fn inventory(uploads: &[Vec<Upload>; 2]) -> Vec<DirectoryRow> {
    let row = |upload: &Upload| DirectoryRow {
        key_package_ref: upload.key_package_ref.clone(),
        held: Held::available(upload.kind),
        reserved_until: None,
    };
    uploads.iter().flatten().map(row).collect()
}

fn live_suites(device: &mut Device) -> Vec<u16> {
    device.in_tx(|tx, _, _| KeyPackagePool::live_suites(tx))
}

#[test]
fn each_pool_counts_its_own_suite_and_both_count_against_one_cap() {
    let (mut two, _) = Two::full();
    assert_eq!(two.available(), [16, 16]);
    assert_eq!(live_suites(&mut two.device), [1, 3]);
    for (count, fits) in [(33, false), (32, true)] {
        let minted = two.device.try_mint(count);
        match fits {
            true => assert_eq!(minted.unwrap().len(), 32),
            false => assert!(
                matches!(
                    minted,
                    Err(PoolError::HardCap {
                        live: 32,
                        asked: 33,
                        ..
                    })
                ),
                "S7: live ones of every suite count"
            ),
        }
    }
    two.swap();
    two.device.health();
    assert!(matches!(
        two.device.try_mint(1),
        Err(PoolError::HardCap { live: 64, .. })
    ));
    assert_eq!(two.device.in_tx(|tx, pool, now| pool.how_many(tx, now)), 0);
}

#[test]
fn an_upload_is_of_one_suite_and_any_pool_takes_the_verdicts() {
    let mut two = Two::new();
    let minted = two.device.mint(2);
    two.swap();
    assert_eq!(two.device.begin_upload(), [], "nothing of this suite");
    let verdict = Verdict::Held(Held::available(Kind::SingleUse));
    two.device.confirm(&minted[0], verdict);
    two.swap();
    let health = two.device.health();
    assert_eq!((health.available, health.unconfirmed), (1, 1));
}

#[test]
fn a_sweep_withdraws_nothing_of_another_suite() {
    let mut two = Two::new();
    two.device.mint(3);
    two.swap();
    two.device.mint(3);
    // A new generation of the second suite: what was never sent of the old one goes, and only that.
    two.device.pool =
        two.device
            .pool
            .clone()
            .with_capabilities(larder_pool::openmls::prelude::Capabilities::new(
                None,
                Some(&[CHACHA]),
                None,
                None,
                None,
            ));
    two.device.mint(1);
    let swept = two.device.sweep();
    assert_eq!((swept.withdrawn, swept.expired), (3, 0));
    two.device.assert_consistent(4);
    two.swap();
    assert_eq!(two.device.sweep().withdrawn, 0);
    assert_eq!(two.device.health().unconfirmed, 3);
}

#[test]
fn what_is_past_its_end_is_swept_by_any_pool_whatever_its_suite() {
    let (mut two, _) = Two::full();
    two.device.now = two.device.now.plus(83 * DAY);
    assert_eq!(two.device.sweep().expired, 0, "an invitation may be under way");
    assert_eq!(live_suites(&mut two.device), [1, 3]);
    two.device.now = two.device.now.plus(2 * DAY);
    assert_eq!(two.device.sweep().expired, 34, "last resorts live no longer");
    assert_eq!(live_suites(&mut two.device), [0; 0]);
    two.swap();
    assert_eq!(two.device.sweep().expired, 0);
    two.device.assert_consistent(0);
}

#[test]
fn x2_the_inventory_of_both_suites_agrees_with_either_pool() {
    let (mut two, uploads) = Two::full();
    let directory = inventory(&uploads);
    let before = two.device.dump();
    for _ in 0..2 {
        let reconciled = two
            .device
            .in_tx(|tx, pool, now| pool.reconcile(tx, &directory, now));
        assert_eq!(reconciled, larder_pool::Reconciled::default());
        two.swap();
    }
    assert_eq!(
        two.device.dump(),
        before,
        "nothing of the other suite is revoked or erased"
    );
    // What the directory ended or lost of one suite is that suite's alone.
    let mut directory = directory;
    directory[16 + 1].held = single_use(DirectoryStatus::Revoked);
    directory.pop();
    directory.pop();
    two.device
        .in_tx(|tx, pool, now| pool.reconcile(tx, &directory, now));
    assert_eq!(two.available(), [16, 14]);
}

#[test]
fn a_last_resort_replaces_those_of_its_own_suite_only() {
    let (mut two, _) = Two::full();
    let newer: KeyPackageRef = two.device.mint_last_resort();
    two.device.confirm(&newer, ACTIVE);
    two.device.now = two.device.now.plus(DAY);
    assert_eq!(two.device.sweep().retired, 1);
    assert!(two.device.health().last_resort.is_some());
    assert!(!two.device.last_resort_due());
    two.swap();
    assert!(two.device.health().last_resort.is_some());
    assert!(!two.device.last_resort_due());
    two.device.assert_consistent(34);
}

#[test]
fn either_pool_joins_whatever_the_suite_and_explains_what_it_cannot() {
    let (mut two, uploads) = Two::full();
    let mut bob = Device::new("bob/phone");
    let invitation = bob.invite(&uploads[0][0]);
    // By the pool of the other suite.
    two.swap();
    let joined = two.device.join(&invitation).unwrap();
    assert_eq!(joined.key_package_ref, uploads[0][0].key_package_ref);
    assert!(two.device.join(&invitation).is_err());
    two.swap();
    assert_eq!(two.available(), [15, 16]);
    assert_eq!(two.device.health().spent, 1);
    two.device.assert_consistent(33);
}
