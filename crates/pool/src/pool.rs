use std::collections::BTreeSet;

use larder_lifecycle::{
    KEY_PACKAGE_BACKDATED_SECONDS, KEY_PACKAGE_LIFETIME_SECONDS_MAX, Kind, PoolPolicy, PoolState, UnixSeconds,
};
use openmls::prelude::{
    Capabilities, Ciphersuite, CredentialWithKey, KeyPackage, KeyPackageBundle, KeyPackageRef, Lifetime,
    MlsMessageOut, OpenMlsProvider as _,
};
use openmls_traits::signatures::Signer;
use openmls_traits::storage::StorageProvider as _;

use crate::error::{Corrupt, PoolError};
use crate::generation::{self, Fingerprint, Generation};
use crate::last_resort::with_last_resort;
use crate::losses;
use crate::metadata::{self, Metadata, in_stock};
use crate::store::Tx;

/// The KeyPackages of one device for one ciphersuite: single-use ones, and a last resort.
///
/// It holds no state: everything is in the [`LocalStore`](crate::LocalStore), and every operation works inside the
/// caller's transaction. An operation that fails undoes what it did, so the caller may still commit the rest.
///
/// # Several ciphersuites
///
/// A store can have a pool for each of several ciphersuites. What is counted, minted and uploaded, and generations, are one
/// ciphersuite's. The hard cap is for the live KeyPackages of all of them. [`join`](Self::join),
/// [`confirm`](Self::confirm), [`reconcile`](Self::reconcile), the quarantine, and what [`sweep`](Self::sweep) does to what
/// is past its end, concern the whole store: any of its pools will do.
///
/// # Generations
///
/// A pool is for one identity. When the signature key, the credential or the capabilities change, a pool
/// [`for_identity`](Self::for_identity) of the new ones begins a new generation: it counts nothing of the old one, so
/// the next refresh mints a whole new pool. Publish it and have it confirmed, revoke in the directory what
/// [`outdated`](Self::outdated) names then, and go on joining with what is reserved: its private keys are kept like any
/// others. A last resort of the old generation retires when the new one is confirmed.
#[derive(Debug, Clone)]
pub struct KeyPackagePool {
    pub(crate) policy: PoolPolicy,
    pub(crate) ciphersuite: Ciphersuite,
    pub(crate) credential: CredentialWithKey,
    pub(crate) capabilities: Capabilities,
    pub(crate) fingerprint: Fingerprint,
}

/// A KeyPackage to upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Its reference.
    pub key_package_ref: KeyPackageRef,
    /// The KeyPackage as an `MLSMessage` (RFC 9420 §6).
    pub key_package: Vec<u8>,
    /// What it is: the directory's answer about it is of the same kind.
    pub kind: Kind,
}

impl KeyPackagePool {
    /// A pool of KeyPackages for this ciphersuite and identity, with OpenMLS's default capabilities.
    pub fn for_identity(
        policy: PoolPolicy,
        ciphersuite: Ciphersuite,
        credential: &CredentialWithKey,
    ) -> Self {
        let capabilities = Capabilities::default();
        Self {
            policy,
            ciphersuite,
            credential: credential.clone(),
            fingerprint: Fingerprint::new(ciphersuite, credential, &capabilities),
            capabilities,
        }
    }

    /// Mints KeyPackages whose leaf announces these capabilities (RFC 9420 §7.2). Other capabilities than before begin a
    /// new generation; their order, and values of GREASE (§13.5), make no difference.
    ///
    /// A last resort announces its extension in addition.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: Capabilities) -> Self {
        self.fingerprint = Fingerprint::new(self.ciphersuite, &self.credential, &capabilities);
        self.capabilities = capabilities;
        self
    }

    /// The ciphersuite of the KeyPackages.
    pub fn ciphersuite(&self) -> Ciphersuite {
        self.ciphersuite
    }

    /// How many there are, and how long they live.
    pub fn policy(&self) -> &PoolPolicy {
        &self.policy
    }

    /// The numbers of the ciphersuites that the store holds private keys of, known to this build or not.
    ///
    /// # Errors
    /// [`PoolError::Store`].
    pub fn live_suites(tx: &Tx<'_>) -> Result<Vec<u16>, PoolError> {
        let live: BTreeSet<_> = metadata::all(tx.connection())?
            .iter()
            .filter(|row| row.state.is_live())
            .map(|row| row.generation)
            .collect();
        Ok(generation::suites_of(tx.connection(), &live)?)
    }

    /// Mints `count` KeyPackages: OpenMLS stores each bundle, and each gets a row in the state `created`.
    ///
    /// They are valid from 25 hours before `now` until `now` plus the policy's lifetime
    /// ([`PoolPolicy::lifetime`]). `now` is best the directory's time: it and every adder judge the lifetime, each by its own
    /// clock. `signer` holds the private key of the pool's credential.
    ///
    /// # Errors
    /// [`PoolError::HardCap`] when the live KeyPackages would exceed the policy's hard cap;
    /// [`PoolError::LifetimeTooLong`] when the policy's lifetime exceeds 83 days; [`PoolError::Mls`] when `signer` does
    /// not fit the ciphersuite. Nothing is minted then.
    pub fn mint(
        &self,
        tx: &Tx<'_>,
        signer: &impl Signer,
        count: u32,
        now: UnixSeconds,
    ) -> Result<Vec<KeyPackageRef>, PoolError> {
        let seconds = self.policy.lifetime_seconds;
        if seconds > KEY_PACKAGE_LIFETIME_SECONDS_MAX - KEY_PACKAGE_BACKDATED_SECONDS {
            return Err(PoolError::LifetimeTooLong { seconds });
        }
        tx.atomically(|| {
            let rows = metadata::of_kind(tx.connection(), Kind::SingleUse)?;
            self.check_hard_cap(in_stock(&rows), count)?;
            let generation = self.begin_generation(tx)?;
            losses::settle(tx.connection(), generation, now)?;
            (0..count)
                .map(|_| self.mint_one(tx, signer, Kind::SingleUse, generation, now))
                .collect()
        })
    }

    /// One of this kind. A last resort lives for the default time, and announces and bears its mark.
    pub(crate) fn mint_one(
        &self,
        tx: &Tx<'_>,
        signer: &impl Signer,
        kind: Kind,
        generation: Generation,
        now: UnixSeconds,
    ) -> Result<KeyPackageRef, PoolError> {
        let provider = tx.provider();
        let (builder, lifetime) = match kind {
            Kind::SingleUse => (
                KeyPackage::builder().leaf_node_capabilities(self.capabilities.clone()),
                self.policy.lifetime(now),
            ),
            Kind::LastResort => (
                KeyPackage::builder()
                    .leaf_node_capabilities(with_last_resort(&self.capabilities))
                    .mark_as_last_resort(),
                PoolPolicy::default().lifetime(now),
            ),
        };
        let bundle = builder
            .key_package_lifetime(Lifetime::init(lifetime.not_before.0, lifetime.not_after.0))
            .build(self.ciphersuite, &provider, signer, self.credential.clone())?;
        let key_package_ref = bundle.key_package().hash_ref(provider.crypto())?;
        let row = Metadata::created(key_package_ref, kind, generation, now, lifetime);
        metadata::insert(tx.connection(), &row)?;
        Ok(row.key_package_ref)
    }

    pub(crate) fn check_hard_cap(&self, live: u32, asked: u32) -> Result<(), PoolError> {
        let hard_cap = self.policy.hard_cap();
        if live.saturating_add(asked) > hard_cap {
            return Err(PoolError::HardCap {
                live,
                asked,
                hard_cap,
            });
        }
        Ok(())
    }

    /// The KeyPackages that the directory has not confirmed, the last resort first and then the oldest, at most `max`;
    /// notes the attempt. Only those of this generation: no directory would take the others.
    ///
    /// After a lost answer they come again, with identical bytes. Send them only once the transaction is committed.
    ///
    /// # Errors
    /// [`PoolError`] when the store cannot be used, or private keys are missing.
    pub fn begin_upload(&self, tx: &Tx<'_>, max: usize, now: UnixSeconds) -> Result<Vec<Upload>, PoolError> {
        tx.atomically(|| {
            let Some(current) = self.generation(tx)? else {
                return Ok(Vec::new());
            };
            let rows = metadata::all(tx.connection())?;
            let created = rows
                .iter()
                .filter(|row| row.state == PoolState::Created && row.generation == current)
                .take(max);
            let mut uploads = Vec::new();
            for row in created {
                uploads.push(read_back(tx, row)?);
                let next = Metadata {
                    uploaded_at: Some(now),
                    ..row.clone()
                };
                metadata::write_state(tx.connection(), row, &next)?;
            }
            Ok(uploads)
        })
    }

    /// The generation of what this pool mints; `None` while nothing was minted.
    pub(crate) fn generation(&self, tx: &Tx<'_>) -> Result<Option<Generation>, PoolError> {
        generation::adopt(tx, self.ciphersuite, &self.fingerprint)?;
        Ok(generation::find(tx.connection(), &self.fingerprint)?)
    }

    /// The generation of what this pool mints, new if need be.
    pub(crate) fn begin_generation(&self, tx: &Tx<'_>) -> Result<Generation, PoolError> {
        generation::adopt(tx, self.ciphersuite, &self.fingerprint)?;
        Ok(generation::ensure(tx.connection(), &self.fingerprint)?)
    }
}

/// The bytes to upload, from OpenMLS's storage: the same at every attempt.
fn read_back(tx: &Tx<'_>, row: &Metadata) -> Result<Upload, PoolError> {
    let key_package_ref = &row.key_package_ref;
    let bundle = bundle(tx, key_package_ref)?.ok_or(Corrupt::Bundle)?;
    let key_package = MlsMessageOut::from(bundle.into_key_package())
        .to_bytes()
        .map_err(|_| PoolError::Encode(key_package_ref.clone()))?;
    Ok(Upload {
        key_package_ref: key_package_ref.clone(),
        key_package,
        kind: row.kind,
    })
}

/// OpenMLS's bundle of a KeyPackage, without consuming it.
pub(crate) fn bundle(
    tx: &Tx<'_>,
    key_package_ref: &KeyPackageRef,
) -> Result<Option<KeyPackageBundle>, rusqlite::Error> {
    tx.provider().storage().key_package(key_package_ref)
}
