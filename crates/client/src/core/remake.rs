use larder_pool::Tx;

use crate::core::adding::{LeavingOut, stage_adds};
use crate::core::outbox::{self, Entry, Intent, Outcome, Settled};
use crate::core::profile::Context;
use crate::core::{commits, devices, groups, messages, mls, verification};
use crate::error::Error;
use crate::types::{GroupState, NotAdded, SendStatus};

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
        groups::set_state(connection, &group, GroupState::NeedsRejoin)?;
        return Ok(if is_message {
            Remade::Later
        } else {
            Remade::Ended(Outcome::NotActive(GroupState::NeedsRejoin))
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
            all_or_nobody,
        } => {
            let leaving_out = match all_or_nobody {
                true => LeavingOut::Forbidden,
                false => LeavingOut::Allowed,
            };
            let terms = (reservation_id.as_deref(), leaving_out);
            let adding = stage_adds(tx, context, &group, packages, terms)?;
            for (user, flaw) in &adding.left_out {
                let why = NotAdded::InvalidKeyPackage(*flaw);
                messages::note_not_added(tx, &group, user, &why, context.now())?;
            }
            let Some(request) = adding.request else {
                return Ok(Remade::Ended(match adding.left_out.is_empty() {
                    true => Outcome::Moot,
                    false => Outcome::Raced,
                }));
            };
            let intent = Intent::Invite {
                reservation_id: reservation_id.clone(),
                packages: adding.packages,
                all_or_nobody: *all_or_nobody,
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
