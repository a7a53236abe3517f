use std::num::NonZeroU32;
use std::sync::Arc;

use larder_wire::{
    Accepted, CommitRequest, CreateGroupRequest, GroupCreated, GroupId, GroupInfoAnswer, INBOX_PAGE_ROWS_MAX,
    Inbox, Membership, Memberships, Problem, ProblemType, Sent,
};
use tokio::sync::watch;

use super::{Caller, Service};
use crate::accounts::answered_once;
use crate::delivery;
use crate::error::ServiceError;
use crate::metrics;

/// Whoever waits in too many places asks again after this time, when a long poll has ended.
const WAITING_RETRY_SECONDS: u32 = 30;

/// Groups and inboxes.
impl Service {
    /// Creates a group with the caller as its only member. Refuses with `malformed`, `invalid-commit`, `group-exists`
    /// or `idempotency-mismatch`.
    pub async fn create_group(
        &self,
        caller: &Caller,
        idempotency_key: String,
        request: CreateGroupRequest,
    ) -> Result<GroupCreated, ServiceError> {
        let (inner, device, now) = (Arc::clone(&self.inner), Arc::clone(&caller.device), self.now());
        self.change(caller, move |tx| {
            answered_once(
                tx,
                device.key,
                &idempotency_key,
                ("create-group", &request),
                now,
                || delivery::create_group(tx, &inner.crypto, &inner.suites, &device, &request, now),
            )
        })
        .await
    }

    /// Accepts a Commit and all that belongs to it. Refuses with `malformed`, `not-found`, `wrong-epoch`,
    /// `invalid-commit`, `already-spent` or `reservation-lapsed`.
    pub async fn commit(
        &self,
        caller: &Caller,
        group: GroupId,
        request: CommitRequest,
    ) -> Result<Accepted, ServiceError> {
        let (inner, device, now) = (Arc::clone(&self.inner), Arc::clone(&caller.device), self.now());
        self.change(caller, move |tx| {
            let judged_by = (&inner.crypto, inner.config.server_name.as_str());
            delivery::commit(tx, judged_by, &device, &group, &request, now)
        })
        .await
    }

    /// Queues a standalone Remove or Update. Refuses like [`commit`](Self::commit).
    pub async fn propose(
        &self,
        caller: &Caller,
        group: GroupId,
        proposal: Vec<u8>,
    ) -> Result<Sent, ServiceError> {
        let (inner, device, now) = (Arc::clone(&self.inner), Arc::clone(&caller.device), self.now());
        self.change(caller, move |tx| {
            let judged_by = (&inner.crypto, inner.config.server_name.as_str());
            delivery::propose(tx, judged_by, &device, &group, &proposal, now)
        })
        .await
    }

    /// Delivers an application message. Refuses with `malformed`, `not-found`, `too-large` or `wrong-epoch`.
    pub async fn send_message(
        &self,
        caller: &Caller,
        group: GroupId,
        message: Vec<u8>,
    ) -> Result<Sent, ServiceError> {
        let (device, now) = (Arc::clone(&caller.device), self.now());
        self.change(caller, move |tx| {
            delivery::send_message(tx, &device, &group, &message, now)
        })
        .await
    }

    /// The groups that the caller is a member of; or, `of_user`, that any device of its user is.
    pub async fn memberships(&self, caller: &Caller, of_user: bool) -> Result<Memberships, ServiceError> {
        let device = caller.device.key;
        let groups = self
            .inner
            .store
            .read(move |tx| {
                Ok(if of_user {
                    tx.memberships_of_user(device)?
                } else {
                    tx.memberships(device)?
                })
            })
            .await?
            .into_iter()
            .map(|(group_id, epoch)| Membership { group_id, epoch })
            .collect();
        Ok(Memberships { groups })
    }

    /// What an external Commit needs. Refuses with `not-found`.
    pub async fn group_info(&self, caller: &Caller, group: GroupId) -> Result<GroupInfoAnswer, ServiceError> {
        let caller = Arc::clone(&caller.device);
        self.inner
            .store
            .read(move |tx| delivery::group_info(tx, &caller, &group))
            .await
    }

    /// The ratchet tree of the epoch of a Welcome in the caller's inbox. Refuses with `not-found`.
    pub async fn ratchet_tree(
        &self,
        caller: &Caller,
        group: GroupId,
        epoch: u64,
    ) -> Result<Vec<u8>, ServiceError> {
        let caller = Arc::clone(&caller.device);
        self.inner
            .store
            .read(move |tx| delivery::ratchet_tree(tx, &caller, &group, epoch))
            .await
    }

    /// Unacknowledged rows with a number above `after`, at most `limit` (and at most [`INBOX_PAGE_ROWS_MAX`]).
    pub async fn inbox(
        &self,
        caller: &Caller,
        after: Option<u64>,
        limit: u32,
    ) -> Result<Inbox, ServiceError> {
        let (device, limit) = (caller.device.key, limit.min(INBOX_PAGE_ROWS_MAX));
        let inbox = self
            .inner
            .store
            .read(move |tx| {
                // In this order: what is dropped in between is told, even though it was read.
                let rows = tx.inbox(device, after.unwrap_or(0), limit)?;
                let dropped = tx.dropped_up_to(device)?;
                Ok(Inbox {
                    rows,
                    dropped_up_to: (dropped > after.unwrap_or(0)).then_some(dropped),
                })
            })
            .await?;
        metrics::delivered(inbox.rows.len());
        Ok(inbox)
    }

    /// The rows up to and including `up_to` are stored by the device and go away here.
    pub async fn acknowledge(&self, caller: &Caller, up_to: u64) -> Result<(), ServiceError> {
        let device = caller.device.key;
        self.change(caller, move |tx| Ok(tx.acknowledge(device, up_to)?))
            .await
    }

    /// Changes whenever rows may have arrived in the caller's inbox. Subscribe first, then read. Refuses with
    /// `rate-limited` while as many as may wait for one device do.
    pub fn subscribe(&self, caller: &Caller) -> Result<watch::Receiver<u64>, ServiceError> {
        let most = self.inner.config.limits.waiting_per_device_max;
        self.inner
            .wakeups
            .subscribe(caller.device.key, most)
            .ok_or_else(|| {
                let problem = Problem {
                    retry_after_seconds: NonZeroU32::new(WAITING_RETRY_SECONDS),
                    ..Problem::new(ProblemType::RateLimited)
                };
                problem.into()
            })
    }
}
