use std::collections::{HashMap, HashSet};

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
    let mut upload = Upload {
        live: tx.count_live(uploader.key)?,
        hard_cap: policy.hard_cap,
        known: Known::find(tx, batch)?,
        accepted: Vec::new(),
    };
    let mut results = Vec::with_capacity(batch.len());
    for (bytes, verdict) in batch {
        results.push(match verdict {
            Err((key_package_ref, check)) => rejected(key_package_ref.clone(), *check),
            Ok(validated) => upload.store(tx, uploader, (bytes, validated), now)?,
        });
    }
    if !upload.accepted.is_empty() {
        let accepted: Vec<_> = upload
            .accepted
            .iter()
            .map(|known_by| (uploader.key, known_by))
            .collect();
        let identity = uploader.identity();
        tx.append_audits(&accepted, AuditTransition::Upload, (Some(&identity), None), now)?;
        tx.note_upload(uploader.key, now)?;
    }
    let available = tx.count_available_of_any_suite(uploader.key, Serving::at(now, policy))?;
    Ok(Uploaded { results, available })
}

/// A batch on its way into the store.
struct Upload {
    /// Ordinary KeyPackages of the device that are available or reserved.
    live: u32,
    hard_cap: u32,
    known: Known,
    accepted: Vec<KeyPackageRef>,
}

impl Upload {
    fn store(
        &mut self,
        tx: &Tx<'_>,
        uploader: &DeviceRow,
        (bytes, validated): (&[u8], &Validated),
        now: UnixSeconds,
    ) -> Result<UploadResult, ServiceError> {
        let key_package_ref = validated.key_package_ref.clone();
        if let Some((owner, state)) = self.known.refs.get(&key_package_ref) {
            return Ok(match *owner == uploader.key {
                true => result(key_package_ref, UploadOutcome::Present, Some(*state)),
                false => rejected(Some(key_package_ref), KeyPackageCheck::DuplicateRef),
            });
        }
        let new = NewKeyPackage {
            key_package_ref: &key_package_ref,
            owner: uploader.key,
            suite: validated.suite,
            init_key_hash: &validated.init_key_hash,
            encryption_key_hash: &validated.encryption_key_hash,
            lifetime: validated.lifetime,
            bytes,
        };
        let stored = if self.known.keys.contains(new.init_key_hash) {
            Err(KeyPackageCheck::DuplicateInitKey)
        } else if self.known.keys.contains(new.encryption_key_hash) {
            Err(KeyPackageCheck::DuplicateEncryptionKey)
        } else if validated.is_last_resort {
            last_resort::store(tx, uploader, &new, now)?
        } else if self.live >= self.hard_cap {
            Err(KeyPackageCheck::OverCap)
        } else {
            tx.insert_key_package(&new, now)?;
            self.live += 1;
            Ok(())
        };
        if let Err(check) = stored {
            return Ok(rejected(Some(key_package_ref), check));
        }
        self.known.add(uploader.key, validated);
        self.accepted.push(key_package_ref.clone());
        Ok(result(
            key_package_ref,
            UploadOutcome::Accepted,
            Some(KeyPackageState::Available),
        ))
    }
}

/// What is or was in the directory of what a batch names.
struct Known {
    /// Whose KeyPackages these are, and their states.
    refs: HashMap<KeyPackageRef, (DeviceKey, KeyPackageState)>,
    /// The hashes of public keys, be they init keys or encryption keys.
    keys: HashSet<Vec<u8>>,
}

impl Known {
    fn find(tx: &Tx<'_>, batch: &[Judged]) -> Result<Self, Fault> {
        let validated: Vec<&Validated> = batch
            .iter()
            .filter_map(|(_, verdict)| verdict.as_ref().ok())
            .collect();
        let refs: Vec<KeyPackageRef> = validated
            .iter()
            .map(|validated| validated.key_package_ref.clone())
            .collect();
        let ordinary = tx.key_packages(&refs)?.into_iter().flatten();
        let ordinary = ordinary.map(|row| (row.key_package_ref, (row.owner, wire_state(row.state.status()))));
        let mut known: HashMap<_, _> = ordinary.collect();
        let last_resorts = tx.last_resorts(&refs)?.into_iter().flatten();
        known.extend(last_resorts.map(|row| {
            let state = last_resort::wire_state(row.state);
            (row.key_package_ref, (row.owner, state))
        }));
        let keys = validated
            .iter()
            .flat_map(|validated| [&validated.init_key_hash[..], &validated.encryption_key_hash[..]]);
        Ok(Self {
            refs: known,
            keys: tx.known_keys(&keys.collect::<Vec<_>>())?,
        })
    }

    /// Later ones of the batch are held against this one.
    fn add(&mut self, owner: DeviceKey, stored: &Validated) {
        let state = KeyPackageState::Available;
        self.refs.insert(stored.key_package_ref.clone(), (owner, state));
        self.keys.insert(stored.init_key_hash.to_vec());
        self.keys.insert(stored.encryption_key_hash.to_vec());
    }
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
