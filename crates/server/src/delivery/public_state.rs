use std::cell::RefCell;

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

/// The public state of one group, as OpenMLS stores it: loaded and stored whole, in the transaction of the request.
#[derive(Default)]
pub(super) struct PublicState {
    contents: RefCell<Contents>,
}

#[derive(Default, Serialize, Deserialize)]
struct Contents {
    tree: Option<ByteBuf>,
    context: Option<ByteBuf>,
    interim_transcript_hash: Option<ByteBuf>,
    confirmation_tag: Option<ByteBuf>,
    /// Queued proposals by their reference, in the order in which they came.
    proposals: Vec<(ByteBuf, ByteBuf)>,
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

impl PublicState {
    pub(super) fn decode(blob: &[u8]) -> Result<Self, Fault> {
        let Some((&FORMAT_CBOR_ZSTD, compressed)) = blob.split_first() else {
            return Err(Fault::Corrupt("the format of a group's public state"));
        };
        let cbor = zstd::bulk::Decompressor::upper_bound(compressed)
            .filter(|size| *size <= STATE_BYTES_MAX)
            .and_then(|size| zstd::bulk::decompress(compressed, size).ok())
            .ok_or(CodingError)?;
        Ok(Self {
            contents: RefCell::new(from_cbor(&cbor)?),
        })
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, Fault> {
        let cbor = to_cbor(&*self.contents.borrow())?;
        let mut blob = vec![FORMAT_CBOR_ZSTD];
        blob.extend(zstd::bulk::compress(&cbor, ZSTD_LEVEL).map_err(|_| CodingError)?);
        Ok(blob)
    }

    pub(super) fn queued_proposals_count(&self) -> usize {
        self.contents.borrow().proposals.len()
    }
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

impl PublicStorageProvider<CURRENT_VERSION> for PublicState {
    type PublicError = CodingError;

    fn write_tree<G: traits::GroupId<CURRENT_VERSION>, T: traits::TreeSync<CURRENT_VERSION>>(
        &self,
        _: &G,
        tree: &T,
    ) -> Result<(), CodingError> {
        self.contents.borrow_mut().tree = Some(to_cbor(tree)?);
        Ok(())
    }

    fn write_interim_transcript_hash<
        G: traits::GroupId<CURRENT_VERSION>,
        H: traits::InterimTranscriptHash<CURRENT_VERSION>,
    >(
        &self,
        _: &G,
        hash: &H,
    ) -> Result<(), CodingError> {
        self.contents.borrow_mut().interim_transcript_hash = Some(to_cbor(hash)?);
        Ok(())
    }

    fn write_context<G: traits::GroupId<CURRENT_VERSION>, C: traits::GroupContext<CURRENT_VERSION>>(
        &self,
        _: &G,
        context: &C,
    ) -> Result<(), CodingError> {
        self.contents.borrow_mut().context = Some(to_cbor(context)?);
        Ok(())
    }

    fn write_confirmation_tag<
        G: traits::GroupId<CURRENT_VERSION>,
        C: traits::ConfirmationTag<CURRENT_VERSION>,
    >(
        &self,
        _: &G,
        tag: &C,
    ) -> Result<(), CodingError> {
        self.contents.borrow_mut().confirmation_tag = Some(to_cbor(tag)?);
        Ok(())
    }

    fn queue_proposal<
        G: traits::GroupId<CURRENT_VERSION>,
        R: traits::ProposalRef<CURRENT_VERSION>,
        Q: traits::QueuedProposal<CURRENT_VERSION>,
    >(
        &self,
        _: &G,
        reference: &R,
        proposal: &Q,
    ) -> Result<(), CodingError> {
        let (reference, proposal) = (to_cbor(reference)?, to_cbor(proposal)?);
        let proposals = &mut self.contents.borrow_mut().proposals;
        proposals.retain(|(queued, _)| *queued != reference);
        proposals.push((reference, proposal));
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
        let contents = self.contents.borrow();
        contents
            .proposals
            .iter()
            .map(|(r, q)| Ok((from_cbor(r)?, from_cbor(q)?)))
            .collect()
    }

    fn tree<G: traits::GroupId<CURRENT_VERSION>, T: traits::TreeSync<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<Option<T>, CodingError> {
        read(self.contents.borrow().tree.as_ref())
    }

    fn group_context<G: traits::GroupId<CURRENT_VERSION>, C: traits::GroupContext<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<Option<C>, CodingError> {
        read(self.contents.borrow().context.as_ref())
    }

    fn interim_transcript_hash<
        G: traits::GroupId<CURRENT_VERSION>,
        H: traits::InterimTranscriptHash<CURRENT_VERSION>,
    >(
        &self,
        _: &G,
    ) -> Result<Option<H>, CodingError> {
        read(self.contents.borrow().interim_transcript_hash.as_ref())
    }

    fn confirmation_tag<G: traits::GroupId<CURRENT_VERSION>, C: traits::ConfirmationTag<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<Option<C>, CodingError> {
        read(self.contents.borrow().confirmation_tag.as_ref())
    }

    fn delete_tree<G: traits::GroupId<CURRENT_VERSION>>(&self, _: &G) -> Result<(), CodingError> {
        self.contents.borrow_mut().tree = None;
        Ok(())
    }

    fn delete_confirmation_tag<G: traits::GroupId<CURRENT_VERSION>>(&self, _: &G) -> Result<(), CodingError> {
        self.contents.borrow_mut().confirmation_tag = None;
        Ok(())
    }

    fn delete_context<G: traits::GroupId<CURRENT_VERSION>>(&self, _: &G) -> Result<(), CodingError> {
        self.contents.borrow_mut().context = None;
        Ok(())
    }

    fn delete_interim_transcript_hash<G: traits::GroupId<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<(), CodingError> {
        self.contents.borrow_mut().interim_transcript_hash = None;
        Ok(())
    }

    fn remove_proposal<G: traits::GroupId<CURRENT_VERSION>, R: traits::ProposalRef<CURRENT_VERSION>>(
        &self,
        _: &G,
        reference: &R,
    ) -> Result<(), CodingError> {
        let reference = to_cbor(reference)?;
        self.contents
            .borrow_mut()
            .proposals
            .retain(|(queued, _)| *queued != reference);
        Ok(())
    }

    fn clear_proposal_queue<G: traits::GroupId<CURRENT_VERSION>, R: traits::ProposalRef<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<(), CodingError> {
        self.contents.borrow_mut().proposals.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_its_blob_and_a_damaged_blob_is_refused() {
        let state = PublicState::default();
        state.contents.borrow_mut().tree = Some(ByteBuf::from(vec![7; 1000]));
        state
            .contents
            .borrow_mut()
            .proposals
            .push((ByteBuf::from(vec![1]), ByteBuf::from(vec![2])));
        let blob = state.encode().unwrap();
        assert!(blob.len() < 500, "{} bytes", blob.len());
        let read = PublicState::decode(&blob).unwrap();
        assert_eq!(read.contents.borrow().tree, state.contents.borrow().tree);
        assert_eq!(read.queued_proposals_count(), 1);

        for damaged in [&b""[..], &[FORMAT_CBOR_ZSTD], &[2, 0, 0], &blob[..blob.len() / 2]] {
            assert!(PublicState::decode(damaged).is_err());
        }
    }
}
