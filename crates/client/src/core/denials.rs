//! What the server says against this device's being in a group. It ends nothing: a membership ends by a Commit of a member, or
//! because its person wants it so. The person is told, what is here is kept, and the server is asked again.

use larder_lifecycle::UnixSeconds;
use larder_pool::Tx;
use larder_wire::Membership;
use rusqlite::Connection;

use crate::core::{messages, requests};
use crate::error::Error;
use crate::types::GroupKey;

/// The server does not let this device be in a group.
pub(super) fn note(tx: &Tx<'_>, group: &GroupKey, now: UnixSeconds) -> Result<(), Error> {
    let connection = tx.connection();
    let is_new = connection.execute(
        "UPDATE groups SET denied = 1 WHERE group_id = ?1 AND denied = 0",
        [group.as_bytes()],
    )? == 1;
    if !is_new {
        return Ok(());
    }
    tracing::warn!("the server says that this device is not in a group");
    let text = match requests::find(connection, group)? {
        None => {
            "the server says that this device is not a member of the group; what is here is kept. If it stays so, somebody who \
             is in it has to invite you again"
        }
        Some(_) => {
            "the server says that this device is not a member of the group any more; what is here is kept"
        }
    };
    messages::notice(connection, Some(group), text, now)
}

/// Whether the server says that this device is not in the group.
pub(super) fn is_denied(connection: &Connection, group: &GroupKey) -> Result<bool, Error> {
    Ok(connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM groups WHERE group_id = ?1 AND denied = 1)")?
        .query_row([group.as_bytes()], |row| row.get(0))?)
}

/// Whether there is any such group: then the server is to be asked again.
pub(crate) fn any_denied(tx: &Tx<'_>) -> Result<bool, Error> {
    Ok(tx
        .connection()
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM groups WHERE denied = 1)")?
        .query_row([], |row| row.get(0))?)
}

/// The server lets this device be in the group again: it has delivered something of it, for example.
pub(super) fn lift(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    tx.connection()
        .prepare_cached("UPDATE groups SET denied = 0 WHERE group_id = ?1 AND denied = 1")?
        .execute([group.as_bytes()])?;
    Ok(())
}

/// The server tells which groups this device is in.
pub(crate) fn lift_all(tx: &Tx<'_>, memberships: &[Membership]) -> Result<(), Error> {
    for membership in memberships {
        lift(tx, &membership.group_id)?;
    }
    Ok(())
}
