//! What becomes of a request of the outbox once the server has answered it.

use larder_lifecycle::UnixSeconds;
use larder_pool::Tx;
use larder_wire::{Problem, ProblemType};

use crate::core::commits::{self, merged};
use crate::core::gate::Closed;
use crate::core::outbox::{self, Entry, Intent};
use crate::core::profile::Context;
use crate::core::{adding, groups, leaving, lost, messages, mls, rejoin, restored_server};
use crate::error::Error;
use crate::transport::Accepted;
use crate::types::{GroupKey, GroupState, SendStatus};

/// The server's answer to a request of the outbox. There is none for a timeout: then the row stays as it is.
pub(crate) enum Verdict {
    /// It happened.
    Accepted(Accepted),
    /// It did not, because the group is at another epoch: this one, if the server says.
    WrongEpoch(Option<u64>),
    /// It did not, and never will.
    Refused(Problem),
}

/// The end of a row of the outbox.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) id: i64,
    pub(crate) outcome: Outcome,
    pub(crate) purpose: Purpose,
}

/// What a sync counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A Commit of what members proposed, or that removes devices which their users have removed.
    Proposals,
    /// A Commit that refreshes our leaf.
    Update,
    /// An external Commit.
    Rejoin,
    /// What somebody asked for.
    Asked,
}

/// How a row of the outbox ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The server did it.
    Done,
    /// After catching up there was nothing left to do: someone else had done it.
    Moot,
    /// The server refused.
    Refused(Problem),
    /// The group changed too often meanwhile.
    Raced,
    /// This device is not a member any more, or has to rejoin first.
    NotActive(GroupState),
    /// The gate was closed when it was to be made again at another epoch.
    Closed(Closed),
}

/// What becomes of a row of the outbox.
pub(crate) enum Fate {
    /// It has ended.
    Ended(Settled),
    /// It has to be made again after catching up.
    Again,
    /// It waits: the server is at an earlier epoch of the group than this device.
    ServerIsBehind,
}

/// Takes over the server's answer to a request: the effects and the end of the row, in one transaction.
pub(crate) fn settle(tx: &Tx<'_>, context: &Context, id: i64, verdict: Verdict) -> Result<Fate, Error> {
    let Some(entry) = outbox::entry(tx.connection(), id)? else {
        return Ok(Fate::Again);
    };
    let Entry {
        group,
        intent,
        server_epoch,
        ..
    } = entry;
    let now = context.now();
    let outcome = match verdict {
        Verdict::Accepted(proof) => {
            // First, so that what the acceptance queues does not wait for this row.
            outbox::remove(tx.connection(), id)?;
            accepted(tx, context, &group, &intent, proof, now)?;
            Outcome::Done
        }
        // A server that was restored from a backup goes back, and says that it was. The other groups go on.
        Verdict::WrongEpoch(Some(current)) if is_behind(tx, &group, current)? => {
            outbox::set_aside(tx.connection(), &group)?;
            return Ok(Fate::ServerIsBehind);
        }
        // It names the same again, at which this was made: it contradicts itself, and is asked again at the next sync.
        Verdict::WrongEpoch(Some(current))
            if matches!(intent, Intent::Message { .. })
                && server_epoch == Some(current)
                && is_at(tx, &group, current)? =>
        {
            outbox::set_aside(tx.connection(), &group)?;
            return Ok(Fate::Again);
        }
        Verdict::WrongEpoch(current) => {
            if !wrong_epoch(tx, &group, id, &intent, current)? {
                return Ok(Fate::Again);
            }
            Outcome::Raced
        }
        // A new group's id is random: one that exists is ours, from a request whose answer was lost long ago.
        Verdict::Refused(problem)
            if matches!(intent, Intent::CreateGroup) && problem.problem_type == ProblemType::GroupExists =>
        {
            groups::set_state(tx.connection(), &group, GroupState::Active)?;
            Outcome::Done
        }
        Verdict::Refused(problem) => {
            if adding::without_refused(tx, (&group, id), &intent, &problem, now)? {
                return Ok(Fate::Again);
            }
            refused(tx, context, &group, &intent, &problem)?;
            Outcome::Refused(problem)
        }
    };
    outbox::remove(tx.connection(), id)?;
    Ok(Fate::Ended(Settled {
        id,
        outcome,
        purpose: intent.purpose(),
    }))
}

fn accepted(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    intent: &Intent,
    proof: Accepted,
    now: UnixSeconds,
) -> Result<(), Error> {
    let connection = tx.connection();
    match intent {
        Intent::CreateGroup => groups::set_state(connection, group, GroupState::Active),
        Intent::Invite { .. }
        | Intent::Remove { .. }
        | Intent::RemoveGone
        | Intent::CommitProposals
        | Intent::Update => merged(tx, context, group, intent, proof, now),
        Intent::Rejoin => rejoin::rejoined(tx, context, group),
        Intent::Leave { .. } | Intent::Message { row: None, .. } => Ok(()),
        Intent::Message { row: Some(row), .. } => {
            if let Some(seq) = proof.seq() {
                let lost = lost::mark(tx, group, seq..=u64::MAX)?;
                lost::tell(tx, context, group, lost)?;
            }
            messages::set_sent(connection, *row, proof.seq())
        }
    }
}

/// Whether the server is at an earlier epoch than this device, which merges only what the server has accepted.
fn is_behind(tx: &Tx<'_>, group: &GroupKey, current: u64) -> Result<bool, Error> {
    let is_active = groups::group_state(tx, group)? == GroupState::Active;
    Ok(is_active && restored_server::is_ahead(tx, group, current)?)
}

fn is_at(tx: &Tx<'_>, group: &GroupKey, epoch: u64) -> Result<bool, Error> {
    Ok(mls::find(tx, group)?.is_some_and(|mls| mls.epoch().as_u64() == epoch))
}

/// Whether the row has ended.
fn wrong_epoch(
    tx: &Tx<'_>,
    group: &GroupKey,
    id: i64,
    intent: &Intent,
    current: Option<u64>,
) -> Result<bool, Error> {
    match intent {
        // A new group has no other epoch; the server contradicts itself.
        Intent::CreateGroup => {
            groups::forget(tx, group)?;
            Ok(true)
        }
        Intent::Invite { .. } | Intent::Remove { .. } | Intent::RemoveGone | Intent::CommitProposals => {
            commits::clear(tx, group)?;
            outbox::remake_later(tx.connection(), id, current)?;
            Ok(false)
        }
        // Others were faster. The next sync tries again: at once, everybody who joined together would race everybody.
        Intent::Update => {
            commits::clear(tx, group)?;
            Ok(true)
        }
        // It is of no epoch; the server contradicts itself.
        Intent::Leave { .. } => Ok(true),
        // Built on an epoch that is over: thrown away, and begun anew while the group is `needs-rejoin`.
        Intent::Rejoin => {
            mls::delete(tx, group)?;
            Ok(true)
        }
        Intent::Message { .. } => {
            outbox::remake_later(tx.connection(), id, current)?;
            Ok(false)
        }
    }
}

fn refused(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    intent: &Intent,
    problem: &Problem,
) -> Result<(), Error> {
    let connection = tx.connection();
    match intent {
        Intent::CreateGroup => groups::forget(tx, group),
        Intent::Invite { .. }
        | Intent::Remove { .. }
        | Intent::RemoveGone
        | Intent::CommitProposals
        | Intent::Update => commits::clear(tx, group),
        Intent::Leave { again } => leaving::refused(tx, group, *again, problem),
        Intent::Rejoin => match problem.problem_type {
            // Not a member any more.
            ProblemType::NotFound | ProblemType::Forbidden => rejoin::not_let_in(tx, context, group),
            _ => mls::delete(tx, group),
        },
        Intent::Message { row: Some(row), .. } => messages::set_status(connection, *row, SendStatus::Failed),
        Intent::Message { row: None, .. } => Ok(()),
    }
}
