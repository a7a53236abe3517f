use larder_judge::{NotTaken, Rule};
use larder_pool::{JoinError, Tx};
use larder_wire::{InboxKind, InboxRow};
use openmls::prelude::{
    ConfirmationTag, ContentType, MlsMessageIn, OpenMlsProvider, ProcessMessageError, ProtocolMessage,
    StageCommitError, ValidationError,
};
use tls_codec::Deserialize as _;

use crate::core::contents::content;
use crate::core::positions::{self, Place};
use crate::core::profile::Context;
use crate::core::rows_seen::Digest;
use crate::core::{
    denials, departures, doubts, epochs, groups, leaving, lost, messages, mls, peers, requests, rows_seen,
    verdicts, welcome,
};
use crate::error::Error;
use crate::types::{GroupKey, GroupState};

/// What a person is told of a message that cannot be decrypted.
const UNREADABLE: &str = "a message of this group could not be read";

/// What an inbox row led to.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Applied {
    /// A group was joined.
    pub(crate) joined: bool,
    /// The pool should be refreshed: a KeyPackage was used, or is said to be, or the directory runs low.
    pub(crate) refresh: bool,
    /// A device of this one's user came or went, or is in a new group.
    pub(crate) own_devices: bool,
    /// It is of a group that this device does not know.
    pub(crate) unknown_group: bool,
    /// Its number was that of another row before.
    pub(crate) went_back: bool,
}

/// Why a row had no effect. All that it did is undone.
pub(super) enum Failed {
    /// The row is at fault; the reason, for a person.
    Row(String),
    /// The row is an application message that cannot be read.
    Unreadable,
    /// The row is a Welcome, and it is at fault.
    Welcome(JoinError),
    /// The row is a Welcome of a blocked user to a group that this device is in.
    Blocked,
    /// The row is a Commit that the group cannot have made.
    Refused(Rule),
    /// Nothing shows that a member has made the row; or Commits before it are missing here, or the row itself.
    Unsigned,
    /// It is a Commit of an epoch that this device was in, and that something else may have led on from here.
    Past,
    /// A member has signed the Commit, but not its tags, and those are wrong: the member's fault, or of whoever delivers it.
    WrongTags,
    /// A member has signed the Commit, and MLS cannot follow it here.
    Unfollowable,
    /// Something here is at fault; the row stays and is tried again.
    Fault(Box<Error>),
}

impl<E: Into<Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Fault(Box::new(error.into()))
    }
}

impl Failed {
    pub(super) fn row(reason: &str) -> Self {
        Self::Row(reason.to_owned())
    }
}

/// What became of an inbox row.
pub(crate) enum Taken {
    /// It has taken effect.
    Over(Applied),
    /// It had before, and so has everything up to it.
    Known,
    /// It had before, under another number; the group's position has moved to this one.
    Again,
    /// Rows before it are missing, so it has to wait for them.
    Beyond,
}

/// Takes over one inbox row: MLS state, history and position in one transaction. `None` when it does not fit the group as it is
/// here: nothing was done, and it is for [`apply_doubtful`], after the group's Commits were asked for.
///
/// A row that cannot be processed changes nothing but the position and the history, which says so.
pub(crate) fn apply(
    tx: &Tx<'_>,
    context: &Context,
    row: &InboxRow,
    tree: Option<&[u8]>,
) -> Result<Option<Taken>, Error> {
    let digest = rows_seen::digest(row);
    let number = match turn(tx, row, digest.as_ref())? {
        Turn::Over(taken) => return Ok(Some(taken)),
        Turn::Now(number) => number,
    };
    match tried(tx, || effect(tx, context, row, tree, number))? {
        Err(
            Failed::Past | Failed::Unsigned | Failed::WrongTags | Failed::Unfollowable | Failed::Refused(_),
        ) => Ok(None),
        effect => finish(tx, context, (row, digest.as_ref()), effect, number).map(Some),
    }
}

/// Takes over a row that did not fit its group, if it does now; and otherwise passes over it.
pub(crate) fn apply_doubtful(tx: &Tx<'_>, context: &Context, row: &InboxRow) -> Result<Taken, Error> {
    let digest = rows_seen::digest(row);
    match turn(tx, row, digest.as_ref())? {
        Turn::Over(taken) => Ok(taken),
        Turn::Now(number) => {
            let effect = tried(tx, || effect(tx, context, row, None, number))?;
            finish(tx, context, (row, digest.as_ref()), effect, number)
        }
    }
}

/// Whether it is a row's turn.
enum Turn {
    /// There is nothing to be done with it.
    Over(Taken),
    /// It is.
    Now(Number),
}

/// What the number of a row says that is to be taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    /// Nothing had it.
    New,
    /// Another row had it.
    OfAnother,
    /// A row had it that is not remembered, and that may have been this one.
    Forgotten,
}

fn turn(tx: &Tx<'_>, row: &InboxRow, digest: Option<&Digest>) -> Result<Turn, Error> {
    let connection = tx.connection();
    let Some(group) = &row.group_id else {
        return Ok(Turn::Now(Number::New));
    };
    Ok(match positions::place(connection, group, row, digest)? {
        Place::Next => Turn::Now(Number::New),
        Place::Forgotten => Turn::Now(Number::Forgotten),
        Place::Again => {
            positions::advance(connection, group, row.seq)?;
            Turn::Over(Taken::Again)
        }
        Place::Known => {
            positions::tell_again(connection, group, row.seq)?;
            Turn::Over(Taken::Known)
        }
        Place::Rewritten => {
            tracing::warn!(
                seq = row.seq,
                "the server has another row under the number of one that was taken over"
            );
            Turn::Now(Number::OfAnother)
        }
        Place::Beyond => {
            tracing::warn!(seq = row.seq, "the server leaves out rows of a group");
            Turn::Over(Taken::Beyond)
        }
    })
}

/// Ends a row, whether it had an effect (that a group was joined, perhaps) or failed.
fn finish(
    tx: &Tx<'_>,
    context: &Context,
    (row, digest): (&InboxRow, Option<&Digest>),
    effect: Result<bool, Failed>,
    number: Number,
) -> Result<Taken, Error> {
    let connection = tx.connection();
    if let Some(group) = &row.group_id {
        // What comes here is never a message of this device, unless it stands for numbers that it passes over.
        let lost = match digest {
            Some(_) => lost::mark(tx, group, row.seq..=row.seq)?,
            None => 0,
        };
        match number {
            Number::OfAnother => positions::tell_of_going_back(tx, context, group)?,
            Number::New | Number::Forgotten => lost::tell(tx, context, group, lost)?,
        }
    }
    let mut joined = false;
    let took_effect = effect.is_ok();
    match (effect, &row.group_id) {
        (Ok(did_join), _) => joined = did_join,
        (Err(Failed::Fault(error)), _) => return Err(*error),
        (Err(Failed::Row(reason)), group) => {
            tracing::warn!(seq = row.seq, kind = ?row.kind, "an inbox row was not accepted");
            let group = groups::known(connection, group.as_ref())?;
            messages::notice(connection, group, &reason, context.now())?;
        }
        (Err(Failed::Unreadable), _) => tell_unreadable(tx, context, row, number)?,
        (Err(Failed::Welcome(error)), _) => welcome::quarantine(tx, context, row, &error)?,
        (Err(Failed::Refused(rule)), Some(group)) => verdicts::refuse(tx, context, group, rule)?,
        (Err(Failed::Unsigned | Failed::WrongTags), Some(group)) => {
            doubts::tell_unsigned(tx, context, group, row)?
        }
        (Err(Failed::Unfollowable), Some(group)) => {
            verdicts::believe_again(tx, group)?;
            lose(tx, context, group)?;
        }
        // It was taken over by another way, or the group is not on its branch, which was looked into.
        (Err(Failed::Past | Failed::Blocked), _) => {}
        // None of them concerns no group.
        (Err(Failed::Refused(_) | Failed::Unsigned | Failed::WrongTags | Failed::Unfollowable), None) => {}
    }
    let mut unknown_group = false;
    if let Some(group) = &row.group_id {
        let is_known = groups::find(connection, group)?.is_some();
        // A group begins with a Welcome that can be opened.
        let is_unexplained = match row.kind {
            InboxKind::Welcome => !took_effect,
            _ => !positions::is_known(connection, group)?,
        };
        unknown_group = !is_known && is_unexplained;
        positions::advance(connection, group, row.seq)?;
        // What is read again and has no effect is not to take the place of what is still remembered.
        if let Some(digest) = digest.filter(|_| took_effect || number != Number::Forgotten) {
            // Nothing of a group that this device is not in yet has any effect.
            let is_remembered = is_known && !groups::is_following(connection, group)?;
            rows_seen::remember(connection, group, (row.seq, digest), took_effect, is_remembered)?;
        }
        denials::lift(tx, group)?;
    }
    Ok(Taken::Over(Applied {
        went_back: number == Number::OfAnother,
        unknown_group,
        joined,
        refresh: matches!(row.kind, InboxKind::Welcome | InboxKind::KeyPackagesLow),
        own_devices: row.kind == InboxKind::DeviceChange
            && row.body.0 == context.identity.me.user.as_str().as_bytes(),
    }))
}

/// Tells the person of a message that cannot be read. One that may be read again, because the server has gone back, could be read
/// then: of such ones the person is told nothing more than that, or once of all that follow one another.
fn tell_unreadable(tx: &Tx<'_>, context: &Context, row: &InboxRow, number: Number) -> Result<(), Error> {
    tracing::warn!(seq = row.seq, "a message could not be read");
    let connection = tx.connection();
    let group = groups::known(connection, row.group_id.as_ref())?;
    if number == Number::Forgotten
        && messages::last_is_notice_of(connection, group, &[positions::WENT_BACK, UNREADABLE])?
    {
        return Ok(());
    }
    messages::notice(connection, group, UNREADABLE, context.now())
}

/// Does something, and undoes it if it fails.
pub(super) fn tried<T>(
    tx: &Tx<'_>,
    work: impl FnOnce() -> Result<T, Failed>,
) -> Result<Result<T, Failed>, Error> {
    let connection = tx.connection();
    connection.execute_batch("SAVEPOINT larder_row")?;
    let done = work();
    connection.execute_batch(match done {
        Ok(_) => "RELEASE larder_row",
        Err(_) => "ROLLBACK TO larder_row; RELEASE larder_row",
    })?;
    Ok(done)
}

/// This device cannot follow the group any more. The next sync rejoins.
pub(super) fn lose(tx: &Tx<'_>, context: &Context, group: &GroupKey) -> Result<(), Error> {
    tracing::warn!("a group cannot be followed any more");
    if !verdicts::lose_track(tx, group)? {
        return Ok(());
    }
    let text = match requests::find(tx.connection(), group)? {
        None => "this device lost track of the group and rejoins it",
        Some(_) => "this device lost track of the group; it rejoins it if you accept",
    };
    messages::notice(tx.connection(), Some(group), text, context.now())
}

/// Whether a group was joined.
fn effect(
    tx: &Tx<'_>,
    context: &Context,
    row: &InboxRow,
    tree: Option<&[u8]>,
    number: Number,
) -> Result<bool, Failed> {
    match row.kind {
        // What else there is, is kept until it is acknowledged.
        InboxKind::Commit | InboxKind::Proposal | InboxKind::Message if row.gone.is_some() => {
            is_gone(tx, context, row, number).map(|()| false)
        }
        InboxKind::Welcome => welcome::join(tx, context, row, tree),
        InboxKind::Commit | InboxKind::Proposal | InboxKind::Message => {
            group_message(tx, context, row).map(|()| false)
        }
        InboxKind::DeviceChange => {
            let user = std::str::from_utf8(&row.body.0)
                .ok()
                .and_then(|name| name.parse().ok());
            // It does no harm to be told of nobody; what matters is in the list.
            if let Some(user) = user {
                peers::check_later(tx.connection(), &user)?;
            }
            Ok(false)
        }
        InboxKind::Departure => departures::learn(tx, context, row).map(|()| false),
        InboxKind::Passed | InboxKind::KeyPackagesLow => Ok(false),
    }
}

/// The server has not kept what the row was. Of several such rows that follow one another the person is told once, and of those that
/// may have been read before not at all.
fn is_gone(tx: &Tx<'_>, context: &Context, row: &InboxRow, number: Number) -> Result<(), Failed> {
    const TOLD: &str =
        "messages are missing here that the server has not kept until this device came for them";
    let Some(group) = &row.group_id else {
        return Ok(());
    };
    let Some((state, joined_epoch)) = groups::find(tx.connection(), group)? else {
        return Ok(());
    };
    if state != GroupState::Active {
        return Ok(());
    }
    let current = mls::load(tx, group)?.epoch().as_u64();
    match row.kind {
        // The epoch that a Commit leads to.
        InboxKind::Commit if row.epoch.is_some_and(|epoch| epoch <= current) => Ok(()),
        InboxKind::Commit => Err(Failed::Unsigned),
        InboxKind::Message if row.epoch.is_none_or(|epoch| epoch >= joined_epoch) => {
            if number == Number::Forgotten || messages::last_is_notice(tx.connection(), Some(group), TOLD)? {
                return Ok(());
            }
            messages::notice(tx.connection(), Some(group), TOLD, context.now())?;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Takes over a Commit, a proposal or a message of a group.
pub(super) fn group_message(tx: &Tx<'_>, context: &Context, row: &InboxRow) -> Result<(), Failed> {
    let group = row
        .group_id
        .as_ref()
        .ok_or_else(|| Failed::row("a message without a group arrived"))?;
    let Some((state, joined_epoch)) = groups::find(tx.connection(), group)? else {
        tracing::debug!(seq = row.seq, "a message of an unknown group");
        return Ok(());
    };
    match state {
        GroupState::Active => {}
        GroupState::Left => return Ok(leaving::leave_again(tx, group)?),
        // That it has to be rejoined the history has said already.
        GroupState::Creating | GroupState::NeedsRejoin => return Ok(()),
    }
    let message = parse(row, group)?;
    let mut mls = mls::load(tx, group)?;
    let (epoch, current) = (message.epoch().as_u64(), mls.epoch().as_u64());
    match row.kind {
        InboxKind::Message if epoch < joined_epoch => return Ok(()),
        InboxKind::Commit if (joined_epoch..current).contains(&epoch) => {
            return match epochs::has_led_to(tx, group, epoch + 1, confirmation_tag(&message))? {
                true => Ok(()),
                false => Err(Failed::Past),
            };
        }
        InboxKind::Commit | InboxKind::Proposal if epoch < current => return Ok(()),
        // Commits before it are missing here.
        _ if epoch > current => return Err(Failed::Unsigned),
        _ => {}
    }
    let provider = tx.provider();
    // Before anything else of it is looked at: whether we are removed by it, for example.
    let judge = verdicts::judge(context, provider.crypto());
    let judged = match row.kind {
        InboxKind::Commit => judge.commit(mls.public_group(), &row.body.0).map(|_| ()),
        InboxKind::Proposal => judge.proposal(mls.public_group(), &row.body.0).map(|_| ()),
        _ => Ok(()),
    };
    if let Err(reason) = judged {
        tracing::debug!(seq = row.seq, "not taken over: {reason}");
        return Err(match (row.kind, reason) {
            (InboxKind::Commit, NotTaken::Against(rule)) => Failed::Refused(rule),
            (_, NotTaken::Against(rule)) => Failed::Row(verdicts::explain("a proposal", rule)),
            (InboxKind::Commit, NotTaken::Unfollowable) => Failed::Unfollowable,
            // A proposal that was withheld is asked for together with what the Commit may be wrong about.
            (_, NotTaken::Unreadable(_) | NotTaken::Unsigned | NotTaken::ProposalUnknown)
            | (_, NotTaken::Unfollowable) => Failed::Unsigned,
        });
    }
    let processed = mls
        .process_message(&provider, message)
        .map_err(|error| match error {
            ProcessMessageError::StorageError(error) => Failed::from(Error::Sqlite(error)),
            error => {
                tracing::debug!(seq = row.seq, "OpenMLS refuses a message: {error}");
                match row.kind {
                    InboxKind::Commit if is_of_tags(&error) => Failed::WrongTags,
                    InboxKind::Commit => Failed::Unfollowable,
                    InboxKind::Proposal => Failed::Unsigned,
                    _ => Failed::Unreadable,
                }
            }
        })?;
    content(tx, context, row, group, &mut mls, processed)
}

/// The tag of a Commit, which tells the epoch that it leads to from every other.
fn confirmation_tag(message: &ProtocolMessage) -> Option<&ConfirmationTag> {
    match message {
        ProtocolMessage::PublicMessage(message) => message.confirmation_tag(),
        ProtocolMessage::PrivateMessage(_) => None,
    }
}

/// Whether a Commit is refused for a tag that only members can check (RFC 9420 §6.1).
fn is_of_tags<E>(error: &ProcessMessageError<E>) -> bool {
    matches!(
        error,
        ProcessMessageError::ValidationError(ValidationError::InvalidMembershipTag)
            | ProcessMessageError::InvalidCommit(StageCommitError::ConfirmationTagMismatch)
    )
}

/// One MLS message of the kind that the row promises, for the group that the row names.
fn parse(row: &InboxRow, group: &GroupKey) -> Result<ProtocolMessage, Failed> {
    let unreadable = || match row.kind {
        InboxKind::Commit | InboxKind::Proposal => Failed::Unsigned,
        _ => Failed::Unreadable,
    };
    let message = MlsMessageIn::tls_deserialize_exact(&row.body.0).map_err(|_| unreadable())?;
    let message = message.try_into_protocol_message().map_err(|_| unreadable())?;
    let fits = match row.kind {
        InboxKind::Commit => message.content_type() == ContentType::Commit,
        InboxKind::Proposal => message.content_type() == ContentType::Proposal,
        _ => message.content_type() == ContentType::Application,
    };
    if fits && message.group_id().as_slice() == group.as_bytes() {
        Ok(message)
    } else {
        Err(unreadable())
    }
}
