//! What can be told of a Commit or a proposal from the group's public state alone. Only this module makes a [`JudgedCommit`] or a
//! [`JudgedProposal`], and only with one of them anything is accepted.

use larder_judge::{Entrance, Judge, who};
use larder_wire::{
    CommitCheck, DeviceId, KeyPackageRef, PROPOSALS_WAITING_MAX, Problem, TREE_BYTES_MAX, UserName,
};
use openmls::messages::Welcome;
use openmls::prelude::tls_codec::Size as _;
use openmls::prelude::{Proposal, PublicGroup, QueuedProposal, Sender, StagedCommit};
use openmls_rust_crypto::RustCrypto;

use crate::delivery::offer::{Offer, OfferedProposal};
use crate::delivery::state::Held;
use crate::delivery::{checks, parse};
use crate::error::{Fault, ServiceError};
use crate::store::DeviceRow;

/// A parent node beyond its public key, in bytes: its parent hash, and the lengths of its parts.
const PARENT_NODE_BYTES: usize = 48;

/// A device as a leaf names it.
pub(super) struct Named {
    pub(super) user: UserName,
    pub(super) device: DeviceId,
    pub(super) signature_key: Vec<u8>,
    pub(super) key_package_ref: KeyPackageRef,
}

/// A Commit that the group may make while its public state is the one after `state_seq`.
pub(crate) struct JudgedCommit {
    pub(super) state_seq: u64,
    pub(super) epoch: u64,
    pub(super) transcript_hash: Vec<u8>,
    pub(super) added: Vec<Named>,
    pub(super) removed: Vec<(UserName, DeviceId)>,
    pub(super) entrance: Option<Entrance>,
}

/// A proposal that may wait for a Commit while the group's public state is the one after `state_seq`.
pub(crate) struct JudgedProposal {
    pub(super) state_seq: u64,
    pub(super) epoch: u64,
}

/// Judges a Commit of `caller`. What is staged can be merged once the Commit is accepted.
pub(crate) fn commit(
    (crypto, server_name): (&RustCrypto, &str),
    caller: &DeviceRow,
    held: &Held,
    offer: &Offer,
) -> Result<(JudgedCommit, Box<StagedCommit>), ServiceError> {
    let public_group = &held.public_group;
    match offer.handshake.sender() {
        Sender::Member(index) if checks::is_leaf_of(public_group, *index, caller) => {}
        Sender::NewMemberCommit => {}
        Sender::Member(_) | Sender::External(_) | Sender::NewMemberProposal => {
            return Err(refused(CommitCheck::Sender));
        }
    }
    let larder_judge::JudgedCommit {
        staged,
        committer,
        entrance,
        confirmation_tag,
    } = Judge::new(crypto, server_name)
        .commit(public_group, &offer.request.commit.0)
        .map_err(checks::not_taken)?;
    if entrance
        .as_ref()
        .is_some_and(|entrance| !checks::is_leaf(entrance.leaf(), caller))
    {
        return Err(refused(CommitCheck::Credential));
    }
    if let Some(leaf) = staged.update_path_leaf_node() {
        checks::fresh_leaf_is_bounded(leaf)?;
    }
    let added = added(crypto, &staged)?;
    if !welcomes_exactly(offer.welcome.as_ref(), &added) {
        return Err(refused(CommitCheck::WelcomeRefs));
    }
    checks::check_group_info(
        crypto,
        &offer.group_info,
        staged.group_context(),
        &confirmation_tag,
        (committer, caller),
    )?;
    tree_stays_bounded(public_group, &staged)?;
    let judged = JudgedCommit {
        state_seq: held.seq(),
        epoch: public_group.group_context().epoch().as_u64(),
        transcript_hash: staged.group_context().confirmed_transcript_hash().to_vec(),
        added,
        removed: removed(public_group, &staged),
        entrance,
    };
    Ok((judged, staged))
}

/// Judges a proposal of `caller`. What is queued can be added to the state once the proposal is accepted.
///
/// Adds are refused by the [`Judge`]: whoever commits must hold the reservation, so an Add by reference could only be committed
/// by its proposer, and would block everybody else.
pub(crate) fn proposal(
    (crypto, server_name): (&RustCrypto, &str),
    caller: &DeviceRow,
    held: &Held,
    offer: &OfferedProposal,
) -> Result<(JudgedProposal, Box<QueuedProposal>), ServiceError> {
    let public_group = &held.public_group;
    match offer.handshake.sender() {
        Sender::Member(index) if checks::is_leaf_of(public_group, *index, caller) => {}
        Sender::Member(_) | Sender::External(_) | Sender::NewMemberProposal | Sender::NewMemberCommit => {
            return Err(refused(CommitCheck::Sender));
        }
    }
    let judged = Judge::new(crypto, server_name)
        .proposal(public_group, &offer.bytes)
        .map_err(checks::not_taken)?;
    if let Proposal::Update(update) = judged.queued.proposal() {
        checks::fresh_leaf_is_bounded(update.leaf_node())?;
    }
    if held.proposals >= PROPOSALS_WAITING_MAX {
        return Err(parse::too_large(format!(
            "{PROPOSALS_WAITING_MAX} proposals wait for a Commit"
        )));
    }
    let accepted = JudgedProposal {
        state_seq: held.seq(),
        epoch: public_group.group_context().epoch().as_u64(),
    };
    Ok((accepted, judged.queued))
}

fn refused(check: CommitCheck) -> ServiceError {
    Problem::commit(check).into()
}

/// Whom a Commit adds.
fn added(crypto: &RustCrypto, staged: &StagedCommit) -> Result<Vec<Named>, ServiceError> {
    staged
        .add_proposals()
        .map(|add| {
            let key_package = add.add_proposal().key_package();
            let leaf = key_package.leaf_node();
            let (user, device) = who(leaf.credential()).ok_or_else(|| refused(CommitCheck::Credential))?;
            let hash_ref = key_package
                .hash_ref(crypto)
                .map_err(|_| Fault::Crypto("a KeyPackageRef"))?;
            Ok(Named {
                user,
                device,
                signature_key: leaf.signature_key().as_slice().to_vec(),
                key_package_ref: KeyPackageRef::from_bytes(hash_ref.as_slice())
                    .map_err(|_| Fault::Crypto("a KeyPackageRef"))?,
            })
        })
        .collect()
}

/// Whom a Commit removes. A leaf that names nobody has no place on the roster.
fn removed(public_group: &PublicGroup, staged: &StagedCommit) -> Vec<(UserName, DeviceId)> {
    staged
        .remove_proposals()
        .filter_map(|remove| public_group.leaf(remove.remove_proposal().removed()))
        .filter_map(|leaf| who(leaf.credential()))
        .collect()
}

/// Whether the Welcome names the added KeyPackages, each once, and nothing else (RFC 9420 §12.4.3.1).
fn welcomes_exactly(welcome: Option<&Welcome>, added: &[Named]) -> bool {
    let mut named: Vec<Vec<u8>> = welcome
        .map(|welcome| {
            let secrets = welcome.secrets().iter();
            secrets
                .map(|secret| secret.new_member().as_slice().to_vec())
                .collect()
        })
        .unwrap_or_default();
    let mut added: Vec<&[u8]> = added
        .iter()
        .map(|added| added.key_package_ref.as_bytes())
        .collect();
    named.sort();
    added.sort_unstable();
    welcome.is_some() != added.is_empty() && named == added
}

/// Refuses to add so many that the ratchet tree could become larger than one may be, whatever is committed afterwards: without
/// Adds it grows at most until every leaf is as large as one may be and every parent node is filled.
fn tree_stays_bounded(public_group: &PublicGroup, staged: &StagedCommit) -> Result<(), ServiceError> {
    let mut leaves = 0;
    let (mut bytes, mut key_bytes) = (0, 0);
    let added = staged
        .add_proposals()
        .map(|add| add.add_proposal().key_package().leaf_node().clone());
    let mut adds = 0;
    for leaf in added {
        adds += 1;
        leaves += 1;
        bytes += leaf.tls_serialized_len();
        key_bytes = key_bytes.max(leaf.encryption_key().tls_serialized_len());
    }
    if adds == 0 {
        return Ok(());
    }
    for (_, leaf) in public_group.treesync().full_leaves() {
        leaves += 1;
        bytes += leaf.tls_serialized_len();
        key_bytes = key_bytes.max(leaf.encryption_key().tls_serialized_len());
    }
    let parents = leaves * (key_bytes + PARENT_NODE_BYTES);
    parse::within(
        bytes + parents,
        TREE_BYTES_MAX,
        "the ratchet tree that the group may come to have",
    )
}
