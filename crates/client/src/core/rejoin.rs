use larder_lifecycle::UnixSeconds;
use larder_pool::Tx;
use larder_wire::GroupInfoAnswer;
use openmls::prelude::{
    LeafNodeParameters, MlsGroup, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider, RatchetTreeIn,
};
use tls_codec::Deserialize as _;

use crate::core::outbox::{self, Intent};
use crate::core::profile::Context;
use crate::core::{commits, gate, groups, messages, mls, peers, requests, restored_server};
use crate::error::Error;
use crate::types::{GroupKey, GroupState, MessageKind};

/// The groups whose GroupInfo is wanted for an external Commit. A request waits until it is accepted.
pub(crate) fn groups_to_rejoin(tx: &Tx<'_>) -> Result<Vec<GroupKey>, Error> {
    let lost = groups::in_states(tx.connection(), &[GroupState::NeedsRejoin])?;
    let mut wanted = requests::only_accepted(tx.connection(), lost)?;
    let mut waiting = Vec::new();
    for group in &wanted {
        if outbox::handshake_waits(tx.connection(), group)? {
            waiting.push(group.clone());
        }
    }
    wanted.retain(|group| !waiting.contains(group));
    Ok(wanted)
}

/// Builds the external Commit that brings this device back (RFC 9420 §12.4.3.2): it removes our old leaf and adds a new
/// one. The group's old state is replaced; until the server has accepted, the group stays `needs-rejoin`.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that comes back, by leave of the gate"
)]
pub(crate) fn stage_rejoin(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    answer: &GroupInfoAnswer,
) -> Result<(), Error> {
    let _may_rejoin = gate::clear_rejoin(tx, group)??;
    let bad = || Error::Corrupt("the server's GroupInfo cannot be used");
    let message = MlsMessageIn::tls_deserialize_exact(&answer.group_info.0).map_err(|_| bad())?;
    let MlsMessageBodyIn::GroupInfo(group_info) = message.extract() else {
        return Err(bad());
    };
    if group_info.group_id().as_slice() != group.as_bytes() {
        return Err(bad());
    }
    let epoch = group_info.epoch().as_u64();
    let tree = RatchetTreeIn::tls_deserialize_exact(&answer.ratchet_tree.0).map_err(|_| bad())?;
    // Ahead of the server, because it was restored: it does not know of who was removed since.
    let given_up: Option<Vec<_>> = mls::find(tx, group)?
        .filter(|given_up| given_up.epoch().as_u64() > epoch)
        .map(|given_up| {
            given_up
                .members()
                .filter_map(|member| mls::who(&member.credential))
                .collect()
        });
    mls::delete(tx, group)?;
    let provider = tx.provider();
    let identity = &context.identity;
    let (state, bundle) = MlsGroup::external_commit_builder()
        .with_ratchet_tree(tree)
        .with_config(mls::join_config())
        // A member who never committed keeps its KeyPackage's lifetime in its leaf; nobody could come back after its end.
        .skip_lifetime_validation()
        .build_group(&provider, group_info, identity.credential.clone())
        .map_err(Error::mls("building an external Commit"))?
        .leaf_node_parameters(LeafNodeParameters::default())
        .load_psks(provider.storage())
        .map_err(Error::mls("building an external Commit"))?
        .create_group_info(true)
        .use_ratchet_tree_extension(false)
        .build(provider.rand(), provider.crypto(), &identity.mls, |_| true)
        .map_err(Error::mls("building an external Commit"))?
        .finalize(&provider)
        .map_err(Error::mls("building an external Commit"))?;
    for member in state.members() {
        let (user, device) = mls::who(&member.credential).ok_or_else(bad)?;
        let connection = tx.connection();
        let pin = peers::pin(connection, &user, &device, &member.signature_key, context.now())?;
        if pin == peers::Pin::Changed {
            return Err(Error::KeyChanged { user, device });
        }
    }
    if let Some(given_up) = given_up {
        let given_up: Vec<_> = given_up.into_iter().map(|(user, _)| user).collect();
        restored_server::note_lost_removals(tx, group, &given_up, &state)?;
    }
    let (commit, _, group_info) = bundle.into_messages();
    let request = commits::commit_request(&commit, None, group_info.as_ref(), None)?;
    commits::push(tx, group, &request, &Intent::Rejoin)?;
    Ok(())
}

/// The server does not let this device in. A group that it has never been in is forgotten, so that it can be found again.
pub(crate) fn give_up_rejoining(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    if groups::is_following(tx.connection(), group)? {
        groups::forget(tx, group)
    } else {
        groups::depart_as_told(tx, group)
    }
}

/// The server accepted the external Commit: this device is a member (again), from the new epoch on.
pub(super) fn rejoined(tx: &Tx<'_>, group: &GroupKey, now: UnixSeconds) -> Result<(), Error> {
    let (kind, text) = if groups::is_following(tx.connection(), group)? {
        (
            MessageKind::Joined,
            "this device joined the group; what was written before stays on the others",
        )
    } else {
        (
            MessageKind::Notice,
            "this device rejoined the group; messages of the time between are missing",
        )
    };
    groups::set_following(tx.connection(), group, false)?;
    let epoch = mls::load(tx, group)?.epoch().as_u64();
    groups::enter(tx.connection(), group, GroupState::Active, epoch)?;
    messages::note(tx.connection(), Some(group), None, kind, text, now, false)
}
