//! Devices of others that leave a group. Each has signed that; members commit the Remove.

use larder_judge::{Departure, Leaf};
use larder_pool::Tx;
use larder_wire::InboxRow;
use openmls::prelude::{LeafNode, LeafNodeIndex, MlsGroup, OpenMlsProvider, PublicGroup};

use crate::core::incoming::Failed;
use crate::core::profile::Context;
use crate::core::schema::corrupt;
use crate::core::{committed, devices, groups, last_known, leaving, mls};
use crate::error::Error;
use crate::types::{GroupKey, GroupState};

/// What a person is told of a departure that nobody has signed.
const UNSIGNED: &str =
    "the server says that somebody has left the group, and they have not signed that; it was not believed";

/// Takes note of the word of a device that it leaves, if it has given it, and tells the person. When it is another device of this
/// user, this one leaves, too.
pub(super) fn learn(tx: &Tx<'_>, context: &Context, row: &InboxRow) -> Result<(), Failed> {
    let connection = tx.connection();
    let Some(group) = &row.group_id else {
        return Ok(());
    };
    match groups::find(connection, group)? {
        Some((GroupState::Active | GroupState::NeedsRejoin, _)) => {}
        Some((GroupState::Creating | GroupState::Left, _)) | None => return Ok(()),
    }
    let departure = Departure::from_bytes(&row.body.0).map_err(|_| Failed::row(UNSIGNED))?;
    let mls = mls::find(tx, group)?;
    let known = match &mls {
        Some(_) => None,
        None => last_known::find(tx, group)?,
    };
    let state = match (&mls, &known) {
        (Some(mls), _) => mls.public_group(),
        (None, Some(known)) => known.state(),
        (None, None) => return Ok(()),
    };
    // One whose leaf is gone, or has become another one, is over.
    let Some((index, leaf)) = leaf_of(state, &departure) else {
        return Ok(());
    };
    if !verifies(tx, context, group, &departure, leaf) {
        return Err(Failed::row(UNSIGNED));
    }
    let whose = Leaf::of_node(leaf).ok_or_else(|| Failed::row(UNSIGNED))?;
    if whose == devices::own_leaf(context) {
        return Ok(());
    }
    let is_new = connection.execute(
        "INSERT INTO departures (group_id, departure) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        (group.as_bytes(), &row.body.0),
    )? == 1;
    if is_new {
        let stays = state
            .members()
            .filter(|member| member.index != index)
            .filter_map(|member| Leaf::of_member(&member))
            .any(|other| other.user == whose.user);
        let event = committed::left(&whose, stays);
        committed::record(tx, group, &[event], context.now(), false)?;
    }
    if devices::is_sibling(tx, context, &whose)? {
        // A user leaves with all devices.
        leaving::leave(tx, context, group)?;
    }
    Ok(())
}

/// The leaves in a group of devices that have left it, and have not been removed.
pub(super) fn leaves(tx: &Tx<'_>, context: &Context, state: &MlsGroup) -> Result<Vec<LeafNodeIndex>, Error> {
    let group = corrupt(GroupKey::from_bytes(state.group_id().as_slice()).ok(), "group id")?;
    let own = state.own_leaf_index();
    let departures = all(tx, &group)?;
    let found = departures.iter().filter_map(|departure| {
        let (index, leaf) = leaf_of(state.public_group(), departure)?;
        (index != own && verifies(tx, context, &group, departure, leaf)).then_some(index)
    });
    Ok(found.collect())
}

/// The members of a group without those that have left it, and have not been removed.
pub(super) fn staying(tx: &Tx<'_>, context: &Context, state: &MlsGroup) -> Result<Vec<Leaf>, Error> {
    let gone = leaves(tx, context, state)?;
    let members = state.members().filter(|member| !gone.contains(&member.index));
    Ok(members.filter_map(|member| Leaf::of_member(&member)).collect())
}

/// Forgets those whose leaves are gone.
pub(super) fn settle(tx: &Tx<'_>, group: &GroupKey, state: &PublicGroup) -> Result<(), Error> {
    for departure in all(tx, group)? {
        if leaf_of(state, &departure).is_none() {
            tx.connection()
                .prepare_cached("DELETE FROM departures WHERE group_id = ?1 AND departure = ?2")?
                .execute((group.as_bytes(), departure.to_bytes()))?;
        }
    }
    Ok(())
}

/// The group is not this device's any more.
pub(super) fn forget(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    tx.connection()
        .execute("DELETE FROM departures WHERE group_id = ?1", [group.as_bytes()])?;
    Ok(())
}

fn all(tx: &Tx<'_>, group: &GroupKey) -> Result<Vec<Departure>, Error> {
    let mut statement = tx
        .connection()
        .prepare_cached("SELECT departure FROM departures WHERE group_id = ?1")?;
    let rows = statement.query_map([group.as_bytes()], |row| row.get::<_, Vec<u8>>(0))?;
    rows.map(|bytes| Departure::from_bytes(&bytes?).map_err(|_| Error::Corrupt("departure")))
        .collect()
}

fn leaf_of<'a>(state: &'a PublicGroup, departure: &Departure) -> Option<(LeafNodeIndex, &'a LeafNode)> {
    state
        .treesync()
        .full_leaves()
        .find(|(_, leaf)| departure.is_of_leaf(leaf))
}

fn verifies(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    departure: &Departure,
    leaf: &LeafNode,
) -> bool {
    let server_name = context.identity.me.server_name.as_str();
    departure.verifies(tx.provider().crypto(), server_name, group, leaf)
}
