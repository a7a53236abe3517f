//! Why the server was not reached, and what else may be found in its place.

use std::fmt;

use larder_wire::Problem;

/// Why there is no answer that proves anything. Another attempt may get one.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// The server's name is not known, or whoever knows it cannot be reached.
    #[error("its name cannot be resolved")]
    Resolve(#[source] reqwest::Error),
    /// Nothing listens there, the network does not lead there, or a connection takes too long.
    #[error("no connection can be made")]
    Connect(#[source] reqwest::Error),
    /// There was no answer, or not all of it, when the time was up.
    #[error("no answer within {seconds} s")]
    TimedOut {
        /// How long was waited, all attempts together.
        seconds: u64,
    },
    /// The connection ended before the answer did.
    #[error("the connection broke")]
    Broken(#[source] reqwest::Error),
    /// The server cannot answer now.
    #[error("{0}")]
    Unavailable(Problem),
    /// A proxy in front of the server answers that it has no answer, or none now.
    #[error("what is in front of the server has no answer (status {status})")]
    Gateway {
        /// The HTTP status.
        status: u16,
    },
}

/// What answers is not the server, as far as can be told. Nothing that it says proves anything, and what was
/// to be sent stays in the outbox. It is not mended by trying again.
#[derive(Debug, thiserror::Error)]
pub enum NotTheServer {
    /// The certificate does not show that it is the server.
    #[error("the server's certificate does not verify: {0}")]
    Certificate(CertificateFlaw),
    /// It does not speak TLS, or not as it must.
    #[error("no TLS connection can be made there")]
    Tls(#[source] rustls::Error),
    /// An answer that is not one of a Larder server: a web page, a redirection, JSON of another kind.
    #[error("what answers there is not a Larder server that this program understands (status {status})")]
    NotLarder {
        /// The HTTP status.
        status: u16,
    },
    /// A Larder server of another name, which does not know this device.
    #[error("another server answers there: its name is {found}, and this account is at {expected}")]
    Foreign {
        /// The name of the server that the account was registered with.
        expected: String,
        /// The name that the other one gives itself: at most 64 characters of it.
        found: String,
    },
    /// An answer that is larger, or lists more, than one of a Larder server can be.
    #[error("what answers there gives more than a Larder server can have to say")]
    TooMuch,
    /// The list of this user's devices that it gives does not lead to this device, or contradicts what is known of the others.
    #[error("the server's list of your devices is not theirs: it was not believed")]
    ForgedDevices,
    /// What it gives as said by the device that let this one in was not said by any that had the link code; or it gives nothing.
    #[error(
        "the server does not show that this device was let in by one that had its link code: let it in again, with the code that \
         it shows"
    )]
    ForgedIntroduction,
    /// It leaves out rows of a group that this device is to get.
    #[error("the server leaves out something of what was said in a group")]
    LeavesOut,
    /// It does not have rows that it has delivered before: its store is an older one than it was. This device goes on from
    /// where the server knows it to be.
    #[error(
        "the server does not have all that it has delivered before: its store is an older one than it was"
    )]
    WentBack,
}

impl NotTheServer {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Certificate(_) => "certificate",
            Self::Tls(_) => "tls",
            Self::NotLarder { .. } => "not-larder",
            Self::Foreign { .. } => "foreign-server",
            Self::TooMuch => "too-much",
            Self::ForgedDevices => "forged-devices",
            Self::ForgedIntroduction => "forged-introduction",
            Self::LeavesOut => "leaves-out",
            Self::WentBack => "went-back",
        }
    }
}

/// What is wrong with a certificate.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum CertificateFlaw {
    /// Its time is over.
    Expired,
    /// Its time has not come, by this computer's clock.
    NotYetValid,
    /// Nobody issued it whom this device trusts. So it is with certificates that their owners signed
    /// themselves.
    UnknownIssuer,
    /// It was issued for another name.
    WrongName,
    /// Who issued it has taken it back.
    Revoked,
    /// Anything else.
    Other(rustls::CertificateError),
}

impl From<&rustls::CertificateError> for CertificateFlaw {
    fn from(error: &rustls::CertificateError) -> Self {
        use rustls::CertificateError as E;
        match error {
            E::Expired | E::ExpiredContext { .. } => Self::Expired,
            E::NotValidYet | E::NotValidYetContext { .. } => Self::NotYetValid,
            E::UnknownIssuer => Self::UnknownIssuer,
            E::NotValidForName | E::NotValidForNameContext { .. } => Self::WrongName,
            E::Revoked => Self::Revoked,
            other => Self::Other(other.clone()),
        }
    }
}

impl fmt::Display for CertificateFlaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => f.write_str("it has expired, or this computer's clock is wrong"),
            Self::NotYetValid => f.write_str("it is not valid yet, or this computer's clock is wrong"),
            Self::UnknownIssuer => f.write_str("no authority that this device trusts has issued it"),
            Self::WrongName => f.write_str("it is for another name"),
            Self::Revoked => f.write_str("it was revoked"),
            Self::Other(error) => write!(f, "{error}"),
        }
    }
}
