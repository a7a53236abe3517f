//! Threads that judge: nothing here touches the store, so that whoever needs it never waits for a signature to be checked.

use std::any::Any;
use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use crate::error::Fault;
use crate::store::UserKey;

/// Work that waits for a judge. Beyond that it is not accepted.
const WAITING_MAX: usize = 256;
/// How much the threads give way to all others (`setpriority(2)`).
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

type Job = Box<dyn FnOnce() + Send>;

/// A handle on the judges. They end with the last one, and with what waits for them.
pub(crate) struct Judges {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// What waits, by user: each user has one piece of work done at a time, and then it is the next one's turn.
#[derive(Default)]
struct Queue {
    turns: VecDeque<UserKey>,
    waiting: HashMap<UserKey, VecDeque<Job>>,
    busy: HashSet<UserKey>,
    length: usize,
    is_closed: bool,
}

impl Queue {
    fn push(&mut self, user: UserKey, job: Job) -> bool {
        if self.length == WAITING_MAX {
            return false;
        }
        self.length += 1;
        let jobs = self.waiting.entry(user).or_default();
        jobs.push_back(job);
        if jobs.len() == 1 && !self.busy.contains(&user) {
            self.turns.push_back(user);
        }
        true
    }

    fn take(&mut self) -> Option<(UserKey, Job)> {
        let user = self.turns.pop_front()?;
        let job = self.waiting.get_mut(&user)?.pop_front()?;
        self.length -= 1;
        self.busy.insert(user);
        Some((user, job))
    }

    fn done(&mut self, user: UserKey) {
        self.busy.remove(&user);
        match self.waiting.get(&user) {
            Some(jobs) if !jobs.is_empty() => self.turns.push_back(user),
            Some(_) | None => {
                self.waiting.remove(&user);
            }
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        give_way();
        let mut queue = self.queue();
        loop {
            if let Some((user, job)) = queue.take() {
                drop(queue);
                job();
                queue = self.queue();
                queue.done(user);
                // Another one may wait for this user.
                self.changed.notify_one();
            } else if queue.is_closed {
                return;
            } else {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Judges {
    /// One thread less than there are cores, and at least one.
    pub(crate) fn start() -> Result<Self, Fault> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared::default());
        for _ in 0..cores.saturating_sub(1).max(1) {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name("larder-judge".to_owned())
                .spawn(move || shared.work())
                .map_err(|_| Fault::Closed)?;
        }
        Ok(Self { shared })
    }

    /// Does work for a user.
    ///
    /// # Errors
    /// [`Fault::Busy`] when too much waits already, [`Fault::Closed`] when the work panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        user: UserKey,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Fault> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move || match catch_unwind(AssertUnwindSafe(work)) {
            Ok(value) => {
                // Who asked may have gone away.
                let _ = answer.send(value);
            }
            Err(panic) => {
                let panic: &(dyn Any + Send) = panic.as_ref();
                tracing::error!(panic = crate::store::panic_text(panic), "a judge panicked");
            }
        });
        if !self.shared.queue().push(user, job) {
            return Err(Fault::Busy);
        }
        self.shared.changed.notify_one();
        answered.await.map_err(|_| Fault::Closed)
    }
}

impl Drop for Judges {
    fn drop(&mut self) {
        self.shared.queue().is_closed = true;
        self.shared.changed.notify_all();
    }
}

/// Lets every other thread go first.
fn give_way() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::setpriority_process;
        use rustix::thread::gettid;
        // On Linux each thread has a priority of its own. It is only a courtesy.
        let _ = setpriority_process(Some(gettid()), NICE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(key: i64) -> UserKey {
        UserKey::for_tests(key)
    }

    #[test]
    fn users_take_turns_and_each_has_one_piece_of_work_done_at_a_time() {
        let mut queue = Queue::default();
        for _ in 0..3 {
            assert!(queue.push(user(1), Box::new(|| {})));
        }
        assert!(queue.push(user(2), Box::new(|| {})));
        let (first, _) = queue.take().unwrap();
        let (second, _) = queue.take().unwrap();
        assert_eq!((first, second), (user(1), user(2)));
        assert!(queue.take().is_none(), "the others are of one whose turn it is");
        queue.done(user(2));
        assert!(queue.take().is_none());
        queue.done(user(1));
        assert_eq!(queue.take().unwrap().0, user(1));
        assert_eq!(queue.length, 1);
    }

    #[test]
    fn no_more_waits_than_may() {
        let mut queue = Queue::default();
        for number in 0..WAITING_MAX {
            assert!(queue.push(user(number as i64), Box::new(|| {})));
        }
        assert!(!queue.push(user(0), Box::new(|| {})));
        assert!(queue.take().is_some());
        assert!(queue.push(user(0), Box::new(|| {})));
    }

    #[tokio::test]
    async fn a_panic_is_the_fault_of_its_request_alone() {
        let judges = Judges::start().unwrap();
        let panicked = judges
            .run(user(1), || -> u8 { std::panic::panic_any("planted") })
            .await;
        assert!(matches!(panicked, Err(Fault::Closed)));
        assert_eq!(judges.run(user(1), || 7).await.unwrap(), 7);
    }
}
