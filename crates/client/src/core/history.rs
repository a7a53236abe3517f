//! What a person has of their groups. Nothing that another user or the server does deletes a row of it: rows go here and nowhere
//! else, and only those that came with an invitation that the person has not accepted. The database refuses the rest.

use std::collections::BTreeMap;

use larder_pool::Tx;
use rusqlite::{Connection, OptionalExtension};

use crate::core::groups;
use crate::error::Error;
use crate::types::GroupKey;

/// Proof that a group has an invitation that was not answered. What came after this row of the history came with it.
pub(super) struct Unanswered<'a> {
    group: &'a GroupKey,
    after: i64,
}

impl Unanswered<'_> {
    pub(super) fn group(&self) -> &GroupKey {
        self.group
    }

    pub(super) fn after(&self) -> i64 {
        self.after
    }
}

/// The invitation to a group that was not answered, if there is one.
pub(super) fn unanswered<'a>(
    connection: &Connection,
    group: &'a GroupKey,
) -> Result<Option<Unanswered<'a>>, Error> {
    let after: Option<i64> = connection
        .prepare_cached("SELECT request_after FROM groups WHERE group_id = ?1 AND request IS NOT NULL")?
        .query_row([group.as_bytes()], |row| row.get(0))
        .optional()?;
    Ok(after.map(|after| Unanswered { group, after }))
}

/// All of them, each with the last row before it.
pub(crate) fn all_unanswered(tx: &Tx<'_>) -> Result<BTreeMap<GroupKey, i64>, Error> {
    let mut found = BTreeMap::new();
    for (group, _) in groups::all(tx.connection())? {
        if let Some(Unanswered { after, .. }) = unanswered(tx.connection(), &group)? {
            found.insert(group, after);
        }
    }
    Ok(found)
}

/// Deletes what came with an invitation, and nothing from before it: name and read mark are again what they were.
pub(super) fn forget(tx: &Tx<'_>, Unanswered { group, after }: Unanswered<'_>) -> Result<(), Error> {
    let connection = tx.connection();
    tx.note_erasure();
    connection.execute(
        "DELETE FROM messages WHERE group_id = ?1 AND row > ?2",
        (group.as_bytes(), after),
    )?;
    connection.execute(
        "UPDATE groups SET name = name_before, name_id = name_id_before, read_up_to = min(read_up_to, ?2)
         WHERE group_id = ?1",
        (group.as_bytes(), after),
    )?;
    Ok(())
}

/// Whether there is anything of a group.
pub(super) fn any(connection: &Connection, group: &GroupKey) -> Result<bool, Error> {
    Ok(connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM messages WHERE group_id = ?1)")?
        .query_row([group.as_bytes()], |row| row.get(0))?)
}
