use std::fmt;

use larder_lifecycle::UnixSeconds;
use openmls::prelude::{GroupId, KeyPackageRef, WelcomeError};

use crate::error::{Corrupt, PoolError, StoreError};

/// Why a Welcome was not joined. Nothing has changed: the private keys are still there and the genuine Welcome joins.
///
/// `Display` explains it to people; times are in Unix seconds there, and in the fields for those who format them.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Not exactly one `MLSMessage` with a Welcome.
    #[error("this is no MLS Welcome")]
    Malformed,
    /// The ratchet tree is not exactly one ratchet tree (RFC 9420 §12.4.3.3).
    #[error("the ratchet tree of this invitation is none")]
    MalformedRatchetTree,
    /// It names no KeyPackage of this pool.
    #[error("this invitation is for no KeyPackage that this device has had")]
    NotOurs,
    /// A Welcome was joined with this KeyPackage before.
    #[error("a group was joined with the KeyPackage of this invitation at {at} already; it was for one only")]
    AlreadySpent {
        /// The KeyPackage.
        key_package_ref: KeyPackageRef,
        /// The group that was joined with it.
        group_id: GroupId,
        /// When.
        at: UnixSeconds,
    },
    /// A Welcome to this group, of this epoch or a later one, was joined with this last resort before.
    #[error("this device joined the group of this invitation with it, or with a later one, at {at} already")]
    Replayed {
        /// The last resort.
        key_package_ref: KeyPackageRef,
        /// The group.
        group_id: GroupId,
        /// When.
        at: UnixSeconds,
    },
    /// The private keys of this KeyPackage are gone.
    #[error("the KeyPackage of this invitation was erased at {at}: {cause}")]
    Erased {
        /// The KeyPackage.
        key_package_ref: KeyPackageRef,
        /// Why they are gone.
        cause: Erasure,
        /// When.
        at: UnixSeconds,
    },
    /// Our own leaf is past its lifetime and the grace after it.
    #[error("the KeyPackage of this invitation expired at {not_after}")]
    Expired {
        /// The KeyPackage.
        key_package_ref: KeyPackageRef,
        /// The end of its lifetime.
        not_after: UnixSeconds,
    },
    /// This device is a member of the group already.
    #[error("this device is a member of the group already")]
    GroupExists {
        /// The group.
        group_id: GroupId,
    },
    /// The Welcome brings no ratchet tree, and none was given.
    #[error("the ratchet tree of this invitation is missing")]
    MissingRatchetTree,
    /// The leaf with our signature key is not the one of the KeyPackage (RFC 9420 §12.4.3.1).
    #[error("the group of this invitation does not hold this device under the KeyPackage that it names")]
    NotOurLeaf(KeyPackageRef),
    /// OpenMLS refuses the Welcome.
    #[error("this invitation cannot be opened, or contradicts itself")]
    Mls(#[source] Box<WelcomeError<rusqlite::Error>>),
    /// It has failed too often to be tried again ([`JOIN_ATTEMPTS_MAX`](crate::JOIN_ATTEMPTS_MAX)).
    #[error("this invitation has failed {attempts} times, last at {last_at}: {reason}")]
    Quarantined {
        /// The KeyPackage of this device that it names, if any.
        key_package_ref: Option<KeyPackageRef>,
        /// Why it failed.
        reason: QuarantineReason,
        /// How often.
        attempts: u32,
        /// When it failed last.
        last_at: UnixSeconds,
    },
    /// The pool could not be changed. The Welcome may be as good as any.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// Why the private keys of a KeyPackage that was not joined with are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Erasure {
    /// The directory handed it out, and no Commit came in time.
    Lapsed,
    /// Its life was over.
    Expired,
    /// It was withdrawn, or the directory refused it.
    Revoked,
    /// It was a last resort, a newer one took its place, and the day after that was over.
    Replaced,
}

impl fmt::Display for Erasure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lapsed => "it was handed out, and nobody used it in time",
            Self::Expired => "its life was over",
            Self::Revoked => "it was withdrawn",
            Self::Replaced => "it was a last resort, and a newer one took its place",
        })
    }
}

/// Why a Welcome was quarantined: a [`JoinError`] in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QuarantineReason {
    /// [`JoinError::Malformed`].
    Malformed,
    /// [`JoinError::MalformedRatchetTree`].
    MalformedRatchetTree,
    /// [`JoinError::NotOurs`].
    NotOurs,
    /// [`JoinError::AlreadySpent`].
    AlreadySpent,
    /// [`JoinError::Erased`], [`Erasure::Lapsed`].
    Lapsed,
    /// [`JoinError::Expired`], and [`JoinError::Erased`] with [`Erasure::Expired`].
    Expired,
    /// [`JoinError::Erased`], [`Erasure::Revoked`].
    Revoked,
    /// [`JoinError::Erased`], [`Erasure::Replaced`].
    Replaced,
    /// [`JoinError::GroupExists`].
    GroupExists,
    /// [`JoinError::MissingRatchetTree`].
    MissingRatchetTree,
    /// [`JoinError::NotOurLeaf`].
    NotOurLeaf,
    /// [`JoinError::Mls`].
    Refused,
    /// [`JoinError::Replayed`].
    Replayed,
}

impl QuarantineReason {
    /// Every reason.
    pub const ALL: [Self; 13] = [
        Self::Malformed,
        Self::MalformedRatchetTree,
        Self::NotOurs,
        Self::AlreadySpent,
        Self::Lapsed,
        Self::Expired,
        Self::Revoked,
        Self::Replaced,
        Self::GroupExists,
        Self::MissingRatchetTree,
        Self::NotOurLeaf,
        Self::Refused,
        Self::Replayed,
    ];

    /// A word for programs. It stays as it is in later versions.
    pub fn code(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::MalformedRatchetTree => "malformed-ratchet-tree",
            Self::NotOurs => "not-ours",
            Self::AlreadySpent => "already-spent",
            Self::Lapsed => "lapsed",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Replaced => "replaced",
            Self::GroupExists => "group-exists",
            Self::MissingRatchetTree => "missing-ratchet-tree",
            Self::NotOurLeaf => "not-our-leaf",
            Self::Refused => "refused",
            Self::Replayed => "replayed",
        }
    }

    /// Whether the Welcome alone is to blame, so that it will fail the next time too. What depends on the ratchet tree
    /// that came along, or on the groups of this device, may be different then.
    pub(crate) fn is_conclusive(self) -> bool {
        match self {
            Self::Malformed
            | Self::NotOurs
            | Self::AlreadySpent
            | Self::Lapsed
            | Self::Expired
            | Self::Revoked
            | Self::Replaced
            | Self::NotOurLeaf
            | Self::Refused
            | Self::Replayed => true,
            Self::MalformedRatchetTree | Self::GroupExists | Self::MissingRatchetTree => false,
        }
    }
}

impl fmt::Display for QuarantineReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "it is no MLS Welcome",
            Self::MalformedRatchetTree => "its ratchet tree is none",
            Self::NotOurs => "it is for no KeyPackage that this device has had",
            Self::AlreadySpent => "a group was joined with its KeyPackage already",
            Self::Lapsed => "its KeyPackage was erased, since nobody used it in time",
            Self::Expired => "its KeyPackage expired",
            Self::Revoked => "its KeyPackage was withdrawn",
            Self::Replaced => "its KeyPackage was a last resort, and a newer one took its place",
            Self::GroupExists => "this device is a member of the group already",
            Self::MissingRatchetTree => "its ratchet tree is missing",
            Self::NotOurLeaf => "its group does not hold this device under the KeyPackage that it names",
            Self::Refused => "it cannot be opened, or contradicts itself",
            Self::Replayed => "its group was joined with it, or with a later one, already",
        })
    }
}

impl JoinError {
    /// A word for programs. It stays as it is in later versions.
    ///
    /// That of [`reason`](Self::reason), and besides `quarantined` and `pool`.
    pub fn code(&self) -> &'static str {
        match (self.reason(), self) {
            (_, Self::Quarantined { .. }) => "quarantined",
            (Some(reason), _) => reason.code(),
            (None, _) => "pool",
        }
    }

    /// What is wrong with the Welcome; `None` when nothing is known to be wrong with it.
    pub fn reason(&self) -> Option<QuarantineReason> {
        use QuarantineReason as Reason;
        match self {
            Self::Malformed => Some(Reason::Malformed),
            Self::MalformedRatchetTree => Some(Reason::MalformedRatchetTree),
            Self::NotOurs => Some(Reason::NotOurs),
            Self::AlreadySpent { .. } => Some(Reason::AlreadySpent),
            Self::Replayed { .. } => Some(Reason::Replayed),
            Self::Erased { cause, .. } => Some(match cause {
                Erasure::Lapsed => Reason::Lapsed,
                Erasure::Expired => Reason::Expired,
                Erasure::Revoked => Reason::Revoked,
                Erasure::Replaced => Reason::Replaced,
            }),
            Self::Expired { .. } => Some(Reason::Expired),
            Self::GroupExists { .. } => Some(Reason::GroupExists),
            Self::MissingRatchetTree => Some(Reason::MissingRatchetTree),
            Self::NotOurLeaf(_) => Some(Reason::NotOurLeaf),
            Self::Mls(_) => Some(Reason::Refused),
            Self::Quarantined { reason, .. } => Some(*reason),
            Self::Pool(_) => None,
        }
    }
}

impl From<StoreError> for JoinError {
    fn from(error: StoreError) -> Self {
        Self::Pool(error.into())
    }
}

impl From<Corrupt> for JoinError {
    fn from(corrupt: Corrupt) -> Self {
        Self::Pool(corrupt.into())
    }
}

impl From<WelcomeError<rusqlite::Error>> for JoinError {
    fn from(error: WelcomeError<rusqlite::Error>) -> Self {
        match error {
            WelcomeError::MissingRatchetTree => Self::MissingRatchetTree,
            WelcomeError::StorageError(error) => Self::Pool(error.into()),
            other => Self::Mls(Box::new(other)),
        }
    }
}
