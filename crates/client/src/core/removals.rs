//! Removes devices of users: signs for one of this device's own user, and finds the leaves of those that are gone.

use std::iter;

use larder_judge::Leaf;
use larder_pool::Tx;
use larder_wire::{
    Base64Url, DeviceId, DeviceInfo, LABEL_DEVICE_REMOVAL, Problem, ProblemType, RemovalRequest,
    USER_DEVICES_EVER_MAX, removal_content, sign_with_label_content,
};
use openmls::prelude::{LeafNodeIndex, MlsGroup};

use crate::core::identity::{Identity, sign};
use crate::core::peers::{self, Peer, Standing};
use crate::core::profile::Context;
use crate::core::schema::corrupt;
use crate::core::{departures, devices, removed_leaves};
use crate::error::Error;
use crate::types::GroupKey;

/// What this device signs to remove one of its user.
///
/// # Errors
/// [`Error::Refused`] with `not-found` for a device that is not in the list.
pub(crate) fn sign_removal(
    context: &Context,
    device: &DeviceId,
    listed: &[DeviceInfo],
) -> Result<RemovalRequest, Error> {
    let Identity { me, mls, .. } = &context.identity;
    let info = listed.iter().find(|info| info.device_id == *device);
    let info = info.ok_or_else(|| Error::Refused(Problem::new(ProblemType::NotFound)))?;
    let content = removal_content(&me.server_name, &me.user, device, &info.mls_signature_key.0);
    let labelled = sign_with_label_content(LABEL_DEVICE_REMOVAL, &content);
    Ok(RemovalRequest {
        signature: Base64Url(sign(mls, &labelled)?),
    })
}

/// The server has taken the removal of a device of this user, by this one. Its leaves are to be removed next. One that was never
/// theirs has none that anybody took for theirs.
pub(crate) fn removed_own(tx: &Tx<'_>, context: &Context, device: &DeviceId) -> Result<(), Error> {
    let connection = tx.connection();
    let user = &context.identity.me.user;
    let known = peers::of_user(connection, user)?;
    let Some(peer) = known.into_iter().find(|peer| peer.device_id == *device) else {
        return Ok(());
    };
    match peer.standing {
        Standing::Authorized | Standing::SaidRemoved => {}
        Standing::Seen | Standing::Removed | Standing::Unauthorized => return Ok(()),
    }
    let now_removed = Peer {
        standing: Standing::Removed,
        removed_by: vec![context.identity.me.device_id.clone()],
        ..peer
    };
    peers::set(connection, user, &now_removed, context.now())?;
    let text = devices::removed(user, device);
    for (group, _) in devices::groups_with(tx, user)? {
        devices::tell(
            tx,
            context,
            &group,
            (user, device),
            devices::NOTICE_REMOVED,
            &text,
        )?;
    }
    Ok(())
}

/// The leaves of devices that have left, and of those that their users have removed.
pub(super) fn leaves_of_gone(
    tx: &Tx<'_>,
    context: &Context,
    group: &MlsGroup,
) -> Result<Vec<LeafNodeIndex>, Error> {
    let mut leaves = departures::leaves(tx, context, group)?;
    leaves.extend(leaves_of_removed(tx, context, group)?);
    Ok(leaves)
}

fn leaves_of_removed(tx: &Tx<'_>, context: &Context, state: &MlsGroup) -> Result<Vec<LeafNodeIndex>, Error> {
    let mut gone = Vec::new();
    if !peers::any_removed(tx.connection())? {
        return Ok(gone);
    }
    let group = corrupt(GroupKey::from_bytes(state.group_id().as_slice()).ok(), "group id")?;
    let leaves = devices::leaves(state);
    for member in state.members() {
        if member.index != state.own_leaf_index()
            && let Some(leaf) = Leaf::of_member(&member)
            && goes(tx, context, &group, &leaf, &leaves)?
        {
            gone.push(member.index);
        }
    }
    Ok(gone)
}

/// Whether a leaf is to be removed from a group with these leaves: its user has removed the device, and it
/// can be seen here that one of those that signed this is the user's.
///
/// The signer is in the group, or was, or was let in by a device that is or was, and so on; that may be the
/// leaf itself. A list of devices alone shows nothing: whoever runs the server can make up a first device
/// that lets in the one of the leaf, and removes it. For this device's own user it does, because that list
/// begins with the first device as this one knows it by itself.
pub(super) fn goes(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    leaf: &Leaf,
    leaves: &[Leaf],
) -> Result<bool, Error> {
    let connection = tx.connection();
    if peers::standing(connection, &leaf.user, &leaf.device)? != Some(Standing::Removed) {
        return Ok(false);
    }
    let known = peers::of_user(connection, &leaf.user)?;
    let of_leaf = known.iter().find(|peer| peer.device_id == leaf.device);
    let of_leaf = of_leaf.filter(|peer| peer.signature_key == leaf.signature_key);
    let Some(removed) = of_leaf else {
        return Ok(false);
    };
    if leaf.user == context.identity.me.user {
        return Ok(true);
    }
    let removers = removed.removed_by.iter();
    for peer in removers.flat_map(|remover| lineage(&known, remover)) {
        let ancestor = Leaf {
            user: leaf.user.clone(),
            device: peer.device_id.clone(),
            signature_key: peer.signature_key.clone(),
        };
        if leaves.contains(&ancestor) || removed_leaves::was_removed(tx, group, &ancestor)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A device, the one that let it in, the one that let that one in, and so on.
fn lineage<'a>(known: &'a [Peer], device: &DeviceId) -> impl Iterator<Item = &'a Peer> {
    let find = |device: &DeviceId| known.iter().find(|peer| peer.device_id == *device);
    iter::successors(find(device), move |peer| peer.let_in_by.as_ref().and_then(find))
        .take(USER_DEVICES_EVER_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: &str, let_in_by: Option<&str>) -> Peer {
        Peer {
            let_in_by: let_in_by.map(|by| by.parse().unwrap()),
            ..Peer::present(id.parse().unwrap(), vec![1; 32], let_in_by.is_none())
        }
    }

    #[test]
    fn the_lineage_of_a_device_leads_to_the_first_one_and_ends() {
        let known = [
            peer("d-1", None),
            peer("d-2", Some("d-1")),
            peer("d-3", Some("d-2")),
            peer("d-4", Some("d-9")),
            peer("d-5", Some("d-6")),
            peer("d-6", Some("d-5")),
        ];
        let of = |id: &str| {
            let id = id.parse().unwrap();
            let lineage = lineage(&known, &id);
            lineage.map(|peer| peer.device_id.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(of("d-3"), ["d-3", "d-2", "d-1"]);
        assert_eq!(of("d-4"), ["d-4"]);
        assert_eq!(of("d-9"), [""; 0]);
        assert_eq!(of("d-5").len(), USER_DEVICES_EVER_MAX, "a circle is not for ever");
    }
}
