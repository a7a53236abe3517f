use larder_judge::Handshake;
use larder_lifecycle::UnixSeconds;
use larder_wire::{Accepted, CommitRequest, GroupId, Sent};
use openmls::messages::Welcome;
use openmls::messages::group_info::VerifiableGroupInfo;
use openmls::prelude::{QueuedProposal, StagedCommit};
use openmls_rust_crypto::RustCrypto;
use sha2::{Digest, Sha256};

use crate::delivery::groups::{self, Standing};
use crate::delivery::judge::{self, JudgedCommit, JudgedProposal};
use crate::delivery::state::Held;
use crate::delivery::{commit, messages, parse};
use crate::error::{Fault, ServiceError};
use crate::store::{DeviceRow, Tx};

/// Something that changes a group's public state, on its way from who asks for it into the group.
pub(crate) trait Offered: Send + Sync + Sized + 'static {
    /// What it is answered with.
    type Answer: Send + 'static;
    /// The verdict: proof that it may be accepted while the state is the one that it was judged against.
    type Judged: Send + Sync + 'static;
    /// What the state follows once it is accepted.
    type Staged: Send + 'static;

    /// The epoch that it is for.
    fn epoch(&self) -> u64;

    /// Where the group stands to it.
    fn standing(&self, tx: &Tx<'_>, caller: &DeviceRow) -> Result<Standing<Self::Answer>, ServiceError>;

    /// Judges it, without the store.
    fn judge(
        &self,
        judged_by: (&RustCrypto, &str),
        caller: &DeviceRow,
        held: &Held,
    ) -> Result<(Self::Judged, Self::Staged), ServiceError>;

    /// Reads ahead what [`accept`](Self::accept) asks for first.
    fn accept_ahead(&self, tx: &Tx<'_>, caller: &DeviceRow, judged: &Self::Judged);

    /// Accepts it. `None` when the state is not the one any more that it was judged against.
    fn accept(
        &self,
        tx: &Tx<'_>,
        caller: &DeviceRow,
        judged: &Self::Judged,
        now: UnixSeconds,
    ) -> Result<Option<Self::Answer>, ServiceError>;

    /// Its number in the group's log.
    fn seq(answer: &Self::Answer) -> u64;

    /// Lets the state follow it.
    fn follow(&self, held: &mut Held, seq: u64, staged: Self::Staged) -> Result<(), Fault>;
}

/// A Commit, and what belongs to it, as somebody asks for it: bounded and read, and not yet judged.
pub(crate) struct Offer {
    pub(super) group: GroupId,
    pub(super) sha256: [u8; 32],
    pub(super) request: CommitRequest,
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
}

impl Offered for Offer {
    type Answer = Accepted;
    type Judged = JudgedCommit;
    type Staged = Box<StagedCommit>;

    fn epoch(&self) -> u64 {
        self.handshake.epoch()
    }

    fn standing(&self, tx: &Tx<'_>, caller: &DeviceRow) -> Result<Standing<Accepted>, ServiceError> {
        groups::standing_of_commit(tx, caller, &self.group, &self.sha256)
    }

    fn judge(
        &self,
        judged_by: (&RustCrypto, &str),
        caller: &DeviceRow,
        held: &Held,
    ) -> Result<(JudgedCommit, Box<StagedCommit>), ServiceError> {
        judge::commit(judged_by, caller, held, self)
    }

    fn accept_ahead(&self, tx: &Tx<'_>, caller: &DeviceRow, judged: &JudgedCommit) {
        commit::commit_ahead(tx, caller, self, judged);
    }

    fn accept(
        &self,
        tx: &Tx<'_>,
        caller: &DeviceRow,
        judged: &JudgedCommit,
        now: UnixSeconds,
    ) -> Result<Option<Accepted>, ServiceError> {
        commit::commit(tx, caller, self, judged, now)
    }

    fn seq(answer: &Accepted) -> u64 {
        answer.seq
    }

    fn follow(&self, held: &mut Held, seq: u64, staged: Box<StagedCommit>) -> Result<(), Fault> {
        held.merge(seq, self.request.commit.0.len(), *staged)?;
        match self.welcome {
            Some(_) => held.keep_tree(),
            None => Ok(()),
        }
    }
}

/// A standalone proposal as somebody asks for it: bounded and read, and not yet judged.
pub(crate) struct OfferedProposal {
    pub(super) group: GroupId,
    pub(super) sha256: [u8; 32],
    pub(super) bytes: Vec<u8>,
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
}

impl Offered for OfferedProposal {
    type Answer = Sent;
    type Judged = JudgedProposal;
    type Staged = Box<QueuedProposal>;

    fn epoch(&self) -> u64 {
        self.handshake.epoch()
    }

    fn standing(&self, tx: &Tx<'_>, caller: &DeviceRow) -> Result<Standing<Sent>, ServiceError> {
        groups::standing_of_proposal(tx, caller, &self.group, &self.sha256)
    }

    fn judge(
        &self,
        judged_by: (&RustCrypto, &str),
        caller: &DeviceRow,
        held: &Held,
    ) -> Result<(JudgedProposal, Box<QueuedProposal>), ServiceError> {
        judge::proposal(judged_by, caller, held, self)
    }

    fn accept_ahead(&self, tx: &Tx<'_>, caller: &DeviceRow, judged: &JudgedProposal) {
        messages::propose_ahead(tx, caller, self, judged);
    }

    fn accept(
        &self,
        tx: &Tx<'_>,
        caller: &DeviceRow,
        judged: &JudgedProposal,
        now: UnixSeconds,
    ) -> Result<Option<Sent>, ServiceError> {
        messages::propose(tx, caller, self, judged, now)
    }

    fn seq(answer: &Sent) -> u64 {
        answer.seq
    }

    fn follow(&self, held: &mut Held, seq: u64, queued: Box<QueuedProposal>) -> Result<(), Fault> {
        held.queue(seq, self.bytes.len(), *queued)
    }
}
