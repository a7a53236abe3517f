use std::time::Duration;

use larder_pool::legacy::LegacyError;
use larder_pool::{PoolError, StoreError};
use larder_wire::{DeviceId, Problem, ProblemType, UserName, suite_name};

use crate::clocks::Clocks;
use crate::types::{GroupKey, GroupState, NotAdded};

pub use crate::invited::KeyPackageFlaw;
pub use crate::reach::{CertificateFlaw, NotTheServer, Unreachable};

/// A longer pause than this is not kept, whatever the server asks for: nobody is to be made deaf by one
/// answer.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);

/// Why an operation failed. [`Error::code`] is stable; nothing in here holds a key, a token or the text of a message.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The profile holds no registered account.
    #[error("this profile has no account yet: register first")]
    NotRegistered,
    /// The profile holds another account.
    #[error("this profile already belongs to {user}")]
    AlreadyRegistered {
        /// The user that the profile belongs to.
        user: UserName,
    },
    /// Another process uses the profile.
    #[error("another process uses this profile")]
    ProfileLocked,
    /// The profile directory cannot be used.
    #[error("the profile directory cannot be used")]
    Profile(#[source] std::io::Error),
    /// The profile is encrypted, and no key was given.
    #[error("this profile is encrypted")]
    ProfileEncrypted,
    /// A key was given, and the profile is not encrypted.
    #[error("this profile is not encrypted")]
    ProfileNotEncrypted,
    /// The key does not open the profile.
    #[error("the passphrase or key is wrong, or the profile is damaged")]
    WrongPassphrase,
    /// This program was built without SQLCipher.
    #[error("this program was built without encryption")]
    NoEncryption,
    /// There is a profile already where one is to be made.
    #[error("there is a profile already")]
    ProfileExists,
    /// What a profile is to be made of is no profile.
    #[error("this is no backup of a profile, or a damaged one")]
    NotABackup,
    /// The server refused. Nothing of the request happened.
    #[error("{0}")]
    Refused(Problem),
    /// No answer that proves anything. What was to be sent is in the outbox, if it had got that far, and the next sync
    /// sends the same bytes again.
    #[error("the server cannot be reached")]
    Unreachable(#[source] Unreachable),
    /// What answers is not the server. What was to be sent is in the outbox, if it had got that far.
    #[error(transparent)]
    NotTheServer(#[from] NotTheServer),
    /// A server of the right name knows no device with this one's keys: it has lost its store, or has another
    /// one. What was to be sent is in the outbox, if it had got that far.
    #[error(
        "the server does not know this account: its data are not those that the account was registered in"
    )]
    UnknownAccount,
    /// The server is not on this machine, and what is said to it would not be encrypted.
    #[error(
        "{server} is not encrypted: whoever is on the way sees who talks to whom, and can take this device's place"
    )]
    InsecureHttp {
        /// The server's address.
        server: String,
    },
    /// No certificates that could be an authority's.
    #[error("not a file of certificates in PEM")]
    InvalidAuthorities,
    /// The certificates that this system trusts cannot be had, or the connections cannot be set up.
    #[error("connections cannot be set up")]
    Setup(#[source] reqwest::Error),
    /// Not the address of a server: `http://` or `https://`, host, optional port.
    #[error("not the address of a server")]
    InvalidServer,
    /// This computer's clock and the server's are more than a day apart: nothing is minted, nobody is added, and nothing is
    /// erased for its age.
    #[error("{0}, by the server's: set the clock that is wrong, and try again")]
    ClocksApart(Clocks),
    /// None of the ciphersuites that the deployment is run with is one that this program supports and the device's
    /// Ed25519 key signs for.
    #[error("this program supports no ciphersuite of the server's: {}", names(.0))]
    UnsupportedSuites(Vec<u16>),
    /// No such group on this device.
    #[error("no such group")]
    UnknownGroup,
    /// Several groups match.
    #[error("several groups match")]
    Ambiguous {
        /// Their ids.
        groups: Vec<GroupKey>,
    },
    /// The group is not in a state that allows this.
    #[error("the group is {0}")]
    GroupNotActive(GroupState),
    /// Nothing is sent to a group whose invitation the person has not accepted.
    #[error("accept the invitation first")]
    NotAccepted {
        /// The group.
        group: GroupKey,
    },
    /// Others are in the group than this device knew when it came back to it, and nothing shows why: nothing is sent there until
    /// the person has said that this is right.
    #[error("others are in the group than this device knew, and nothing shows why")]
    Held {
        /// The group.
        group: GroupKey,
    },
    /// There is no invitation to decline: the group was not joined by one, or it was accepted.
    #[error("this is no invitation that waits for an answer")]
    NotARequest,
    /// The user is not a member of the group.
    #[error("{0} is not a member of the group")]
    NotAMember(UserName),
    /// Nobody could be added.
    #[error("nobody could be added")]
    NoKeyPackages {
        /// Why, for each user.
        outcomes: Vec<(UserName, NotAdded)>,
    },
    /// Nobody could be added, and this user's KeyPackage was not acceptable.
    #[error("{user} {}", NotAdded::InvalidKeyPackage(*flaw))]
    InvalidKeyPackage {
        /// The user.
        user: UserName,
        /// What is wrong with it.
        flaw: KeyPackageFlaw,
    },
    /// Nobody could be added, and this user's device has another signature key than the one known before.
    #[error("the signature key of {user}'s device {device} is not the one known before")]
    KeyChanged {
        /// The user.
        user: UserName,
        /// The device.
        device: DeviceId,
    },
    /// Nobody could be added, and no other device of this user has authorized this one.
    #[error("no other device of {user} has authorized the device {device}")]
    UnauthorizedDevice {
        /// The user.
        user: UserName,
        /// The device.
        device: DeviceId,
    },
    /// This user was verified, and has other keys now.
    #[error("the keys of {user} are not those that you have verified")]
    VerificationChanged {
        /// The user.
        user: UserName,
    },
    /// The list of this user's devices that the server gives contradicts what is known of them, and this device does not
    /// believe it: [`new_identity`](crate::MlsConnection::new_identity).
    #[error(
        "the server shows other devices of {user} than those known before: either {user} registered anew or the server \
             has lost some, or it shows somebody else's"
    )]
    OtherIdentity {
        /// The user.
        user: UserName,
    },
    /// The server lists the devices of this user as they are known here.
    #[error("the server shows no other identity of {user} than the one that is known")]
    NoOtherIdentity {
        /// The user.
        user: UserName,
    },
    /// No device of the user is known, or none that is theirs.
    #[error("no device of {0} is known")]
    UnknownUser(UserName),
    /// It makes no sense with this user itself.
    #[error("that is you")]
    Oneself,
    /// More users than one request may name, or with more devices than one Commit may add, were to be added all or not at
    /// all.
    #[error("at most 64 users with 256 devices can be added all or not at all")]
    TooManyUsers,
    /// What was given is not a link code, or its proofs do not verify.
    #[error("not a link code, or one that was damaged on its way")]
    InvalidLinkCode,
    /// The link code is for another user, or for a server of another name.
    #[error("the link code is of a device for {user} at {server_name}")]
    LinkCodeOfAnother {
        /// The user.
        user: UserName,
        /// The name of the server.
        server_name: String,
    },
    /// The text of a message is empty or longer than [`TEXT_BYTES_MAX`](crate::TEXT_BYTES_MAX).
    #[error("a message is 1 to 32768 bytes of text")]
    InvalidText,
    /// The message has no file.
    #[error("there is no file to that message")]
    UnknownAttachment,
    /// The server does not have the file any more.
    #[error("the file is gone: servers keep them for some time only")]
    AttachmentGone,
    /// What the server gives is not what the sender sent.
    #[error("the file is damaged: it is not what was sent")]
    AttachmentDamaged,
    /// A file is larger than what is sent.
    #[error("the file is too large: encrypted, at most {bytes_max} bytes can be sent")]
    AttachmentTooLarge {
        /// How large it may be once it is padded and encrypted, in bytes.
        bytes_max: u64,
    },
    /// The server stores no files.
    #[error("the server takes no files")]
    NoAttachments,
    /// A file cannot be written.
    #[error("the file cannot be written")]
    File(#[source] std::io::Error),
    /// The name of a group is empty, too long or has control characters.
    #[error("the name of a group is 1 to 64 characters, none of them a control character")]
    InvalidGroupName,
    /// The group kept moving on while we tried; nothing was done.
    #[error("the group changed too often meanwhile; try again")]
    TooManyRaces,
    /// The local database failed.
    #[error("the local database failed")]
    Store(#[from] StoreError),
    /// The local database failed.
    #[error("the local database failed")]
    Sqlite(#[from] rusqlite::Error),
    /// The pool failed.
    #[error("the KeyPackage pool failed")]
    Pool(#[from] PoolError),
    /// An older pool could not be migrated, or not to the end.
    #[error(transparent)]
    Legacy(#[from] LegacyError),
    /// The MLS library, or the encoding of what it made, refused or failed.
    #[error("{doing} failed")]
    Mls {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: Fault,
    },
    /// A row of the local database does not say what it should.
    #[error("the local database is corrupt: {0}")]
    Corrupt(&'static str),
    /// The thread that owns the database has ended.
    #[error("the connection is closed")]
    Closed,
}

/// A failure inside a library.
pub type Fault = Box<dyn std::error::Error + Send + Sync>;

fn names(suites: &[u16]) -> String {
    let names: Vec<String> = suites.iter().map(|suite| suite_name(*suite)).collect();
    names.join(", ")
}

impl Error {
    /// A stable code. For a refusal it is the problem's.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotRegistered => "not-registered",
            Self::AlreadyRegistered { .. } => "already-registered",
            Self::ProfileLocked => "profile-locked",
            Self::Profile(_) => "profile",
            Self::ProfileEncrypted => "profile-encrypted",
            Self::ProfileNotEncrypted => "profile-not-encrypted",
            Self::WrongPassphrase => "wrong-passphrase",
            Self::NoEncryption => "no-encryption",
            Self::ProfileExists => "profile-exists",
            Self::NotABackup => "not-a-backup",
            Self::Refused(problem) => problem.problem_type.code(),
            Self::Unreachable(_) => "unreachable",
            Self::NotTheServer(other) => other.code(),
            Self::UnknownAccount => "unknown-account",
            Self::InsecureHttp { .. } => "insecure-http",
            Self::InvalidAuthorities => "invalid-authorities",
            Self::Setup(_) => "setup",
            Self::InvalidServer => "invalid-server",
            Self::ClocksApart(_) => "clocks-apart",
            Self::UnsupportedSuites(_) => "unsupported-suites",
            Self::UnknownGroup => "unknown-group",
            Self::Ambiguous { .. } => "ambiguous",
            Self::GroupNotActive(_) => "group-not-active",
            Self::NotAccepted { .. } => "not-accepted",
            Self::Held { .. } => "held",
            Self::NotARequest => "not-a-request",
            Self::NotAMember(_) => "not-a-member",
            Self::NoKeyPackages { .. } => "no-key-packages",
            Self::InvalidKeyPackage { .. } => "invalid-key-package",
            Self::KeyChanged { .. } => "key-changed",
            Self::UnauthorizedDevice { .. } => "unauthorized-device",
            Self::VerificationChanged { .. } => "verification-changed",
            Self::OtherIdentity { .. } => "other-identity",
            Self::NoOtherIdentity { .. } => "no-other-identity",
            Self::UnknownUser(_) => "unknown-user",
            Self::Oneself => "oneself",
            Self::TooManyUsers => "too-many-users",
            Self::InvalidLinkCode => "invalid-link-code",
            Self::LinkCodeOfAnother { .. } => "link-code-of-another",
            Self::InvalidText => "invalid-text",
            Self::UnknownAttachment => "unknown-attachment",
            Self::AttachmentGone => "attachment-gone",
            Self::AttachmentDamaged => "attachment-damaged",
            Self::AttachmentTooLarge { .. } => "attachment-too-large",
            Self::NoAttachments => "no-attachments",
            Self::File(_) => "file",
            Self::InvalidGroupName => "invalid-group-name",
            Self::TooManyRaces => "too-many-races",
            Self::Store(_) | Self::Sqlite(_) => "store",
            Self::Pool(_) => "pool",
            Self::Legacy(error) => error.code(),
            Self::Mls { .. } => "mls",
            Self::Corrupt(_) => "corrupt",
            Self::Closed => "closed",
        }
    }

    /// Whether the same will do later, without anybody doing anything.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Refused(problem) => problem.problem_type == ProblemType::RateLimited,
            _ => false,
        }
    }

    /// Whether what was to be sent may still have to be: nothing says that it happened, and nothing that it
    /// never will. It is in the outbox then, if it had got that far.
    pub(crate) fn leaves_waiting(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::NotTheServer(_) | Self::UnknownAccount => true,
            Self::Refused(problem) => problem.problem_type != ProblemType::DeviceRemoved,
            _ => false,
        }
    }

    /// How long the server asks to be left alone (`Retry-After`), if it does: an hour at most.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(problem) | Self::Unreachable(Unreachable::Unavailable(problem)) => {
                let seconds = problem.retry_after_seconds?;
                Some(Duration::from_secs(seconds.get().into()).min(RETRY_AFTER_MAX))
            }
            _ => None,
        }
    }

    /// For `map_err`: the MLS library failed while doing this.
    pub(crate) fn mls<E: Into<Fault>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Mls {
            doing,
            source: source.into(),
        }
    }
}
