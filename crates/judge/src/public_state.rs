use std::fmt;

use openmls::group::GroupId;
use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{OpenMlsCrypto, PublicGroup};
use openmls_traits::public_storage::PublicStorageProvider;
use openmls_traits::storage::{CURRENT_VERSION, traits};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::compressed::{compress, decompress};

/// CBOR under zstd. Field names and enum variants are stored by name, because OpenMLS has moved its integer tags
/// between versions before.
const FORMAT_CBOR_ZSTD: u8 = 1;
/// A group state of this size is not ours, in bytes. It bounds what a corrupt blob can make us allocate.
const STATE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The public state of one group after a Commit, to be kept. OpenMLS loads a group from it and keeps nothing in it: it is the
/// storage for a `PublicGroup` that lives in memory, and is made anew of the group when that is to be stored.
#[derive(Default, Serialize, Deserialize)]
pub struct PublicState {
    tree: Option<ByteBuf>,
    context: Option<ByteBuf>,
    interim_transcript_hash: Option<ByteBuf>,
    confirmation_tag: Option<ByteBuf>,
}

/// The public state of a group cannot be coded, or bytes are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the public state of a group")]
pub struct MalformedState;

impl fmt::Debug for PublicState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tree_bytes = self.tree.as_ref().map(|tree| tree.len());
        f.debug_struct("PublicState")
            .field("tree_bytes", &tree_bytes)
            .finish_non_exhaustive()
    }
}

impl PublicState {
    /// Takes the state of a group, without the proposals that wait for a Commit.
    ///
    /// # Errors
    /// [`MalformedState`] when it cannot be coded.
    pub fn of(crypto: &impl OpenMlsCrypto, group: &PublicGroup) -> Result<Self, MalformedState> {
        let context = group.group_context();
        let tag = group.confirmation_tag();
        // interim_transcript_hash = Hash(confirmed_transcript_hash || InterimTranscriptHashInput) (RFC 9420 §8.2).
        let mut hashed = context.confirmed_transcript_hash().to_vec();
        tag.tls_serialize(&mut hashed).map_err(|_| MalformedState)?;
        let interim = crypto
            .hash(context.ciphersuite().hash_algorithm(), &hashed)
            .map_err(|_| MalformedState)?;
        Ok(Self {
            tree: Some(to_cbor(group.treesync())?),
            context: Some(to_cbor(context)?),
            interim_transcript_hash: Some(to_cbor(&interim)?),
            confirmation_tag: Some(to_cbor(tag)?),
        })
    }

    /// Loads the group of this id from its state. The lifetimes of its leaves are not looked at: they were when the leaves came.
    ///
    /// # Errors
    /// [`MalformedState`] when it is not the whole state of this group.
    pub fn load(&self, group: &GroupId) -> Result<PublicGroup, MalformedState> {
        PublicGroup::load(self, group)?
            .filter(|loaded| loaded.group_id() == group)
            .ok_or(MalformedState)
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`MalformedState`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MalformedState> {
        let Some((&FORMAT_CBOR_ZSTD, compressed)) = bytes.split_first() else {
            return Err(MalformedState);
        };
        from_cbor(&decompress(compressed, STATE_BYTES_MAX).ok_or(MalformedState)?)
    }

    /// Writes it as bytes to be stored.
    ///
    /// # Errors
    /// [`MalformedState`].
    pub fn encode(&self) -> Result<Vec<u8>, MalformedState> {
        let mut bytes = vec![FORMAT_CBOR_ZSTD];
        bytes.extend(compress(&to_cbor(self)?).ok_or(MalformedState)?);
        Ok(bytes)
    }
}

fn to_cbor<T: Serialize>(value: &T) -> Result<ByteBuf, MalformedState> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).map_err(|_| MalformedState)?;
    Ok(ByteBuf::from(bytes))
}

fn from_cbor<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, MalformedState> {
    ciborium::from_reader(bytes).map_err(|_| MalformedState)
}

fn read<T: DeserializeOwned>(stored: Option<&ByteBuf>) -> Result<Option<T>, MalformedState> {
    stored.map(|bytes| from_cbor(bytes)).transpose()
}

impl PublicStorageProvider<CURRENT_VERSION> for PublicState {
    type PublicError = MalformedState;

    fn write_tree<G: traits::GroupId<CURRENT_VERSION>, T: traits::TreeSync<CURRENT_VERSION>>(
        &self,
        _: &G,
        _: &T,
    ) -> Result<(), MalformedState> {
        Ok(())
    }

    fn write_interim_transcript_hash<
        G: traits::GroupId<CURRENT_VERSION>,
        H: traits::InterimTranscriptHash<CURRENT_VERSION>,
    >(
        &self,
        _: &G,
        _: &H,
    ) -> Result<(), MalformedState> {
        Ok(())
    }

    fn write_context<G: traits::GroupId<CURRENT_VERSION>, C: traits::GroupContext<CURRENT_VERSION>>(
        &self,
        _: &G,
        _: &C,
    ) -> Result<(), MalformedState> {
        Ok(())
    }

    fn write_confirmation_tag<
        G: traits::GroupId<CURRENT_VERSION>,
        C: traits::ConfirmationTag<CURRENT_VERSION>,
    >(
        &self,
        _: &G,
        _: &C,
    ) -> Result<(), MalformedState> {
        Ok(())
    }

    fn queue_proposal<
        G: traits::GroupId<CURRENT_VERSION>,
        R: traits::ProposalRef<CURRENT_VERSION>,
        Q: traits::QueuedProposal<CURRENT_VERSION>,
    >(
        &self,
        _: &G,
        _: &R,
        _: &Q,
    ) -> Result<(), MalformedState> {
        Ok(())
    }

    fn queued_proposals<
        G: traits::GroupId<CURRENT_VERSION>,
        R: traits::ProposalRef<CURRENT_VERSION>,
        Q: traits::QueuedProposal<CURRENT_VERSION>,
    >(
        &self,
        _: &G,
    ) -> Result<Vec<(R, Q)>, MalformedState> {
        Ok(Vec::new())
    }

    fn tree<G: traits::GroupId<CURRENT_VERSION>, T: traits::TreeSync<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<Option<T>, MalformedState> {
        read(self.tree.as_ref())
    }

    fn group_context<G: traits::GroupId<CURRENT_VERSION>, C: traits::GroupContext<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<Option<C>, MalformedState> {
        read(self.context.as_ref())
    }

    fn interim_transcript_hash<
        G: traits::GroupId<CURRENT_VERSION>,
        H: traits::InterimTranscriptHash<CURRENT_VERSION>,
    >(
        &self,
        _: &G,
    ) -> Result<Option<H>, MalformedState> {
        read(self.interim_transcript_hash.as_ref())
    }

    fn confirmation_tag<G: traits::GroupId<CURRENT_VERSION>, C: traits::ConfirmationTag<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<Option<C>, MalformedState> {
        read(self.confirmation_tag.as_ref())
    }

    fn delete_tree<G: traits::GroupId<CURRENT_VERSION>>(&self, _: &G) -> Result<(), MalformedState> {
        Ok(())
    }

    fn delete_confirmation_tag<G: traits::GroupId<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<(), MalformedState> {
        Ok(())
    }

    fn delete_context<G: traits::GroupId<CURRENT_VERSION>>(&self, _: &G) -> Result<(), MalformedState> {
        Ok(())
    }

    fn delete_interim_transcript_hash<G: traits::GroupId<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<(), MalformedState> {
        Ok(())
    }

    fn remove_proposal<G: traits::GroupId<CURRENT_VERSION>, R: traits::ProposalRef<CURRENT_VERSION>>(
        &self,
        _: &G,
        _: &R,
    ) -> Result<(), MalformedState> {
        Ok(())
    }

    fn clear_proposal_queue<G: traits::GroupId<CURRENT_VERSION>, R: traits::ProposalRef<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<(), MalformedState> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_its_bytes_and_damaged_ones_are_refused() {
        let state = PublicState {
            tree: Some(ByteBuf::from(vec![7; 1000])),
            ..PublicState::default()
        };
        let bytes = state.encode().unwrap();
        assert!(bytes.len() < 500, "{} bytes", bytes.len());
        assert_eq!(PublicState::decode(&bytes).unwrap().tree, state.tree);

        for damaged in [
            &b""[..],
            &[FORMAT_CBOR_ZSTD],
            &[2, 0, 0],
            &bytes[..bytes.len() / 2],
        ] {
            assert!(PublicState::decode(damaged).is_err());
        }
    }
}
