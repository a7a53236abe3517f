//! Groups that the server lists and nothing explains. Each is a request that names who is said to be in it; once the person has
//! accepted, this device joins, and holds the group for everybody whom the request did not name.

use std::collections::BTreeSet;

use larder_judge::{Leaf, named_in_tree};
use larder_pool::Tx;
use larder_wire::{GroupInfoAnswer, UserName};
use rusqlite::{Connection, OptionalExtension};

use crate::core::peers::{self, Standing};
use crate::core::profile::Context;
use crate::core::rejoin::group_info;
use crate::core::schema::corrupt;
use crate::core::{blocks, devices, groups, holds, leaving, messages, requests, vouchers};
use crate::error::Error;
use crate::types::{ContactRequest, GroupKey, MessageKind};

/// How many users a request names.
const USERS_MAX: usize = 256;

/// Makes a request of a group that this device is to join and that nothing explains. What the server tells of it says who is in
/// it; `None` where that cannot be had. A group of users who are all blocked is declined at once.
pub(crate) fn ask(
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

/// The group is joined: what had to explain it before is over.
pub(super) fn joined_group(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    vouchers::drop(tx, group)?;
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
