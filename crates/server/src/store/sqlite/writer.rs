use std::sync::mpsc;

use rusqlite::{Connection, TransactionBehavior};

use crate::error::{Fault, ServiceError};
use crate::store::tx::{DeviceKey, Engine, Tx};

/// Requests that one commit carries at most.
const BATCH_REQUESTS_MAX: usize = 256;

/// Does a request's work, and returns what answers it once the outcome of the commit is known.
type Job = Box<dyn FnOnce(&Connection, &Tx<'_>) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<(), Fault>) + Send>;

/// A handle on the writer thread, which ends when the last handle is dropped.
#[derive(Clone)]
pub(super) struct Writer {
    jobs: mpsc::Sender<Job>,
}

impl Writer {
    pub(super) fn start(
        mut connection: Connection,
        wake: impl Fn(&[DeviceKey]) + Send + 'static,
    ) -> Result<Self, Fault> {
        let (jobs, waiting) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("larder-writer".to_owned())
            .spawn(move || {
                while let Ok(first) = waiting.recv() {
                    let batch = std::iter::once(first)
                        .chain(waiting.try_iter())
                        .take(BATCH_REQUESTS_MAX);
                    commit_together(&mut connection, batch, &wake);
                }
            })
            .map_err(|_| Fault::Closed)?;
        Ok(Self { jobs })
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
                    (Ok(_), Err(fault)) => Err(fault.into()),
                    (Err(error), _) => Err(error),
                });
            })
        });
        self.jobs.send(job).map_err(|_| Fault::Closed)
    }
}

/// Runs the jobs in one transaction, commits, wakes the receivers and answers.
fn commit_together(
    connection: &mut Connection,
    jobs: impl Iterator<Item = Job>,
    wake: &impl Fn(&[DeviceKey]),
) {
    let mut answers = Vec::new();
    let committed = (|| {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let tx = Tx::new(Engine::Sqlite(&transaction));
        answers.extend(jobs.map(|job| job(&transaction, &tx)));
        let woken = tx.into_woken();
        transaction.commit()?;
        Ok::<_, rusqlite::Error>(woken)
    })();
    let failed = match committed {
        Ok(woken) => {
            crate::metrics::committed(answers.len());
            wake(&woken);
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
    let woken_before = tx.woken_mark();
    connection.execute_batch("SAVEPOINT request")?;
    match tx.guarded(work) {
        Ok(value) => {
            connection.execute_batch("RELEASE request")?;
            Ok(value)
        }
        Err(error) => {
            tx.forget_woken_since(woken_before);
            connection.execute_batch("ROLLBACK TO request; RELEASE request")?;
            Err(error)
        }
    }
}
