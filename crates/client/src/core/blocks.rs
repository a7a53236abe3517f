//! Users whom this device has blocked: it joins nothing that they invite it to, and the person is not told of it. Of what the server
//! lists the person is told only if anybody else is in it.

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
    for user in users {
        if !is_blocked(tx, user)? {
            return Ok(false);
        }
    }
    Ok(!users.is_empty())
}

/// Whether a user is blocked.
pub(super) fn is_blocked(tx: &Tx<'_>, user: &UserName) -> Result<bool, Error> {
    Ok(tx
        .connection()
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM blocks WHERE user = ?1)")?
        .query_row([user.as_str()], |row| row.get(0))?)
}
