//! How rows are read, and how times and counts stand in columns. Whatever a column holds that was never written is an error, not a default.

use larder_lifecycle::UnixSeconds;
use rusqlite::types::Type;
use rusqlite::{Connection, Params, Row};

use crate::error::{Corrupt, StoreError};

/// SQLite's integers are signed. Times saturate, as all arithmetic on them does.
pub(crate) fn of_time(time: UnixSeconds) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

pub(crate) fn time(row: &Row<'_>, name: &'static str) -> Result<UnixSeconds, StoreError> {
    let missing = |index| rusqlite::Error::InvalidColumnType(index, name.to_owned(), Type::Null);
    match optional_time(row, name)? {
        Some(time) => Ok(time),
        None => Err(missing(row.as_ref().column_index(name)?).into()),
    }
}

pub(crate) fn optional_time(row: &Row<'_>, name: &'static str) -> Result<Option<UnixSeconds>, StoreError> {
    let seconds: Option<i64> = row.get(name)?;
    Ok(seconds
        .map(|seconds| u64::try_from(seconds).map_err(|_| Corrupt::NegativeTime(name)))
        .transpose()?
        .map(UnixSeconds))
}

/// Every row that a query finds.
pub(crate) fn select<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    read: impl Fn(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// A number of rows, for an answer.
pub(crate) fn count(rows: usize) -> u32 {
    u32::try_from(rows).unwrap_or(u32::MAX)
}

/// Exactly one row was meant.
pub(crate) fn one(changed: usize) -> Result<(), StoreError> {
    match changed {
        1 => Ok(()),
        _ => Err(rusqlite::Error::StatementChangedRows(changed).into()),
    }
}
