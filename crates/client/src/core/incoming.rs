use larder_judge::Rule;
use larder_lifecycle::UnixSeconds;
use larder_pool::{JoinError, Tx};
use larder_wire::{DeviceId, InboxKind, InboxRow, UserName};
use openmls::prelude::{
    ContentType, MlsGroup, MlsMessageIn, OpenMlsProvider, ProcessMessageError, ProcessedMessage,
    ProcessedMessageContent, ProtocolMessage, Sender,
};
use tls_codec::Deserialize as _;

use crate::core::messages::{self, NewMessage};
use crate::core::payload::{self, Content};
use crate::core::positions::{self, Place};
use crate::core::profile::Context;
use crate::core::{
    attachments, committed, groups, mls, naming, peers, requests, rows_seen, verdicts, welcome,
};
use crate::error::Error;
use crate::types::{GroupKey, GroupState, MessageKind, SendStatus};

/// What an inbox row led to.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Applied {
    /// A group was joined.
    pub(crate) joined: bool,
    /// The pool should be refreshed: a KeyPackage was used, or is said to be, or the directory runs low.
    pub(crate) refresh: bool,
    /// A device of this one's user came or went, or is in a new group.
    pub(crate) own_devices: bool,
    /// Its number was that of another row before.
    pub(crate) went_back: bool,
}

/// Why a row had no effect. All that it did is undone.
pub(super) enum Failed {
    /// The row is at fault; the reason, for a person.
    Row(String),
    /// The row is a Welcome, and it is at fault.
    Welcome(JoinError),
    /// The row is a Commit that the group cannot have made.
    Refused(Rule),
    /// A Commit that the group has accepted cannot be processed here.
    Lost,
    /// Something here is at fault; the row stays and is tried again.
    Fault(Box<Error>),
}

impl<E: Into<Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Fault(Box::new(error.into()))
    }
}

impl Failed {
    pub(super) fn row(reason: &str) -> Self {
        Self::Row(reason.to_owned())
    }
}

/// What became of an inbox row.
pub(crate) enum Taken {
    /// It has taken effect.
    Over(Applied),
    /// It had before, and so has everything up to it.
    Known,
    /// It had before, under another number; the group's position has moved to this one.
    Again,
    /// Rows before it are missing, so it has to wait for them.
    Beyond,
}

/// Takes over one inbox row: MLS state, history and position in one transaction.
///
/// A row that cannot be processed changes nothing but the position and the history, which says so.
pub(crate) fn apply(
    tx: &Tx<'_>,
    context: &Context,
    row: &InboxRow,
    tree: Option<&[u8]>,
) -> Result<Taken, Error> {
    let connection = tx.connection();
    let digest = rows_seen::digest(row);
    let mut went_back = false;
    if let Some(group) = &row.group_id {
        match positions::place(connection, group, row, digest.as_ref())? {
            Place::Next => {}
            Place::Again => {
                positions::advance(connection, group, row.seq)?;
                return Ok(Taken::Again);
            }
            Place::Known => {
                positions::tell_again(connection, group, row.seq)?;
                return Ok(Taken::Known);
            }
            Place::Rewritten => {
                tracing::warn!(
                    seq = row.seq,
                    "the server has another row under the number of one that was taken over"
                );
                positions::tell_of_going_back(tx, context, group)?;
                went_back = true;
            }
            Place::Beyond => {
                tracing::warn!(seq = row.seq, "the server leaves out rows of a group");
                return Ok(Taken::Beyond);
            }
        }
    }
    connection.execute_batch("SAVEPOINT larder_row")?;
    let effect = effect(tx, context, row, tree);
    let undo = "ROLLBACK TO larder_row; RELEASE larder_row";
    connection.execute_batch(if effect.is_ok() {
        "RELEASE larder_row"
    } else {
        undo
    })?;
    let mut joined = false;
    let took_effect = effect.is_ok();
    match effect {
        Ok(did_join) => joined = did_join,
        Err(Failed::Fault(error)) => return Err(*error),
        Err(Failed::Row(reason)) => {
            tracing::warn!(seq = row.seq, kind = ?row.kind, "an inbox row was not accepted");
            let group = row.group_id.as_ref();
            messages::note(
                connection,
                group,
                None,
                MessageKind::Notice,
                &reason,
                context.now(),
                false,
            )?;
        }
        Err(Failed::Welcome(error)) => welcome::quarantine(tx, context, row, &error)?,
        Err(Failed::Refused(rule)) => verdicts::refuse(tx, context, row, rule)?,
        Err(Failed::Lost) => lose(tx, context, row)?,
    }
    if let Some(group) = &row.group_id {
        positions::advance(connection, group, row.seq)?;
        if let Some(digest) = &digest {
            let is_known = groups::find(connection, group)?.is_some();
            rows_seen::remember(connection, group, (row.seq, digest), took_effect, is_known)?;
        }
    }
    Ok(Taken::Over(Applied {
        went_back,
        joined,
        refresh: matches!(row.kind, InboxKind::Welcome | InboxKind::KeyPackagesLow),
        own_devices: row.kind == InboxKind::DeviceChange
            && row.body.0 == context.identity.me.user.as_str().as_bytes(),
    }))
}

/// This device cannot follow the group any more. The next sync rejoins.
fn lose(tx: &Tx<'_>, context: &Context, row: &InboxRow) -> Result<(), Error> {
    let Some(group) = &row.group_id else {
        return Ok(());
    };
    tracing::warn!(seq = row.seq, "a Commit cannot be processed");
    if !verdicts::lose_track(tx, group)? {
        return Ok(());
    }
    let text = match requests::find(tx.connection(), group)? {
        None => "this device lost track of the group and rejoins it",
        Some(_) => "this device lost track of the group; it rejoins it if you accept",
    };
    messages::note(
        tx.connection(),
        Some(group),
        None,
        MessageKind::Notice,
        text,
        context.now(),
        false,
    )
}

/// Whether a group was joined.
fn effect(tx: &Tx<'_>, context: &Context, row: &InboxRow, tree: Option<&[u8]>) -> Result<bool, Failed> {
    match row.kind {
        // What else there is, is kept until it is acknowledged.
        InboxKind::Commit | InboxKind::Proposal | InboxKind::Message if row.gone.is_some() => {
            is_gone(tx, context, row).map(|()| false)
        }
        InboxKind::Welcome => welcome::join(tx, context, row, tree).map(|()| true),
        InboxKind::Commit | InboxKind::Proposal | InboxKind::Message => {
            group_message(tx, context, row).map(|()| false)
        }
        InboxKind::DeviceChange => {
            let user = std::str::from_utf8(&row.body.0)
                .ok()
                .and_then(|name| name.parse().ok());
            // It does no harm to be told of nobody; what matters is in the list. Of whom no device is known, there is nothing
            // to find changed.
            if let Some(user) = user
                && (user == context.identity.me.user || peers::is_known(tx.connection(), &user)?)
            {
                peers::check_later(tx.connection(), &user)?;
            }
            Ok(false)
        }
        InboxKind::Departure | InboxKind::Passed | InboxKind::KeyPackagesLow => Ok(false),
    }
}

/// The server has not kept what the row was. Of several such rows that follow one another the person is told once.
fn is_gone(tx: &Tx<'_>, context: &Context, row: &InboxRow) -> Result<(), Failed> {
    const TOLD: &str =
        "messages are missing here that the server has not kept until this device came for them";
    let Some(group) = &row.group_id else {
        return Ok(());
    };
    let Some((state, joined_epoch)) = groups::find(tx.connection(), group)? else {
        return Ok(());
    };
    if !state.takes_part() {
        return Ok(());
    }
    let current = mls::load(tx, group)?.epoch().as_u64();
    match row.kind {
        // The epoch that a Commit leads to.
        InboxKind::Commit if row.epoch.is_some_and(|epoch| epoch <= current) => Ok(()),
        InboxKind::Commit => Err(Failed::Lost),
        InboxKind::Message if row.epoch.is_none_or(|epoch| epoch >= joined_epoch) => {
            if messages::last_is_notice(tx.connection(), group, TOLD)? {
                return Ok(());
            }
            messages::note(
                tx.connection(),
                Some(group),
                None,
                MessageKind::Notice,
                TOLD,
                context.now(),
                false,
            )?;
            Ok(())
        }
        _ => Ok(()),
    }
}

fn group_message(tx: &Tx<'_>, context: &Context, row: &InboxRow) -> Result<(), Failed> {
    let group = row
        .group_id
        .as_ref()
        .ok_or_else(|| Failed::row("a message without a group arrived"))?;
    let Some((state, joined_epoch)) = groups::find(tx.connection(), group)? else {
        tracing::debug!(seq = row.seq, "a message of an unknown group");
        return Ok(());
    };
    // A group that was left, or that has to be rejoined: the history has said so already.
    if !state.takes_part() {
        return Ok(());
    }
    let message = parse(row, group)?;
    let mut mls = mls::load(tx, group)?;
    let (epoch, current) = (message.epoch().as_u64(), mls.epoch().as_u64());
    match row.kind {
        InboxKind::Message if epoch < joined_epoch => return Ok(()),
        InboxKind::Commit | InboxKind::Proposal if epoch < current => return Ok(()),
        _ if epoch > current && verdicts::holds(tx, group)? => return Ok(()),
        InboxKind::Commit if epoch > current => return Err(Failed::Lost),
        _ => {}
    }
    let provider = tx.provider();
    // Before anything else of it is looked at: whether we are removed by it, for example.
    let judge = verdicts::judge(context, provider.crypto());
    let judged = match row.kind {
        InboxKind::Commit => judge.commit(mls.public_group(), &row.body.0).map(|_| ()),
        InboxKind::Proposal => judge.proposal(mls.public_group(), &row.body.0).map(|_| ()),
        _ => Ok(()),
    };
    if let Err(reason) = judged {
        tracing::debug!(seq = row.seq, "not taken over: {reason}");
        return Err(match (row.kind, verdicts::rule_of(reason)) {
            (InboxKind::Commit, Some(rule)) => Failed::Refused(rule),
            (InboxKind::Commit, None) => Failed::Lost,
            (_, Some(rule)) => Failed::Row(verdicts::explain("a proposal", rule)),
            (_, None) => Failed::row("a message of this group could not be read"),
        });
    }
    let processed = mls
        .process_message(&provider, message)
        .map_err(|error| match error {
            ProcessMessageError::StorageError(error) => Failed::from(Error::Sqlite(error)),
            error => {
                tracing::debug!(seq = row.seq, "OpenMLS refuses a message: {error}");
                match row.kind {
                    InboxKind::Commit => Failed::Lost,
                    _ => Failed::row("a message of this group could not be read"),
                }
            }
        })?;
    content(tx, context, row, group, &mut mls, processed)
}

/// One MLS message of the kind that the row promises, for the group that the row names.
fn parse(row: &InboxRow, group: &GroupKey) -> Result<ProtocolMessage, Failed> {
    let unreadable = || match row.kind {
        InboxKind::Commit => Failed::Lost,
        _ => Failed::row("a message of this group could not be read"),
    };
    let message = MlsMessageIn::tls_deserialize_exact(&row.body.0).map_err(|_| unreadable())?;
    let message = message.try_into_protocol_message().map_err(|_| unreadable())?;
    let fits = match row.kind {
        InboxKind::Commit => message.content_type() == ContentType::Commit,
        InboxKind::Proposal => message.content_type() == ContentType::Proposal,
        _ => message.content_type() == ContentType::Application,
    };
    if fits && message.group_id().as_slice() == group.as_bytes() {
        Ok(message)
    } else {
        Err(unreadable())
    }
}

fn content(
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
    match processed.into_content() {
        ProcessedMessageContent::ApplicationMessage(message) => {
            let sender = sender.ok_or_else(|| Failed::row("a message without a readable sender arrived"))?;
            accepted_elsewhere(tx, context, group, sender.0)?;
            if requests::is_declined(tx.connection(), group, groups::group_state(tx, group)?)? {
                return Ok(());
            }
            application(tx, row, group, sender, &message.into_bytes(), now)
        }
        ProcessedMessageContent::ProposalMessage(proposal) => {
            state
                .store_pending_proposal(provider.storage(), *proposal)
                .map_err(Error::Sqlite)?;
            Ok(())
        }
        ProcessedMessageContent::StagedCommitMessage(staged) => {
            let mut events = committed::events(state, &staged, sender);
            let removed = staged.self_removed();
            let comes = rejoins && staged.remove_proposals().next().is_none();
            if comes {
                events = committed::came(by.as_ref(), &staged);
            }
            let me = &context.identity.me;
            let of_us = sender.is_some_and(|(user, _)| *user == me.user);
            let we_left = committed::leaves_by_itself(state, &staged, &me.user);
            if removed {
                // Not merged: OpenMLS deletes the keys of our path at the group's present epoch, and merging moves that on.
                committed::record(tx, group, &events, now, false)?;
                groups::depart(tx, group)?;
                return Ok(());
            }
            state
                .merge_staged_commit(&provider, *staged)
                .map_err(Error::mls("merging a Commit"))?;
            committed::record(tx, group, &events, now, false)?;
            if let Some((user, _)) = sender.filter(|_| !comes) {
                accepted_elsewhere(tx, context, group, user)?;
            }
            if we_left {
                committed::leave_too(tx, group)?;
            } else if comes && of_us {
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
fn accepted_elsewhere(tx: &Tx<'_>, context: &Context, group: &GroupKey, by: &UserName) -> Result<(), Error> {
    let is_open = groups::group_state(tx, group)? == GroupState::Active;
    match *by == context.identity.me.user && is_open {
        true => requests::set(tx.connection(), group, None),
        false => Ok(()),
    }
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
