//! Moves the metadata of an older kind of pool into this one, and its copies of private keys out of the file.
//!
//! Applications that kept KeyPackages before they had a pool often have a table `keypackages` with the bytes of each
//! KeyPackage and its private keys beside its state, although OpenMLS stores all of that already. A
//! [`LegacyMigration`] takes over the states and the times of that table, erases the redundant columns
//! (`keypackage_bytes`, `private_init_key`, `private_encryption_key`) and verifies that the private keys are in none of
//! the file's bytes any more. The rest of the table stays, as a record.
//!
//! | legacy | private keys in OpenMLS's storage | none there |
//! |---|---|---|
//! | `created`, `available`, `reserved` | the same state | not taken over: an invitation could not be opened |
//! | `spent`, `expired` | `reserved`: nothing was joined with it, an invitation may be in flight | the same state |
//! | anything else | not taken over, and named in the report | the same |
//!
//! The lifetime of a KeyPackage that OpenMLS holds is read from the KeyPackage; everything else is the table's word.

mod file;
mod import;
mod residue;

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::error::{PoolError, StoreError};
use crate::store::LocalStore;
use file::LegacyFile;
use import::Import;
use residue::Residue;

/// Rows that are taken over, and then erased, in one transaction each.
const BATCH_ROWS: usize = 256;
/// A table with more rows is not one of this kind.
const ROWS_MAX: usize = 1_000_000;

/// The migration of one legacy file into a [`LocalStore`] that holds OpenMLS's bundles.
///
/// Look at [`plan`](Self::plan) first: [`apply`](Self::apply) erases private keys. Both may be repeated; what was
/// done is not done again, and what was interrupted is completed.
#[derive(Debug, Clone)]
pub struct LegacyMigration {
    from: PathBuf,
    batch_rows: usize,
}

/// What a migration does, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LegacyReport {
    /// Rows of the legacy table.
    pub rows: u32,
    /// Rows that the pool has already.
    pub present: u32,
    /// Taken over as `created`.
    pub created: u32,
    /// Taken over as `available`.
    pub available: u32,
    /// Taken over as `reserved`, those of `in_flight` included.
    pub reserved: u32,
    /// Taken over as `spent`: tombstones.
    pub spent: u32,
    /// Taken over as `expired`: tombstones.
    pub expired: u32,
    /// Said to be spent or expired, but the private keys are still here: kept as `reserved` until they expire.
    pub in_flight: u32,
    /// Rows that are not taken over, and why. Their redundant columns are erased like all others.
    pub left: Vec<LegacyLeft>,
    /// Rows whose redundant columns held something.
    pub with_redundant_columns: u32,
    /// Columns that this migration does not know and leaves as they are. Look whether they hold key material.
    pub unknown_columns: Vec<String>,
    /// The redundant columns are gone, or empty where the schema needs them, and no file holds the private keys.
    pub erased: bool,
}

/// A row that is not taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegacyLeft {
    /// Its KeyPackageRef in hexadecimal; empty when it has none.
    pub key_package_ref: String,
    /// Why.
    pub reason: LegacyReason,
}

/// Why a row is not taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LegacyReason {
    /// OpenMLS has no bundle for it.
    #[error("its private keys are not in OpenMLS's storage")]
    NoBundle,
    /// A status that means nothing here; shown with escapes, at most 32 characters.
    #[error("unknown status {0}")]
    UnknownStatus(String),
    /// Several rows are about the same KeyPackage.
    #[error("several rows are about this KeyPackage")]
    Duplicate,
    /// A last resort is not single-use, and the legacy table does not know that.
    #[error("it is a last resort")]
    LastResort,
    /// A value that cannot be; names the column.
    #[error("malformed {0}")]
    Malformed(&'static str),
}

/// What was just done; it is durable. The private keys are gone from every file only at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegacyStep {
    /// So many rows are in the pool.
    Imported(usize),
    /// The redundant columns of so many rows are empty.
    Emptied(usize),
    /// The file was written anew, without free pages.
    Vacuumed,
    /// The log is empty, and no file holds the private keys.
    Verified,
}

/// Why a migration did not come to its end. What was done is kept, and doing it again completes it.
#[derive(Debug, thiserror::Error)]
pub enum LegacyError {
    /// The file is not there, or is not a SQLite database.
    #[error("the legacy file cannot be opened")]
    Open(#[source] rusqlite::Error),
    /// The file has no such table or column.
    #[error("not a legacy pool: {0} is missing")]
    NotLegacy(&'static str),
    /// More rows than any pool has.
    #[error("the legacy table has more than {ROWS_MAX} rows")]
    TooManyRows,
    /// OpenMLS's storage has private keys for none of the live rows: this is another device's store. Nothing was done.
    #[error("none of the {live} live KeyPackages of that file is in this store; is it another account's?")]
    AnotherStore {
        /// Live rows.
        live: u32,
    },
    /// Another connection uses the legacy file.
    #[error("another program uses the legacy file")]
    Busy,
    /// Another connection wrote to the legacy table meanwhile.
    #[error("the legacy file was changed meanwhile")]
    Changed,
    /// The caller interrupted it.
    #[error("interrupted")]
    Interrupted,
    /// After the columns were erased, private keys are still in this file: in another table, perhaps.
    #[error("private keys are still in {}", .0.display())]
    Residue(PathBuf),
    /// The legacy file failed.
    #[error("the legacy file failed")]
    Sqlite(#[source] rusqlite::Error),
    /// A file could not be read back.
    #[error("the legacy file cannot be read back")]
    Read(#[from] io::Error),
    /// The pool failed.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

impl LegacyReason {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoBundle => "no-bundle",
            Self::UnknownStatus(_) => "unknown-status",
            Self::Duplicate => "duplicate",
            Self::LastResort => "last-resort",
            Self::Malformed(_) => "malformed",
        }
    }
}

impl LegacyError {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Open(_) | Self::NotLegacy(_) | Self::TooManyRows => "not-a-legacy-pool",
            Self::AnotherStore { .. } => "another-store",
            Self::Busy => "legacy-busy",
            Self::Changed => "legacy-changed",
            Self::Interrupted => "interrupted",
            Self::Residue(_) => "residue",
            Self::Sqlite(_) | Self::Read(_) => "legacy-failed",
            Self::Pool(_) => "pool",
        }
    }
}

impl From<StoreError> for LegacyError {
    fn from(error: StoreError) -> Self {
        Self::Pool(error.into())
    }
}

impl From<rusqlite::Error> for LegacyError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => Self::Busy,
            _ => Self::Sqlite(error),
        }
    }
}

impl LegacyMigration {
    /// A migration from this file.
    pub fn new(from: impl Into<PathBuf>) -> Self {
        Self {
            from: from.into(),
            batch_rows: BATCH_ROWS,
        }
    }

    /// Rows per transaction, 256 unless told otherwise; at least one.
    #[must_use]
    pub fn batch_rows(mut self, batch_rows: usize) -> Self {
        self.batch_rows = batch_rows.max(1);
        self
    }

    /// What [`apply`](Self::apply) would do. Changes nothing.
    ///
    /// # Errors
    /// [`LegacyError`].
    pub fn plan(&self, store: &mut LocalStore) -> Result<LegacyReport, LegacyError> {
        let file = LegacyFile::open_to_read(&self.from)?;
        let rows = file.rows()?;
        let import = store.transaction(|tx| Import::plan(tx, rows))?;
        let mut report = import.report();
        file.report(&mut report)?;
        report.erased = file.has_no_redundant_columns();
        Ok(report)
    }

    /// Takes over what the report of [`plan`](Self::plan) says, erases the redundant columns and verifies that the
    /// private keys are in no file of the legacy database.
    ///
    /// # Errors
    /// [`LegacyError`]. Whatever it is, nothing is lost, and the next attempt completes what is missing.
    pub fn apply(&self, store: &mut LocalStore) -> Result<LegacyReport, LegacyError> {
        self.apply_stepwise(store, |_| ControlFlow::Continue(()))
    }

    /// Like [`apply`](Self::apply), and tells of each step, after which it may be interrupted.
    ///
    /// # Errors
    /// [`LegacyError`].
    pub fn apply_stepwise(
        &self,
        store: &mut LocalStore,
        mut progress: impl FnMut(LegacyStep) -> ControlFlow<()>,
    ) -> Result<LegacyReport, LegacyError> {
        let mut step = |step| match progress(step) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(LegacyError::Interrupted),
        };
        let shared = is_same_file(&self.from, store)?;
        let mut file = LegacyFile::open_to_change(&self.from)?;
        let rows = file.rows()?;
        let import = store.transaction(|tx| Import::plan(tx, rows))?;
        import.is_for_this_store()?;
        let mut report = import.report();
        file.report(&mut report)?;

        let mut residue = Residue::default();
        store.transaction(|tx| import.private_keys(tx, &file, shared, &mut residue))?;
        for batch in import.batches(self.batch_rows) {
            // First the states, then the erasure: at no time is there less in both files than is needed.
            let imported = store.transaction(|tx| Import::carry_out(tx, batch))?;
            step(LegacyStep::Imported(imported))?;
            file.empty_redundant_columns(batch.iter().map(|planned| planned.key()))?;
            step(LegacyStep::Emptied(batch.len()))?;
        }
        if !file.has_no_redundant_columns() {
            file.empty_the_rest(import.len())?;
            // Pages that were freed long ago may hold older copies, which nobody can tell from anything else.
            file.vacuum()?;
            step(LegacyStep::Vacuumed)?;
            file.verify_empty()?;
            residue.verify(&self.from)?;
            step(LegacyStep::Verified)?;
            // Last, because the columns are the sign that all of this is to be done.
            file.drop_redundant_columns()?;
        }
        report.erased = true;
        Ok(report)
    }
}

/// Whether the legacy table lies in the store's own file, beside OpenMLS's tables.
fn is_same_file(from: &Path, store: &mut LocalStore) -> Result<bool, LegacyError> {
    let Some(path) = store.connection_mut().path().map(PathBuf::from) else {
        return Ok(false);
    };
    match from.canonicalize() {
        Ok(from) => Ok(from == path.canonicalize()?),
        // Opening it says what is wrong with it.
        Err(_) => Ok(false),
    }
}
