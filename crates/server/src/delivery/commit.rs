use larder_lifecycle::UnixSeconds;
use larder_wire::{
    Accepted, CommitCheck, CommitRequest, GroupId, InboxKind, KeyPackageRef, Problem, ProblemType,
};
use openmls::messages::Welcome;
use openmls::prelude::{
    ContentType, LeafNodeIndex, ProcessedMessageContent, Proposal, PublicGroup, Sender, StagedCommit,
};
use openmls_rust_crypto::RustCrypto;
use sha2::{Digest, Sha256};

use crate::delivery::groups::ratchet_tree_bytes;
use crate::delivery::{checks, load, parse};
use crate::directory;
use crate::error::{Fault, ServiceError};
use crate::store::{AcceptedKind, DeviceKey, DeviceRow, NewAccepted, NewInboxRow, Tx};

/// The Commit transaction: everything that a Commit does happens here, together, or not at all.
///
/// The Commit must be for the group's epoch, from the caller's leaf, acceptable to the group's public state, made of
/// Adds, Removes and Updates of registered devices; the KeyPackages that it adds must be those of the Welcome and be
/// reserved by the caller for this group; the GroupInfo must be the caller's for exactly the new epoch. Then the
/// KeyPackages are spent, the group moves on, and the members' inboxes get the Commit, the joiners' the Welcome.
pub(crate) fn commit(
    tx: &Tx<'_>,
    crypto: &RustCrypto,
    caller: &DeviceRow,
    group: &GroupId,
    request: &CommitRequest,
    now: UnixSeconds,
) -> Result<Accepted, ServiceError> {
    let bytes = &request.commit.0;
    tx.lock_group(group)?;
    let Some(row) = tx.group(group)? else {
        return Err(ProblemType::NotFound.into());
    };
    let sha256: [u8; 32] = Sha256::digest(bytes).into();
    if let Some(earlier) = tx.accepted(group, &sha256)?
        && earlier.is_commit
        && earlier.sender == caller.key
    {
        return Ok(Accepted {
            epoch: earlier.epoch + 1,
            seq: earlier.seq,
        });
    }
    if !tx.is_member_user(group, caller.key)? {
        return Err(ProblemType::NotFound.into());
    }

    let message = parse::handshake(bytes, ContentType::Commit, group)?;
    let group_info = parse::group_info(&request.group_info.0)?;
    let welcome = request
        .welcome
        .as_ref()
        .map(|welcome| parse::welcome(&welcome.0))
        .transpose()?;
    if message.epoch().as_u64() != row.epoch {
        return Err(Problem::wrong_epoch(row.epoch).into());
    }
    let (state, mut public_group) = load(group, &row.public_state)?;
    let sender = message.sender().clone();
    let tag = message
        .confirmation_tag()
        .cloned()
        .ok_or_else(|| refused(CommitCheck::PublicState))?;
    match &sender {
        Sender::Member(index) if checks::is_leaf_of(&public_group, *index, caller) => {}
        Sender::NewMemberCommit => {}
        Sender::Member(_) | Sender::External(_) | Sender::NewMemberProposal => {
            return Err(refused(CommitCheck::Sender));
        }
    }
    let processed = public_group
        .process_message(crypto, message)
        .map_err(|_| refused(CommitCheck::PublicState))?;
    let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
        return Err(refused(CommitCheck::MessageKind));
    };
    if staged.queued_proposals().count() != parse::proposals_count(bytes)? {
        return Err(refused(CommitCheck::PublicState));
    }

    let changes = judge_proposals(tx, crypto, &public_group, &staged, caller, &sender)?;
    let committer_index = match &sender {
        Sender::Member(index) => *index,
        Sender::NewMemberCommit | Sender::External(_) | Sender::NewMemberProposal => {
            judge_external(tx, &public_group, &staged, caller, group)?
        }
    };
    if let Some(leaf) = staged.update_path_leaf_node()
        && checks::device_of_leaf(tx, leaf)?.key != caller.key
    {
        return Err(refused(CommitCheck::Credential));
    }
    let added_refs: Vec<KeyPackageRef> = changes.added.iter().map(|(_, added)| added.clone()).collect();
    if !welcomes_exactly(welcome.as_ref(), &added_refs) {
        return Err(refused(CommitCheck::WelcomeRefs));
    }
    checks::check_group_info(
        crypto,
        &group_info,
        staged.group_context(),
        &tag,
        (committer_index, caller),
    )?;
    let members_before = tx.members(group)?;
    let touched = members_before
        .iter()
        .map(|(device, _)| *device)
        .chain(changes.added.iter().map(|(device, _)| *device));
    tx.lock_devices(touched)?;
    directory::spend(tx, &added_refs, caller, group, now)?;

    let new_epoch = staged.epoch().as_u64();
    public_group
        .merge_commit(&state, *staged)
        .map_err(|_| refused(CommitCheck::PublicState))?;
    if !tx.advance_group(group, row.epoch, &state.encode()?, &request.group_info.0)? {
        return Err(Fault::Corrupt("a group moved under its own transaction").into());
    }
    let accepted = NewAccepted {
        kind: AcceptedKind::Commit,
        epoch: row.epoch,
        sender: caller.key,
        sha256: &sha256,
    };
    let seq = tx.append_accepted(group, &accepted, now)?;
    update_roster(
        tx,
        group,
        &changes,
        matches!(sender, Sender::NewMemberCommit).then_some(caller.key),
        new_epoch,
    )?;

    let receivers: Vec<DeviceKey> = members_before
        .into_iter()
        .map(|(device, _)| device)
        .filter(|device| *device != caller.key)
        .collect();
    let commit_row = NewInboxRow {
        kind: InboxKind::Commit,
        group: Some(group),
        epoch: Some(new_epoch),
        body: Some(bytes),
    };
    tx.deliver(&receivers, &commit_row, now)?;
    if let Some(welcome) = &request.welcome {
        tx.insert_ratchet_tree(group, new_epoch, &ratchet_tree_bytes(&public_group)?)?;
        let joiners: Vec<DeviceKey> = changes.added.iter().map(|(device, _)| *device).collect();
        let welcome_row = NewInboxRow {
            kind: InboxKind::Welcome,
            group: Some(group),
            epoch: Some(new_epoch),
            body: Some(&welcome.0),
        };
        tx.deliver(&joiners, &welcome_row, now)?;
    }
    Ok(Accepted {
        epoch: new_epoch,
        seq,
    })
}

fn refused(check: CommitCheck) -> ServiceError {
    Problem::commit(check).into()
}

/// What a Commit does to the roster.
struct Changes {
    added: Vec<(DeviceKey, KeyPackageRef)>,
    removed: Vec<DeviceKey>,
}

/// Allows Add, Remove and Update, and looks up whom they concern. OpenMLS accepts more than that, and any name.
fn judge_proposals(
    tx: &Tx<'_>,
    crypto: &RustCrypto,
    public_group: &PublicGroup,
    staged: &StagedCommit,
    caller: &DeviceRow,
    sender: &Sender,
) -> Result<Changes, ServiceError> {
    let mut changes = Changes {
        added: Vec::new(),
        removed: Vec::new(),
    };
    for queued in staged.queued_proposals() {
        match queued.proposal() {
            Proposal::Add(add) => {
                let device = checks::device_of_leaf(tx, add.key_package().leaf_node())?;
                let hash_ref = add
                    .key_package()
                    .hash_ref(crypto)
                    .map_err(|_| Fault::Crypto("a KeyPackageRef"))?;
                let key_package_ref = KeyPackageRef::from_bytes(hash_ref.as_slice())
                    .map_err(|_| Fault::Crypto("a KeyPackageRef"))?;
                changes.added.push((device.key, key_package_ref));
            }
            Proposal::Remove(remove) => {
                let leaf = public_group
                    .leaf(remove.removed())
                    .ok_or_else(|| refused(CommitCheck::PublicState))?;
                // A device that is gone from the accounts has left the roster already.
                if let Some(device) = checks::device_named_by(tx, leaf.credential())? {
                    changes.removed.push(device.key);
                }
            }
            Proposal::Update(update) => {
                let proposer = match queued.sender() {
                    Sender::Member(index) => public_group.leaf(*index),
                    Sender::External(_) | Sender::NewMemberProposal | Sender::NewMemberCommit => None,
                };
                let proposer = proposer.ok_or_else(|| refused(CommitCheck::Sender))?;
                // Its device was looked up when it was proposed, and may be gone since.
                let updated = update.leaf_node();
                if updated.credential() != proposer.credential()
                    || updated.signature_key() != proposer.signature_key()
                {
                    return Err(refused(CommitCheck::Credential));
                }
            }
            Proposal::ExternalInit(_) if matches!(sender, Sender::NewMemberCommit) => {}
            _ => return Err(refused(CommitCheck::ProposalType)),
        }
    }
    if matches!(sender, Sender::NewMemberCommit) {
        let only_itself =
            changes.removed.iter().all(|device| *device == caller.key) && changes.removed.len() <= 1;
        if !changes.added.is_empty() || !only_itself {
            return Err(refused(CommitCheck::ExternalCommit));
        }
    }
    Ok(changes)
}

/// An external Commit is a resync (it removes the device's own old leaf) or a first join of a member user's device
/// (it removes nothing). Returns the leaf that it takes.
fn judge_external(
    tx: &Tx<'_>,
    public_group: &PublicGroup,
    staged: &StagedCommit,
    caller: &DeviceRow,
    group: &GroupId,
) -> Result<LeafNodeIndex, ServiceError> {
    let removes = staged.remove_proposals().count();
    let is_member = tx.is_member(group, caller.key)?;
    if staged.update_path_leaf_node().is_none() || removes != usize::from(is_member) {
        return Err(refused(CommitCheck::ExternalCommit));
    }
    public_group
        .ext_commit_sender_index(staged)
        .map_err(|_| refused(CommitCheck::ExternalCommit))
}

/// Whether the Welcome names the added KeyPackages, each once, and nothing else (RFC 9420 §12.4.3.1).
fn welcomes_exactly(welcome: Option<&Welcome>, added: &[KeyPackageRef]) -> bool {
    let mut named: Vec<Vec<u8>> = welcome
        .map(|welcome| {
            welcome
                .secrets()
                .iter()
                .map(|secret| secret.new_member().as_slice().to_vec())
                .collect()
        })
        .unwrap_or_default();
    let mut added: Vec<&[u8]> = added.iter().map(KeyPackageRef::as_bytes).collect();
    named.sort();
    added.sort_unstable();
    welcome.is_some() != added.is_empty() && named == added
}

fn update_roster(
    tx: &Tx<'_>,
    group: &GroupId,
    changes: &Changes,
    joined_externally: Option<DeviceKey>,
    new_epoch: u64,
) -> Result<(), Fault> {
    for device in &changes.removed {
        tx.remove_member(group, *device)?;
    }
    for device in changes
        .added
        .iter()
        .map(|(device, _)| *device)
        .chain(joined_externally)
    {
        tx.insert_member(group, device, new_epoch)?;
    }
    Ok(())
}
