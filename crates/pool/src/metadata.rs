//! The table `keypackage_pool_metadata`. Whatever a row holds that was never written is an error, not a default.

use larder_lifecycle::{Kind, Lifetime, PoolState, UnixSeconds};
use openmls::prelude::{GroupId, KeyPackageRef};
use rusqlite::{Connection, Row, params};

use crate::column::{count, of_time, one, optional_time, select, time};
use crate::error::{Corrupt, StoreError};
use crate::generation::Generation;
use crate::key_package_ref::{from_column, to_column};

const COLUMNS: &str = "key_package_ref, kind, status, generation, created_at, not_before, not_after, uploaded_at, \
                       reservation_expires_at, used_at, retires_at, ended_at, spent_group_id";
/// The last resorts as they were minted, and then the others, oldest first.
const ORDER: &str = "kind DESC, sequence, created_at, key_package_ref";

/// One KeyPackage of the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) key_package_ref: KeyPackageRef,
    pub(crate) kind: Kind,
    pub(crate) state: PoolState,
    pub(crate) generation: Generation,
    pub(crate) created_at: UnixSeconds,
    pub(crate) lifetime: Lifetime,
    /// The last attempt to upload it.
    pub(crate) uploaded_at: Option<UnixSeconds>,
    /// What the directory told of the reservation of a single-use one.
    pub(crate) reservation_expires_at: Option<UnixSeconds>,
    /// The first use of a last resort that is known here: a Welcome joined with it, or the directory's word.
    pub(crate) used_at: Option<UnixSeconds>,
    /// When it became terminal; exactly the terminal states have it.
    pub(crate) ended_at: Option<UnixSeconds>,
    /// The group that was joined with it; exactly the spent ones have it.
    pub(crate) spent_group_id: Option<GroupId>,
}

impl Metadata {
    /// One that was just minted.
    pub(crate) fn created(
        key_package_ref: KeyPackageRef,
        kind: Kind,
        generation: Generation,
        created_at: UnixSeconds,
        lifetime: Lifetime,
    ) -> Self {
        Self {
            key_package_ref,
            kind,
            state: PoolState::Created,
            generation,
            created_at,
            lifetime,
            uploaded_at: None,
            reservation_expires_at: None,
            used_at: None,
            ended_at: None,
            spent_group_id: None,
        }
    }
}

/// The integer of a kind in the column `kind`.
fn integer_of(kind: Kind) -> i64 {
    match kind {
        Kind::SingleUse => 0,
        Kind::LastResort => 1,
    }
}

fn kind_of(integer: i64) -> Result<Kind, Corrupt> {
    match integer {
        0 => Ok(Kind::SingleUse),
        1 => Ok(Kind::LastResort),
        unknown => Err(Corrupt::UnknownKind(unknown)),
    }
}

/// The integer of a state in the column `status`, and the time in `retires_at`. Those of the live states come first.
fn columns_of(state: PoolState) -> (i64, Option<i64>) {
    match state {
        PoolState::Created => (1, None),
        PoolState::Available => (2, None),
        PoolState::Reserved => (3, None),
        PoolState::Retiring { until } => (4, Some(of_time(until))),
        PoolState::Lost => (5, None),
        PoolState::Spent => (6, None),
        PoolState::Lapsed => (7, None),
        PoolState::Expired => (8, None),
        PoolState::Revoked => (9, None),
        PoolState::Gone => (10, None),
    }
}

fn state_of(kind: Kind, status: i64, retires_at: Option<UnixSeconds>) -> Result<PoolState, Corrupt> {
    let state = match (status, retires_at) {
        (1, None) => PoolState::Created,
        (2, None) => PoolState::Available,
        (3, None) => PoolState::Reserved,
        (4, Some(until)) => PoolState::Retiring { until },
        (5, None) => PoolState::Lost,
        (6, None) => PoolState::Spent,
        (7, None) => PoolState::Lapsed,
        (8, None) => PoolState::Expired,
        (9, None) => PoolState::Revoked,
        (10, None) => PoolState::Gone,
        (1..=10, _) => return Err(Corrupt::End),
        (unknown, _) => return Err(Corrupt::UnknownStatus(unknown)),
    };
    match can_be(kind, state) {
        true => Ok(state),
        false => Err(Corrupt::Kind),
    }
}

fn can_be(kind: Kind, state: PoolState) -> bool {
    match state {
        PoolState::Created
        | PoolState::Available
        | PoolState::Lost
        | PoolState::Lapsed
        | PoolState::Expired
        | PoolState::Revoked => true,
        PoolState::Reserved | PoolState::Spent => kind == Kind::SingleUse,
        PoolState::Retiring { .. } | PoolState::Gone => kind == Kind::LastResort,
    }
}

/// Every row: the last resorts in the order in which they were minted, and then the others, oldest first.
pub(crate) fn all(connection: &Connection) -> Result<Vec<Metadata>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM keypackage_pool_metadata ORDER BY {ORDER}");
    select(connection, &sql, [], read)
}

/// Every row of one kind, oldest first.
pub(crate) fn of_kind(connection: &Connection, kind: Kind) -> Result<Vec<Metadata>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM keypackage_pool_metadata WHERE kind = ?1 ORDER BY {ORDER}");
    select(connection, &sql, [integer_of(kind)], read)
}

/// How many of them count against a hard cap.
pub(crate) fn in_stock(rows: &[Metadata]) -> u32 {
    count(rows.iter().filter(|row| row.state.is_in_stock()).count())
}

/// The row of one KeyPackage, if there is one.
pub(crate) fn find(
    connection: &Connection,
    key_package_ref: &KeyPackageRef,
) -> Result<Option<Metadata>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM keypackage_pool_metadata WHERE key_package_ref = ?1");
    Ok(select(connection, &sql, [to_column(key_package_ref)?], read)?.pop())
}

/// A new row. A last resort is newer than all that are there.
pub(crate) fn insert(connection: &Connection, row: &Metadata) -> Result<(), StoreError> {
    let (status, retires_at) = columns_of(row.state);
    let mut statement = connection.prepare_cached(
        "INSERT INTO keypackage_pool_metadata
             (key_package_ref, kind, status, generation, created_at, not_before, not_after, uploaded_at,
              reservation_expires_at, used_at, retires_at, ended_at, spent_group_id, sequence)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13,
                 CASE ?2 WHEN 1 THEN (SELECT ifnull(max(sequence), 0) + 1 FROM keypackage_pool_metadata) END)",
    )?;
    one(statement.execute(params![
        to_column(&row.key_package_ref)?,
        integer_of(row.kind),
        status,
        row.generation.0,
        of_time(row.created_at),
        of_time(row.lifetime.not_before),
        of_time(row.lifetime.not_after),
        row.uploaded_at.map(of_time),
        row.reservation_expires_at.map(of_time),
        row.used_at.map(of_time),
        retires_at,
        row.ended_at.map(of_time),
        row.spent_group_id.as_ref().map(GroupId::as_slice),
    ])?)
}

/// Writes whatever changes in the life of a KeyPackage, its state included. Nothing else does.
///
/// `row` is the row as it was read. One that has changed since fails and stays as it is.
pub(crate) fn write_state(
    connection: &Connection,
    row: &Metadata,
    next: &Metadata,
) -> Result<(), StoreError> {
    let (status, retires_at) = columns_of(next.state);
    let (read_status, read_retires_at) = columns_of(row.state);
    let mut statement = connection.prepare_cached(
        "UPDATE keypackage_pool_metadata
         SET (status, generation, uploaded_at, reservation_expires_at, used_at, retires_at, ended_at, spent_group_id)
             = (?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         WHERE key_package_ref = ?1
           AND (status, generation, uploaded_at, reservation_expires_at, used_at, retires_at, ended_at, spent_group_id)
               IS (?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
    )?;
    one(statement.execute(params![
        to_column(&row.key_package_ref)?,
        status,
        next.generation.0,
        next.uploaded_at.map(of_time),
        next.reservation_expires_at.map(of_time),
        next.used_at.map(of_time),
        retires_at,
        next.ended_at.map(of_time),
        next.spent_group_id.as_ref().map(GroupId::as_slice),
        read_status,
        row.generation.0,
        row.uploaded_at.map(of_time),
        row.reservation_expires_at.map(of_time),
        row.used_at.map(of_time),
        read_retires_at,
        row.ended_at.map(of_time),
        row.spent_group_id.as_ref().map(GroupId::as_slice),
    ])?)
}

/// Forgets a terminal KeyPackage.
pub(crate) fn delete(connection: &Connection, row: &Metadata) -> Result<(), StoreError> {
    let mut statement =
        connection.prepare_cached("DELETE FROM keypackage_pool_metadata WHERE key_package_ref = ?1")?;
    one(statement.execute([to_column(&row.key_package_ref)?])?)
}

fn read(row: &Row<'_>) -> Result<Metadata, StoreError> {
    let key_package_ref: Vec<u8> = row.get("key_package_ref")?;
    let kind = kind_of(row.get("kind")?)?;
    let retires_at = optional_time(row, "retires_at")?;
    let metadata = Metadata {
        key_package_ref: from_column(&key_package_ref)?,
        kind,
        state: state_of(kind, row.get("status")?, retires_at)?,
        generation: Generation(row.get("generation")?),
        created_at: time(row, "created_at")?,
        lifetime: Lifetime {
            not_before: time(row, "not_before")?,
            not_after: time(row, "not_after")?,
        },
        uploaded_at: optional_time(row, "uploaded_at")?,
        reservation_expires_at: optional_time(row, "reservation_expires_at")?,
        used_at: optional_time(row, "used_at")?,
        ended_at: optional_time(row, "ended_at")?,
        spent_group_id: row
            .get::<_, Option<Vec<u8>>>("spent_group_id")?
            .map(|id| GroupId::from_slice(&id)),
    };
    let spent = metadata.state == PoolState::Spent;
    if metadata.state.is_live() != metadata.ended_at.is_none() || spent != metadata.spent_group_id.is_some() {
        return Err(Corrupt::End.into());
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests;
