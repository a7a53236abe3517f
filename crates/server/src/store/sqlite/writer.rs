use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;

use rusqlite::{Connection, TransactionBehavior};

use crate::error::{Fault, ServiceError};
use crate::store::sqlite::checkpoints::Checkpoints;
use crate::store::sqlite::{end, hand_over};
use crate::store::tx::{Engine, News, Tx};

/// Requests that one commit carries at most.
const BATCH_REQUESTS_MAX: usize = 256;

/// Does a request's work, and returns what answers it once the outcome of the commit is known.
type Job = Box<dyn FnOnce(&Connection, &Tx<'_>) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<(), Fault>) + Send>;

/// The way to the writer thread. Dropping it waits for the transaction in progress, and until the database is closed: SQLite
/// puts a database's files in order as it closes it, and nobody may have put others in their place.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(
        path: &Path,
        mut connection: Connection,
        wake: impl Fn(&News) + Send + 'static,
    ) -> Result<Self, Fault> {
        let (jobs, waiting) = mpsc::channel::<Job>();
        let mut checkpoints = Checkpoints::start(path, &connection)?;
        let thread = std::thread::Builder::new()
            .name("larder-writer".to_owned())
            .spawn(move || {
                while let Ok(first) = waiting.recv() {
                    let batch = std::iter::once(first)
                        .chain(waiting.try_iter())
                        .take(BATCH_REQUESTS_MAX);
                    commit_together(&mut connection, batch, &wake);
                    checkpoints.committed(&connection);
                }
                // Its connection closes before this one.
                drop(checkpoints);
            })
            .map_err(|_| Fault::Closed)?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Hands `work` to the writer thread; `answer` is called there with its result after the commit.
    pub(super) fn submit<T, F>(
        &self,
        work: F,
        answer: impl FnOnce(Result<T, ServiceError>) + Send + 'static,
    ) -> Result<(), Fault>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, ServiceError> + Send + 'static,
    {
        let job: Job = Box::new(move |connection, tx| {
            let result = in_savepoint(connection, tx, work);
            Box::new(move |committed| {
                answer(match (result, committed) {
                    (Ok(value), Ok(())) => Ok(value),
                    (Err(error), Ok(())) => Err(error),
                    // What was refused may have been refused for the sake of what is not there now.
                    (_, Err(fault)) => Err(fault.into()),
                });
            })
        });
        hand_over(self.jobs.as_ref(), job)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            end(thread);
        }
    }
}

/// Runs the jobs in one transaction, commits, wakes the receivers and answers.
fn commit_together(connection: &mut Connection, jobs: impl Iterator<Item = Job>, wake: &impl Fn(&News)) {
    let mut answers = Vec::new();
    let committed = (|| {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let tx = Tx::new(Engine::Sqlite(&transaction));
        answers.extend(jobs.map(|job| job(&transaction, &tx)));
        let news = tx.into_news();
        transaction.commit()?;
        Ok::<_, rusqlite::Error>(news)
    })();
    let failed = match committed {
        Ok(news) => {
            crate::metrics::committed(answers.len());
            wake(&news);
            false
        }
        Err(error) => {
            tracing::error!(%error, requests = answers.len(), "a commit failed");
            true
        }
    };
    for answer in answers {
        answer(if failed { Err(Fault::Closed) } else { Ok(()) });
    }
}

/// Runs one request so that neither its refusal nor its panic touches the others in the batch.
fn in_savepoint<T>(
    connection: &Connection,
    tx: &Tx<'_>,
    work: impl FnOnce(&Tx<'_>) -> Result<T, ServiceError>,
) -> Result<T, ServiceError> {
    let news_before = tx.news_mark();
    savepoint(connection, "SAVEPOINT request")?;
    match tx.guarded(work) {
        Ok(value) => {
            savepoint(connection, "RELEASE request")?;
            Ok(value)
        }
        Err(error) => {
            tx.forget_news_since(news_before);
            savepoint(connection, "ROLLBACK TO request")?;
            savepoint(connection, "RELEASE request")?;
            Err(error)
        }
    }
}

/// Parsed once, as every statement.
fn savepoint(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}
