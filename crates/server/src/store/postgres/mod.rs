//! PostgreSQL: any number of nodes on one database, none of which keeps anything of its own.
//!
//! A transaction is the same closure as on SQLite. It runs on a thread that may block, each statement driven to its
//! end on the runtime; transactions of this node and of others run side by side (see `locks`). When PostgreSQL gives
//! one up for the sake of another, it starts over from the beginning. `synchronous_commit` is on: what a caller is
//! told is on disk.

mod binding;
mod error;
mod hints;
mod pool;
mod pooler;
mod queued;
mod reach;
mod session;
mod tls;
mod verifier;

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::error::{Fault, ServiceError};
use crate::store::Beginning;
use crate::store::location::PostgresLocation;
use crate::store::tx::{Engine, News, Tx};
use crate::wakeups::Wakeups;

pub use error::{PostgresError, PostgresErrorKind};
pub(super) use queued::for_many;
pub(super) use session::Session;
#[cfg(test)]
pub(super) use session::translated;

/// A transaction is tried this often before its request fails.
const ATTEMPTS_MAX: u32 = 10;
/// Before a transaction is tried again, it waits up to this long, and after each further attempt up to this much
/// longer: those who met once should not meet again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// A handle on the database.
#[derive(Clone)]
pub(crate) struct Postgres {
    shared: Arc<Shared>,
}

struct Shared {
    pool: Pool,
    wakeups: Wakeups,
    hints: hints::Hints,
    /// They end with the last handle.
    _background: JoinSet<()>,
}

/// How to connect to a database.
struct Database {
    config: tokio_postgres::Config,
    connector: tls::Connector,
    pool: Pool,
}

impl Database {
    fn at(location: &PostgresLocation) -> Result<Self, Fault> {
        let config = pool::configured(location);
        let connector = tls::Connector::new(location)?;
        let pool = pool::create(config.clone(), connector.clone(), location.connections_max())?;
        Ok(Self {
            config,
            connector,
            pool,
        })
    }
}

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To change something.
    Write,
    /// To see what a change would do, and undo it.
    Rehearse,
    /// To read what is committed, all of it at one moment.
    Read,
}

impl Postgres {
    /// Connects, waiting for a database that is down for up to `wait`, and brings the schema up to date. Several nodes may do so
    /// at once.
    pub(super) async fn open(
        location: &PostgresLocation,
        beginning: &Beginning,
        wakeups: Wakeups,
        wait: Duration,
    ) -> Result<Self, Fault> {
        let database = Database::at(location)?;
        reach::wait_for(&database.pool, location, wait).await?;
        let incarnation = pool::prepare_schema(&database.pool, beginning).await?;
        Ok(Self::start(database, &incarnation, wakeups))
    }

    /// Connects to a database that nodes may be using, and that must be up.
    pub(super) async fn open_in_use(location: &PostgresLocation) -> Result<Self, Fault> {
        let database = Database::at(location)?;
        reach::wait_for(&database.pool, location, Duration::ZERO).await?;
        let incarnation = pool::present_schema(&database.pool).await?;
        Ok(Self::start(database, &incarnation, Wakeups::default()))
    }

    fn start(database: Database, incarnation: &str, wakeups: Wakeups) -> Self {
        let Database {
            config,
            connector,
            pool,
        } = database;
        let mut background = JoinSet::new();
        let hints = hints::start(
            &mut background,
            (config, connector),
            pool.clone(),
            incarnation,
            wakeups.clone(),
        );
        Self {
            shared: Arc::new(Shared {
                pool,
                wakeups,
                hints,
                _background: background,
            }),
        }
    }

    pub(super) async fn write<T, F>(&self, work: F) -> Result<T, ServiceError>
    where
        T: Send + 'static,
        F: Fn(&Tx<'_>) -> Result<T, ServiceError> + Send + 'static,
    {
        self.run(work, Purpose::Write).await
    }

    pub(super) async fn rehearse<T, F>(&self, work: F) -> Result<T, ServiceError>
    where
        T: Send + 'static,
        F: Fn(&Tx<'_>) -> Result<T, ServiceError> + Send + 'static,
    {
        self.run(work, Purpose::Rehearse).await
    }

    pub(super) async fn read<T, F>(&self, work: F) -> Result<T, ServiceError>
    where
        T: Send + 'static,
        F: Fn(&Tx<'_>) -> Result<T, ServiceError> + Send + 'static,
    {
        self.run(work, Purpose::Read).await
    }

    /// Runs `work` in a transaction until it gets through, and tells what is new.
    async fn run<T, F>(&self, work: F, purpose: Purpose) -> Result<T, ServiceError>
    where
        T: Send + 'static,
        F: Fn(&Tx<'_>) -> Result<T, ServiceError> + Send + 'static,
    {
        let work = Arc::new(std::sync::Mutex::new(work));
        for attempt in 1.. {
            let client = pool::connection(&self.shared.pool).await?;
            let (runtime, work, shared) = (Handle::current(), Arc::clone(&work), Arc::clone(&self.shared));
            let outcome = tokio::task::spawn_blocking(move || {
                let work = work.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let (value, news) = attempt_once(&runtime, &client, &*work, purpose)?;
                if purpose == Purpose::Write {
                    // Here, whether or not anybody still waits for the answer, and before the next one is accepted.
                    shared.wakeups.wake(&news);
                    shared.hints.tell(news);
                }
                Ok(value)
            })
            .await
            .map_err(|_| Fault::Closed)?;
            match outcome {
                Err(ServiceError::Fault(Fault::Postgres(error)))
                    if error.may_be_tried_again() && attempt < ATTEMPTS_MAX =>
                {
                    tracing::debug!(%error, attempt, "a transaction starts over");
                    pause(attempt).await;
                }
                outcome => return outcome,
            }
        }
        Err(Fault::Closed.into())
    }
}

fn attempt_once<T>(
    runtime: &Handle,
    client: &Object,
    work: impl FnOnce(&Tx<'_>) -> Result<T, ServiceError>,
    purpose: Purpose,
) -> Result<(T, News), ServiceError> {
    let session = Session::new(runtime, client, purpose);
    let tx = Tx::new(Engine::Postgres(&session));
    let result = tx.guarded(work);
    let news = tx.into_news();
    // PostgreSQL has given a transaction up once a statement of it failed, and answers COMMIT without an error.
    if let Some(error) = session.take_failure() {
        return Err(Fault::Postgres(error).into());
    }
    let value = result?;
    match purpose {
        Purpose::Write => session.commit().map_err(Fault::Postgres)?,
        Purpose::Rehearse => session.carry_out().map_err(Fault::Postgres)?,
        Purpose::Read => {}
    }
    Ok((value, news))
}

async fn pause(attempt: u32) {
    let share = f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0;
    tokio::time::sleep(RETRY_PAUSE.mul_f64(share * f64::from(attempt))).await;
}
