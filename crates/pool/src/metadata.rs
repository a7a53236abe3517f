//! The table `keypackage_pool_metadata`. Whatever a row holds that was never written is an error, not a default.

use larder_lifecycle::{Lifetime, PoolState, UnixSeconds};
use openmls::prelude::{GroupId, KeyPackageRef};
use rusqlite::{Connection, Row, params};

use crate::column::{of_time, one, optional_time, select, time};
use crate::error::{Corrupt, StoreError};
use crate::generation::Generation;
use crate::key_package_ref::{from_column, to_column};

const COLUMNS: &str = "key_package_ref, status, generation, created_at, not_after, uploaded_at, \
                       reservation_expires_at, ended_at, spent_group_id, not_before, lost";

/// One KeyPackage of the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) key_package_ref: KeyPackageRef,
    pub(crate) state: PoolState,
    pub(crate) generation: Generation,
    pub(crate) created_at: UnixSeconds,
    pub(crate) lifetime: Lifetime,
    /// The last attempt to upload it.
    pub(crate) uploaded_at: Option<UnixSeconds>,
    pub(crate) reservation_expires_at: Option<UnixSeconds>,
    /// When it became terminal; exactly the terminal states have it.
    pub(crate) ended_at: Option<UnixSeconds>,
    pub(crate) spent_group_id: Option<GroupId>,
}

/// The integer of a state in the column `status`. Never reused for another state. A lost one has that of a reserved one, and
/// is marked in the column `lost`.
pub(crate) fn status_of(state: PoolState) -> i64 {
    match state {
        PoolState::Created => 1,
        PoolState::Available => 2,
        PoolState::Reserved | PoolState::Lost => 3,
        PoolState::Spent => 4,
        PoolState::Lapsed => 5,
        PoolState::Expired => 6,
        PoolState::Revoked => 7,
    }
}

fn state_of(status: i64, lost: bool) -> Result<PoolState, Corrupt> {
    match (status, lost) {
        (1, false) => Ok(PoolState::Created),
        (2, false) => Ok(PoolState::Available),
        (3, false) => Ok(PoolState::Reserved),
        (3, true) => Ok(PoolState::Lost),
        (4, false) => Ok(PoolState::Spent),
        (5, false) => Ok(PoolState::Lapsed),
        (6, false) => Ok(PoolState::Expired),
        (7, false) => Ok(PoolState::Revoked),
        (1..=7, true) => Err(Corrupt::End),
        (unknown, _) => Err(Corrupt::UnknownStatus(unknown)),
    }
}

/// Every row, oldest first.
pub(crate) fn all(connection: &Connection) -> Result<Vec<Metadata>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM keypackage_pool_metadata ORDER BY created_at, key_package_ref");
    select(connection, &sql, [], read)
}

/// The row of one KeyPackage, if there is one.
pub(crate) fn find(
    connection: &Connection,
    key_package_ref: &KeyPackageRef,
) -> Result<Option<Metadata>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM keypackage_pool_metadata WHERE key_package_ref = ?1");
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
            "INSERT INTO keypackage_pool_metadata
                 (key_package_ref, status, generation, created_at, not_before, not_after)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            to_column(key_package_ref)?,
            status_of(PoolState::Created),
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
    key_package_ref: &KeyPackageRef,
    at: UnixSeconds,
) -> Result<(), StoreError> {
    let mut statement = connection
        .prepare_cached("UPDATE keypackage_pool_metadata SET uploaded_at = ?2 WHERE key_package_ref = ?1")?;
    one(statement.execute(params![to_column(key_package_ref)?, of_time(at)])?)
}

/// Puts a row into the generation that it was found to be of.
pub(crate) fn set_generation(
    connection: &Connection,
    key_package_ref: &KeyPackageRef,
    generation: Generation,
) -> Result<(), StoreError> {
    let mut statement = connection
        .prepare_cached("UPDATE keypackage_pool_metadata SET generation = ?2 WHERE key_package_ref = ?1")?;
    one(statement.execute(params![to_column(key_package_ref)?, generation.0])?)
}

/// Notes what the directory told of the reservation.
pub(crate) fn set_reservation(
    connection: &Connection,
    key_package_ref: &KeyPackageRef,
    expires_at: Option<UnixSeconds>,
) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached(
        "UPDATE keypackage_pool_metadata SET reservation_expires_at = ?2 WHERE key_package_ref = ?1",
    )?;
    one(statement.execute(params![to_column(key_package_ref)?, expires_at.map(of_time)])?)
}

/// Moves a row to another state. Guarded by the state that was read: nothing is moved that has moved since.
pub(crate) fn set_state(
    connection: &Connection,
    row: &Metadata,
    next: PoolState,
    spent_group_id: Option<&GroupId>,
    now: UnixSeconds,
) -> Result<(), StoreError> {
    let ended_at = (!next.is_live()).then(|| of_time(now));
    let mut statement = connection.prepare_cached(
        "UPDATE keypackage_pool_metadata SET status = ?3, ended_at = ?4, spent_group_id = ?5, lost = ?7
         WHERE key_package_ref = ?1 AND status = ?2 AND lost = ?6",
    )?;
    one(statement.execute(params![
        to_column(&row.key_package_ref)?,
        status_of(row.state),
        status_of(next),
        ended_at,
        spent_group_id.map(GroupId::as_slice),
        row.state == PoolState::Lost,
        next == PoolState::Lost,
    ])?)
}

/// Forgets a terminal KeyPackage.
pub(crate) fn delete(connection: &Connection, key_package_ref: &KeyPackageRef) -> Result<(), StoreError> {
    let mut statement =
        connection.prepare_cached("DELETE FROM keypackage_pool_metadata WHERE key_package_ref = ?1")?;
    one(statement.execute([to_column(key_package_ref)?])?)
}

fn read(row: &Row<'_>) -> Result<Metadata, StoreError> {
    let key_package_ref: Vec<u8> = row.get(0)?;
    let metadata = Metadata {
        key_package_ref: from_column(&key_package_ref)?,
        state: state_of(row.get(1)?, row.get(10)?)?,
        generation: Generation(row.get(2)?),
        created_at: time(row, 3, "created_at")?,
        lifetime: Lifetime {
            not_before: time(row, 9, "not_before")?,
            not_after: time(row, 4, "not_after")?,
        },
        uploaded_at: optional_time(row, 5, "uploaded_at")?,
        reservation_expires_at: optional_time(row, 6, "reservation_expires_at")?,
        ended_at: optional_time(row, 7, "ended_at")?,
        spent_group_id: row
            .get::<_, Option<Vec<u8>>>(8)?
            .map(|id| GroupId::from_slice(&id)),
    };
    let spent = metadata.state == PoolState::Spent;
    if metadata.state.is_live() != metadata.ended_at.is_none() || spent != metadata.spent_group_id.is_some() {
        return Err(Corrupt::End.into());
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_its_own_integer_and_no_other_integer_is_a_state() {
        for state in PoolState::ALL {
            let lost = state == PoolState::Lost;
            assert_eq!(state_of(status_of(state), lost), Ok(state));
            let other = state_of(status_of(state), !lost);
            assert!(other != Ok(state), "{state:?} is read from two rows");
        }
        for status in [i64::MIN, -1, 0, 8, i64::MAX] {
            assert_eq!(state_of(status, false), Err(Corrupt::UnknownStatus(status)));
        }
    }
}
