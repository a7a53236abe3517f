use larder_judge::Leaf;
use larder_pool::{JoinError, PoolError, Tx};
use larder_wire::InboxRow;
use openmls::prelude::MlsGroup;
use sha2::{Digest, Sha256};

use crate::core::incoming::Failed;
use crate::core::last_known::{self, LastKnown, Link};
use crate::core::profile::Context;
use crate::core::{
    blocks, denials, departures, epochs, groups, holds, leaving, listed, messages, mls, peers, rejoin,
    requests,
};
use crate::error::Error;
use crate::types::{ContactRequest, GroupKey, GroupState, MessageKind};

/// The epoch of which a Welcome needs the ratchet tree; `None` when it cannot be opened.
pub(crate) fn welcome_epoch(tx: &Tx<'_>, context: &Context, welcome: &[u8]) -> Result<Option<u64>, Error> {
    Ok(context
        .pool
        .welcome_epoch(tx, welcome, &mls::join_config())
        .map_err(PoolError::from)?)
}

/// What the person is told of an invitation to one group too many.
const NO_ROOM: &str = "an invitation was not accepted: this device is in as many groups as it can be in";

/// Joins the group of a Welcome. When this fails the KeyPackage is kept, so that the genuine Welcome still joins. Whether the group
/// was joined: one that a blocked user invites to is left at once, without a word to the person.
pub(super) fn join(
    tx: &Tx<'_>,
    context: &Context,
    row: &InboxRow,
    tree: Option<&[u8]>,
) -> Result<bool, Failed> {
    let connection = tx.connection();
    let group = row
        .group_id
        .as_ref()
        .ok_or_else(|| Failed::row("an invitation without a group arrived"))?;
    let before = groups::find(connection, group)?.map(|(state, _)| state);
    if matches!(before, None | Some(GroupState::Left)) && !groups::has_room(connection)? {
        return Err(Failed::row(NO_ROOM));
    }
    let known = give_way(tx, group)?;
    let joined = context
        .pool
        .join(tx, &row.body.0, tree, &mls::join_config(), context.cautious_now())
        .map_err(|error| match error {
            JoinError::Pool(error) => Failed::from(Error::Pool(error)),
            error => Failed::Welcome(error),
        })?;
    if joined.group.group_id().as_slice() != group.as_bytes() {
        return Err(Failed::row("an invitation to another group than it said arrived"));
    }
    let adder = requests::adder(&joined.group, joined.adder)?;
    if blocks::is_blocked(tx, &adder.user)? {
        return match before {
            None | Some(GroupState::Left) => turn_away(tx, context, group, &joined.group).map(|()| false),
            // A blocked user takes nobody out of a group that both are in.
            Some(GroupState::Creating | GroupState::Active | GroupState::NeedsRejoin) => Err(Failed::Blocked),
        };
    }
    let members = verify_members(tx, &joined.group)?;
    if let Some(known) = known {
        require_link(tx, context, (group, &joined.group), &adder, &known)?;
    }
    let inviter = requests::inviter(tx, context, adder)?;
    let request = inviter.clone().map(|by| ContactRequest::Invitation { by });
    groups::enter(
        connection,
        group,
        GroupState::Active,
        joined.group.epoch().as_u64(),
    )?;
    epochs::note(tx, group, joined.group.public_group())?;
    departures::settle(tx, group, joined.group.public_group())?;
    groups::set_following(connection, group, false)?;
    if !holds::is_held(connection, group)? {
        last_known::forget(tx, group)?;
    }
    listed::joined_group(tx, group)?;
    match &request {
        Some(request) => requests::set(connection, group, Some(request))?,
        None => requests::accepted(tx, group, context.now())?,
    }
    let text = match inviter {
        None => format!("you joined a group of {members}"),
        Some(inviter) => format!("{inviter} invites you to a group of {members}"),
    };
    messages::note_own(tx, context, group, MessageKind::Joined, &text)?;
    Ok(true)
}

/// Leaves a group that a blocked user has invited this one to. The server is told, and whoever else is in it.
fn turn_away(tx: &Tx<'_>, context: &Context, group: &GroupKey, joined: &MlsGroup) -> Result<(), Failed> {
    tracing::info!("a group that a blocked user invites to is left");
    let epoch = joined.epoch().as_u64();
    groups::enter(tx.connection(), group, GroupState::Active, epoch)?;
    Ok(leaving::turn_away(tx, context, group)?)
}

/// Takes the group's old state out of the way of a Welcome, if it is of no use any more: the group was lost track of, or the
/// server says that this device is not in it. What was known of the group then.
fn give_way(tx: &Tx<'_>, group: &GroupKey) -> Result<Option<LastKnown>, Failed> {
    let Some((state, _)) = groups::find(tx.connection(), group)? else {
        return Ok(None);
    };
    let gives_way = match state {
        GroupState::NeedsRejoin | GroupState::Left => true,
        GroupState::Creating | GroupState::Active => denials::is_denied(tx.connection(), group)?,
    };
    if !gives_way {
        return Ok(None);
    }
    let known = last_known::find(tx, group)?;
    last_known::keep(tx, group)?;
    mls::delete(tx, group)?;
    Ok(known)
}

/// A Welcome to a group that this device knows is of a member whom it knows, or it is of another group that takes the place of
/// this one.
fn require_link(
    tx: &Tx<'_>,
    context: &Context,
    (group, joined): (&GroupKey, &MlsGroup),
    adder: &Leaf,
    known: &LastKnown,
) -> Result<(), Failed> {
    let leaves: Vec<Leaf> = joined
        .members()
        .filter_map(|member| Leaf::of_member(&member))
        .collect();
    let before = known.leaves();
    let is_known = before.contains(adder);
    let goes_back = joined.epoch().as_u64() < known.epoch();
    if !is_known || (goes_back && !groups::may_go_back(tx, group)?) {
        return Err(Failed::row(
            "an invitation to this group was not accepted: nothing shows that it is to the group that this device knows",
        ));
    }
    rejoin::compare(tx, context, group, (&before, leaves), Link::Signed)?;
    Ok(())
}

/// Notes, after its effects were undone, that a Welcome failed, and tells the person; of the same failure of the same
/// Welcome only once, however often it comes.
pub(super) fn quarantine(
    tx: &Tx<'_>,
    context: &Context,
    row: &InboxRow,
    error: &JoinError,
) -> Result<(), Error> {
    tracing::warn!(
        seq = row.seq,
        code = error.code(),
        "a Welcome could not be joined"
    );
    let hash: [u8; 32] = Sha256::digest(&row.body.0).into();
    let told = matches!(error, JoinError::Quarantined { .. })
        || context
            .pool
            .quarantined(tx)?
            .iter()
            .any(|known| known.welcome_hash == hash && Some(known.reason) == error.reason());
    context.pool.quarantine(tx, &row.body.0, error, context.now())?;
    if told {
        return Ok(());
    }
    messages::notice(
        tx.connection(),
        groups::known(tx.connection(), row.group_id.as_ref())?,
        &format!("an invitation could not be accepted: {}", explain(context, error)),
        context.now(),
    )
}

/// The pool's words, with times for the person who reads them.
fn explain(context: &Context, error: &JoinError) -> String {
    let date = context.dates;
    match error {
        JoinError::AlreadySpent { at, .. } => format!(
            "a group was joined with its KeyPackage already, on {}, and it was for one only",
            date(*at)
        ),
        JoinError::Replayed { at, .. } => format!("its group was joined already, on {}", date(*at)),
        JoinError::Erased { cause, at, .. } => {
            format!("its KeyPackage was erased on {}: {cause}", date(*at))
        }
        JoinError::Expired { not_after, .. } => format!("its KeyPackage expired on {}", date(*not_after)),
        JoinError::Malformed
        | JoinError::MalformedRatchetTree
        | JoinError::NotOurs
        | JoinError::GroupExists { .. }
        | JoinError::MissingRatchetTree
        | JoinError::NotOurLeaf(_)
        | JoinError::Mls(_)
        | JoinError::Quarantined { .. }
        | JoinError::Pool(_) => error.to_string(),
    }
}

/// Every leaf names a user's device, and those that we know have the key that we know. Returns the number of members.
fn verify_members(tx: &Tx<'_>, group: &MlsGroup) -> Result<u32, Failed> {
    let mut members = 0;
    for member in group.members() {
        let (user, device) = mls::who(&member.credential).ok_or_else(|| {
            Failed::row("an invitation to a group with an unreadable member was not accepted")
        })?;
        let pin = peers::compare(tx.connection(), &user, &device, &member.signature_key)?;
        if pin == peers::Pin::Changed {
            return Err(Failed::Row(format!(
                "an invitation was not accepted: the signature key of {user}'s device {device} is not the one known before"
            )));
        }
        members += 1;
    }
    Ok(members)
}
