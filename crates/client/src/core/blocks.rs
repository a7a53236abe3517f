//! Users whom this device has blocked: the server tells of what it lists only if anybody else is in it.

use larder_pool::Tx;
use larder_wire::UserName;

use crate::error::Error;

/// Notes that a user is blocked, or is not any more.
pub(crate) fn note(tx: &Tx<'_>, user: &UserName, is_blocked: bool) -> Result<(), Error> {
    let sql = match is_blocked {
        true => "INSERT OR IGNORE INTO blocks (user) VALUES (?1)",
        false => "DELETE FROM blocks WHERE user = ?1",
    };
    tx.connection().execute(sql, [user.as_str()])?;
    Ok(())
}

/// Whether these are users, and all of them are blocked.
pub(super) fn are_all_blocked(tx: &Tx<'_>, users: &[UserName]) -> Result<bool, Error> {
    let mut statement = tx
        .connection()
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM blocks WHERE user = ?1)")?;
    for user in users {
        if !statement.query_row([user.as_str()], |row| row.get(0))? {
            return Ok(false);
        }
    }
    Ok(!users.is_empty())
}
