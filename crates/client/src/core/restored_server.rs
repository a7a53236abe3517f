//! What a device does whose server was restored from a backup: it has forgotten what came after.

use larder_judge::Leaf;
use larder_lifecycle::UnixSeconds;
use larder_pool::{DirectoryRow, Tx};
use larder_wire::Membership;
use openmls::prelude::LeafNodeIndex;

use crate::core::outbox::{self, Intent};
use crate::core::profile::{Context, forget_inventory_digest};
use crate::core::schema::corrupt;
use crate::core::{commits, denials, doubts, gate, groups, leaving, lost, messages, mls, removed_leaves};
use crate::error::Error;
use crate::types::{GroupKey, GroupState};

/// The person is told only once in this time, in seconds, that the server was restored, if nothing else is told meanwhile.
const TOLD_APART_SECONDS: u64 = 24 * 60 * 60;
const TOLD_RESTORED: &str =
    "the server was restored from a backup: what it had accepted since then is lost there";

/// Takes note of the server's incarnation. Another one than before means that it was restored, and that nothing may be
/// sent until [`follow`] has set right what follows from that.
pub(crate) fn heed_incarnation(tx: &Tx<'_>, incarnation: &str) -> Result<(), Error> {
    let connection = tx.connection();
    let known: Option<String> =
        connection.query_row("SELECT server_incarnation FROM profile", [], |row| row.get(0))?;
    match known {
        None => connection.execute("UPDATE profile SET server_incarnation = ?1", [incarnation])?,
        Some(known) if known == incarnation => 0,
        Some(_) => {
            tracing::warn!(
                "the server was restored from a backup: nothing is sent before its groups are looked at"
            );
            connection.execute("UPDATE profile SET server_was_restored = 1", [])?
        }
    };
    Ok(())
}

/// Whether the server was restored, and [`follow`] is still to come.
pub(crate) fn server_was_restored(tx: &Tx<'_>) -> Result<bool, Error> {
    Ok(tx
        .connection()
        .query_row("SELECT server_was_restored FROM profile", [], |row| row.get(0))?)
}

/// Brings this device to agree with a server that was restored: what the directory has forgotten of the pool is never
/// offered again; groups that it has forgotten this device in are left, and those that it is behind in are to be
/// rejoined.
pub(crate) fn follow(
    tx: &Tx<'_>,
    context: &Context,
    incarnation: &str,
    directory: &[DirectoryRow],
    memberships: &[Membership],
) -> Result<(), Error> {
    let (connection, now) = (tx.connection(), context.now());
    let is_as_before: bool = connection.query_row(
        "SELECT server_incarnation IS ?1 FROM profile",
        [incarnation],
        |row| row.get(0),
    )?;
    if is_as_before {
        tracing::warn!("the server has named another incarnation than its own");
        connection.execute("UPDATE profile SET server_was_restored = 0", [])?;
        return Ok(());
    }
    let earlier: Option<i64> =
        connection.query_row("SELECT server_restored_at FROM profile", [], |row| row.get(0))?;
    let earlier = earlier.map(|at| UnixSeconds(at.cast_unsigned()));
    context
        .pool
        .distrust(tx, directory, earlier, context.server_now())?;
    forget_inventory_digest(tx)?;
    // A server that says so again and again is heard once a day.
    let told_lately = earlier.is_some_and(|at| context.server_now() < at.plus(TOLD_APART_SECONDS));
    if !told_lately || !messages::last_is_notice(connection, None, TOLD_RESTORED)? {
        messages::notice(connection, None, TOLD_RESTORED, now)?;
    }
    for (group, state) in groups::all(connection)? {
        let membership = memberships.iter().find(|known| known.group_id == group);
        match state {
            // Its request goes out again.
            GroupState::Creating => continue,
            GroupState::Left => {
                if membership.is_some() {
                    leaving::leave_again(tx, &group)?;
                }
                continue;
            }
            GroupState::Active => {}
            // It may have been given up at an epoch that the server has lost.
            GroupState::NeedsRejoin => groups::let_go_back(tx, &group)?,
        }
        let Some(Membership { epoch, gaps, .. }) = membership else {
            groups::let_go_back(tx, &group)?;
            denials::note(tx, &group, now)?;
            continue;
        };
        lost::note(tx, context, &group, gaps)?;
        if state == GroupState::Active {
            match is_ahead(tx, &group, *epoch)? {
                true => fall_back(tx, context, &group)?,
                // Others may have led it as far on another branch.
                false => doubts::doubt_branch(tx, &group)?,
            }
        }
    }
    connection.execute(
        "UPDATE profile SET server_incarnation = ?1, server_was_restored = 0, server_restored_at = ?2",
        (incarnation, context.server_now().0.cast_signed()),
    )?;
    Ok(())
}

/// Whether this device is in a later epoch of the group than this one.
pub(super) fn is_ahead(tx: &Tx<'_>, group: &GroupKey, epoch: u64) -> Result<bool, Error> {
    Ok(mls::find(tx, group)?.is_some_and(|mls| mls.epoch().as_u64() > epoch))
}

/// The server has lost Commits of this group that are in effect here. They cannot be had again: the server's epoch is the one
/// that everybody can still come to, so this device rejoins there.
pub(super) fn fall_back(tx: &Tx<'_>, context: &Context, group: &GroupKey) -> Result<(), Error> {
    groups::let_go_back(tx, group)?;
    const LOST: &str = "the server has lost the last changes of this group, and this device rejoins it as it was before: who was \
                        invited since has to be invited again";
    come_to_the_servers(tx, context, group, LOST)
}

/// The server has led this group on from an earlier epoch without the last changes that are in effect here, and others are there:
/// this device goes to them.
pub(super) fn go_over(tx: &Tx<'_>, context: &Context, group: &GroupKey) -> Result<(), Error> {
    const ANOTHER: &str = "the server has lost the last changes of this group, and members have gone on without them: this device \
                           rejoins them. Look at who is in it (members)";
    come_to_the_servers(tx, context, group, ANOTHER)
}

fn come_to_the_servers(tx: &Tx<'_>, context: &Context, group: &GroupKey, why: &str) -> Result<(), Error> {
    let connection = tx.connection();
    outbox::start_over(connection, group)?;
    groups::set_state(connection, group, GroupState::NeedsRejoin)?;
    messages::notice(connection, Some(group), why, context.now())?;
    lost::epoch_is_another(tx, context, group)
}

/// Who is in the group that is rejoined and was removed from the one that is given up, by a Commit that the server has
/// lost: to be removed again.
pub(super) fn note_lost_removals(
    tx: &Tx<'_>,
    group: &GroupKey,
    given_up: &[Leaf],
    rejoined: &[Leaf],
) -> Result<(), Error> {
    for leaf in rejoined {
        if !given_up.contains(leaf) && removed_leaves::was_removed(tx, group, leaf)? {
            tx.connection().execute(
                "INSERT INTO lost_removals (group_id, user, device_id, signature_key) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO NOTHING",
                (
                    group.as_bytes(),
                    leaf.user.as_str(),
                    leaf.device.as_str(),
                    &leaf.signature_key,
                ),
            )?;
        }
    }
    Ok(())
}

/// Those of these leaves that are not to be removed again.
pub(super) fn without_lost_removals(
    tx: &Tx<'_>,
    group: &GroupKey,
    mut leaves: Vec<Leaf>,
) -> Result<Vec<Leaf>, Error> {
    let lost = lost_removals(tx, group)?;
    leaves.retain(|leaf| !lost.contains(leaf));
    Ok(leaves)
}

fn lost_removals(tx: &Tx<'_>, group: &GroupKey) -> Result<Vec<Leaf>, Error> {
    let mut statement = tx
        .connection()
        .prepare_cached("SELECT user, device_id, signature_key FROM lost_removals WHERE group_id = ?1")?;
    let rows = statement.query_map([group.as_bytes()], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get(2)?))
    })?;
    rows.map(|row| {
        let (user, device, signature_key) = row?;
        Ok(Leaf {
            user: corrupt(user.parse().ok(), "user name")?,
            device: corrupt(device.parse().ok(), "device id")?,
            signature_key,
        })
    })
    .collect()
}

/// Whether somebody is to be removed again before anything is said in the group.
pub(super) fn removals_are_lost(tx: &Tx<'_>, group: &GroupKey) -> Result<bool, Error> {
    Ok(tx
        .connection()
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM lost_removals WHERE group_id = ?1)")?
        .query_row([group.as_bytes()], |row| row.get(0))?)
}

/// Stages the Commit that removes them, and forgets them once they are gone. Whether there was any.
pub(super) fn remove_again(tx: &Tx<'_>, context: &Context, group: &GroupKey) -> Result<bool, Error> {
    let lost = lost_removals(tx, group)?;
    if lost.is_empty() {
        return Ok(false);
    }
    // Nothing else is said there before, so nothing waits for a gate that is closed.
    let Ok(removal) = gate::clear_again(tx, group)? else {
        return Ok(false);
    };
    let (state, own) = (removal.state(), removal.state().own_leaf_index());
    let leaves: Vec<LeafNodeIndex> = state
        .members()
        .filter(|member| member.index != own)
        .filter(|member| Leaf::of_member(member).is_some_and(|leaf| lost.contains(&leaf)))
        .map(|member| member.index)
        .collect();
    if leaves.is_empty() {
        tx.connection().execute(
            "DELETE FROM lost_removals WHERE group_id = ?1",
            [group.as_bytes()],
        )?;
    } else {
        let request = commits::stage_removal(tx, context, removal, &leaves)?;
        commits::push(tx, group, &request, &Intent::RemoveGone)?;
    }
    Ok(true)
}
