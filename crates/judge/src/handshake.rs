use std::mem;

use openmls::framing::PublicMessageIn;
use openmls::group::GroupId;
use openmls::messages::proposals_in::{ProposalIn, ProposalOrRefIn, UpdateProposalIn};
use openmls::prelude::{ConfirmationTag, ContentType, MlsMessageBodyIn, MlsMessageIn, ProposalType, Sender};
use openmls_traits::types::HpkeCiphertext;
use tls_codec::{Deserialize as _, VLBytes};

/// A Commit or a proposal as it travels: a PublicMessage, so that whoever has the group's public state can check it.
pub struct Handshake {
    message: PublicMessageIn,
    proposals: Vec<ProposalOrRefIn>,
    path_keys: Vec<VLBytes>,
}

/// Bytes that are not the handshake message that they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// They are not one `MLSMessage`, or more than one.
    #[error("not one MLSMessage")]
    NotAMessage,
    /// They are another kind of message.
    #[error("not the kind of MLSMessage that belongs here")]
    Kind,
}

impl Handshake {
    /// Reads a Commit.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn commit(bytes: &[u8]) -> Result<Self, Unreadable> {
        let message = public_message(bytes, ContentType::Commit)?;
        let (proposals, path_keys) = content(&mut &*bytes).map_err(|_| Unreadable::NotAMessage)?;
        Ok(Self {
            message,
            proposals,
            path_keys,
        })
    }

    /// Reads a proposal that is to wait for a Commit.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn proposal(bytes: &[u8]) -> Result<Self, Unreadable> {
        Ok(Self {
            message: public_message(bytes, ContentType::Proposal)?,
            proposals: Vec::new(),
            path_keys: Vec::new(),
        })
    }

    /// The epoch that it is for.
    pub fn epoch(&self) -> u64 {
        self.message.epoch().as_u64()
    }

    /// The group that it is for.
    pub fn group_id(&self) -> &GroupId {
        self.message.group_id()
    }

    /// Who says that they have made it. The signature is still to be verified.
    pub fn sender(&self) -> &Sender {
        self.message.sender()
    }

    /// Whether a Commit removes somebody by a proposal that it holds by value.
    pub fn removes_somebody(&self) -> bool {
        self.proposals_by_value()
            .any(|proposal| proposal.proposal_type() == ProposalType::Remove)
    }

    /// How many Adds a Commit holds, all of them by value.
    pub fn adds_count(&self) -> usize {
        let kinds = self.proposals_by_value().map(ProposalIn::proposal_type);
        kinds.filter(|kind| *kind == ProposalType::Add).count()
    }

    /// The tag that only members can check.
    pub(crate) fn confirmation_tag(&self) -> Option<&ConfirmationTag> {
        self.message.confirmation_tag()
    }

    /// How many proposals a Commit lists, by value or by reference. OpenMLS keeps identical ones once, so that a KeyPackage
    /// added twice looks like one Add; other libraries refuse such a Commit.
    pub(crate) fn proposals_count(&self) -> usize {
        self.proposals.len()
    }

    /// The proposals that a Commit holds by value.
    pub(crate) fn proposals_by_value(&self) -> impl Iterator<Item = &ProposalIn> {
        self.proposals.iter().filter_map(|proposal| match proposal {
            ProposalOrRefIn::Proposal(proposal) => Some(&**proposal),
            ProposalOrRefIn::Reference(_) => None,
        })
    }

    /// The public keys of the parent nodes on a Commit's path.
    pub(crate) fn take_path_keys(&mut self) -> Vec<VLBytes> {
        mem::take(&mut self.path_keys)
    }

    pub(crate) fn into_message(self) -> PublicMessageIn {
        self.message
    }
}

fn public_message(bytes: &[u8], content_type: ContentType) -> Result<PublicMessageIn, Unreadable> {
    let message = MlsMessageIn::tls_deserialize_exact(bytes).map_err(|_| Unreadable::NotAMessage)?;
    match message.extract() {
        MlsMessageBodyIn::PublicMessage(message) if message.content_type() == content_type => Ok(message),
        _ => Err(Unreadable::Kind),
    }
}

/// What a Commit lists and the keys of its path (RFC 9420 §7.6, §12.4); OpenMLS tells the one once it has accepted all of it, and
/// the others never.
fn content(bytes: &mut &[u8]) -> Result<(Vec<ProposalOrRefIn>, Vec<VLBytes>), tls_codec::Error> {
    // MLSMessage: version and wire format; FramedContent: group, epoch, sender, authenticated data, content type.
    <[u8; 4]>::tls_deserialize(bytes)?;
    GroupId::tls_deserialize(bytes)?;
    u64::tls_deserialize(bytes)?;
    Sender::tls_deserialize(bytes)?;
    VLBytes::tls_deserialize(bytes)?;
    u8::tls_deserialize(bytes)?;
    let proposals = Vec::tls_deserialize(bytes)?;
    // UpdatePath: a leaf, which is all that an Update is, and nodes.
    let path: Option<(UpdateProposalIn, Vec<PathNode>)> = Option::tls_deserialize(bytes)?;
    let nodes = path.map(|(_, nodes)| nodes).unwrap_or_default();
    Ok((proposals, nodes.into_iter().map(|(key, _)| key).collect()))
}

/// UpdatePathNode: a parent's public key, and its secret encrypted to those below.
type PathNode = (VLBytes, Vec<HpkeCiphertext>);
