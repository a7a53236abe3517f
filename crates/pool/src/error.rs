use openmls::prelude::{KeyPackageNewError, KeyPackageRef};

/// The file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite failed. Nothing of the transaction is kept.
    #[error("the local database failed")]
    Sqlite(#[from] rusqlite::Error),
    /// The file could not be created, read or replaced.
    #[error("the file of the local database cannot be used")]
    File(#[from] std::io::Error),
    /// The file is encrypted and no key was given; or it is no database at all, which looks the same.
    #[error("the local database is encrypted")]
    Encrypted,
    /// A key was given, and the file is not encrypted.
    #[error("the local database is not encrypted")]
    NotEncrypted,
    /// The key does not open the file; or the beginning of the file is damaged, which looks the same.
    #[error("the key does not open the local database")]
    WrongKey,
    /// This program was built without SQLCipher.
    #[error("this program cannot encrypt: it was built without SQLCipher")]
    NoCipher,
    /// The file must be used by nobody else for this, and is.
    #[error("the local database is in use")]
    InUse,
    /// A copy under another key is not what it was made from. It was thrown away.
    #[error("the local database could not be copied")]
    Copy,
    /// These bytes are no snapshot of a store, or are damaged.
    #[error("not a snapshot of a local database, or a damaged one")]
    NotASnapshot,
    /// More than fits into memory in one piece.
    #[error("the local database is too large to be copied in one piece")]
    TooLarge,
    /// The store was encrypted anew, but the old file beside it (its name ends in `-old`) could not be erased. The next
    /// opening tries again.
    #[error("the old file of the local database could not be erased")]
    NotErased(#[source] std::io::Error),
    /// The schema could not be brought up to date: the file is newer than this program, or damaged.
    #[error("the schema of the local database could not be brought up to date")]
    Migration(#[source] Box<refinery::Error>),
    /// SQLite would not give a guarantee that the pool depends on; names the pragma.
    #[error("the local database does not grant `{0}`")]
    Pragma(&'static str),
    /// A row holds something that was never written.
    #[error("the local database is corrupt: {0}")]
    Corrupt(#[from] Corrupt),
    /// An operation failed and could not be undone on its own, so the whole transaction was rolled back.
    #[error("a failed operation could not be undone; the transaction was rolled back")]
    Doomed,
}

/// What makes a row unbelievable. It is never read as something else: the operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Corrupt {
    /// A status that no version of this crate writes.
    #[error("unknown status {0}")]
    UnknownStatus(i64),
    /// A KeyPackageRef that is none.
    #[error("malformed KeyPackageRef")]
    KeyPackageRef,
    /// A reason for a quarantine that no version of this crate writes.
    #[error("unknown reason {0}")]
    UnknownReason(i64),
    /// A number of attempts that cannot have been made.
    #[error("{0} attempts")]
    Attempts(i64),
    /// A hash that is not as long as hashes are.
    #[error("malformed hash")]
    Hash,
    /// A time before 1970; names the column.
    #[error("negative {0}")]
    NegativeTime(&'static str),
    /// A kind that no version of this crate writes.
    #[error("unknown kind {0}")]
    UnknownKind(i64),
    /// A status that a KeyPackage of its kind never has.
    #[error("status and kind disagree")]
    Kind,
    /// A terminal row without the time of its end, or a live row with one; a retiring row without the time until which it
    /// does, or another row with one.
    #[error("status and end disagree")]
    End,
    /// Metadata of a live KeyPackage without private keys, or private keys without such metadata.
    #[error("private keys and metadata disagree")]
    Bundle,
}

/// An operation of the pool failed, and changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The file could not be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// So many KeyPackages would exceed the hard cap.
    #[error("{asked} more KeyPackages on top of {live} exceed the hard cap of {hard_cap}")]
    HardCap {
        /// Live KeyPackages, of every ciphersuite.
        live: u32,
        /// KeyPackages to mint.
        asked: u32,
        /// [`PoolPolicy::hard_cap`](larder_lifecycle::PoolPolicy::hard_cap).
        hard_cap: u32,
    },
    /// The policy asks for a lifetime that nobody would accept (RFC 9420 §7.2).
    #[error("a lifetime of {seconds} seconds exceeds 83 days")]
    LifetimeTooLong {
        /// [`PoolPolicy::lifetime_seconds`](larder_lifecycle::PoolPolicy::lifetime_seconds).
        seconds: u64,
    },
    /// OpenMLS could not build a KeyPackage.
    #[error("a KeyPackage could not be built")]
    Mls(#[from] KeyPackageNewError),
    /// OpenMLS failed in a way that it calls a bug.
    #[error("OpenMLS failed")]
    Library(#[from] openmls::prelude::LibraryError),
    /// No randomness.
    #[error("no randomness")]
    Randomness,
    /// A KeyPackage could not be written as an `MLSMessage`.
    #[error("KeyPackage {0:?} cannot be encoded")]
    Encode(KeyPackageRef),
    /// OpenMLS says that it deleted private keys, and they are still there.
    #[error("the private keys of KeyPackage {0:?} are still there after their deletion")]
    NotErased(KeyPackageRef),
}

impl From<rusqlite::Error> for PoolError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<Corrupt> for PoolError {
    fn from(corrupt: Corrupt) -> Self {
        Self::Store(corrupt.into())
    }
}
