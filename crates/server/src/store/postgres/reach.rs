//! Waits for a database that is down when a server starts.

use std::time::Duration;

use deadpool_postgres::Pool;
use tokio::time::{Instant, sleep};

use super::error::PostgresErrorKind;
use super::pooler::refuse_shared_sessions;
use crate::error::Fault;
use crate::store::location::PostgresLocation;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);
/// Those who look at the log are told this often that it is still waited.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Returns when the database can be used. What waiting cannot mend fails at once; a database that does not answer is tried again
/// until `most` has passed, and at least once.
pub(super) async fn wait_for(pool: &Pool, location: &PostgresLocation, most: Duration) -> Result<(), Fault> {
    let started = Instant::now();
    let mut told = None;
    loop {
        let Err(error) = refuse_shared_sessions(pool).await else {
            if told.is_some() {
                tracing::info!(database = %location, "PostgreSQL answers");
            }
            return Ok(());
        };
        let waited = started.elapsed();
        if error.kind() != PostgresErrorKind::Unreachable || waited + PAUSE > most {
            return Err(error.into());
        }
        if told.is_none_or(|at: Instant| at.elapsed() >= TOLD_EVERY) {
            told = Some(Instant::now());
            tracing::warn!(
                database = %location,
                %error,
                seconds_left = most.saturating_sub(waited).as_secs(),
                "waiting for PostgreSQL"
            );
        }
        sleep(PAUSE).await;
    }
}
