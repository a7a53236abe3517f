use larder_lifecycle::UnixSeconds;
use larder_pool::Tx;
use larder_wire::{Base64Url, CommitRequest, UserName};
use openmls::prelude::{
    KeyPackage, LeafNodeIndex, MlsGroup, MlsMessageOut, OpenMlsProvider, Proposal, Sender,
};

use crate::core::gate::{self, Admitted, Removal};
use crate::core::outbox::{self, Intent};
use crate::core::profile::Context;
use crate::core::schema::corrupt;
use crate::core::{
    committed, departures, epochs, groups, holds, leaves, mls, naming, removals, removed_leaves, requests,
    restored_server, verdicts,
};
use crate::error::Error;
use crate::transport::Accepted;
use crate::types::{GroupKey, GroupState};

/// Stages a Commit that adds these, and with it whatever members have proposed.
pub(super) fn stage(
    tx: &Tx<'_>,
    context: &Context,
    admitted: Admitted<'_>,
    reservation_id: Option<String>,
) -> Result<CommitRequest, Error> {
    let (mls, adds) = admitted.into_parts();
    build(tx, context, mls, true, (adds, &[]), reservation_id)
}

/// Stages a Commit that removes these leaves, and with it whatever members have proposed that may be committed now.
pub(super) fn stage_removal(
    tx: &Tx<'_>,
    context: &Context,
    removal: Removal<'_>,
    removes: &[LeafNodeIndex],
) -> Result<CommitRequest, Error> {
    let updates_too = removal.keys_are_as_verified();
    let change = (Vec::new(), removes);
    build(tx, context, removal.into_state(), updates_too, change, None)
}

/// Stages a Commit of what members have proposed, if there is anything that may be committed now.
pub(super) fn stage_proposed(
    tx: &Tx<'_>,
    context: &Context,
    removal: Removal<'_>,
) -> Result<Option<CommitRequest>, Error> {
    let proposed = Proposed::of(removal.state());
    let anything = proposed.any && removal.keys_are_as_verified();
    match anything || !proposed.leavers.is_empty() {
        true => stage_removal(tx, context, removal, &[]).map(Some),
        false => Ok(None),
    }
}

/// Stages a Commit with these Adds and Removes, with Removes of those who have left, and with what members have proposed: that
/// they leave, and, if it may contain them, fresh leaves of theirs. It is pending until the server has answered. It brings a fresh leaf of ours if
/// ours is stale.
///
/// Fresh leaves that do not go together, as two with the same key, wait for the end of the epoch.
fn build(
    tx: &Tx<'_>,
    context: &Context,
    group: MlsGroup,
    updates_too: bool,
    (adds, removes): (Vec<KeyPackage>, &[LeafNodeIndex]),
    reservation_id: Option<String>,
) -> Result<CommitRequest, Error> {
    let proposed = Proposed::of(&group);
    let mut removes = removes.to_vec();
    removes.extend(departures::leaves(tx, context, &group)?);
    let change = Change {
        adds,
        removes,
        fresh_leaf: leaves::is_stale(tx, context, &group)?,
        reservation_id,
    };
    // Two proposals for one leaf do not go into one Commit (RFC 9420 §12.2).
    let concerned = |leaves: &[LeafNodeIndex]| leaves.iter().any(|leaf| change.removes.contains(leaf));
    let consume = proposed.all_committable
        && (updates_too || proposed.updaters.is_empty())
        && !concerned(&proposed.leavers)
        && !concerned(&proposed.updaters);
    if !consume {
        return change
            .with_removes_of(&proposed.leavers)
            .stage(tx, context, group, false);
    }
    if proposed.updaters.is_empty() {
        return change.stage(tx, context, group, true);
    }
    let key = corrupt(GroupKey::from_bytes(group.group_id().as_slice()).ok(), "group id")?;
    match tx.atomically(|| change.clone().stage(tx, context, group, true)) {
        Err(Error::Mls { source, .. }) => {
            tracing::warn!(%source, "a Commit cannot be made with the fresh leaves that members have proposed");
            let group = mls::load(tx, &key)?;
            change
                .with_removes_of(&proposed.leavers)
                .stage(tx, context, group, false)
        }
        done => done,
    }
}

/// What a Commit does besides what members have proposed.
#[derive(Clone)]
struct Change {
    adds: Vec<KeyPackage>,
    removes: Vec<LeafNodeIndex>,
    fresh_leaf: bool,
    reservation_id: Option<String>,
}

impl Change {
    fn with_removes_of(mut self, leaves: &[LeafNodeIndex]) -> Self {
        self.removes.extend(leaves);
        self
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that stages, by leave of the gate"
    )]
    fn stage(
        mut self,
        tx: &Tx<'_>,
        context: &Context,
        mut group: MlsGroup,
        consume: bool,
    ) -> Result<CommitRequest, Error> {
        let provider = tx.provider();
        self.removes.sort_unstable();
        self.removes.dedup();
        let (commit, welcome, group_info) = group
            .commit_builder()
            .consume_proposal_store(consume)
            .force_self_update(self.fresh_leaf)
            .propose_adds(self.adds)
            .propose_removals(self.removes)
            .load_psks(provider.storage())
            .map_err(Error::mls("building a Commit"))?
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(provider.rand(), provider.crypto(), &context.identity.mls, |_| {
                true
            })
            .map_err(Error::mls("building a Commit"))?
            .stage_commit(&provider)
            .map_err(Error::mls("staging a Commit"))?
            .into_messages();
        let request = commit_request(
            &commit,
            welcome.as_ref(),
            group_info.as_ref(),
            self.reservation_id,
        )?;
        verdicts::require_sound(tx, context, &group, &request)?;
        Ok(request)
    }
}

pub(super) fn commit_request(
    commit: &MlsMessageOut,
    welcome: Option<&MlsMessageOut>,
    group_info: Option<&MlsMessageOut>,
    reservation_id: Option<String>,
) -> Result<CommitRequest, Error> {
    let bytes = |message: &MlsMessageOut| {
        message
            .to_bytes()
            .map(Base64Url)
            .map_err(Error::mls("encoding a Commit"))
    };
    Ok(CommitRequest {
        commit: bytes(commit)?,
        welcome: welcome.map(bytes).transpose()?,
        group_info: bytes(group_info.ok_or(Error::Corrupt("a Commit without GroupInfo"))?)?,
        reservation_id,
    })
}

/// What members have proposed at this epoch.
pub(super) struct Proposed {
    /// Members other than us who asked to leave.
    leavers: Vec<LeafNodeIndex>,
    /// Members other than us who proposed a fresh leaf of theirs.
    updaters: Vec<LeafNodeIndex>,
    /// Whether a Commit of ours may contain all of it: members leaving and updating themselves. Anything else only
    /// ends with the epoch.
    all_committable: bool,
    /// Whether anything was proposed.
    pub(super) any: bool,
}

impl Proposed {
    pub(super) fn of(group: &MlsGroup) -> Self {
        let own = group.own_leaf_index();
        let mut proposed = Self {
            leavers: Vec::new(),
            updaters: Vec::new(),
            all_committable: true,
            any: false,
        };
        for queued in group.pending_proposals() {
            proposed.any = true;
            match (queued.proposal(), queued.sender()) {
                (Proposal::Remove(remove), Sender::Member(sender))
                    if remove.removed() == *sender && *sender != own =>
                {
                    proposed.leavers.push(*sender);
                }
                (Proposal::Update(_), Sender::Member(sender)) if *sender != own => {
                    proposed.updaters.push(*sender);
                }
                _ => proposed.all_committable = false,
            }
        }
        proposed
    }
}

fn commits_path(group: &GroupKey) -> String {
    format!("/v1/groups/{group}/commits")
}

/// Puts a staged Commit into the outbox.
pub(super) fn push(
    tx: &Tx<'_>,
    group: &GroupKey,
    request: &CommitRequest,
    intent: &Intent,
) -> Result<i64, Error> {
    outbox::push(
        tx.connection(),
        group,
        &commits_path(group),
        None,
        request,
        intent,
    )
}

/// Fails while a Commit or a proposal of ours waits for its answer.
pub(super) fn require_quiet(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    groups::require_active(tx, group)?;
    if outbox::handshake_waits(tx.connection(), group)? {
        return Err(Error::TooManyRaces);
    }
    Ok(())
}

/// Stages the Commit that removes all devices of a user. Returns the outbox row.
pub(crate) fn stage_remove(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    user: &UserName,
) -> Result<i64, Error> {
    require_quiet(tx, group)?;
    let removal = gate::clear_expulsion(tx, group)??;
    let leaves = leaves_of(removal.state(), user);
    if leaves.is_empty() || *user == context.identity.me.user {
        return Err(Error::NotAMember(user.clone()));
    }
    let request = stage_removal(tx, context, removal, &leaves)?;
    push(tx, group, &request, &Intent::Remove { user: user.clone() })
}

pub(super) fn leaves_of(group: &MlsGroup, user: &UserName) -> Vec<LeafNodeIndex> {
    group
        .members()
        .filter(|member| mls::who(&member.credential).is_some_and(|(name, _)| name == *user))
        .map(|member| member.index)
        .filter(|index| *index != group.own_leaf_index())
        .collect()
}

/// What remains to be done once the inbox is empty: commits what members proposed, and removes the leaves of devices that have
/// left or that their users have removed (whoever is first does; the others find nothing left to do). While it is `for_others` to be
/// first, only where a message waits for it. Whether anything was put into the outbox.
pub(crate) fn housekeeping(tx: &Tx<'_>, context: &Context, for_others: bool) -> Result<bool, Error> {
    let mut queued = false;
    for group in groups::in_states(tx.connection(), &[GroupState::Active])? {
        match tx.atomically(|| commit_what_is_due(tx, context, &group, for_others)) {
            Ok(due) => queued |= due,
            // What members have done to one group holds up no other.
            Err(Error::Mls { doing, source }) => {
                tracing::warn!(%source, "a group needs a Commit that cannot be made: {doing}");
            }
            Err(other) => return Err(other),
        }
    }
    Ok(queued)
}

/// Queues the Commit that a group needs, if it needs one that this device may make. Whether it does.
fn commit_what_is_due(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    for_others: bool,
) -> Result<bool, Error> {
    let is_request = requests::find(tx.connection(), group)?.is_some();
    if outbox::handshake_waits(tx.connection(), group)? || is_request {
        return Ok(false);
    }
    if restored_server::remove_again(tx, context, group)? {
        return Ok(true);
    }
    // Who is in it is for the person to look at first.
    if holds::is_held(tx.connection(), group)? || (for_others && !outbox::any_of(tx.connection(), group)?) {
        return Ok(false);
    }
    let state = mls::load(tx, group)?;
    let gone = removals::leaves_of_gone(tx, context, &state)?;
    if !gone.is_empty() {
        let removal = gate::clear_departures(tx, group)??;
        let request = stage_removal(tx, context, removal, &gone)?;
        push(tx, group, &request, &Intent::RemoveGone)?;
        return Ok(true);
    }
    if !Proposed::of(&state).any {
        return Ok(false);
    }
    let removal = gate::clear_departures(tx, group)??;
    let Some(request) = stage_proposed(tx, context, removal)? else {
        return Ok(false);
    };
    push(tx, group, &request, &Intent::CommitProposals)?;
    Ok(true)
}

/// The server refused our Commit: the group stays at its epoch.
pub(super) fn clear(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    mls::load(tx, group)?
        .clear_pending_commit(tx.provider().storage())
        .map_err(Error::mls("clearing a Commit"))
}

/// The server accepted our Commit: the group moves on, the history says so, and newcomers are told the group's name.
pub(super) fn merged(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    intent: &Intent,
    _proof: Accepted,
    now: UnixSeconds,
) -> Result<(), Error> {
    let provider = tx.provider();
    let mut state = mls::load(tx, group)?;
    let me = &context.identity.me;
    let staged = state
        .pending_commit()
        .ok_or(Error::Corrupt("an accepted Commit that is not pending"))?;
    let departed = departures::leaves(tx, context, &state)?;
    let events = committed::events(&state, staged, Some((&me.user, &me.device_id)), &departed);
    let renews_leaf = staged.update_path_leaf_node().is_some();
    removed_leaves::note(tx, group, &state, staged)?;
    state
        .merge_pending_commit(&provider)
        .map_err(Error::mls("merging a Commit"))?;
    epochs::note(tx, group, state.public_group())?;
    departures::settle(tx, group, state.public_group())?;
    if renews_leaf {
        leaves::renewed(tx, context, group)?;
    }
    committed::record(tx, group, &events, now, true)?;
    if matches!(intent, Intent::Invite { .. }) {
        naming::announce(tx, context, group)?;
    }
    Ok(())
}
