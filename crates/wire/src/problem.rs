use std::fmt;
use std::num::NonZeroU32;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::bytes::KeyPackageRef;
use crate::inbox::Position;

/// What every problem type URN starts with.
const URN_PREFIX: &str = "urn:larder:problem:";

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $code:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $code)] $variant,)*
        }

        impl $name {
            /// Every code, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The stable code, as it travels.
            pub fn code(self) -> &'static str {
                match self {
                    $(Self::$variant => $code,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.code())
            }
        }
    };
}

codes! {
    /// Why a request was refused. The code is the last part of the problem's `type` URN
    /// (`urn:larder:problem:wrong-epoch`).
    ProblemType {
        /// 400: the request cannot be read.
        Malformed = "malformed",
        /// 401: no session, or one that has ended.
        Unauthenticated = "unauthenticated",
        /// 403: the caller may not do this.
        Forbidden = "forbidden",
        /// 403: an account needs an invitation code here, and there is none, or it is unknown, used or expired.
        InvitationRequired = "invitation-required",
        /// 403: nobody can register.
        RegistrationClosed = "registration-closed",
        /// 403: the device was removed from its user's account. Told to whoever proves to have its authentication key.
        DeviceRemoved = "device-removed",
        /// 404: does not exist, or is not for the caller to know.
        NotFound = "not-found",
        /// 409: the user name or device id is taken.
        NameTaken = "name-taken",
        /// 409: the group has moved on; `current_epoch` tells where.
        WrongEpoch = "wrong-epoch",
        /// 409: KeyPackages in `refs` were spent by an earlier Commit.
        AlreadySpent = "already-spent",
        /// 409: the group id is in use.
        GroupExists = "group-exists",
        /// 409: the user has as many devices as it may.
        TooManyDevices = "too-many-devices",
        /// 409: the device does not know the last request that it made: its state is older than what the server has seen.
        StateBehind = "state-behind",
        /// 409: the device acknowledges rows that its groups do not have: the store is an older copy. `positions` tells how far
        /// each of these groups is acknowledged here.
        PositionAhead = "position-ahead",
        /// 409: the numbers that the device acknowledges are of another incarnation of the store; open a session, which tells
        /// the present one.
        OtherIncarnation = "other-incarnation",
        /// 410: KeyPackages in `refs` are not reserved by the caller for this group (any more).
        ReservationLapsed = "reservation-lapsed",
        /// 413: larger than the limits in `/.well-known/larder`.
        TooLarge = "too-large",
        /// 415: not a media type that this endpoint reads.
        UnsupportedMediaType = "unsupported-media-type",
        /// 422: a KeyPackage fails `check` (inside upload results).
        InvalidKeyPackage = "invalid-key-package",
        /// 422: a Commit, proposal or group fails `check`.
        InvalidCommit = "invalid-commit",
        /// 422: the idempotency key was used with another body.
        IdempotencyMismatch = "idempotency-mismatch",
        /// 429: too often; `Retry-After` tells when.
        RateLimited = "rate-limited",
        /// 503: the server cannot answer now; nothing was done that it could not repeat.
        Unavailable = "unavailable",
    }
}

codes! {
    /// The check that a KeyPackage failed at upload.
    KeyPackageCheck {
        /// Not an `MLSMessage` with a KeyPackage inside, or too large.
        Malformed = "malformed",
        /// The signature of the KeyPackage or of its leaf does not verify.
        Signature = "signature",
        /// The lifetime is longer than 84 days and one hour.
        LifetimeTooLong = "lifetime-too-long",
        /// Too little life is left to ever be served.
        LifetimeTooShort = "lifetime-too-short",
        /// `not_before` lies in the future by more than the tolerated clock skew.
        NotYetValid = "not-yet-valid",
        /// The credential is not `user/device_id` of the uploader.
        WrongCredential = "wrong-credential",
        /// The leaf's signature key is not the one that the device registered.
        WrongSignatureKey = "wrong-signature-key",
        /// The ciphersuite is not accepted by this server.
        UnsupportedSuite = "unsupported-suite",
        /// An extension is not accepted (GREASE), does not belong there, or is not listed in the capabilities.
        UnsupportedExtension = "unsupported-extension",
        /// The leaf's capabilities do not list the KeyPackage's own ciphersuite.
        CiphersuiteNotListed = "ciphersuite-not-listed",
        /// The leaf's capabilities do not list MLS 1.0.
        VersionNotListed = "version-not-listed",
        /// The leaf's capabilities do not list the type of its own credential.
        CredentialNotListed = "credential-not-listed",
        /// The init key is the leaf's encryption key, too.
        SameKeys = "same-keys",
        /// Nothing can be encrypted to the init key or to the leaf's encryption key.
        UnusableKey = "unusable-key",
        /// Another KeyPackage with this reference is or was here.
        /// The init key is or was the init key or the encryption key of another KeyPackage here.
        DuplicateInitKey = "duplicate-init-key",
        /// The leaf's encryption key is or was the init key or the encryption key of another KeyPackage here.
        DuplicateEncryptionKey = "duplicate-encryption-key",
        /// The device has as many live KeyPackages, or last resorts of this ciphersuite, as it may.
        OverCap = "over-cap",
        /// Bytes follow the KeyPackage.
        TrailingBytes = "trailing-bytes",
    }
}

codes! {
    /// The check that a Commit, a proposal or the creation of a group failed.
    CommitCheck {
        /// The message is not the kind of MLS message that belongs here.
        MessageKind = "message-kind",
        /// The message is for another group than the path names.
        Group = "group",
        /// The message's sender is not the calling device.
        Sender = "sender",
        /// The group's public state does not accept the message (RFC 9420 §12).
        PublicState = "public-state",
        /// A proposal is not an Add, Remove or Update, or it is proposed by one member to be committed by another and neither
        /// leaves nor renews the leaf of the former.
        ProposalType = "proposal-type",
        /// A leaf does not name a registered device with its registered signature key, would be another device's than before, or
        /// is in the group already.
        Credential = "credential",
        /// It has authenticated data (RFC 9420 §6.1) that has no place in it.
        AuthenticatedData = "authenticated-data",
        /// The Adds and the Welcome do not name the same KeyPackages, each once.
        WelcomeRefs = "welcome-refs",
        /// The external Commit is neither a resync nor a first join of a device that one in the group is shown to have let in.
        ExternalCommit = "external-commit",
        /// The GroupInfo is not the sender's for exactly the new epoch, or has no usable external_pub.
        GroupInfo = "group-info",
    }
}

impl KeyPackageCheck {
    /// What is wrong, for a person.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::Malformed => "it is no MLSMessage with a KeyPackage inside, or too large",
            Self::Signature => "a signature does not verify",
            Self::LifetimeTooLong => "its lifetime is longer than 84 days and one hour",
            Self::LifetimeTooShort => "too little of its life is left for it ever to be served",
            Self::NotYetValid => {
                "it is valid from a time on that is more than 5 minutes ahead of the server's clock"
            }
            Self::WrongCredential => "its credential is not the uploader's",
            Self::WrongSignatureKey => "its signature key is not the one that the device registered",
            Self::UnsupportedSuite => "this server does not accept its ciphersuite",
            Self::UnsupportedExtension => {
                "it carries an extension that is not accepted (GREASE), that does not belong there, or that its \
                 leaf does not list"
            }
            Self::CiphersuiteNotListed => {
                "its leaf does not list its own ciphersuite, so nobody could add it"
            }
            Self::VersionNotListed => "its leaf does not list MLS 1.0, so nobody could add it",
            Self::CredentialNotListed => {
                "its leaf does not list the type of its own credential, so nobody could add it"
            }
            Self::SameKeys => "its init key and its leaf's encryption key are the same",
            Self::UnusableKey => "nothing can be encrypted to its init key or to its leaf's encryption key",
            Self::DuplicateInitKey => "its init key is or was a key of another KeyPackage",
            Self::DuplicateEncryptionKey => "its leaf's encryption key is or was a key of another KeyPackage",
            Self::OverCap => "the device has as many of them as it may",
            Self::TrailingBytes => "bytes follow it",
        }
    }
}

impl ProblemType {
    /// The HTTP status that carries this problem.
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden | Self::InvitationRequired | Self::RegistrationClosed | Self::DeviceRemoved => {
                403
            }
            Self::NotFound => 404,
            Self::NameTaken
            | Self::WrongEpoch
            | Self::AlreadySpent
            | Self::GroupExists
            | Self::TooManyDevices
            | Self::StateBehind
            | Self::PositionAhead
            | Self::OtherIncarnation => 409,
            Self::ReservationLapsed => 410,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::InvalidKeyPackage | Self::InvalidCommit | Self::IdempotencyMismatch => 422,
            Self::RateLimited => 429,
            Self::Unavailable => 503,
        }
    }

    /// A few words for a person.
    pub fn title(self) -> &'static str {
        match self {
            Self::Malformed => "The request cannot be read",
            Self::Unauthenticated => "A session is needed",
            Self::Forbidden => "Not allowed",
            Self::InvitationRequired => "A valid invitation code is needed to register",
            Self::RegistrationClosed => "Nobody can register here",
            Self::DeviceRemoved => "This device was removed from the account",
            Self::NotFound => "Not found",
            Self::NameTaken => "The name is taken",
            Self::WrongEpoch => "The group is at another epoch",
            Self::AlreadySpent => "A KeyPackage was already spent",
            Self::GroupExists => "The group id is in use",
            Self::TooManyDevices => "The user has too many devices",
            Self::StateBehind => "The device's state is older than its last request",
            Self::PositionAhead => "The server does not have what is acknowledged",
            Self::OtherIncarnation => "What is acknowledged is of another incarnation of the store",
            Self::ReservationLapsed => "A KeyPackage is not reserved for this",
            Self::TooLarge => "Too large",
            Self::UnsupportedMediaType => "The media type is not supported",
            Self::InvalidKeyPackage => "The KeyPackage is not acceptable",
            Self::InvalidCommit => "The group does not accept this",
            Self::IdempotencyMismatch => "The idempotency key was used with another request",
            Self::RateLimited => "Too many requests",
            Self::Unavailable => "The server cannot answer now",
        }
    }
}

/// A refusal, as `application/problem+json` (RFC 9457).
///
/// The members after `detail` are present where the type's documentation says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// The stable type, as the URN `urn:larder:problem:<code>`.
    #[serde(rename = "type", with = "urn")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "urn:larder:problem:wrong-epoch"))]
    pub problem_type: ProblemType,
    /// A few words for a person; the same for every problem of the type.
    pub title: Box<str>,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong this time. Never holds secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The check that failed (`invalid-key-package`, `invalid-commit`): a [`KeyPackageCheck`] or [`CommitCheck`] code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Box<str>>,
    /// The epoch that the group is at (`wrong-epoch`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_epoch: Option<u64>,
    /// The KeyPackages concerned (`already-spent`, `reservation-lapsed`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refs: Vec<KeyPackageRef>,
    /// How far the server knows the device to be in the groups concerned (`position-ahead`).
    #[serde(default, skip_serializing_if = "<[Position]>::is_empty")]
    pub positions: Box<[Position]>,
    /// How long to wait before asking again, in seconds. It travels in the header `Retry-After`, not in the body.
    #[serde(skip)]
    pub retry_after_seconds: Option<NonZeroU32>,
}

impl Problem {
    /// A problem of this type, with its title and status.
    pub fn new(problem_type: ProblemType) -> Self {
        Self {
            problem_type,
            title: problem_type.title().into(),
            status: problem_type.status(),
            detail: None,
            check: None,
            current_epoch: None,
            refs: Vec::new(),
            positions: Box::default(),
            retry_after_seconds: None,
        }
    }

    /// Says what went wrong this time.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// A KeyPackage failed this check.
    pub fn key_package(check: KeyPackageCheck) -> Self {
        Self {
            check: Some(check.code().into()),
            detail: Some(check.explanation().to_owned()),
            ..Self::new(ProblemType::InvalidKeyPackage)
        }
    }

    /// A Commit, proposal or group failed this check.
    pub fn commit(check: CommitCheck) -> Self {
        Self {
            check: Some(check.code().into()),
            ..Self::new(ProblemType::InvalidCommit)
        }
    }

    /// The group is at `current_epoch`.
    pub fn wrong_epoch(current_epoch: u64) -> Self {
        Self {
            current_epoch: Some(current_epoch),
            ..Self::new(ProblemType::WrongEpoch)
        }
    }

    /// In these groups the device is known to be this far, and not further.
    pub fn position_ahead(positions: Vec<Position>) -> Self {
        Self {
            positions: positions.into(),
            ..Self::new(ProblemType::PositionAhead)
        }
    }

    /// These KeyPackages cannot be committed, for this reason.
    pub fn refs(problem_type: ProblemType, refs: Vec<KeyPackageRef>) -> Self {
        Self {
            refs,
            ..Self::new(problem_type)
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.title, self.problem_type)?;
        if let Some(check) = &self.check {
            write!(f, ": {check}")?;
        }
        f.write_str(")")?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

mod urn {
    use super::{Deserialize, Deserializer, ProblemType, Serializer, URN_PREFIX};

    pub(super) fn serialize<S: Serializer>(
        problem_type: &ProblemType,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{URN_PREFIX}{problem_type}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ProblemType, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.strip_prefix(URN_PREFIX)
            .and_then(|code| ProblemType::ALL.iter().find(|known| known.code() == code))
            .copied()
            .ok_or_else(|| serde::de::Error::custom("unknown problem type"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_type_survives_json_with_its_urn_and_status() {
        for &problem_type in ProblemType::ALL {
            let json = serde_json::to_value(Problem::new(problem_type)).unwrap();
            assert_eq!(
                json["type"],
                format!("urn:larder:problem:{}", problem_type.code())
            );
            assert_eq!(json["status"], problem_type.status());
            assert_eq!(
                serde_json::from_value::<Problem>(json).unwrap(),
                Problem::new(problem_type)
            );
        }
    }

    #[test]
    fn a_problem_carries_only_the_members_of_its_type() {
        let json = serde_json::to_string(&Problem::wrong_epoch(7)).unwrap();
        assert_eq!(
            json,
            r#"{"type":"urn:larder:problem:wrong-epoch","title":"The group is at another epoch","status":409,"current_epoch":7}"#
        );
    }
}
