//! What the messages of a group hold, and what follows from it.

use larder_judge::Leaf;
use larder_lifecycle::UnixSeconds;
use larder_pool::Tx;
use larder_wire::{DeviceId, InboxRow, UserName};
use openmls::prelude::{
    MergeCommitError, MlsGroup, OpenMlsProvider, ProcessedMessage, ProcessedMessageContent, Sender,
};

use crate::core::incoming::Failed;
use crate::core::messages::{self, NewMessage};
use crate::core::payload::{self, Content};
use crate::core::profile::Context;
use crate::core::{
    attachments, committed, departures, devices, epochs, groups, holds, mls, naming, removed_leaves, requests,
};
use crate::error::Error;
use crate::types::{GroupKey, GroupState, MessageKind, SendStatus};

/// Takes over what a message of a group holds, once MLS has opened it.
pub(super) fn content(
    tx: &Tx<'_>,
    context: &Context,
    row: &InboxRow,
    group: &GroupKey,
    state: &mut MlsGroup,
    processed: ProcessedMessage,
) -> Result<(), Failed> {
    let provider = tx.provider();
    let now = context.now();
    let by = mls::who(processed.credential());
    let sender = by.as_ref().map(|(user, device)| (user, device));
    let rejoins = matches!(processed.sender(), Sender::NewMemberCommit);
    let author = author(state, &processed);
    let is_sibling = match &author {
        Some(author) => devices::is_sibling(tx, context, author)?,
        None => false,
    };
    match processed.into_content() {
        ProcessedMessageContent::ApplicationMessage(message) => {
            let sender = sender.ok_or_else(|| Failed::row("a message without a readable sender arrived"))?;
            if is_sibling {
                accepted_elsewhere(tx, group, now)?;
                holds::lift(tx, group)?;
            }
            application(tx, row, group, sender, &message.into_bytes(), now)
        }
        ProcessedMessageContent::ProposalMessage(proposal) => {
            // One that waits already, because it is fetched again, is stored once.
            state
                .store_pending_proposal(provider.storage(), *proposal)
                .map_err(Error::Sqlite)?;
            Ok(())
        }
        ProcessedMessageContent::StagedCommitMessage(staged) => {
            let departed = departures::leaves(tx, context, state)?;
            let mut events = committed::events(state, &staged, sender, &departed);
            let removed = staged.self_removed();
            let comes = rejoins && staged.remove_proposals().next().is_none();
            if comes {
                events = committed::came(by.as_ref(), &staged);
            }
            // What a device does in a group that is held for it, too: come back, and remove whom it saw removed.
            let says_nothing = rejoins
                || (staged.remove_proposals().next().is_some() && staged.add_proposals().next().is_none());
            let of_us = sender.is_some_and(|(user, _)| *user == context.identity.me.user);
            // By the links of a device that is still there: what this device knows holds the group instead of judging the Commit.
            let returns = match &author {
                Some(author) if comes => {
                    removed_leaves::was_removed(tx, group, author)?.then(|| author.clone())
                }
                Some(_) | None => None,
            };
            removed_leaves::note(tx, group, state, &staged)?;
            if removed {
                // Not merged: OpenMLS deletes the keys of our path at the group's present epoch, and merging moves that on.
                committed::record(tx, group, &events, now, false)?;
                groups::depart(tx, group)?;
                return Ok(());
            }
            state
                .merge_staged_commit(&provider, *staged)
                .map_err(|error| match error {
                    // Its sender's doing: the same Commit fails whenever it comes.
                    MergeCommitError::LibraryError(_) => Failed::Unfollowable,
                    storage => Error::mls("merging a Commit")(storage).into(),
                })?;
            epochs::note(tx, group, state.public_group())?;
            departures::settle(tx, group, state.public_group())?;
            committed::record(tx, group, &events, now, false)?;
            if let Some(leaf) = returns {
                holds::hold_returned(tx, context, group, &leaf)?;
            }
            if is_sibling && !says_nothing {
                accepted_elsewhere(tx, group, now)?;
                holds::lift(tx, group)?;
            }
            if comes && of_us {
                naming::announce(tx, context, group)?;
            }
            Ok(())
        }
        ProcessedMessageContent::OwnPendingCommit
        | ProcessedMessageContent::OwnPrivateMessage
        | ProcessedMessageContent::ExternalJoinProposalMessage(_) => Ok(()),
    }
}

/// Another device of this user has said or committed something, so the person has accepted the invitation there: before that
/// it sends nothing. That it came in by itself, because it is new, says nothing.
fn accepted_elsewhere(tx: &Tx<'_>, group: &GroupKey, now: UnixSeconds) -> Result<(), Error> {
    match groups::group_state(tx, group)? {
        GroupState::Active => requests::accepted(tx, group, now),
        GroupState::Creating | GroupState::Left | GroupState::NeedsRejoin => Ok(()),
    }
}

/// Whose leaf has signed a message; of an external Commit the leaf that it brings.
fn author(state: &MlsGroup, processed: &ProcessedMessage) -> Option<Leaf> {
    match (processed.sender(), processed.content()) {
        (Sender::Member(index), _) => state.members().find(|member| member.index == *index),
        (Sender::NewMemberCommit, ProcessedMessageContent::StagedCommitMessage(staged)) => {
            return staged.update_path_leaf_node().and_then(Leaf::of_node);
        }
        _ => None,
    }
    .and_then(|member| Leaf::of_member(&member))
}

fn application(
    tx: &Tx<'_>,
    row: &InboxRow,
    group: &GroupKey,
    sender: (&UserName, &DeviceId),
    bytes: &[u8],
    now: UnixSeconds,
) -> Result<(), Failed> {
    let connection = tx.connection();
    match payload::read_payload(bytes) {
        Some(Content::Text { id, text }) => {
            messages::insert(
                connection,
                &NewMessage {
                    group: Some(group),
                    sender: Some(sender),
                    id: Some(&id),
                    kind: MessageKind::Text,
                    text: &text,
                    sent_at: UnixSeconds(row.received_at),
                    received_at: now,
                    mine: false,
                    status: SendStatus::Sent,
                },
            )?;
            Ok(())
        }
        Some(Content::Attachment { id, announced }) => {
            let inserted = messages::insert(
                connection,
                &NewMessage {
                    group: Some(group),
                    sender: Some(sender),
                    id: Some(&id),
                    kind: MessageKind::Attachment,
                    text: &announced.text(),
                    sent_at: UnixSeconds(row.received_at),
                    received_at: now,
                    mine: false,
                    status: SendStatus::Sent,
                },
            )?;
            match inserted {
                Some(row) => Ok(attachments::arrived(connection, row, &announced)?),
                // It came before.
                None => Ok(()),
            }
        }
        Some(Content::GroupName { id, name }) => Ok(naming::take_over(tx, group, sender, &id, &name, now)?),
        // Neither undoes the decryption: its keys are used up.
        Some(Content::Unknown) | None => not_understood(tx, group, sender, now),
    }
}

fn not_understood(
    tx: &Tx<'_>,
    group: &GroupKey,
    sender: (&UserName, &DeviceId),
    now: UnixSeconds,
) -> Result<(), Failed> {
    let text = format!(
        "{} sent something that this version does not understand",
        sender.0
    );
    messages::note(
        tx.connection(),
        Some(group),
        Some(sender),
        MessageKind::Notice,
        &text,
        now,
        false,
    )?;
    Ok(())
}
