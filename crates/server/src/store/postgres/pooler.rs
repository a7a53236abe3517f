//! Recognises a pooler that gives each transaction another session (PgBouncer's `pool_mode=transaction` or `statement`).
//!
//! A server needs sessions of its own: it sets limits on them, prepares statements and listens. With shared ones, it would seem to
//! work for a while, and then fail, or lose what it had set.

use deadpool_postgres::{Object, Pool};
use tokio_postgres::SimpleQueryMessage;
use uuid::Uuid;

use super::error::{PostgresError, PostgresErrorKind};

/// The setting that marks a session. PostgreSQL lets everybody have settings of a prefix that is not its own.
const SETTING: &str = "larder.session";
/// A pooler may give a session to somebody else in the middle of an attempt.
const ATTEMPTS: usize = 3;

/// Marks a session, then uses others beside it. Where a mark comes up in another session, or is lost, sessions are shared.
///
/// A pooler that lends the session that was used last gives the marked one to the next transaction; one that lends each in
/// turn gives the owner of the mark another one. A transaction that is open meanwhile keeps one of them from doing by chance
/// what it should not.
pub(super) async fn refuse_shared_sessions(pool: &Pool) -> Result<(), PostgresError> {
    let (marked, other) = (pool.get().await?, pool.get().await?);
    // Nobody else gets them after they were marked.
    let (marked, other) = (Object::take(marked), Object::take(other));
    for _ in 0..ATTEMPTS {
        let mark = Uuid::new_v4().to_string();
        let marks = format!("SELECT set_config('{SETTING}', '{mark}', false)");
        match marked.simple_query(&marks).await {
            Ok(_) => {}
            // An engine without such settings, which is no pooler.
            Err(error) => {
                let reported = error.as_db_error().is_some();
                let error = PostgresError::from(error);
                return match reported && error.kind() == PostgresErrorKind::Other {
                    true => Ok(()),
                    false => Err(error),
                };
            }
        }
        if mark_of(&other).await?.as_ref() == Some(&mark) {
            return Err(shared());
        }
        // A pooler that shares sessions between statements allows no transaction.
        let begun = other.batch_execute("BEGIN").await;
        begun.map_err(|error| match error.as_db_error() {
            Some(_) => shared(),
            None => error.into(),
        })?;
        let seen = (mark_of(&other).await?, mark_of(&marked).await?);
        other.batch_execute("ROLLBACK").await?;
        if seen.0.as_ref() == Some(&mark) || seen.1.as_ref() != Some(&mark) {
            return Err(shared());
        }
    }
    Ok(())
}

async fn mark_of(client: &tokio_postgres::Client) -> Result<Option<String>, PostgresError> {
    let sql = format!("SELECT current_setting('{SETTING}', true)");
    let answer = client.simple_query(&sql).await?;
    let mark = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    Ok(mark)
}

fn shared() -> PostgresError {
    PostgresError::of(
        PostgresErrorKind::SharedSessions,
        "there is a pooler in front of PostgreSQL that shares sessions between transactions, which this server cannot use: \
         connect to PostgreSQL itself, or set the pooler to session mode (PgBouncer: pool_mode = session)",
    )
}
