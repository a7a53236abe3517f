use larder_judge::{Evidence, Leaf};
use larder_lifecycle::UnixSeconds;
use larder_pool::Tx;
use larder_wire::{CommitRequest, DeviceInfo, GroupInfoAnswer};
use openmls::messages::group_info::VerifiableGroupInfo;
use openmls::prelude::{
    LeafNodeParameters, MlsGroup, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider, RatchetTreeIn,
};
use tls_codec::Deserialize as _;

use crate::core::gate::{self, Rejoining};
use crate::core::outbox::{self, Intent};
use crate::core::profile::Context;
use crate::core::{commits, devices, groups, messages, mls, peers, requests, restored_server, verdicts};
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
///
/// In a group that has no leaf of ours, a device of our user has to have let us in, as this list of our user's devices shows.
/// Where none has, `false`, and nothing is changed: one that is in the group adds us.
pub(crate) fn stage_rejoin(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    answer: &GroupInfoAnswer,
    devices: &[DeviceInfo],
) -> Result<bool, Error> {
    let may_rejoin = gate::clear_rejoin(tx, group)??;
    let bad = || Error::Corrupt("the server's GroupInfo cannot be used");
    // Ahead of the server, because it was restored: it does not know of who was removed since.
    let epoch = group_info(group, answer)?.epoch().as_u64();
    let given_up: Option<Vec<_>> = mls::find(tx, group)?
        .filter(|given_up| given_up.epoch().as_u64() > epoch)
        .map(|given_up| {
            given_up
                .members()
                .filter_map(|member| mls::who(&member.credential))
                .collect()
        });
    let connection = tx.connection();
    connection.execute_batch("SAVEPOINT larder_rejoin")?;
    mls::delete(tx, group)?;
    let (mut state, mut request) = external_commit(tx, context, &may_rejoin, (group, answer), Vec::new())?;
    if !verdicts::comes_back(&request)? {
        // Who is in the group is known only now.
        let evidence = evidence(tx, context, &state, devices);
        connection.execute_batch("ROLLBACK TO larder_rejoin")?;
        let Some(evidence) = evidence else {
            connection.execute_batch("RELEASE larder_rejoin")?;
            return Ok(false);
        };
        mls::delete(tx, group)?;
        (state, request) = external_commit(tx, context, &may_rejoin, (group, answer), evidence)?;
    }
    connection.execute_batch("RELEASE larder_rejoin")?;
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
    commits::push(tx, group, &request, &Intent::Rejoin)?;
    Ok(true)
}

pub(super) fn group_info(group: &GroupKey, answer: &GroupInfoAnswer) -> Result<VerifiableGroupInfo, Error> {
    let bad = || Error::Corrupt("the server's GroupInfo cannot be used");
    let message = MlsMessageIn::tls_deserialize_exact(&answer.group_info.0).map_err(|_| bad())?;
    match message.extract() {
        MlsMessageBodyIn::GroupInfo(info) if info.group_id().as_slice() == group.as_bytes() => Ok(info),
        _ => Err(bad()),
    }
}

/// The external Commit, and the group after it.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that comes back, by leave of the gate"
)]
fn external_commit(
    tx: &Tx<'_>,
    context: &Context,
    _: &Rejoining<'_>,
    (group, answer): (&GroupKey, &GroupInfoAnswer),
    authenticated_data: Vec<u8>,
) -> Result<(MlsGroup, CommitRequest), Error> {
    let tree = RatchetTreeIn::tls_deserialize_exact(&answer.ratchet_tree.0)
        .map_err(|_| Error::Corrupt("the server's GroupInfo cannot be used"))?;
    let provider = tx.provider();
    let identity = &context.identity;
    let (state, bundle) = MlsGroup::external_commit_builder()
        .with_ratchet_tree(tree)
        .with_config(mls::join_config())
        .with_aad(authenticated_data)
        // A member who never committed keeps its KeyPackage's lifetime in its leaf; nobody could come back after its end.
        .skip_lifetime_validation()
        .build_group(&provider, group_info(group, answer)?, identity.credential.clone())
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
    let (commit, _, group_info) = bundle.into_messages();
    let request = commits::commit_request(&commit, None, group_info.as_ref(), None)?;
    Ok((state, request))
}

/// Why those who are in the group let this device in, judged as they will judge it. `entered` is the group with this device.
fn evidence(tx: &Tx<'_>, context: &Context, entered: &MlsGroup, devices: &[DeviceInfo]) -> Option<Vec<u8>> {
    let leaves: Vec<Leaf> = entered
        .members()
        .filter(|member| member.index != entered.own_leaf_index())
        .filter_map(|member| Leaf::of_member(&member))
        .collect();
    let joiner = devices::own_leaf(context);
    let provider = tx.provider();
    Evidence::gather(&leaves, &joiner, devices)
        .map(|evidence| evidence.to_bytes())
        .filter(|evidence| verdicts::judge(context, provider.crypto()).lets_in(&leaves, &joiner, evidence))
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
