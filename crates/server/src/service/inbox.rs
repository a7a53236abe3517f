use std::num::NonZeroU32;
use std::sync::Arc;

use larder_wire::{Acknowledgement, GROUPS_PER_DEVICE_MAX, Problem, ProblemType};

use super::{Caller, Service, malformed};
use crate::delivery::Keep;
use crate::delivery::inbox::{self, Page, PageLimit, Positions};
use crate::error::ServiceError;
use crate::metrics;
use crate::wakeups::{Queue, Waiting};

/// Whoever waits in too many places asks again after this time, when a long poll has ended.
const WAITING_RETRY_SECONDS: u32 = 30;

/// Inboxes.
impl Service {
    /// What the device has stored needs not be given again. Refuses with `malformed`, `other-incarnation`
    /// or `position-ahead`.
    pub async fn acknowledge(
        &self,
        caller: &Caller,
        acknowledgement: Acknowledgement,
    ) -> Result<(), ServiceError> {
        if acknowledgement.groups.len() > GROUPS_PER_DEVICE_MAX {
            return Err(malformed("more groups than a device can be a member of"));
        }
        let device = Arc::clone(&caller.device);
        self.change(caller, move |tx| {
            inbox::acknowledge(tx, &device, &acknowledgement)
        })
        .await
    }

    /// The rows after those that the device has acknowledged, or read already.
    pub(crate) async fn page(
        &self,
        caller: &Caller,
        read: Positions,
        mail_read: u64,
        limit: PageLimit,
    ) -> Result<Page, ServiceError> {
        let device = Arc::clone(&caller.device);
        let page = self
            .inner
            .store
            .read(move |tx| inbox::page(tx, &device, (&read, mail_read), limit))
            .await?;
        metrics::delivered(page.rows.len());
        Ok(page)
    }

    /// Wakes whenever there may be something new for the caller, of the groups that it is told of. Refuses with
    /// `rate-limited` while as many as may wait for one device do.
    pub(crate) fn subscribe(&self, caller: &Caller) -> Result<Waiting, ServiceError> {
        let most = self.inner.config.limits.waiting_per_device_max;
        let waiting = self.inner.wakeups.subscribe(caller.device.key, most);
        waiting.ok_or_else(too_many_wait)
    }

    /// The same, and messages are put into the queue as they are accepted, once the stream [is at](Waiting::is_at) what comes
    /// before them, and until the session ends.
    pub(crate) fn stream(&self, caller: &Caller, queue: Queue) -> Result<Waiting, ServiceError> {
        let most = self.inner.config.limits.waiting_per_device_max;
        let waiting = self
            .inner
            .wakeups
            .stream(caller.device.key, most, (queue, caller.session_ends));
        waiting.ok_or_else(too_many_wait)
    }

    /// How much is kept for those who have not come for it.
    pub(super) fn keep(&self) -> Keep {
        let config = &self.inner.config;
        Keep {
            group_bytes_max: config.group_waiting_bytes_max,
            since: self.now().minus(config.inbox_retention_seconds),
        }
    }
}

fn too_many_wait() -> ServiceError {
    let problem = Problem {
        retry_after_seconds: NonZeroU32::new(WAITING_RETRY_SECONDS),
        ..Problem::new(ProblemType::RateLimited)
    };
    problem.into()
}
