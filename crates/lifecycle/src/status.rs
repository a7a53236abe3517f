#[cfg(doc)]
use crate::directory::DirectoryState;

/// How often a KeyPackage may be handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Once (RFC 9420 §10).
    SingleUse,
    /// As often as nothing else is left (RFC 9420 §16.8). A device has one per ciphersuite.
    LastResort,
}

/// Why a KeyPackage is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum End {
    /// An accepted Commit added it.
    Spent,
    /// It was disclosed, and never committed.
    Lapsed,
    /// It has too little life left.
    Expired,
    /// Its owner withdrew it.
    Revoked,
    /// A newer last resort took its place, and its retirement is over.
    Gone,
}

/// The state of a KeyPackage in the directory, without its data: what a column holds and an inventory tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DirectoryStatus {
    /// See [`DirectoryState::Available`].
    Available,
    /// See [`DirectoryState::Taken`].
    Reserved,
    /// See [`DirectoryState::Retiring`].
    Retiring,
    /// See [`End::Spent`].
    Spent,
    /// See [`End::Lapsed`].
    Lapsed,
    /// See [`End::Expired`].
    Expired,
    /// See [`End::Revoked`].
    Revoked,
    /// See [`End::Gone`].
    Gone,
}

impl DirectoryStatus {
    /// Every status.
    pub const ALL: [Self; 8] = [
        Self::Available,
        Self::Reserved,
        Self::Retiring,
        Self::Spent,
        Self::Lapsed,
        Self::Expired,
        Self::Revoked,
        Self::Gone,
    ];

    /// Whether nothing but the removal of the tombstone can happen any more.
    pub fn has_ended(self) -> bool {
        match self {
            Self::Available | Self::Reserved | Self::Retiring => false,
            Self::Spent | Self::Lapsed | Self::Expired | Self::Revoked | Self::Gone => true,
        }
    }
}
