use std::collections::BTreeMap;

use larder_lifecycle::{
    DirectoryPolicy, DirectoryState, DirectoryStatus, EXPIRING_SOON_SECONDS, LastResortState, Level,
    UnixSeconds,
};
use larder_wire::{
    Base64Url, Health, Inventory, InventoryItem, KeyPackageState, LastResortStatus, PoolStatus, SuiteStatus,
};
use sha2::{Digest, Sha256};

use crate::directory::last_resort;
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
    let mut items: Vec<(UnixSeconds, InventoryItem)> = Vec::new();
    items.extend(tx.key_packages_of(owner)?.into_iter().map(|row| {
        let item = InventoryItem {
            key_package_ref: row.key_package_ref,
            state: wire_state(row.state.status()),
            suite: row.suite,
            not_after: row.lifetime.not_after.0,
            last_resort: false,
            used: None,
            reserved_until: match row.state {
                DirectoryState::Reserved { until, .. } => Some(until.0),
                DirectoryState::Available
                | DirectoryState::Spent { .. }
                | DirectoryState::Lapsed
                | DirectoryState::Expired
                | DirectoryState::Revoked => None,
            },
        };
        (row.uploaded_at, item)
    }));
    items.extend(tx.last_resorts_of(owner)?.into_iter().map(|row| {
        let item = InventoryItem {
            key_package_ref: row.key_package_ref,
            state: last_resort::wire_state(row.state),
            suite: row.suite,
            not_after: row.lifetime.not_after.0,
            last_resort: true,
            used: Some(row.used),
            reserved_until: None,
        };
        (row.uploaded_at, item)
    }));
    // Stable: within a second, each kind stays in its order.
    items.sort_by_key(|(uploaded_at, _)| *uploaded_at);
    Ok(Some(Inventory {
        incarnation,
        generation,
        digest,
        items: items.into_iter().map(|(_, item)| item).collect(),
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
        match row.state.status() {
            DirectoryStatus::Available => {
                if serving.includes(row.lifetime) {
                    let served_before = policy.served_before(row.lifetime.not_after);
                    status.available += 1;
                    status.expiring_soon += u32::from(served_before.since(now) < EXPIRING_SOON_SECONDS);
                }
            }
            DirectoryStatus::Reserved => status.reserved += 1,
            DirectoryStatus::Spent => status.spent += 1,
            DirectoryStatus::Lapsed => status.lapsed += 1,
            DirectoryStatus::Expired => status.expired += 1,
            DirectoryStatus::Revoked => {}
        }
    }
    for row in tx.last_resorts_of(owner)? {
        let status = suites.entry(row.suite).or_insert_with(|| nothing(row.suite));
        if row.state == LastResortState::Active && serving.includes(row.lifetime) {
            status.last_resort = LastResortStatus {
                present: true,
                used: row.used,
            };
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
        DirectoryStatus::Spent => KeyPackageState::Spent,
        DirectoryStatus::Lapsed => KeyPackageState::Lapsed,
        DirectoryStatus::Expired => KeyPackageState::Expired,
        DirectoryStatus::Revoked => KeyPackageState::Revoked,
    }
}
