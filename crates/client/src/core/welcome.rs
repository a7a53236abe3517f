use larder_pool::{JoinError, PoolError, Tx};
use larder_wire::InboxRow;
use openmls::prelude::MlsGroup;
use sha2::{Digest, Sha256};

use crate::core::incoming::Failed;
use crate::core::profile::Context;
use crate::core::{groups, messages, mls, peers, requests};
use crate::error::Error;
use crate::types::{GroupKey, GroupState, MessageKind};

/// The epoch of which a Welcome needs the ratchet tree; `None` when it cannot be opened.
pub(crate) fn welcome_epoch(tx: &Tx<'_>, context: &Context, welcome: &[u8]) -> Result<Option<u64>, Error> {
    Ok(context
        .pool
        .welcome_epoch(tx, welcome, &mls::join_config())
        .map_err(PoolError::from)?)
}

/// Joins the group of a Welcome. When this fails the KeyPackage is kept, so that the genuine Welcome still joins.
pub(super) fn join(
    tx: &Tx<'_>,
    context: &Context,
    row: &InboxRow,
    tree: Option<&[u8]>,
) -> Result<(), Failed> {
    let connection = tx.connection();
    let group = row
        .group_id
        .as_ref()
        .ok_or_else(|| Failed::row("an invitation without a group arrived"))?;
    if let Some((GroupState::NeedsRejoin | GroupState::Left, _)) = groups::find(connection, group)? {
        // What is left of the group's old state is of no use, and in the way.
        mls::delete(tx, group)?;
    }
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
    let members = verify_members(tx, context, &joined.group)?;
    let inviter = requests::inviter(tx, context, &joined.group, joined.adder)?;
    groups::enter(
        connection,
        group,
        GroupState::Active,
        joined.group.epoch().as_u64(),
    )?;
    groups::set_following(connection, group, false)?;
    requests::set(connection, group, inviter.as_ref())?;
    let text = match inviter {
        None => format!("you joined a group of {members}"),
        Some(inviter) => format!("{inviter} invites you to a group of {members}"),
    };
    note(tx, context, group, MessageKind::Joined, &text)
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
    messages::note(
        tx.connection(),
        row.group_id.as_ref(),
        None,
        MessageKind::Notice,
        &format!("an invitation could not be accepted: {}", explain(context, error)),
        context.now(),
        false,
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

/// Every leaf names a user's device, and those that we know have the key that we know. Unknown ones are pinned.
/// Returns the number of members.
fn verify_members(tx: &Tx<'_>, context: &Context, group: &MlsGroup) -> Result<u32, Failed> {
    let mut members = 0;
    for member in group.members() {
        let (user, device) = mls::who(&member.credential).ok_or_else(|| {
            Failed::row("an invitation to a group with an unreadable member was not accepted")
        })?;
        let pin = peers::pin(
            tx.connection(),
            &user,
            &device,
            &member.signature_key,
            context.now(),
        )?;
        if pin == peers::Pin::Changed {
            return Err(Failed::Row(format!(
                "an invitation was not accepted: the signature key of {user}'s device {device} is not the one known before"
            )));
        }
        members += 1;
    }
    Ok(members)
}

fn note(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    kind: MessageKind,
    text: &str,
) -> Result<(), Failed> {
    messages::note(
        tx.connection(),
        Some(group),
        None,
        kind,
        text,
        context.now(),
        false,
    )?;
    Ok(())
}
