use larder_judge::Judge;
use larder_lifecycle::UnixSeconds;
use larder_wire::{
    CommitCheck, GroupId, InboxKind, MESSAGE_BYTES_MAX, PROPOSALS_WAITING_MAX, Problem, ProblemType, Sent,
};
use openmls::prelude::{Proposal, Sender};
use openmls_rust_crypto::RustCrypto;
use sha2::{Digest, Sha256};

use crate::delivery::{checks, load, parse};
use crate::error::{Fault, ServiceError};
use crate::store::{AcceptedKind, DeviceRow, NewAccepted, NewInboxRow, Tx};

/// Accepts an application message of the current or the previous epoch and delivers it to every other device that
/// was a member at that epoch and still is.
pub(crate) fn send_message(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    group: &GroupId,
    message: &[u8],
    now: UnixSeconds,
) -> Result<Sent, ServiceError> {
    // Nobody waits for the group, and nothing is hashed, for the sake of what is refused anyway.
    parse::within(message.len(), MESSAGE_BYTES_MAX, "the message")?;
    tx.lock_group(group)?;
    let members = tx.members(group)?;
    let Some((_, member_since)) = members.iter().find(|(device, _)| *device == caller.key) else {
        return Err(ProblemType::NotFound.into());
    };
    let sha256: [u8; 32] = Sha256::digest(message).into();
    if let Some(sent) = accepted_before(tx, caller, group, &sha256)? {
        return Ok(sent);
    }
    let private = parse::application(message, group)?;
    let epoch = private.epoch().as_u64();
    let current = tx
        .group_epoch(group)?
        .ok_or(Fault::Corrupt("members without a group"))?;
    if epoch > current || epoch.saturating_add(1) < current || epoch < *member_since {
        return Err(Problem::wrong_epoch(current).into());
    }
    let accepted = NewAccepted {
        kind: AcceptedKind::Message,
        epoch,
        sender: caller.key,
        sha256: &sha256,
    };
    let seq = tx.append_accepted(group, &accepted, now)?;
    let receivers: Vec<_> = members
        .iter()
        .filter(|(device, since)| *device != caller.key && *since <= epoch)
        .map(|(device, _)| *device)
        .collect();
    let row = NewInboxRow {
        kind: InboxKind::Message,
        group: Some(group),
        epoch: Some(epoch),
        body: Some(message),
    };
    tx.deliver(&receivers, &row, now)?;
    Ok(Sent { seq })
}

/// Queues a standalone proposal for the next Commit and delivers it to the other members.
///
/// Adds are refused by the [`Judge`]: whoever commits must hold the reservation, so an Add by reference could only be
/// committed by its proposer, and would block everybody else.
pub(crate) fn propose(
    tx: &Tx<'_>,
    (crypto, server_name): (&RustCrypto, &str),
    caller: &DeviceRow,
    group: &GroupId,
    proposal: &[u8],
    now: UnixSeconds,
) -> Result<Sent, ServiceError> {
    tx.lock_group(group)?;
    let members = tx.members(group)?;
    if !members.iter().any(|(device, _)| *device == caller.key) {
        return Err(ProblemType::NotFound.into());
    }
    let sha256: [u8; 32] = Sha256::digest(proposal).into();
    if let Some(sent) = accepted_before(tx, caller, group, &sha256)? {
        return Ok(sent);
    }
    let message = parse::proposal(proposal, group)?;
    let row = tx
        .group(group)?
        .ok_or(Fault::Corrupt("members without a group"))?;
    let epoch = message.epoch();
    if epoch != row.epoch {
        return Err(Problem::wrong_epoch(row.epoch).into());
    }
    let (state, mut public_group) = load(group, &row.public_state)?;
    match message.sender() {
        Sender::Member(index) if checks::is_leaf_of(&public_group, *index, caller) => {}
        Sender::Member(_) | Sender::External(_) | Sender::NewMemberProposal | Sender::NewMemberCommit => {
            return Err(Problem::commit(CommitCheck::Sender).into());
        }
    }
    let judged = Judge::new(crypto, server_name)
        .proposal(&public_group, proposal)
        .map_err(checks::not_taken)?;
    if let Proposal::Update(update) = judged.queued.proposal() {
        checks::fresh_leaf_is_bounded(update.leaf_node())?;
    }
    if state.queued_proposals_count() >= PROPOSALS_WAITING_MAX {
        return Err(parse::too_large(format!(
            "{PROPOSALS_WAITING_MAX} proposals wait for a Commit"
        )));
    }
    public_group
        .add_proposal(&state, *judged.queued)
        .map_err(Fault::from)?;
    tx.set_public_state(group, &state.encode()?)?;
    let accepted = NewAccepted {
        kind: AcceptedKind::Proposal,
        epoch,
        sender: caller.key,
        sha256: &sha256,
    };
    let seq = tx.append_accepted(group, &accepted, now)?;
    let receivers: Vec<_> = members
        .iter()
        .map(|(device, _)| *device)
        .filter(|device| *device != caller.key)
        .collect();
    let row = NewInboxRow {
        kind: InboxKind::Proposal,
        group: Some(group),
        epoch: Some(epoch),
        body: Some(proposal),
    };
    tx.deliver(&receivers, &row, now)?;
    Ok(Sent { seq })
}

/// The answer to the same bytes from the same device, if they were accepted.
fn accepted_before(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    group: &GroupId,
    sha256: &[u8],
) -> Result<Option<Sent>, ServiceError> {
    let earlier = tx.accepted(group, sha256)?;
    match earlier {
        Some(earlier) if earlier.sender == caller.key => Ok(Some(Sent { seq: earlier.seq })),
        // Somebody else's bytes: replayed, not sent.
        Some(_) => Err(ProblemType::Forbidden.into()),
        None => Ok(None),
    }
}
