//! What becomes of a group whose server delivers something that does not fit it: the state stays as it is, and the Commits that
//! the server says there are go through MLS as ever.

use larder_judge::{Handshake as Parsed, Replay, Unreadable};
use larder_pool::Tx;
use larder_wire::{GroupInfoAnswer, Handshake, InboxKind, InboxRow, UserName};
use openmls::prelude::OpenMlsProvider as _;

use crate::core::incoming::{self, Failed};
use crate::core::last_known::{LastKnown, Link};
use crate::core::profile::Context;
use crate::core::rejoin::{self, TOLD_USERS_MAX};
use crate::core::schema::corrupt;
use crate::core::{groups, last_known, listed, messages, mls, outbox, restored_server, verdicts};
use crate::error::Error;
use crate::types::{GroupKey, GroupState};

const TOLD_UNSIGNED: &str = "the server delivered something that is not of this group as it is on this device, or left out \
                             what came before it; it was not taken over, and the group stays as it was";
const TOLD_AHEAD: &str =
    "the server says that this group has changed, and does not show by what; the group stays as it was";
const TOLD_OTHER_BRANCH: &str = "the server does not have this group as it is on this device; it stays as it is here. If the server's store went back to an \
     earlier state, its operator has to say so (larder admin restored); then this device comes back to the group";

/// Where a group is on this device.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) epoch: u64,
    /// The epoch's confirmed transcript hash (RFC 9420 §8.2); empty in a group's first epoch.
    pub(crate) transcript_hash: Vec<u8>,
}

/// What became of a page of Commits and proposals.
pub(crate) enum Caught {
    /// They were taken over; there may be more from this place on.
    Up(Place),
    /// One has tags that its signature does not cover and that are wrong here: the page once more, for [`lose_if_vouched_for`].
    OnTags(Vec<Handshake>),
    /// There is nothing more to take over.
    Over,
}

/// Where a group is that this device takes part in; `None` for another.
pub(crate) fn place(tx: &Tx<'_>, group: &GroupKey) -> Result<Option<Place>, Error> {
    let takes_part =
        groups::find(tx.connection(), group)?.is_some_and(|(state, _)| state == GroupState::Active);
    if !takes_part {
        return Ok(None);
    }
    let state = mls::load(tx, group)?;
    let context = state.public_group().group_context();
    Ok(Some(Place {
        epoch: context.epoch().as_u64(),
        transcript_hash: context.confirmed_transcript_hash().to_vec(),
    }))
}

/// The groups that the server has refused a request of for being at a later epoch than they are here. Every Commit reaches the
/// inboxes in the transaction that moves the epoch, and the inbox is empty.
pub(crate) fn groups_behind(tx: &Tx<'_>) -> Result<Vec<GroupKey>, Error> {
    let mut behind = Vec::new();
    for (group, epoch) in outbox::server_epochs(tx.connection())? {
        if place(tx, &group)?.is_some_and(|place| place.epoch < epoch) {
            behind.push(group);
        }
    }
    Ok(behind)
}

/// Takes note that the Commits of such a group were asked for: what is to be sent is made again at the epoch that the group has
/// here. If that is still the one that it had, it is sent at the next sync, and the person is told.
pub(crate) fn forget_server_epochs(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    before: &Place,
) -> Result<(), Error> {
    outbox::forget_server_epochs(tx.connection(), group)?;
    if place(tx, group)?.as_ref() == Some(before) {
        outbox::set_aside(tx.connection(), group)?;
        tell_once(tx, context, group, TOLD_AHEAD)?;
    }
    Ok(())
}

/// Takes over a page of the Commits and proposals that the server says have led a group on, those up to row `up_to` of the group:
/// what comes later comes by the inbox, in its order.
///
/// Nothing that no member has signed changes anything. A Commit that is signed and that MLS cannot follow, or that the server has
/// not kept, makes this device lose track of the group.
pub(crate) fn catch_up(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    page: Vec<Handshake>,
    up_to: Option<u64>,
) -> Result<Caught, Error> {
    let Some(began) = place(tx, group)? else {
        return Ok(Caught::Over);
    };
    let mut at = began.epoch;
    // Something of this epoch is not kept any more: without it the epoch's Commit cannot be followed, if it is not itself that.
    let mut is_incomplete = false;
    for Handshake { seq, epoch, message } in &page {
        let (seq, epoch) = (*seq, *epoch);
        if epoch < at {
            continue;
        }
        if epoch > at || up_to.is_some_and(|up_to| seq > up_to) {
            break;
        }
        let Some(message) = message else {
            is_incomplete = true;
            continue;
        };
        let Some(kind) = kind(&message.0) else {
            return Ok(Caught::Over);
        };
        let row = InboxRow {
            group_id: Some(group.clone()),
            seq,
            first: None,
            kind,
            epoch: Some(epoch),
            received_at: context.now().0,
            gone: None,
            body: message.clone(),
        };
        match incoming::tried(tx, || incoming::group_message(tx, context, &row))? {
            Ok(()) => {}
            Err(Failed::Fault(error)) => return Err(*error),
            // A Commit that needs it does not fit, either; ours may be there already.
            Err(_) if kind == InboxKind::Proposal => continue,
            Err(Failed::Refused(rule)) => {
                verdicts::refuse(tx, context, group, rule)?;
                return Ok(Caught::Over);
            }
            Err(Failed::Unfollowable) => {
                incoming::lose(tx, context, group)?;
                return Ok(Caught::Over);
            }
            Err(Failed::WrongTags) => return Ok(Caught::OnTags(page)),
            Err(Failed::Unsigned) if is_incomplete => break,
            Err(Failed::Past | Failed::Unsigned) => return Ok(Caught::Over),
            // Not of a Commit.
            Err(Failed::Row(_) | Failed::Unreadable | Failed::Welcome(_) | Failed::Blocked) => {
                return Ok(Caught::Over);
            }
        }
        let Some(now) = place(tx, group)? else {
            return Ok(Caught::Over);
        };
        is_incomplete &= now.epoch == at;
        at = now.epoch;
    }
    if is_incomplete {
        incoming::lose(tx, context, group)?;
        return Ok(Caught::Over);
    }
    let further = place(tx, group)?.filter(|now| now.epoch > began.epoch);
    Ok(further.map_or(Caught::Over, Caught::Up))
}

/// Loses track of a group in which a member has made a Commit with tags that do not fit it: if followed from outside, a page of
/// its Commits leads to exactly the group that a member describes with its signature. Otherwise the tags are no member's, and the
/// group stays as it is.
pub(crate) fn lose_if_vouched_for(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    page: &[Handshake],
    answer: &GroupInfoAnswer,
) -> Result<(), Error> {
    let provider = tx.provider();
    let crypto = provider.crypto();
    let state = mls::load(tx, group)?;
    let began = last_known::copied(tx, group, state.public_group())?;
    let mut replay = Replay::new(verdicts::judge(context, crypto), began);
    for handshake in page {
        if handshake.epoch < replay.state().group_context().epoch().as_u64() {
            continue;
        }
        let followed = handshake
            .message
            .as_ref()
            .map(|message| replay.follow(&message.0));
        if !matches!(followed, Some(Ok(()))) {
            break;
        }
    }
    match rejoin::group_info(group, answer) {
        Ok(info) if replay.leads_to(&info) => {
            verdicts::believe_again(tx, group)?;
            incoming::lose(tx, context, group)
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Takes note that it is to be asked whether the server has this group as it is here: the server was restored.
pub(super) fn doubt_branch(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    tx.connection().execute(
        "UPDATE groups SET branch_doubted = 1 WHERE group_id = ?1",
        [group.as_bytes()],
    )?;
    Ok(())
}

/// The groups of which it is to be asked.
pub(crate) fn doubted_branches(tx: &Tx<'_>) -> Result<Vec<GroupKey>, Error> {
    let mut statement = tx
        .connection()
        .prepare_cached("SELECT group_id FROM groups WHERE branch_doubted = 1 ORDER BY group_id")?;
    let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
    rows.map(|id| corrupt(GroupKey::from_bytes(&id?).ok(), "group id"))
        .collect()
}

/// Takes note of the answer. A server that was restored has lost what is not its branch: this device comes back to that.
pub(crate) fn settle_branch(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    is_the_servers: bool,
) -> Result<(), Error> {
    tx.connection().execute(
        "UPDATE groups SET branch_doubted = 0 WHERE group_id = ?1",
        [group.as_bytes()],
    )?;
    match !is_the_servers && place(tx, group)?.is_some() {
        true => restored_server::fall_back(tx, context, group),
        false => Ok(()),
    }
}

/// The kind of row that these bytes would be; `None` for neither a Commit nor a proposal.
fn kind(message: &[u8]) -> Option<InboxKind> {
    match Parsed::commit(message) {
        Ok(_) => Some(InboxKind::Commit),
        Err(Unreadable::Kind) => Parsed::proposal(message).ok().map(|_| InboxKind::Proposal),
        Err(Unreadable::NotAMessage) => None,
    }
}

/// Tells the person of a row that nothing shows to be of a member of the group as it is here: once in an epoch.
pub(super) fn tell_unsigned(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    row: &InboxRow,
) -> Result<(), Error> {
    tracing::warn!(seq = row.seq, kind = ?row.kind, "an inbox row does not fit its group");
    tell_once(tx, context, group, TOLD_UNSIGNED)
}

/// Settles what to do about a group that the server says it has otherwise than it is here. Whether these Commits lead to the group
/// that it has all the same.
///
/// A server whose store went back without saying so has led the group on elsewhere: as soon as that is as far, and a member has
/// signed it, this device gives up its own state and comes back by the rules for every group that it has lost track of. Otherwise
/// the group stays as it is, and the person is told, and asked if the other one is as far.
pub(crate) fn settle_other_branch(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    (info, handshakes): (Option<&GroupInfoAnswer>, &[Vec<u8>]),
) -> Result<bool, Error> {
    if place(tx, group)?.is_none() {
        return Ok(false);
    }
    let known = LastKnown::of(tx, group, mls::load(tx, group)?.public_group())?;
    let epoch = known.epoch();
    let Some((answer, Ok(info))) = info.map(|answer| (answer, rejoin::group_info(group, answer))) else {
        tell_once(tx, context, group, TOLD_OTHER_BRANCH)?;
        return Ok(false);
    };
    match known.link(tx, context, (group, &info), handshakes)? {
        Some(Link::Replayed) => return Ok(true),
        Some(Link::Signed) => restored_server::go_over(tx, context, group)?,
        Some(Link::Past) | None => match listed::said_to_be_in(context, group, answer) {
            Some(users) if info.epoch().as_u64() >= epoch => {
                offer_other_branch(tx, context, (group, epoch), &users)?
            }
            Some(_) | None => tell_once(tx, context, group, TOLD_OTHER_BRANCH)?,
        },
    }
    Ok(false)
}

/// Tells the person who is said to be in the group that the server has instead of this one, which nobody has signed whom this
/// device knows to be in it: whoever a lost Commit had removed, perhaps. The person may accept that: once in an epoch.
fn offer_other_branch(
    tx: &Tx<'_>,
    context: &Context,
    (group, epoch): (&GroupKey, u64),
    users: &[UserName],
) -> Result<(), Error> {
    if offered_instead(tx, group)?.is_some() {
        return Ok(());
    }
    note_doubted(tx, group, epoch)?;
    listed::offer(tx, group, Some(users))?;
    let named: Vec<&str> = users.iter().take(TOLD_USERS_MAX).map(UserName::as_str).collect();
    let text = format!(
        "the server has another group in the place of this one, and nothing shows that it is the same: with {} in it. What is \
         sent here may reach nobody. This device stays in the group as it is unless you accept the other one",
        named.join(", ")
    );
    messages::notice(tx.connection(), Some(group), &text, context.now())
}

/// Who is said to be in the group that the server has instead of this one, as it told at the group's present epoch.
pub(super) fn offered_instead(tx: &Tx<'_>, group: &GroupKey) -> Result<Option<Vec<UserName>>, Error> {
    let doubted: Option<i64> = tx
        .connection()
        .prepare_cached("SELECT doubted_epoch FROM groups WHERE group_id = ?1")?
        .query_row([group.as_bytes()], |row| row.get(0))?;
    match place(tx, group)? {
        Some(place) if doubted == Some(place.epoch.cast_signed()) => listed::offered(tx.connection(), group),
        Some(_) | None => Ok(None),
    }
}

/// Notes that the person was told something of a group at this epoch. Whether that is the first time.
fn note_doubted(tx: &Tx<'_>, group: &GroupKey, epoch: u64) -> Result<bool, Error> {
    let noted = tx.connection().execute(
        "UPDATE groups SET doubted_epoch = ?2 WHERE group_id = ?1 AND doubted_epoch IS NOT ?2",
        (group.as_bytes(), epoch.cast_signed()),
    )?;
    Ok(noted > 0)
}

/// Tells the person something of a group, unless the group is at an epoch at which this was said already, or worse.
fn tell_once(tx: &Tx<'_>, context: &Context, group: &GroupKey, text: &str) -> Result<(), Error> {
    let Some(Place { epoch, .. }) = place(tx, group)? else {
        return Ok(());
    };
    if !note_doubted(tx, group, epoch)? || verdicts::holds(tx, group)? {
        return Ok(());
    }
    let (connection, now) = (tx.connection(), context.now());
    messages::notice(connection, Some(group), text, now)
}
