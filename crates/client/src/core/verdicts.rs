//! What this device does about the verdict on a Commit or a proposal: of others, and of its own.

use larder_judge::{Handshake, Judge, Rule};
use larder_pool::Tx;
use larder_wire::CommitRequest;
use openmls::prelude::{MlsGroup, OpenMlsCrypto, OpenMlsProvider};

use crate::core::profile::Context;
use crate::core::{groups, messages, mls};
use crate::error::Error;
use crate::types::{GroupKey, GroupState};

/// Judges what concerns groups at this profile's server.
pub(super) fn judge<'a, C: OpenMlsCrypto>(context: &'a Context, crypto: &'a C) -> Judge<'a, C> {
    Judge::new(crypto, &context.identity.me.server_name)
}

/// Fails for a Commit of ours that others would not take over: it is neither sent nor merged.
pub(super) fn require_sound(
    tx: &Tx<'_>,
    context: &Context,
    group: &MlsGroup,
    request: &CommitRequest,
) -> Result<(), Error> {
    let provider = tx.provider();
    judge(context, provider.crypto())
        .commit(group.public_group(), &request.commit.0)
        .map(|_| ())
        .map_err(Error::mls("judging a Commit of this device"))
}

/// Whether an external Commit of ours brings back a leaf that the group has.
pub(super) fn comes_back(request: &CommitRequest) -> Result<bool, Error> {
    Handshake::commit(&request.commit.0)
        .map(|commit| commit.removes_somebody())
        .map_err(|reason| Error::mls("judging a Commit of this device")(reason.to_string()))
}

/// Why a Commit or a proposal of this group is not taken over, for a person.
pub(super) fn explain(what: &str, rule: Rule) -> String {
    format!(
        "the server delivered {what} of this group that nobody can have made there: it {rule}; it was not taken over, and the \
         group stays as it was"
    )
}

/// The group cannot have made a Commit that the server delivered. Nothing of it is taken over, the state is kept, and the
/// person is told once for each epoch.
pub(super) fn refuse(tx: &Tx<'_>, context: &Context, group: &GroupKey, rule: Rule) -> Result<(), Error> {
    tracing::warn!(?rule, "a Commit was not taken over");
    if holds(tx, group)? {
        return Ok(());
    }
    let epoch = mls::load(tx, group)?.epoch().as_u64();
    tx.connection().execute(
        "UPDATE groups SET refused_epoch = ?2 WHERE group_id = ?1",
        (group.as_bytes(), epoch.cast_signed()),
    )?;
    messages::notice(
        tx.connection(),
        Some(group),
        &explain("a change", rule),
        context.now(),
    )
}

/// Whether the server has delivered a Commit that the group cannot have made, at the epoch that the group is at here. An
/// honest one refuses what this device refuses: what this one says of later epochs is no reason to go there.
pub(super) fn holds(tx: &Tx<'_>, group: &GroupKey) -> Result<bool, Error> {
    let refused: Option<i64> = tx
        .connection()
        .prepare_cached("SELECT max(refused_epoch) FROM groups WHERE group_id = ?1")?
        .query_row([group.as_bytes()], |row| row.get(0))?;
    let Some(refused) = refused else {
        return Ok(false);
    };
    Ok(mls::find(tx, group)?.is_some_and(|state| state.epoch().as_u64() == refused.cast_unsigned()))
}

/// A member has signed what this device cannot follow: that is no word of the server, whatever it delivered before.
pub(super) fn believe_again(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    tx.connection().execute(
        "UPDATE groups SET refused_epoch = NULL WHERE group_id = ?1",
        [group.as_bytes()],
    )?;
    Ok(())
}

/// This device cannot follow the group any more, and the next sync rejoins it; unless the server is not to be believed about
/// it. Whether it is so.
pub(super) fn lose_track(tx: &Tx<'_>, group: &GroupKey) -> Result<bool, Error> {
    if holds(tx, group)? {
        return Ok(false);
    }
    groups::set_state(tx.connection(), group, GroupState::NeedsRejoin)?;
    Ok(true)
}
