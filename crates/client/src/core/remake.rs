use larder_pool::Tx;

use crate::core::outbox::{self, Entry, Intent, Outcome, Settled};
use crate::core::profile::Context;
use crate::core::{commits, devices, groups, invitation, messages, mls, verdicts, verification};
use crate::error::Error;
use crate::types::{GroupState, SendStatus};

/// A Commit that lost this many races is given up.
const ATTEMPTS_MAX: u32 = 8;

/// Makes requests again whose epoch is over. Returns those that have ended, and how many are ready now.
pub(crate) fn remake(tx: &Tx<'_>, context: &Context) -> Result<(Vec<Settled>, u64), Error> {
    let (mut settled, mut ready) = (Vec::new(), 0);
    for entry in outbox::to_remake(tx.connection())? {
        let (id, purpose) = (entry.id, entry.intent.purpose());
        match remake_one(tx, context, entry)? {
            Remade::Ready => ready += 1,
            Remade::Later => {}
            Remade::Ended(outcome) => {
                outbox::remove(tx.connection(), id)?;
                settled.push(Settled { id, outcome, purpose });
            }
        }
    }
    Ok((settled, ready))
}

enum Remade {
    Ready,
    Later,
    Ended(Outcome),
}

fn remake_one(tx: &Tx<'_>, context: &Context, entry: Entry) -> Result<Remade, Error> {
    let Entry {
        id,
        group,
        intent,
        attempts,
        server_epoch,
    } = entry;
    let connection = tx.connection();
    let state = groups::group_state(tx, &group)?;
    let is_message = matches!(intent, Intent::Message { .. });
    match state {
        GroupState::NeedsRejoin if is_message => return Ok(Remade::Later),
        GroupState::Active => {}
        other => {
            if let Intent::Message { row: Some(row), .. } = intent {
                messages::set_status(connection, row, SendStatus::Failed)?;
            }
            return Ok(Remade::Ended(Outcome::NotActive(other)));
        }
    }
    if attempts >= ATTEMPTS_MAX && !is_message {
        return Ok(Remade::Ended(Outcome::Raced));
    }
    let mut mls = mls::load(tx, &group)?;
    // A Commit reaches the inboxes in the transaction that moves the epoch. The inbox is empty, and yet the server is
    // ahead: what leads there will not come any more.
    if server_epoch.is_some_and(|epoch| epoch > mls.epoch().as_u64()) {
        let lost = verdicts::lose_track(tx, &group)?;
        return Ok(match (is_message, lost) {
            (true, _) => Remade::Later,
            (false, true) => Remade::Ended(Outcome::NotActive(GroupState::NeedsRejoin)),
            (false, false) => Remade::Ended(Outcome::Raced),
        });
    }
    match &intent {
        Intent::Message { payload, row } => {
            let Some(mut mls) = messages::ready_to_encrypt(tx, &group)? else {
                return Ok(Remade::Later);
            };
            // Written for those who were members then. A name is nobody's words, and newcomers need it.
            if let Some(row) = row
                && let Some(outcome) = verification::outcome(tx, &mls)?
            {
                messages::set_status(connection, *row, SendStatus::Failed)?;
                return Ok(Remade::Ended(outcome));
            }
            let request = messages::encrypt(tx, context, &mut mls, &payload.0)?;
            outbox::replace(connection, id, &request, &intent)?;
        }
        Intent::Invite {
            reservation_id,
            packages,
        } => {
            let (packages, adds) = invitation::still_to_add(tx, &mls, packages)?;
            if adds.is_empty() {
                return Ok(Remade::Ended(Outcome::Moot));
            }
            let request = commits::stage(tx, context, &mut mls, adds, &[], reservation_id.clone())?;
            let intent = Intent::Invite {
                reservation_id: reservation_id.clone(),
                packages,
            };
            outbox::replace(connection, id, &request, &intent)?;
        }
        Intent::Remove { user } => {
            let leaves = commits::leaves_of(&mls, user);
            if leaves.is_empty() {
                return Ok(Remade::Ended(Outcome::Moot));
            }
            let request = commits::stage(tx, context, &mut mls, Vec::new(), &leaves, None)?;
            outbox::replace(connection, id, &request, &intent)?;
        }
        Intent::RemoveDevices => {
            let leaves = devices::leaves_of_removed(tx, &mls)?;
            if leaves.is_empty() {
                return Ok(Remade::Ended(Outcome::Moot));
            }
            let request = commits::stage(tx, context, &mut mls, Vec::new(), &leaves, None)?;
            outbox::replace(connection, id, &request, &intent)?;
        }
        Intent::CommitProposals => {
            if !commits::Proposed::of(&mls).any {
                return Ok(Remade::Ended(Outcome::Moot));
            }
            let request = commits::stage(tx, context, &mut mls, Vec::new(), &[], None)?;
            outbox::replace(connection, id, &request, &intent)?;
        }
        Intent::CreateGroup | Intent::Update | Intent::Leave | Intent::Rejoin => {
            return Ok(Remade::Ended(Outcome::Moot));
        }
    }
    Ok(Remade::Ready)
}
