//! This device leaves a group: at once, and whoever else is there to hear of it. It signs that it leaves with the leaf that it has;
//! the server takes that and delivers nothing more of the group, and a member commits the Remove (RFC 9420 §12.1.3).

use larder_judge::Departure;
use larder_pool::Tx;
use larder_wire::{Base64Url, GroupInfoAnswer, LeaveRequest, Problem, ProblemType};
use openmls::prelude::{LeafNode, StagedCommit};

use crate::core::identity::sign;
use crate::core::outbox;
use crate::core::profile::Context;
use crate::core::schema::corrupt;
use crate::core::{groups, last_known, listed, mls, rejoin, requests};
use crate::error::Error;
use crate::types::{GroupKey, GroupState};

/// Leaves a group, as its person wants it. Of it the history stays, and what the server is to be told; what came with an invitation
/// that was not answered does not. Leaving twice is no error.
///
/// # Errors
/// [`Error::GroupNotActive`] for a group that the server has not confirmed.
pub(crate) fn leave(tx: &Tx<'_>, context: &Context, group: &GroupKey) -> Result<(), Error> {
    match groups::group_state(tx, group)? {
        GroupState::Left => requests::forget(tx, group),
        state @ GroupState::Creating => Err(Error::GroupNotActive(state)),
        GroupState::Active | GroupState::NeedsRejoin => {
            requests::forget(tx, group)?;
            turn_away(tx, context, group)
        }
    }
}

/// Leaves a group that this device is in and that the person need not hear of. An invitation from before that was not answered
/// stays, with what came with it.
pub(super) fn turn_away(tx: &Tx<'_>, context: &Context, group: &GroupKey) -> Result<(), Error> {
    let leaves = own_leaves(tx, context, group)?;
    groups::depart(tx, group)?;
    if leaves.is_empty() {
        return ask_for_leaf(tx, group, true);
    }
    for leaf in &leaves {
        tell(tx, context, group, leaf)?;
    }
    Ok(())
}

/// The leaves that this device has in a group, as far as it knows: while a Commit of its own waits for the server's answer, the
/// one before it and the one after it.
fn own_leaves(tx: &Tx<'_>, context: &Context, group: &GroupKey) -> Result<Vec<LeafNode>, Error> {
    let mut leaves = Vec::new();
    match mls::find(tx, group)? {
        Some(state) => {
            leaves.extend(state.own_leaf_node().cloned());
            let pending = state.pending_commit();
            leaves.extend(pending.and_then(StagedCommit::update_path_leaf_node).cloned());
        }
        None => {
            if let Some(known) = last_known::find(tx, group)? {
                leaves.extend(last_known::leaf_of(known.state(), context.identity.mls.public()));
            }
        }
    }
    Ok(leaves)
}

/// Puts into the outbox that this device leaves, with this leaf.
fn tell(tx: &Tx<'_>, context: &Context, group: &GroupKey, leaf: &LeafNode) -> Result<(), Error> {
    let identity = &context.identity;
    let signed = Departure::signed_content(leaf, &identity.me.server_name, group);
    let signed = signed.ok_or(Error::Corrupt("an own leaf of nobody"))?;
    let request = LeaveRequest {
        signature: Base64Url(sign(&identity.mls, &signed)?),
    };
    let connection = tx.connection();
    let request = outbox::json(&request)?;
    connection.execute(
        "INSERT INTO own_departures (group_id, request) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        (group.as_bytes(), &request),
    )?;
    outbox::push_departure(connection, group, &request, false)?;
    Ok(())
}

/// The server has something of a group for this device that it has left: it has forgotten that, because it was restored, say. It is
/// told once more.
pub(super) fn leave_again(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    let connection = tx.connection();
    if outbox::handshake_waits(connection, group)? {
        return Ok(());
    }
    let mut statement =
        connection.prepare_cached("SELECT request FROM own_departures WHERE group_id = ?1")?;
    let requests: Vec<Vec<u8>> = statement
        .query_map([group.as_bytes()], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for request in requests {
        outbox::push_departure(connection, group, &request, true)?;
    }
    Ok(())
}

/// The server does not take it that this device leaves with the leaf that it was told. When it has just left, the server is asked
/// which one it has: a copy of this profile may have made another one. When it left before, it was brought back since, and the
/// person is asked.
pub(super) fn refused(tx: &Tx<'_>, group: &GroupKey, again: bool, problem: &Problem) -> Result<(), Error> {
    let is_left = groups::group_state(tx, group)? == GroupState::Left;
    if problem.problem_type != ProblemType::Forbidden || !is_left {
        return Ok(());
    }
    match again {
        true if groups::is_following(tx.connection(), group)? => Ok(()),
        true => listed::ask_later(tx, group).map(drop),
        false => ask_for_leaf(tx, group, true),
    }
}

fn ask_for_leaf(tx: &Tx<'_>, group: &GroupKey, ask: bool) -> Result<(), Error> {
    tx.connection().execute(
        "UPDATE groups SET leaf_to_ask = ?2 WHERE group_id = ?1",
        (group.as_bytes(), ask),
    )?;
    Ok(())
}

/// The groups that this device has left without knowing its leaf there, or with another one.
pub(crate) fn leaves_to_ask(tx: &Tx<'_>) -> Result<Vec<GroupKey>, Error> {
    let mut statement = tx
        .connection()
        .prepare_cached("SELECT group_id FROM groups WHERE leaf_to_ask = 1")?;
    let found = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
    found
        .map(|id| corrupt(GroupKey::from_bytes(&id?).ok(), "group id"))
        .collect()
}

/// The server tells the leaf that this device has in a group which it has left; `None` when it tells none. Whatever it is, this
/// device does not want it there. What was said of it before is not said again.
pub(crate) fn leave_as_told(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    answer: Option<&GroupInfoAnswer>,
) -> Result<(), Error> {
    ask_for_leaf(tx, group, false)?;
    let Some(answer) = answer else {
        return Ok(());
    };
    let info = rejoin::group_info(group, answer);
    let state = info.and_then(|info| rejoin::public_group(tx, info, &answer.ratchet_tree.0));
    let Ok(state) = state else {
        tracing::warn!("the server does not tell the leaf that this device has in a group");
        return Ok(());
    };
    match last_known::leaf_of(&state, context.identity.mls.public()) {
        Some(leaf) => tell(tx, context, group, &leaf),
        None => Ok(()),
    }
}
