use larder_lifecycle::UnixSeconds;
use larder_wire::{
    Base64Url, CommitCheck, CreateGroupRequest, GroupCreated, GroupId, GroupInfoAnswer, InboxKind, Problem,
    ProblemType,
};
use openmls::group::ProposalStore;
use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{CreationFromExternalError, PublicGroup};
use openmls::treesync::RatchetTree;
use openmls_rust_crypto::RustCrypto;

use crate::delivery::public_state::PublicState;
use crate::delivery::{checks, load, parse};
use crate::error::{Fault, ServiceError};
use crate::store::{DeviceRow, NewInboxRow, Tx};

/// Creates a group at its first epoch, with the caller as its only member.
pub(crate) fn create_group(
    tx: &Tx<'_>,
    crypto: &RustCrypto,
    suites: &[u16],
    caller: &DeviceRow,
    request: &CreateGroupRequest,
    now: UnixSeconds,
) -> Result<GroupCreated, ServiceError> {
    let group_info = parse::group_info(&request.group_info.0)?;
    let ratchet_tree = parse::first_ratchet_tree(&request.ratchet_tree.0)?;
    let suite = group_info.ciphersuite();
    let refuse = |check| Err(Problem::commit(check).into());
    if group_info.group_id().as_slice() != request.group_id.as_bytes() {
        return refuse(CommitCheck::Group);
    }
    // An external sender could propose without being a member.
    if !suites.contains(&u16::from(suite))
        || group_info.epoch().as_u64() != 0
        || group_info
            .group_context()
            .extensions()
            .external_senders()
            .is_some()
        || !checks::external_pub_is_usable(crypto, &group_info, suite)
    {
        return refuse(CommitCheck::GroupInfo);
    }
    if tx.group_epoch(&request.group_id)?.is_some() {
        return Err(ProblemType::GroupExists.into());
    }
    let state = PublicState::default();
    let (public_group, _) =
        PublicGroup::from_external(crypto, &state, ratchet_tree, group_info, ProposalStore::new()).map_err(
            |error| match error {
                CreationFromExternalError::WriteToStorageError(error) => Fault::from(error).into(),
                _ => ServiceError::from(Problem::commit(CommitCheck::PublicState)),
            },
        )?;
    let mut members = public_group.members();
    let (Some(creator), None) = (members.next(), members.next()) else {
        return refuse(CommitCheck::Sender);
    };
    if checks::device_named_by(tx, &creator.credential)?.is_none_or(|device| device.key != caller.key)
        || creator.signature_key != caller.signature_key
    {
        return refuse(CommitCheck::Credential);
    }
    let inserted = tx.insert_group(
        &request.group_id,
        u16::from(suite),
        0,
        &state.encode()?,
        &request.group_info.0,
        now,
    )?;
    if !inserted {
        return Err(ProblemType::GroupExists.into());
    }
    tx.insert_member(&request.group_id, caller.key, 0)?;
    // The user's other devices join by external Commits.
    let others: Vec<_> = tx
        .devices_of_user(&caller.user, &caller.user)?
        .into_iter()
        .map(|device| device.key)
        .filter(|device| *device != caller.key)
        .collect();
    let row = NewInboxRow {
        kind: InboxKind::DeviceChange,
        group: Some(&request.group_id),
        epoch: None,
        body: Some(caller.user.as_str().as_bytes()),
    };
    tx.deliver(&others, &row, now)?;
    Ok(GroupCreated {
        group_id: request.group_id.clone(),
        epoch: 0,
    })
}

/// What an external Commit needs, for a device of a member user.
pub(crate) fn group_info(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    group: &GroupId,
) -> Result<GroupInfoAnswer, ServiceError> {
    let Some(row) = tx.group(group)? else {
        return Err(ProblemType::NotFound.into());
    };
    if !tx.is_member_user(group, caller.key)? {
        return Err(ProblemType::NotFound.into());
    }
    let (_, public_group) = load(group, &row.public_state)?;
    Ok(GroupInfoAnswer {
        epoch: row.epoch,
        group_info: Base64Url(row.group_info),
        ratchet_tree: Base64Url(ratchet_tree_bytes(&public_group.export_ratchet_tree())?),
    })
}

/// The ratchet tree that a Welcome in the caller's inbox needs.
pub(crate) fn ratchet_tree(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    group: &GroupId,
    epoch: u64,
) -> Result<Vec<u8>, ServiceError> {
    tx.ratchet_tree_for(group, epoch, caller.key)?
        .ok_or_else(|| ProblemType::NotFound.into())
}

pub(super) fn ratchet_tree_bytes(ratchet_tree: &RatchetTree) -> Result<Vec<u8>, Fault> {
    ratchet_tree
        .tls_serialize_detached()
        .map_err(|_| Fault::Corrupt("a ratchet tree"))
}
