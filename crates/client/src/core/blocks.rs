//! Users whom this device has blocked: it joins nothing that they invite it to, and the person is not told of it. Of what the server
//! lists the person is told only if anybody else is in it.

use larder_pool::Tx;
use larder_wire::UserName;

use crate::core::schema::corrupt;
use crate::error::Error;

/// Notes that a user is blocked, or is not any more. The server is still to be told.
pub(crate) fn note(tx: &Tx<'_>, user: &UserName, is_blocked: bool) -> Result<(), Error> {
    tx.connection().execute(
        "INSERT INTO blocks (user, blocked, told) VALUES (?1, ?2, 0)
         ON CONFLICT (user) DO UPDATE SET blocked = excluded.blocked, told = 0
             WHERE blocked <> excluded.blocked",
        (user.as_str(), is_blocked),
    )?;
    Ok(())
}

/// The users of whom the server is to be told, and whether they are blocked.
pub(crate) fn untold(tx: &Tx<'_>) -> Result<Vec<(UserName, bool)>, Error> {
    let mut statement = tx
        .connection()
        .prepare_cached("SELECT user, blocked FROM blocks WHERE told = 0")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?;
    rows.map(|row| {
        let (user, is_blocked) = row?;
        Ok((corrupt(user.parse().ok(), "a user's name")?, is_blocked))
    })
    .collect()
}

/// The server has answered that a user is blocked, or is not any more.
pub(crate) fn told(tx: &Tx<'_>, user: &UserName, is_blocked: bool) -> Result<(), Error> {
    let sql = match is_blocked {
        true => "UPDATE blocks SET told = 1 WHERE user = ?1 AND blocked = 1",
        false => "DELETE FROM blocks WHERE user = ?1 AND blocked = 0",
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
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM blocks WHERE user = ?1 AND blocked = 1)")?
        .query_row([user.as_str()], |row| row.get(0))?)
}
