//! How far this device has taken over the rows of each group: none is taken over twice, and none is left out unseen.

use larder_pool::Tx;
use larder_wire::{Acknowledgement, GROUPS_PER_DEVICE_MAX, InboxKind, InboxRow, Position};
use rusqlite::{Connection, OptionalExtension};

use crate::core::messages;
use crate::core::profile::Context;
use crate::core::schema::corrupt;
use crate::error::Error;
use crate::types::{GroupKey, MessageKind};

/// Where a row stands to those that have been taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It is the next one.
    Next,
    /// It has been taken over before.
    Known,
    /// Others are missing between.
    Beyond,
}

/// Where a row of a group stands.
pub(super) fn place(connection: &Connection, group: &GroupKey, row: &InboxRow) -> Result<Place, Error> {
    let Some(position) = position(connection, group)? else {
        return Ok(Place::Next);
    };
    let first = row.first.unwrap_or(row.seq);
    Ok(if row.seq <= position {
        Place::Known
    } else if row.kind == InboxKind::Welcome || first <= position.saturating_add(1) {
        // What comes before a Welcome was not for this device.
        Place::Next
    } else {
        Place::Beyond
    })
}

fn position(connection: &Connection, group: &GroupKey) -> Result<Option<u64>, Error> {
    Ok(connection
        .prepare_cached("SELECT seq FROM positions WHERE group_id = ?1")?
        .query_row([group.as_bytes()], |row| row.get::<_, i64>(0))
        .optional()?
        .map(i64::cast_unsigned))
}

/// A row has taken effect.
pub(super) fn advance(connection: &Connection, group: &GroupKey, seq: u64) -> Result<(), Error> {
    // Numbers are the server's word; one that is too large for the database is as good as the largest.
    let seq = i64::try_from(seq).unwrap_or(i64::MAX);
    connection
        .prepare_cached(
            "INSERT INTO positions (group_id, seq, acknowledged) VALUES (?1, ?2, 0)
             ON CONFLICT (group_id) DO UPDATE SET seq = excluded.seq",
        )?
        .execute((group.as_bytes(), seq))?;
    Ok(())
}

/// The server does not know that a row has taken effect: it is told again.
pub(crate) fn tell_again(tx: &Tx<'_>, place: Option<&(GroupKey, u64)>) -> Result<(), Error> {
    let Some((group, seq)) = place else {
        return Ok(());
    };
    let before = i64::try_from(seq.saturating_sub(1)).unwrap_or(i64::MAX);
    tx.connection().execute(
        "UPDATE positions SET acknowledged = ?2 WHERE group_id = ?1 AND acknowledged > ?2",
        (group.as_bytes(), before),
    )?;
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

/// The server does not have rows that this device has, or claims to have: its store is an older one than it was. This device
/// goes on from where the server knows it to be.
pub(crate) fn go_back(tx: &Tx<'_>, context: &Context, positions: &[Position]) -> Result<(), Error> {
    let connection = tx.connection();
    for Position { group_id, seq } in positions {
        let seq = i64::try_from(*seq).unwrap_or(i64::MAX);
        let changed = connection.execute(
            "UPDATE positions SET seq = ?2, acknowledged = ?2 WHERE group_id = ?1 AND seq > ?2",
            (group_id.as_bytes(), seq),
        )?;
        if changed > 0 {
            messages::note(
                connection,
                Some(group_id),
                None,
                MessageKind::Notice,
                "the server does not have all that it has delivered of this group before: what was said last may be missing there",
                context.now(),
                false,
            )?;
        }
    }
    Ok(())
}
