use std::collections::HashSet;

use openmls::group::{PublicProcessMessageError, StageCommitError, ValidationError};
use openmls::prelude::{
    LeafNode, LeafNodeIndex, OpenMlsCrypto, ProcessedMessageContent, Proposal, ProposalType, PublicGroup,
    QueuedProposal, Sender, StagedCommit,
};
use tls_codec::{Deserialize as _, Serialize as _, VLBytes};

use crate::evidence::Evidence;
use crate::handshake::Handshake;
use crate::leaf::Leaf;
use crate::verdict::{Entrance, JudgedCommit, JudgedProposal, NotTaken, Rule};

/// Judges Commits and proposals of the groups at one server.
#[derive(Debug)]
pub struct Judge<'a, C> {
    crypto: &'a C,
    server_name: &'a str,
}

impl<'a, C: OpenMlsCrypto> Judge<'a, C> {
    /// A judge for the server of this name, which the links between devices are signed for.
    pub fn new(crypto: &'a C, server_name: &'a str) -> Self {
        Self { crypto, server_name }
    }

    pub(crate) fn crypto(&self) -> &'a C {
        self.crypto
    }

    /// Judges a Commit against the group's public state before it. Nothing is changed.
    ///
    /// What only members can check, its tags and the secrets of its path, is left to them.
    ///
    /// # Errors
    /// [`NotTaken`]: whoever gets it keeps the state that they have.
    pub fn commit(&self, before: &PublicGroup, commit: &[u8]) -> Result<JudgedCommit, NotTaken> {
        let mut commit = Handshake::commit(commit)?;
        let sender = commit.sender().clone();
        // First, because OpenMLS refuses some of it in its own words.
        kinds_fit(&sender, &commit)?;
        let listed = commit.proposals_count();
        let tag = commit.confirmation_tag().cloned().ok_or(NotTaken::Unsigned)?;
        let path_keys = commit.take_path_keys();
        let processed = before
            .process_message(self.crypto, commit.into_message())
            .map_err(|error| refused(&sender, &error))?;
        let authenticated_data = processed.aad().to_vec();
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
            return Err(NotTaken::Unsigned);
        };
        if staged.queued_proposals().count() != listed {
            return Err(Rule::ProposalTwice.into());
        }
        self.keys_may_come(before, &keys_of(path_keys, &staged)?)?;
        let (committer, entrance) = match sender {
            Sender::Member(committer) => {
                member_commits(before, committer, &staged)?;
                if !authenticated_data.is_empty() {
                    return Err(Rule::AuthenticatedData.into());
                }
                (committer, None)
            }
            Sender::NewMemberCommit => {
                let entrance = self.somebody_enters(before, &staged, &authenticated_data)?;
                let committer = before
                    .ext_commit_sender_index(&staged)
                    .map_err(|_| NotTaken::Unfollowable)?;
                (committer, Some(entrance))
            }
            Sender::External(_) | Sender::NewMemberProposal => return Err(Rule::Sender.into()),
        };
        Ok(JudgedCommit {
            staged,
            committer,
            entrance,
            confirmation_tag: tag,
        })
    }

    /// Judges a proposal that is to wait for a Commit, against the group's public state. Nothing is changed.
    ///
    /// A member proposes to leave, or a fresh leaf of its own. Whoever wants anything else commits it.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub fn proposal(&self, before: &PublicGroup, proposal: &[u8]) -> Result<JudgedProposal, NotTaken> {
        let message = Handshake::proposal(proposal)?;
        let sender = message.sender().clone();
        let Sender::Member(proposer) = sender else {
            return Err(Rule::Sender.into());
        };
        let processed = before
            .process_message(self.crypto, message.into_message())
            .map_err(|error| refused(&sender, &error))?;
        if !processed.aad().is_empty() {
            return Err(Rule::AuthenticatedData.into());
        }
        let ProcessedMessageContent::ProposalMessage(queued) = processed.into_content() else {
            return Err(NotTaken::Unsigned);
        };
        match queued.proposal() {
            Proposal::Remove(remove) if remove.removed() == proposer => {}
            Proposal::Remove(_) | Proposal::Add(_) => return Err(Rule::ProposedByAnother.into()),
            Proposal::Update(update) => {
                stays_whose_it_is(before, proposer, update.leaf_node())?;
                self.keys_may_come(before, &[key_of(update.leaf_node())?])?;
            }
            _ => return Err(Rule::ProposalKind.into()),
        }
        Ok(JudgedProposal { queued, proposer })
    }

    /// Whether this evidence, as it travels, lets a device come into a group with these leaves by an external Commit.
    pub fn lets_in(&self, leaves: &[Leaf], joiner: &Leaf, evidence: &[u8]) -> bool {
        self.proves(leaves.iter().cloned(), joiner, evidence)
    }

    fn proves(&self, leaves: impl Iterator<Item = Leaf>, joiner: &Leaf, evidence: &[u8]) -> bool {
        Evidence::from_bytes(evidence)
            .is_ok_and(|evidence| evidence.proves(self.crypto, self.server_name, leaves, joiner))
    }

    /// Whether later Commits can be encrypted to all of the encryption keys that a Commit or a proposal brings, and no node of the
    /// tree has one of them.
    ///
    /// OpenMLS compares them with each other and with those of the leaves, and not with those of the parent nodes (RFC 9420 §12.4.2).
    /// A member that had to keep the private key of one twice could not merge the Commit, and nobody could read the tree.
    fn keys_may_come(&self, before: &PublicGroup, keys: &[Vec<u8>]) -> Result<(), Rule> {
        let suite = before.ciphersuite();
        let usable = |key: &Vec<u8>| larder_key_package::can_be_encrypted_to(self.crypto, suite, key);
        if !keys.iter().all(usable) {
            return Err(Rule::UnusableKey);
        }
        let keys: HashSet<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let mut parent_bytes = Vec::new();
        for (_, parent) in before.treesync().full_parents() {
            parent_bytes.clear();
            // A ParentNode begins with its encryption key (RFC 9420 §7.1).
            let key = parent
                .tls_serialize(&mut parent_bytes)
                .and_then(|_| VLBytes::tls_deserialize(&mut &*parent_bytes));
            if key.is_ok_and(|key| keys.contains(key.as_slice())) {
                return Err(Rule::KeyTwice);
            }
        }
        Ok(())
    }

    /// An external Commit brings a device back in the place of its own leaf, or a further device of a user who is in the group.
    fn somebody_enters(
        &self,
        before: &PublicGroup,
        staged: &StagedCommit,
        authenticated_data: &[u8],
    ) -> Result<Entrance, Rule> {
        let comes = staged.update_path_leaf_node().ok_or(Rule::Intrusion)?;
        let comes = Leaf::of_node(comes).ok_or(Rule::LeafUnreadable)?;
        let mut removed = None;
        for queued in staged.queued_proposals() {
            match queued.proposal() {
                Proposal::ExternalInit(_) => {}
                Proposal::Remove(remove) if removed.is_none() => removed = Some(remove.removed()),
                Proposal::Add(_) | Proposal::Remove(_) | Proposal::Update(_) => return Err(Rule::Intrusion),
                _ => return Err(Rule::ProposalKind),
            }
        }
        no_leaf_is_there_twice(before, removed.as_slice(), std::slice::from_ref(&comes))?;
        let Some(removed) = removed else {
            let leaves = before.members().filter_map(|member| Leaf::of_member(&member));
            return match self.proves(leaves, &comes, authenticated_data) {
                true => Ok(Entrance::Beside(comes)),
                false => Err(Rule::Unproven),
            };
        };
        if before.leaf(removed).and_then(Leaf::of_node).as_ref() != Some(&comes) {
            return Err(Rule::Intrusion);
        }
        match authenticated_data.is_empty() {
            true => Ok(Entrance::Back(comes)),
            false => Err(Rule::AuthenticatedData),
        }
    }
}

/// The encryption keys that a Commit brings: of its path, of its own leaf, and of those that it adds and renews.
fn keys_of(path: Vec<VLBytes>, staged: &StagedCommit) -> Result<Vec<Vec<u8>>, Rule> {
    let proposed = staged
        .queued_proposals()
        .filter_map(|queued| match queued.proposal() {
            Proposal::Add(add) => Some(add.key_package().leaf_node()),
            Proposal::Update(update) => Some(update.leaf_node()),
            _ => None,
        });
    let leaves = staged.update_path_leaf_node().into_iter().chain(proposed);
    let path = path.into_iter().map(|key| Ok(key.into()));
    path.chain(leaves.map(key_of)).collect()
}

fn key_of(leaf: &LeafNode) -> Result<Vec<u8>, Rule> {
    larder_key_package::encryption_key(leaf).ok_or(Rule::UnusableKey)
}

/// What it means that OpenMLS refuses a message: it verifies the signature before it looks at what is signed.
///
/// An external Commit is signed with the key that it brings along, by anybody.
fn refused(sender: &Sender, error: &PublicProcessMessageError) -> NotTaken {
    if !matches!(sender, Sender::Member(_)) {
        return NotTaken::Unsigned;
    }
    match error {
        PublicProcessMessageError::InvalidCommit(StageCommitError::MissingProposal) => {
            NotTaken::ProposalUnknown
        }
        PublicProcessMessageError::InvalidCommit(_)
        | PublicProcessMessageError::ValidationError(
            ValidationError::KeyPackageVerifyError(_)
            | ValidationError::UpdatePathError(_)
            | ValidationError::InvalidLeafNodeSignature
            | ValidationError::InvalidLeafNodeSourceType
            | ValidationError::InvalidSenderType
            | ValidationError::CommitterIncludedOwnUpdate
            | ValidationError::InvalidAddProposalCiphersuite
            | ValidationError::ExternalCommitValidation(_)
            | ValidationError::InvalidExtension(_),
        ) => NotTaken::Unfollowable,
        _ => NotTaken::Unsigned,
    }
}

/// Whether the sender may make Commits, and one with proposals of these kinds.
fn kinds_fit(sender: &Sender, commit: &Handshake) -> Result<(), Rule> {
    let from_outside = match sender {
        Sender::Member(_) => false,
        Sender::NewMemberCommit => true,
        Sender::External(_) | Sender::NewMemberProposal => return Err(Rule::Sender),
    };
    for proposal in commit.proposals_by_value() {
        match (proposal.proposal_type(), from_outside) {
            (ProposalType::Add | ProposalType::Update, false)
            | (ProposalType::ExternalInit, true)
            | (ProposalType::Remove, _) => {}
            (ProposalType::Add | ProposalType::Update, true) => return Err(Rule::Intrusion),
            _ => return Err(Rule::ProposalKind),
        }
    }
    Ok(())
}

/// A member's Commit: its own Adds and Removes, members who leave, and fresh leaves of whose leaves they were.
fn member_commits(before: &PublicGroup, committer: LeafNodeIndex, staged: &StagedCommit) -> Result<(), Rule> {
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    for queued in staged.queued_proposals() {
        let proposer = member(queued).ok_or(Rule::Sender)?;
        match queued.proposal() {
            Proposal::Add(add) if proposer == committer => {
                added.push(Leaf::of_node(add.key_package().leaf_node()).ok_or(Rule::LeafUnreadable)?);
            }
            Proposal::Remove(remove) if proposer == committer || proposer == remove.removed() => {
                removed.push(remove.removed());
            }
            Proposal::Add(_) | Proposal::Remove(_) => return Err(Rule::ProposedByAnother),
            Proposal::Update(update) => stays_whose_it_is(before, proposer, update.leaf_node())?,
            _ => return Err(Rule::ProposalKind),
        }
    }
    if let Some(leaf) = staged.update_path_leaf_node() {
        stays_whose_it_is(before, committer, leaf)?;
    }
    no_leaf_is_there_twice(before, &removed, &added)
}

fn member(queued: &QueuedProposal) -> Option<LeafNodeIndex> {
    match queued.sender() {
        Sender::Member(index) => Some(*index),
        Sender::External(_) | Sender::NewMemberProposal | Sender::NewMemberCommit => None,
    }
}

/// Whether a fresh leaf is of the same user and device, with the same signature key, as the one that it replaces.
fn stays_whose_it_is(before: &PublicGroup, index: LeafNodeIndex, fresh: &LeafNode) -> Result<(), Rule> {
    let same = before.leaf(index).is_some_and(|old| {
        old.credential() == fresh.credential() && old.signature_key() == fresh.signature_key()
    });
    if same { Ok(()) } else { Err(Rule::LeafChanged) }
}

/// Whether those who come are neither among those who stay, nor one of them twice: as devices, and by their keys.
fn no_leaf_is_there_twice(
    before: &PublicGroup,
    removed: &[LeafNodeIndex],
    coming: &[Leaf],
) -> Result<(), Rule> {
    if coming.is_empty() {
        return Ok(());
    }
    let keys: HashSet<&[u8]> = coming.iter().map(|leaf| leaf.signature_key.as_slice()).collect();
    let devices: HashSet<_> = coming.iter().map(|leaf| (&leaf.user, &leaf.device)).collect();
    if keys.len() < coming.len() || devices.len() < coming.len() {
        return Err(Rule::LeafTwice);
    }
    let is_there = before
        .members()
        .filter(|member| !removed.contains(&member.index))
        .any(|member| {
            keys.contains(member.signature_key.as_slice())
                || crate::who(&member.credential)
                    .is_some_and(|(user, device)| devices.contains(&(&user, &device)))
        });
    if is_there { Err(Rule::LeafTwice) } else { Ok(()) }
}
