use larder_lifecycle::{
    Correction, DirectoryStatus, PoolEvent, PoolPolicy, PoolState, UnixSeconds, reconcile,
};
use openmls::prelude::{
    Capabilities, Ciphersuite, CredentialWithKey, GroupId, KeyPackage, KeyPackageBundle, KeyPackageRef,
    Lifetime, MlsMessageOut, OpenMlsProvider as _, OpenMlsRand as _,
};
use openmls_traits::signatures::Signer;
use openmls_traits::storage::StorageProvider as _;

use crate::error::{Corrupt, PoolError};
use crate::metadata::{self, Metadata};
use crate::store::Tx;

/// Minted KeyPackages are valid from an hour ago, for clocks that are behind ours.
const NOT_BEFORE_MARGIN_SECONDS: u64 = 60 * 60;
/// `not_after` is up to this part of the lifetime earlier, so that a pool never expires at once.
const JITTER_PART: u64 = 10;

/// The single-use KeyPackages of one device for one ciphersuite.
///
/// It holds no state: everything is in the [`LocalStore`](crate::LocalStore), and every operation works inside the
/// caller's transaction. An operation that fails undoes what it did, so the caller may still commit the rest.
#[derive(Debug, Clone)]
pub struct KeyPackagePool {
    pub(crate) policy: PoolPolicy,
    pub(crate) ciphersuite: Ciphersuite,
    capabilities: Capabilities,
}

/// A KeyPackage to upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Its reference.
    pub key_package_ref: KeyPackageRef,
    /// The KeyPackage as an `MLSMessage` (RFC 9420 §6).
    pub key_package: Vec<u8>,
}

/// The directory's answer about one uploaded KeyPackage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The directory holds it, in this state.
    Held(DirectoryStatus),
    /// The directory refused it, and never held it.
    Rejected,
}

/// What the directory's verdicts changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Confirmed {
    /// KeyPackages that changed their state and kept their private keys.
    pub moved: u32,
    /// KeyPackages that became terminal; their private keys are gone.
    pub erased: u32,
}

/// One KeyPackage in the directory's inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryRow {
    /// Its reference.
    pub key_package_ref: KeyPackageRef,
    /// Its state there.
    pub status: DirectoryStatus,
    /// When its reservation may lapse. A hint.
    pub reserved_until: Option<UnixSeconds>,
}

/// What a reconcile found and changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reconciled {
    /// The directory could hand these out and we could not open the invitation: revoke them there.
    pub revoke_there: Vec<KeyPackageRef>,
    /// KeyPackages that the directory does not know yet; [`KeyPackagePool::begin_upload`] gives them again.
    pub upload_again: u32,
    /// KeyPackages that took over the directory's state and kept their private keys.
    pub moved: u32,
    /// KeyPackages that became terminal; their private keys are gone.
    pub erased: u32,
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// KeyPackages whose life and grace are over; their private keys are gone.
    pub expired: u32,
    /// Terminal KeyPackages whose metadata was dropped.
    pub forgotten: u32,
}

impl KeyPackagePool {
    /// A pool for this ciphersuite, with OpenMLS's default capabilities.
    pub fn new(policy: PoolPolicy, ciphersuite: Ciphersuite) -> Self {
        Self {
            policy,
            ciphersuite,
            capabilities: Capabilities::default(),
        }
    }

    /// Mints KeyPackages whose leaf announces these capabilities (RFC 9420 §7.2).
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// Mints `count` KeyPackages: OpenMLS stores each bundle, and each gets a row in the state `created`.
    ///
    /// They are valid from an hour before `now` until `now` plus the policy's lifetime, less a random part of up to a
    /// tenth of it.
    ///
    /// # Errors
    /// [`PoolError::HardCap`] when the live KeyPackages would exceed the policy's hard cap; [`PoolError::Mls`] when
    /// `signer` does not fit the ciphersuite. Nothing is minted then.
    pub fn mint(
        &self,
        tx: &Tx<'_>,
        signer: &impl Signer,
        credential: &CredentialWithKey,
        count: u32,
        now: UnixSeconds,
    ) -> Result<Vec<KeyPackageRef>, PoolError> {
        tx.atomically(|| {
            let live = self.census(&metadata::all(tx.connection())?, now).live;
            let hard_cap = self.policy.hard_cap();
            if live.saturating_add(count) > hard_cap {
                return Err(PoolError::HardCap {
                    live,
                    asked: count,
                    hard_cap,
                });
            }
            (0..count)
                .map(|_| self.mint_one(tx, signer, credential, now))
                .collect()
        })
    }

    fn mint_one(
        &self,
        tx: &Tx<'_>,
        signer: &impl Signer,
        credential: &CredentialWithKey,
        now: UnixSeconds,
    ) -> Result<KeyPackageRef, PoolError> {
        let provider = tx.provider();
        let random = provider
            .rand()
            .random_array()
            .map_err(|_| PoolError::Randomness)?;
        let jitter = u64::from_be_bytes(random) % (self.policy.lifetime_seconds / JITTER_PART + 1);
        let not_before = now.minus(NOT_BEFORE_MARGIN_SECONDS);
        let not_after = now.plus(self.policy.lifetime_seconds).minus(jitter);
        let bundle = KeyPackage::builder()
            .key_package_lifetime(Lifetime::init(not_before.0, not_after.0))
            .leaf_node_capabilities(self.capabilities.clone())
            .build(self.ciphersuite, &provider, signer, credential.clone())?;
        let key_package_ref = bundle.key_package().hash_ref(provider.crypto())?;
        metadata::insert(
            tx.connection(),
            &key_package_ref,
            self.ciphersuite,
            now,
            not_after,
        )?;
        Ok(key_package_ref)
    }

    /// The KeyPackages that the directory has not confirmed, oldest first, at most `max`; notes the attempt.
    ///
    /// After a lost answer they come again, with identical bytes. Send them only once the transaction is committed.
    ///
    /// # Errors
    /// [`PoolError`] when the store cannot be used, or private keys are missing.
    pub fn begin_upload(&self, tx: &Tx<'_>, max: usize, now: UnixSeconds) -> Result<Vec<Upload>, PoolError> {
        tx.atomically(|| {
            let rows = metadata::all(tx.connection())?;
            let created = rows
                .iter()
                .filter(|row| row.state == PoolState::Created && self.is_of_this_pool(row));
            created
                .take(max)
                .map(|row| {
                    let key_package_ref = row.key_package_ref.clone();
                    let bundle = bundle(tx, &key_package_ref)?.ok_or(Corrupt::Bundle)?;
                    let key_package = MlsMessageOut::from(bundle.into_key_package())
                        .to_bytes()
                        .map_err(|_| PoolError::Encode(key_package_ref.clone()))?;
                    metadata::set_uploaded(tx.connection(), &key_package_ref, now)?;
                    Ok(Upload {
                        key_package_ref,
                        key_package,
                    })
                })
                .collect()
        })
    }

    /// Takes over the directory's verdicts on an upload.
    ///
    /// What it says of KeyPackages that are unknown here, or that have moved on since, is ignored: an answer may come
    /// late. A KeyPackage that becomes terminal loses its private keys.
    ///
    /// # Errors
    /// [`PoolError`] when the store cannot be used, or private keys survive their deletion.
    pub fn confirm(
        &self,
        tx: &Tx<'_>,
        verdicts: &[(KeyPackageRef, Verdict)],
        now: UnixSeconds,
    ) -> Result<Confirmed, PoolError> {
        tx.atomically(|| {
            let mut confirmed = Confirmed::default();
            for (key_package_ref, verdict) in verdicts {
                let event = match verdict {
                    Verdict::Held(status) => PoolEvent::Confirmed(*status),
                    Verdict::Rejected => PoolEvent::Rejected,
                };
                match apply(tx, key_package_ref, event, now)? {
                    Change::None => {}
                    Change::Moved => confirmed.moved += 1,
                    Change::Erased => confirmed.erased += 1,
                }
            }
            Ok(confirmed)
        })
    }

    /// Compares the pool with the directory's inventory and takes over what the directory knows better.
    ///
    /// `directory` is the whole inventory of the device. A KeyPackage that it does not name is never erased: absence
    /// proves nothing.
    ///
    /// # Errors
    /// [`PoolError`] when the store cannot be used, or private keys survive their deletion.
    pub fn reconcile(
        &self,
        tx: &Tx<'_>,
        directory: &[DirectoryRow],
        now: UnixSeconds,
    ) -> Result<Reconciled, PoolError> {
        tx.atomically(|| {
            let local = metadata::all(tx.connection())?;
            let corrections = reconcile(
                local.iter().map(|row| (row.key_package_ref.clone(), row.state)),
                directory
                    .iter()
                    .map(|row| (row.key_package_ref.clone(), row.status)),
            );
            let mut reconciled = Reconciled::default();
            for correction in corrections {
                match correction {
                    Correction::RevokeThere(key_package_ref) => {
                        reconciled.revoke_there.push(key_package_ref);
                    }
                    Correction::UploadAgain(_) => reconciled.upload_again += 1,
                    Correction::Apply(key_package_ref, event) => {
                        match apply(tx, &key_package_ref, event, now)? {
                            Change::None => {}
                            Change::Moved => reconciled.moved += 1,
                            Change::Erased => reconciled.erased += 1,
                        }
                    }
                }
            }
            take_over_reservations(tx, directory)?;
            Ok(reconciled)
        })
    }

    /// Erases the private keys whose KeyPackage's life and grace are over, and forgets old terminal KeyPackages.
    ///
    /// # Errors
    /// [`PoolError`] when the store cannot be used, or private keys survive their deletion.
    pub fn sweep(&self, tx: &Tx<'_>, now: UnixSeconds) -> Result<Swept, PoolError> {
        tx.atomically(|| {
            let mut swept = Swept::default();
            for row in metadata::all(tx.connection())? {
                match row.ended_at {
                    None => {
                        let erase_at = self.policy.erase_at(row.not_after);
                        if let Change::Erased = apply_to(tx, &row, PoolEvent::Sweep { now, erase_at }, now)? {
                            swept.expired += 1;
                        }
                    }
                    Some(ended_at) if now >= ended_at.plus(self.policy.tombstone_seconds) => {
                        metadata::delete(tx.connection(), &row.key_package_ref)?;
                        swept.forgotten += 1;
                    }
                    Some(_) => {}
                }
            }
            Ok(swept)
        })
    }

    pub(crate) fn is_of_this_pool(&self, row: &Metadata) -> bool {
        row.suite == u16::from(self.ciphersuite)
    }
}

/// What an event did to a row.
enum Change {
    /// It did not apply, or changed nothing.
    None,
    /// The row moved between live states.
    Moved,
    /// The row became terminal and the private keys are gone.
    Erased,
}

fn apply(
    tx: &Tx<'_>,
    key_package_ref: &KeyPackageRef,
    event: PoolEvent,
    now: UnixSeconds,
) -> Result<Change, PoolError> {
    match metadata::find(tx.connection(), key_package_ref)? {
        Some(row) => apply_to(tx, &row, event, now),
        None => Ok(Change::None),
    }
}

fn apply_to(tx: &Tx<'_>, row: &Metadata, event: PoolEvent, now: UnixSeconds) -> Result<Change, PoolError> {
    match row.state.apply(event) {
        Err(_) => Ok(Change::None),
        Ok(next) if next == row.state => Ok(Change::None),
        Ok(next) => {
            enter(tx, row, next, None, now)?;
            Ok(if next.is_live() {
                Change::Moved
            } else {
                Change::Erased
            })
        }
    }
}

/// Moves a row to the state that [`PoolState::apply`] decided. Leaving the live states erases the private keys.
pub(crate) fn enter(
    tx: &Tx<'_>,
    row: &Metadata,
    next: PoolState,
    spent_group_id: Option<&GroupId>,
    now: UnixSeconds,
) -> Result<(), PoolError> {
    metadata::set_state(tx.connection(), row, next, spent_group_id, now)?;
    if !next.is_live() {
        erase(tx, &row.key_package_ref)?;
    }
    Ok(())
}

/// OpenMLS answers `Ok` to the deletion of a key that it does not find, so this reads back.
fn erase(tx: &Tx<'_>, key_package_ref: &KeyPackageRef) -> Result<(), PoolError> {
    tx.note_erasure();
    tx.provider().storage().delete_key_package(key_package_ref)?;
    match bundle(tx, key_package_ref)? {
        None => Ok(()),
        Some(_) => Err(PoolError::NotErased(key_package_ref.clone())),
    }
}

/// OpenMLS's bundle of a KeyPackage, without consuming it.
pub(crate) fn bundle(
    tx: &Tx<'_>,
    key_package_ref: &KeyPackageRef,
) -> Result<Option<KeyPackageBundle>, rusqlite::Error> {
    tx.provider().storage().key_package(key_package_ref)
}

fn take_over_reservations(tx: &Tx<'_>, directory: &[DirectoryRow]) -> Result<(), PoolError> {
    for told in directory {
        let Some(row) = metadata::find(tx.connection(), &told.key_package_ref)? else {
            continue;
        };
        if row.state.is_live() && row.reservation_expires_at != told.reserved_until {
            metadata::set_reservation(tx.connection(), &row.key_package_ref, told.reserved_until)?;
        }
    }
    Ok(())
}
