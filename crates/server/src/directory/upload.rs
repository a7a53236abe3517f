use std::collections::{HashMap, HashSet};

use larder_lifecycle::{DirectoryEvent, DirectoryPolicy, Kind, LAST_RESORT_RETIRING_SECONDS, UnixSeconds};
use larder_wire::{
    AuditTransition, KeyPackageCheck, KeyPackageRef, KeyPackageState, Problem, UploadOutcome, UploadResult,
    Uploaded,
};

use crate::directory::Validated;
use crate::directory::inventory::wire_state;
use crate::directory::transition::{Actor, apply};
use crate::error::{Fault, ServiceError};
use crate::store::{DeviceRow, NewKeyPackage, Serving, Tx};

/// Available and retiring last resorts of one device and suite: a device that is drained all day may still replace its
/// last resort every few hours, and cannot fill the directory with them.
const LIVE_LAST_RESORTS_MAX: u32 = 8;

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
        live: tx.count_single_use(uploader.key)?,
        hard_cap: policy.hard_cap,
        known: Known::find(tx, uploader, batch)?,
        accepted: Vec::new(),
        single_use: Vec::new(),
    };
    let mut results = Vec::with_capacity(batch.len());
    for (bytes, verdict) in batch {
        results.push(match verdict {
            Err((key_package_ref, check)) => rejected(key_package_ref.clone(), *check),
            Ok(validated) => upload.store(tx, uploader, (bytes, validated), now)?,
        });
    }
    tx.insert_key_packages(&upload.single_use, now)?;
    if !upload.accepted.is_empty() {
        let accepted: Vec<_> = upload
            .accepted
            .iter()
            .map(|known_by| (uploader.key, *known_by))
            .collect();
        let identity = uploader.identity();
        tx.append_audits(&accepted, AuditTransition::Upload, (Some(&identity), None), now)?;
        let ends = upload.single_use.iter().map(|new| new.lifetime.not_after);
        tx.note_upload(uploader.key, ends.min(), now)?;
    }
    let available = tx.count_available(uploader.key, Kind::SingleUse, Serving::at(now, policy))?;
    Ok(Uploaded { results, available })
}

/// A batch on its way into the store.
struct Upload<'a> {
    /// Ordinary KeyPackages of the device that are available or reserved.
    live: u32,
    hard_cap: u32,
    known: Known,
    /// In their order.
    accepted: Vec<&'a KeyPackageRef>,
    /// The single-use ones among them, which are yet to be stored, together.
    single_use: Vec<NewKeyPackage<'a>>,
}

impl<'a> Upload<'a> {
    fn store(
        &mut self,
        tx: &Tx<'_>,
        uploader: &DeviceRow,
        (bytes, validated): (&'a [u8], &'a Validated),
        now: UnixSeconds,
    ) -> Result<UploadResult, ServiceError> {
        let key_package_ref = validated.key_package_ref.clone();
        if let Some(state) = self.known.refs.get(&key_package_ref) {
            return Ok(result(key_package_ref, UploadOutcome::Present, Some(*state)));
        }
        let new = NewKeyPackage {
            key_package_ref: &validated.key_package_ref,
            owner: uploader.key,
            kind: validated.kind,
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
        } else {
            match new.kind {
                Kind::SingleUse if self.live >= self.hard_cap => Err(KeyPackageCheck::OverCap),
                Kind::SingleUse => {
                    self.live += 1;
                    Ok(())
                }
                Kind::LastResort => make_room(tx, uploader, new.suite, now)?,
            }
        };
        if let Err(check) = stored {
            return Ok(rejected(Some(key_package_ref), check));
        }
        match new.kind {
            Kind::SingleUse => self.single_use.push(new),
            // The next one of the batch takes its place.
            Kind::LastResort => tx.insert_key_packages(&[new], now)?,
        }
        self.known.add(validated);
        self.accepted.push(&validated.key_package_ref);
        Ok(result(
            key_package_ref,
            UploadOutcome::Accepted,
            Some(KeyPackageState::Available),
        ))
    }
}

/// Retires the last resort before a new one. The inner `Err` says why there is no room for the new one.
fn make_room(
    tx: &Tx<'_>,
    uploader: &DeviceRow,
    suite: u16,
    now: UnixSeconds,
) -> Result<Result<(), KeyPackageCheck>, Fault> {
    if tx.count_last_resorts(uploader.key, suite)? >= LIVE_LAST_RESORTS_MAX {
        return Ok(Err(KeyPackageCheck::OverCap));
    }
    if let Some(older) = tx.available_last_resort(uploader.key, suite)? {
        let replace = DirectoryEvent::Replace {
            until: now.plus(LAST_RESORT_RETIRING_SECONDS),
        };
        let identity = uploader.identity();
        let actor = Actor::new(AuditTransition::Retire, Some(&identity));
        apply(tx, older, replace, &actor, now)?
            .map_err(|_| Fault::Corrupt("an available last resort that cannot be replaced"))?;
    }
    Ok(Ok(()))
}

/// What is or was in the directory of what a batch names.
struct Known {
    /// The states of the uploader's KeyPackages. Nobody else's have these references: they bind the signature key.
    refs: HashMap<KeyPackageRef, KeyPackageState>,
    /// The hashes of public keys, be they init keys or encryption keys, whoever's.
    keys: HashSet<Vec<u8>>,
}

impl Known {
    fn find(tx: &Tx<'_>, uploader: &DeviceRow, batch: &[Judged]) -> Result<Self, Fault> {
        let validated: Vec<&Validated> = batch
            .iter()
            .filter_map(|(_, verdict)| verdict.as_ref().ok())
            .collect();
        let names = validated.iter();
        let rows = tx.key_packages(names.map(|validated| (uploader.key, &validated.key_package_ref)))?;
        let rows = rows.into_iter().flatten();
        let keys = validated
            .iter()
            .flat_map(|validated| [&validated.init_key_hash[..], &validated.encryption_key_hash[..]]);
        Ok(Self {
            refs: rows
                .map(|row| (row.key_package_ref, wire_state(row.listed.state.status())))
                .collect(),
            keys: tx.known_keys(&keys.collect::<Vec<_>>())?,
        })
    }

    /// Later ones of the batch are held against this one.
    fn add(&mut self, stored: &Validated) {
        self.refs
            .insert(stored.key_package_ref.clone(), KeyPackageState::Available);
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
