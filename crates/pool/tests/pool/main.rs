//! The pool with real stores: what it mints, joins with, keeps and erases.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod older;
mod scan;
#[cfg_attr(not(feature = "sqlcipher"), expect(dead_code, reason = "for encrypted files"))]
mod support;

mod crashes;
mod directory;
#[cfg(feature = "sqlcipher")]
mod encryption;
mod erasure;
mod footprint;
mod hostile_adder;
mod joining;
mod last_resort;
mod last_resort_inventory;
mod legacy;
mod legacy_erasure;
mod lost;
mod migration;
mod minting;
mod quarantine;
mod rotation;
mod several_suites;
mod signer;
#[cfg(not(feature = "sqlcipher"))]
mod without_sqlcipher;
