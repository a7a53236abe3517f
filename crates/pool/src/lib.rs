#![doc = include_str!("../README.md")]
//!
//! # Architecture invariant
//!
//! Absent here: the network, clocks (time is an argument), what an identity means, and any decision about a transition: that is
//! `larder_lifecycle`. No table of this crate holds key material, and nothing here writes to OpenMLS's tables but
//! through OpenMLS. A KeyPackage leaves a live state only together with its private keys, in the same transaction.

mod audit;
mod codec;
mod column;
mod directory;
mod distrust;
mod error;
mod generation;
mod health;
mod join;
mod join_error;
mod key_package_ref;
mod known;
mod last_resort;
mod last_resort_joins;
pub mod legacy;
mod losses;
mod metadata;
mod open;
mod pool;
mod provider;
mod quarantine;
mod rewrite;
mod signer;
mod snapshot;
mod store;
mod store_key;
mod transition;
mod upkeep;

pub use audit::Audit;
pub use codec::{CborCodec, CodecError};
pub use directory::{Confirmed, DirectoryRow, Held, Reconciled, Verdict};
pub use error::{Corrupt, PoolError, StoreError};
pub use health::{LastResortHealth, NextAction, PoolHealth};
pub use join::Joined;
pub use join_error::{Erasure, JoinError, QuarantineReason};
pub use key_package_ref::key_package_ref_from_slice;
pub use known::Known;
pub use pool::{KeyPackagePool, Upload};
pub use provider::{Provider, supported_suite};
pub use quarantine::{JOIN_ATTEMPTS_MAX, QUARANTINE_WELCOMES_MAX, Quarantined};
pub use signer::{Ed25519Signer, SignerKeyError};
pub use store::{LocalStore, Tx};
pub use store_key::{PASSPHRASE_BYTES_MAX, PassphraseError, RAW_KEY_BYTES, StoreKey};
pub use upkeep::Swept;

// Applications use the versions that the pool links.
pub use openmls;
pub use openmls::prelude::KeyPackageRef;
pub use rusqlite;
pub use zeroize;
