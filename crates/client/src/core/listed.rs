//! Groups that the server lists and nothing explains. Each becomes a request that names who is said to be in it; once the person has
//! accepted, this device joins, and holds the group for everybody whom the request did not name.
//!
//! All of it is the server's word, so little of it is kept: so many groups at most, and none that the server does not list any more.

use std::collections::BTreeSet;

use larder_judge::{Leaf, named_in_tree};
use larder_pool::Tx;
use larder_wire::{GroupInfoAnswer, Membership, UserName};
use rusqlite::{Connection, OptionalExtension};

use crate::core::peers::{self, Standing};
use crate::core::profile::Context;
use crate::core::rejoin::{self, group_info};
use crate::core::schema::corrupt;
use crate::core::{blocks, devices, groups, holds, leaving, messages, requests, vouchers};
use crate::error::Error;
use crate::types::{ContactRequest, GroupKey, GroupState, MessageKind};

/// How many users a request names.
const USERS_MAX: usize = 256;

/// The groups that nothing explains of which this device takes note, whether the person was asked about them already or is to be.
/// The first ones stay: what the server lists now takes no place of what the person was told before.
const UNEXPLAINED_MAX: i64 = 64;

/// Takes note of groups that the server lists and this device does not know. One that the device which let this one in has vouched
/// for is to be joined; about any other one the person is to be asked. Whether any is left to a later list, because there is no room.
pub(crate) fn take_note(tx: &Tx<'_>, unknown: &[Membership]) -> Result<bool, Error> {
    let connection = tx.connection();
    let (mut is_full, mut is_any_left) = (false, false);
    for Membership { group_id, epoch, .. } in unknown {
        match vouchers::epoch(tx, group_id)? {
            Some(_) if groups::has_room(connection)? => groups::follow(connection, group_id, *epoch)?,
            Some(_) => is_any_left = true,
            None if is_full => {}
            None => is_full = !ask_later(tx, group_id)?,
        }
    }
    Ok(is_full || is_any_left)
}

/// Takes note that the person is to be asked about a group, if there is room. Whether it is so.
pub(super) fn ask_later(tx: &Tx<'_>, group: &GroupKey) -> Result<bool, Error> {
    let connection = tx.connection();
    let is_known: bool = connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM listed WHERE group_id = ?1)")?
        .query_row([group.as_bytes()], |row| row.get(0))?;
    let has_room = is_known || has_room(connection)?;
    if has_room {
        put(connection, group)?;
    }
    Ok(has_room)
}

fn put(connection: &Connection, group: &GroupKey) -> Result<(), Error> {
    connection
        .prepare_cached("INSERT INTO listed (group_id) VALUES (?1) ON CONFLICT DO NOTHING")?
        .execute([group.as_bytes()])?;
    Ok(())
}

/// Whether the person can be asked about one more group.
pub(super) fn has_room(connection: &Connection) -> Result<bool, Error> {
    Ok(unexplained(connection)? < UNEXPLAINED_MAX)
}

/// The number of groups that nothing explains.
fn unexplained(connection: &Connection) -> Result<i64, Error> {
    let asked = requests::listed(connection)?;
    let mut number = asked.len() as i64;
    for group in to_ask(connection)? {
        number += i64::from(!asked.contains(&group));
    }
    Ok(number)
}

/// Whether there is any such group. The server is to be asked again then whether it lists it.
pub(crate) fn any(tx: &Tx<'_>) -> Result<bool, Error> {
    Ok(unexplained(tx.connection())? > 0)
}

fn to_ask(connection: &Connection) -> Result<Vec<GroupKey>, Error> {
    let mut statement = connection.prepare_cached("SELECT group_id FROM listed ORDER BY group_id")?;
    let found = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
    found
        .map(|id| corrupt(GroupKey::from_bytes(&id?).ok(), "group id"))
        .collect()
}

/// The groups that the person is to be asked about, once the server has told who is in them.
pub(crate) fn groups_to_ask(tx: &Tx<'_>) -> Result<Vec<GroupKey>, Error> {
    match groups::has_room(tx.connection())? {
        true => to_ask(tx.connection()),
        false => Ok(Vec::new()),
    }
}

/// The person is not to be asked about a group any more, or was.
pub(crate) fn drop(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    tx.connection()
        .prepare_cached("DELETE FROM listed WHERE group_id = ?1")?
        .execute([group.as_bytes()])?;
    Ok(())
}

/// Drops the groups that nothing explains and that are not `listed`, those that the person was asked about, too: nobody but the
/// server has said anything of them, and it does not say so any more. Of those that are listed, and that the person was asked about
/// without knowing who is in them, it is to tell that again.
pub(crate) fn drop_all_but(tx: &Tx<'_>, listed: &[Membership]) -> Result<(), Error> {
    let connection = tx.connection();
    let listed: BTreeSet<&GroupKey> = listed.iter().map(|membership| &membership.group_id).collect();
    for group in to_ask(connection)? {
        if !listed.contains(&group) {
            drop(tx, &group)?;
        }
    }
    for group in groups::in_states(connection, &[GroupState::NeedsRejoin])? {
        let is_listed = listed.contains(&group);
        match requests::find(connection, &group)? {
            Some(ContactRequest::Listed { users: None }) if is_listed => put(connection, &group)?,
            Some(ContactRequest::Listed { .. }) if !is_listed => take_back(tx, &group)?,
            // Its voucher went with the list.
            None if !is_listed
                && groups::is_following(connection, &group)?
                && !rejoin::is_explained(tx, &group)? =>
            {
                take_back(tx, &group)?
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

fn take_back(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    tracing::info!("the server does not list a group any more that nothing explained");
    requests::forget(tx, group)?;
    groups::set_following(tx.connection(), group, false)?;
    groups::forget(tx, group)
}

/// Asks the person about a group of the list, as the server tells of it.
pub(crate) fn ask_about(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    answer: Option<&GroupInfoAnswer>,
) -> Result<(), Error> {
    let connection = tx.connection();
    drop(tx, group)?;
    let request = requests::find(connection, group)?;
    match (groups::find(connection, group)?, &request) {
        (None | Some((GroupState::Left, _)), None) => {
            if !groups::has_room(connection)? {
                return Ok(());
            }
            groups::follow(connection, group, 0)?;
        }
        // The person was asked, without knowing who is in it.
        (Some((GroupState::NeedsRejoin, _)), Some(ContactRequest::Listed { users: None })) => {
            if answer
                .and_then(|answer| said_to_be_in(context, group, answer))
                .is_none()
            {
                return Ok(());
            }
        }
        // It is not the server's word alone any more; or there is an invitation to it that the person has to answer first.
        (Some(_), _) | (None, Some(_)) => return Ok(()),
    }
    ask(tx, context, group, answer)
}

/// Makes a request of a group that this device is to join and that nothing explains. What the server tells of it says who is in
/// it; `None` where that cannot be had. A group of users who are all blocked is declined at once.
pub(super) fn ask(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    answer: Option<&GroupInfoAnswer>,
) -> Result<(), Error> {
    tracing::warn!("the server lists a group that nothing explains");
    let connection = tx.connection();
    vouchers::drop(tx, group)?;
    groups::set_following(connection, group, true)?;
    let users = answer.and_then(|answer| said_to_be_in(context, group, answer));
    if let Some(users) = &users
        && blocks::are_all_blocked(tx, users)?
    {
        return leaving::leave(tx, context, group);
    }
    let request = ContactRequest::Listed { users };
    requests::set(connection, group, Some(&request))?;
    let text = request.to_string();
    messages::note_own(tx, context, group, MessageKind::Joined, &text)
}

/// The other users in a group, as the server says.
pub(super) fn said_to_be_in(
    context: &Context,
    group: &GroupKey,
    answer: &GroupInfoAnswer,
) -> Option<Vec<UserName>> {
    group_info(group, answer).ok()?;
    let named = named_in_tree(&answer.ratchet_tree.0)?;
    let users: BTreeSet<UserName> = named.into_iter().map(|(user, _)| user).collect();
    let others = users.into_iter().filter(|user| *user != context.identity.me.user);
    Some(others.take(USERS_MAX).collect())
}

/// The server offers a group with these users in the place of one that this device was in, and nothing links the two; `None` when
/// it offers none that could be joined.
pub(super) fn offer(tx: &Tx<'_>, group: &GroupKey, users: Option<&[UserName]>) -> Result<(), Error> {
    tx.connection().execute(
        "UPDATE groups SET offered = ?2 WHERE group_id = ?1",
        (group.as_bytes(), users.map(joined)),
    )?;
    Ok(())
}

/// With whom the server offers a group in the place of this one.
pub(super) fn offered(connection: &Connection, group: &GroupKey) -> Result<Option<Vec<UserName>>, Error> {
    users_in(
        connection,
        "SELECT offered FROM groups WHERE group_id = ?1",
        group,
    )
}

fn users_in(connection: &Connection, sql: &str, group: &GroupKey) -> Result<Option<Vec<UserName>>, Error> {
    let users: Option<String> = connection
        .prepare_cached(sql)?
        .query_row([group.as_bytes()], |row| row.get(0))
        .optional()?
        .flatten();
    users.map(|users| split(&users)).transpose()
}

/// The person accepts such a group, with these users in it.
pub(super) fn accepted(tx: &Tx<'_>, group: &GroupKey, users: &[UserName]) -> Result<(), Error> {
    tx.connection().execute(
        "UPDATE groups SET accepted_with = ?2, offered = NULL WHERE group_id = ?1",
        (group.as_bytes(), joined(users)),
    )?;
    Ok(())
}

/// With whom the person has accepted such a group, which is not joined yet.
pub(super) fn accepted_with(tx: &Tx<'_>, group: &GroupKey) -> Result<Option<Vec<UserName>>, Error> {
    let sql = "SELECT accepted_with FROM groups WHERE group_id = ?1";
    users_in(tx.connection(), sql, group)
}

/// The group is joined, or left: what had to explain it before is over.
pub(super) fn joined_group(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    vouchers::drop(tx, group)?;
    drop(tx, group)?;
    tx.connection()
        .prepare_cached(
            "UPDATE groups SET accepted_with = NULL, offered = NULL
             WHERE group_id = ?1 AND (accepted_with IS NOT NULL OR offered IS NOT NULL)",
        )?
        .execute([group.as_bytes()])?;
    Ok(())
}

/// Holds a group for those in it with whom the person has not accepted it.
pub(super) fn hold_for_others(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    accepted_with: &[UserName],
    now: &[Leaf],
) -> Result<(), Error> {
    let mut known = Vec::new();
    for leaf in now {
        if is_expected(tx, context, accepted_with, leaf)? {
            known.push(leaf.clone());
        }
    }
    holds::hold(tx, context, group, (&known, now))
}

/// Whether the person expects this leaf: it is this device's, another device's of theirs, or one of those whom they have accepted,
/// as far as anything is known of their devices. A name alone says nothing of a leaf.
fn is_expected(
    tx: &Tx<'_>,
    context: &Context,
    accepted_with: &[UserName],
    leaf: &Leaf,
) -> Result<bool, Error> {
    let me = &context.identity.me;
    if leaf.user == me.user {
        return Ok(leaf.device == me.device_id || devices::is_sibling(tx, context, leaf)?);
    }
    let connection = tx.connection();
    let is_known = peers::of_user(connection, &leaf.user)?
        .iter()
        .any(|peer| peer.standing == Standing::Authorized);
    Ok(accepted_with.contains(&leaf.user) && (!is_known || peers::is_authorized(connection, leaf)?))
}

/// Users as they are stored.
pub(super) fn joined(users: &[UserName]) -> String {
    let names: Vec<&str> = users.iter().map(UserName::as_str).collect();
    names.join(" ")
}

pub(super) fn split(users: &str) -> Result<Vec<UserName>, Error> {
    users
        .split_whitespace()
        .map(|user| corrupt(user.parse().ok(), "user name"))
        .collect()
}
