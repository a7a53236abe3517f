use std::sync::Arc;

use larder_lifecycle::{ClockSuspension, UnixSeconds};
use larder_wire::GroupId;

use super::Service;
use crate::config::Config;
use crate::error::{Fault, ServiceError};
use crate::store::{ClockRow, Durations, Tx};

/// Rows of each kind that one transaction of the sweeper touches, so that it never holds up a request for long.
const SWEEP_ROWS_MAX: u32 = 500;
/// The same of blobs, whose parts are large.
const SWEEP_BLOB_PARTS_MAX: u32 = 64;
/// Groups that are looked up at a time.
const GROUPS_LOOKED_UP_MAX: u32 = 256;
/// Commits and proposals are kept this long, in seconds: one year. Members who were away verify by them how the group has come
/// to where it is.
const HANDSHAKE_SECONDS: u64 = 365 * 24 * 60 * 60;
/// What one device has to say to another one that it has let in is kept this long, in seconds: 30 days.
const INTRODUCTION_SECONDS: u64 = 30 * 24 * 60 * 60;
/// Idempotent answers are kept this long, in seconds: one day.
const IDEMPOTENT_ANSWER_SECONDS: u64 = 24 * 60 * 60;

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// KeyPackages that lapsed, expired or were forgotten.
    pub key_packages: u64,
    /// Bodies of messages, sessions, answers, rows of audits, memories of rates and parts of blobs that were removed, and what groups without
    /// members left.
    pub other_rows: u64,
}

/// What ends with age.
impl Service {
    /// Does what is due: reservations lapse, KeyPackages expire, what nobody needs any more is removed. Each
    /// transaction is small; a large backlog takes several. Nothing is due while the clock is not believed.
    pub async fn sweep(&self) -> Result<Swept, ServiceError> {
        let mut total = Swept::default();
        loop {
            let inner = &self.inner;
            let known = inner.store.read(|tx| Ok(tx.clock()?)).await?;
            let Some(now) = inner.watch.time_to_sweep(&known, inner.store.is_shared()) else {
                return Ok(total);
            };
            let inner = Arc::clone(inner);
            let clock = known.clone();
            let swept = self
                .inner
                .store
                .write(move |tx| {
                    let is_ours =
                        tx.take_turn_to_sweep()? && tx.note_sweep(now, inner.watch.node(), &clock)?;
                    match is_ours {
                        true => sweep(tx, &inner.config, now, &clock),
                        false => Ok(Swept::default()),
                    }
                })
                .await?;
            if swept == Swept::default() {
                total.other_rows += self.sweep_bodies(now, &known).await?;
                return Ok(total);
            }
            total.key_packages += swept.key_packages;
            total.other_rows += swept.other_rows;
        }
    }

    /// Deletes the bodies of messages that everybody has, or that have waited for too long, group by group.
    async fn sweep_bodies(&self, now: UnixSeconds, known: &ClockRow) -> Result<u64, ServiceError> {
        let retention = self.inner.config.inbox_retention_seconds;
        let before = ClockRow::ended_by(known.accepted_at, now, retention).minus(retention);
        let (mut total, mut last) = (0, None);
        loop {
            let groups = self
                .groups_after(last, |tx, after, most| tx.groups_waiting(after, most))
                .await?;
            last = groups.last().cloned();
            if last.is_none() {
                return Ok(total);
            }
            for group in groups {
                loop {
                    let of = group.clone();
                    let done = self
                        .inner
                        .store
                        .write(move |tx| Ok(tx.sweep_bodies(&of, (before, now), SWEEP_ROWS_MAX)?))
                        .await?;
                    total += done;
                    if done < u64::from(SWEEP_ROWS_MAX) {
                        break;
                    }
                }
            }
        }
    }

    /// Some of the groups that `find` finds, by id, after this one; none when there are no more.
    pub(super) async fn groups_after(
        &self,
        after: Option<GroupId>,
        find: impl Fn(&Tx<'_>, Option<&GroupId>, u32) -> Result<Vec<GroupId>, Fault> + Send + 'static,
    ) -> Result<Vec<GroupId>, ServiceError> {
        let found = self
            .inner
            .store
            .read(move |tx| Ok(find(tx, after.as_ref(), GROUPS_LOOKED_UP_MAX)?));
        found.await
    }

    /// Why the server's clock is not believed, so that nothing ends with age; `None` while it is.
    pub fn clock_suspension(&self) -> Option<ClockSuspension> {
        self.inner.watch.suspension()
    }
}

/// Does some of what is due.
fn sweep(tx: &Tx<'_>, config: &Config, now: UnixSeconds, known: &ClockRow) -> Result<Swept, ServiceError> {
    let ended_by = |seconds| ClockRow::ended_by(known.accepted_at, now, seconds);
    let kept_since = ended_by(config.inbox_retention_seconds).minus(config.inbox_retention_seconds);
    let handshakes_since = ended_by(HANDSHAKE_SECONDS).minus(HANDSHAKE_SECONDS);
    let answers_since = ended_by(IDEMPOTENT_ANSWER_SECONDS).minus(IDEMPOTENT_ANSWER_SECONDS);
    let introductions_since = ended_by(INTRODUCTION_SECONDS).minus(INTRODUCTION_SECONDS);
    let audits_since = ended_by(config.audit_retention_seconds).minus(config.audit_retention_seconds);
    let durations = Durations {
        session: config.session_seconds,
        reservation: config.directory.reservation_seconds,
        blob: config.blobs.retention_seconds,
    };
    tx.bring_back_to(now, &durations, SWEEP_ROWS_MAX)?;
    Ok(Swept {
        key_packages: crate::directory::sweep(tx, &config.directory, now, SWEEP_ROWS_MAX)?,
        other_rows: tx.sweep_accounts(now, answers_since, SWEEP_ROWS_MAX)?
            + tx.sweep_introductions(introductions_since, SWEEP_ROWS_MAX)?
            + tx.prune_audits(audits_since, SWEEP_ROWS_MAX)?
            + tx.sweep_rates(now, SWEEP_ROWS_MAX)?
            + tx.sweep_welcomes(SWEEP_ROWS_MAX)?
            + tx.sweep_handshakes(handshakes_since, SWEEP_ROWS_MAX)?
            + tx.sweep_empty_groups(kept_since, SWEEP_ROWS_MAX)?
            + tx.sweep_blobs(
                ended_by(config.blobs.retention_seconds),
                (SWEEP_BLOB_PARTS_MAX, SWEEP_ROWS_MAX),
            )?,
    })
}
