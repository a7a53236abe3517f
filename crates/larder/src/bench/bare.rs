//! What a server is held against: HTTP alone, a group commit alone, the one statement by which PostgreSQL hands a row out once, and
//! OpenMLS alone.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::any;
use futures_util::future::try_join_all;
use openmls::prelude::tls_codec::Deserialize as _;
use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn, ProtocolVersion};
use openmls_rust_crypto::RustCrypto;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio_postgres::Client;

use super::store::connect;

/// Rows that one commit carries at most.
const BATCH_MAX: usize = 256;

/// A server that does nothing but what it is given, on threads of its own, as a server is.
pub(super) struct BareServer {
    pub(super) address: SocketAddr,
    runtime: Option<Runtime>,
}

impl BareServer {
    /// One that answers everything with the same bytes.
    pub(super) fn answering(answer: String) -> Result<Self> {
        let answer = axum::body::Bytes::from(answer);
        Self::start(Router::new().fallback(any(move |body: axum::body::Bytes| {
            let answer = answer.clone();
            async move {
                drop(body);
                ([(CONTENT_TYPE, "application/json")], answer)
            }
        })))
    }

    pub(super) fn start(router: Router) -> Result<Self> {
        let runtime = Builder::new_multi_thread().enable_all().build()?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            axum::serve(listener, router).await
        });
        Ok(Self {
            address,
            runtime: Some(runtime),
        })
    }
}

impl Drop for BareServer {
    fn drop(&mut self) {
        // It must not be waited for on a thread that does not block.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The rows of one caller, and where to say that they are durable.
type Job = (usize, oneshot::Sender<()>);

/// One thread that writes what waits into SQLite in one transaction, and then answers: durable when it does.
pub(super) struct GroupCommit {
    jobs: mpsc::Sender<Job>,
}

impl GroupCommit {
    pub(super) fn start(directory: &Path, body: Vec<u8>) -> Result<Self> {
        let mut connection = rusqlite::Connection::open(directory.join("group-commit.db"))?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE IF NOT EXISTS bench_rows (id INTEGER PRIMARY KEY, body BLOB)",
        )?;
        let (jobs, waiting) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            while let Ok(first) = waiting.recv() {
                let batch: Vec<Job> = std::iter::once(first)
                    .chain(waiting.try_iter())
                    .take(BATCH_MAX)
                    .collect();
                // Whoever waits learns of a failure by not being answered.
                let written = write(&mut connection, &batch, &body);
                if written.is_err() {
                    return;
                }
                for (_, done) in batch {
                    let _ = done.send(());
                }
            }
        });
        Ok(Self { jobs })
    }

    /// How many callers in a second get so many rows each written, so many of them at once.
    pub(super) async fn rate(&self, callers: usize, rows: usize, time: Duration) -> Result<f64> {
        let until = Instant::now() + time;
        let calling = (0..callers).map(|_| {
            let jobs = self.jobs.clone();
            tokio::spawn(async move {
                let mut written = 0_usize;
                while written == 0 || Instant::now() < until {
                    let (done, is_done) = oneshot::channel();
                    jobs.send((rows, done))
                        .ok()
                        .context("the rows cannot be written")?;
                    is_done.await?;
                    written += 1;
                }
                anyhow::Ok(written)
            })
        });
        total(calling, time).await
    }
}

fn write(connection: &mut rusqlite::Connection, batch: &[Job], body: &[u8]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut insert = transaction.prepare_cached("INSERT INTO bench_rows (body) VALUES (?1)")?;
        for _ in 0..batch.iter().map(|(rows, _)| rows).sum() {
            insert.execute([body])?;
        }
    }
    transaction.commit()
}

/// A stock that PostgreSQL hands out by one statement, each row once.
pub(super) struct SkipLocked {
    url: String,
    owners: i64,
}

impl SkipLocked {
    /// Fills it: so many rows of each owner.
    pub(super) async fn fill(url: &str, owners: i64, rows: i64) -> Result<Self> {
        let client = connect(url).await?;
        client
            .batch_execute(&format!(
                "DROP TABLE IF EXISTS bench_stock;
                 CREATE TABLE bench_stock (id BIGINT PRIMARY KEY, owner BIGINT NOT NULL, taken BOOLEAN NOT NULL, body BYTEA);
                 INSERT INTO bench_stock SELECT i, i % {owners}, false, decode(repeat('5a', 300), 'hex')
                     FROM generate_series(1, {owners}::bigint * {rows}) i;
                 CREATE INDEX bench_stock_available ON bench_stock (owner) WHERE NOT taken;
                 ANALYZE bench_stock;"
            ))
            .await?;
        Ok(Self {
            url: url.to_owned(),
            owners,
        })
    }

    /// How many rows are handed out in a second over so many connections.
    pub(super) async fn rate(&self, connections: usize, time: Duration) -> Result<f64> {
        const TAKE: &str = "UPDATE bench_stock SET taken = true WHERE id = (
                 SELECT id FROM bench_stock WHERE owner = $1 AND NOT taken LIMIT 1 FOR UPDATE SKIP LOCKED)
             RETURNING body";
        let clients: Vec<Client> = try_join_all((0..connections).map(|_| connect(&self.url))).await?;
        let until = Instant::now() + time;
        let owners = self.owners;
        let taking = clients
            .into_iter()
            .zip(0..)
            .map(|(client, place): (Client, i64)| {
                tokio::spawn(async move {
                    let take = client.prepare(TAKE).await?;
                    let (mut taken, mut owner) = (0_usize, place * 7919);
                    while taken == 0 || Instant::now() < until {
                        owner = (owner + 104_729) % owners;
                        client
                            .query_opt(&take, &[&owner])
                            .await?
                            .context("the stock is empty")?;
                        taken += 1;
                    }
                    anyhow::Ok(taken)
                })
            });
        total(taking, time).await
    }
}

/// How often in a second OpenMLS checks all of these KeyPackages, on all cores.
pub(super) async fn check_rate(pool: &[Vec<u8>], time: Duration) -> Result<f64> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let until = Instant::now() + time;
    let checking = (0..cores).map(|_| {
        let pool = pool.to_vec();
        tokio::task::spawn_blocking(move || {
            let crypto = RustCrypto::default();
            let mut checked = 0_usize;
            while checked == 0 || Instant::now() < until {
                for bytes in &pool {
                    let MlsMessageBodyIn::KeyPackage(key_package) =
                        MlsMessageIn::tls_deserialize_exact(bytes)?.extract()
                    else {
                        bail!("no KeyPackage was minted");
                    };
                    key_package.validate(&crypto, ProtocolVersion::Mls10)?;
                }
                checked += 1;
            }
            Ok(checked)
        })
    });
    total(checking, time).await
}

/// What several have done in this time, in a second.
async fn total(
    tasks: impl Iterator<Item = tokio::task::JoinHandle<Result<usize>>>,
    time: Duration,
) -> Result<f64> {
    let tasks: Vec<_> = tasks.collect();
    let mut done = 0;
    for task in tasks {
        done += task.await??;
    }
    Ok(done as f64 / time.as_secs_f64())
}
