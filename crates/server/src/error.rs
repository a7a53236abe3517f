use std::num::NonZeroU32;

use larder_wire::{Problem, ProblemType};

use crate::store::PostgresError;
use crate::suites::UnusableSuites;

/// Why a request was not carried out.
///
/// A refusal is an answer: it has a stable code and is the caller's to read. A fault is the server's: it is logged
/// here, and the caller learns only that the server cannot answer now.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The request was understood and refused. Nothing changed.
    #[error("refused: {0}")]
    Refused(Box<Problem>),
    /// The server failed. Nothing changed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// A failure of the server itself.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// SQLite failed.
    #[error("the database failed")]
    Sqlite(#[from] rusqlite::Error),
    /// PostgreSQL failed, or the connection to it.
    #[error("the database failed")]
    Postgres(#[from] PostgresError),
    /// A file of the SQLite database cannot be created, or others than its owner may open it and that cannot be changed.
    #[error("the files of the database cannot be kept from other users of this machine")]
    NotPrivate(#[source] std::io::Error),
    /// The schema could not be brought up to date.
    #[error("the database could not be migrated")]
    Migration(#[from] refinery::Error),
    /// The schema is not that of this program, and may not be changed now.
    #[error("the database is not one of this version's: start its server first")]
    OtherSchema,
    /// Something stored cannot be understood.
    #[error("stored data is corrupt: {0}")]
    Corrupt(&'static str),
    /// The public state of a group cannot be followed from what is stored of it. OpenMLS judges lifetimes by the clock: it may
    /// be that the clock is wrong.
    #[error("the public state of a group cannot be followed: is the clock right?")]
    Unfollowable,
    /// The cryptographic library failed where no input can make it fail.
    #[error("the cryptographic library failed: {0}")]
    Crypto(&'static str),
    /// As many requests as may use the store, or wait for it, do.
    #[error("too many requests at once")]
    Busy,
    /// The thread that owns the database has ended.
    #[error("the database is closed")]
    Closed,
    /// The configuration asks for ciphersuites that this server cannot be run with.
    #[error(transparent)]
    Suites(#[from] UnusableSuites),
}

/// A refusal of what happens too often, with how long to wait, in seconds.
pub(crate) fn rate_limited(wait_seconds: u64) -> Problem {
    Problem {
        retry_after_seconds: NonZeroU32::new(u32::try_from(wait_seconds).unwrap_or(u32::MAX)),
        ..Problem::new(ProblemType::RateLimited)
    }
}

impl From<Box<Problem>> for ServiceError {
    fn from(problem: Box<Problem>) -> Self {
        Self::Refused(problem)
    }
}

impl From<Problem> for ServiceError {
    fn from(problem: Problem) -> Self {
        Self::Refused(Box::new(problem))
    }
}

impl From<ProblemType> for ServiceError {
    fn from(problem_type: ProblemType) -> Self {
        Problem::new(problem_type).into()
    }
}

impl From<larder_judge::MalformedState> for Fault {
    fn from(_: larder_judge::MalformedState) -> Self {
        Self::Corrupt("the public state of a group")
    }
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error.into())
    }
}

impl From<tokio_postgres::Error> for ServiceError {
    fn from(error: tokio_postgres::Error) -> Self {
        Fault::from(error).into()
    }
}

impl From<rusqlite::Error> for ServiceError {
    fn from(error: rusqlite::Error) -> Self {
        Fault::from(error).into()
    }
}
