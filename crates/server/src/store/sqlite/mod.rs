//! SQLite: one file, one writer, as many readers as cores.
//!
//! Every change is a closure that runs on the writer thread inside a savepoint of one transaction. The thread gathers
//! the closures that wait, commits them together (`synchronous=FULL`: durable when the commit returns) and only then
//! answers all of them. So what a caller is told, and what a receiver is woken for, is on disk.

mod checkpoints;
mod private;
mod readers;
mod writer;

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use larder_wire::ProblemType;
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::error::{Fault, ServiceError};
use crate::store::Beginning;
use crate::store::tx::{News, Tx};

/// How long SQLite waits for a lock that another process holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A handle on the database.
#[derive(Clone)]
pub(crate) struct Sqlite {
    // Dropped in this order: the writer's connection closes last and alone, so that SQLite brings the log over and removes it.
    readers: Arc<readers::Readers>,
    writer: Arc<writer::Writer>,
}

impl Sqlite {
    /// Opens the database, creating it for its owner alone and bringing its schema up to date.
    pub(super) fn open(
        path: &Path,
        beginning: &Beginning,
        wake: impl Fn(&News) + Send + 'static,
    ) -> Result<Self, Fault> {
        private::make_private(path)?;
        let mut connection = connect(path, CacheSize::Writer)?;
        migrations().run(&mut connection)?;
        connection.execute(
            "INSERT OR IGNORE INTO server (id, incarnation, challenge_key) VALUES (1, ?1, ?2)",
            (&beginning.incarnation, &beginning.challenge_key),
        )?;
        Self::start(path, connection, wake)
    }

    /// Opens a database that another process may be using. Both take turns to write.
    pub(super) fn open_in_use(path: &Path) -> Result<Self, Fault> {
        private::make_private(path)?;
        let mut connection = connect(path, CacheSize::Writer)?;
        let migrations = migrations();
        // Without the table of migrations it is no database of ours.
        let last = migrations
            .get_last_applied_migration(&mut connection)
            .ok()
            .flatten();
        if !super::is_present(&migrations, last.as_ref()) {
            return Err(Fault::OtherSchema);
        }
        Self::start(path, connection, |_| {})
    }

    fn start(
        path: &Path,
        connection: Connection,
        wake: impl Fn(&News) + Send + 'static,
    ) -> Result<Self, Fault> {
        Ok(Self {
            writer: Arc::new(writer::Writer::start(path, connection, wake)?),
            readers: Arc::new(readers::Readers::start(path)?),
        })
    }

    pub(super) async fn write<T, F>(&self, work: F) -> Result<T, ServiceError>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, ServiceError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.writer.submit(work, move |result| {
            // The caller may have gone away; what it asked for is done all the same.
            let _ = answer.send(result);
        })?;
        answered.await.map_err(|_| Fault::Closed)?
    }

    pub(super) async fn rehearse<T, F>(&self, work: F) -> Result<T, ServiceError>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, ServiceError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let undone = self.write(move |tx| -> Result<(), ServiceError> {
            let _ = answer.send(work(tx));
            // Any refusal undoes what was done.
            Err(ProblemType::Forbidden.into())
        });
        match (undone.await, answered.await) {
            (Err(ServiceError::Fault(fault)), _) => Err(fault.into()),
            (_, rehearsed) => rehearsed.map_err(|_| Fault::Closed)?,
        }
    }

    pub(super) async fn read<T, F>(&self, work: F) -> Result<T, ServiceError>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, ServiceError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.readers.submit(work, move |result| {
            // The caller may have gone away.
            let _ = answer.send(result);
        })?;
        answered.await.map_err(|_| Fault::Closed)?
    }
}

/// Hands a job to a thread that waits for one.
fn hand_over<J>(jobs: Option<&mpsc::Sender<J>>, job: J) -> Result<(), Fault> {
    jobs.and_then(|jobs| jobs.send(job).ok()).ok_or(Fault::Closed)
}

/// Waits for a thread that gets no more jobs. The last handle on the database may be in a job of the thread itself, which ends
/// then.
fn end(thread: JoinHandle<()>) {
    if thread.thread().id() != std::thread::current().id() {
        let _ = thread.join();
    }
}

/// How much of the database a connection keeps in memory at most, once it has read that.
#[derive(Debug, Clone, Copy)]
enum CacheSize {
    Writer,
    Reader,
}

impl CacheSize {
    /// In KiB; SQLite counts in pages where the number is not negative.
    fn pragma(self) -> i64 {
        match self {
            Self::Writer => -64 * 1024,
            Self::Reader => -8 * 1024,
        }
    }
}

fn connect(path: &Path, cache: CacheSize) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    // A thread does that, and no commit waits for it.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "cache_size", cache.pragma())?;
    // There are fewer statements than that, so each is parsed once.
    connection.set_prepared_statement_cache_capacity(512);
    Ok(connection)
}

fn migrations() -> refinery::Runner {
    let mut migrations = migrations::runner();
    migrations.set_migration_table_name(super::MIGRATIONS_TABLE);
    // A migration and its record in one transaction.
    migrations.set_grouped(true)
}

refinery::embed_migrations!("migrations/sqlite");
