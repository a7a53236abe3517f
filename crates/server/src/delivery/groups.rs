use larder_judge::PublicState;
use larder_lifecycle::UnixSeconds;
use larder_wire::{
    Accepted, CommitCheck, CreateGroupRequest, GroupCreated, GroupId, Problem, ProblemType, Sent,
};
use openmls::group::ProposalStore;
use openmls::prelude::{CreationFromExternalError, PublicGroup};
use openmls_rust_crypto::RustCrypto;

use crate::delivery::messages::answer_to;
use crate::delivery::{checks, parse};
use crate::error::{Fault, ServiceError};
use crate::store::{DeviceRow, GroupRow, LogKind, MailKind, Tx};

/// A new group, judged: its creator is its only member.
pub(crate) struct NewGroup {
    suite: u16,
    snapshot: Vec<u8>,
}

/// Judges the creation of a group by `caller`.
pub(crate) fn judge_new_group(
    crypto: &RustCrypto,
    suites: &[u16],
    caller: &DeviceRow,
    request: &CreateGroupRequest,
) -> Result<NewGroup, ServiceError> {
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
    let (public_group, _) = PublicGroup::from_external(
        crypto,
        &PublicState::default(),
        ratchet_tree,
        group_info,
        ProposalStore::new(),
    )
    .map_err(|error| match error {
        CreationFromExternalError::WriteToStorageError(error) => Fault::from(error).into(),
        _ => ServiceError::from(Problem::commit(CommitCheck::PublicState)),
    })?;
    let creator = {
        let mut members = public_group.members();
        let (Some(creator), None) = (members.next(), members.next()) else {
            return refuse(CommitCheck::Sender);
        };
        creator
    };
    if !larder_key_package::can_be_encrypted_to(crypto, suite, &creator.encryption_key) {
        return refuse(CommitCheck::PublicState);
    }
    if larder_judge::Leaf::of_member(&creator).is_none_or(|leaf| !checks::is_leaf(&leaf, caller)) {
        return refuse(CommitCheck::Credential);
    }
    let state = PublicState::of(crypto, &public_group).map_err(Fault::from)?;
    Ok(NewGroup {
        suite: u16::from(suite),
        snapshot: state.encode().map_err(Fault::from)?,
    })
}

/// Creates a group at its first epoch, with the caller as its only member.
pub(crate) fn create_group(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    request: &CreateGroupRequest,
    new: &NewGroup,
    now: UnixSeconds,
) -> Result<GroupCreated, ServiceError> {
    let group = &request.group_id;
    if !tx.insert_group(group, new.suite, now)? {
        return Err(ProblemType::GroupExists.into());
    }
    tx.set_group_info(group, &request.group_info.0)?;
    tx.set_snapshot(group, 0, &new.snapshot)?;
    tx.begin_interval(group, caller.key, (0, 0))?;
    // The user's other devices join by external Commits.
    let devices = tx.devices_of(caller.user_key())?.into_iter();
    let others = devices.map(|device| device.key).filter(|key| *key != caller.key);
    tx.post(&others.collect::<Vec<_>>(), MailKind::DeviceChange, now)?;
    Ok(GroupCreated {
        group_id: group.clone(),
        epoch: 0,
    })
}

/// What there is to judge for something that may have been accepted before.
pub(crate) enum Standing<T> {
    /// It was: the answer that it got.
    Accepted(T),
    /// It was not.
    Open(GroupRow),
}

/// Where a group stands to a Commit with this hash. A device of a member user may know.
pub(crate) fn standing_of_commit(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    group: &GroupId,
    sha256: &[u8; 32],
) -> Result<Standing<Accepted>, ServiceError> {
    let standing = tx
        .standing(group, caller.key, sha256)?
        .ok_or(ProblemType::NotFound)?;
    if let Some(earlier) = standing.earlier
        && earlier.kind == LogKind::Commit
        && earlier.sender == caller.key
    {
        return Ok(Standing::Accepted(Accepted {
            epoch: earlier.epoch + 1,
            seq: earlier.seq,
        }));
    }
    match standing.is_member || tx.is_member_user(group, caller.user_key())? {
        true => Ok(Standing::Open(standing.group)),
        false => Err(ProblemType::NotFound.into()),
    }
}

/// Where a group stands. A member may know.
pub(crate) fn standing_of_member<T>(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    group: &GroupId,
) -> Result<Standing<T>, ServiceError> {
    let row = tx.group(group)?.ok_or(ProblemType::NotFound)?;
    match tx.is_member(group, caller.key)? {
        true => Ok(Standing::Open(row)),
        false => Err(ProblemType::NotFound.into()),
    }
}

/// Where a group stands to a proposal with this hash. A member may know.
pub(crate) fn standing_of_proposal(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    group: &GroupId,
    sha256: &[u8; 32],
) -> Result<Standing<Sent>, ServiceError> {
    let standing = tx
        .standing(group, caller.key, sha256)?
        .filter(|standing| standing.is_member)
        .ok_or(ProblemType::NotFound)?;
    let open = Standing::Open(standing.group);
    Ok(answer_to(standing.earlier, caller)?.map_or(open, Standing::Accepted))
}
