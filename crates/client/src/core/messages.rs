use std::borrow::Borrow;

use larder_lifecycle::UnixSeconds;
use larder_pool::Tx;
use larder_wire::{Base64Url, DeviceId, UserName, parse_credential_identity};
use openmls::prelude::MlsGroup;
use rusqlite::{Connection, OptionalExtension, Row, named_params};

use crate::core::gate::{self, Cleared};
use crate::core::outbox::{self, Intent};
use crate::core::payload::{Payload, new_id};
use crate::core::profile::Context;
use crate::core::schema::corrupt;
use crate::core::{attachments, leaves, positions, removals, restored_server};
use crate::error::Error;
use crate::types::{GroupKey, Message, MessageKind, NotAdded, SendStatus, SentMessage, TEXT_BYTES_MAX};

/// Encrypts texts and puts them into the history and the outbox, in their order. Returns the outbox row of each.
pub(crate) fn send(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    texts: &[String],
) -> Result<Vec<(SentMessage, i64)>, Error> {
    if texts
        .iter()
        .any(|text| text.is_empty() || text.len() > TEXT_BYTES_MAX)
    {
        return Err(Error::InvalidText);
    }
    let cleared = gate::clear(tx, group)??;
    let now = context.now();
    let me = &context.identity.me;
    let mut payloads = Vec::with_capacity(texts.len());
    for text in texts {
        let payload = Payload::text(new_id(), text);
        let row = insert(
            tx.connection(),
            &NewMessage {
                group: Some(group),
                sender: Some((&me.user, &me.device_id)),
                id: Some(&payload.id),
                kind: MessageKind::Text,
                text,
                sent_at: now,
                received_at: now,
                mine: true,
                status: SendStatus::Pending,
            },
        )?;
        payloads.push((payload, row));
    }
    let ids = push_all(tx, context, cleared, &payloads)?;
    let sent = payloads
        .into_iter()
        .map(|(payload, _)| SentMessage::pending(payload.id));
    Ok(sent.zip(ids).collect())
}

/// What is taken up again.
pub(crate) struct Retried {
    /// How many messages.
    pub(crate) messages: u64,
    /// The outbox rows of those that can be sent now.
    pub(crate) queued: Vec<i64>,
    /// The rows in the history of those whose files have to be uploaded first.
    pub(crate) uploads: Vec<i64>,
}

/// Takes up again what the server refused or has lost, or what could not be sent when this device was not a member: the group's
/// failed and lost messages, in their order and under their ids.
pub(crate) fn retry(tx: &Tx<'_>, context: &Context, group: &GroupKey) -> Result<Retried, Error> {
    gate::require_open(tx, group)?;
    let connection = tx.connection();
    let sql =
        format!("{SELECT} WHERE m.group_id = ?1 AND m.status IN (?2, ?3) AND m.status <> 0 ORDER BY m.row");
    let statuses = (SendStatus::Failed.column(), SendStatus::Lost.column());
    let failed = select(connection, &sql, (group.as_bytes(), statuses.0, statuses.1))?;
    let mut retried = Retried {
        messages: 0,
        queued: Vec::with_capacity(failed.len()),
        uploads: Vec::new(),
    };
    for message in failed {
        let row = message.row;
        let payload = match message.kind {
            MessageKind::Attachment => attachments::payload(connection, row, message.id)?,
            MessageKind::Text
            | MessageKind::Joined
            | MessageKind::Added
            | MessageKind::Removed
            | MessageKind::Left
            | MessageKind::Notice => Some(Payload::text(message.id, &message.text)),
        };
        // A file that is neither here nor at the server is lost.
        if payload.is_none() && !attachments::can_be_uploaded(connection, row)? {
            continue;
        }
        set_status(connection, row, SendStatus::Pending)?;
        retried.messages += 1;
        match payload {
            Some(payload) => {
                let cleared = gate::clear(tx, group)??;
                retried
                    .queued
                    .push(push(tx, context, cleared, &payload, Some(row))?);
            }
            None => retried.uploads.push(row),
        }
    }
    Ok(retried)
}

/// Encrypts a payload and puts it into the outbox, like [`push_all`].
pub(super) fn push(
    tx: &Tx<'_>,
    context: &Context,
    cleared: Cleared<'_>,
    payload: &Payload,
    row: Option<i64>,
) -> Result<i64, Error> {
    let pushed = push_all(tx, context, cleared, &[(payload, row)])?;
    corrupt(pushed.first().copied(), "row in the outbox")
}

/// Encrypts payloads and puts them into the outbox, in their order; each with its message in the history, if it has one.
///
/// While a Commit of ours waits for its answer, or a proposal for its Commit, the encryption waits too: OpenMLS demands
/// the latter, and what is written after an invitation is meant for the newcomer as well.
fn push_all(
    tx: &Tx<'_>,
    context: &Context,
    cleared: Cleared<'_>,
    payloads: &[(impl Borrow<Payload>, Option<i64>)],
) -> Result<Vec<i64>, Error> {
    let group = cleared.group().clone();
    if has_to_wait(tx, context, &group, cleared.state())? {
        return payloads
            .iter()
            .map(|(payload, row)| push_later(tx, &group, payload.borrow(), *row))
            .collect();
    }
    let mut encoded = Vec::with_capacity(payloads.len());
    for (payload, row) in payloads {
        encoded.push((payload.borrow().encode()?, *row));
    }
    let messages = encrypt_all(tx, context, cleared, &encoded)?;
    let path = messages_path(&group);
    let pushed = encoded
        .into_iter()
        .zip(messages)
        .map(|((payload, row), message)| {
            let intent = Intent::Message {
                payload: Base64Url(payload),
                row,
            };
            outbox::push_message(tx.connection(), &group, &path, &message, &intent)
        });
    pushed.collect()
}

/// Puts a payload into the outbox that is encrypted once that is possible, and allowed then.
pub(super) fn push_later(
    tx: &Tx<'_>,
    group: &GroupKey,
    payload: &Payload,
    row: Option<i64>,
) -> Result<i64, Error> {
    let intent = Intent::Message {
        payload: Base64Url(payload.encode()?),
        row,
    };
    outbox::push_to_make(tx.connection(), group, &messages_path(group), &intent)
}

fn messages_path(group: &GroupKey) -> String {
    format!("/v1/groups/{group}/messages")
}

/// Whether no message of the group's present epoch can be made now.
pub(super) fn has_to_wait(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    mls: &MlsGroup,
) -> Result<bool, Error> {
    Ok(outbox::handshake_waits(tx.connection(), group)?
        || restored_server::removals_are_lost(tx, group)?
        || !removals::leaves_of_gone(tx, context, mls)?.is_empty()
        || mls.has_pending_proposals())
}

/// A payload as a PrivateMessage of the group's present epoch, as it travels; `row` is its message in the history.
pub(super) fn encrypt(
    tx: &Tx<'_>,
    context: &Context,
    cleared: Cleared<'_>,
    payload: Vec<u8>,
    row: Option<i64>,
) -> Result<Vec<u8>, Error> {
    let encrypted = encrypt_all(tx, context, cleared, &[(payload, row)])?;
    corrupt(encrypted.into_iter().next(), "message to be sent")
}

/// The same for several, in their order.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that encrypts, by leave of the gate"
)]
fn encrypt_all(
    tx: &Tx<'_>,
    context: &Context,
    cleared: Cleared<'_>,
    payloads: &[(Vec<u8>, Option<i64>)],
) -> Result<Vec<Vec<u8>>, Error> {
    let provider = tx.provider();
    leaves::used(tx, cleared.group())?;
    let mut mls = cleared.into_state();
    let epoch = mls.epoch().as_u64();
    let mut encrypted = Vec::with_capacity(payloads.len());
    for (payload, row) in payloads {
        if let Some(row) = row {
            tx.connection()
                .prepare_cached("UPDATE messages SET epoch = ?2 WHERE row = ?1")?
                .execute((row, epoch.cast_signed()))?;
        }
        let message = mls
            .create_message(&provider, &context.identity.mls, payload)
            .map_err(Error::mls("encrypting a message"))?;
        encrypted.push(message.to_bytes().map_err(Error::mls("encoding a message"))?);
    }
    Ok(encrypted)
}

/// A row of the history to be written.
pub(super) struct NewMessage<'a> {
    pub(super) group: Option<&'a GroupKey>,
    pub(super) sender: Option<(&'a UserName, &'a DeviceId)>,
    pub(super) id: Option<&'a str>,
    pub(super) kind: MessageKind,
    pub(super) text: &'a str,
    pub(super) sent_at: UnixSeconds,
    pub(super) received_at: UnixSeconds,
    pub(super) mine: bool,
    pub(super) status: SendStatus,
}

/// Writes a row, unless the same message of the same sender is there already.
pub(super) fn insert(connection: &Connection, message: &NewMessage<'_>) -> Result<Option<i64>, Error> {
    let sender = message.sender.map(|(user, device)| format!("{user}/{device}"));
    let inserted = connection
        .prepare_cached(
            "INSERT INTO messages (group_id, sender, message_id, kind, text, sent_at, received_at, mine, status)
             VALUES (:group_id, :sender, :id, :kind, :text, :sent_at, :received_at, :mine, :status)
             ON CONFLICT DO NOTHING",
        )?
        .execute(named_params! {
            ":group_id": message.group.map(GroupKey::as_bytes),
            ":sender": sender,
            ":id": message.id,
            ":kind": message.kind.column(),
            ":text": message.text,
            ":sent_at": message.sent_at.0.cast_signed(),
            ":received_at": message.received_at.0.cast_signed(),
            ":mine": message.mine,
            ":status": message.status.column(),
        })?;
    Ok((inserted == 1).then(|| connection.last_insert_rowid()))
}

/// Notes that a user was left out of an invitation that goes on without them.
pub(super) fn note_not_added(
    tx: &Tx<'_>,
    group: &GroupKey,
    user: &UserName,
    why: &NotAdded,
    now: UnixSeconds,
) -> Result<(), Error> {
    let text = format!("{user} was not added: {why}");
    notice(tx.connection(), Some(group), &text, now)
}

/// Writes into a group's history what became of this device there.
pub(super) fn note_own(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    kind: MessageKind,
    text: &str,
) -> Result<(), Error> {
    note(
        tx.connection(),
        Some(group),
        None,
        kind,
        text,
        context.now(),
        false,
    )
}

/// Whether the last row of a group's history, or of that of no group, is this notice.
pub(super) fn last_is_notice(
    connection: &Connection,
    group: Option<&GroupKey>,
    text: &str,
) -> Result<bool, Error> {
    let last: Option<(i64, String)> = connection
        .prepare_cached("SELECT kind, text FROM messages WHERE group_id IS ?1 ORDER BY row DESC LIMIT 1")?
        .query_row([group.map(GroupKey::as_bytes)], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    Ok(last.is_some_and(|(kind, last)| kind == MessageKind::Notice.column() && last == text))
}

/// The same for any of several notices.
pub(super) fn last_is_notice_of(
    connection: &Connection,
    group: Option<&GroupKey>,
    texts: &[&str],
) -> Result<bool, Error> {
    for text in texts {
        if last_is_notice(connection, group, text)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Writes a row that tells the person something: of a group, or of none.
pub(super) fn notice(
    connection: &Connection,
    group: Option<&GroupKey>,
    text: &str,
    now: UnixSeconds,
) -> Result<(), Error> {
    note(connection, group, None, MessageKind::Notice, text, now, false)
}

/// Writes a row that says what happened to a group.
pub(super) fn note(
    connection: &Connection,
    group: Option<&GroupKey>,
    by: Option<(&UserName, &DeviceId)>,
    kind: MessageKind,
    text: &str,
    now: UnixSeconds,
    mine: bool,
) -> Result<(), Error> {
    insert(
        connection,
        &NewMessage {
            group,
            sender: by,
            id: None,
            kind,
            text,
            sent_at: now,
            received_at: now,
            mine,
            status: SendStatus::Sent,
        },
    )?;
    Ok(())
}

pub(super) fn set_status(connection: &Connection, row: i64, status: SendStatus) -> Result<(), Error> {
    connection.execute(
        "UPDATE messages SET status = ?2 WHERE row = ?1",
        (row, status.column()),
    )?;
    Ok(())
}

/// The server has a message, under this number of its group's sequence.
pub(super) fn set_sent(connection: &Connection, row: i64, seq: Option<u64>) -> Result<(), Error> {
    connection.execute(
        "UPDATE messages SET status = ?2, server_seq = ?3 WHERE row = ?1",
        (row, SendStatus::Sent.column(), seq.map(positions::column)),
    )?;
    Ok(())
}

/// What [`select`] reads; the rest of the statement is the caller's.
pub(super) const SELECT: &str =
    "SELECT m.row, m.group_id, g.name, m.sender, m.message_id, m.kind, m.text, m.sent_at,
    m.received_at, m.mine, m.status, a.row IS NOT NULL
    FROM messages m LEFT JOIN groups g ON g.group_id = m.group_id LEFT JOIN attachments a ON a.row = m.row";

pub(super) fn select(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> Result<Vec<Message>, Error> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut messages = Vec::new();
    while let Some(row) = rows.next()? {
        messages.push(read(row)?);
    }
    Ok(messages)
}

fn read(row: &Row<'_>) -> Result<Message, Error> {
    let group: Option<Vec<u8>> = row.get(1)?;
    let sender: Option<String> = row.get(3)?;
    let kind = match corrupt(MessageKind::from_column(row.get(5)?), "message kind")? {
        MessageKind::Text if row.get(11)? => MessageKind::Attachment,
        kind => kind,
    };
    Ok(Message {
        row: row.get(0)?,
        group: group
            .map(|id| corrupt(GroupKey::from_bytes(&id).ok(), "group id"))
            .transpose()?,
        group_name: row.get(2)?,
        sender: sender
            .map(|sender| {
                corrupt(
                    parse_credential_identity(sender.as_bytes()).ok(),
                    "sender of a message",
                )
            })
            .transpose()?
            .map(|(user, _)| user),
        id: row.get::<_, Option<String>>(4)?.unwrap_or_default(),
        kind,
        text: row.get(6)?,
        sent_at: UnixSeconds(row.get::<_, i64>(7)?.cast_unsigned()),
        received_at: UnixSeconds(row.get::<_, i64>(8)?.cast_unsigned()),
        mine: row.get(9)?,
        status: corrupt(SendStatus::from_column(row.get(10)?), "message status")?,
    })
}

impl MessageKind {
    /// A file is a text with a row in `attachments`.
    pub(super) fn column(self) -> i64 {
        match self {
            Self::Text | Self::Attachment => 0,
            Self::Joined => 1,
            Self::Added => 2,
            Self::Removed => 3,
            Self::Left => 4,
            Self::Notice => 5,
        }
    }

    fn from_column(value: i64) -> Option<Self> {
        [
            Self::Text,
            Self::Joined,
            Self::Added,
            Self::Removed,
            Self::Left,
            Self::Notice,
        ]
        .into_iter()
        .find(|kind| kind.column() == value)
    }
}

impl SendStatus {
    pub(super) fn column(self) -> i64 {
        match self {
            Self::Sent => 0,
            Self::Pending => 1,
            Self::Failed => 2,
            Self::Lost => 3,
        }
    }

    pub(super) fn from_column(value: i64) -> Option<Self> {
        [Self::Sent, Self::Pending, Self::Failed, Self::Lost]
            .into_iter()
            .find(|status| status.column() == value)
    }
}
