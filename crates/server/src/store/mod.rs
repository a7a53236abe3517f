//! What the server stores, and the two engines that store it: a SQLite file for one process, PostgreSQL for several.
//!
//! Every change is a closure that runs in one transaction. What a caller is told, and what a receiver is woken for, is
//! on disk. The closure runs statements that both engines understand (`statement`); what only PostgreSQL needs is in
//! `locks`. The two sets of migrations hold the same tables, constraints and triggers.

mod accounts;
mod audit;
mod blobs;
mod clock;
mod devices;
mod groups;
mod introductions;
mod invitations;
mod key_packages;
mod limits;
mod location;
mod locks;
mod log;
mod mail;
mod members;
mod postgres;
mod reservations;
mod restored;
mod scrub;
mod sqlite;
mod statement;
mod stock;
#[cfg(test)]
mod tests;
mod totals;
mod tx;

use std::sync::Arc;
use std::time::Duration;

use openmls_rust_crypto::RustCrypto;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::accounts::CHALLENGE_KEY_BYTES;
use crate::error::{Fault, ServiceError};
use crate::random::random_bytes;
use crate::wakeups::Wakeups;

pub(crate) use accounts::DeviceRow;
pub(crate) use audit::Disclosure;
pub(crate) use blobs::{BLOB_PART_BYTES, BlobRow, NewBlob};
pub(crate) use clock::{ClockRow, Durations};
pub(crate) use groups::GroupRow;
pub(crate) use key_packages::{KeyPackageRow, NewKeyPackage, Serving, Stored};
pub use location::{PostgresLocation, StoreLocation, StoreLocationError};
pub(crate) use log::{
    AcceptedRow, Appended, BodyGone, HandshakeRow, LogKind, LogRange, LogRow, NewRow, Part,
};
pub(crate) use mail::MailKind;
pub(crate) use members::Interval;
pub use postgres::{PostgresError, PostgresErrorKind};
pub(crate) use reservations::{ReservationId, StateChange};
pub(crate) use scrub::Content;
pub(crate) use stock::Stock;
pub(crate) use tx::{BlobKey, DeviceKey, NewMessage, News, Tx, UserKey, panic_text};

/// Where refinery notes which migrations were applied.
const MIGRATIONS_TABLE: &str = "larder_server_migrations";

/// Whether the last migration that was applied is the last that there is.
fn is_present(migrations: &refinery::Runner, last_applied: Option<&refinery::Migration>) -> bool {
    let newest = migrations
        .get_migrations()
        .iter()
        .map(refinery::Migration::version)
        .max();
    last_applied.map(refinery::Migration::version) == newest
}

/// What a store has from its beginning on, if it is new.
pub(crate) struct Beginning {
    pub(crate) incarnation: String,
    pub(crate) challenge_key: [u8; CHALLENGE_KEY_BYTES],
}

impl Beginning {
    /// One that no other store has.
    pub(crate) fn new(crypto: &RustCrypto) -> Result<Self, Fault> {
        Ok(Self {
            incarnation: Uuid::new_v4().to_string(),
            challenge_key: random_bytes(crypto)?,
        })
    }
}

/// A handle on the store.
#[derive(Clone)]
pub(crate) struct Store {
    engine: Kind,
    /// For those who use the engine or wait for it. Without a bound, what waits would fill the memory as soon as requests
    /// come faster than the disk takes them.
    places: Arc<Semaphore>,
}

/// Which engine it is.
#[derive(Clone)]
enum Kind {
    Sqlite(sqlite::Sqlite),
    Postgres(postgres::Postgres),
}

impl Store {
    /// Opens the store and brings its schema up to date.
    ///
    /// After a commit, and when another node tells, those of `wakeups` wake for whom there may be something new. A PostgreSQL
    /// that is down is waited for, up to `wait`.
    pub(crate) async fn open(
        location: &StoreLocation,
        beginning: &Beginning,
        wakeups: Wakeups,
        wait: Duration,
    ) -> Result<Self, Fault> {
        let engine = match location {
            StoreLocation::Sqlite(path) => {
                Kind::Sqlite(sqlite::Sqlite::open(path, beginning, move |news| {
                    wakeups.wake(news);
                })?)
            }
            StoreLocation::Postgres(location) => {
                Kind::Postgres(postgres::Postgres::open(location, beginning, wakeups, wait).await?)
            }
        };
        Ok(Self::over(engine))
    }

    /// Opens a store that a server may be using meanwhile, without changing its schema: it must be the present one.
    pub(crate) async fn open_in_use(location: &StoreLocation) -> Result<Self, Fault> {
        let engine = match location {
            StoreLocation::Sqlite(path) => Kind::Sqlite(sqlite::Sqlite::open_in_use(path)?),
            StoreLocation::Postgres(location) => {
                Kind::Postgres(postgres::Postgres::open_in_use(location).await?)
            }
        };
        Ok(Self::over(engine))
    }

    fn over(engine: Kind) -> Self {
        Self {
            engine,
            places: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        }
    }

    /// Whether other processes may serve it, too.
    pub(crate) fn is_shared(&self) -> bool {
        match self.engine {
            Kind::Sqlite(_) => false,
            Kind::Postgres(_) => true,
        }
    }

    /// The same store for at most so many requests at once; others fail with [`Fault::Busy`].
    pub(crate) fn for_requests(self, most: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(most)),
            ..self
        }
    }

    /// The same work with a place of its own until it is done or dropped, even when its caller has gone away.
    fn placed<T, F>(
        &self,
        work: F,
    ) -> Result<impl Fn(&Tx<'_>) -> Result<T, ServiceError> + Send + 'static, Fault>
    where
        F: Fn(&Tx<'_>) -> Result<T, ServiceError> + Send + 'static,
    {
        let place = Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_| Fault::Busy)?;
        Ok(move |tx: &Tx<'_>| {
            let _held = &place;
            work(tx)
        })
    }

    /// Runs `work` in a transaction. An `Err` rolls back all that it did; an `Ok` is on disk when this returns. It may
    /// run several times before that, each time from the beginning.
    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T, ServiceError>
    where
        T: Send + 'static,
        F: Fn(&Tx<'_>) -> Result<T, ServiceError> + Send + 'static,
    {
        let work = self.placed(work)?;
        match &self.engine {
            Kind::Sqlite(sqlite) => sqlite.write(work).await,
            Kind::Postgres(postgres) => postgres.write(work).await,
        }
    }

    /// Runs `work` in a transaction and undoes all that it did: for what would happen, without letting it.
    pub(crate) async fn rehearse<T, F>(&self, work: F) -> Result<T, ServiceError>
    where
        T: Send + 'static,
        F: Fn(&Tx<'_>) -> Result<T, ServiceError> + Send + 'static,
    {
        let work = self.placed(work)?;
        match &self.engine {
            Kind::Sqlite(sqlite) => sqlite.rehearse(work).await,
            Kind::Postgres(postgres) => postgres.rehearse(work).await,
        }
    }

    /// Runs `work` on a snapshot of what is committed, perhaps several times.
    pub(crate) async fn read<T, F>(&self, work: F) -> Result<T, ServiceError>
    where
        T: Send + 'static,
        F: Fn(&Tx<'_>) -> Result<T, ServiceError> + Send + 'static,
    {
        let work = self.placed(work)?;
        match &self.engine {
            Kind::Sqlite(sqlite) => sqlite.read(work).await,
            Kind::Postgres(postgres) => postgres.read(work).await,
        }
    }
}
