//! What became of an invitation: who was added, and why others were not.

use std::fmt;

use larder_key_package::Flaw;
use larder_lifecycle::SKEW_SECONDS;
use larder_wire::{DeviceId, UserName, suite_name};

/// The outcome of an invitation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Invited {
    /// Users who are members now.
    pub added: Vec<UserName>,
    /// Those of them who were added with the last resort of one of their devices, because nothing else was left for this
    /// user.
    pub by_last_resort: Vec<UserName>,
    /// Users who were not added, each with the reason.
    pub not_added: Vec<(UserName, NotAdded)>,
}

/// Why a user was not added to a group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NotAdded {
    /// A member already; nothing was reserved.
    AlreadyMember,
    /// No such user, or not one that the caller may reach.
    NotFound,
    /// No KeyPackage is left.
    Exhausted,
    /// Could have been added, if everybody could: all or nobody was asked for.
    Withheld,
    /// There are KeyPackages, but none of the group's ciphersuite.
    Incompatible {
        /// The group's ciphersuite (RFC 9420 §17.1).
        suite: u16,
    },
    /// This user asked for it too often, or holds too many reservations.
    RateLimited {
        /// How long to wait at least, in seconds, if the server says so.
        retry_after_seconds: Option<u64>,
    },
    /// The directory handed out something that is not an acceptable KeyPackage of that user, or not one that can be added to
    /// the group.
    InvalidKeyPackage(KeyPackageFlaw),
    /// The directory names more devices of theirs than a user can have.
    TooManyDevices,
    /// Their KeyPackage could not be used any more by the time that the Commit was due: it was withdrawn, say.
    Overtaken,
    /// The directory handed out a KeyPackage with another signature key than the one known for this device.
    KeyChanged {
        /// The device.
        device: DeviceId,
    },
    /// The user was verified, and has other keys now.
    VerificationChanged,
    /// The directory handed out a KeyPackage of a device that no other device of the user has authorized, or that the user
    /// has removed.
    Unauthorized {
        /// The device.
        device: DeviceId,
    },
    /// The same, and the list of the user's devices that the server gives contradicts what is known of them.
    OtherIdentity,
}

impl NotAdded {
    /// How long to wait at least before asking again, in seconds, if that helps and the server says so.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        match self {
            Self::RateLimited { retry_after_seconds } => *retry_after_seconds,
            Self::AlreadyMember
            | Self::NotFound
            | Self::Exhausted
            | Self::Withheld
            | Self::Incompatible { .. }
            | Self::InvalidKeyPackage(_)
            | Self::TooManyDevices
            | Self::Overtaken
            | Self::KeyChanged { .. }
            | Self::VerificationChanged
            | Self::OtherIdentity
            | Self::Unauthorized { .. } => None,
        }
    }

    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::AlreadyMember => "already-member",
            Self::NotFound => "not-found",
            Self::Exhausted => "exhausted",
            Self::Withheld => "withheld",
            Self::Incompatible { .. } => "incompatible",
            Self::RateLimited { .. } => "rate-limited",
            Self::InvalidKeyPackage(_) => "invalid-key-package",
            Self::TooManyDevices => "too-many-devices",
            Self::Overtaken => "overtaken",
            Self::KeyChanged { .. } => "key-changed",
            Self::VerificationChanged => "verification-changed",
            Self::Unauthorized { .. } => "unauthorized-device",
            Self::OtherIdentity => "other-identity",
        }
    }
}

impl fmt::Display for NotAdded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyMember => f.write_str("is a member already"),
            Self::NotFound => f.write_str("no such user"),
            Self::Exhausted => f.write_str("has no KeyPackage left"),
            Self::Withheld => f.write_str("could be added, but not all of them"),
            Self::Incompatible { suite } => write!(
                f,
                "has no KeyPackage of the group's ciphersuite, {}: their program does not support it, or has \
                 not been online since the server asked for it",
                suite_name(*suite)
            ),
            Self::RateLimited {
                retry_after_seconds: Some(seconds),
            } => write!(f, "was asked for too often; try again in {}", wait(*seconds)),
            Self::RateLimited {
                retry_after_seconds: None,
            } => f.write_str("was asked for too often; try again later"),
            Self::TooManyDevices => f.write_str(
                "cannot be added: the directory names more devices of theirs than a user can have",
            ),
            Self::Overtaken => f.write_str(
                "has withdrawn the KeyPackage meanwhile, or it cannot be used any more; try again",
            ),
            Self::InvalidKeyPackage(flaw) if flaw.is_of_clocks() => {
                write!(f, "cannot be added yet with the KeyPackage of theirs: {flaw}")
            }
            // It may be the owner's fault or the directory's.
            Self::InvalidKeyPackage(flaw) => {
                write!(
                    f,
                    "cannot be added with the KeyPackage that the directory gave: {flaw}"
                )
            }
            Self::KeyChanged { device } => {
                write!(
                    f,
                    "the signature key of device {device} is not the one known before"
                )
            }
            Self::VerificationChanged => f.write_str("has other keys than those that you have verified"),
            Self::Unauthorized { device } => {
                write!(f, "no other device of theirs has authorized device {device}")
            }
            Self::OtherIdentity => f.write_str(
                "has other devices than those known before, as the server shows it: they registered anew or it has lost some, \
                 or it shows somebody else's",
            ),
        }
    }
}

/// A time to wait, rounded up, for a person.
fn wait(seconds: u64) -> String {
    match seconds.div_ceil(60) {
        minutes @ 0..120 => format!("{} min", minutes.max(1)),
        minutes => format!("{} h", minutes.div_ceil(60)),
    }
}

/// What is wrong with a KeyPackage that the directory handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyPackageFlaw {
    /// Not an `MLSMessage` with a KeyPackage inside, or bytes follow it.
    Malformed,
    /// A signature does not verify (RFC 9420 §10.1).
    Invalid,
    /// It carries an extension that does not belong there, that its leaf does not list, or that OpenMLS refuses (GREASE).
    Extension,
    /// Its leaf does not list its own ciphersuite.
    CiphersuiteNotListed,
    /// Its leaf does not list MLS 1.0.
    VersionNotListed,
    /// Its leaf does not list the type of its own credential.
    CredentialNotListed,
    /// Its init key and its leaf's encryption key are the same.
    SameKeys,
    /// Nothing can be encrypted to one of its keys.
    UnusableKey,
    /// One of its keys is in the group already, or in another KeyPackage that is added.
    KeyInUse,
    /// The group does not accept it: no Commit can add it.
    NotAccepted,
    /// It is not the KeyPackage that was reserved.
    WrongReference,
    /// Its total lifetime is longer than anyone may ask for (RFC 9420 §7.2).
    Lifetime,
    /// It is valid only in so many seconds, by the server's clock.
    NotYetValid {
        /// How many.
        seconds: u64,
    },
    /// By the server's clock it is valid, and by this computer's, which every Commit is made by, only in so many seconds.
    NotYetValidHere {
        /// How many.
        seconds: u64,
    },
    /// It is not valid any more, by this computer's clock.
    Expired,
    /// Its ciphersuite is not the group's.
    Ciphersuite,
    /// Its credential does not name that user and device.
    Credential,
    /// The same KeyPackage was handed out for two devices.
    Duplicate,
    /// The directory reported a KeyPackage and gave none.
    Missing,
    /// It is a last resort (RFC 9420 §16.8) and was handed out as if it were single-use, or the other way round.
    LastResort,
}

impl KeyPackageFlaw {
    /// A stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Invalid => "invalid",
            Self::Extension => "extension",
            Self::CiphersuiteNotListed => "ciphersuite-not-listed",
            Self::VersionNotListed => "version-not-listed",
            Self::CredentialNotListed => "credential-not-listed",
            Self::SameKeys => "same-keys",
            Self::UnusableKey => "unusable-key",
            Self::KeyInUse => "key-in-use",
            Self::NotAccepted => "not-accepted",
            Self::WrongReference => "wrong-reference",
            Self::Lifetime => "lifetime",
            Self::NotYetValid { .. } | Self::NotYetValidHere { .. } => "not-yet-valid",
            Self::Expired => "expired",
            Self::Ciphersuite => "ciphersuite",
            Self::Credential => "credential",
            Self::Duplicate => "duplicate",
            Self::Missing => "missing",
            Self::LastResort => "last-resort",
        }
    }
}

impl KeyPackageFlaw {
    /// Whether clocks that differ are enough to explain it: this computer's is behind the server's, or the owner's was ahead by
    /// what a server lets pass.
    pub fn is_of_clocks(self) -> bool {
        match self {
            Self::NotYetValidHere { .. } => true,
            Self::NotYetValid { seconds } => seconds <= SKEW_SECONDS,
            _ => false,
        }
    }

    /// What a KeyPackage says of itself.
    pub(crate) fn of(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Malformed | Flaw::TrailingBytes => Self::Malformed,
            Flaw::Signature => Self::Invalid,
            Flaw::Extension => Self::Extension,
            Flaw::CiphersuiteNotListed => Self::CiphersuiteNotListed,
            Flaw::VersionNotListed => Self::VersionNotListed,
            Flaw::CredentialNotListed => Self::CredentialNotListed,
            Flaw::SameKeys => Self::SameKeys,
            Flaw::UnusableKey => Self::UnusableKey,
            Flaw::LifetimeTooLong => Self::Lifetime,
            Flaw::NotYetValid { seconds } => Self::NotYetValid { seconds },
            Flaw::Expired => Self::Expired,
        }
    }
}

impl fmt::Display for KeyPackageFlaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "it cannot be read",
            Self::Invalid => "a signature does not verify",
            Self::Extension => {
                "it carries an extension that its leaf does not list, or that cannot be accepted"
            }
            Self::CiphersuiteNotListed => "its leaf does not list its own ciphersuite",
            Self::VersionNotListed => "its leaf does not list MLS 1.0",
            Self::CredentialNotListed => "its leaf does not list the type of its own credential",
            Self::SameKeys => "its init key and its encryption key are the same",
            Self::UnusableKey => "nothing can be encrypted to one of its keys",
            Self::KeyInUse => "it has a key that is in the group already, or in another KeyPackage",
            Self::NotAccepted => "the group does not accept it",
            Self::WrongReference => "it is not the one that was reserved",
            Self::Lifetime => "its lifetime is longer than anyone may ask for",
            Self::NotYetValid { seconds } => {
                return write!(f, "it is valid only in {} by the server's clock", wait(*seconds));
            }
            Self::NotYetValidHere { seconds } => {
                return write!(
                    f,
                    "it is valid only in {} by this computer's clock",
                    wait(*seconds)
                );
            }
            Self::Expired => "it is not valid any more by this computer's clock",
            Self::Ciphersuite => "its ciphersuite is not the group's",
            Self::Credential => "it names another user or device",
            Self::Duplicate => "it was handed out for two devices",
            Self::Missing => "it was announced, and is not there",
            Self::LastResort => {
                "it is a last resort that was handed out as single-use, or the other way round"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_blamed_for_clocks_that_differ() {
        let told = |flaw: KeyPackageFlaw| {
            assert_eq!(flaw.code(), "not-yet-valid");
            NotAdded::InvalidKeyPackage(flaw).to_string()
        };
        let (blamed, not_blamed) = (
            "cannot be added with the KeyPackage that the directory gave: it is valid only in ",
            "cannot be added yet with the KeyPackage of theirs: it is valid only in ",
        );
        for (seconds, wait) in [(1, "1 min"), (SKEW_SECONDS, "5 min")] {
            assert_eq!(
                told(KeyPackageFlaw::NotYetValid { seconds }),
                format!("{not_blamed}{wait} by the server's clock")
            );
        }
        assert_eq!(
            told(KeyPackageFlaw::NotYetValid {
                seconds: SKEW_SECONDS + 1
            }),
            format!("{blamed}6 min by the server's clock")
        );
        // The server's clock says that it is valid: this one is slow.
        assert_eq!(
            told(KeyPackageFlaw::NotYetValidHere { seconds: 42 * 60 }),
            format!("{not_blamed}42 min by this computer's clock")
        );
        assert!(!KeyPackageFlaw::Expired.is_of_clocks());
    }
}
