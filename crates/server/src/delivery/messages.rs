use larder_lifecycle::UnixSeconds;
use larder_wire::{GroupId, MESSAGE_BYTES_MAX, Problem, ProblemType, SENDER_WAITING_BYTES_MAX, Sent};
use sha2::{Digest, Sha256};

use crate::delivery::judge::JudgedProposal;
use crate::delivery::offer::OfferedProposal;
use crate::delivery::parse;
use crate::error::{Fault, ServiceError};
use crate::store::{AcceptedRow, DeviceRow, LogKind, NewMessage, NewRow, Tx};

/// Bodies that are looked at, to make room for a message.
const LOOKED_AT_MAX: u32 = 500;
/// How long a sender waits whose messages nobody comes for, in seconds.
const WAITING_RETRY_SECONDS: u32 = 60;

/// An application message as somebody asks for it.
pub(crate) struct OfferedMessage {
    group: GroupId,
    sha256: [u8; 32],
    bytes: Vec<u8>,
    epoch: u64,
}

impl OfferedMessage {
    pub(crate) fn read(group: GroupId, bytes: Vec<u8>) -> Result<Self, ServiceError> {
        parse::within(bytes.len(), MESSAGE_BYTES_MAX, "the message")?;
        Ok(Self {
            epoch: parse::application(&bytes, &group)?.epoch().as_u64(),
            sha256: Sha256::digest(&bytes).into(),
            group,
            bytes,
        })
    }
}

/// How much may wait in a group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    /// Bytes of messages that wait in one group.
    pub(crate) group_bytes_max: u64,
    /// Messages from before this are kept for nobody.
    pub(crate) since: UnixSeconds,
}

/// Accepts an application message of the current or the previous epoch: one row, whoever gets it.
pub(crate) fn send_message(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    message: &OfferedMessage,
    keep: Keep,
    now: UnixSeconds,
) -> Result<Sent, ServiceError> {
    let (group, size) = (&message.group, message.bytes.len());
    let appended = tx.next_for_message(group, size)?.ok_or(ProblemType::NotFound)?;
    let sender = tx
        .count_waiting(group, caller.key, size)?
        .ok_or(ProblemType::NotFound)?;
    let current = appended.epoch;
    let is_in_time = message.epoch <= current
        && message.epoch.saturating_add(1) >= current
        && message.epoch >= sender.from_epoch;
    let row = NewRow {
        kind: LogKind::Message,
        epoch: message.epoch,
        sender: caller.key,
        sha256: &message.sha256,
        transcript_hash: None,
        body: &message.bytes,
    };
    if !is_in_time || !tx.insert_row(group, appended.seq, &row, now)? {
        return match answer_to(tx.accepted(group, &message.sha256)?, caller)? {
            Some(sent) => {
                tx.give_back(group, caller.key, size)?;
                Ok(sent)
            }
            None => Err(Problem::wrong_epoch(current).into()),
        };
    }
    let mut waiting = (sender.waiting_bytes, appended.waiting_bytes);
    if waiting.0 > SENDER_WAITING_BYTES_MAX || waiting.1 > keep.group_bytes_max {
        waiting = make_room(tx, caller, group, keep, now)?;
    }
    if waiting.0 > SENDER_WAITING_BYTES_MAX {
        let problem = Problem {
            retry_after_seconds: std::num::NonZeroU32::new(WAITING_RETRY_SECONDS),
            ..Problem::new(ProblemType::RateLimited)
        };
        let detail = format!("{SENDER_WAITING_BYTES_MAX} bytes of your messages wait in this group");
        return Err(problem.with_detail(detail).into());
    }
    let over = waiting.1.saturating_sub(keep.group_bytes_max);
    if over > 0 {
        tx.forget_oldest_of_largest_sender(group, over)?;
    }
    tx.announce(NewMessage {
        group: group.clone(),
        seq: appended.seq,
        epoch: message.epoch,
        roster_version: appended.roster_version,
        sender: caller.key,
        received_at: now,
        body: message.bytes.clone(),
    });
    Ok(Sent { seq: appended.seq })
}

/// Deletes what everybody has, and what is too old. Returns what waits then, of the caller and in the group.
fn make_room(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    group: &GroupId,
    keep: Keep,
    now: UnixSeconds,
) -> Result<(u64, u64), Fault> {
    while tx.sweep_bodies(group, (keep.since, now), LOOKED_AT_MAX)? == u64::from(LOOKED_AT_MAX) {}
    tx.waiting_bytes(group, caller.key)
}

/// Lets a standalone proposal wait for the next Commit. `None` when the group's public state is not the one any more that it was
/// judged against.
pub(crate) fn propose(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    offer: &OfferedProposal,
    judged: &JudgedProposal,
    now: UnixSeconds,
) -> Result<Option<Sent>, ServiceError> {
    let group = &offer.group;
    let Some(appended) = tx.next_for_handshake(group, judged.state_seq, (false, offer.bytes.len()))? else {
        return Ok(None);
    };
    if !tx.is_member(group, caller.key)? {
        return Err(ProblemType::NotFound.into());
    }
    let row = NewRow {
        kind: LogKind::Proposal,
        epoch: judged.epoch,
        sender: caller.key,
        sha256: &offer.sha256,
        transcript_hash: None,
        body: &offer.bytes,
    };
    if !tx.insert_row(group, appended.seq, &row, now)? {
        // Bytes that were accepted as something else.
        return Err(ProblemType::Forbidden.into());
    }
    tx.wake_group(group);
    Ok(Some(Sent { seq: appended.seq }))
}

/// The answer to the same bytes from the same device, if they were accepted.
pub(super) fn answer_to(
    earlier: Option<AcceptedRow>,
    caller: &DeviceRow,
) -> Result<Option<Sent>, ServiceError> {
    match earlier {
        Some(earlier) if earlier.sender == caller.key => Ok(Some(Sent { seq: earlier.seq })),
        // Somebody else's bytes: replayed, not sent.
        Some(_) => Err(ProblemType::Forbidden.into()),
        None => Ok(None),
    }
}
