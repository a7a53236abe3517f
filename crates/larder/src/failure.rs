//! Why a command failed: a stable code, a sentence, an exit code.

use std::borrow::Cow;
use std::fmt;
use std::process::ExitCode;

use crate::clock::date;
use crate::record::group_label;

/// The documented exit codes (`larder --help`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// A fault: here, on disk or in what was received.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The server or the state of things does not allow it.
    Refused = 3,
    /// The server does not answer.
    Unreachable = 4,
    /// No account in this profile, or no such group.
    Unknown = 5,
    /// Another process uses the profile or the database.
    InUse = 6,
    /// The passphrase or key of the profile is wrong or cannot be had.
    Locked = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failure that the user is told of.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) code: Cow<'static, str>,
    pub(crate) message: String,
    pub(crate) exit: Exit,
}

impl Failure {
    pub(crate) fn new(exit: Exit, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code: Cow::Borrowed(code),
            message: message.into(),
            exit,
        }
    }

    /// What to tell of any error: its own words if it is a [`Failure`] or the client's, else those of a fault.
    pub(crate) fn of(error: &anyhow::Error) -> Cow<'_, Self> {
        if let Some(failure) = error.downcast_ref::<Self>() {
            return Cow::Borrowed(failure);
        }
        if let Some(error) = error.downcast_ref::<larder_client::Error>() {
            return Cow::Owned(Self::of_client(error));
        }
        Cow::Owned(Self {
            code: Cow::Borrowed("failed"),
            message: format!("{error:#}"),
            exit: Exit::Failed,
        })
    }

    /// Why something waits. How exactly the network failed is for the log.
    pub(crate) fn reason(error: &larder_client::Error) -> String {
        match error {
            larder_client::Error::Unreachable(_) => error.to_string(),
            other => message_of(other),
        }
    }

    /// What to tell of an error of the client's.
    pub(crate) fn of_client(error: &larder_client::Error) -> Self {
        Self {
            code: Cow::Borrowed(error.code()),
            message: message_of(error),
            exit: exit_of(error),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

fn exit_of(error: &larder_client::Error) -> Exit {
    use larder_client::{Error as E, LegacyError as L};
    match error {
        E::NotRegistered | E::UnknownGroup | E::UnknownUser(_) | E::UnknownAttachment => Exit::Unknown,
        E::ProfileLocked | E::Legacy(L::Busy | L::Changed) => Exit::InUse,
        E::Legacy(L::Open(_) | L::NotLegacy(_) | L::TooManyRows | L::AnotherStore { .. }) => Exit::Refused,
        E::Legacy(L::Interrupted | L::Residue(_) | L::Sqlite(_) | L::Read(_) | L::Pool(_)) => Exit::Failed,
        E::ProfileEncrypted | E::WrongPassphrase => Exit::Locked,
        E::Unreachable(_) => Exit::Unreachable,
        E::InvalidServer
        | E::InvalidAuthorities
        | E::Ambiguous { .. }
        | E::InvalidText
        | E::InvalidGroupName
        | E::TooManyUsers
        | E::Oneself
        | E::InvalidLinkCode => Exit::Usage,
        E::Refused(_)
        | E::NotTheServer(_)
        | E::UnknownAccount
        | E::InsecureHttp { .. }
        | E::ClocksApart(_)
        | E::AlreadyRegistered { .. }
        | E::UnsupportedSuites(_)
        | E::ProfileNotEncrypted
        | E::NoEncryption
        | E::ProfileExists
        | E::NotABackup
        | E::GroupNotActive(_)
        | E::NotAccepted { .. }
        | E::Held { .. }
        | E::NotARequest
        | E::VerificationChanged { .. }
        | E::OtherIdentity { .. }
        | E::NoOtherIdentity { .. }
        | E::AttachmentGone
        | E::AttachmentTooLarge { .. }
        | E::NoAttachments
        | E::NotAMember(_)
        | E::NoKeyPackages { .. }
        | E::InvalidKeyPackage { .. }
        | E::KeyChanged { .. }
        | E::UnauthorizedDevice { .. }
        | E::LinkCodeOfAnother { .. }
        | E::TooManyRaces => Exit::Refused,
        E::Profile(_)
        | E::Setup(_)
        | E::AttachmentDamaged
        | E::File(_)
        | E::Store(_)
        | E::Sqlite(_)
        | E::Pool(_)
        | E::Mls { .. }
        | E::Corrupt(_)
        | E::Closed => Exit::Failed,
    }
}

/// The client's sentence, with what it leaves to its variants' data, and with the sources of a fault.
fn message_of(error: &larder_client::Error) -> String {
    use larder_client::{CertificateFlaw, Error as E, NotTheServer, ProblemType};
    match error {
        E::InsecureHttp { .. } => format!("{error}; --insecure-http allows it, and is remembered"),
        E::NotTheServer(NotTheServer::Certificate(CertificateFlaw::UnknownIssuer)) => {
            format!("{error}; --ca FILE names the certificate of one to trust, and is remembered")
        }
        E::Refused(problem) if problem.problem_type == ProblemType::StateBehind && problem.detail.is_none() => {
            "this profile is an older copy of one that was used since, and was brought up to date less than an hour ago: \
             nothing is sent until it may be again"
                .to_owned()
        }
        E::Refused(problem) if problem.problem_type == ProblemType::DeviceRemoved => {
            "this device was removed from the account: the server does nothing for it any more".to_owned()
        }
        E::Ambiguous { groups } => {
            let ids: Vec<String> = groups.iter().map(ToString::to_string).collect();
            format!("{error}: {}; use the beginning of an id", ids.join(", "))
        }
        E::ClocksApart(clocks) => format!(
            "{}; set the clock that is wrong, and try again",
            clock_sentence(clocks)
        ),
        E::VerificationChanged { user } => format!("{error}: larder verify {user}"),
        E::OtherIdentity { user } => format!("{error}: larder verify {user} --new-identity"),
        E::Held { .. } => format!("{error}: larder groups, and larder trust USER where it is right"),
        E::NotAccepted { group } => {
            format!("{error}: larder accept {}", group_label(None, &group.to_string()))
        }
        E::NoKeyPackages { outcomes } => {
            let reasons: Vec<String> = outcomes
                .iter()
                .map(|(user, why)| format!("{user}: {why}"))
                .collect();
            format!("{error}: {}", reasons.join("; "))
        }
        _ => {
            let mut message = error.to_string();
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                let cause_text = cause.to_string();
                if !message.contains(&cause_text) {
                    message.push_str(": ");
                    message.push_str(&cause_text);
                }
                source = cause.source();
            }
            message
        }
    }
}

/// How far this computer's clock is off, and what both say.
pub(crate) fn clock_sentence(clocks: &larder_client::Clocks) -> String {
    format!(
        "{clocks}: it says {}, and the server's says {}",
        date(clocks.here),
        date(clocks.there)
    )
}
