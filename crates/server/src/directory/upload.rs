use larder_lifecycle::{DirectoryPolicy, UnixSeconds};
use larder_wire::{
    AuditTransition, KeyPackageCheck, KeyPackageRef, KeyPackageState, Problem, UploadOutcome, UploadResult,
    Uploaded,
};

use crate::directory::Validated;
use crate::directory::inventory::wire_state;
use crate::directory::last_resort;
use crate::error::{Fault, ServiceError};
use crate::store::{DeviceKey, DeviceRow, NewKeyPackage, Serving, Tx};

/// A KeyPackage as it came, with the verdict of [`validate`](super::validate).
pub(crate) type Judged = (
    Vec<u8>,
    Result<Validated, (Option<KeyPackageRef>, KeyPackageCheck)>,
);

/// Stores the acceptable KeyPackages of a batch. Each gets its own verdict; the same bytes again change nothing. The
/// hard cap counts ordinary KeyPackages; last resorts have a bound of their own.
pub(crate) fn upload(
    tx: &Tx<'_>,
    uploader: &DeviceRow,
    batch: &[Judged],
    policy: &DirectoryPolicy,
    now: UnixSeconds,
) -> Result<Uploaded, ServiceError> {
    tx.lock_devices([uploader.key])?;
    let mut live = tx.count_live(uploader.key)?;
    let mut results = Vec::with_capacity(batch.len());
    let mut changed = false;
    for (bytes, verdict) in batch {
        let result = match verdict {
            Err((key_package_ref, check)) => rejected(key_package_ref.clone(), *check),
            Ok(validated) => store_one(
                tx,
                uploader,
                bytes,
                validated.clone(),
                (&mut live, policy.hard_cap),
                now,
            )?,
        };
        changed |= result.outcome == UploadOutcome::Accepted;
        results.push(result);
    }
    if changed {
        tx.bump_generation(uploader.key)?;
    }
    let available = tx.count_available_of_any_suite(uploader.key, Serving::at(now, policy))?;
    Ok(Uploaded { results, available })
}

fn store_one(
    tx: &Tx<'_>,
    uploader: &DeviceRow,
    bytes: &[u8],
    validated: Validated,
    (live, hard_cap): (&mut u32, u32),
    now: UnixSeconds,
) -> Result<UploadResult, ServiceError> {
    let Validated {
        key_package_ref,
        suite,
        init_key_hash,
        encryption_key_hash,
        lifetime,
        is_last_resort,
    } = validated;
    if let Some((owner, state)) = known(tx, &key_package_ref)? {
        if owner != uploader.key {
            return Ok(rejected(Some(key_package_ref), KeyPackageCheck::DuplicateRef));
        }
        return Ok(result(key_package_ref, UploadOutcome::Present, Some(state)));
    }
    let new = NewKeyPackage {
        key_package_ref: &key_package_ref,
        owner: uploader.key,
        suite,
        init_key_hash: &init_key_hash,
        encryption_key_hash: &encryption_key_hash,
        lifetime,
        bytes,
    };
    let stored = if tx.knows_key(&init_key_hash)? {
        Err(KeyPackageCheck::DuplicateInitKey)
    } else if tx.knows_key(&encryption_key_hash)? {
        Err(KeyPackageCheck::DuplicateEncryptionKey)
    } else if is_last_resort {
        last_resort::store(tx, uploader, &new, now)?
    } else if *live >= hard_cap {
        Err(KeyPackageCheck::OverCap)
    } else if tx.insert_key_package(&new, now)? {
        *live += 1;
        Ok(())
    } else {
        Err(KeyPackageCheck::DuplicateInitKey)
    };
    if let Err(check) = stored {
        return Ok(rejected(Some(key_package_ref), check));
    }
    tx.append_audit(
        uploader.key,
        &key_package_ref,
        AuditTransition::Upload,
        Some(&uploader.identity()),
        None,
        now,
    )?;
    Ok(result(
        key_package_ref,
        UploadOutcome::Accepted,
        Some(KeyPackageState::Available),
    ))
}

/// Whose this KeyPackage is and its state, if it is or was here.
fn known(
    tx: &Tx<'_>,
    key_package_ref: &KeyPackageRef,
) -> Result<Option<(DeviceKey, KeyPackageState)>, Fault> {
    if let Some(row) = tx.key_package(key_package_ref)? {
        return Ok(Some((row.owner, wire_state(row.state.status()))));
    }
    let last_resort = tx.last_resort(key_package_ref)?;
    Ok(last_resort.map(|row| (row.owner, last_resort::wire_state(row.state))))
}

fn result(
    key_package_ref: KeyPackageRef,
    outcome: UploadOutcome,
    state: Option<KeyPackageState>,
) -> UploadResult {
    UploadResult {
        key_package_ref: Some(key_package_ref),
        outcome,
        state,
        problem: None,
    }
}

fn rejected(key_package_ref: Option<KeyPackageRef>, check: KeyPackageCheck) -> UploadResult {
    UploadResult {
        key_package_ref,
        outcome: UploadOutcome::Rejected,
        state: None,
        problem: Some(Problem::key_package(check)),
    }
}
