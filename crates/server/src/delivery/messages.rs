use larder_lifecycle::UnixSeconds;
use larder_wire::{
    Base64Url, GroupId, MESSAGES_MAX, MessageResult, MessagesSent, Problem, ProblemType,
    SENDER_WAITING_BYTES_MAX, Sent,
};
use sha2::{Digest, Sha256};

use crate::delivery::judge::JudgedProposal;
use crate::delivery::offer::OfferedProposal;
use crate::delivery::parse;
use crate::error::{Fault, ServiceError};
use crate::store::{AcceptedRow, Appended, DeviceRow, LogKind, NewMessage, NewRow, Tx};

/// Bodies that are looked at, to make room for a message.
const LOOKED_AT_MAX: u32 = 500;
/// How long a sender waits whose messages nobody comes for, in seconds.
const WAITING_RETRY_SECONDS: u32 = 60;

/// Application messages as somebody asks for them: bounded and read, each by itself.
pub(crate) struct OfferedMessages {
    group: GroupId,
    messages: Vec<Result<OfferedMessage, Box<Problem>>>,
}

struct OfferedMessage {
    sha256: [u8; 32],
    bytes: Vec<u8>,
    epoch: u64,
}

impl OfferedMessages {
    pub(crate) fn read(group: GroupId, messages: Vec<Base64Url>) -> Result<Self, ServiceError> {
        if !(1..=MESSAGES_MAX).contains(&messages.len()) {
            return Err(parse::malformed(format!(
                "1 to {MESSAGES_MAX} messages in one request"
            )));
        }
        let messages =
            messages
                .into_iter()
                .map(|Base64Url(bytes)| match OfferedMessage::read(&group, bytes) {
                    Ok(message) => Ok(Ok(message)),
                    Err(ServiceError::Refused(problem)) => Ok(Err(problem)),
                    Err(ServiceError::Fault(fault)) => Err(fault),
                });
        Ok(Self {
            messages: messages.collect::<Result<_, _>>()?,
            group,
        })
    }

    fn readable(&self) -> impl Iterator<Item = &OfferedMessage> {
        self.messages.iter().flatten()
    }
}

impl OfferedMessage {
    fn read(group: &GroupId, bytes: Vec<u8>) -> Result<Self, ServiceError> {
        Ok(Self {
            epoch: parse::application(&bytes, group)?.epoch().as_u64(),
            sha256: Sha256::digest(&bytes).into(),
            bytes,
        })
    }
}

/// How many messages, and their bytes together.
fn extent<'m>(messages: impl Iterator<Item = &'m OfferedMessage>) -> (usize, usize) {
    messages.fold((0, 0), |(count, size), message| {
        (count + 1, size + message.bytes.len())
    })
}

/// How much may wait in a group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    /// Bytes of messages that wait in one group.
    pub(crate) group_bytes_max: u64,
    /// Messages from before this are kept for nobody.
    pub(crate) since: UnixSeconds,
}

/// Reads ahead what [`send_messages`] asks for first.
pub(crate) fn send_messages_ahead(tx: &Tx<'_>, caller: &DeviceRow, offered: &OfferedMessages) {
    let (count, size) = extent(offered.readable());
    tx.next_for_messages_ahead(&offered.group, (count, size));
    tx.count_waiting_ahead(&offered.group, caller.key, size);
    tx.accepted_ahead(&offered.group, offered.readable().map(|message| &message.sha256));
}

/// Accepts application messages of the current or the previous epoch: one row each, whoever gets it.
pub(crate) fn send_messages(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    offered: &OfferedMessages,
    keep: Keep,
    now: UnixSeconds,
) -> Result<MessagesSent, ServiceError> {
    let group = &offered.group;
    let (count, size) = extent(offered.readable());
    let appended = tx
        .next_for_messages(group, (count, size))?
        .ok_or(ProblemType::NotFound)?;
    let sender = tx
        .count_waiting(group, caller.key, size)?
        .ok_or(ProblemType::NotFound)?;
    let mut waiting = (sender.waiting_bytes, appended.waiting_bytes);
    if waiting.0 > SENDER_WAITING_BYTES_MAX || waiting.1 > keep.group_bytes_max {
        waiting = make_room(tx, caller, group, keep, now)?;
    }
    let mut taking = Taking {
        caller,
        appended: &appended,
        from_epoch: sender.from_epoch,
        room: SENDER_WAITING_BYTES_MAX.saturating_sub(waiting.0.saturating_sub(size as u64)),
        is_full: false,
        taken: Vec::with_capacity(count),
    };
    let mut earlier = tx
        .accepted(group, offered.readable().map(|message| &message.sha256))?
        .into_iter();
    let mut results = Vec::with_capacity(offered.messages.len());
    for message in &offered.messages {
        let taken = match message {
            Ok(message) => taking.take(message, earlier.next().flatten()),
            Err(problem) => Err(problem.clone()),
        };
        results.push(match taken {
            Ok(seq) => MessageResult::Accepted { seq },
            // With nothing done, it is for the whole request.
            Err(problem) if taking.is_full && results.is_empty() => return Err(problem.into()),
            Err(problem) => MessageResult::Refused { problem: *problem },
        });
    }
    let taken = taking.taken;
    let (taken_count, taken_size) = extent(taken.iter().map(|(_, message)| *message));
    if taken_count < count {
        tx.give_back(group, caller.key, (count - taken_count, size - taken_size))?;
    }
    let rows = taken.iter().map(|(seq, message)| {
        let row = NewRow {
            kind: LogKind::Message,
            epoch: message.epoch,
            sender: caller.key,
            sha256: &message.sha256,
            transcript_hash: None,
            body: &message.bytes,
        };
        (*seq, row)
    });
    tx.insert_rows(group, &rows.collect::<Vec<_>>(), now)?;
    for (seq, message) in taken {
        tx.announce(NewMessage {
            group: group.clone(),
            seq,
            epoch: message.epoch,
            roster_version: appended.roster_version,
            sender: caller.key,
            received_at: now,
            body: message.bytes.clone(),
        });
    }
    let waiting = waiting.1.saturating_sub((size - taken_size) as u64);
    let over = waiting.saturating_sub(keep.group_bytes_max);
    if over > 0 {
        tx.forget_oldest_of_largest_sender(group, over)?;
    }
    Ok(MessagesSent { results })
}

/// Decides on one message after the other.
struct Taking<'a> {
    caller: &'a DeviceRow,
    /// The number of the first.
    appended: &'a Appended,
    /// The first epoch that the caller can write in.
    from_epoch: u64,
    /// Bytes of the caller that may still come to those that wait.
    room: u64,
    /// Whether one did not fit. What comes behind it does not either, or it would be read before it.
    is_full: bool,
    /// The new ones, with their numbers.
    taken: Vec<(u64, &'a OfferedMessage)>,
}

impl<'a> Taking<'a> {
    /// The number of a message in the group's log.
    fn take(
        &mut self,
        message: &'a OfferedMessage,
        earlier: Option<AcceptedRow>,
    ) -> Result<u64, Box<Problem>> {
        if let Some(sent) = answer_to(earlier, self.caller)? {
            return Ok(sent.seq);
        }
        if let Some((seq, _)) = self
            .taken
            .iter()
            .find(|(_, taken)| taken.sha256 == message.sha256)
        {
            return Ok(*seq);
        }
        let current = self.appended.epoch;
        let is_in_time = message.epoch <= current
            && message.epoch.saturating_add(1) >= current
            && message.epoch >= self.from_epoch;
        if !is_in_time {
            return Err(Box::new(Problem::wrong_epoch(current)));
        }
        let size = message.bytes.len() as u64;
        self.is_full |= size > self.room;
        if self.is_full {
            let problem = Problem {
                retry_after_seconds: std::num::NonZeroU32::new(WAITING_RETRY_SECONDS),
                ..Problem::new(ProblemType::RateLimited)
            };
            let detail = format!("{SENDER_WAITING_BYTES_MAX} bytes of your messages wait in this group");
            return Err(Box::new(problem.with_detail(detail)));
        }
        self.room -= size;
        let seq = self.appended.seq + self.taken.len() as u64;
        self.taken.push((seq, message));
        Ok(seq)
    }
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

/// Reads ahead what [`propose`] asks for first.
pub(super) fn propose_ahead(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    offer: &OfferedProposal,
    judged: &JudgedProposal,
) {
    tx.next_for_handshake_ahead(&offer.group, judged.state_seq, (false, offer.bytes.len()));
    tx.is_member_ahead(&offer.group, caller.key);
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
    tx.insert_rows(group, &[(appended.seq, row)], now)?;
    tx.wake_group(group);
    Ok(Some(Sent { seq: appended.seq }))
}

/// The answer to the same bytes from the same device, if they were accepted.
pub(super) fn answer_to(
    earlier: Option<AcceptedRow>,
    caller: &DeviceRow,
) -> Result<Option<Sent>, Box<Problem>> {
    match earlier {
        Some(earlier) if earlier.sender == caller.key => Ok(Some(Sent { seq: earlier.seq })),
        // Somebody else's bytes: replayed, not sent.
        Some(_) => Err(Box::new(Problem::new(ProblemType::Forbidden))),
        None => Ok(None),
    }
}
