use std::collections::BTreeSet;
use std::sync::Arc;

use larder_judge::{Evidence, Leaf, PublicState};
use larder_pool::Tx;
use larder_wire::{CommitRequest, DeviceInfo, GroupInfoAnswer, UserName};
use openmls::messages::group_info::VerifiableGroupInfo;
use openmls::prelude::{
    LeafNodeParameters, MlsGroup, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider, ProposalStore,
    PublicGroup, RatchetTreeIn,
};
use tls_codec::Deserialize as _;

use crate::core::gate::{self, Rejoining};
use crate::core::last_known::{self, Link};
use crate::core::outbox::{self, Intent};
use crate::core::profile::Context;
use crate::core::{
    commits, denials, departures, devices, epochs, groups, holds, leaves, listed, messages, mls, peers,
    requests, restored_server, verdicts, vouchers,
};
use crate::error::Error;
use crate::types::{GroupKey, GroupState, MessageKind};

/// How many users a person is told of who are said to be in a group.
pub(super) const TOLD_USERS_MAX: usize = 16;

/// The groups whose GroupInfo is wanted for an external Commit. A request waits until it is accepted.
pub(crate) fn groups_to_rejoin(tx: &Tx<'_>) -> Result<Vec<GroupKey>, Error> {
    let lost = groups::in_states(tx.connection(), &[GroupState::NeedsRejoin])?;
    let mut wanted = requests::only_accepted(tx.connection(), lost)?;
    let mut waiting = Vec::new();
    for group in &wanted {
        if outbox::handshake_waits(tx.connection(), group)? || denials::is_denied(tx.connection(), group)? {
            waiting.push(group.clone());
        }
    }
    wanted.retain(|group| !waiting.contains(group));
    Ok(wanted)
}

/// Whether anything may explain that this device is to be in a group: it was in it before, somebody has vouched for it, or the
/// person has accepted it.
pub(super) fn is_explained(tx: &Tx<'_>, group: &GroupKey) -> Result<bool, Error> {
    Ok(last_known_epoch(tx, group)?.is_some() || listed::accepted_with(tx, group)?.is_some())
}

/// What a server tells of a group that this device wants to come back to.
pub(crate) struct Offer {
    pub(crate) info: GroupInfoAnswer,
    /// The Commits and proposals since the epoch that this device last knew, as far as the server has them.
    pub(crate) handshakes: Vec<Vec<u8>>,
    /// The list of our user's devices.
    pub(crate) devices: Arc<Vec<DeviceInfo>>,
    /// The ratchet tree of the epoch that the group was vouched for at, if it has moved on and the server still has it.
    pub(crate) vouched_tree: Option<Vec<u8>>,
}

/// What an offer came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejoined {
    /// The external Commit is in the outbox.
    Staged,
    /// No device of our user that is in the group has let this one in. One that is adds it.
    NotLetIn,
    /// Nothing shows that it is the group that this device knew. The person was told.
    Unlinked,
    /// Nothing explains that this device is to be in it. The person is asked.
    Unexplained,
}

/// What explains that this device is to be in a group.
enum Explained {
    /// It was in it before.
    Before { leaves: Vec<Leaf>, link: Link },
    /// It was in one that nothing but a signature links to this, or nothing at all, and the person has accepted that, with these
    /// users.
    Instead { leaves: Vec<Leaf>, users: Vec<UserName> },
    /// The device that let this one in has vouched for exactly this group.
    Vouched,
    /// The person has accepted it, with these users.
    Accepted(Vec<UserName>),
}

/// The epoch at which this device, or the one that let it in, last knew the group; `None` for one that neither was in.
pub(crate) fn last_known_epoch(tx: &Tx<'_>, group: &GroupKey) -> Result<Option<u64>, Error> {
    match last_known::find(tx, group)? {
        Some(known) => Ok(Some(known.epoch())),
        None => vouchers::epoch(tx, group),
    }
}

/// Builds the external Commit that brings this device back (RFC 9420 §12.4.3.2): it removes our old leaf and adds a new
/// one. The group's old state is replaced; until the server has accepted, the group stays `needs-rejoin`.
///
/// What the server tells has to be [linked](Link) to what this device last knew of the group, or the device that let this one in;
/// where no Commits show why others are in it, the group is held. What neither knew is joined once the person has accepted it, and
/// held for everybody whom the person was not told of. In a group that has no leaf of ours, a device of our user has to have let us in.
pub(crate) fn stage_rejoin(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    offer: &Offer,
) -> Result<Rejoined, Error> {
    let may_rejoin = gate::clear_rejoin(tx, group)??;
    let bad = || Error::Corrupt("the server's GroupInfo cannot be used");
    let answer = &offer.info;
    let info = group_info(group, answer)?;
    let is_vouched_for = vouchers::is_for(tx, group, &info, offer.vouched_tree.as_deref())?;
    let explained = if let Some(known) = last_known::find(tx, group)? {
        let mut leaves = known.leaves();
        // That this device comes in is no news.
        leaves.push(devices::own_leaf(context));
        let goes_back = info.epoch().as_u64() < known.epoch() && !groups::may_go_back(tx, group)?;
        let accepted = listed::accepted_with(tx, group)?.filter(|_| !goes_back);
        match (
            known.link(tx, context, (group, &info), &offer.handshakes)?,
            accepted,
        ) {
            // What only a signature links, the person may have looked at, too.
            (Some(Link::Signed) | None, Some(users)) => Explained::Instead { leaves, users },
            (Some(link), _) => Explained::Before { leaves, link },
            (None, None) => {
                tell_unlinked(tx, context, (group, answer), &may_rejoin, goes_back)?;
                return Ok(Rejoined::Unlinked);
            }
        }
    } else if is_vouched_for {
        Explained::Vouched
    } else if let Some(users) = listed::accepted_with(tx, group)? {
        Explained::Accepted(users)
    } else {
        // Otherwise it is looked at again once there is.
        if listed::has_room(tx.connection())? {
            listed::ask(tx, context, group, Some(answer))?;
        }
        return Ok(Rejoined::Unexplained);
    };
    let connection = tx.connection();
    last_known::keep(tx, group)?;
    connection.execute_batch("SAVEPOINT larder_rejoin")?;
    mls::delete(tx, group)?;
    let (mut state, mut request) = external_commit(tx, context, &may_rejoin, (group, answer), Vec::new())?;
    if !verdicts::comes_back(&request)? {
        // Who is in the group is known only now.
        let evidence = evidence(tx, context, &state, &offer.devices);
        connection.execute_batch("ROLLBACK TO larder_rejoin")?;
        let Some(evidence) = evidence else {
            connection.execute_batch("RELEASE larder_rejoin")?;
            return Ok(Rejoined::NotLetIn);
        };
        mls::delete(tx, group)?;
        (state, request) = external_commit(tx, context, &may_rejoin, (group, answer), evidence)?;
    }
    connection.execute_batch("RELEASE larder_rejoin")?;
    let mut now = Vec::new();
    for member in state.members() {
        let leaf = Leaf::of_member(&member).ok_or_else(bad)?;
        let pin = peers::pin(
            connection,
            &leaf.user,
            &leaf.device,
            &leaf.signature_key,
            context.now(),
        )?;
        if pin == peers::Pin::Changed {
            let Leaf { user, device, .. } = leaf;
            return Err(Error::KeyChanged { user, device });
        }
        now.push(leaf);
    }
    match explained {
        Explained::Before { leaves, link } => compare(tx, context, group, (&leaves, now), link)?,
        Explained::Instead { mut leaves, users } => {
            leaves.extend(now.iter().filter(|leaf| users.contains(&leaf.user)).cloned());
            compare(tx, context, group, (&leaves, now), Link::Signed)?;
        }
        Explained::Vouched => {}
        Explained::Accepted(users) => listed::hold_for_others(tx, context, group, &users, &now)?,
    }
    commits::push(tx, group, &request, &Intent::Rejoin)?;
    Ok(Rejoined::Staged)
}

/// Holds the group for who is in it without anything that shows why, or not any more.
pub(super) fn compare(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    (before, now): (&[Leaf], Vec<Leaf>),
    link: Link,
) -> Result<(), Error> {
    if link == Link::Replayed {
        return Ok(());
    }
    let may_go_back = groups::may_go_back(tx, group)?;
    if may_go_back {
        // The server does not know of who was removed since.
        restored_server::note_lost_removals(tx, group, before, &now)?;
    }
    if link == Link::Past {
        return Ok(());
    }
    let mut known = before.to_vec();
    if may_go_back {
        // Nor of who came since.
        known.retain(|leaf| now.contains(leaf));
    }
    let others = restored_server::without_lost_removals(tx, group, now)?;
    holds::hold(tx, context, group, (&known, &others))
}

/// Tells the person, once for the same, who is said to be in the group, who may accept that unless it `goes_back` to an epoch that is
/// over. The tree tells only whom it is made for, so the Commit is made, and undone.
fn tell_unlinked(
    tx: &Tx<'_>,
    context: &Context,
    (group, answer): (&GroupKey, &GroupInfoAnswer),
    may_rejoin: &Rejoining<'_>,
    goes_back: bool,
) -> Result<(), Error> {
    let connection = tx.connection();
    connection.execute_batch("SAVEPOINT larder_offer")?;
    mls::delete(tx, group)?;
    let offered = external_commit(tx, context, may_rejoin, (group, answer), Vec::new());
    connection.execute_batch("ROLLBACK TO larder_offer; RELEASE larder_offer")?;
    let users: Option<BTreeSet<UserName>> = offered.ok().map(|(state, _)| {
        let others = state
            .members()
            .filter(|member| member.index != state.own_leaf_index());
        let users = others.filter_map(|member| mls::who(&member.credential));
        users.map(|(user, _)| user).take(TOLD_USERS_MAX).collect()
    });
    let users: Option<Vec<UserName>> = users.map(|users| users.into_iter().collect());
    let can_be_accepted = users.is_some() && !goes_back;
    listed::offer(tx, group, users.as_deref().filter(|_| can_be_accepted))?;
    let who = match users.unwrap_or_default() {
        users if users.is_empty() => "nobody who can be named".to_owned(),
        users => users.iter().map(UserName::as_str).collect::<Vec<_>>().join(", "),
    };
    let then = match can_be_accepted {
        true => "unless you accept it",
        false => "because it is none that this device can come back to",
    };
    let text = format!(
        "the server offers a group in the place of this one, and nothing shows that it is the same: with {who} in it. This \
         device does not join it {then}"
    );
    if messages::last_is_notice(connection, Some(group), &text)? {
        return Ok(());
    }
    messages::notice(connection, Some(group), &text, context.now())
}

pub(super) fn group_info(group: &GroupKey, answer: &GroupInfoAnswer) -> Result<VerifiableGroupInfo, Error> {
    read_group_info(group, &answer.group_info.0)
}

/// Reads a GroupInfo of this group. Its signature is still to be verified.
pub(super) fn read_group_info(group: &GroupKey, bytes: &[u8]) -> Result<VerifiableGroupInfo, Error> {
    let bad = || Error::Corrupt("the server's GroupInfo cannot be used");
    let message = MlsMessageIn::tls_deserialize_exact(bytes).map_err(|_| bad())?;
    match message.extract() {
        MlsMessageBodyIn::GroupInfo(info) if info.group_id().as_slice() == group.as_bytes() => Ok(info),
        _ => Err(bad()),
    }
}

/// The public half of the group of a GroupInfo, if this is its ratchet tree.
pub(super) fn public_group(
    tx: &Tx<'_>,
    info: VerifiableGroupInfo,
    tree: &[u8],
) -> Result<PublicGroup, Error> {
    let (state, _) = PublicGroup::from_external(
        tx.provider().crypto(),
        &PublicState::default(),
        ratchet_tree(tree)?,
        info,
        ProposalStore::new(),
    )
    .map_err(Error::mls("reading the public state of a group"))?;
    Ok(state)
}

fn ratchet_tree(tree: &[u8]) -> Result<RatchetTreeIn, Error> {
    RatchetTreeIn::tls_deserialize_exact(tree)
        .map_err(|_| Error::Corrupt("the server's GroupInfo cannot be used"))
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
    let provider = tx.provider();
    let identity = &context.identity;
    let (state, bundle) = MlsGroup::external_commit_builder()
        .with_ratchet_tree(ratchet_tree(&answer.ratchet_tree.0)?)
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
pub(crate) fn not_let_in(tx: &Tx<'_>, context: &Context, group: &GroupKey) -> Result<(), Error> {
    if groups::is_following(tx.connection(), group)? {
        groups::forget(tx, group)
    } else {
        denials::note(tx, group, context.now())
    }
}

/// The server accepted the external Commit: this device is a member (again), from the new epoch on.
pub(super) fn rejoined(tx: &Tx<'_>, context: &Context, group: &GroupKey) -> Result<(), Error> {
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
    listed::joined_group(tx, group)?;
    let state = mls::load(tx, group)?;
    let epoch = state.epoch().as_u64();
    epochs::note(tx, group, state.public_group())?;
    departures::settle(tx, group, state.public_group())?;
    groups::enter(tx.connection(), group, GroupState::Active, epoch)?;
    leaves::renewed(tx, context, group)?;
    // Under a hold the person decides what is known from now on.
    if !holds::is_held(tx.connection(), group)? {
        last_known::forget(tx, group)?;
    }
    messages::note_own(tx, context, group, kind, text)
}
