use std::fmt;

/// Why a KeyPackage cannot be added to any group, or not now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// Not an `MLSMessage` with a KeyPackage of MLS 1.0 inside.
    Malformed,
    /// Bytes follow the KeyPackage.
    TrailingBytes,
    /// The signature of the KeyPackage or of its leaf does not verify.
    Signature,
    /// It carries an extension that does not belong there, that its leaf does not list, or that OpenMLS refuses (GREASE).
    Extension,
    /// The leaf does not list the KeyPackage's own ciphersuite.
    CiphersuiteNotListed,
    /// The leaf does not list MLS 1.0.
    VersionNotListed,
    /// The leaf does not list the type of its own credential.
    CredentialNotListed,
    /// The init key is the leaf's encryption key, too.
    SameKeys,
    /// Nothing can be encrypted to its init key or to its leaf's encryption key.
    UnusableKey,
    /// Its total lifetime is longer than anybody may ask for (RFC 9420 §7.2), or runs backwards.
    LifetimeTooLong,
    /// It is valid only in so many seconds.
    NotYetValid {
        /// How many.
        seconds: u64,
    },
    /// It is not valid any more.
    Expired,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "it cannot be read",
            Self::TrailingBytes => "bytes follow it",
            Self::Signature => "a signature does not verify",
            Self::Extension => "it carries an extension that it does not list, or that cannot be accepted",
            Self::CiphersuiteNotListed => "its leaf does not list its own ciphersuite",
            Self::VersionNotListed => "its leaf does not list MLS 1.0",
            Self::CredentialNotListed => "its leaf does not list the type of its own credential",
            Self::SameKeys => "its init key and its encryption key are the same",
            Self::UnusableKey => "nothing can be encrypted to one of its keys",
            Self::LifetimeTooLong => "its lifetime is longer than anybody may ask for",
            Self::NotYetValid { .. } => "it is not valid yet",
            Self::Expired => "it has expired",
        })
    }
}

impl std::error::Error for Flaw {}
