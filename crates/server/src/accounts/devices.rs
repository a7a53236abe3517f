//! The devices of a user: one links another, and any of them removes one.

use std::collections::{BTreeMap, BTreeSet};

use larder_judge::{Link, link_verifies, removal_verifies};
use larder_lifecycle::UnixSeconds;
use larder_wire::{
    DeviceId, DeviceInfo, GROUPS_PER_DEVICE_MAX, GroupId, Introduction, LinkRequest, ProblemType,
    USER_DEVICES_EVER_MAX, UserName, VOUCHERS_BYTES_MAX, Voucher,
};
use openmls_rust_crypto::RustCrypto;

use super::PUBLIC_KEY_BYTES;
use crate::directory;
use crate::error::ServiceError;
use crate::store::{DeviceKey, DeviceRow, MailKind, Tx};

/// An Ed25519 signature, in bytes.
const SIGNATURE_BYTES: usize = 64;

/// Links a device to the caller's user. The keys were checked like those of a registration; the authorization is checked
/// here, against the key of the device that is said to have made it.
///
/// The same request again gives the same answer: the device may have been linked before the answer was lost. What is to be said
/// to it takes the place of what was said before.
pub(crate) fn link(
    tx: &Tx<'_>,
    (crypto, server_name): (&RustCrypto, &str),
    caller: &DeviceRow,
    request: &LinkRequest,
    devices_max: u32,
    now: UnixSeconds,
) -> Result<(), ServiceError> {
    let LinkRequest {
        device,
        authorization,
        introduction,
    } = request;
    if device.user != caller.user {
        return Err(ProblemType::Forbidden.into());
    }
    // Two devices that link one each wait for one another, and the second counts the first one's.
    tx.lock_user(caller.user_key())?;
    let present = tx.devices_of(caller.user_key())?;
    let Some(by) = present.iter().find(|known| known.device_id == authorization.by) else {
        return Err(ProblemType::Forbidden.into());
    };
    let link = Link {
        device: device.device_id.clone(),
        auth_key: device.auth_key.0.clone(),
        mls_signature_key: device.mls_signature_key.0.clone(),
        signature: authorization.signature.0.clone(),
    };
    if !link_verifies(crypto, (server_name, &device.user), &link, &by.signature_key) {
        return Err(ProblemType::Forbidden.into());
    }
    let is_the_same = |known: &&DeviceRow| {
        known.device_id == device.device_id
            && known.auth_key == device.auth_key.0
            && known.signature_key == device.mls_signature_key.0
    };
    if let Some(linked) = present.iter().find(is_the_same) {
        return introduce(tx, by, linked.key, introduction, now);
    }
    let ever = tx.device_list(caller.user_key())?.len();
    if present.len() >= devices_max as usize || ever >= USER_DEVICES_EVER_MAX {
        return Err(ProblemType::TooManyDevices.into());
    }
    let earlier = u8::try_from(ever).map_err(|_| ProblemType::TooManyDevices)?;
    let linked = tx
        .insert_linked_device(device, (by.key, earlier), &authorization.signature.0, now)?
        .ok_or(ProblemType::NameTaken)?;
    introduce(tx, by, linked, introduction, now)?;
    tell(tx, caller, &tx.groups_of_user(caller.user_key())?, now)
}

/// Checks the form of an introduction. What it says is for the new device to verify.
pub(crate) fn check_introduction(introduction: &Introduction) -> Result<(), ServiceError> {
    let is_of_length = [&introduction.by_key, &introduction.root_key, &introduction.proof]
        .iter()
        .all(|part| part.0.len() == PUBLIC_KEY_BYTES);
    let vouchers = &introduction.vouchers;
    let groups: BTreeSet<_> = vouchers.iter().map(|voucher| &voucher.group_id).collect();
    let is_signed = vouchers
        .iter()
        .all(|voucher| voucher.signature.0.len() == SIGNATURE_BYTES);
    if !is_of_length || !is_signed || groups.len() != vouchers.len() {
        return Err(ProblemType::Malformed.into());
    }
    let sizes = vouchers.iter().map(|voucher| voucher.group_info.0.len());
    if vouchers.len() > GROUPS_PER_DEVICE_MAX || sizes.sum::<usize>() > VOUCHERS_BYTES_MAX {
        return Err(ProblemType::TooLarge.into());
    }
    Ok(())
}

/// Stores what a device has to say to one that it has let in. A device vouches for the groups that it is in, at the epoch that
/// they are in: the tree of that one can still be made.
fn introduce(
    tx: &Tx<'_>,
    by: &DeviceRow,
    new: DeviceKey,
    introduction: &Introduction,
    now: UnixSeconds,
) -> Result<(), ServiceError> {
    let memberships = tx.memberships(by.key)?.into_iter();
    let epochs: BTreeMap<_, _> = memberships.map(|row| (row.group, row.epoch)).collect();
    let is_present = |voucher: &Voucher| epochs.get(&voucher.group_id) == Some(&voucher.epoch);
    Ok(tx.set_introduction(new, introduction, is_present, now)?)
}

/// Every device that a user has or had, for one whom the user has not blocked.
pub(crate) fn list(
    tx: &Tx<'_>,
    user: &UserName,
    asked_by: &UserName,
) -> Result<Vec<DeviceInfo>, ServiceError> {
    match tx.user_by_name(user)? {
        Some(user) if !tx.has_blocked(user, asked_by)? => Ok(tx.device_list(user)?),
        Some(_) | None => Err(ProblemType::NotFound.into()),
    }
}

/// Removes a device of the caller's user, by the caller's signature: its KeyPackages are withdrawn, its sessions and its inbox are
/// gone, and no group takes anything from it any more. With the last device the account ends. Removing it again changes nothing,
/// unless it was removed without a signature.
pub(crate) fn remove(
    tx: &Tx<'_>,
    (crypto, server_name): (&RustCrypto, &str),
    caller: &DeviceRow,
    (device_id, signature): (&DeviceId, &[u8]),
    now: UnixSeconds,
) -> Result<(), ServiceError> {
    let listed = tx.device_list(caller.user_key())?;
    let Some(device) = listed.iter().find(|device| device.device_id == *device_id) else {
        return Err(ProblemType::NotFound.into());
    };
    let removed = (device_id, device.mls_signature_key.0.as_slice());
    if !removal_verifies(
        crypto,
        (server_name, &caller.user),
        removed,
        signature,
        &caller.signature_key,
    ) {
        return Err(ProblemType::Forbidden.into());
    }
    if device.removal.is_some() {
        return Ok(());
    }
    let mut present = tx.devices_of(caller.user_key())?;
    present.retain(|device| device.device_id == *device_id);
    let groups = take_away(tx, caller, &present, now)?;
    tx.sign_removal(caller.user_key(), device_id, (caller.key, signature))?;
    tell(tx, caller, &groups, now)
}

/// Removes every device of the caller's user, and with them the account. Its name stays taken. No device signs it, so members
/// are told and take nobody out of a group.
pub(crate) fn remove_account(tx: &Tx<'_>, caller: &DeviceRow, now: UnixSeconds) -> Result<(), ServiceError> {
    let present = tx.devices_of(caller.user_key())?;
    let groups = take_away(tx, caller, &present, now)?;
    tell(tx, caller, &groups, now)
}

/// Takes from these devices all that they have here. The groups that are to be told.
fn take_away(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    devices: &[DeviceRow],
    now: UnixSeconds,
) -> Result<Vec<GroupId>, ServiceError> {
    // A request of a device that is under way ends first.
    for device in devices {
        tx.end_state(device.key)?;
    }
    tx.lock_user(caller.user_key())?;
    let groups = tx.groups_of_user(caller.user_key())?;
    for group in &groups {
        tx.lock_group(group)?;
    }
    tx.lock_devices(devices.iter().map(|device| device.key))?;
    for device in devices {
        directory::withdraw_all(tx, device, Some(caller), now)?;
        tx.remove_device(device.key, now)?;
    }
    for group in &groups {
        tx.note_roster_change(group, now)?;
    }
    Ok(groups)
}

/// Tells the members of these groups, and the user's own devices, that a device of the user came or went.
fn tell(tx: &Tx<'_>, caller: &DeviceRow, groups: &[GroupId], now: UnixSeconds) -> Result<(), ServiceError> {
    for group in groups {
        tx.append_device_change(group, &caller.user, now)?;
    }
    let devices = tx.devices_of(caller.user_key())?.into_iter();
    let devices: Vec<_> = devices.map(|device| device.key).collect();
    Ok(tx.post(&devices, MailKind::DeviceChange, now)?)
}
