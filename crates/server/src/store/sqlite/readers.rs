use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use rusqlite::Connection;

use crate::error::{Fault, ServiceError};
use crate::store::sqlite::{CacheSize, connect, end, hand_over};
use crate::store::tx::{Engine, Tx};

/// Threads that read, where the machine does not say how many cores it has.
const THREADS_DEFAULT: usize = 2;
/// Threads that read at most: each keeps a connection with its page cache.
const THREADS_MAX: usize = 16;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Threads that read committed snapshots, beside the writer: as many as there are cores, each with a connection and prepared
/// statements of its own. A read does not begin a thread, and waits when all of them are busy.
pub(super) struct Readers {
    jobs: Option<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// Starts the threads. The database is there.
    pub(super) fn start(path: &Path) -> Result<Self, Fault> {
        let (jobs, waiting) = mpsc::channel();
        let waiting = Arc::new(Mutex::new(waiting));
        let cores = std::thread::available_parallelism().map_or(THREADS_DEFAULT, usize::from);
        let threads = (0..cores.min(THREADS_MAX))
            .map(|_| {
                let mut connection = connect(path, CacheSize::Reader)?;
                connection.pragma_update(None, "query_only", "ON")?;
                let waiting = Arc::clone(&waiting);
                std::thread::Builder::new()
                    .name("larder-reader".to_owned())
                    .spawn(move || {
                        while let Some(job) = next(&waiting) {
                            job(&mut connection);
                        }
                    })
                    .map_err(|_| Fault::Closed)
            })
            .collect::<Result<_, Fault>>()?;
        Ok(Self {
            jobs: Some(jobs),
            threads,
        })
    }

    /// Hands `work` to one of the threads; `answer` is called there with its result.
    pub(super) fn submit<T, F>(
        &self,
        work: F,
        answer: impl FnOnce(Result<T, ServiceError>) + Send + 'static,
    ) -> Result<(), Fault>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, ServiceError> + Send + 'static,
    {
        let job: Job = Box::new(move |connection| answer(read(connection, work)));
        hand_over(self.jobs.as_ref(), job)
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        drop(self.jobs.take());
        self.threads.drain(..).for_each(end);
    }
}

/// The next job; `None` when there will be none any more.
fn next(waiting: &Mutex<mpsc::Receiver<Job>>) -> Option<Job> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

fn read<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Tx<'_>) -> Result<T, ServiceError>,
) -> Result<T, ServiceError> {
    let transaction = connection.transaction()?;
    let result = Tx::new(Engine::Sqlite(&transaction)).guarded(work);
    transaction.finish()?;
    result
}
