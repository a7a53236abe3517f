//! A pool of single-use MLS KeyPackages for OpenMLS applications.
//!
//! OpenMLS keeps the private keys of a KeyPackage (RFC 9420 §10); this crate keeps what surrounds them: how many a
//! device holds, which of them the directory has confirmed or handed out, when each is erased. Both live in one SQLite
//! file behind one connection, so they commit and roll back together.
//!
//! * [`LocalStore`] owns the file. [`LocalStore::transaction`] gives a [`Tx`], and a [`Tx`] gives an OpenMLS
//!   [`Provider`]: whatever OpenMLS writes through it belongs to that transaction.
//! * [`KeyPackagePool`] mints, uploads, confirms, reconciles, sweeps, counts and joins inside a [`Tx`].
//!
//! ```
//! use larder_lifecycle::{DirectoryStatus, PoolPolicy, UnixSeconds};
//! use larder_pool::openmls::prelude::{BasicCredential, Ciphersuite, CredentialWithKey};
//! use larder_pool::{KeyPackagePool, LocalStore, Verdict};
//! use openmls_basic_credential::SignatureKeyPair;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let directory = tempfile::tempdir()?;
//! let mut store = LocalStore::open(&directory.path().join("device.sqlite"))?;
//!
//! let suite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
//! let signer = SignatureKeyPair::new(suite.signature_algorithm())?;
//! let credential = CredentialWithKey {
//!     credential: BasicCredential::new(b"alice/phone".to_vec()).into(),
//!     signature_key: signer.public().into(),
//! };
//! let pool = KeyPackagePool::new(PoolPolicy::default(), suite);
//! let now = UnixSeconds(1_800_000_000);
//!
//! // One transaction, one fsync: 32 bundles in OpenMLS's table and 32 rows in ours, or neither.
//! let uploads = store.transaction(|tx| {
//!     let count = pool.how_many(tx, now)?;
//!     pool.mint(tx, &signer, &credential, count, now)?;
//!     pool.begin_upload(tx, 64, now)
//! })?;
//! assert_eq!(uploads.len(), 32);
//!
//! // The directory has answered: it holds them all.
//! let verdicts: Vec<_> = uploads
//!     .into_iter()
//!     .map(|upload| (upload.key_package_ref, Verdict::Held(DirectoryStatus::Available)))
//!     .collect();
//! let health = store.transaction(|tx| {
//!     pool.confirm(tx, &verdicts, now)?;
//!     pool.health(tx, now)
//! })?;
//! assert_eq!((health.available, health.unconfirmed), (32, 0));
//! assert!(store.audit()?.is_consistent());
//! # Ok(())
//! # }
//! ```
//!
//! # Architecture invariant
//!
//! Absent here: the network, clocks (time is an argument), identities, and any decision about a transition: that is
//! `larder_lifecycle`. No table of this crate holds key material, and nothing here writes to OpenMLS's tables but
//! through OpenMLS. A KeyPackage leaves a live state only together with its private keys, in the same transaction.

mod audit;
mod codec;
mod error;
mod health;
mod join;
mod key_package_ref;
mod metadata;
mod pool;
mod provider;
mod store;

pub use audit::Audit;
pub use codec::{CborCodec, CodecError};
pub use error::{Corrupt, PoolError, StoreError};
pub use health::PoolHealth;
pub use join::{JoinError, Joined};
pub use key_package_ref::key_package_ref_from_slice;
pub use pool::{Confirmed, DirectoryRow, KeyPackagePool, Reconciled, Swept, Upload, Verdict};
pub use provider::Provider;
pub use store::{LocalStore, Tx};

// Applications use the versions that the pool links.
pub use openmls;
pub use openmls::prelude::KeyPackageRef;
pub use rusqlite;
