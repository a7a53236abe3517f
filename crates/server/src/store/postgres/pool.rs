//! Connections, and the schema behind them.

use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use tokio_postgres::Config;

use super::error::PostgresError;
use super::pause;
use super::tls::Connector;
use crate::error::Fault;
use crate::store::Beginning;
use crate::store::location::PostgresLocation;

/// A request waits this long for a connection.
const CONNECTION_WAIT: Duration = Duration::from_secs(10);
/// A connection to one host is made in this time, unless the URL says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that acknowledges nothing for this long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Nodes that start at once may be in each other's way while they bring the schema up to date; each tries this often.
const SCHEMA_ATTEMPTS_MAX: u32 = 20;

/// What a connection starts with. A node that vanishes in the middle of a transaction must not hold its locks for ever,
/// and a commit that was answered must be on disk whatever the database's default is.
const SESSION_SETUP: &str = "SET lock_timeout = '10s';
    SET idle_in_transaction_session_timeout = '30s';
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

pub(super) fn configured(location: &PostgresLocation) -> Config {
    let mut config = location.config().clone();
    config.keepalives_idle(SILENCE_MAX);
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(SILENCE_MAX);
    }
    if config.get_application_name().is_none() {
        config.application_name("larder");
    }
    config
}

/// All hosts are tried in this time, so that one that has gone without a word does not keep the next from being asked.
fn connect_timeout(config: &Config) -> Duration {
    let hosts = config.get_hosts().len().max(config.get_hostaddrs().len()).max(1);
    let of_each = config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
    of_each.saturating_mul(u32::try_from(hosts).unwrap_or(u32::MAX))
}

pub(super) fn create(config: Config, connector: Connector, connections_max: usize) -> Result<Pool, Fault> {
    let create_timeout = connect_timeout(&config);
    let manager = Manager::from_connect(
        config,
        connector,
        ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        },
    );
    Pool::builder(manager)
        .max_size(connections_max)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(CONNECTION_WAIT))
        .create_timeout(Some(create_timeout))
        .post_create(Hook::async_fn(|client, _| {
            Box::pin(async move {
                client
                    .batch_execute(SESSION_SETUP)
                    .await
                    .map_err(HookError::Backend)
            })
        }))
        .build()
        .map_err(|_| PostgresError::other("the connection pool cannot be built").into())
}

pub(super) async fn connection(pool: &Pool) -> Result<Object, Fault> {
    Ok(pool.get().await.map_err(PostgresError::from)?)
}

/// Brings the schema up to date and returns the database's incarnation.
pub(super) async fn prepare_schema(pool: &Pool, beginning: &Beginning) -> Result<String, Fault> {
    let mut attempt = 1;
    loop {
        let mut client = connection(pool).await?;
        match migrations().run_async(&mut **client).await {
            Ok(_) => break,
            Err(_) if attempt < SCHEMA_ATTEMPTS_MAX => {
                drop(client);
                pause(attempt).await;
                attempt += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let client = connection(pool).await?;
    client
        .execute(
            "INSERT INTO server (id, incarnation, challenge_key) VALUES (1, $1, $2) ON CONFLICT DO NOTHING",
            &[&beginning.incarnation, &beginning.challenge_key.as_slice()],
        )
        .await?;
    incarnation_of(&client).await
}

/// Makes sure that the schema is the present one, and returns the database's incarnation.
pub(super) async fn present_schema(pool: &Pool) -> Result<String, Fault> {
    let mut client = connection(pool).await?;
    let migrations = migrations();
    // Without the table of migrations it is no database of ours.
    let last = migrations
        .get_last_applied_migration_async(&mut **client)
        .await
        .ok()
        .flatten();
    if !crate::store::is_present(&migrations, last.as_ref()) {
        return Err(Fault::OtherSchema);
    }
    incarnation_of(&client).await
}

async fn incarnation_of(client: &Object) -> Result<String, Fault> {
    let row = client
        .query_one("SELECT incarnation FROM server WHERE id = 1", &[])
        .await?;
    Ok(row.try_get(0)?)
}

fn migrations() -> refinery::Runner {
    let mut migrations = migrations::runner();
    migrations.set_migration_table_name(crate::store::MIGRATIONS_TABLE);
    // A migration and its record in one transaction.
    migrations.set_grouped(true)
}

refinery::embed_migrations!("migrations/postgres");
