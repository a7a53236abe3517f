//! The Larder client: sessions, groups, invitations, inbox and outbox over a KeyPackage pool.
//!
//! [`MlsConnection`] is one device of one user on one server. Its profile is a directory with one SQLite file, in
//! which the MLS state of OpenMLS, the KeyPackage pool, the messages, the outbox and the inbox cursor live side by
//! side, so that whatever belongs to one event commits in one transaction: a crash at any point neither loses nor
//! doubles anything.
//!
//! # Architecture invariant
//!
//! * A synchronous core behind an async shell: one thread owns the SQLite connection, async code sends it closures.
//! * Whatever is to be sent is in the outbox before it is sent, as the exact bytes. After a lost answer the same bytes
//!   go out again, and nothing is taken from the inbox before their fate is known.
//! * A Commit of ours is merged on the server's acceptance and cleared on its refusal, never on a timeout.
//! * The sender of a message is who its MLS credential says (RFC 9420 §5.3), never what its payload says.
//!
//! Absent here: a terminal, a clock (time is an argument, see [`Clock`]), key bytes in any table but OpenMLS's own (those of
//! files are as secret as the messages that tell them, and lie beside these; what a link code hides lies there until the device
//! was let in), and keys, tokens, plaintext or names of groups in logs and errors.

mod access;
mod audited;
mod clocks;
mod connection;
mod core;
mod error;
mod invited;
mod reach;
pub mod text;
mod transport;
mod types;
mod verification;

pub use access::{Access, Authorities};
pub use audited::{AuditFlaw, Audited, Pruned};
pub use clocks::Clocks;
pub use connection::{Heard, Linking, Listening, MlsConnection};
pub use error::{CertificateFlaw, Error, Fault, KeyPackageFlaw, NotTheServer, Unreachable};
pub use larder_lifecycle::{Level, PoolPolicy, UnixSeconds};
pub use larder_pool::legacy::{LegacyError, LegacyLeft, LegacyReason, LegacyReport};
pub use larder_pool::{
    LastResortHealth, NextAction, PassphraseError, PoolHealth, QuarantineReason, Quarantined, RAW_KEY_BYTES,
    StoreKey, zeroize,
};
pub use larder_wire::{AuditRow, AuditTransition, DeviceId, InviteCode, Problem, ProblemType, UserName};
pub use types::{
    ATTACHMENT_BYTES_MAX, Attachment, Blocked, Clock, ContactRequest, Declined, Device, DeviceToLink,
    Difference, GROUP_NAME_CHARS_MAX, GroupKey, GroupState, GroupSummary, Held, Invitations, Invited, Me,
    Member, Message, MessageKind, NotAdded, Options, Probe, ProfileForm, Refreshed, SendStatus, SentMessage,
    SuitePool, Synced, TEXT_BYTES_MAX,
};
pub use verification::{EpochCode, NewIdentity, SafetyDevice, SafetyNumber, Verification};
