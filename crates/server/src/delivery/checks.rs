//! What only the server can tell of a leaf: whether its device is registered; and what a GroupInfo is worth.

use larder_judge::{Leaf, NotTaken, Rule, Unreadable, who};
use larder_wire::{CommitCheck, LEAF_BYTES_MAX, Problem, ProblemType};
use openmls::messages::group_info::VerifiableGroupInfo;
use openmls::prelude::tls_codec::Size as _;
use openmls::prelude::{
    Ciphersuite, ConfirmationTag, Credential, GroupContext, LeafNode, LeafNodeIndex,
    OpenMlsSignaturePublicKey, PublicGroup, Verifiable,
};
use openmls_rust_crypto::RustCrypto;

use crate::delivery::parse;
use crate::error::{Fault, ServiceError};
use crate::store::{DeviceRow, Tx};

/// How a refusal of the judge is answered.
pub(super) fn not_taken(reason: NotTaken) -> ServiceError {
    let check = match reason {
        NotTaken::Unreadable(reason) => return unreadable(reason),
        NotTaken::Unsigned
        | NotTaken::ProposalUnknown
        | NotTaken::Unfollowable
        | NotTaken::Against(Rule::ProposalTwice | Rule::UnusableKey | Rule::KeyTwice) => {
            CommitCheck::PublicState
        }
        NotTaken::Against(Rule::Sender) => CommitCheck::Sender,
        NotTaken::Against(Rule::ProposalKind | Rule::ProposedByAnother) => CommitCheck::ProposalType,
        NotTaken::Against(Rule::LeafChanged | Rule::LeafUnreadable | Rule::LeafTwice) => {
            CommitCheck::Credential
        }
        NotTaken::Against(Rule::AuthenticatedData) => CommitCheck::AuthenticatedData,
        NotTaken::Against(Rule::Intrusion | Rule::Unproven) => CommitCheck::ExternalCommit,
    };
    Problem::commit(check).into()
}

/// How bytes that are no such handshake message are answered.
pub(super) fn unreadable(reason: Unreadable) -> ServiceError {
    match reason {
        Unreadable::NotAMessage => Problem::new(ProblemType::Malformed)
            .with_detail("the handshake message is not one MLSMessage")
            .into(),
        Unreadable::Kind => Problem::commit(CommitCheck::MessageKind).into(),
    }
}

/// The registered device that a credential names, whatever its key.
pub(super) fn device_named_by(tx: &Tx<'_>, credential: &Credential) -> Result<Option<DeviceRow>, Fault> {
    let Some((user, device_id)) = who(credential) else {
        return Ok(None);
    };
    Ok(tx.device_by_id(&device_id)?.filter(|device| device.user == user))
}

/// Whether a credential names a device that its user has removed. Its leaf stays until a member has committed the removal.
pub(super) fn names_removed_device(tx: &Tx<'_>, credential: &Credential) -> Result<bool, Fault> {
    match who(credential) {
        Some((user, device_id)) => {
            let removed = tx.removed_device(&device_id)?;
            Ok(removed.is_some_and(|device| device.user == user))
        }
        None => Ok(false),
    }
}

/// Refuses a fresh leaf that is larger than one may be.
pub(super) fn fresh_leaf_is_bounded(leaf: &LeafNode) -> Result<(), ServiceError> {
    parse::within(leaf.tls_serialized_len(), LEAF_BYTES_MAX, "the leaf")
}

/// A member's message is the caller's only if it comes from the caller's leaf.
pub(super) fn is_leaf_of(public_group: &PublicGroup, index: LeafNodeIndex, caller: &DeviceRow) -> bool {
    public_group
        .leaf(index)
        .is_some_and(|leaf| leaf.signature_key().as_slice() == caller.signature_key)
}

/// Whether a leaf is exactly that of a registered device.
pub(super) fn is_leaf(leaf: &Leaf, device: &DeviceRow) -> bool {
    leaf.user == device.user && leaf.device == device.device_id && leaf.signature_key == device.signature_key
}

/// A GroupInfo for exactly this epoch, signed by `signer`, from which an external Commit can start.
///
/// OpenMLS checks none of it after the creation of a group. What is rebuilt from the staged Commit must equal what
/// was sent, and its signature must verify: new epoch, tree hash, tag and signer in one go.
pub(super) fn check_group_info(
    crypto: &RustCrypto,
    sent: &VerifiableGroupInfo,
    context: &GroupContext,
    tag: &ConfirmationTag,
    (signer_index, signer): (LeafNodeIndex, &DeviceRow),
) -> Result<(), ServiceError> {
    let refuse = || ServiceError::from(Problem::commit(CommitCheck::GroupInfo));
    let expected = VerifiableGroupInfo::new(
        context.clone(),
        sent.extensions().clone(),
        tag.clone(),
        signer_index,
        sent.signature().clone(),
    );
    if expected != *sent {
        return Err(refuse());
    }
    let suite = context.ciphersuite();
    let key =
        OpenMlsSignaturePublicKey::new(signer.signature_key.clone().into(), suite.signature_algorithm())
            .map_err(|_| refuse())?;
    sent.verify_no_out(crypto, &key).map_err(|_| refuse())?;
    if external_pub_is_usable(crypto, sent, suite) {
        Ok(())
    } else {
        Err(refuse())
    }
}

/// Whether an external Commit can be made from this GroupInfo: an all-zero key passes every signature check.
pub(super) fn external_pub_is_usable(
    crypto: &RustCrypto,
    sent: &VerifiableGroupInfo,
    suite: Ciphersuite,
) -> bool {
    sent.extensions().external_pub().is_some_and(|extension| {
        larder_key_package::can_be_encrypted_to(crypto, suite, extension.external_pub().as_slice())
    })
}
