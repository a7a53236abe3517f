//! What a device does that was restored from an old copy, or was away for longer than its inbox is kept.

use larder_pool::{DirectoryRow, Tx};
use larder_wire::Membership;

use crate::core::profile::{Context, forget_inventory_digest};
use crate::core::state::{Standing, set_standing};
use crate::core::{groups, messages, mls, outbox, peers, verdicts};
use crate::error::Error;
use crate::types::{GroupState, MessageKind};

/// Gives up the MLS state of every group: the copy may have been made before keys of it were used. The groups that this
/// device is a member of are to be rejoined, those that the copy does not know included; the others were left.
///
/// What was to be said is said again after the rejoin, under the same message ids, so that nobody gets it twice. What was to
/// be done to a group is not done.
pub(crate) fn start_over(tx: &Tx<'_>, context: &Context, memberships: &[Membership]) -> Result<(), Error> {
    let connection = tx.connection();
    leave_others(tx, memberships)?;
    for membership in memberships {
        give_up_state(tx, membership)?;
    }
    connection.execute("DELETE FROM reserve_attempts", [])?;
    connection.execute(
        "UPDATE profile SET restored_at = ?1",
        [context.now().0.cast_signed()],
    )?;
    begin_restoring(
        tx,
        context,
        "this profile is an older copy: what it had received since then is missing, and it rejoins its groups. A copy must \
         not be used beside the other",
    )
}

/// The server has dropped inbox rows up to this one before this device came for them. The groups that moved on meanwhile are
/// to be rejoined, and those to which it was invited; in the others nothing was missed but messages.
pub(crate) fn skip_dropped(
    tx: &Tx<'_>,
    context: &Context,
    memberships: &[Membership],
    dropped_up_to: u64,
) -> Result<(), Error> {
    let connection = tx.connection();
    leave_others(tx, memberships)?;
    for membership in memberships {
        let epoch = mls::find(tx, &membership.group_id)?.map(|group| group.epoch().as_u64());
        if epoch.is_none_or(|epoch| epoch < membership.epoch) && !verdicts::holds(tx, &membership.group_id)? {
            give_up_state(tx, membership)?;
        }
    }
    connection.execute(
        "UPDATE profile SET inbox_cursor = ?1 WHERE inbox_cursor < ?1",
        [dropped_up_to.cast_signed()],
    )?;
    begin_restoring(
        tx,
        context,
        "this device was away for too long: messages that the server did not keep are missing, and it rejoins the groups \
         that went on without it",
    )
}

/// What follows is done at the next rounds of the sync. The person is told why.
fn begin_restoring(tx: &Tx<'_>, context: &Context, why: &str) -> Result<(), Error> {
    let connection = tx.connection();
    peers::check_everybody_later(connection)?;
    forget_inventory_digest(tx)?;
    set_standing(tx, Standing::Restoring)?;
    messages::note(
        connection,
        None,
        None,
        MessageKind::Notice,
        why,
        context.now(),
        false,
    )
}

/// The groups that this device is not a member of, as far as the server knows, were left.
fn leave_others(tx: &Tx<'_>, memberships: &[Membership]) -> Result<(), Error> {
    let is_member = |group: &_| memberships.iter().any(|known| known.group_id == *group);
    for (group, state) in groups::all(tx.connection())? {
        if is_member(&group) {
            continue;
        }
        match state {
            // Its request goes out again.
            GroupState::Creating => {}
            // Not a member yet.
            GroupState::NeedsRejoin if groups::is_following(tx.connection(), &group)? => {}
            GroupState::Active | GroupState::Leaving | GroupState::NeedsRejoin => {
                groups::depart_as_told(tx, &group)?
            }
            GroupState::Left => {}
        }
    }
    Ok(())
}

/// Deletes the MLS state of a group, which is to be rejoined.
fn give_up_state(tx: &Tx<'_>, Membership { group_id, epoch }: &Membership) -> Result<(), Error> {
    let connection = tx.connection();
    mls::delete(tx, group_id)?;
    outbox::start_over(connection, group_id)?;
    groups::enter(connection, group_id, GroupState::NeedsRejoin, *epoch)
}

/// The inbox was read to the end after the directory had told this: what is spent there has no invitation to wait for.
pub(crate) fn finish_restoring(
    tx: &Tx<'_>,
    context: &Context,
    directory: &[DirectoryRow],
) -> Result<(), Error> {
    context.pool.give_up_spent(tx, directory, context.server_now())?;
    set_standing(tx, Standing::Current)
}
