//! What all servers on a store know of the time.

use larder_lifecycle::{CLOCK_STEP_SECONDS_MAX, UnixSeconds};

use crate::error::Fault;
use crate::store::statement::params;
use crate::store::tx::Tx;

/// What was noted of the time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ClockRow {
    /// The last sweep, or an acceptance since; `None` before the first.
    pub(crate) last_sweep: Option<UnixSeconds>,
    /// The node that swept then; `None` when it is an acceptance.
    pub(crate) swept_by: Option<String>,
    /// How often an operator has accepted a clock.
    pub(crate) acceptances: u64,
    /// What the clock said that was accepted last.
    pub(crate) accepted_at: Option<UnixSeconds>,
}

impl ClockRow {
    /// By what time something has to have ended to be over `now`, that is kept for `seconds`. By a clock that was accepted all
    /// may be old at once, so it is kept that long from there.
    pub(crate) fn ended_by(accepted_at: Option<UnixSeconds>, now: UnixSeconds, seconds: u64) -> UnixSeconds {
        match accepted_at {
            Some(accepted_at) if now < accepted_at.plus(seconds) => UnixSeconds(0),
            Some(_) | None => now,
        }
    }
}

/// How long each of these lasts at most, in seconds.
pub(crate) struct Durations {
    pub(crate) session: u64,
    pub(crate) reservation: u64,
    pub(crate) blob: u64,
}

impl Tx<'_> {
    pub(crate) fn clock(&self) -> Result<ClockRow, Fault> {
        self.one_row(
            "SELECT last_sweep, swept_by, acceptances, accepted_at FROM clock WHERE id = 1",
            &[],
            |row| {
                Ok(ClockRow {
                    last_sweep: row.optional(0)?,
                    swept_by: row.optional(1)?,
                    acceptances: row.get(2)?,
                    accepted_at: row.optional(3)?,
                })
            },
        )
    }

    /// Notes a sweep; `false` when somebody has swept or accepted a clock since the row was read.
    pub(crate) fn note_sweep(&self, now: UnixSeconds, node: &str, known: &ClockRow) -> Result<bool, Fault> {
        let noted = self.execute(
            "UPDATE clock SET last_sweep = ?1, swept_by = ?2
             WHERE id = 1 AND acceptances = ?3 AND coalesce(last_sweep, 0) = ?4 AND coalesce(swept_by, '') = ?5",
            params![
                now,
                node,
                known.acceptances,
                known.last_sweep.unwrap_or(UnixSeconds(0)),
                known.swept_by.as_deref().unwrap_or_default()
            ],
        )?;
        Ok(noted == 1)
    }

    /// Notes that the operator takes this for the time.
    pub(crate) fn accept_clock(&self, now: UnixSeconds) -> Result<(), Fault> {
        self.queue(
            "UPDATE clock SET last_sweep = ?1, swept_by = NULL, acceptances = acceptances + 1, accepted_at = ?1
             WHERE id = 1",
            params![now],
        )
    }

    /// Gives what was stored by a clock that was far ahead the time that it would have `now`, at most `limit` of each: else it
    /// would last until that clock is caught up with.
    pub(crate) fn bring_back_to(
        &self,
        now: UnixSeconds,
        durations: &Durations,
        limit: u32,
    ) -> Result<(), Fault> {
        let from_now = |sql: &str, seconds: u64| {
            let latest = now.plus(seconds);
            self.execute(sql, params![latest, limit, latest.plus(CLOCK_STEP_SECONDS_MAX)])
        };
        from_now(
            "UPDATE log SET accepted_at = ?1 WHERE (group_id, seq) IN (
                 SELECT group_id, seq FROM log WHERE accepted_at > ?3 AND kind <= 1 AND gone IS NULL LIMIT ?2
             )",
            0,
        )?;
        from_now(
            "UPDATE groups SET empty_since = ?1 WHERE id IN (
                 SELECT id FROM groups WHERE empty_since > ?3 LIMIT ?2
             )",
            0,
        )?;
        from_now(
            "UPDATE idempotent_answers SET created_at = ?1 WHERE (user_id, device_id, idempotency_key) IN (
                 SELECT user_id, device_id, idempotency_key FROM idempotent_answers WHERE created_at > ?3 LIMIT ?2
             )",
            0,
        )?;
        from_now(
            "UPDATE introductions SET created_at = ?1 WHERE (user_id, device_id) IN (
                 SELECT user_id, device_id FROM introductions WHERE created_at > ?3 LIMIT ?2
             )",
            0,
        )?;
        let sessions = from_now(
            "UPDATE sessions SET expires_at = ?1 WHERE (user_id, hash) IN (
                 SELECT user_id, hash FROM sessions WHERE expires_at > ?3 LIMIT ?2
             )",
            durations.session,
        )?;
        if sessions > 0 {
            self.count_ended_sessions()?;
        }
        from_now(
            "UPDATE reservations SET reserved_until = ?1 WHERE state = 0 AND (user_id, device_id, ref, id) IN (
                 SELECT user_id, device_id, ref, id FROM reservations WHERE state = 0 AND reserved_until > ?3 LIMIT ?2
             )",
            durations.reservation,
        )?;
        from_now(
            "UPDATE blobs SET expires_at = ?1 WHERE (user_id, id) IN (
                 SELECT user_id, id FROM blobs WHERE expires_at > ?3 LIMIT ?2
             )",
            durations.blob,
        )?;
        Ok(())
    }
}
