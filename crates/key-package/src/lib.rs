//! What a KeyPackage must be for anybody to be able to add it to a group.
//!
//! A KeyPackage that passes the checks of RFC 9420 §10.1 can still be one that no Commit can add: adding checks the leaf as
//! a future member (§7.3), and encrypts to both of its keys. One such KeyPackage would spoil the Commit for everybody who is
//! added by it. So the directory asks all of it when a KeyPackage is uploaded, and its owner learns why; an adder asks
//! it again of what the directory hands out.
//!
//! # Architecture invariant
//!
//! Absent here: I/O, clocks, storage, HTTP. What depends on the group that a KeyPackage is added to (keys that are in its
//! tree already, what it requires of its members) is for whoever builds the Commit.

mod check;
mod flaw;
mod lifetime;

pub use check::{can_be_encrypted_to, check, encryption_key, read};
pub use flaw::Flaw;
pub use lifetime::check_lifetime;
