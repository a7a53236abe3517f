//! Groups that one device of a user vouches for to another one that it lets in: the latter joins them without asking, and holds
//! what the server says of them against what the former knew.

use larder_pool::Tx;
use larder_wire::{
    Base64Url, DeviceId, GROUPS_PER_DEVICE_MAX, Introduction, LABEL_VOUCHER, Membership, VOUCHERS_BYTES_MAX,
    Voucher, sign_with_label_content, voucher_content,
};
use openmls::messages::group_info::VerifiableGroupInfo;
use openmls::prelude::{OpenMlsCrypto, OpenMlsProvider};
use rusqlite::OptionalExtension;

use crate::core::identity::{SCHEME, sign};
use crate::core::profile::Context;
use crate::core::rejoin::{public_group, read_group_info};
use crate::core::{groups, holds, last_known, mls, requests};
use crate::error::Error;
use crate::types::{GroupKey, GroupState};

/// Vouches to a device for the groups that this one takes part in, that the person has accepted, and that are not held.
pub(super) fn write(
    tx: &Tx<'_>,
    context: &Context,
    (device, key): (&DeviceId, &[u8]),
) -> Result<Vec<Voucher>, Error> {
    let (connection, identity, provider) = (tx.connection(), &context.identity, tx.provider());
    let (mut vouchers, mut bytes) = (Vec::new(), 0);
    let active = groups::in_states(connection, &[GroupState::Active])?;
    for group in requests::only_accepted(connection, active)? {
        if holds::is_held(connection, &group)? {
            continue;
        }
        let state = mls::load(tx, &group)?;
        let group_info = state
            .export_group_info(provider.crypto(), &identity.mls, false)
            .map_err(Error::mls("exporting the GroupInfo"))?
            .to_bytes()
            .map_err(Error::mls("encoding the GroupInfo"))?;
        bytes += group_info.len();
        // What is left over is a request there.
        if bytes > VOUCHERS_BYTES_MAX || vouchers.len() == GROUPS_PER_DEVICE_MAX {
            break;
        }
        let me = &identity.me;
        let content = voucher_content(&me.server_name, &me.user, (device, key), &group_info);
        let labelled = sign_with_label_content(LABEL_VOUCHER, &content);
        connection.execute(
            "INSERT OR IGNORE INTO vouched (device_id, group_id) VALUES (?1, ?2)",
            (device.as_str(), group.as_bytes()),
        )?;
        vouchers.push(Voucher {
            epoch: state.epoch().as_u64(),
            group_id: group,
            group_info: Base64Url(group_info),
            signature: Base64Url(sign(&identity.mls, &labelled)?),
        });
    }
    Ok(vouchers)
}

/// Whether this device has vouched for a group to that one.
pub(super) fn is_vouched_to(tx: &Tx<'_>, device: &DeviceId, group: &GroupKey) -> Result<bool, Error> {
    Ok(tx
        .connection()
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM vouched WHERE device_id = ?1 AND group_id = ?2)")?
        .query_row((device.as_str(), group.as_bytes()), |row| row.get(0))?)
}

/// Takes over those vouchers that the device which let this one in has signed. Its key is verified.
pub(super) fn take_over(tx: &Tx<'_>, context: &Context, introduction: &Introduction) -> Result<(), Error> {
    let (me, own_key) = (&context.identity.me, context.identity.mls.public());
    let provider = tx.provider();
    for voucher in introduction.vouchers.iter().take(GROUPS_PER_DEVICE_MAX) {
        let group_info = &voucher.group_info.0;
        let own = (&me.device_id, own_key.as_slice());
        let content = voucher_content(&me.server_name, &me.user, own, group_info);
        let labelled = sign_with_label_content(LABEL_VOUCHER, &content);
        let (by_key, signature) = (&introduction.by_key.0, &voucher.signature.0);
        let is_signed = provider
            .crypto()
            .verify_signature(SCHEME, &labelled, by_key, signature)
            .is_ok();
        let info = read_group_info(&voucher.group_id, group_info)
            .ok()
            .filter(|info| is_signed && info.epoch().as_u64() == voucher.epoch);
        if info.is_none() {
            tracing::warn!("a voucher for a group does not verify");
            continue;
        }
        tx.connection().execute(
            "INSERT OR REPLACE INTO vouchers (group_id, epoch, group_info) VALUES (?1, ?2, ?3)",
            (
                voucher.group_id.as_bytes(),
                voucher.epoch.cast_signed(),
                group_info,
            ),
        )?;
    }
    Ok(())
}

/// Whether a voucher is for exactly the group that the server offers. Where the group has moved on since, the voucher and the
/// ratchet tree of its epoch become what this device last knew of it.
pub(super) fn is_for(
    tx: &Tx<'_>,
    group: &GroupKey,
    info: &VerifiableGroupInfo,
    tree: Option<&[u8]>,
) -> Result<bool, Error> {
    let Some((_, bytes)) = find(tx, group)? else {
        return Ok(false);
    };
    let vouched = read_group_info(group, &bytes).map_err(|_| Error::Corrupt("a voucher"))?;
    if vouched.group_context() == info.group_context() {
        return Ok(true);
    }
    if let Some(tree) = tree {
        match public_group(tx, vouched, tree) {
            Ok(state) => {
                last_known::set(tx, group, &state)?;
                drop(tx, group)?;
            }
            Err(error) => tracing::debug!("the tree of a voucher cannot be used: {error}"),
        }
    }
    Ok(false)
}

/// The epoch at which a group was vouched for.
pub(crate) fn epoch(tx: &Tx<'_>, group: &GroupKey) -> Result<Option<u64>, Error> {
    Ok(find(tx, group)?.map(|(epoch, _)| epoch))
}

fn find(tx: &Tx<'_>, group: &GroupKey) -> Result<Option<(u64, Vec<u8>)>, Error> {
    Ok(tx
        .connection()
        .prepare_cached("SELECT epoch, group_info FROM vouchers WHERE group_id = ?1")?
        .query_row([group.as_bytes()], |row| {
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?))
        })
        .optional()?)
}

/// The group is joined, or is none of this device's.
pub(super) fn drop(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    tx.connection()
        .prepare_cached("DELETE FROM vouchers WHERE group_id = ?1")?
        .execute([group.as_bytes()])?;
    Ok(())
}

/// Drops what is vouched for and not `listed`: the user has left it since.
pub(crate) fn drop_all_but(tx: &Tx<'_>, listed: &[Membership]) -> Result<(), Error> {
    let mut statement = tx.connection().prepare("SELECT group_id FROM vouchers")?;
    let groups = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
    let groups: Vec<Vec<u8>> = groups.collect::<Result<_, _>>()?;
    for group in groups {
        let key = GroupKey::from_bytes(&group).map_err(|_| Error::Corrupt("group id"))?;
        if !listed.iter().any(|listed| listed.group_id == key) {
            drop(tx, &key)?;
        }
    }
    Ok(())
}

/// Whether the server may forget what it keeps for the groups that were vouched for: they are joined, or asked about.
pub(crate) fn are_used(tx: &Tx<'_>) -> Result<bool, Error> {
    let sql = "SELECT introduced = 1 AND NOT EXISTS (SELECT 1 FROM vouchers) FROM profile";
    Ok(tx.connection().query_row(sql, [], |row| row.get(0))?)
}

/// The server has forgotten it.
pub(crate) fn forgotten(tx: &Tx<'_>) -> Result<(), Error> {
    tx.connection().execute("UPDATE profile SET introduced = 0", [])?;
    Ok(())
}
