use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use larder_wire::{Problem, ProblemType};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Fault, ServiceError};
use crate::store::UserKey;

/// Whoever has too many transfers under way asks again after this time, in seconds.
const RETRY_SECONDS: u32 = 5;

/// Places for those who store or fetch a blob: each needs memory, and some take their time.
#[derive(Clone)]
pub(crate) struct Transfers {
    places: Arc<Semaphore>,
    per_user_max: usize,
    users: Arc<Mutex<HashMap<UserKey, usize>>>,
}

/// A place, given back when it is dropped.
pub(crate) struct TransferPlace {
    user: UserKey,
    transfers: Transfers,
    _place: OwnedSemaphorePermit,
}

impl Transfers {
    pub(crate) fn new(most: usize, per_user_max: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(most)),
            per_user_max,
            users: Arc::default(),
        }
    }

    /// A place for a transfer of `user`. Refuses with `rate-limited` while the user has as many as one may have; fails with
    /// [`Fault::Busy`] while there is none at all.
    pub(crate) fn enter(&self, user: UserKey) -> Result<TransferPlace, ServiceError> {
        let place = Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_| Fault::Busy)?;
        let mut users = self.lock();
        let under_way = users.entry(user).or_default();
        if *under_way >= self.per_user_max {
            let problem = Problem {
                retry_after_seconds: NonZeroU32::new(RETRY_SECONDS),
                ..Problem::new(ProblemType::RateLimited)
            };
            return Err(problem.into());
        }
        *under_way += 1;
        Ok(TransferPlace {
            user,
            transfers: self.clone(),
            _place: place,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UserKey, usize>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TransferPlace {
    fn drop(&mut self) {
        let mut users = self.transfers.lock();
        if let Some(under_way) = users.get_mut(&self.user) {
            *under_way -= 1;
            if *under_way == 0 {
                users.remove(&self.user);
            }
        }
    }
}
