//! The table `keypackage_pool_last_resort_joins`: what was joined with last resorts whose private keys are kept.

use larder_lifecycle::UnixSeconds;
use openmls::prelude::{GroupId, KeyPackageRef};
use rusqlite::{Connection, Row, params};

use crate::column::{of_time, one, select, time};
use crate::error::StoreError;
use crate::key_package_ref::to_column;

/// The latest epoch of a Welcome to this group that was joined with this last resort, and when.
pub(crate) fn latest(
    connection: &Connection,
    key_package_ref: &KeyPackageRef,
    group_id: &GroupId,
) -> Result<Option<(u64, UnixSeconds)>, StoreError> {
    let sql = "SELECT epoch, joined_at FROM keypackage_pool_last_resort_joins
               WHERE key_package_ref = ?1 AND group_id = ?2";
    let params = params![to_column(key_package_ref)?, group_id.as_slice()];
    let read = |row: &Row<'_>| {
        Ok((
            row.get::<_, i64>("epoch")?.cast_unsigned(),
            time(row, "joined_at")?,
        ))
    };
    Ok(select(connection, sql, params, read)?.pop())
}

/// Notes that this group was joined with this last resort by a Welcome of this epoch.
pub(crate) fn note(
    connection: &Connection,
    key_package_ref: &KeyPackageRef,
    group_id: &GroupId,
    epoch: u64,
    at: UnixSeconds,
) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO keypackage_pool_last_resort_joins (key_package_ref, group_id, epoch, joined_at)
         VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (key_package_ref, group_id)
         DO UPDATE SET epoch = excluded.epoch, joined_at = excluded.joined_at",
    )?;
    one(statement.execute(params![
        to_column(key_package_ref)?,
        group_id.as_slice(),
        epoch.cast_signed(),
        of_time(at)
    ])?)
}

/// Nothing can be joined with this last resort any more.
pub(crate) fn forget(connection: &Connection, key_package_ref: &KeyPackageRef) -> Result<(), StoreError> {
    connection
        .prepare_cached("DELETE FROM keypackage_pool_last_resort_joins WHERE key_package_ref = ?1")?
        .execute([to_column(key_package_ref)?])?;
    Ok(())
}
