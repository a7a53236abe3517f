use std::error::Error as _;
use std::io;

use deadpool_postgres::PoolError;
use tokio_postgres::error::SqlState;

/// What PostgreSQL reported, or what became of the connection to it. The server's details are left out: they quote
/// stored values.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct PostgresError {
    message: String,
    may_be_tried_again: bool,
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
            may_be_tried_again: false,
        }
    }

    pub(super) fn other(message: &str) -> Self {
        Self {
            message: message.to_owned(),
            may_be_tried_again: false,
        }
    }

    /// Whether the transaction did nothing and may go through when it starts over.
    pub(super) fn may_be_tried_again(&self) -> bool {
        self.may_be_tried_again
    }
}

impl From<tokio_postgres::Error> for PostgresError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(reported) = error.as_db_error() else {
            let mut message = error.to_string();
            if let Some(cause) = error.source().and_then(|cause| cause.downcast_ref::<io::Error>()) {
                message = format!("{message}: {cause}");
            }
            return Self {
                message,
                // Before COMMIT, what a lost connection was doing is undone.
                may_be_tried_again: error.is_closed(),
            };
        };
        let code = reported.code();
        Self {
            message: format!("{} (SQLSTATE {})", reported.message(), code.code()),
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
            PoolError::Timeout(_) => Self::other("no connection to PostgreSQL came free in time"),
            PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => {
                Self::other("a connection to PostgreSQL could not be set up")
            }
        }
    }
}
