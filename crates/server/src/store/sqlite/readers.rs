use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use rusqlite::Connection;

use crate::error::ServiceError;
use crate::store::sqlite::connect;
use crate::store::tx::{Engine, Tx};

/// Idle connections that are kept for the next reader.
const IDLE_CONNECTIONS_MAX: usize = 4;

/// Connections that read committed snapshots, beside the writer.
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            idle: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn read<T>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, ServiceError>,
    ) -> Result<T, ServiceError> {
        let idle = self.idle().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => {
                let connection = connect(&self.path)?;
                connection.pragma_update(None, "query_only", "ON")?;
                connection
            }
        };
        let transaction = connection.transaction()?;
        let result = work(&Tx::new(Engine::Sqlite(&transaction)));
        transaction.finish()?;
        let mut idle = self.idle();
        if idle.len() < IDLE_CONNECTIONS_MAX {
            idle.push(connection);
        }
        result
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
