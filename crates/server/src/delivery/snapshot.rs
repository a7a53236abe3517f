use larder_wire::GroupId;
use openmls::prelude::PublicGroup;
use openmls::prelude::tls_codec::Serialize as _;
use openmls_rust_crypto::RustCrypto;
use openmls_traits::crypto::OpenMlsCrypto;
use openmls_traits::public_storage::PublicStorageProvider;
use openmls_traits::storage::{CURRENT_VERSION, traits};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::error::Fault;

/// CBOR under zstd. Field names and enum variants are stored by name, because OpenMLS has moved its integer tags
/// between versions before.
const FORMAT_CBOR_ZSTD: u8 = 1;
/// zstd's default: on group states it halves the size in a fraction of what the signatures take.
const ZSTD_LEVEL: i32 = 3;
/// A group state of this size is not ours, in bytes. It bounds what a corrupt blob can make us allocate.
const STATE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The public state of one group after a Commit, as it is stored. OpenMLS loads a group from it, and keeps nothing in it:
/// what it would store at every step is stored once in a while, all at once.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Snapshot {
    tree: Option<ByteBuf>,
    context: Option<ByteBuf>,
    interim_transcript_hash: Option<ByteBuf>,
    confirmation_tag: Option<ByteBuf>,
}

/// The public state could not be coded.
#[derive(Debug, thiserror::Error)]
#[error("the public state of a group could not be coded")]
pub(super) struct CodingError;

impl From<CodingError> for Fault {
    fn from(_: CodingError) -> Self {
        Self::Corrupt("the public state of a group")
    }
}

impl Snapshot {
    /// The state of a group, without the proposals that wait.
    pub(super) fn of(crypto: &RustCrypto, group: &PublicGroup) -> Result<Self, Fault> {
        let context = group.group_context();
        let tag = group.confirmation_tag();
        // interim_transcript_hash = Hash(confirmed_transcript_hash || InterimTranscriptHashInput) (RFC 9420 §8.2).
        let mut hashed = context.confirmed_transcript_hash().to_vec();
        tag.tls_serialize(&mut hashed).map_err(|_| CodingError)?;
        let interim = crypto
            .hash(context.ciphersuite().hash_algorithm(), &hashed)
            .map_err(|_| Fault::Crypto("a transcript hash"))?;
        Ok(Self {
            tree: Some(to_cbor(group.treesync())?),
            context: Some(to_cbor(context)?),
            interim_transcript_hash: Some(to_cbor(&interim)?),
            confirmation_tag: Some(to_cbor(tag)?),
        })
    }

    /// The group that it is the state of.
    pub(super) fn load(&self, group: &GroupId) -> Result<PublicGroup, Fault> {
        let group_id = openmls::group::GroupId::from_slice(group.as_bytes());
        PublicGroup::load(self, &group_id)?.ok_or(Fault::Corrupt("a group without public state"))
    }

    pub(super) fn decode(blob: &[u8]) -> Result<Self, Fault> {
        let Some((&FORMAT_CBOR_ZSTD, compressed)) = blob.split_first() else {
            return Err(Fault::Corrupt("the format of a group's public state"));
        };
        Ok(from_cbor(&decompress(compressed, STATE_BYTES_MAX)?)?)
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, Fault> {
        let mut blob = vec![FORMAT_CBOR_ZSTD];
        blob.extend(compress(&to_cbor(self)?)?);
        Ok(blob)
    }
}

pub(super) fn compress(bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    zstd::bulk::compress(bytes, ZSTD_LEVEL).map_err(|_| CodingError.into())
}

/// What was compressed, of at most `most` bytes.
pub(crate) fn decompress(compressed: &[u8], most: usize) -> Result<Vec<u8>, Fault> {
    zstd::bulk::Decompressor::upper_bound(compressed)
        .filter(|size| *size <= most)
        .and_then(|size| zstd::bulk::decompress(compressed, size).ok())
        .ok_or_else(|| CodingError.into())
}

fn to_cbor<T: Serialize>(value: &T) -> Result<ByteBuf, CodingError> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).map_err(|_| CodingError)?;
    Ok(ByteBuf::from(bytes))
}

fn from_cbor<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodingError> {
    ciborium::from_reader(bytes).map_err(|_| CodingError)
}

fn read<T: DeserializeOwned>(stored: Option<&ByteBuf>) -> Result<Option<T>, CodingError> {
    stored.map(|bytes| from_cbor(bytes)).transpose()
}

impl PublicStorageProvider<CURRENT_VERSION> for Snapshot {
    type PublicError = CodingError;

    fn write_tree<G: traits::GroupId<CURRENT_VERSION>, T: traits::TreeSync<CURRENT_VERSION>>(
        &self,
        _: &G,
        _: &T,
    ) -> Result<(), CodingError> {
        Ok(())
    }

    fn write_interim_transcript_hash<
        G: traits::GroupId<CURRENT_VERSION>,
        H: traits::InterimTranscriptHash<CURRENT_VERSION>,
    >(
        &self,
        _: &G,
        _: &H,
    ) -> Result<(), CodingError> {
        Ok(())
    }

    fn write_context<G: traits::GroupId<CURRENT_VERSION>, C: traits::GroupContext<CURRENT_VERSION>>(
        &self,
        _: &G,
        _: &C,
    ) -> Result<(), CodingError> {
        Ok(())
    }

    fn write_confirmation_tag<
        G: traits::GroupId<CURRENT_VERSION>,
        C: traits::ConfirmationTag<CURRENT_VERSION>,
    >(
        &self,
        _: &G,
        _: &C,
    ) -> Result<(), CodingError> {
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
    ) -> Result<(), CodingError> {
        Ok(())
    }

    fn queued_proposals<
        G: traits::GroupId<CURRENT_VERSION>,
        R: traits::ProposalRef<CURRENT_VERSION>,
        Q: traits::QueuedProposal<CURRENT_VERSION>,
    >(
        &self,
        _: &G,
    ) -> Result<Vec<(R, Q)>, CodingError> {
        Ok(Vec::new())
    }

    fn tree<G: traits::GroupId<CURRENT_VERSION>, T: traits::TreeSync<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<Option<T>, CodingError> {
        read(self.tree.as_ref())
    }

    fn group_context<G: traits::GroupId<CURRENT_VERSION>, C: traits::GroupContext<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<Option<C>, CodingError> {
        read(self.context.as_ref())
    }

    fn interim_transcript_hash<
        G: traits::GroupId<CURRENT_VERSION>,
        H: traits::InterimTranscriptHash<CURRENT_VERSION>,
    >(
        &self,
        _: &G,
    ) -> Result<Option<H>, CodingError> {
        read(self.interim_transcript_hash.as_ref())
    }

    fn confirmation_tag<G: traits::GroupId<CURRENT_VERSION>, C: traits::ConfirmationTag<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<Option<C>, CodingError> {
        read(self.confirmation_tag.as_ref())
    }

    fn delete_tree<G: traits::GroupId<CURRENT_VERSION>>(&self, _: &G) -> Result<(), CodingError> {
        Ok(())
    }

    fn delete_confirmation_tag<G: traits::GroupId<CURRENT_VERSION>>(&self, _: &G) -> Result<(), CodingError> {
        Ok(())
    }

    fn delete_context<G: traits::GroupId<CURRENT_VERSION>>(&self, _: &G) -> Result<(), CodingError> {
        Ok(())
    }

    fn delete_interim_transcript_hash<G: traits::GroupId<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<(), CodingError> {
        Ok(())
    }

    fn remove_proposal<G: traits::GroupId<CURRENT_VERSION>, R: traits::ProposalRef<CURRENT_VERSION>>(
        &self,
        _: &G,
        _: &R,
    ) -> Result<(), CodingError> {
        Ok(())
    }

    fn clear_proposal_queue<G: traits::GroupId<CURRENT_VERSION>, R: traits::ProposalRef<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<(), CodingError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_survives_its_blob_and_a_damaged_blob_is_refused() {
        let snapshot = Snapshot {
            tree: Some(ByteBuf::from(vec![7; 1000])),
            ..Snapshot::default()
        };
        let blob = snapshot.encode().unwrap();
        assert!(blob.len() < 500, "{} bytes", blob.len());
        assert_eq!(Snapshot::decode(&blob).unwrap().tree, snapshot.tree);

        for damaged in [&b""[..], &[FORMAT_CBOR_ZSTD], &[2, 0, 0], &blob[..blob.len() / 2]] {
            assert!(Snapshot::decode(damaged).is_err());
        }
    }
}
