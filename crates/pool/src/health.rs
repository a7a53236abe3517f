use larder_lifecycle::{Census, Kind, Level, Plan, PoolState, UnixSeconds, Worth, plan};

use crate::column::count;
use crate::error::PoolError;
use crate::generation::{self, Generation};
use crate::losses::Losses;
use crate::metadata::{self, Metadata, in_stock};
use crate::pool::KeyPackagePool;
use crate::quarantine;
use crate::store::Tx;

/// How a pool is doing, from local facts. It counts single-use KeyPackages of the present generation, unless a field
/// says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolHealth {
    /// Named by the directory as available, as far as it was heard last, and such that it can be handed out and added now.
    pub available: u32,
    /// Handed out: an invitation may be on its way.
    pub reserved: u32,
    /// Joined with, tombstones only (30 days).
    pub spent: u32,
    /// Handed out for nothing, tombstones only.
    pub lapsed: u32,
    /// Held by the directory once, and not named in its last inventory: nobody is given them. A refresh replaces them, once
    /// a day. Their private keys are kept for invitations that may be under way.
    pub lost: u32,
    /// Named by the directory as available, but valid only later: they were minted by a clock that was ahead. A refresh
    /// replaces and withdraws them.
    pub not_yet_valid: u32,
    /// Too old: those that are no longer handed out but whose private keys are kept, and tombstones.
    pub expired: u32,
    /// Withdrawn or refused, tombstones only.
    pub revoked: u32,
    /// Available, but not for much longer. A refresh replaces them.
    pub expiring_soon: u32,
    /// Minted, and not confirmed by the directory.
    pub unconfirmed: u32,
    /// KeyPackages of older generations of this ciphersuite whose private keys are still kept, for invitations that may
    /// be under way.
    pub outdated: u32,
    /// The last resort that the directory has confirmed and that can be handed out and added now; it is never among the
    /// available.
    pub last_resort: Option<LastResortHealth>,
    /// Welcomes that failed, for whatever KeyPackage.
    pub quarantined: u32,
    /// The last attempt to upload.
    pub last_upload: Option<UnixSeconds>,
    /// The level, of what is available and not expiring soon.
    pub level: Level,
    /// What would do the pool good.
    pub next_action: NextAction,
}

/// What would do a pool good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NextAction {
    /// Nothing: it is full and its last resort is fresh.
    None,
    /// A refresh: something is to be minted, uploaded or replaced.
    Refresh,
    /// Nothing can be done now: it is not full, and the hard cap leaves no room, so that what was handed out has to be joined
    /// with, or to lapse, first; or the directory lost some a second time within a day.
    Wait,
}

impl NextAction {
    /// A word for programs: `none`, `refresh` or `wait`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Refresh => "refresh",
            Self::Wait => "wait",
        }
    }
}

/// How the last resort is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastResortHealth {
    /// Whether it was handed out, as far as is known here. A refresh replaces it.
    pub used: bool,
    /// When it was minted. A refresh replaces it after 30 days.
    pub created_at: UnixSeconds,
    /// The end of its lifetime.
    pub not_after: UnixSeconds,
}

impl KeyPackagePool {
    /// What a refresh should do.
    ///
    /// # Errors
    /// [`PoolError::Store`].
    pub fn plan(&self, tx: &Tx<'_>, now: UnixSeconds) -> Result<Plan, PoolError> {
        Ok(plan(&self.policy, self.census_of(tx, now)?))
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
        Ok(self.census_of(tx, now)?.usable < self.policy.low_watermark())
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
        let current = self.generation(tx)?;
        let others = generation::of_suite(tx.connection(), self.ciphersuite)?;
        let rows = metadata::of_kind(tx.connection(), Kind::SingleUse)?;
        let census = self.census(&rows, current, Losses::of(tx.connection(), current)?, now);
        let usable = census.usable;
        let next_action = if plan(&self.policy, census).mint > 0
            || census.unconfirmed > 0
            || !self.outdated(tx, now)?.is_empty()
            || self.last_resort_due(tx, now)?
        {
            NextAction::Refresh
        } else if usable < self.policy.target() {
            NextAction::Wait
        } else {
            NextAction::None
        };
        let mut health = PoolHealth {
            available: 0,
            reserved: 0,
            spent: 0,
            lapsed: 0,
            lost: 0,
            not_yet_valid: 0,
            expired: 0,
            revoked: 0,
            expiring_soon: 0,
            unconfirmed: 0,
            outdated: 0,
            last_resort: None,
            quarantined: quarantine::size(tx.connection())?,
            last_upload: None,
            level: Level::of(usable, self.policy.low_watermark()),
            next_action,
        };
        for row in metadata::all(tx.connection())? {
            if Some(row.generation) == current {
                self.count(&mut health, &row, now);
            } else if row.kind == Kind::SingleUse && others.contains(&row.generation) {
                health.outdated += u32::from(row.state.is_in_stock());
            }
        }
        // What counts is available, since it stops counting before it stops being handed out.
        health.expiring_soon = health.available.saturating_sub(usable);
        Ok(health)
    }

    /// Counts one of this generation.
    fn count(&self, health: &mut PoolHealth, row: &Metadata, now: UnixSeconds) {
        health.last_upload = health.last_upload.max(row.uploaded_at);
        let worth = self.policy.worth(row.lifetime, now);
        if row.kind == Kind::LastResort {
            // The newest comes last.
            if row.state == PoolState::Available && worth.is_available() {
                health.last_resort = Some(LastResortHealth {
                    used: row.used_at.is_some(),
                    created_at: row.created_at,
                    not_after: row.lifetime.not_after,
                });
            }
            return;
        }
        let count = match row.state {
            PoolState::Created => &mut health.unconfirmed,
            PoolState::Available => match worth {
                Worth::Good | Worth::ExpiringSoon => &mut health.available,
                Worth::NotYet => &mut health.not_yet_valid,
                Worth::Over => &mut health.expired,
            },
            PoolState::Reserved => &mut health.reserved,
            PoolState::Lost => &mut health.lost,
            PoolState::Spent => &mut health.spent,
            PoolState::Lapsed => &mut health.lapsed,
            PoolState::Expired => &mut health.expired,
            PoolState::Revoked => &mut health.revoked,
            // A last resort's alone.
            PoolState::Retiring { .. } | PoolState::Gone => return,
        };
        *count += 1;
    }

    fn census_of(&self, tx: &Tx<'_>, now: UnixSeconds) -> Result<Census, PoolError> {
        let (connection, current) = (tx.connection(), self.generation(tx)?);
        let losses = Losses::of(connection, current)?;
        let rows = metadata::of_kind(connection, Kind::SingleUse)?;
        Ok(self.census(&rows, current, losses, now))
    }

    /// Counts single-use ones of this generation; live are those of every generation and suite, as the hard cap counts them.
    pub(crate) fn census(
        &self,
        rows: &[Metadata],
        current: Option<Generation>,
        losses: Losses,
        now: UnixSeconds,
    ) -> Census {
        let counted = |state| {
            let rows = rows.iter().filter(|row| {
                row.state == state
                    && Some(row.generation) == current
                    && self.policy.worth(row.lifetime, now) == Worth::Good
            });
            count(rows.count())
        };
        Census {
            usable: counted(PoolState::Available),
            unconfirmed: counted(PoolState::Created),
            live: in_stock(rows),
            withheld: losses.withheld(now),
        }
    }
}
