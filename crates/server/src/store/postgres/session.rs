use std::borrow::Cow;
use std::cell::Cell;
use std::error::Error;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;

use deadpool_postgres::Transaction;
use futures_util::TryStreamExt as _;
use tokio::runtime::Handle;
use tokio_postgres::Statement;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::error::PostgresError;
use crate::error::Fault;
use crate::store::statement::{Param, Reading, Row};

/// Carries a transaction's statements out, each to its end, on the thread that it is called from.
pub(crate) struct Session<'c> {
    runtime: &'c Handle,
    transaction: &'c Transaction<'c>,
    failure: Rc<Cell<Option<PostgresError>>>,
}

impl<'c> Session<'c> {
    pub(super) fn new(runtime: &'c Handle, transaction: &'c Transaction<'c>) -> Self {
        Self {
            runtime,
            transaction,
            failure: Rc::default(),
        }
    }

    /// Holds the first error of a statement, whatever its caller makes of it.
    pub(super) fn failure(&self) -> Rc<Cell<Option<PostgresError>>> {
        Rc::clone(&self.failure)
    }

    pub(in crate::store) fn execute(&self, sql: &str, params: &[Param<'_>]) -> Result<u64, Fault> {
        self.run(async {
            let statement = self.prepare(sql, params).await?;
            self.transaction.execute_raw(&statement, values(params)).await
        })
    }

    pub(in crate::store) fn read_rows(
        &self,
        sql: &str,
        params: &[Param<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<Reading, Fault>,
    ) -> Result<(), Fault> {
        let mut unread = Ok(());
        self.run(async {
            let statement = self.prepare(sql, params).await?;
            let rows = self.transaction.query_raw(&statement, values(params)).await?;
            let mut rows = pin!(rows);
            while let Some(row) = rows.try_next().await? {
                match read(&Row::Postgres(&row)) {
                    Ok(Reading::GoOn) => {}
                    Ok(Reading::Stop) => break,
                    Err(fault) => {
                        unread = Err(fault);
                        break;
                    }
                }
            }
            Ok(())
        })?;
        unread
    }

    /// Runs a statement of PostgreSQL's own that locks rows by their ids, and returns the ids of those it locked.
    pub(in crate::store) fn lock_rows(
        &self,
        sql: &str,
        ids: impl IntoIterator<Item = i64>,
    ) -> Result<Vec<i64>, Fault> {
        let ids: Vec<i64> = ids.into_iter().collect();
        if ids.is_empty() {
            return Ok(ids);
        }
        #[cfg(test)]
        crate::store::tests::record(true, sql);
        self.run(async {
            let statement = self
                .transaction
                .prepare_typed_cached(sql, &[Type::INT8_ARRAY])
                .await?;
            let rows = self.transaction.query(&statement, &[&ids]).await?;
            rows.iter().map(|row| row.try_get(0)).collect()
        })
    }

    async fn prepare(&self, sql: &str, params: &[Param<'_>]) -> Result<Statement, tokio_postgres::Error> {
        let types: Vec<Type> = params.iter().map(Param::postgres_type).collect();
        self.transaction
            .prepare_typed_cached(&translated(sql), &types)
            .await
    }

    fn run<T>(&self, work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Fault> {
        self.runtime.block_on(work).map_err(|error| {
            let first = self.failure.take();
            let (first, told) = match first {
                // What follows a failure only tells that there was one.
                Some(first) => (first, PostgresError::from(error)),
                None => (
                    PostgresError::from(error),
                    PostgresError::other("a statement failed"),
                ),
            };
            self.failure.set(Some(first));
            Fault::Postgres(told)
        })
    }
}

/// The statement with PostgreSQL's parameters: `$1` for `?1`.
pub(in crate::store) fn translated(sql: &str) -> Cow<'_, str> {
    if sql.contains('?') {
        Cow::Owned(sql.replace('?', "$"))
    } else {
        Cow::Borrowed(sql)
    }
}

fn values<'p>(params: &'p [Param<'p>]) -> impl ExactSizeIterator<Item = &'p (dyn ToSql + Sync)> {
    params.iter().map(|param| param as &(dyn ToSql + Sync))
}

impl Param<'_> {
    fn postgres_type(&self) -> Type {
        match self {
            Self::Integer(_) => Type::INT8,
            Self::Text(_) => Type::TEXT,
            Self::Bytes(_) => Type::BYTEA,
        }
    }
}

impl ToSql for Param<'_> {
    fn to_sql(&self, column: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Integer(value) => value.to_sql(column, out),
            Self::Text(value) => value.to_sql(column, out),
            Self::Bytes(value) => value.to_sql(column, out),
        }
    }

    fn accepts(column: &Type) -> bool {
        [Type::INT8, Type::TEXT, Type::BYTEA].contains(column)
    }

    to_sql_checked!();
}
