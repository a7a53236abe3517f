use larder_judge::{Entrance, Judge, JudgedCommit};
use larder_lifecycle::UnixSeconds;
use larder_wire::{
    Accepted, CommitCheck, CommitRequest, GroupId, InboxKind, KeyPackageRef, Problem, ProblemType,
    TREE_BYTES_MAX,
};
use openmls::messages::Welcome;
use openmls::prelude::tls_codec::Size as _;
use openmls::prelude::{PublicGroup, Sender, StagedCommit};
use openmls_rust_crypto::RustCrypto;
use sha2::{Digest, Sha256};

use crate::delivery::groups::ratchet_tree_bytes;
use crate::delivery::{checks, load, parse};
use crate::directory;
use crate::error::{Fault, ServiceError};
use crate::store::{AcceptedKind, DeviceKey, DeviceRow, NewAccepted, NewInboxRow, Tx};

/// The Commit transaction: everything that a Commit does happens here, together, or not at all.
///
/// The Commit must be for the group's epoch, from the caller's leaf, and one that members take over, whom [`Judge`] speaks
/// for; whom it adds must be registered devices; their KeyPackages must be those of the Welcome and be reserved by the caller
/// for this group; the GroupInfo must be the caller's for exactly the new epoch. Then the KeyPackages are spent, the group moves
/// on, and the members' inboxes get the Commit, the joiners' the Welcome.
pub(crate) fn commit(
    tx: &Tx<'_>,
    (crypto, server_name): (&RustCrypto, &str),
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

    let message = parse::commit(bytes, group)?;
    let group_info = parse::group_info(&request.group_info.0)?;
    let welcome = request
        .welcome
        .as_ref()
        .map(|welcome| parse::welcome(&welcome.0))
        .transpose()?;
    if message.epoch() != row.epoch {
        return Err(Problem::wrong_epoch(row.epoch).into());
    }
    let (state, mut public_group) = load(group, &row.public_state)?;
    match message.sender() {
        Sender::Member(index) if checks::is_leaf_of(&public_group, *index, caller) => {}
        Sender::NewMemberCommit => {}
        Sender::Member(_) | Sender::External(_) | Sender::NewMemberProposal => {
            return Err(refused(CommitCheck::Sender));
        }
    }
    let judged = Judge::new(crypto, server_name).commit(&public_group, bytes);
    let JudgedCommit {
        staged,
        committer,
        entrance,
        confirmation_tag,
    } = judged.map_err(checks::not_taken)?;
    let entrance = entrance.as_ref().map(Entrance::leaf);
    if entrance.is_some_and(|comes| !checks::is_leaf(comes, caller)) {
        return Err(refused(CommitCheck::Credential));
    }
    if let Some(leaf) = staged.update_path_leaf_node() {
        checks::fresh_leaf_is_bounded(leaf)?;
    }
    let changes = changes(tx, crypto, &public_group, &staged)?;
    let added_refs: Vec<KeyPackageRef> = changes.added.iter().map(|(_, added)| added.clone()).collect();
    if !welcomes_exactly(welcome.as_ref(), &added_refs) {
        return Err(refused(CommitCheck::WelcomeRefs));
    }
    checks::check_group_info(
        crypto,
        &group_info,
        staged.group_context(),
        &confirmation_tag,
        (committer, caller),
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
    let ratchet_tree = public_group.export_ratchet_tree();
    parse::within(
        ratchet_tree.tls_serialized_len(),
        TREE_BYTES_MAX,
        "the ratchet tree of the group",
    )?;
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
    update_roster(tx, group, &changes, entrance.map(|_| caller.key), new_epoch)?;

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
        tx.insert_ratchet_tree(group, new_epoch, &ratchet_tree_bytes(&ratchet_tree)?)?;
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

/// Looks up whom a Commit adds and removes. Those who come must be registered.
fn changes(
    tx: &Tx<'_>,
    crypto: &RustCrypto,
    public_group: &PublicGroup,
    staged: &StagedCommit,
) -> Result<Changes, ServiceError> {
    let mut changes = Changes {
        added: Vec::new(),
        removed: Vec::new(),
    };
    for add in staged.add_proposals() {
        let key_package = add.add_proposal().key_package();
        let device = checks::device_of_leaf(tx, key_package.leaf_node())?;
        let hash_ref = key_package
            .hash_ref(crypto)
            .map_err(|_| Fault::Crypto("a KeyPackageRef"))?;
        let key_package_ref =
            KeyPackageRef::from_bytes(hash_ref.as_slice()).map_err(|_| Fault::Crypto("a KeyPackageRef"))?;
        changes.added.push((device.key, key_package_ref));
    }
    for remove in staged.remove_proposals() {
        let leaf = public_group
            .leaf(remove.remove_proposal().removed())
            .ok_or_else(|| refused(CommitCheck::PublicState))?;
        // A device that is gone from the accounts has left the roster already.
        if let Some(device) = checks::device_named_by(tx, leaf.credential())? {
            changes.removed.push(device.key);
        }
    }
    Ok(changes)
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
