//! A PostgreSQL schema of its own for each test, on the server that `scripts/test` starts.

use futures_util::TryStreamExt as _;
use larder_server::StoreLocation;
use tokio_postgres::{Client, NoTls};

/// Names the server: a URL without a query, of somebody who may create schemas.
const SERVER: &str = "LARDER_TEST_POSTGRES";

/// How many random histories a test tries here: a transaction costs more than on SQLite.
pub(crate) const HISTORIES: u32 = 4;

pub(crate) struct Database {
    schema: String,
    url: String,
}

impl Database {
    pub(crate) async fn create() -> Self {
        let server = std::env::var(SERVER).unwrap_or_else(|_| {
            panic!("{SERVER} names no PostgreSQL server: run scripts/test, which starts one")
        });
        let schema = format!("test_{}", uuid::Uuid::new_v4().simple());
        let url = format!("{server}?options=-csearch_path%3D{schema}");
        let database = Self { schema, url };
        database
            .connect()
            .await
            .batch_execute(&format!("CREATE SCHEMA {}", database.schema))
            .await
            .expect("a schema");
        database
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn location(&self) -> StoreLocation {
        self.url().parse().expect("a URL of PostgreSQL")
    }

    /// A connection of its own.
    pub(crate) async fn connect(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls)
            .await
            .expect("the PostgreSQL server of the tests answers");
        tokio::spawn(connection);
        client
    }

    /// Counts rows, on a connection of its own.
    pub(crate) async fn count(&self, sql: &str) -> usize {
        let row = self.connect().await.query_one(sql, &[]).await.expect("a count");
        usize::try_from(row.get::<_, i64>(0)).expect("a count is not negative")
    }

    /// Reads a column of bytes, on a connection of its own.
    pub(crate) async fn bytes(&self, sql: &str) -> Vec<Vec<u8>> {
        let rows = self.connect().await.query(sql, &[]).await.expect("rows");
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Changes what no program may change: without triggers and foreign keys.
    pub(crate) async fn corrupt(&self, sql: &str) {
        let client = self.connect().await;
        client
            .batch_execute(&format!("SET session_replication_role = replica; {sql}"))
            .await
            .expect("the change is made");
    }

    /// All that is stored: every row of every table, its bytes as they are.
    pub(crate) async fn everything(&self) -> Vec<u8> {
        let client = self.connect().await;
        let tables = client
            .query(
                "SELECT tablename::text FROM pg_tables WHERE schemaname = $1",
                &[&self.schema],
            )
            .await
            .expect("the tables");
        let mut everything = Vec::new();
        for table in tables {
            let copy = format!("COPY {} TO STDOUT (FORMAT binary)", table.get::<_, String>(0));
            let chunks: Vec<_> = client
                .copy_out(&copy)
                .await
                .expect("a copy")
                .try_collect()
                .await
                .expect("all of it");
            everything.extend(chunks.iter().flat_map(|chunk| chunk.iter().copied()));
        }
        everything
    }
}
