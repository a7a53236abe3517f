use larder_pool::Tx;
use larder_wire::{Base64Url, DeviceId, KeyPackageRef, MESSAGES_MAX, UserName};
use rusqlite::{Connection, OptionalExtension, named_params};
use serde::{Deserialize, Serialize};

use crate::core::invitation::Extent;
use crate::core::schema::corrupt;
use crate::core::settle::Purpose;
use crate::core::{attachments, messages};
use crate::error::Error;
use crate::types::{GroupKey, SendStatus};

/// Messages that go out together are no more than this together, in bytes, unless it is one: on a slow line, too, they have to
/// arrive before the server or the network gives up.
const TOGETHER_BYTES_MAX: usize = 256 * 1024;

/// What is due: ready, of a group of which nothing is set aside, and behind nothing of it that has to be made again first.
const DUE: &str = "FROM outbox o WHERE state = 0 AND NOT EXISTS (
    SELECT 1 FROM outbox e WHERE e.group_id = o.group_id
        AND (e.set_aside = 1 OR e.id < o.id AND e.state = 1 AND (e.handshake = 1 OR o.handshake = 0)))";

const STATE_READY: i64 = 0;
const STATE_TO_REMAKE: i64 = 1;

/// What a request in the outbox is for, and what it takes to make it again at another epoch.
#[derive(Clone, Serialize, Deserialize)]
pub(super) enum Intent {
    /// Tells the server of a new group.
    CreateGroup,
    /// Adds the owners of these KeyPackages, which are reserved for this group.
    Invite {
        reservation_id: Option<String>,
        packages: Vec<InvitePackage>,
        #[serde(rename = "all_or_nobody")]
        extent: Extent,
    },
    /// Removes all devices of a user.
    Remove { user: UserName },
    /// Removes the leaves of devices that have left, or that their users have removed.
    RemoveGone,
    /// Commits what members proposed.
    CommitProposals,
    /// Refreshes our leaf.
    Update,
    /// Says that this device has left; perhaps not for the first time.
    Leave { again: bool },
    /// Comes back by an external Commit.
    Rejoin,
    /// Sends a payload. `row` is its row in the history, if it has one.
    Message { payload: Base64Url, row: Option<i64> },
}

impl Intent {
    pub(super) fn purpose(&self) -> Purpose {
        match self {
            Self::CommitProposals | Self::RemoveGone => Purpose::Proposals,
            Self::Update => Purpose::Update,
            Self::Rejoin => Purpose::Rejoin,
            Self::CreateGroup
            | Self::Invite { .. }
            | Self::Remove { .. }
            | Self::Leave { .. }
            | Self::Message { .. } => Purpose::Asked,
        }
    }

    /// Whether it concerns who is in the group, or their keys.
    fn is_handshake(&self) -> bool {
        match self {
            Self::Message { .. } => false,
            Self::CreateGroup
            | Self::Invite { .. }
            | Self::Remove { .. }
            | Self::RemoveGone
            | Self::CommitProposals
            | Self::Update
            | Self::Leave { .. }
            | Self::Rejoin => true,
        }
    }
}

/// A KeyPackage that was checked against what was asked for.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct InvitePackage {
    pub(super) user: UserName,
    pub(super) device_id: DeviceId,
    pub(super) key_package_ref: KeyPackageRef,
    pub(super) key_package: Base64Url,
}

/// What is due.
pub(crate) enum Due {
    Request(QueuedRequest),
    Messages(QueuedMessages),
}

pub(crate) struct QueuedRequest {
    pub(crate) id: i64,
    pub(crate) path: String,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) body: Vec<u8>,
    /// Whether it says that this device has left: that deletes what is at the path, and everything else is posted there.
    pub(crate) departs: bool,
}

/// Messages to one group that go out together, in their order.
pub(crate) struct QueuedMessages {
    pub(crate) path: String,
    pub(crate) ids: Vec<i64>,
    pub(crate) messages: Vec<Vec<u8>>,
}

/// Puts a message into the outbox that can be encrypted only once a Commit before it is settled.
pub(super) fn push_to_make(
    connection: &Connection,
    group: &GroupKey,
    path: &str,
    intent: &Intent,
) -> Result<i64, Error> {
    let id = push_message(connection, group, path, &[], intent)?;
    remake_later(connection, id, None)?;
    Ok(id)
}

/// Puts a request into the outbox.
pub(super) fn push(
    connection: &Connection,
    group: &GroupKey,
    path: &str,
    idempotency_key: Option<&str>,
    request: &impl Serialize,
    intent: &Intent,
) -> Result<i64, Error> {
    insert(
        connection,
        group,
        (path, idempotency_key),
        &json(request)?,
        intent,
    )
}

/// Puts it into the outbox that this device has left, as it was signed.
pub(super) fn push_departure(
    connection: &Connection,
    group: &GroupKey,
    request: &[u8],
    again: bool,
) -> Result<i64, Error> {
    let path = format!("/v1/groups/{group}/membership");
    insert(
        connection,
        group,
        (&path, None),
        request,
        &Intent::Leave { again },
    )
}

/// Puts a message into the outbox.
pub(super) fn push_message(
    connection: &Connection,
    group: &GroupKey,
    path: &str,
    message: &[u8],
    intent: &Intent,
) -> Result<i64, Error> {
    insert(connection, group, (path, None), message, intent)
}

fn insert(
    connection: &Connection,
    group: &GroupKey,
    (path, idempotency_key): (&str, Option<&str>),
    body: &[u8],
    intent: &Intent,
) -> Result<i64, Error> {
    connection.execute(
        "INSERT INTO outbox (group_id, path, departs, idempotency_key, body, intent, handshake, state)
         VALUES (:group_id, :path, :departs, :key, :body, :intent, :handshake, :state)",
        named_params! {
            ":group_id": group.as_bytes(),
            ":path": path,
            ":departs": matches!(intent, Intent::Leave { .. }),
            ":key": idempotency_key,
            ":body": body,
            ":intent": json(intent)?,
            ":handshake": intent.is_handshake(),
            ":state": STATE_READY,
        },
    )?;
    Ok(connection.last_insert_rowid())
}

pub(super) fn json(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(Error::mls("encoding a request"))
}

/// The oldest request that is due; with a message, those behind it that can go out together with it. What is of one group goes
/// out in order: behind one that has to be made again, the others wait; only a Commit or a proposal does not wait for a message,
/// which may itself wait for it.
pub(crate) fn next_due(tx: &Tx<'_>) -> Result<Option<Due>, Error> {
    let connection = tx.connection();
    let first = connection
        .prepare_cached(&format!(
            "SELECT id, path, idempotency_key, body, handshake, group_id, departs {DUE} ORDER BY id LIMIT 1"
        ))?
        .query_row([], |row| {
            let request = QueuedRequest {
                id: row.get(0)?,
                path: row.get(1)?,
                idempotency_key: row.get(2)?,
                body: row.get(3)?,
                departs: row.get(6)?,
            };
            Ok((request, row.get::<_, bool>(4)?, row.get::<_, Vec<u8>>(5)?))
        })
        .optional()?;
    Ok(match first {
        Some((request, true, _)) => Some(Due::Request(request)),
        Some((first, false, group)) => Some(Due::Messages(together(connection, first, &group)?)),
        None => None,
    })
}

/// A message with those right behind it.
fn together(connection: &Connection, first: QueuedRequest, group: &[u8]) -> Result<QueuedMessages, Error> {
    let mut statement = connection.prepare_cached(
        "SELECT id, body, state = 0 AND handshake = 0 FROM outbox WHERE group_id = ?1 AND id > ?2 ORDER BY id",
    )?;
    let mut behind = statement.query((group, first.id))?;
    let mut size = first.body.len();
    let mut queued = QueuedMessages {
        path: first.path,
        ids: vec![first.id],
        messages: vec![first.body],
    };
    while queued.ids.len() < MESSAGES_MAX
        && let Some(row) = behind.next()?
    {
        let message: Vec<u8> = row.get(1)?;
        size += message.len();
        if size > TOGETHER_BYTES_MAX || !row.get(2)? {
            break;
        }
        queued.ids.push(row.get(0)?);
        queued.messages.push(message);
    }
    Ok(queued)
}

/// Whether something is due.
pub(crate) fn is_due(tx: &Tx<'_>) -> Result<bool, Error> {
    Ok(tx
        .connection()
        .prepare_cached(&format!("SELECT EXISTS (SELECT 1 {DUE})"))?
        .query_row([], |row| row.get(0))?)
}

/// Whether a request is still in the outbox.
pub(crate) fn waits(tx: &Tx<'_>, id: i64) -> Result<bool, Error> {
    Ok(entry(tx.connection(), id)?.is_some())
}

/// A row with what it is for.
pub(super) struct Entry {
    pub(super) id: i64,
    pub(super) group: GroupKey,
    pub(super) intent: Intent,
    pub(super) attempts: u32,
    /// The epoch that the server named when it refused the last attempt.
    pub(super) server_epoch: Option<u64>,
}

pub(super) fn entry(connection: &Connection, id: i64) -> Result<Option<Entry>, Error> {
    entries(connection, "WHERE id = ?1", [id]).map(|found| found.into_iter().next())
}

/// The rows that have to be made again, oldest first.
pub(super) fn to_remake(connection: &Connection) -> Result<Vec<Entry>, Error> {
    entries(connection, "WHERE state = ?1 ORDER BY id", [STATE_TO_REMAKE])
}

fn entries(
    connection: &Connection,
    clause: &str,
    params: impl rusqlite::Params,
) -> Result<Vec<Entry>, Error> {
    let sql = format!("SELECT id, group_id, intent, attempts, server_epoch FROM outbox {clause}");
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(params, |row| {
        Ok((
            row.get::<_, i64>(0)?,
            row.get::<_, Vec<u8>>(1)?,
            row.get::<_, Vec<u8>>(2)?,
            row.get::<_, u32>(3)?,
            row.get::<_, Option<i64>>(4)?,
        ))
    })?;
    rows.map(|row| {
        let (id, group, intent, attempts, server_epoch) = row?;
        Ok(Entry {
            id,
            group: corrupt(GroupKey::from_bytes(&group).ok(), "group id")?,
            intent: corrupt(serde_json::from_slice(&intent).ok(), "intent in the outbox")?,
            attempts,
            server_epoch: server_epoch.map(i64::cast_unsigned),
        })
    })
    .collect()
}

/// The groups of requests that have to be made again, each with the latest epoch that the server has named in refusing one.
pub(super) fn server_epochs(connection: &Connection) -> Result<Vec<(GroupKey, u64)>, Error> {
    let mut statement = connection.prepare_cached(
        "SELECT group_id, max(server_epoch) FROM outbox WHERE server_epoch IS NOT NULL GROUP BY group_id",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)?)))?;
    rows.map(|row| {
        let (group, epoch) = row?;
        let group = corrupt(GroupKey::from_bytes(&group).ok(), "group id")?;
        Ok((group, epoch.cast_unsigned()))
    })
    .collect()
}

/// What the server has said of this group's epoch was looked into.
pub(super) fn forget_server_epochs(connection: &Connection, group: &GroupKey) -> Result<(), Error> {
    connection.execute(
        "UPDATE outbox SET server_epoch = NULL WHERE group_id = ?1",
        [group.as_bytes()],
    )?;
    Ok(())
}

/// Sends nothing of a group before [`take_up`].
pub(super) fn set_aside(connection: &Connection, group: &GroupKey) -> Result<(), Error> {
    connection.execute(
        "UPDATE outbox SET set_aside = 1 WHERE group_id = ?1",
        [group.as_bytes()],
    )?;
    Ok(())
}

/// What was set aside is due again.
pub(crate) fn take_up(tx: &Tx<'_>) -> Result<(), Error> {
    tx.connection()
        .execute("UPDATE outbox SET set_aside = 0 WHERE set_aside = 1", [])?;
    Ok(())
}

/// Whether anything waits for this group.
pub(super) fn any_of(connection: &Connection, group: &GroupKey) -> Result<bool, Error> {
    Ok(connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM outbox WHERE group_id = ?1)")?
        .query_row([group.as_bytes()], |row| row.get(0))?)
}

/// Whether a Commit or a departure of ours waits for its answer, so that no other may be made.
pub(super) fn handshake_waits(connection: &Connection, group: &GroupKey) -> Result<bool, Error> {
    Ok(connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM outbox WHERE group_id = ?1 AND handshake = 1)")?
        .query_row([group.as_bytes()], |row| row.get(0))?)
}

/// Replaces a request that was made again at the group's present epoch.
pub(super) fn replace(
    connection: &Connection,
    id: i64,
    request: &impl Serialize,
    intent: &Intent,
) -> Result<(), Error> {
    update(connection, id, &json(request)?, intent)
}

/// Replaces a message that was made again at the group's present epoch.
pub(super) fn replace_message(
    connection: &Connection,
    id: i64,
    message: &[u8],
    intent: &Intent,
) -> Result<(), Error> {
    update(connection, id, message, intent)
}

fn update(connection: &Connection, id: i64, body: &[u8], intent: &Intent) -> Result<(), Error> {
    connection.execute(
        "UPDATE outbox SET body = ?2, intent = ?3, state = ?4, attempts = attempts + 1 WHERE id = ?1",
        (id, body, json(intent)?, STATE_READY),
    )?;
    Ok(())
}

pub(super) fn remove(connection: &Connection, id: i64) -> Result<(), Error> {
    connection.execute("DELETE FROM outbox WHERE id = ?1", [id])?;
    Ok(())
}

/// Nothing of this group can be sent any more; its unsent messages have failed.
pub(super) fn drop_all_of(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    let connection = tx.connection();
    for entry in entries(connection, "WHERE group_id = ?1", [group.as_bytes()])? {
        if let Intent::Message { row: Some(row), .. } = entry.intent {
            messages::set_status(connection, row, SendStatus::Failed)?;
        }
        remove(connection, entry.id)?;
    }
    attachments::drop_all_of(tx, group)
}

/// Nothing can be sent any more, to whichever group: the messages that wait have failed.
pub(crate) fn fail_unsent(tx: &Tx<'_>) -> Result<(), Error> {
    let connection = tx.connection();
    for entry in entries(connection, "", [])? {
        if let Intent::Message { row: Some(row), .. } = entry.intent {
            messages::set_status(connection, row, SendStatus::Failed)?;
            remove(connection, entry.id)?;
        }
    }
    attachments::fail_uploads(connection)
}

/// What is to be sent to this group is made again once it was rejoined: its messages, not what was to be done to it.
pub(super) fn start_over(connection: &Connection, group: &GroupKey) -> Result<(), Error> {
    connection.execute(
        "DELETE FROM outbox WHERE group_id = ?1 AND handshake = 1",
        [group.as_bytes()],
    )?;
    connection.execute(
        "UPDATE outbox SET state = ?2, server_epoch = NULL, set_aside = 0 WHERE group_id = ?1",
        (group.as_bytes(), STATE_TO_REMAKE),
    )?;
    Ok(())
}

/// Has a row made again for another purpose than before.
pub(super) fn remake_as(connection: &Connection, id: i64, intent: &Intent) -> Result<(), Error> {
    connection.execute("UPDATE outbox SET intent = ?2 WHERE id = ?1", (id, json(intent)?))?;
    remake_later(connection, id, None)
}

pub(super) fn remake_later(connection: &Connection, id: i64, epoch: Option<u64>) -> Result<(), Error> {
    connection.execute(
        "UPDATE outbox SET state = ?2, server_epoch = ?3 WHERE id = ?1",
        (
            id,
            STATE_TO_REMAKE,
            epoch.map(|epoch| i64::try_from(epoch).unwrap_or(i64::MAX)),
        ),
    )?;
    Ok(())
}
