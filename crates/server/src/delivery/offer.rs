use larder_judge::Handshake;
use larder_wire::{CommitRequest, GroupId};
use openmls::messages::Welcome;
use openmls::messages::group_info::VerifiableGroupInfo;
use sha2::{Digest, Sha256};

use crate::delivery::parse;
use crate::error::ServiceError;

/// A Commit, and what belongs to it, as somebody asks for it: bounded and read, and not yet judged.
pub(crate) struct Offer {
    pub(crate) group: GroupId,
    pub(crate) sha256: [u8; 32],
    pub(crate) request: CommitRequest,
    pub(super) handshake: Handshake,
    pub(super) welcome: Option<Welcome>,
    pub(super) group_info: VerifiableGroupInfo,
}

impl Offer {
    pub(crate) fn read(group: GroupId, request: CommitRequest) -> Result<Self, ServiceError> {
        let handshake = parse::commit(&request.commit.0, &group)?;
        let group_info = parse::group_info(&request.group_info.0)?;
        let welcome = request
            .welcome
            .as_ref()
            .map(|welcome| parse::welcome(&welcome.0))
            .transpose()?;
        Ok(Self {
            sha256: Sha256::digest(&request.commit.0).into(),
            group,
            request,
            handshake,
            welcome,
            group_info,
        })
    }

    /// The epoch that it is for.
    pub(crate) fn epoch(&self) -> u64 {
        self.handshake.epoch()
    }
}

/// A standalone proposal as somebody asks for it: bounded and read, and not yet judged.
pub(crate) struct OfferedProposal {
    pub(crate) group: GroupId,
    pub(crate) sha256: [u8; 32],
    pub(crate) bytes: Vec<u8>,
    pub(super) handshake: Handshake,
}

impl OfferedProposal {
    pub(crate) fn read(group: GroupId, bytes: Vec<u8>) -> Result<Self, ServiceError> {
        Ok(Self {
            handshake: parse::proposal(&bytes, &group)?,
            sha256: Sha256::digest(&bytes).into(),
            group,
            bytes,
        })
    }

    /// The epoch that it is for.
    pub(crate) fn epoch(&self) -> u64 {
        self.handshake.epoch()
    }
}
