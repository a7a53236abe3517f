use larder_pool::Tx;
use larder_wire::CommitRequest;
use openmls::prelude::MlsGroup;

use crate::core::adding::stage_adds;
use crate::core::gate::{self, Closed};
use crate::core::outbox::{self, Entry, Intent};
use crate::core::profile::Context;
use crate::core::settle::{Outcome, Settled};
use crate::core::{commits, groups, messages, mls, naming, removals};
use crate::error::Error;
use crate::types::{GroupKey, GroupState, NotAdded, SendStatus};

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
        ..
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
    let mls = mls::load(tx, &group)?;
    match &intent {
        Intent::Message { payload, row } => {
            if messages::has_to_wait(tx, context, &group, &mls)? {
                return Ok(Remade::Later);
            }
            let cleared = match gate::clear(tx, &group)? {
                Ok(cleared) => cleared,
                Err(closed) => return not_cleared(tx, *row, closed),
            };
            let payload = match row {
                Some(_) => payload.0.clone(),
                // A name, which may be another one by now.
                None => match naming::payload(tx, &group)? {
                    Some(name) => name.encode()?,
                    None => return Ok(Remade::Ended(Outcome::Moot)),
                },
            };
            let message = messages::encrypt(tx, context, cleared, payload, *row)?;
            outbox::replace_message(connection, id, &message, &intent)?;
            return Ok(Remade::Ready);
        }
        Intent::CreateGroup | Intent::Update | Intent::Leave { .. } | Intent::Rejoin => {
            return Ok(Remade::Ended(Outcome::Moot));
        }
        Intent::Invite { .. } | Intent::Remove { .. } | Intent::RemoveGone | Intent::CommitProposals => {}
    }
    match restage(tx, context, &group, &mls, intent)? {
        Restaged::Again(request, intent) => {
            outbox::replace(connection, id, &request, &intent)?;
            Ok(Remade::Ready)
        }
        Restaged::Ended(outcome) => Ok(Remade::Ended(outcome)),
    }
}

/// A message of the person has failed, and is offered to be sent again. A name waits for the gate to open: who has come needs
/// it as soon as it may be told.
fn not_cleared(tx: &Tx<'_>, row: Option<i64>, closed: Closed) -> Result<Remade, Error> {
    match (row, &closed) {
        // It was to be said before: it is once the person has looked at who is there.
        (Some(_), Closed::Held(_)) => return Ok(Remade::Later),
        (Some(row), _) => messages::set_status(tx.connection(), row, SendStatus::Failed)?,
        (None, Closed::VerificationChanged(_) | Closed::Held(_)) => return Ok(Remade::Later),
        (None, Closed::NotActive(_) | Closed::NotAccepted(_)) => {}
    }
    Ok(Remade::Ended(Outcome::Closed(closed)))
}

enum Restaged {
    Again(CommitRequest, Intent),
    Ended(Outcome),
}

impl From<Closed> for Restaged {
    fn from(closed: Closed) -> Self {
        Self::Ended(Outcome::Closed(closed))
    }
}

/// Stages a Commit again, if there is still something to do and it may leave.
fn restage(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    mls: &MlsGroup,
    intent: Intent,
) -> Result<Restaged, Error> {
    let (removal, removes, intent) = match intent {
        intent @ Intent::Invite { .. } => return restage_invite(tx, context, group, intent),
        Intent::Remove { user } => {
            let leaves = commits::leaves_of(mls, &user);
            (gate::clear_expulsion(tx, group)?, leaves, Intent::Remove { user })
        }
        intent @ Intent::RemoveGone => {
            let leaves = removals::leaves_of_gone(tx, context, mls)?;
            (gate::clear_departures(tx, group)?, leaves, intent)
        }
        other => {
            let removal = match gate::clear_departures(tx, group)? {
                Ok(removal) => removal,
                Err(closed) => return Ok(closed.into()),
            };
            return Ok(match commits::stage_proposed(tx, context, removal)? {
                Some(request) => Restaged::Again(request, other),
                None => Restaged::Ended(Outcome::Moot),
            });
        }
    };
    if removes.is_empty() {
        return Ok(Restaged::Ended(Outcome::Moot));
    }
    match removal {
        Ok(removal) => {
            let request = commits::stage_removal(tx, context, removal, &removes)?;
            Ok(Restaged::Again(request, intent))
        }
        Err(closed) => Ok(closed.into()),
    }
}

/// Stages the Commit again that adds those of an invitation who are no members yet.
fn restage_invite(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    intent: Intent,
) -> Result<Restaged, Error> {
    let Intent::Invite {
        reservation_id,
        packages,
        extent,
    } = intent
    else {
        return Ok(Restaged::Ended(Outcome::Moot));
    };
    let terms = (reservation_id.as_deref(), extent);
    let adding = match stage_adds(tx, context, group, &packages, terms)? {
        Ok(adding) => adding,
        Err(closed) => return Ok(closed.into()),
    };
    for (user, flaw) in &adding.left_out {
        let why = NotAdded::InvalidKeyPackage(*flaw);
        messages::note_not_added(tx, group, user, &why, context.now())?;
    }
    let Some(request) = adding.request else {
        return Ok(Restaged::Ended(match adding.left_out.is_empty() {
            true => Outcome::Moot,
            false => Outcome::Raced,
        }));
    };
    let intent = Intent::Invite {
        reservation_id,
        packages: adding.packages,
        extent,
    };
    Ok(Restaged::Again(request, intent))
}
