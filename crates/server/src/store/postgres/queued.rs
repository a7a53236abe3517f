//! Statements that nobody waits for, and how one does for many rows what is written for one.

use std::error::Error;
use std::fmt::Write as _;

use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::PostgresError;
use super::session::translated;
use crate::error::Fault;
use crate::store::statement::{Param, Touched};

/// A statement that nobody waits for, with PostgreSQL's parameters.
pub(super) struct Queued {
    pub(super) sql: String,
    pub(super) params: Vec<QueuedParam>,
    pub(super) wanted: Wanted,
}

/// What of a queued statement matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// That it touches so many rows.
    Touched(Touched),
    /// Its rows, which somebody asks for later.
    Rows,
}

/// A value of its own, or those of a column.
#[derive(Debug, PartialEq)]
pub(super) enum QueuedParam {
    Integer(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
    Integers(Vec<Option<i64>>),
    Texts(Vec<Option<String>>),
    Blobs(Vec<Option<Vec<u8>>>),
}

impl Queued {
    /// `sql` with these parameters.
    pub(super) fn new(sql: &str, params: &[Param<'_>], expected: Touched) -> Self {
        Self {
            sql: translated(sql).into_owned(),
            params: params.iter().copied().map(QueuedParam::from).collect(),
            wanted: Wanted::Touched(expected),
        }
    }

    /// `sql` with these parameters, whose rows are asked for later.
    pub(super) fn ahead(sql: &str, params: &[Param<'_>]) -> Self {
        Self {
            wanted: Wanted::Rows,
            ..Self::new(sql, params, Touched::Any)
        }
    }

    /// Whether these are the rows that are wanted of `other`, too.
    pub(super) fn is_ahead_of(&self, other: &Self) -> bool {
        self.wanted == Wanted::Rows && self.sql == other.sql && self.params == other.params
    }

    /// `sql`, which is already one for many rows (see [`for_many`]), with the parameters of each row.
    ///
    /// # Errors
    /// When the rows have values of different types in one column.
    pub(super) fn of_many<const N: usize>(
        sql: &str,
        rows: &[[Param<'_>; N]],
        expected: Touched,
    ) -> Result<Self, Fault> {
        let mut columns: Vec<QueuedParam> = match rows.first() {
            Some(first) => first.iter().map(QueuedParam::column_of).collect(),
            None => Vec::new(),
        };
        for row in rows {
            for (column, value) in columns.iter_mut().zip(row) {
                column.push(*value)?;
            }
        }
        Ok(Self {
            sql: translated(sql).into_owned(),
            params: columns,
            wanted: Wanted::Touched(expected),
        })
    }

    /// `sql`, whose one parameter is an array of ids.
    pub(super) fn of_ids(sql: &str, ids: impl IntoIterator<Item = i64>) -> Self {
        Self {
            sql: translated(sql).into_owned(),
            params: vec![QueuedParam::Integers(ids.into_iter().map(Some).collect())],
            wanted: Wanted::Touched(Touched::Any),
        }
    }

    pub(super) fn types(&self) -> Vec<Type> {
        self.params.iter().map(QueuedParam::postgres_type).collect()
    }
}

impl QueuedParam {
    /// An empty column of the type of `value`.
    fn column_of(value: &Param<'_>) -> Self {
        match value {
            Param::Integer(_) => Self::Integers(Vec::new()),
            Param::Text(_) => Self::Texts(Vec::new()),
            Param::Bytes(_) => Self::Blobs(Vec::new()),
        }
    }

    fn push(&mut self, value: Param<'_>) -> Result<(), Fault> {
        match (self, Self::from(value)) {
            (Self::Integers(column), Self::Integer(value)) => column.push(value),
            (Self::Texts(column), Self::Text(value)) => column.push(value),
            (Self::Blobs(column), Self::Bytes(value)) => column.push(value),
            (_, _) => {
                return Err(PostgresError::other("rows of different types in one statement").into());
            }
        }
        Ok(())
    }

    fn postgres_type(&self) -> Type {
        match self {
            Self::Integer(_) => Type::INT8,
            Self::Text(_) => Type::TEXT,
            Self::Bytes(_) => Type::BYTEA,
            Self::Integers(_) => Type::INT8_ARRAY,
            Self::Texts(_) => Type::TEXT_ARRAY,
            Self::Blobs(_) => Type::BYTEA_ARRAY,
        }
    }
}

impl From<Param<'_>> for QueuedParam {
    fn from(param: Param<'_>) -> Self {
        match param {
            Param::Integer(value) => Self::Integer(value),
            Param::Text(value) => Self::Text(value.map(str::to_owned)),
            Param::Bytes(value) => Self::Bytes(value.map(<[u8]>::to_vec)),
        }
    }
}

impl ToSql for QueuedParam {
    fn to_sql(&self, column: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Integer(value) => value.to_sql(column, out),
            Self::Text(value) => value.to_sql(column, out),
            Self::Bytes(value) => value.to_sql(column, out),
            Self::Integers(values) => values.to_sql(column, out),
            Self::Texts(values) => values.to_sql(column, out),
            Self::Blobs(values) => values.to_sql(column, out),
        }
    }

    fn accepts(column: &Type) -> bool {
        [
            Type::INT8,
            Type::TEXT,
            Type::BYTEA,
            Type::INT8_ARRAY,
            Type::TEXT_ARRAY,
            Type::BYTEA_ARRAY,
        ]
        .contains(column)
    }

    to_sql_checked!();
}

/// The statement that does at once what `sql` does for one row after the other; its parameters are arrays, each a column of
/// `like` one of these. `sql` is an `INSERT … VALUES (…)`, whose rows are inserted in their order and which names no parameter
/// behind them, or an `UPDATE … WHERE …` or a `DELETE … WHERE …`.
///
/// # Errors
/// When it is something else.
pub(in crate::store) fn for_many(sql: &str, like: &[Param<'_>]) -> Result<String, Fault> {
    let given = given(like);
    let verb = sql.split_whitespace().next();
    let derived = match verb {
        Some("INSERT") => insert(sql, &given),
        Some("UPDATE") => joined(sql, "FROM", &given),
        Some("DELETE") => joined(sql, "USING", &given),
        _ => None,
    };
    derived.ok_or_else(|| PostgresError::other("a statement that cannot be run for many rows").into())
}

/// A table of the rows: `p1` has what `?1` has for each, and so on, and `n` their order.
fn given(like: &[Param<'_>]) -> String {
    let (mut arrays, mut names) = (String::new(), String::new());
    for (number, param) in (1..).zip(like) {
        let array = match param {
            Param::Integer(_) => "int8[]",
            Param::Text(_) => "text[]",
            Param::Bytes(_) => "bytea[]",
        };
        let comma = if number == 1 { "" } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(arrays, "{comma}?{number}::{array}");
        let _ = write!(names, "p{number}, ");
    }
    format!("unnest({arrays}) WITH ORDINALITY AS given ({names}n)")
}

/// `INSERT … SELECT … FROM given ORDER BY given.n` for `INSERT … VALUES (…)`.
fn insert(sql: &str, given: &str) -> Option<String> {
    let (before, values) = sql.split_at(outside_parentheses(sql, "VALUES")?);
    let values = values.strip_prefix("VALUES")?.trim_start().strip_prefix('(')?;
    let end = outside_parentheses(values, ")")?;
    let (values, after) = (values.get(..end)?, values.get(end + 1..)?);
    let values = of_given(values);
    Some(format!(
        "{before}SELECT {values} FROM {given} ORDER BY given.n{after}"
    ))
}

/// The statement with one more table before its `WHERE`.
fn joined(sql: &str, word: &str, given: &str) -> Option<String> {
    let (before, condition) = sql.split_at(outside_parentheses(sql, "WHERE")?);
    let (before, condition) = (of_given(before), of_given(condition));
    Some(format!("{before}{word} {given} {condition}"))
}

/// Where `word` is first, outside of all parentheses that open before it.
fn outside_parentheses(sql: &str, word: &str) -> Option<usize> {
    let mut depth = 0_u32;
    for (index, character) in sql.char_indices() {
        if depth == 0 && sql.get(index..).is_some_and(|rest| rest.starts_with(word)) {
            return Some(index);
        }
        match character {
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

/// With `given.p1` for `?1`.
fn of_given(sql: &str) -> String {
    sql.replace('?', "given.p")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::statement::params;

    #[test]
    fn an_insert_for_many_rows_keeps_their_order() {
        let bytes: &[u8] = &[];
        let sql = "INSERT INTO t (a, b, c) VALUES (?1, (SELECT x FROM u WHERE id = ?1), 0 + ?2) ON CONFLICT DO NOTHING";
        assert_eq!(
            for_many(sql, params![1_i64, bytes]).unwrap(),
            "INSERT INTO t (a, b, c) SELECT given.p1, (SELECT x FROM u WHERE id = given.p1), 0 + given.p2 \
             FROM unnest(?1::int8[], ?2::bytea[]) WITH ORDINALITY AS given (p1, p2, n) ORDER BY given.n \
             ON CONFLICT DO NOTHING"
        );
    }

    #[test]
    fn a_change_for_many_rows_joins_them_where_it_looks() {
        let sql = "UPDATE t SET a = (SELECT x FROM u WHERE id = ?2) WHERE b = ?1";
        assert_eq!(
            for_many(sql, params!["b", 2_i64]).unwrap(),
            "UPDATE t SET a = (SELECT x FROM u WHERE id = given.p2) \
             FROM unnest(?1::text[], ?2::int8[]) WITH ORDINALITY AS given (p1, p2, n) WHERE b = given.p1"
        );
        assert_eq!(
            for_many("DELETE FROM t WHERE b = ?1", params![1_i64]).unwrap(),
            "DELETE FROM t USING unnest(?1::int8[]) WITH ORDINALITY AS given (p1, n) WHERE b = given.p1"
        );
    }

    #[test]
    fn what_is_not_of_these_forms_is_not_run_for_many_rows() {
        for sql in [
            "SELECT 1 FROM t WHERE a = ?1",
            "DELETE FROM t",
            "INSERT INTO t (a) SELECT ?1",
            "INSERT INTO t (a) VALUES (?1",
        ] {
            assert!(for_many(sql, params![1_i64]).is_err(), "{sql}");
        }
    }

    #[test]
    fn a_column_has_values_of_one_type_and_nulls() {
        let rows = [[Param::from(1_i64)], [Param::Integer(None)]];
        let queued = Queued::of_many("", &rows, Touched::Any).unwrap();
        assert_eq!(queued.params, [QueuedParam::Integers(vec![Some(1), None])]);
        let rows = [[Param::from(1_i64)], [Param::from("1")]];
        assert!(Queued::of_many("", &rows, Touched::Any).is_err());
    }
}
