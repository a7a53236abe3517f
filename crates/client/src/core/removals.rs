//! Removes devices of users: signs for one of this device's own user, and finds the leaves of those that are gone.

use larder_pool::Tx;
use larder_wire::{
    Base64Url, DeviceId, DeviceInfo, LABEL_DEVICE_REMOVAL, Problem, ProblemType, RemovalRequest,
    removal_content, sign_with_label_content,
};
use openmls::prelude::{LeafNodeIndex, MlsGroup};

use crate::core::identity::{Identity, sign};
use crate::core::peers::{self, Peer, Standing};
use crate::core::profile::Context;
use crate::core::{departures, devices, mls};
use crate::error::Error;

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
    leaves.extend(leaves_of_removed(tx, group)?);
    Ok(leaves)
}

fn leaves_of_removed(tx: &Tx<'_>, group: &MlsGroup) -> Result<Vec<LeafNodeIndex>, Error> {
    let connection = tx.connection();
    let mut leaves = Vec::new();
    if !peers::any_removed(connection)? {
        return Ok(leaves);
    }
    for member in group.members() {
        if member.index == group.own_leaf_index() {
            continue;
        }
        if let Some((user, device)) = mls::who(&member.credential)
            && peers::standing(connection, &user, &device)? == Some(Standing::Removed)
        {
            leaves.push(member.index);
        }
    }
    Ok(leaves)
}
