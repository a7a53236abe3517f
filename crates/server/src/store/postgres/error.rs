use std::error::Error as _;
use std::io;

use deadpool_postgres::{HookError, PoolError, TimeoutType};
use rustls::CertificateError;
use tokio_postgres::error::SqlState;

/// What PostgreSQL reported, or what became of the connection to it. The server's details are left out: they quote
/// stored values.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct PostgresError {
    message: String,
    kind: PostgresErrorKind,
    may_be_tried_again: bool,
}

/// What somebody who starts a server can do about an error of PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostgresErrorKind {
    /// It does not answer, or takes no connections now: wait, or start it.
    Unreachable,
    /// The connection cannot be encrypted as `sslmode` and `sslrootcert` ask.
    Tls,
    /// It knows no such user, password or database, or does not let this user in.
    Login,
    /// A pooler shares sessions between transactions.
    SharedSessions,
    /// Anything else.
    Other,
}

impl PostgresError {
    /// A COMMIT failed. Unless PostgreSQL says that it undid the transaction, nobody knows whether it took place.
    pub(super) fn at_commit(error: tokio_postgres::Error) -> Self {
        let undone = [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::UNIQUE_VIOLATION,
        ];
        if error.code().is_some_and(|code| undone.contains(code)) {
            return Self::from(error);
        }
        Self {
            message: "the connection was lost during a commit, whose outcome is unknown".to_owned(),
            kind: PostgresErrorKind::Other,
            may_be_tried_again: false,
        }
    }

    pub(super) fn other(message: &str) -> Self {
        Self::of(PostgresErrorKind::Other, message)
    }

    pub(super) fn of(kind: PostgresErrorKind, message: &str) -> Self {
        Self {
            message: message.to_owned(),
            kind,
            may_be_tried_again: false,
        }
    }

    /// What can be done about it.
    pub fn kind(&self) -> PostgresErrorKind {
        self.kind
    }

    /// An error that PostgreSQL has not reported.
    fn of_connection(error: &tokio_postgres::Error) -> Self {
        let mut message = error.to_string();
        let mut kind = PostgresErrorKind::Other;
        let cause = error.source();
        if let Some(cause) = cause.and_then(|cause| cause.downcast_ref::<io::Error>()) {
            let tls = cause
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<rustls::Error>());
            (kind, message) = match tls {
                Some(tls) => (PostgresErrorKind::Tls, of_tls(tls)),
                None => (kind_of_io(cause), format!("{message}: {cause}")),
            };
        } else if cause.is_some_and(|cause| cause.to_string() == NO_TLS) {
            kind = PostgresErrorKind::Tls;
            message = "PostgreSQL offers no TLS, which sslmode asks for".to_owned();
        } else if let Some(cause) = cause {
            message = format!("{message}: {cause}");
        }
        if error.is_closed() {
            kind = PostgresErrorKind::Unreachable;
        }
        Self {
            message,
            kind,
            // Before COMMIT, what a lost connection was doing is undone.
            may_be_tried_again: error.is_closed(),
        }
    }

    /// Whether the transaction did nothing and may go through when it starts over.
    pub(super) fn may_be_tried_again(&self) -> bool {
        self.may_be_tried_again
    }
}

/// What the driver says, in full, when a server has no TLS and `sslmode` asks for it.
const NO_TLS: &str = "server does not support TLS";

impl From<tokio_postgres::Error> for PostgresError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(reported) = error.as_db_error() else {
            return Self::of_connection(&error);
        };
        let code = reported.code();
        Self {
            message: format!("{} (SQLSTATE {})", reported.message(), code.code()),
            kind: kind_of(code),
            may_be_tried_again: [
                SqlState::T_R_SERIALIZATION_FAILURE,
                SqlState::T_R_DEADLOCK_DETECTED,
                // Another transaction stored first what this one had found absent.
                SqlState::UNIQUE_VIOLATION,
                SqlState::ADMIN_SHUTDOWN,
            ]
            .contains(code),
        }
    }
}

impl From<PoolError> for PostgresError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => Self::from(error),
            PoolError::PostCreateHook(HookError::Backend(error)) => Self::from(error),
            PoolError::Timeout(TimeoutType::Create) => Self::of(
                PostgresErrorKind::Unreachable,
                "a connection to PostgreSQL could not be made in time",
            ),
            PoolError::Timeout(_) => Self::other("no connection to PostgreSQL came free in time"),
            PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => {
                Self::other("a connection to PostgreSQL could not be set up")
            }
        }
    }
}

/// What went wrong in a handshake.
fn of_tls(error: &rustls::Error) -> String {
    let flaw = match error {
        rustls::Error::InvalidCertificate(flaw) => flaw,
        other => return format!("TLS with PostgreSQL failed: {other}"),
    };
    let flaw = match flaw {
        CertificateError::UnknownIssuer => "comes from an authority that is not trusted (see sslrootcert)",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "is for another name than that of the host in the URL"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "is not valid yet",
        other => return format!("the certificate of PostgreSQL cannot be used: {other}"),
    };
    format!("the certificate of PostgreSQL {flaw}")
}

fn kind_of_io(error: &io::Error) -> PostgresErrorKind {
    match error.kind() {
        // The driver's own, of a login or of what it was told.
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::Other => {
            PostgresErrorKind::Other
        }
        // A name that is not known may come to be known, as its server starts.
        _ => PostgresErrorKind::Unreachable,
    }
}

fn kind_of(code: &SqlState) -> PostgresErrorKind {
    let not_now = [
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::TOO_MANY_CONNECTIONS,
        SqlState::CONNECTION_EXCEPTION,
        SqlState::CONNECTION_DOES_NOT_EXIST,
        SqlState::CONNECTION_FAILURE,
        SqlState::SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
    ];
    let not_so = [
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        SqlState::INVALID_PASSWORD,
        SqlState::INVALID_CATALOG_NAME,
    ];
    if not_now.contains(code) {
        PostgresErrorKind::Unreachable
    } else if not_so.contains(code) {
        PostgresErrorKind::Login
    } else {
        PostgresErrorKind::Other
    }
}
