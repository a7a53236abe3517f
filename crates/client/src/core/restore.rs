//! What a device does that was restored from an old copy.

use larder_pool::{DirectoryRow, Tx};
use larder_wire::Membership;

use crate::core::profile::{Context, forget_inventory_digest};
use crate::core::state::{Standing, set_standing};
use crate::core::{groups, messages, mls, outbox};
use crate::error::Error;
use crate::types::{GroupState, MessageKind};

/// Gives up the MLS state of every group: the copy may have been made before keys of it were used. The groups that this
/// device is a member of are to be rejoined, those that the copy does not know included; the others were left.
///
/// What was to be said is said again after the rejoin, under the same message ids, so that nobody gets it twice. What was to
/// be done to a group is not done.
pub(crate) fn start_over(tx: &Tx<'_>, context: &Context, memberships: &[Membership]) -> Result<(), Error> {
    let connection = tx.connection();
    let is_member = |group: &_| memberships.iter().any(|known| known.group_id == *group);
    for (group, state) in groups::all(connection)? {
        if is_member(&group) {
            continue;
        }
        match state {
            // Its request goes out again.
            GroupState::Creating => {}
            GroupState::Active | GroupState::Leaving | GroupState::NeedsRejoin => groups::depart(tx, &group)?,
            GroupState::Left => {}
        }
    }
    for Membership { group_id, epoch } in memberships {
        mls::delete(tx, group_id)?;
        outbox::start_over(connection, group_id)?;
        groups::enter(connection, group_id, GroupState::NeedsRejoin, *epoch)?;
    }
    connection.execute("DELETE FROM reserve_attempts", [])?;
    forget_inventory_digest(tx)?;
    connection.execute(
        "UPDATE profile SET restored_at = ?1",
        [context.now().0.cast_signed()],
    )?;
    set_standing(tx, Standing::Restoring)?;
    messages::note(
        connection,
        None,
        None,
        MessageKind::Notice,
        "this profile is an older copy: what it had received since then is missing, and it rejoins its groups. A copy must \
         not be used beside the other",
        context.now(),
        false,
    )
}

/// The inbox was read to the end after the directory had told this: what is spent there has no invitation to wait for.
pub(crate) fn finish_restoring(
    tx: &Tx<'_>,
    context: &Context,
    directory: &[DirectoryRow],
) -> Result<(), Error> {
    context.pool.give_up_spent(tx, directory, context.now())?;
    set_standing(tx, Standing::Current)
}
