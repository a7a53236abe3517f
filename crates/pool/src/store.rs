use std::cell::Cell;
use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::time::Duration;

use openmls_rust_crypto::RustCrypto;
use openmls_sqlite_storage::SqliteStorageProvider;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::audit::{self, Audit};
use crate::codec::CborCodec;
use crate::error::StoreError;
use crate::open::{connect, require_cipher};
use crate::provider::Provider;
use crate::rewrite;
use crate::store_key::StoreKey;

/// How long a transaction waits for another process that holds the file.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The history of this crate's migrations. OpenMLS has its own, and the application has its own.
const MIGRATIONS_TABLE: &str = "larder_pool_migrations";

mod schema {
    refinery::embed_migrations!("migrations");
}

/// One SQLite file with OpenMLS's state, the pool's metadata and whatever the application adds, behind one connection.
///
/// What one transaction changes in any of them is kept or lost together. Commits are durable when they return
/// (`synchronous=FULL`); deleted private keys are overwritten (`secure_delete=ON`) and the write-ahead log that still
/// holds them is emptied right after.
///
/// That the log has to be emptied is written down in the transaction that erases. A reader that holds the log back, a
/// crash or a full disk so only postpone it: to the next transaction, or to the next opening of the file.
pub struct LocalStore {
    connection: Connection,
    crypto: RustCrypto,
    is_encrypted: bool,
    /// What the file says: erased private keys may still be in the write-ahead log.
    purge_owed: bool,
}

impl LocalStore {
    /// Opens the file, creates it if there is none (readable by its owner only, on Unix), and brings the schemas of
    /// OpenMLS and of the pool up to date.
    ///
    /// # Errors
    /// [`StoreError`] when SQLite cannot open the file, does not grant what the pool depends on (write-ahead log, full
    /// synchronisation, secure deletion, foreign keys), or the schema is newer than this program.
    /// [`StoreError::Encrypted`] when the file is encrypted.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, None)
    }

    /// Like [`open`](Self::open), with a file that is encrypted by SQLCipher, log included.
    ///
    /// # Errors
    /// Those of [`open`](Self::open); [`StoreError::WrongKey`]; [`StoreError::NotEncrypted`]; [`StoreError::NoCipher`]
    /// when this crate was built without its feature `sqlcipher`, and no file is created then.
    pub fn open_encrypted(path: &Path, key: &StoreKey) -> Result<Self, StoreError> {
        require_cipher()?;
        Self::open_with(path, Some(key))
    }

    pub(crate) fn open_with(path: &Path, key: Option<&StoreKey>) -> Result<Self, StoreError> {
        create_private(path)?;
        rewrite::finish(path)?;
        let mut connection = connect(path, key)?;
        configure(&connection)?;
        SqliteStorageProvider::<CborCodec, &mut Connection>::new(&mut connection)
            .run_migrations()
            .map_err(migration)?;
        // Grouped: were a migration and its record two transactions, a crash between them would leave a file that no
        // version opens.
        schema::migrations::runner()
            .set_grouped(true)
            .set_migration_table_name(MIGRATIONS_TABLE)
            .run(&mut connection)
            .map_err(migration)?;
        let purge_owed = purge_owed(&connection)?;
        let mut store = Self {
            connection,
            crypto: RustCrypto::default(),
            is_encrypted: key.is_some(),
            purge_owed,
        };
        store.settle();
        Ok(store)
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// The connection, for the application's own migrations and settings.
    ///
    /// Everything else belongs into a [`transaction`](Self::transaction).
    pub fn connection_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Runs `work` in one write transaction (`BEGIN IMMEDIATE`).
    ///
    /// `Ok` commits, and is durable when this returns. `Err` and a panic roll back everything that `work` did: OpenMLS's
    /// state, the pool's metadata and the application's rows.
    ///
    /// # Errors
    /// Those of `work`, and [`StoreError`] when the transaction cannot begin or commit; nothing is kept then.
    pub fn transaction<T, E: From<StoreError>>(
        &mut self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(StoreError::from)?;
        let tx = Tx {
            transaction,
            crypto: &self.crypto,
            erased: Cell::new(false),
            doomed: Cell::new(false),
        };
        let value = work(&tx)?;
        let erased = tx.erased.get();
        if erased && !self.purge_owed {
            // In the same transaction: were it noted afterwards, a crash in between would forget it.
            owe_purge(tx.connection(), true)?;
        }
        tx.commit()?;
        self.purge_owed |= erased;
        self.settle();
        Ok(value)
    }

    /// Empties the write-ahead log, so that erased private keys are in no file any more.
    ///
    /// Every [`transaction`](Self::transaction) that erases private keys does this after its commit; if a reader was in
    /// the way, the following transactions and the next [`open`](Self::open) try again. `false` while a reader still is.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn scrub(&mut self) -> Result<bool, StoreError> {
        // Waiting for a reader helps nobody: there is a next time.
        self.connection.busy_timeout(Duration::ZERO)?;
        let busy = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        self.connection.busy_timeout(BUSY_TIMEOUT)?;
        if busy? != 0 {
            return Ok(false);
        }
        if self.purge_owed {
            owe_purge(&self.connection, false)?;
            self.purge_owed = false;
        }
        Ok(true)
    }

    /// Whether erased private keys may still be in the write-ahead log, as written down in the file.
    ///
    /// # Errors
    /// [`StoreError`] when the file cannot be read, or is corrupt.
    pub fn purge_owed(&self) -> Result<bool, StoreError> {
        purge_owed(&self.connection)
    }

    /// Does what is owed, if it can be done now.
    fn settle(&mut self) {
        if self.purge_owed {
            // Nothing depends on it: the commit is done, the debt is written down, and there is a next time.
            let _ = self.scrub();
        }
    }

    /// Compares OpenMLS's bundles with the pool's live rows.
    ///
    /// # Errors
    /// [`StoreError`] when the file cannot be read or a row is corrupt.
    pub fn audit(&self) -> Result<Audit, StoreError> {
        audit::audit(&self.connection)
    }
}

/// A write transaction of a [`LocalStore`].
pub struct Tx<'c> {
    transaction: Transaction<'c>,
    crypto: &'c RustCrypto,
    erased: Cell<bool>,
    doomed: Cell<bool>,
}

impl Tx<'_> {
    /// The connection, inside the transaction. The application's own rows go through it.
    pub fn connection(&self) -> &Connection {
        &self.transaction
    }

    /// OpenMLS's provider, inside the transaction.
    pub fn provider(&self) -> Provider<'_> {
        Provider::new(self.crypto, &self.transaction)
    }

    /// Runs `work`; when it fails, undoes what it did and keeps what the transaction did before.
    ///
    /// So the caller of a failed operation may still commit, for instance a note that it failed.
    pub fn atomically<T, E: From<StoreError>>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.batch("SAVEPOINT larder_pool")?;
        let erased = self.erased.get();
        match work() {
            Ok(value) => {
                self.or_doom("RELEASE larder_pool")?;
                Ok(value)
            }
            Err(error) => {
                self.erased.set(erased);
                // The first error is the one to tell; a second one shows when the caller tries to commit.
                let _ = self.or_doom("ROLLBACK TO larder_pool; RELEASE larder_pool");
                Err(error)
            }
        }
    }

    /// A failure leaves half an operation in the transaction, which must not commit then. SQLite also ends whole
    /// transactions on its own when the disk is full or fails.
    fn or_doom(&self, sql: &str) -> Result<(), StoreError> {
        self.batch(sql).inspect_err(|_| self.doomed.set(true))
    }

    /// Secrets were deleted in this transaction: the write-ahead log is emptied after the commit.
    ///
    /// The pool calls this for every private key that it erases. An application calls it when it has OpenMLS delete
    /// other secrets that must not stay in the file: a group that was left, a leaf that was replaced.
    pub fn note_erasure(&self) {
        self.erased.set(true);
    }

    fn batch(&self, sql: &str) -> Result<(), StoreError> {
        Ok(self.transaction.execute_batch(sql)?)
    }

    fn commit(self) -> Result<(), StoreError> {
        if self.doomed.get() {
            return Err(StoreError::Doomed);
        }
        Ok(self.transaction.commit()?)
    }
}

/// SQLite gives its side files the permissions of the database, so this covers the write-ahead log too.
pub(crate) fn create_private(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Sets what durability and erasure depend on, and reads it back: SQLite ignores what it does not support.
fn configure(connection: &Connection) -> Result<(), StoreError> {
    let mode: String = connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(StoreError::Pragma("journal_mode"));
    }
    // Temporary tables and sorters in memory: they may hold key material.
    for (pragma, value) in [
        ("synchronous", 2),
        ("secure_delete", 1),
        ("foreign_keys", 1),
        ("temp_store", 2),
    ] {
        connection.pragma_update(None, pragma, value)?;
        let granted: i64 = connection.pragma_query_value(None, pragma, |row| row.get(0))?;
        if granted != value {
            return Err(StoreError::Pragma(pragma));
        }
    }
    Ok(())
}

fn purge_owed(connection: &Connection) -> Result<bool, StoreError> {
    Ok(connection.query_row("SELECT owed FROM keypackage_pool_purge", [], |row| row.get(0))?)
}

fn owe_purge(connection: &Connection, owed: bool) -> Result<(), StoreError> {
    connection.execute("UPDATE keypackage_pool_purge SET owed = ?1", [owed])?;
    Ok(())
}

fn migration(error: refinery::Error) -> StoreError {
    StoreError::Migration(Box::new(error))
}
