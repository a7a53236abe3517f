use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use deadpool_postgres::ClientWrapper;
use futures_util::{FutureExt as _, TryStreamExt as _};
use tokio::runtime::Handle;
use tokio_postgres::Statement;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::Purpose;
use super::error::PostgresError;
use super::queued::{Queued, Wanted};
use crate::error::Fault;
use crate::store::statement::{Param, Reading, Row, Touched};

/// A transaction, whose statements it carries out in their order on the thread that it is called from.
///
/// The thread waits for PostgreSQL only when it needs an answer: `BEGIN` goes with the first statement that has one, and what is
/// queued with the next that has one, or with the `COMMIT`. Dropped before its commit, the transaction is rolled back.
pub(crate) struct Session<'c> {
    runtime: &'c Handle,
    client: &'c ClientWrapper,
    begun: Cell<Begun>,
    queued: RefCell<Vec<Queued>>,
    /// What has come of reads that nobody has asked for yet.
    ahead: RefCell<Vec<(Queued, Vec<tokio_postgres::Row>)>>,
    /// The first error of a statement, whatever its caller makes of it: PostgreSQL has given the transaction up then.
    failure: Cell<Option<PostgresError>>,
}

/// Whether PostgreSQL has been told of the transaction.
#[derive(Clone, Copy)]
enum Begun {
    NotYet(&'static str),
    Yes,
    /// And of its end.
    Ended,
}

impl<'c> Session<'c> {
    pub(super) fn new(runtime: &'c Handle, client: &'c ClientWrapper, purpose: Purpose) -> Self {
        let begin = match purpose {
            Purpose::Write | Purpose::Rehearse => "BEGIN ISOLATION LEVEL READ COMMITTED",
            Purpose::Read => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        };
        Self {
            runtime,
            client,
            begun: Cell::new(Begun::NotYet(begin)),
            queued: RefCell::default(),
            ahead: RefCell::default(),
            failure: Cell::default(),
        }
    }

    /// The first error of a statement, if one failed.
    pub(super) fn take_failure(&self) -> Option<PostgresError> {
        self.failure.take()
    }

    pub(in crate::store) fn execute(&self, sql: &str, params: &[Param<'_>]) -> Result<u64, Fault> {
        self.run(async {
            let statement = self.prepare(sql, params).await?;
            self.client.execute_raw(&statement, values(params)).await
        })
    }

    /// Carries a statement out before the next one, or before the commit. What it fails with fails the transaction.
    pub(in crate::store) fn queue(&self, sql: &str, params: &[Param<'_>], expected: Touched) {
        self.queued.borrow_mut().push(Queued::new(sql, params, expected));
    }

    /// The same for a statement that is [for many rows](super::for_many), with the parameters of each.
    pub(in crate::store) fn queue_many<const N: usize>(
        &self,
        sql: &str,
        rows: &[[Param<'_>; N]],
        expected: Touched,
    ) -> Result<(), Fault> {
        let queued = Queued::of_many(sql, rows, expected)?;
        self.queued.borrow_mut().push(queued);
        Ok(())
    }

    /// Runs a statement before the next one, in the same round trip, and keeps its rows for [`read_rows`](Self::read_rows) of the
    /// same statement and parameters.
    pub(in crate::store) fn read_ahead(&self, sql: &str, params: &[Param<'_>]) {
        self.queued.borrow_mut().push(Queued::ahead(sql, params));
    }

    /// The rows of a statement for each of `all`, if all of them were read ahead, or are queued to be.
    fn take_ahead<'p>(
        &self,
        sql: &str,
        all: &[impl AsRef<[Param<'p>]>],
    ) -> Result<Option<Vec<Vec<tokio_postgres::Row>>>, Fault> {
        let any_queued = self
            .queued
            .borrow()
            .iter()
            .any(|queued| queued.wanted == Wanted::Rows);
        if !any_queued && self.ahead.borrow().is_empty() {
            return Ok(None);
        }
        let wanted = all.iter().map(|params| Queued::ahead(sql, params.as_ref()));
        let wanted: Vec<Queued> = wanted.collect();
        let is_queued = |wanted: &Queued| self.queued.borrow().iter().any(|read| read.is_ahead_of(wanted));
        let is_here = |wanted: &Queued| {
            self.ahead
                .borrow()
                .iter()
                .any(|(read, _)| read.is_ahead_of(wanted))
        };
        if !wanted.iter().all(|wanted| is_queued(wanted) || is_here(wanted)) {
            return Ok(None);
        }
        if !wanted.iter().all(is_here) {
            self.run(async { Ok(()) })?;
        }
        let mut ahead = self.ahead.borrow_mut();
        let rows_of = |wanted: &Queued| {
            let read = ahead.iter().position(|(read, _)| read.is_ahead_of(wanted))?;
            Some(ahead.swap_remove(read).1)
        };
        Ok(wanted.iter().map(rows_of).collect())
    }

    pub(in crate::store) fn read_rows(
        &self,
        sql: &str,
        params: &[Param<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<Reading, Fault>,
    ) -> Result<(), Fault> {
        self.read_rows_of_each(sql, &[params], |_, row| read(row))
    }

    /// Runs a statement once for each of `all`, and waits once for the rows of all, which `read` gets with the number of those
    /// that they are of.
    pub(in crate::store) fn read_rows_of_each<'p>(
        &self,
        sql: &str,
        all: &[impl AsRef<[Param<'p>]>],
        mut read: impl FnMut(usize, &Row<'_>) -> Result<Reading, Fault>,
    ) -> Result<(), Fault> {
        let Some(first) = all.first() else {
            return Ok(());
        };
        if let Some(found) = self.take_ahead(sql, all)? {
            for (index, rows) in found.iter().enumerate() {
                for row in rows {
                    if let Reading::Stop = read(index, &Row::Postgres(row))? {
                        break;
                    }
                }
            }
            return Ok(());
        }
        let mut unread = Ok(());
        self.run(async {
            let statement = self.prepare(sql, first.as_ref()).await?;
            let mut asked = Vec::new();
            for params in all {
                asked.push(sent(self.client.query_raw(&statement, values(params.as_ref()))).await);
            }
            for (index, each) in asked.into_iter().enumerate() {
                let mut rows = pin!(each.answer().await?);
                while let Some(row) = rows.try_next().await? {
                    match read(index, &Row::Postgres(&row)) {
                        Ok(Reading::GoOn) => {}
                        Ok(Reading::Stop) => break,
                        Err(fault) => {
                            unread = Err(fault);
                            return Ok(());
                        }
                    }
                }
            }
            Ok(())
        })?;
        unread
    }

    /// Locks rows by their ids before the next statement, or before the commit, by a statement of PostgreSQL's own.
    pub(in crate::store) fn queue_lock(&self, sql: &str, ids: impl IntoIterator<Item = i64>) {
        let ids: Vec<i64> = ids.into_iter().collect();
        if ids.is_empty() {
            return;
        }
        #[cfg(test)]
        crate::store::tests::record(true, sql);
        self.queued.borrow_mut().push(Queued::of_ids(sql, ids));
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
            let statement = self.client.prepare_typed_cached(sql, &[Type::INT8_ARRAY]).await?;
            let rows = self.client.query(&statement, &[&ids]).await?;
            rows.iter().map(|row| row.try_get(0)).collect()
        })
    }

    /// Makes what was done durable.
    pub(super) fn commit(&self) -> Result<(), PostgresError> {
        if self.is_untold() {
            return Ok(());
        }
        let is_first = matches!(self.begun.get(), Begun::NotYet(_));
        let must_be_known = |queued: &Queued| queued.wanted != Wanted::Touched(Touched::Any);
        if is_first || self.queued.borrow().iter().any(must_be_known) {
            // Nothing is committed before that is known, or whether the connection is still there: lost with the COMMIT, nobody
            // knows what came of it.
            self.carry_out()?;
        }
        if self
            .ahead
            .borrow()
            .iter()
            .any(|(read, _)| read.sql.starts_with("UPDATE"))
        {
            return Err(PostgresError::other(
                "a change was made ahead that nobody asked for",
            ));
        }
        let committed = self.answer(self.client.batch_execute("COMMIT"));
        committed.map_err(|failed| match failed {
            Failed::Itself(error) => PostgresError::at_commit(error),
            // Unless PostgreSQL has refused a statement, and everything with it, the COMMIT may have reached it.
            Failed::Before(error) if error.as_db_error().is_none() => PostgresError::at_commit(error),
            Failed::Before(_) | Failed::Moved => failed.into(),
        })?;
        self.begun.set(Begun::Ended);
        Ok(())
    }

    /// Carries out what is queued.
    pub(super) fn carry_out(&self) -> Result<(), PostgresError> {
        if self.is_untold() {
            return Ok(());
        }
        Ok(self.answer(async { Ok(()) })?)
    }

    /// Whether PostgreSQL was asked for nothing, and is to be asked for nothing.
    fn is_untold(&self) -> bool {
        matches!(self.begun.get(), Begun::NotYet(_)) && self.queued.borrow().is_empty()
    }

    fn run<T>(&self, work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Fault> {
        // What follows a failure only tells that there was one.
        let told = || Fault::Postgres(PostgresError::other("a statement failed"));
        if let Some(first) = self.failure.take() {
            self.failure.set(Some(first));
            return Err(told());
        }
        self.answer(work).map_err(|failed| {
            self.failure.set(Some(failed.into()));
            told()
        })
    }

    /// Sends what is queued, then `last`, and waits for all of it.
    fn answer<T>(&self, last: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Failed> {
        crate::metrics::postgres_round_trip();
        let queued = self.queued.take();
        let answered = self.runtime.block_on(async {
            // All before the first is sent, or one that has to be prepared would come after those behind it.
            let mut statements = Vec::new();
            for queued in &queued {
                let statement = self
                    .client
                    .prepare_typed_cached(&queued.sql, &queued.types())
                    .await;
                statements.push((statement.map_err(Failed::Before)?, queued));
            }
            let begin = match self.begun.replace(Begun::Yes) {
                Begun::NotYet(begin) => Some(sent(self.client.batch_execute(begin)).await),
                Begun::Yes | Begun::Ended => None,
            };
            let mut before = Vec::new();
            for (statement, queued) in &statements {
                let asked = self.client.query_raw(statement, values(&queued.params));
                before.push((sent(asked).await, queued.wanted));
            }
            let last = sent(last).await;
            if let Some(begin) = begin {
                begin.answer().await.map_err(Failed::Before)?;
            }
            let mut found = Vec::new();
            for (asked, wanted) in before {
                let mut rows = pin!(asked.answer().await.map_err(Failed::Before)?);
                let mut read = Vec::new();
                while let Some(row) = rows.try_next().await.map_err(Failed::Before)? {
                    if wanted == Wanted::Rows {
                        read.push(row);
                    }
                }
                match wanted {
                    Wanted::Rows => found.push(read),
                    Wanted::Touched(expected) if expected.includes(rows.rows_affected().unwrap_or(0)) => {}
                    Wanted::Touched(_) => return Err(Failed::Moved),
                }
            }
            let answer = last.answer().await.map_err(Failed::Itself)?;
            Ok((answer, found))
        });
        let (answer, found) = answered?;
        let read = queued.into_iter().filter(|queued| queued.wanted == Wanted::Rows);
        self.ahead.borrow_mut().extend(read.zip(found));
        Ok(answer)
    }

    async fn prepare(&self, sql: &str, params: &[Param<'_>]) -> Result<Statement, tokio_postgres::Error> {
        let types: Vec<Type> = params.iter().map(Param::postgres_type).collect();
        self.client.prepare_typed_cached(&translated(sql), &types).await
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if let Begun::Yes = self.begun.get() {
            // Sent by the first poll. On a broken connection there is nothing left to roll back.
            let _ = self.client.batch_execute("ROLLBACK").now_or_never();
        }
    }
}

/// What failed, of what was sent together.
enum Failed {
    /// Something before the last.
    Before(tokio_postgres::Error),
    Itself(tokio_postgres::Error),
    /// Something before the last touched another number of rows than it had to.
    Moved,
}

impl From<Failed> for PostgresError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Before(error) | Failed::Itself(error) => error.into(),
            Failed::Moved => Self::other("a row moved under its own transaction"),
        }
    }
}

/// A request on its way to PostgreSQL.
struct Sent<F: Future> {
    request: Pin<Box<F>>,
    /// The answer, if it was there at once.
    early: Option<F::Output>,
}

/// Sends a request, which its first poll does, so that what is sent next comes after it.
async fn sent<F: Future>(request: F) -> Sent<F> {
    let mut request = Box::pin(request);
    let early = poll_fn(|context| {
        Poll::Ready(match request.as_mut().poll(context) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        })
    });
    let early = early.await;
    Sent { request, early }
}

impl<F: Future> Sent<F> {
    async fn answer(self) -> F::Output {
        match self.early {
            Some(answer) => answer,
            None => self.request.await,
        }
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

fn values<P: ToSql + Sync>(params: &[P]) -> impl ExactSizeIterator<Item = &(dyn ToSql + Sync)> {
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
