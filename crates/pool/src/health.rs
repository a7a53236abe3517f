use larder_lifecycle::{Census, Level, Plan, PoolState, UnixSeconds, plan};

use crate::error::PoolError;
use crate::metadata::{self, Metadata};
use crate::pool::KeyPackagePool;
use crate::store::Tx;

/// How a pool is doing, from local facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolHealth {
    /// Confirmed by the directory, which can still hand them out.
    pub available: u32,
    /// Handed out: an invitation may be on its way.
    pub reserved: u32,
    /// Joined with, tombstones only (30 days).
    pub spent: u32,
    /// Handed out for nothing, tombstones only.
    pub lapsed: u32,
    /// Too old: those that are no longer handed out but whose private keys are kept, and tombstones.
    pub expired: u32,
    /// Withdrawn or refused, tombstones only.
    pub revoked: u32,
    /// Available, but not for much longer. A refresh replaces them.
    pub expiring_soon: u32,
    /// Minted, and not confirmed by the directory.
    pub unconfirmed: u32,
    /// The last attempt to upload.
    pub last_upload: Option<UnixSeconds>,
    /// The level, of what is available and not expiring soon.
    pub level: Level,
}

impl KeyPackagePool {
    /// What a refresh should do.
    ///
    /// # Errors
    /// [`PoolError::Store`].
    pub fn plan(&self, tx: &Tx<'_>, now: UnixSeconds) -> Result<Plan, PoolError> {
        let census = self.census(&metadata::all(tx.connection())?, now);
        Ok(plan(&self.policy, census))
    }

    /// KeyPackages that the directory has confirmed and can still hand out.
    ///
    /// # Errors
    /// [`PoolError::Store`].
    pub fn available(&self, tx: &Tx<'_>, now: UnixSeconds) -> Result<u32, PoolError> {
        Ok(self.health(tx, now)?.available)
    }

    /// Whether fewer than the low watermark can be counted on: confirmed, and not expiring soon.
    ///
    /// # Errors
    /// [`PoolError::Store`].
    pub fn needs_replenishing(&self, tx: &Tx<'_>, now: UnixSeconds) -> Result<bool, PoolError> {
        let census = self.census(&metadata::all(tx.connection())?, now);
        Ok(census.usable < self.policy.low_watermark())
    }

    /// How many to mint: up to the target, never beyond the hard cap.
    ///
    /// # Errors
    /// [`PoolError::Store`].
    pub fn how_many(&self, tx: &Tx<'_>, now: UnixSeconds) -> Result<u32, PoolError> {
        Ok(self.plan(tx, now)?.mint)
    }

    /// Counts the pool.
    ///
    /// # Errors
    /// [`PoolError::Store`].
    pub fn health(&self, tx: &Tx<'_>, now: UnixSeconds) -> Result<PoolHealth, PoolError> {
        let rows = metadata::all(tx.connection())?;
        let usable = self.census(&rows, now).usable;
        let mut health = PoolHealth {
            available: 0,
            reserved: 0,
            spent: 0,
            lapsed: 0,
            expired: 0,
            revoked: 0,
            expiring_soon: 0,
            unconfirmed: 0,
            last_upload: None,
            level: Level::of(usable, self.policy.low_watermark()),
        };
        for row in rows.iter().filter(|row| self.is_of_this_pool(row)) {
            health.last_upload = health.last_upload.max(row.uploaded_at);
            let count = match row.state {
                PoolState::Created => &mut health.unconfirmed,
                PoolState::Available if now < self.served_before(row) => &mut health.available,
                PoolState::Reserved => &mut health.reserved,
                PoolState::Spent => &mut health.spent,
                PoolState::Lapsed => &mut health.lapsed,
                PoolState::Available | PoolState::Expired => &mut health.expired,
                PoolState::Revoked => &mut health.revoked,
            };
            *count += 1;
        }
        // What counts is available, since it stops counting before it stops being handed out.
        health.expiring_soon = health.available.saturating_sub(usable);
        Ok(health)
    }

    pub(crate) fn census(&self, rows: &[Metadata], now: UnixSeconds) -> Census {
        let counted = |state| {
            let rows = rows.iter().filter(|row| {
                row.state == state && self.is_of_this_pool(row) && self.policy.counts_on(row.not_after, now)
            });
            metadata::count(rows.count())
        };
        Census {
            usable: counted(PoolState::Available),
            unconfirmed: counted(PoolState::Created),
            live: metadata::count(rows.iter().filter(|row| row.state.is_live()).count()),
        }
    }

    fn served_before(&self, row: &Metadata) -> UnixSeconds {
        row.not_after.minus(self.policy.serving_margin_seconds)
    }
}
