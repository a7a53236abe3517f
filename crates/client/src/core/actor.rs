use std::sync::mpsc;
use std::thread::JoinHandle;

use larder_pool::Tx;
use tokio::sync::oneshot;

use crate::core::profile::{Context, Core};
use crate::error::Error;

type Job = Box<dyn FnOnce(&mut Core) + Send>;

/// The way to the thread that owns the database. Dropping it waits for the transaction in progress and releases the
/// profile.
pub(crate) struct Handle {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Handle {
    /// Starts the thread. `open` runs on it.
    pub(crate) async fn start(
        open: impl FnOnce() -> Result<Core, Error> + Send + 'static,
    ) -> Result<Self, Error> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (opened, answer) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("larder-core".into())
            .spawn(move || {
                let mut core = match open() {
                    Ok(core) => core,
                    Err(error) => {
                        let _ = opened.send(Err(error));
                        return;
                    }
                };
                if opened.send(Ok(())).is_err() {
                    return;
                }
                while let Ok(job) = inbox.recv() {
                    job(&mut core);
                }
            })
            .map_err(Error::Profile)?;
        let handle = Self {
            jobs: Some(jobs),
            thread: Some(thread),
        };
        answer.await.map_err(|_| Error::Closed)??;
        Ok(handle)
    }

    /// Runs `work` in one transaction: `Ok` commits, `Err` rolls back whole.
    ///
    /// The work is done even if the caller stops waiting for it.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>, &Context) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.run(move |core| core.write(work)).await
    }

    /// Runs `work` on the thread, outside of any transaction.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Core) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (done, answer) = oneshot::channel();
        let job: Job = Box::new(move |core| {
            let _ = done.send(work(core));
        });
        self.jobs
            .as_ref()
            .and_then(|jobs| jobs.send(job).ok())
            .ok_or(Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
