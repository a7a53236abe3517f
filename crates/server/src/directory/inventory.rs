use std::collections::BTreeMap;

use larder_lifecycle::{
    DirectoryPolicy, DirectoryStatus, EXPIRING_SOON_SECONDS, Kind, Level, ReservationState, UnixSeconds,
};
use larder_wire::{
    Base64Url, Health, Inventory, InventoryItem, KeyPackageState, LastResortStatus, PoolStatus, SuiteStatus,
};
use sha2::{Digest, Sha256};

use crate::error::ServiceError;
use crate::store::{DeviceKey, Serving, Tx};

/// Every KeyPackage of a device that the directory knows; `None` when the caller has this very answer already.
pub(crate) fn inventory(
    tx: &Tx<'_>,
    owner: DeviceKey,
    known_digest: Option<&str>,
) -> Result<Option<Inventory>, ServiceError> {
    let incarnation = tx.incarnation()?;
    let (generation, _) = tx.generation(owner)?;
    let digest = digest(&incarnation, generation);
    if known_digest == Some(digest.as_str()) {
        return Ok(None);
    }
    let items = tx.key_packages_of(owner)?.into_iter().map(|row| {
        let reservation = row
            .listed
            .reservation
            .filter(|held| held.state == ReservationState::Open);
        let is_last_resort = row.listed.kind == Kind::LastResort;
        InventoryItem {
            key_package_ref: row.key_package_ref,
            state: wire_state(row.listed.state.status()),
            suite: row.suite,
            not_after: row.lifetime.not_after.0,
            last_resort: is_last_resort,
            used: is_last_resort.then_some(row.listed.used),
            reserved_until: reservation.map(|held| held.until.0),
        }
    });
    Ok(Some(Inventory {
        incarnation,
        generation,
        digest,
        items: items.collect(),
    }))
}

/// Every change of a KeyPackage bumps the owner's generation in the same transaction, so these two stand for all.
fn digest(incarnation: &str, generation: u64) -> String {
    let mut hash = Sha256::new();
    hash.update(incarnation);
    hash.update([0]);
    hash.update(generation.to_be_bytes());
    Base64Url(hash.finalize().to_vec()).to_string()
}

/// The caller's pool in numbers, per ciphersuite.
pub(crate) fn pool_status(
    tx: &Tx<'_>,
    owner: DeviceKey,
    policy: &DirectoryPolicy,
    now: UnixSeconds,
) -> Result<PoolStatus, ServiceError> {
    let (_, last_upload) = tx.generation(owner)?;
    let serving = Serving::at(now, policy);
    let mut suites: BTreeMap<u16, SuiteStatus> = BTreeMap::new();
    let nothing = |suite| SuiteStatus {
        suite,
        available: 0,
        reserved: 0,
        spent: 0,
        lapsed: 0,
        expired: 0,
        expiring_soon: 0,
        last_resort: LastResortStatus::default(),
        last_upload: last_upload.map(|time| time.0),
        health: Health::Empty,
        recommended_action: String::new(),
    };
    for row in tx.key_packages_of(owner)? {
        let status = suites.entry(row.suite).or_insert_with(|| nothing(row.suite));
        let is_served = serving.includes(row.lifetime);
        match (row.listed.state.status(), row.listed.kind) {
            (DirectoryStatus::Available, Kind::SingleUse) if is_served => {
                let served_before = policy.served_before(row.lifetime.not_after);
                status.available += 1;
                status.expiring_soon += u32::from(served_before.since(now) < EXPIRING_SOON_SECONDS);
            }
            (DirectoryStatus::Available, Kind::LastResort) if is_served => {
                status.last_resort = LastResortStatus {
                    present: true,
                    used: row.listed.used,
                };
            }
            (DirectoryStatus::Reserved, _) => status.reserved += 1,
            (DirectoryStatus::Spent, _) => status.spent += 1,
            (DirectoryStatus::Lapsed, _) => status.lapsed += 1,
            (DirectoryStatus::Expired, Kind::SingleUse) => status.expired += 1,
            (DirectoryStatus::Available, _)
            | (DirectoryStatus::Expired, Kind::LastResort)
            | (DirectoryStatus::Retiring | DirectoryStatus::Revoked | DirectoryStatus::Gone, _) => {}
        }
    }
    for status in suites.values_mut() {
        let level = Level::of(status.available, policy.low_watermark);
        status.health = match level {
            Level::Good => Health::Good,
            Level::Low => Health::Low,
            Level::Empty => Health::Empty,
        };
        status.recommended_action = recommended_action(level, status.last_resort).to_owned();
    }
    Ok(PoolStatus {
        suites: suites.into_values().collect(),
    })
}

/// What the owner should do first.
fn recommended_action(level: Level, last_resort: LastResortStatus) -> &'static str {
    match (level, last_resort) {
        (Level::Empty, LastResortStatus { present: false, .. }) => {
            "upload KeyPackages now: nobody can add this device"
        }
        (Level::Empty, LastResortStatus { present: true, .. }) => {
            "upload KeyPackages now: only the last resort is left"
        }
        (Level::Low, _) => "upload KeyPackages",
        (Level::Good, LastResortStatus { present: false, .. }) => "upload a last resort",
        (Level::Good, LastResortStatus { used: true, .. }) => "replace the last resort: it was used",
        (Level::Good, LastResortStatus { used: false, .. }) => "nothing",
    }
}

pub(super) fn wire_state(status: DirectoryStatus) -> KeyPackageState {
    match status {
        DirectoryStatus::Available => KeyPackageState::Available,
        DirectoryStatus::Reserved => KeyPackageState::Reserved,
        DirectoryStatus::Retiring => KeyPackageState::Retiring,
        DirectoryStatus::Spent => KeyPackageState::Spent,
        DirectoryStatus::Lapsed => KeyPackageState::Lapsed,
        DirectoryStatus::Expired => KeyPackageState::Expired,
        DirectoryStatus::Revoked => KeyPackageState::Revoked,
        DirectoryStatus::Gone => KeyPackageState::Gone,
    }
}
