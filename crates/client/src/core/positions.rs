//! How far this device has taken over the rows of each group: none is taken over twice, and none is left out unseen.

use larder_pool::Tx;
use larder_wire::{Acknowledgement, GROUPS_PER_DEVICE_MAX, InboxKind, InboxRow, Position};
use rusqlite::{Connection, OptionalExtension};

use crate::core::profile::Context;
use crate::core::rows_seen::{self, Digest, Seen};
use crate::core::schema::corrupt;
use crate::core::{denials, groups, messages};
use crate::error::Error;
use crate::types::{GroupKey, GroupState};

/// What the person is told of a store that went back.
pub(super) const WENT_BACK: &str = "the server does not have all that it has delivered of this group before: what was said last \
                                    may be missing there";

/// Where a row stands to those that have been taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It is the next one.
    Next,
    /// It is the next one by its number, and has taken effect under another.
    Again,
    /// It is the next one by its number, but the device has gone back: it may have been taken over before, and which rows those
    /// were is not remembered.
    Forgotten,
    /// It has been taken over before.
    Known,
    /// It has the number of a row that has been taken over, and is another one: the log is not the one that it was.
    Rewritten,
    /// Others are missing between.
    Beyond,
}

struct Held {
    seq: u64,
    highest: u64,
    forgotten: u64,
}

/// Where a row of a group stands.
pub(super) fn place(
    connection: &Connection,
    group: &GroupKey,
    row: &InboxRow,
    digest: Option<&Digest>,
) -> Result<Place, Error> {
    let seen = match digest {
        Some(digest) => rows_seen::look(connection, group, digest)?,
        None => Seen::Never,
    };
    let Some(held) = find(connection, group)? else {
        return Ok(match seen {
            Seen::WithEffect => Place::Again,
            Seen::WithoutEffect | Seen::Never => Place::Next,
        });
    };
    let takes_part = groups::find(connection, group)?.is_some_and(|(state, _)| state == GroupState::Active);
    let is_past = row.seq <= held.seq;
    if row.kind == InboxKind::Welcome {
        match seen {
            // What comes before the Welcome by which this device has joined was not for it.
            Seen::WithEffect if !is_past => return Ok(Place::Again),
            Seen::WithEffect => return Ok(Place::Known),
            Seen::WithoutEffect if is_past => return Ok(Place::Known),
            // Who takes no part begins anywhere, and so does who takes none as the server says. Everybody else must not be led past
            // rows that they have not seen.
            Seen::WithoutEffect | Seen::Never if !takes_part || denials::is_denied(connection, group)? => {
                return Ok(Place::Next);
            }
            Seen::WithoutEffect | Seen::Never => {}
        }
    }
    if is_past {
        // What carries nothing, or is of a group that this device takes no part in, has no effect whatever it is.
        let is_known = digest.is_none() || !takes_part || seen != Seen::Never || row.seq <= held.forgotten;
        return Ok(match is_known {
            true => Place::Known,
            false => Place::Rewritten,
        });
    }
    if row.first.unwrap_or(row.seq) > held.highest.saturating_add(1) {
        return Ok(Place::Beyond);
    }
    Ok(match seen {
        Seen::WithEffect => Place::Again,
        Seen::WithoutEffect | Seen::Never if row.seq > held.forgotten => Place::Next,
        // Who takes part joins nothing: it is the one by which this device has joined, perhaps.
        Seen::WithoutEffect | Seen::Never if row.kind == InboxKind::Welcome => Place::Again,
        Seen::WithoutEffect | Seen::Never => Place::Forgotten,
    })
}

/// Whether any row of the group has come.
pub(super) fn is_known(connection: &Connection, group: &GroupKey) -> Result<bool, Error> {
    Ok(find(connection, group)?.is_some())
}

fn find(connection: &Connection, group: &GroupKey) -> Result<Option<Held>, Error> {
    Ok(connection
        .prepare_cached("SELECT seq, highest, forgotten FROM positions WHERE group_id = ?1")?
        .query_row([group.as_bytes()], |row| {
            Ok(Held {
                seq: row.get::<_, i64>(0)?.cast_unsigned(),
                highest: row.get::<_, i64>(1)?.cast_unsigned(),
                forgotten: row.get::<_, i64>(2)?.cast_unsigned(),
            })
        })
        .optional()?)
}

/// Numbers are the server's word; one that is too large for the database is as good as the largest.
pub(super) fn column(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

/// Notes that a row has taken effect, and that the server does not know it yet: it has just delivered it.
pub(super) fn advance(connection: &Connection, group: &GroupKey, seq: u64) -> Result<(), Error> {
    connection
        .prepare_cached(
            "INSERT INTO positions (group_id, seq, acknowledged, highest) VALUES (?1, ?2, 0, ?2)
             ON CONFLICT (group_id) DO UPDATE SET seq = excluded.seq, highest = max(highest, excluded.seq),
                 acknowledged = min(acknowledged, max(excluded.seq - 1, 0))",
        )?
        .execute((group.as_bytes(), column(seq)))?;
    Ok(())
}

/// Notes that the server does not know that a row has taken effect, which it has delivered once more: it is told again.
pub(super) fn tell_again(connection: &Connection, group: &GroupKey, seq: u64) -> Result<(), Error> {
    connection
        .prepare_cached("UPDATE positions SET acknowledged = ?2 WHERE group_id = ?1 AND acknowledged > ?2")?
        .execute((group.as_bytes(), column(seq.saturating_sub(1))))?;
    Ok(())
}

/// The server may be another one than it was: it is told everything again, and says so if it does not know it.
pub(crate) fn tell_everything_again(tx: &Tx<'_>) -> Result<(), Error> {
    tx.connection()
        .execute("UPDATE positions SET acknowledged = 0", [])?;
    Ok(())
}

/// Nothing is known of how far this device was.
pub(super) fn forget(connection: &Connection) -> Result<(), Error> {
    connection.execute("DELETE FROM positions", [])?;
    Ok(())
}

/// What the server does not know yet to have taken effect here, that of groups and this mail; `None` when it knows everything.
pub(crate) fn unacknowledged(tx: &Tx<'_>, mail: Option<u64>) -> Result<Option<Acknowledgement>, Error> {
    let connection = tx.connection();
    let mut statement = connection.prepare_cached(
        "SELECT group_id, seq FROM positions WHERE seq > acknowledged ORDER BY group_id LIMIT ?1",
    )?;
    let rows = statement.query_map([GROUPS_PER_DEVICE_MAX as i64], |row| {
        Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)?))
    })?;
    let groups = rows
        .map(|row| {
            let (id, seq) = row?;
            Ok(Position {
                group_id: corrupt(GroupKey::from_bytes(&id).ok(), "group id")?,
                seq: seq.cast_unsigned(),
            })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    if groups.is_empty() && mail.is_none() {
        return Ok(None);
    }
    let incarnation: Option<String> =
        connection.query_row("SELECT server_incarnation FROM profile", [], |row| row.get(0))?;
    // Before the first session there is nothing to acknowledge.
    Ok(incarnation.map(|incarnation| Acknowledgement {
        incarnation,
        groups,
        mail,
    }))
}

/// The server knows these.
pub(crate) fn acknowledged(tx: &Tx<'_>, positions: &[Position]) -> Result<(), Error> {
    for Position { group_id, seq } in positions {
        tx.connection().execute(
            "UPDATE positions SET acknowledged = ?2 WHERE group_id = ?1 AND acknowledged < ?2",
            (group_id.as_bytes(), seq.cast_signed()),
        )?;
    }
    Ok(())
}

/// Goes on from where the server knows this device to be: it does not have rows that this device has, or was told that there
/// are. Its store is an older one than it was, or it lied.
pub(crate) fn go_back(tx: &Tx<'_>, context: &Context, positions: &[Position]) -> Result<(), Error> {
    for Position { group_id, seq } in positions.iter().take(GROUPS_PER_DEVICE_MAX) {
        let changed = tx.connection().execute(
            "UPDATE positions SET seq = ?2, acknowledged = ?2 WHERE group_id = ?1 AND seq > ?2",
            (group_id.as_bytes(), column(*seq)),
        )?;
        if changed > 0 {
            tell_of_going_back(tx, context, group_id)?;
        }
    }
    Ok(())
}

/// Tells the person that a group's log is not the one that it was. Of several such findings that follow one another once.
pub(super) fn tell_of_going_back(tx: &Tx<'_>, context: &Context, group: &GroupKey) -> Result<(), Error> {
    let connection = tx.connection();
    if groups::find(connection, group)?.is_none()
        || messages::last_is_notice(connection, Some(group), WENT_BACK)?
    {
        return Ok(());
    }
    messages::notice(connection, Some(group), WENT_BACK, context.now())
}
