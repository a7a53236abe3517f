//! Groups that this device came back to and in which it found others than it knew, without the members' Commits that would show
//! why. Until the person has said that this is right, what arrives there is read and nothing is said.

use std::collections::BTreeMap;

use larder_judge::Leaf;
use larder_pool::Tx;
use larder_wire::UserName;
use rusqlite::Connection;

use crate::core::profile::Context;
use crate::core::schema::corrupt;
use crate::core::{devices, groups, last_known, messages, verification};
use crate::error::Error;
use crate::types::{Difference, GroupKey, GroupState, Held};
use crate::verification::Verification;

/// Holds a group for what differs between who was in it when this device last knew and who is in it now. Without any difference
/// it is not held.
pub(super) fn hold(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    (before, now): (&[Leaf], &[Leaf]),
) -> Result<(), Error> {
    let connection = tx.connection();
    connection.execute("DELETE FROM holds WHERE group_id = ?1", [group.as_bytes()])?;
    let mut differences = BTreeMap::new();
    for leaf in before.iter().filter(|leaf| !now.contains(leaf)) {
        differences.insert(&leaf.user, Difference::Missing);
    }
    // Who has a new device is new, whoever of that user has gone.
    for leaf in now.iter().filter(|leaf| !before.contains(leaf)) {
        differences.insert(&leaf.user, Difference::New);
    }
    for (user, difference) in &differences {
        connection.execute(
            "INSERT INTO holds (group_id, user, difference) VALUES (?1, ?2, ?3)",
            (group.as_bytes(), user.as_str(), difference.column()),
        )?;
    }
    if differences.is_empty() {
        return Ok(());
    }
    let (mut verified, mut others) = (Vec::new(), Vec::new());
    for (user, difference) in differences {
        match verification::verification(tx, user)? != Verification::Unverified {
            true => verified.push(format!(
                "{user}, whom you have verified, is {}",
                difference.as_str()
            )),
            false => others.push(format!("{user} is {}", difference.as_str())),
        }
    }
    verified.append(&mut others);
    let text = format!(
        "this device came back to the group, and nothing shows why others are in it than before: {}. Nothing is sent there until \
         you have said that this is right",
        verified.join("; ")
    );
    messages::notice(connection, Some(group), &text, context.now())
}

/// Holds a group for a device that was removed from it and has come back by itself, let in by the links of another one.
pub(super) fn hold_returned(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    leaf: &Leaf,
) -> Result<(), Error> {
    let connection = tx.connection();
    connection.execute(
        "INSERT INTO holds (group_id, user, difference) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET difference = excluded.difference",
        (group.as_bytes(), leaf.user.as_str(), Difference::New.column()),
    )?;
    let text = format!(
        "the device {} of {}, which was removed from this group, has come back. Nothing is sent there until you have said that this \
         is right",
        devices::short(&leaf.device),
        leaf.user
    );
    messages::notice(connection, Some(group), &text, context.now())
}

/// For what a group is held, by user.
pub(super) fn of_group(connection: &Connection, group: &GroupKey) -> Result<Vec<Held>, Error> {
    let mut statement =
        connection.prepare_cached("SELECT user, difference FROM holds WHERE group_id = ?1 ORDER BY user")?;
    let rows = statement.query_map([group.as_bytes()], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
    })?;
    rows.map(|row| {
        let (user, difference) = row?;
        Ok(Held {
            user: corrupt(user.parse().ok(), "user name")?,
            difference: corrupt(Difference::from_column(difference), "reason of a hold")?,
        })
    })
    .collect()
}

pub(super) fn is_held(connection: &Connection, group: &GroupKey) -> Result<bool, Error> {
    Ok(connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM holds WHERE group_id = ?1)")?
        .query_row([group.as_bytes()], |row| row.get(0))?)
}

/// The person says that this user is rightly in the groups, or out of them, that are held for it. The number of those groups.
pub(crate) fn trust(tx: &Tx<'_>, user: &UserName) -> Result<u64, Error> {
    let connection = tx.connection();
    let answered = connection.execute("DELETE FROM holds WHERE user = ?1", [user.as_str()])?;
    for group in groups::in_states(connection, &[GroupState::Active])? {
        if !is_held(connection, &group)? {
            last_known::forget(tx, &group)?;
        }
    }
    Ok(answered as u64)
}

/// Another device of the user takes part in the group as it is, so the person knows it as that; or this device has left it.
pub(super) fn lift(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    let lifted = tx
        .connection()
        .prepare_cached("DELETE FROM holds WHERE group_id = ?1")?
        .execute([group.as_bytes()])?;
    match lifted {
        0 => Ok(()),
        _ => last_known::forget(tx, group),
    }
}

impl Difference {
    fn column(self) -> i64 {
        match self {
            Self::New => 0,
            Self::Missing => 1,
        }
    }

    fn from_column(value: i64) -> Option<Self> {
        [Self::New, Self::Missing]
            .into_iter()
            .find(|difference| difference.column() == value)
    }
}
