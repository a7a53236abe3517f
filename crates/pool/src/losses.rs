//! What the directory held and does not name any more: how much of it is still to be replaced, and how many private keys
//! of it are kept.

use larder_lifecycle::{Kind, POOL_LOST_MAX, PoolEvent, PoolPolicy, PoolState, UnixSeconds};
use rusqlite::{Connection, params};

use crate::column::{of_time, one, optional_time, select};
use crate::error::{PoolError, StoreError};
use crate::generation::Generation;
use crate::metadata::{self, Metadata};
use crate::store::Tx;
use crate::transition::{Tally, apply};

/// What a generation has lost and not replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Losses {
    key_packages: u32,
    last_resorts: u32,
    replaced_at: Option<UnixSeconds>,
}

impl Losses {
    /// Of this generation.
    pub(crate) fn of(connection: &Connection, generation: Option<Generation>) -> Result<Self, StoreError> {
        let Some(generation) = generation else {
            return Ok(Self::default());
        };
        let sql = "SELECT owed, last_resorts_owed, replaced_at FROM keypackage_pool_generations WHERE generation = ?1";
        let found = select(connection, sql, [generation.0], |row| {
            Ok(Self {
                key_packages: row.get("owed")?,
                last_resorts: row.get("last_resorts_owed")?,
                replaced_at: optional_time(row, "replaced_at")?,
            })
        })?;
        Ok(found.into_iter().next().unwrap_or_default())
    }

    /// KeyPackages that are missing because they were lost, and are not to be replaced yet.
    pub(crate) fn withheld(&self, now: UnixSeconds) -> u32 {
        match PoolPolicy::may_replace_lost(self.replaced_at, now) {
            true => 0,
            false => self.key_packages,
        }
    }

    /// Whether a last resort is missing because it was lost, and is not to be replaced yet.
    pub(crate) fn withholds_last_resort(&self, now: UnixSeconds) -> bool {
        self.last_resorts > 0 && !PoolPolicy::may_replace_lost(self.replaced_at, now)
    }
}

/// Notes that the directory does not name this KeyPackage any more. What was handed out was replaced by then.
pub(crate) fn note(connection: &Connection, row: &Metadata) -> Result<(), StoreError> {
    let owed = u32::from(row.state == PoolState::Available);
    let (key_packages, last_resorts) = match row.kind {
        Kind::SingleUse => (owed, 0),
        Kind::LastResort => (0, owed),
    };
    let mut statement = connection.prepare_cached(
        "UPDATE keypackage_pool_generations SET owed = owed + ?2, last_resorts_owed = last_resorts_owed + ?3
         WHERE generation = ?1",
    )?;
    one(statement.execute(params![row.generation.0, key_packages, last_resorts])?)
}

/// Something of this generation is minted now. If what was lost may be replaced, this is its replacement, and the next one
/// waits for a day.
pub(crate) fn settle(
    connection: &Connection,
    generation: Generation,
    now: UnixSeconds,
) -> Result<(), StoreError> {
    let losses = Losses::of(connection, Some(generation))?;
    let owed = losses.key_packages > 0 || losses.last_resorts > 0;
    if owed && PoolPolicy::may_replace_lost(losses.replaced_at, now) {
        let mut statement = connection.prepare_cached(
            "UPDATE keypackage_pool_generations SET owed = 0, last_resorts_owed = 0, replaced_at = ?2
             WHERE generation = ?1",
        )?;
        one(statement.execute(params![generation.0, of_time(now)])?)?;
    }
    Ok(())
}

/// Erases the oldest lost ones beyond [`POOL_LOST_MAX`], of every ciphersuite and of both kinds together.
pub(crate) fn hold_to_cap(tx: &Tx<'_>, now: UnixSeconds, tally: &mut Tally) -> Result<(), PoolError> {
    let mut lost = metadata::all(tx.connection())?;
    lost.retain(|row| row.state == PoolState::Lost);
    lost.sort_by_key(|row| (row.created_at, row.kind));
    let most = usize::try_from(POOL_LOST_MAX).unwrap_or(usize::MAX);
    let beyond = lost.len().saturating_sub(most);
    for row in lost.iter().take(beyond) {
        tally.note(apply(tx, row, PoolEvent::Revoke, now)?);
    }
    Ok(())
}
