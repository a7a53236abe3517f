//! The names of groups. They travel inside encrypted messages, and any member may give another one.
//!
//! Each naming has an id, and of two the one with the greater id holds, so that members who name a group at the same time end
//! up with the same name. Who renames takes an id above the one that is known, and who only repeats the name, for newcomers,
//! repeats its id too.

use larder_lifecycle::UnixSeconds;
use larder_pool::Tx;
use larder_wire::{DeviceId, UserName};
use rusqlite::{Connection, OptionalExtension};
use uuid::Uuid;

use crate::core::gate::{self, Closed};
use crate::core::messages;
use crate::core::payload::{Payload, check_name, new_id};
use crate::core::profile::Context;
use crate::error::Error;
use crate::text::escaped_name;
use crate::types::{GroupKey, MessageKind};

pub(super) fn set(connection: &Connection, group: &GroupKey, name: &str, id: &str) -> Result<(), Error> {
    connection.execute(
        "UPDATE groups SET name = ?2, name_id = ?3 WHERE group_id = ?1",
        (group.as_bytes(), name, id),
    )?;
    Ok(())
}

pub(super) fn name(connection: &Connection, group: &GroupKey) -> Result<Option<String>, Error> {
    Ok(known(connection, group)?.map(|(name, _)| name))
}

/// The name and the id of its naming. A name from before there were ids gives way to any other.
fn known(connection: &Connection, group: &GroupKey) -> Result<Option<(String, Option<String>)>, Error> {
    let row = connection
        .prepare_cached("SELECT name, name_id FROM groups WHERE group_id = ?1")?
        .query_row([group.as_bytes()], |row| {
            Ok((row.get::<_, Option<String>>(0)?, row.get(1)?))
        })
        .optional()?;
    Ok(row.and_then(|(name, id)| Some((name?, id))))
}

/// Gives the group another name and tells the members. Returns the outbox row; none when it has that name already.
pub(crate) fn rename(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    new: &str,
) -> Result<Option<i64>, Error> {
    check_name(new)?;
    let cleared = gate::clear(tx, group)??;
    let connection = tx.connection();
    let id = match known(connection, group)? {
        Some((name, _)) if name == new => return Ok(None),
        Some((_, Some(id))) => new_id().max(next(&id)),
        Some((_, None)) | None => new_id(),
    };
    set(connection, group, new, &id)?;
    let me = &context.identity.me;
    let by = (&me.user, &me.device_id);
    note(connection, group, by, new, context.now(), true)?;
    let payload = Payload::group_name(id, new);
    messages::push(tx, context, cleared, &payload, None).map(Some)
}

/// The id that follows this one: somebody's clock may be ahead of ours.
fn next(id: &str) -> String {
    Uuid::parse_str(id).map_or_else(
        |_| id.to_owned(),
        |id| Uuid::from_u128(id.as_u128().saturating_add(1)).to_string(),
    )
}

/// Tells the members the name, for those who have just come. While keys are not as verified it waits: who has come may be
/// somebody else than they seem.
pub(super) fn announce(tx: &Tx<'_>, context: &Context, group: &GroupKey) -> Result<(), Error> {
    let Some(payload) = payload(tx, group)? else {
        return Ok(());
    };
    match gate::clear(tx, group)? {
        Ok(cleared) => messages::push(tx, context, cleared, &payload, None).map(drop),
        Err(Closed::VerificationChanged(_) | Closed::Held(_)) => {
            messages::push_later(tx, group, &payload, None).map(drop)
        }
        // Another member tells them.
        Err(Closed::NotActive(_) | Closed::NotAccepted(_)) => Ok(()),
    }
}

/// What tells the name as it is now, under the id of its naming; `None` for a group without a name.
pub(super) fn payload(tx: &Tx<'_>, group: &GroupKey) -> Result<Option<Payload>, Error> {
    let connection = tx.connection();
    let Some((name, id)) = known(connection, group)? else {
        return Ok(None);
    };
    let id = match id {
        Some(id) => id,
        None => {
            let id = new_id();
            set(connection, group, &name, &id)?;
            id
        }
    };
    Ok(Some(Payload::group_name(id, &name)))
}

/// Takes over what a member calls the group, unless a later naming is known. Only a change is worth telling.
pub(super) fn take_over(
    tx: &Tx<'_>,
    group: &GroupKey,
    by: (&UserName, &DeviceId),
    id: &str,
    new: &str,
    now: UnixSeconds,
) -> Result<(), Error> {
    let connection = tx.connection();
    let known = known(connection, group)?;
    if let Some((_, Some(known_id))) = &known
        && id <= known_id.as_str()
    {
        return Ok(());
    }
    set(connection, group, new, id)?;
    match known {
        Some((name, _)) if name != new => note(connection, group, by, new, now, false),
        Some(_) | None => Ok(()),
    }
}

fn note(
    connection: &Connection,
    group: &GroupKey,
    by: (&UserName, &DeviceId),
    name: &str,
    now: UnixSeconds,
    mine: bool,
) -> Result<(), Error> {
    // A name cannot end its quotes.
    let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
    let text = format!("{} renamed the group to \"{}\"", by.0, escaped_name(&quoted));
    messages::note(
        connection,
        Some(group),
        Some(by),
        MessageKind::Notice,
        &text,
        now,
        mine,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_id_is_above_one_from_a_clock_that_is_ahead() {
        let ahead = "7fffffff-ffff-7fff-bfff-ffffffffffff";
        assert!(next(ahead).as_str() > ahead);
        assert!(next(ahead) > new_id());
        assert_eq!(
            next("ffffffff-ffff-ffff-ffff-ffffffffffff"),
            "ffffffff-ffff-ffff-ffff-ffffffffffff"
        );
    }
}
