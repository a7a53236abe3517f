use openmls::messages::group_info::VerifiableGroupInfo;
use openmls::prelude::tls_codec::{Deserialize as _, Serialize as _};
use openmls::prelude::{
    LeafNodeIndex, OpenMlsCrypto, OpenMlsSignaturePublicKey, PublicGroup, SignatureScheme, Verifiable,
};

use crate::handshake::{Handshake, Unreadable};
use crate::judge::Judge;
use crate::public_state::PublicState;
use crate::verdict::NotTaken;

/// Follows a group from its public state, as an outsider: every Commit and proposal is judged as its members judged it.
///
/// What only members can check is not: the tags of a Commit, which its signature does not cover. A tag that was changed on the
/// way shows where the replay is compared with what a member has signed ([`leads_to`](Self::leads_to)).
pub struct Replay<'a, C> {
    judge: Judge<'a, C>,
    state: PublicGroup,
}

impl<'a, C: OpenMlsCrypto> Replay<'a, C> {
    /// Begins at a state, for example one that [`PublicState`] has kept.
    pub fn new(judge: Judge<'a, C>, state: PublicGroup) -> Self {
        Self { judge, state }
    }

    /// Follows the next Commit, or a proposal that is to wait for one.
    ///
    /// # Errors
    /// [`NotTaken`]; the state is the one before it.
    pub fn follow(&mut self, handshake: &[u8]) -> Result<(), NotTaken> {
        let storage = PublicState::default();
        match Handshake::commit(handshake) {
            Ok(_) => {
                let judged = self.judge.commit(&self.state, handshake)?;
                self.state
                    .merge_commit(&storage, *judged.staged)
                    .map_err(|_| NotTaken::Unfollowable)
            }
            Err(Unreadable::Kind) => {
                let judged = self.judge.proposal(&self.state, handshake)?;
                self.state
                    .add_proposal(&storage, *judged.queued)
                    .map_err(|_| NotTaken::Unfollowable)
            }
            Err(unreadable) => Err(unreadable.into()),
        }
    }

    /// Tells what the group is after all that was followed.
    pub fn state(&self) -> &PublicGroup {
        &self.state
    }

    /// Tells whether a GroupInfo is of exactly this state, with the same GroupContext and confirmation tag, and signed by one
    /// of its members. Then an external Commit that starts from it comes into this group and into no other.
    pub fn leads_to(&self, info: &VerifiableGroupInfo) -> bool {
        let Some((signer, key)) = self.claimed_signer(info) else {
            return false;
        };
        let expected = VerifiableGroupInfo::new(
            self.state.group_context().clone(),
            info.extensions().clone(),
            self.state.confirmation_tag().clone(),
            signer,
            info.signature().clone(),
        );
        expected == *info && is_signed_with(self.judge.crypto(), info, &key)
    }

    /// The member whom a GroupInfo names as its signer, with the key of its leaf. OpenMLS keeps the name for itself; it is the
    /// last field but for the signature (RFC 9420 §12.4.3).
    fn claimed_signer(&self, info: &VerifiableGroupInfo) -> Option<(LeafNodeIndex, Vec<u8>)> {
        let bytes = info.tls_serialize_detached().ok()?;
        let signature_bytes = info.signature().tls_serialize_detached().ok()?.len();
        let end = bytes.len().checked_sub(signature_bytes)?;
        let mut field = bytes.get(end.checked_sub(size_of::<u32>())?..end)?;
        let signer = LeafNodeIndex::new(u32::tls_deserialize(&mut field).ok()?);
        let leaf = self.state.leaf(signer)?;
        Some((signer, leaf.signature_key().as_slice().to_vec()))
    }
}

/// Tells whether a GroupInfo is signed with one of these signature keys, whoever it names as its signer.
pub fn signed_by<'k>(
    crypto: &impl OpenMlsCrypto,
    info: &VerifiableGroupInfo,
    keys: impl IntoIterator<Item = &'k [u8]>,
) -> bool {
    keys.into_iter().any(|key| is_signed_with(crypto, info, key))
}

fn is_signed_with(crypto: &impl OpenMlsCrypto, info: &VerifiableGroupInfo, key: &[u8]) -> bool {
    let scheme: SignatureScheme = info.ciphersuite().signature_algorithm();
    OpenMlsSignaturePublicKey::new(key.to_vec().into(), scheme)
        .is_ok_and(|key| info.verify_no_out(crypto, &key).is_ok())
}
