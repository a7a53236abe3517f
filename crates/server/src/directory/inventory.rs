use std::collections::BTreeMap;

use larder_lifecycle::{
    DirectoryPolicy, DirectoryState, DirectoryStatus, EXPIRING_SOON_SECONDS, Level, UnixSeconds,
};
use larder_wire::{Base64Url, Health, Inventory, InventoryItem, KeyPackageState, PoolStatus, SuiteStatus};
use sha2::{Digest, Sha256};

use crate::error::ServiceError;
use crate::store::{DeviceKey, Tx};

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
    let items = tx
        .key_packages_of(owner)?
        .into_iter()
        .map(|row| InventoryItem {
            key_package_ref: row.key_package_ref,
            state: wire_state(row.state.status()),
            suite: row.suite,
            not_after: row.not_after.0,
            last_resort: false,
            reserved_until: match row.state {
                DirectoryState::Reserved { until, .. } => Some(until.0),
                DirectoryState::Available
                | DirectoryState::Spent { .. }
                | DirectoryState::Lapsed
                | DirectoryState::Expired
                | DirectoryState::Revoked => None,
            },
        })
        .collect();
    Ok(Some(Inventory {
        incarnation,
        generation,
        digest,
        items,
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
    let mut suites: BTreeMap<u16, SuiteStatus> = BTreeMap::new();
    for row in tx.key_packages_of(owner)? {
        let status = suites.entry(row.suite).or_insert_with(|| SuiteStatus {
            suite: row.suite,
            available: 0,
            reserved: 0,
            spent: 0,
            lapsed: 0,
            expired: 0,
            expiring_soon: 0,
            last_upload: last_upload.map(|time| time.0),
            health: Health::Empty,
            recommended_action: String::new(),
        });
        match row.state.status() {
            DirectoryStatus::Available => {
                let served_before = policy.served_before(row.not_after);
                if now < served_before {
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
    for status in suites.values_mut() {
        (status.health, status.recommended_action) = match Level::of(status.available, policy.low_watermark) {
            Level::Good => (Health::Good, "nothing".to_owned()),
            Level::Low => (Health::Low, "upload KeyPackages".to_owned()),
            Level::Empty => (
                Health::Empty,
                "upload KeyPackages now: nobody can add this device".to_owned(),
            ),
        };
    }
    Ok(PoolStatus {
        suites: suites.into_values().collect(),
    })
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
