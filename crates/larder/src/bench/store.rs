//! Where the server keeps everything, and one durable row beside it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use larder_server::StoreLocation;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls, Statement};
use uuid::Uuid;

use crate::cli::StoreUrl;
use crate::commands::DATABASE;
use crate::failure::{Exit, Failure};
use crate::process::{self, Process};
use crate::profile::Home;

/// All who are measured come from one address, and ask for more than people do.
const UNLIMITED: [&str; 14] = [
    "--accounts-per-hour",
    "0",
    "--address-connections",
    "0",
    "--address-registrations",
    "0",
    "--address-requests-per-second",
    "0",
    "--drain-device-burst",
    "100000",
    "--drain-pair-burst",
    "100000",
    "--drain-pair-reservations",
    "100000",
];

/// A place that is gone at the end.
pub(super) struct Store {
    directory: TempDir,
    schema: Option<Schema>,
}

/// Where a store is.
pub(super) enum Place {
    Sqlite(PathBuf),
    Postgres(String),
}

/// A schema of PostgreSQL.
struct Schema {
    name: String,
    /// Of whoever works in it.
    url: String,
    client: Client,
}

impl Store {
    /// A SQLite database in a temporary directory, or a schema in the database of this URL.
    pub(super) async fn create(url: Option<&StoreUrl>) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("larder-bench-").tempdir()?;
        let schema = match url {
            None => None,
            Some(StoreUrl(url)) => Some(Schema::create(url).await?),
        };
        Ok(Self { directory, schema })
    }

    pub(super) fn engine(&self) -> &'static str {
        match self.schema {
            None => "sqlite",
            Some(_) => "postgresql",
        }
    }

    /// Starts a server, and returns its URL, too.
    pub(super) async fn serve(&self) -> Result<(Process, String)> {
        let url = self.schema.as_ref().map(|schema| schema.url.as_str());
        Process::serve(self.directory.path(), url, &UNLIMITED).await
    }

    /// Its directory.
    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Where a server that was started once keeps everything.
    pub(super) fn place(&self) -> Place {
        match &self.schema {
            Some(schema) => Place::Postgres(schema.url.clone()),
            None => Place::Sqlite(Home::at(self.path().to_owned()).server().join(DATABASE)),
        }
    }

    /// A table of rows.
    pub(super) async fn rows(&self) -> Result<Rows> {
        if let Some(schema) = &self.schema {
            let client = connect(&schema.url).await?;
            let table =
                "CREATE TABLE bench_rows (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body BYTEA)";
            client.batch_execute(table).await?;
            let insert = client
                .prepare("INSERT INTO bench_rows (body) VALUES ($1)")
                .await?;
            return Ok(Rows::Postgres(client, insert));
        }
        let connection = rusqlite::Connection::open(self.directory.path().join("rows.db"))?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE bench_rows (id INTEGER PRIMARY KEY, body BLOB)",
        )?;
        Ok(Rows::Sqlite(connection))
    }

    /// Removes all of it. No server may use it any more.
    pub(super) async fn remove(self) -> Result<()> {
        if let Some(schema) = &self.schema {
            let statement = format!("DROP SCHEMA {} CASCADE", schema.name);
            let dropped = schema.client.batch_execute(&statement).await;
            dropped.with_context(|| format!("the schema {} cannot be dropped", schema.name))?;
        }
        process::remove(self.directory).await
    }
}

impl Schema {
    async fn create(url: &str) -> Result<Self> {
        let usage = |message| Failure::new(Exit::Usage, "not-postgresql", message);
        let StoreLocation::Postgres(_) = url.parse::<StoreLocation>().context("--store")? else {
            return Err(usage(
                "--store takes the URL of a PostgreSQL database; without it, SQLite is measured",
            )
            .into());
        };
        let config: tokio_postgres::Config = url.parse().context("--store")?;
        if config.get_options().is_some() {
            return Err(
                usage("--store: the URL must have no `options`, which say which schema is used").into(),
            );
        }
        let name = format!("larder_bench_{}", Uuid::new_v4().simple());
        let joint = if url.contains('?') { '&' } else { '?' };
        let url = format!("{url}{joint}options=-csearch_path%3D{name}");
        let client = connect(&url).await?;
        client.batch_execute(&format!("CREATE SCHEMA {name}")).await?;
        Ok(Self { name, url, client })
    }
}

pub(super) async fn connect(url: &str) -> Result<Client> {
    let connected = tokio_postgres::connect(url, NoTls).await;
    let (client, connection) = connected.context("the PostgreSQL server does not let us in")?;
    tokio::spawn(connection);
    Ok(client)
}

/// A table of rows, each on disk before the next.
pub(super) enum Rows {
    Sqlite(rusqlite::Connection),
    Postgres(Client, Statement),
}

impl Rows {
    /// Writes one. How long it took.
    pub(super) async fn write(&self, body: &[u8]) -> Result<Duration> {
        let started = Instant::now();
        match self {
            Self::Sqlite(connection) => {
                let mut insert = connection.prepare_cached("INSERT INTO bench_rows (body) VALUES (?1)")?;
                insert.execute([body])?;
            }
            Self::Postgres(client, insert) => {
                client.execute(insert, &[&body]).await?;
            }
        }
        Ok(started.elapsed())
    }
}
