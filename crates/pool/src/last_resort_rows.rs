//! The table `keypackage_pool_last_resorts`. Whatever a row holds that was never written is an error, not a default.

use larder_lifecycle::{Lifetime, OwnLastResort, UnixSeconds};
use openmls::prelude::{GroupId, KeyPackageRef};
use rusqlite::{Connection, Row, params};

use crate::column::{of_time, one, optional_time, select, time};
use crate::error::{Corrupt, StoreError};
use crate::generation::Generation;
use crate::key_package_ref::{from_column, to_column};

const COLUMNS: &str = "sequence, key_package_ref, status, generation, created_at, not_after, uploaded_at, used_at, \
                       retires_at, ended_at, not_before, lost";

/// One last resort of the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LastResort {
    /// The order in which they were minted.
    pub(crate) sequence: i64,
    pub(crate) key_package_ref: KeyPackageRef,
    pub(crate) state: OwnLastResort,
    pub(crate) generation: Generation,
    pub(crate) created_at: UnixSeconds,
    pub(crate) lifetime: Lifetime,
    /// The last attempt to upload it.
    pub(crate) uploaded_at: Option<UnixSeconds>,
    /// The first use that is known here: a Welcome joined with it, or the directory's word.
    pub(crate) used_at: Option<UnixSeconds>,
    /// When it was erased; exactly the erased ones have it.
    pub(crate) ended_at: Option<UnixSeconds>,
}

/// The integer of a state in the column `status`. Never reused for another state, nor for one of
/// `keypackage_pool_metadata`. A lost one has that of one that retires at its end, and is marked in the column `lost`.
fn status_of(state: OwnLastResort) -> i64 {
    match state {
        OwnLastResort::Created => 8,
        OwnLastResort::Active => 9,
        OwnLastResort::Retiring { .. } | OwnLastResort::Lost => 10,
        OwnLastResort::Erased => 11,
    }
}

fn state_of(status: i64, retires_at: Option<UnixSeconds>, lost: bool) -> Result<OwnLastResort, Corrupt> {
    match (status, retires_at, lost) {
        (8, None, false) => Ok(OwnLastResort::Created),
        (9, None, false) => Ok(OwnLastResort::Active),
        (10, Some(until), false) => Ok(OwnLastResort::Retiring { until }),
        (10, Some(_), true) => Ok(OwnLastResort::Lost),
        (11, None, false) => Ok(OwnLastResort::Erased),
        (8..=11, _, _) => Err(Corrupt::End),
        (unknown, _, _) => Err(Corrupt::UnknownStatus(unknown)),
    }
}

/// Every row, oldest first.
pub(crate) fn all(connection: &Connection) -> Result<Vec<LastResort>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM keypackage_pool_last_resorts ORDER BY sequence");
    select(connection, &sql, [], read)
}

/// The row of one last resort, if there is one.
pub(crate) fn find(
    connection: &Connection,
    key_package_ref: &KeyPackageRef,
) -> Result<Option<LastResort>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM keypackage_pool_last_resorts WHERE key_package_ref = ?1");
    Ok(select(connection, &sql, [to_column(key_package_ref)?], read)?.pop())
}

/// A new row in the state `created`.
pub(crate) fn insert(
    connection: &Connection,
    key_package_ref: &KeyPackageRef,
    generation: Generation,
    created_at: UnixSeconds,
    lifetime: Lifetime,
) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO keypackage_pool_last_resorts
                 (key_package_ref, status, generation, created_at, not_before, not_after)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            to_column(key_package_ref)?,
            status_of(OwnLastResort::Created),
            generation.0,
            of_time(created_at),
            of_time(lifetime.not_before),
            of_time(lifetime.not_after),
        ])?;
    Ok(())
}

/// Notes an attempt to upload.
pub(crate) fn set_uploaded(
    connection: &Connection,
    row: &LastResort,
    at: UnixSeconds,
) -> Result<(), StoreError> {
    let mut statement = connection
        .prepare_cached("UPDATE keypackage_pool_last_resorts SET uploaded_at = ?2 WHERE sequence = ?1")?;
    one(statement.execute(params![row.sequence, of_time(at)])?)
}

/// Notes a use. The first one counts.
pub(crate) fn set_used(connection: &Connection, row: &LastResort, at: UnixSeconds) -> Result<(), StoreError> {
    if row.used_at.is_some() {
        return Ok(());
    }
    let mut statement = connection
        .prepare_cached("UPDATE keypackage_pool_last_resorts SET used_at = ?2 WHERE sequence = ?1")?;
    one(statement.execute(params![row.sequence, of_time(at)])?)
}

/// The latest epoch of a Welcome to this group that was joined with this last resort, and when.
pub(crate) fn joined(
    connection: &Connection,
    row: &LastResort,
    group_id: &GroupId,
) -> Result<Option<(u64, UnixSeconds)>, StoreError> {
    let sql = "SELECT epoch, joined_at FROM keypackage_pool_last_resort_joins WHERE sequence = ?1 AND group_id = ?2";
    let params = params![row.sequence, group_id.as_slice()];
    let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?.cast_unsigned(), time(row, 1, "joined_at")?));
    Ok(select(connection, sql, params, read)?.pop())
}

/// Notes that this group was joined with this last resort by a Welcome of this epoch.
pub(crate) fn set_joined(
    connection: &Connection,
    row: &LastResort,
    group_id: &GroupId,
    epoch: u64,
    at: UnixSeconds,
) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO keypackage_pool_last_resort_joins (sequence, group_id, epoch, joined_at) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (sequence, group_id) DO UPDATE SET epoch = excluded.epoch, joined_at = excluded.joined_at",
    )?;
    one(statement.execute(params![
        row.sequence,
        group_id.as_slice(),
        epoch.cast_signed(),
        of_time(at)
    ])?)
}

/// Nothing can be joined with this last resort any more.
pub(crate) fn forget_joins(connection: &Connection, row: &LastResort) -> Result<(), StoreError> {
    connection
        .prepare_cached("DELETE FROM keypackage_pool_last_resort_joins WHERE sequence = ?1")?
        .execute([row.sequence])?;
    Ok(())
}

/// Moves a row to another state. Guarded by the state that was read: nothing is moved that has moved since.
pub(crate) fn set_state(
    connection: &Connection,
    row: &LastResort,
    next: OwnLastResort,
    now: UnixSeconds,
) -> Result<(), StoreError> {
    let retires_at = match next {
        OwnLastResort::Retiring { until } => Some(of_time(until)),
        OwnLastResort::Lost => Some(of_time(row.lifetime.not_after)),
        OwnLastResort::Created | OwnLastResort::Active | OwnLastResort::Erased => None,
    };
    let ended_at = (!next.is_live()).then(|| of_time(now));
    let mut statement = connection.prepare_cached(
        "UPDATE keypackage_pool_last_resorts SET status = ?3, retires_at = ?4, ended_at = ?5, lost = ?7
         WHERE sequence = ?1 AND status = ?2 AND lost = ?6",
    )?;
    one(statement.execute(params![
        row.sequence,
        status_of(row.state),
        status_of(next),
        retires_at,
        ended_at,
        row.state == OwnLastResort::Lost,
        next == OwnLastResort::Lost,
    ])?)
}

/// Forgets an erased last resort.
pub(crate) fn delete(connection: &Connection, row: &LastResort) -> Result<(), StoreError> {
    let mut statement =
        connection.prepare_cached("DELETE FROM keypackage_pool_last_resorts WHERE sequence = ?1")?;
    one(statement.execute([row.sequence])?)
}

fn read(row: &Row<'_>) -> Result<LastResort, StoreError> {
    let key_package_ref: Vec<u8> = row.get(1)?;
    let retires_at = optional_time(row, 8, "retires_at")?;
    let last_resort = LastResort {
        sequence: row.get(0)?,
        key_package_ref: from_column(&key_package_ref)?,
        state: state_of(row.get(2)?, retires_at, row.get(11)?)?,
        generation: Generation(row.get(3)?),
        created_at: time(row, 4, "created_at")?,
        lifetime: Lifetime {
            not_before: time(row, 10, "not_before")?,
            not_after: time(row, 5, "not_after")?,
        },
        uploaded_at: optional_time(row, 6, "uploaded_at")?,
        used_at: optional_time(row, 7, "used_at")?,
        ended_at: optional_time(row, 9, "ended_at")?,
    };
    if last_resort.state.is_live() != last_resort.ended_at.is_none() {
        return Err(Corrupt::End.into());
    }
    Ok(last_resort)
}

#[cfg(test)]
mod tests {
    use larder_lifecycle::PoolState;

    use super::*;

    #[test]
    fn every_state_has_its_own_integer_and_no_other_integer_is_a_state() {
        let until = UnixSeconds(7);
        for (state, retires_at) in [
            (OwnLastResort::Created, None),
            (OwnLastResort::Active, None),
            (OwnLastResort::Retiring { until }, Some(until)),
            (OwnLastResort::Erased, None),
        ] {
            let status = status_of(state);
            assert_eq!(state_of(status, retires_at, false), Ok(state));
            let other = retires_at.xor(Some(until));
            assert_eq!(state_of(status, other, false), Err(Corrupt::End));
            assert_ne!(state_of(status, retires_at, true), Ok(state));
            assert!(
                PoolState::ALL
                    .iter()
                    .all(|&state| crate::metadata::status_of(state) != status)
            );
        }
        assert_eq!(state_of(10, Some(until), true), Ok(OwnLastResort::Lost));
        assert_eq!(status_of(OwnLastResort::Lost), 10);
        for status in [i64::MIN, -1, 0, 1, 7, 12, i64::MAX] {
            assert_eq!(state_of(status, None, false), Err(Corrupt::UnknownStatus(status)));
        }
    }
}
