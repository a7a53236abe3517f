//! Statements as both engines understand them.
//!
//! Each statement is written once, in the SQL that SQLite and PostgreSQL share, with parameters `?1`, `?2`, … . Values
//! are integers, text or bytes, and may be null; nothing else is stored. Both engines keep what they have prepared.

use larder_lifecycle::UnixSeconds;
use larder_wire::{BlobId, GroupId, KeyPackageRef, StateMark};
use rusqlite::types::{ToSqlOutput, ValueRef};

use crate::error::Fault;
use crate::store::postgres::for_many;
use crate::store::reservations::ReservationId;
use crate::store::tx::{DeviceKey, Engine, Tx, UserKey, from_sql, to_sql};

/// A value that goes into a statement.
#[derive(Debug, Clone, Copy)]
pub(super) enum Param<'a> {
    Integer(Option<i64>),
    Text(Option<&'a str>),
    Bytes(Option<&'a [u8]>),
}

/// The parameters of a statement, in their order.
macro_rules! params {
    ($($value:expr),* $(,)?) => { &[$($crate::store::statement::Param::from($value)),*] };
}
pub(super) use params;

/// The same of one of many rows that a statement is for.
macro_rules! row_params {
    ($($value:expr),* $(,)?) => { [$($crate::store::statement::Param::from($value)),*] };
}
pub(super) use row_params;

macro_rules! params_from {
    ($($source:ty => |$value:ident| $param:expr;)*) => {$(
        impl<'a> From<$source> for Param<'a> {
            fn from($value: $source) -> Self {
                $param
            }
        }
    )*};
}

params_from! {
    i64 => |value| Self::Integer(Some(value));
    u8 => |value| Self::Integer(Some(value.into()));
    u16 => |value| Self::Integer(Some(value.into()));
    u32 => |value| Self::Integer(Some(value.into()));
    u64 => |value| Self::Integer(Some(to_sql(value)));
    UnixSeconds => |value| Self::Integer(Some(to_sql(value.0)));
    DeviceKey => |value| Self::Integer(Some(value.0));
    UserKey => |value| Self::Integer(Some(value.0));
    Option<i64> => |value| Self::Integer(value);
    Option<u64> => |value| Self::Integer(value.map(to_sql));
    Option<UnixSeconds> => |value| Self::Integer(value.map(|time| to_sql(time.0)));
    &'a str => |value| Self::Text(Some(value));
    Option<&'a str> => |value| Self::Text(value);
    &'a [u8] => |value| Self::Bytes(Some(value));
    Option<&'a [u8]> => |value| Self::Bytes(value);
    &'a GroupId => |value| Self::Bytes(Some(value.as_bytes()));
    &'a BlobId => |value| Self::Bytes(Some(value.as_bytes()));
    &'a KeyPackageRef => |value| Self::Bytes(Some(value.as_bytes()));
    &'a ReservationId => |value| Self::Bytes(Some(value.as_bytes()));
    Option<&'a GroupId> => |value| Self::Bytes(value.map(GroupId::as_bytes));
}

impl rusqlite::ToSql for Param<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let value = match *self {
            Self::Integer(value) => value.map(ValueRef::Integer),
            Self::Text(value) => value.map(|text| ValueRef::Text(text.as_bytes())),
            Self::Bytes(value) => value.map(ValueRef::Blob),
        };
        Ok(ToSqlOutput::Borrowed(value.unwrap_or(ValueRef::Null)))
    }
}

/// A row that a statement found.
#[derive(Clone, Copy)]
pub(super) enum Row<'r> {
    Sqlite(&'r rusqlite::Row<'r>),
    Postgres(&'r tokio_postgres::Row),
}

/// What the engines hand out.
pub(super) trait Raw: rusqlite::types::FromSql + for<'r> tokio_postgres::types::FromSql<'r> {}

impl Raw for i64 {}
impl Raw for String {}
impl Raw for Vec<u8> {}

/// What a column can be read as.
pub(super) trait Column: Sized {
    type Raw: Raw;

    fn parse(raw: Self::Raw) -> Result<Self, Fault>;
}

macro_rules! columns {
    ($($column:ty: $raw:ty => |$value:ident| $parsed:expr;)*) => {$(
        impl Column for $column {
            type Raw = $raw;

            fn parse($value: $raw) -> Result<Self, Fault> {
                $parsed
            }
        }
    )*};
}

columns! {
    i64: i64 => |raw| Ok(raw);
    u64: i64 => |raw| from_sql(raw);
    u32: i64 => |raw| raw.try_into().map_err(|_| Fault::Corrupt("a number out of its range"));
    u16: i64 => |raw| raw.try_into().map_err(|_| Fault::Corrupt("a number out of its range"));
    u8: i64 => |raw| raw.try_into().map_err(|_| Fault::Corrupt("a number out of its range"));
    bool: i64 => |raw| Ok(raw != 0);
    UnixSeconds: i64 => |raw| from_sql(raw).map(UnixSeconds);
    DeviceKey: i64 => |raw| Ok(DeviceKey(raw));
    UserKey: i64 => |raw| Ok(UserKey(raw));
    String: String => |raw| Ok(raw);
    Vec<u8>: Vec<u8> => |raw| Ok(raw);
    GroupId: Vec<u8> => |raw| GroupId::from_bytes(&raw).map_err(|_| Fault::Corrupt("a group id"));
    BlobId: Vec<u8> => |raw| raw.try_into().map(BlobId::from_bytes).map_err(|_| Fault::Corrupt("a blob id"));
    ReservationId: Vec<u8> => |raw| ReservationId::from_bytes(&raw);
    StateMark: Vec<u8> => |raw| StateMark::from_bytes(&raw).map_err(|_| Fault::Corrupt("a state mark"));
    KeyPackageRef: Vec<u8> => |raw| {
        KeyPackageRef::from_bytes(&raw).map_err(|_| Fault::Corrupt("a KeyPackageRef"))
    };
}

impl Row<'_> {
    /// The column at `index`.
    pub(super) fn get<C: Column>(&self, index: usize) -> Result<C, Fault> {
        self.optional(index)?.ok_or(Fault::Corrupt("a value is missing"))
    }

    /// The column at `index`, which may be null.
    pub(super) fn optional<C: Column>(&self, index: usize) -> Result<Option<C>, Fault> {
        let raw: Option<C::Raw> = match self {
            Self::Sqlite(row) => row.get(index)?,
            Self::Postgres(row) => row.try_get(index)?,
        };
        raw.map(C::parse).transpose()
    }
}

/// How many rows a statement must touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Touched {
    Any,
    Exactly(u64),
}

impl Touched {
    /// Whether so many may have been touched.
    pub(super) fn includes(self, touched: u64) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(expected) => touched == expected,
        }
    }
}

/// Whether a statement's rows are all read, or no more of them.
pub(super) enum Reading {
    GoOn,
    Stop,
}

impl Tx<'_> {
    /// Runs a statement that returns no rows. Returns how many rows it touched.
    pub(super) fn execute(&self, sql: &str, params: &[Param<'_>]) -> Result<u64, Fault> {
        #[cfg(test)]
        crate::store::tests::record(matches!(self.engine(), Engine::Postgres(_)), sql);
        match self.engine() {
            Engine::Sqlite(connection) => {
                let touched = connection
                    .prepare_cached(sql)?
                    .execute(rusqlite::params_from_iter(params))?;
                Ok(touched as u64)
            }
            Engine::Postgres(session) => session.execute(sql, params),
        }
    }

    /// Runs a statement of which nothing has to be known but that it succeeds, without which the transaction fails. On
    /// PostgreSQL it goes with the next statement whose outcome is waited for, or with the commit.
    pub(super) fn queue(&self, sql: &str, params: &[Param<'_>]) -> Result<(), Fault> {
        self.queue_touching(sql, params, Touched::Any)
    }

    /// Like [`queue`](Self::queue), once for each of `all`, in their order. PostgreSQL gets one statement for all of them.
    ///
    /// The statement is an `INSERT … VALUES (…)`, or an `UPDATE` or a `DELETE` with a `WHERE`. No two of `all` may change the same
    /// row: what comes of that is not the same on both engines.
    pub(super) fn queue_each<const N: usize>(&self, sql: &str, all: &[[Param<'_>; N]]) -> Result<(), Fault> {
        self.queue_each_touching(sql, all, Touched::Any)
    }

    /// Like [`queue_each`](Self::queue_each), for a statement that touches exactly one row for each of `all`, without which the
    /// transaction fails.
    pub(super) fn queue_for_one_each<const N: usize>(
        &self,
        sql: &str,
        all: &[[Param<'_>; N]],
    ) -> Result<(), Fault> {
        self.queue_each_touching(sql, all, Touched::Exactly(1))
    }

    fn queue_each_touching<const N: usize>(
        &self,
        sql: &str,
        all: &[[Param<'_>; N]],
        of_each: Touched,
    ) -> Result<(), Fault> {
        match (self.engine(), all) {
            (Engine::Postgres(session), [first, _, ..]) => {
                let sql = for_many(sql, first)?;
                let of_all = match of_each {
                    Touched::Any => Touched::Any,
                    Touched::Exactly(rows) => Touched::Exactly(rows * all.len() as u64),
                };
                #[cfg(test)]
                crate::store::tests::record(true, &sql);
                session.queue_many(&sql, all, of_all)
            }
            (Engine::Sqlite(_) | Engine::Postgres(_), _) => all
                .iter()
                .try_for_each(|params| self.queue_touching(sql, params, of_each)),
        }
    }

    fn queue_touching(&self, sql: &str, params: &[Param<'_>], expected: Touched) -> Result<(), Fault> {
        match self.engine() {
            Engine::Sqlite(_) => match expected.includes(self.execute(sql, params)?) {
                true => Ok(()),
                false => Err(Fault::Corrupt("a row moved under its own transaction")),
            },
            Engine::Postgres(session) => {
                #[cfg(test)]
                crate::store::tests::record(true, sql);
                session.queue(sql, params, expected);
                Ok(())
            }
        }
    }

    /// Has PostgreSQL run a statement with the next one, in one round trip, whose rows are read later by the same text and
    /// parameters: where it is known early what will be asked. It is run in its place in the order of all statements. One that
    /// changes something must be asked for later, or the transaction be given up.
    pub(super) fn read_ahead(&self, sql: &str, params: &[Param<'_>]) {
        match self.engine() {
            Engine::Sqlite(_) => {}
            Engine::Postgres(session) => session.read_ahead(sql, params),
        }
    }

    /// Runs a statement and reads its rows, as long as `read` goes on.
    pub(super) fn read_rows(
        &self,
        sql: &str,
        params: &[Param<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<Reading, Fault>,
    ) -> Result<(), Fault> {
        #[cfg(test)]
        crate::store::tests::record(matches!(self.engine(), Engine::Postgres(_)), sql);
        match self.engine() {
            Engine::Sqlite(connection) => {
                let mut statement = connection.prepare_cached(sql)?;
                let mut rows = statement.query(rusqlite::params_from_iter(params))?;
                while let Some(row) = rows.next()? {
                    match read(&Row::Sqlite(row))? {
                        Reading::GoOn => {}
                        Reading::Stop => break,
                    }
                }
                Ok(())
            }
            Engine::Postgres(session) => session.read_rows(sql, params, read),
        }
    }

    /// Every row of a statement.
    pub(super) fn rows<T>(
        &self,
        sql: &str,
        params: &[Param<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Fault> {
        let mut found = Vec::new();
        self.read_rows(sql, params, |row| {
            found.push(read(row)?);
            Ok(Reading::GoOn)
        })?;
        Ok(found)
    }

    /// The first row of a statement, if there is one.
    pub(super) fn row<T>(
        &self,
        sql: &str,
        params: &[Param<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        let mut found = None;
        self.read_rows(sql, params, |row| {
            found.get_or_insert(read(row)?);
            // Read to its end: PostgreSQL may still report an error after a row.
            Ok(Reading::GoOn)
        })?;
        Ok(found)
    }

    /// The first row of a statement for each of `all`, if there is one.
    pub(super) fn row_of_each<T, const N: usize>(
        &self,
        sql: &str,
        all: &[[Param<'_>; N]],
        read: impl FnMut(&Row<'_>) -> Result<T, Fault>,
    ) -> Result<Vec<Option<T>>, Fault> {
        let rows = self.rows_of_each(sql, all, read)?.into_iter();
        Ok(rows.map(|rows| rows.into_iter().next()).collect())
    }

    /// Every row of a statement for each of `all`.
    pub(super) fn rows_of_each<T, const N: usize>(
        &self,
        sql: &str,
        all: &[[Param<'_>; N]],
        mut read: impl FnMut(&Row<'_>) -> Result<T, Fault>,
    ) -> Result<Vec<Vec<T>>, Fault> {
        let Engine::Postgres(session) = self.engine() else {
            return all
                .iter()
                .map(|params| self.rows(sql, params, &mut read))
                .collect();
        };
        #[cfg(test)]
        crate::store::tests::record(true, sql);
        let mut found: Vec<Vec<T>> = all.iter().map(|_| Vec::new()).collect();
        session.read_rows_of_each(sql, all, |index, row| {
            if let Some(found) = found.get_mut(index) {
                found.push(read(row)?);
            }
            Ok(Reading::GoOn)
        })?;
        Ok(found)
    }

    /// The row that a statement always has.
    pub(super) fn one_row<T>(
        &self,
        sql: &str,
        params: &[Param<'_>],
        read: impl FnMut(&Row<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.row(sql, params, read)?
            .ok_or(Fault::Corrupt("a row is missing"))
    }

    /// Whether a statement finds anything.
    pub(super) fn exists(&self, sql: &str, params: &[Param<'_>]) -> Result<bool, Fault> {
        let mut found = false;
        self.read_rows(sql, params, |_| {
            found = true;
            Ok(Reading::Stop)
        })?;
        Ok(found)
    }
}
