//! What a device does that was restored from an old copy.

use larder_lifecycle::UnixSeconds;
use larder_pool::{DirectoryRow, Tx};
use larder_wire::Membership;

use crate::core::profile::{Context, forget_inventory_digest};
use crate::core::state::{Standing, set_standing};
use crate::core::{denials, groups, last_known, listed, messages, mls, outbox, peers, positions};
use crate::error::Error;
use crate::types::{GroupKey, GroupState};

/// Gives up the MLS state of every group: the copy may have been made before keys of it were used. The groups that this
/// device is a member of are to be rejoined. Those that the copy does not know are the server's word alone: the person is asked.
///
/// What was to be said is said again after the rejoin, under the same message ids, so that nobody gets it twice. What was to
/// be done to a group is not done.
pub(crate) fn start_over(tx: &Tx<'_>, context: &Context, memberships: &[Membership]) -> Result<(), Error> {
    let connection = tx.connection();
    give_up_others(tx, memberships, context.now())?;
    for membership in memberships {
        let Membership { group_id, epoch, .. } = membership;
        match groups::find(connection, group_id)? {
            // One that was declined, or that was not joined yet.
            Some((GroupState::Left | GroupState::NeedsRejoin, _))
                if groups::is_following(connection, group_id)? => {}
            // Nothing explains these.
            None | Some((GroupState::Left, _)) => {
                listed::take_note(tx, std::slice::from_ref(membership))?;
            }
            Some((GroupState::Creating | GroupState::Active | GroupState::NeedsRejoin, _)) => {
                let may_go_back = groups::may_go_back(tx, group_id)?;
                give_up_state(tx, group_id)?;
                groups::enter(connection, group_id, GroupState::NeedsRejoin, *epoch)?;
                if may_go_back {
                    groups::let_go_back(tx, group_id)?;
                }
            }
        }
    }
    connection.execute("DELETE FROM reserve_attempts", [])?;
    // The rows come from where the server knows the device to be, which the copy does not.
    positions::forget(connection)?;
    connection.execute(
        "UPDATE profile SET restored_at = ?1",
        [context.now().0.cast_signed()],
    )?;
    // What follows is done at the next rounds of the sync.
    peers::check_everybody_later(connection)?;
    forget_inventory_digest(tx)?;
    set_standing(tx, Standing::Restoring)?;
    messages::notice(
        connection,
        None,
        "this profile is an older copy: what it had received since then is missing, and it rejoins its groups. A copy must \
         not be used beside the other",
        context.now(),
    )
}

/// Of the groups that this device is not a member of, as far as the server knows, nothing that the copy has can be used either.
fn give_up_others(tx: &Tx<'_>, memberships: &[Membership], now: UnixSeconds) -> Result<(), Error> {
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
            GroupState::Active | GroupState::NeedsRejoin => {
                give_up_state(tx, &group)?;
                groups::set_state(tx.connection(), &group, GroupState::NeedsRejoin)?;
                denials::note(tx, &group, now)?;
            }
            GroupState::Left => {}
        }
    }
    Ok(())
}

/// Deletes the MLS state of a group, which is to be rejoined. What is known of it is kept.
fn give_up_state(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    last_known::keep(tx, group)?;
    mls::delete(tx, group)?;
    outbox::start_over(tx.connection(), group)
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
