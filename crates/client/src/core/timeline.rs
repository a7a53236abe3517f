//! Reading the history: what is unread, pages of it, what matches.

use larder_pool::Tx;
use rusqlite::Connection;

use crate::core::groups;
use crate::core::history::{self, Unanswered};
use crate::core::messages::{SELECT, select};
use crate::core::schema::corrupt;
use crate::error::Error;
use crate::text::folded;
use crate::types::{GroupKey, Message, MessageKind, SendStatus};

/// Rows that one step of a search looks at: some milliseconds, after which others have their turn.
const SEARCH_ROWS_AT_ONCE: u32 = 4096;

/// How far a group is read.
pub(super) struct Marks {
    pub(super) read_up_to: i64,
    pub(super) last_row: i64,
    pub(super) unread: u64,
}

pub(super) fn marks(connection: &Connection, group: &GroupKey) -> Result<Marks, Error> {
    let (read_up_to, last_row, unread) = connection
        .prepare_cached(
            "SELECT g.read_up_to,
                 (SELECT max(m.row) FROM messages m WHERE m.group_id = g.group_id),
                 (SELECT count(*) FROM messages m WHERE m.group_id = g.group_id AND m.row > g.read_up_to AND m.mine = 0
                      AND (g.request IS NULL OR m.row <= g.request_after))
             FROM groups g WHERE g.group_id = ?1",
        )?
        .query_row([group.as_bytes()], |row| {
            Ok((row.get(0)?, row.get::<_, Option<i64>>(1)?, row.get::<_, i64>(2)?))
        })?;
    Ok(Marks {
        read_up_to,
        last_row: last_row.unwrap_or(0),
        unread: unread.cast_unsigned(),
    })
}

/// What others sent or did and is not marked as read, oldest first; of what came with a request only that it is there.
pub(crate) fn unread(tx: &Tx<'_>) -> Result<Vec<Message>, Error> {
    select(tx.connection(), &unread_sql(), [])
}

/// `CROSS JOIN` keeps the groups first, whatever the planner guesses of their number.
fn unread_sql() -> String {
    format!(
        "{SELECT} WHERE m.row IN (
             SELECT m.row FROM groups g CROSS JOIN messages m ON m.group_id = g.group_id AND m.row > g.read_up_to
             WHERE m.mine = 0 AND (g.request IS NULL OR m.row <= g.request_after OR m.kind = {joined})
             UNION ALL
             SELECT m.row FROM messages m
             WHERE m.row > (SELECT read_up_to FROM profile) AND m.mine = 0
                 AND NOT EXISTS (SELECT 1 FROM groups g WHERE g.group_id = m.group_id))
         ORDER BY m.row",
        joined = MessageKind::Joined.column()
    )
}

/// Rows up to and including this one are read, of all groups and of none; of what came with requests only that they are there,
/// so that the rest is unread once they are accepted. Going backwards does nothing.
pub(crate) fn mark_read(tx: &Tx<'_>, up_to: i64) -> Result<(), Error> {
    let connection = tx.connection();
    for (group, _) in groups::all(connection)? {
        let up_to = match history::unanswered(connection, &group)? {
            None => up_to,
            Some(unanswered) => last_told(connection, &unanswered, up_to)?,
        };
        mark_group_read(tx, &group, up_to)?;
    }
    mark_notices_read(tx, up_to)
}

/// The last row up to this one that the person is told of: from before the invitation, or that it came.
fn last_told(connection: &Connection, unanswered: &Unanswered<'_>, up_to: i64) -> Result<i64, Error> {
    let row: Option<i64> = connection
        .prepare_cached(
            "SELECT max(row) FROM messages WHERE group_id = ?1 AND row <= ?2 AND (row <= ?3 OR kind = ?4)",
        )?
        .query_row(
            (
                unanswered.group().as_bytes(),
                up_to,
                unanswered.after(),
                MessageKind::Joined.column(),
            ),
            |row| row.get(0),
        )?;
    Ok(row.unwrap_or(0))
}

/// The same, of one group.
pub(crate) fn mark_group_read(tx: &Tx<'_>, group: &GroupKey, up_to: i64) -> Result<(), Error> {
    tx.connection()
        .prepare_cached(
            "UPDATE groups SET read_up_to = r.row
             FROM (SELECT max(row) AS row FROM messages WHERE group_id = ?1 AND row <= ?2) r
             WHERE group_id = ?1 AND read_up_to < r.row",
        )?
        .execute((group.as_bytes(), up_to))?;
    Ok(())
}

/// The same, of what concerns no group.
pub(crate) fn mark_notices_read(tx: &Tx<'_>, up_to: i64) -> Result<(), Error> {
    tx.connection().execute(
        "UPDATE profile SET read_up_to = ?1 WHERE read_up_to < ?1",
        [up_to],
    )?;
    Ok(())
}

/// The last `limit` rows of a group before this one, or of all, oldest first.
pub(crate) fn history_before(
    tx: &Tx<'_>,
    group: &GroupKey,
    before: Option<i64>,
    limit: u32,
) -> Result<Vec<Message>, Error> {
    let sql = history_sql();
    let before = before.unwrap_or(i64::MAX);
    let mut rows = select(tx.connection(), &sql, (group.as_bytes(), before, limit))?;
    rows.reverse();
    Ok(rows)
}

fn history_sql() -> String {
    format!("{SELECT} WHERE m.group_id = ?1 AND m.row < ?2 ORDER BY m.row DESC LIMIT ?3")
}

/// The first `limit` rows after this one, of all groups and of none, oldest first.
pub(crate) fn messages_after(tx: &Tx<'_>, row: i64, limit: u32) -> Result<Vec<Message>, Error> {
    let sql = format!("{SELECT} WHERE m.row > ?1 ORDER BY m.row LIMIT ?2");
    select(tx.connection(), &sql, (row, limit))
}

/// One row.
pub(crate) fn message(tx: &Tx<'_>, row: i64) -> Result<Option<Message>, Error> {
    let sql = format!("{SELECT} WHERE m.row = ?1");
    Ok(select(tx.connection(), &sql, [row])?.pop())
}

/// The rows of own messages that the server does not have, oldest first.
pub(crate) fn unsent(tx: &Tx<'_>) -> Result<Vec<(i64, SendStatus)>, Error> {
    let mut statement = tx
        .connection()
        .prepare_cached("SELECT row, status FROM messages WHERE status <> 0 ORDER BY row")?;
    let mut rows = statement.query([])?;
    let mut unsent = Vec::new();
    while let Some(row) = rows.next()? {
        let status = corrupt(SendStatus::from_column(row.get(1)?), "message status")?;
        unsent.push((row.get(0)?, status));
    }
    Ok(unsent)
}

/// What one step of a search found, newest first.
pub(crate) struct Searched {
    pub(crate) found: Vec<Message>,
    /// Where the next step begins, if there is more to look at.
    pub(crate) before: Option<i64>,
}

/// Looks for a [`folded`] text among the next rows before this one, and stops at `limit`. What strangers write who were not
/// answered is not in the way, unless it is asked for.
///
/// SQLite folds the case of ASCII letters only and knows no accents, and its index for substrings would keep a second copy of every text, so
/// the texts are read.
pub(crate) fn search(
    tx: &Tx<'_>,
    wanted: &str,
    group: Option<&GroupKey>,
    before: i64,
    limit: u32,
) -> Result<Searched, Error> {
    let connection = tx.connection();
    let sql = match group {
        Some(_) => {
            "SELECT row, text FROM messages WHERE kind = ?1 AND row < ?2 AND group_id = ?4
                    ORDER BY row DESC LIMIT ?3"
        }
        None => {
            "SELECT row, text FROM messages WHERE kind = ?1 AND row < ?2 AND ?4 IS NULL
                 AND NOT EXISTS (SELECT 1 FROM groups g WHERE g.group_id = messages.group_id
                     AND g.request IS NOT NULL AND messages.row > g.request_after)
                 ORDER BY row DESC LIMIT ?3"
        }
    };
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query((
        MessageKind::Text.column(),
        before,
        SEARCH_ROWS_AT_ONCE,
        group.map(GroupKey::as_bytes),
    ))?;
    let (mut found, mut seen, mut last) = (Vec::new(), 0, before);
    while let Some(row) = rows.next()? {
        seen += 1;
        last = row.get(0)?;
        let text = row
            .get_ref(1)?
            .as_str()
            .map_err(|_| Error::Corrupt("text of a message"))?;
        if folded(text).contains(wanted) {
            let message = message(tx, last)?;
            found.push(corrupt(message, "a message that was there is not")?);
            if found.len() >= limit as usize {
                return Ok(Searched { found, before: None });
            }
        }
    }
    let before = (seen == SEARCH_ROWS_AT_ONCE).then_some(last);
    Ok(Searched { found, before })
}

#[cfg(test)]
mod tests {
    use larder_pool::LocalStore;

    use super::*;
    use crate::core::schema::migrate;

    /// However long the history is, a page costs what is on it.
    #[test]
    fn pages_marks_and_what_is_unsent_are_read_by_an_index_and_without_sorting() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = LocalStore::open(&directory.path().join("larder.db")).unwrap();
        migrate(&mut store).unwrap();
        let mut plan = |sql: &str| -> String {
            let mut statement = store
                .connection_mut()
                .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
                .unwrap();
            let nulls = vec![rusqlite::types::Null; statement.parameter_count()];
            let rows = statement
                .query_map(rusqlite::params_from_iter(nulls), |row| row.get::<_, String>(3))
                .unwrap();
            rows.map(|row| row.unwrap() + "\n").collect()
        };
        for (sql, index) in [
            (history_sql(), "messages_of_group (group_id=? AND rowid<?)"),
            (
                "SELECT max(m.row) FROM messages m WHERE m.group_id = ?1".to_owned(),
                "messages_of_group (group_id=?)",
            ),
            (
                "SELECT row FROM messages WHERE status = ?1 AND status <> 0 ORDER BY row".to_owned(),
                "messages_unsent (status=?)",
            ),
            (unread_sql(), "messages_of_group (group_id=? AND rowid>?)"),
        ] {
            let plan = plan(&sql);
            assert!(plan.contains(index), "{plan}");
            assert!(!plan.contains("SCAN m"), "{plan}");
        }
        assert!(!plan(&history_sql()).contains("B-TREE"));
    }
}
