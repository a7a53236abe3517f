//! The public state of a group in memory: what Commits and proposals are judged against.

use larder_judge::{PublicState, compress};
use larder_wire::GroupId;
use openmls::prelude::tls_codec::{Deserialize as _, Serialize as _, Size as _};
use openmls::prelude::{MlsMessageIn, ProcessedMessageContent, PublicGroup, QueuedProposal, StagedCommit};
use openmls_rust_crypto::RustCrypto;

use crate::error::Fault;
use crate::store::{GroupRow, HandshakeRow, Tx};

/// After so many rows a snapshot is due.
const ROWS_MAX: u32 = 32;
/// After so many bytes of Commits and proposals a snapshot is due.
const BYTES_MAX: usize = 256 * 1024;

/// The state of a group after a row of its log.
pub(crate) struct Held {
    pub(super) public_group: PublicGroup,
    /// The last row that it followed, a Commit or a proposal; 0 at first.
    seq: u64,
    /// The last Commit, whose tree this is.
    commit_seq: u64,
    /// The Commit that the stored state is the one after.
    snapshot_seq: u64,
    /// Proposals that wait for a Commit.
    pub(super) proposals: usize,
    /// What came since the last snapshot.
    since: Since,
    /// The ratchet trees of Welcomes that are not stored yet, compressed, each with the row of its Commit.
    unwritten_trees: Vec<(u64, Vec<u8>)>,
}

#[derive(Default)]
struct Since {
    rows: u32,
    bytes: usize,
}

/// What is to be stored of a state, behind the requests that led to it.
pub(crate) struct Unwritten {
    /// The ratchet trees of Welcomes, compressed, each with the row of its Commit.
    pub(crate) trees: Vec<(u64, Vec<u8>)>,
    /// A snapshot, and the row that it is the state after.
    pub(crate) snapshot: Option<(u64, Vec<u8>)>,
}

/// What is stored of a group's public state.
pub(crate) struct Stored {
    /// The state after a row, and that row; `None` when the rows lead on from one that is known.
    snapshot: Option<(u64, Vec<u8>)>,
    /// The Commits and proposals after it.
    pub(crate) rows: Vec<HandshakeRow>,
}

/// What a state in memory is known by.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// The last row that it followed.
    seq: u64,
    epoch: u64,
    /// The confirmed transcript hash; empty before the first Commit.
    transcript_hash: Vec<u8>,
}

impl Known {
    /// Whether it is where the group stands.
    pub(crate) fn is_at(&self, row: &GroupRow) -> bool {
        (self.seq, self.epoch) == (row.state_seq, row.epoch) && self.transcript_hash == row.transcript_hash
    }

    /// Whether the group, if it stands there, may have gone on from it.
    pub(crate) fn is_before(&self, row: &GroupRow) -> bool {
        self.seq < row.state_seq
    }
}

impl Stored {
    /// Reads it.
    pub(crate) fn read(tx: &Tx<'_>, group: &GroupId) -> Result<Self, Fault> {
        let snapshot = tx
            .snapshot(group)?
            .ok_or(Fault::Corrupt("a group without public state"))?;
        Ok(Self {
            rows: tx.handshakes(group, snapshot.0, (u32::MAX, usize::MAX))?,
            snapshot: Some(snapshot),
        })
    }

    /// Reads what leads on from a known state: from none that another node's is stored after, whose rows do not have to be
    /// there any more, and from none that the store does not have, because it went back.
    pub(crate) fn read_after(tx: &Tx<'_>, group: &GroupId, known: &Known) -> Result<Self, Fault> {
        let is_stored_before = tx.snapshot_seq(group)?.is_some_and(|seq| seq <= known.seq);
        let is_in_store = match known.epoch.checked_sub(1) {
            None => true,
            Some(made_in) => tx
                .commit_of(group, made_in)?
                .is_some_and(|(_, hash)| hash == known.transcript_hash),
        };
        if !is_stored_before || !is_in_store {
            return Self::read(tx, group);
        }
        Ok(Self {
            rows: tx.handshakes(group, known.seq, (u32::MAX, usize::MAX))?,
            snapshot: None,
        })
    }

    /// The state that it leads to. `known` is the one after the row that it was read after.
    ///
    /// # Errors
    /// [`Fault::Unfollowable`].
    pub(crate) fn lead_on(
        self,
        crypto: &RustCrypto,
        group: &GroupId,
        known: Option<Held>,
    ) -> Result<Held, Fault> {
        let mut held = match &self.snapshot {
            Some(snapshot) => Held::load(group, snapshot)?,
            None => known.ok_or(Fault::Unfollowable)?,
        };
        held.follow(crypto, self.rows)?;
        Ok(held)
    }
}

impl Held {
    /// The state that was stored, after this row.
    fn load(group: &GroupId, (seq, snapshot): &(u64, Vec<u8>)) -> Result<Self, Fault> {
        let group_id = openmls::group::GroupId::from_slice(group.as_bytes());
        Ok(Self {
            public_group: PublicState::decode(snapshot)?.load(&group_id)?,
            seq: *seq,
            commit_seq: *seq,
            snapshot_seq: *seq,
            proposals: 0,
            since: Since::default(),
            unwritten_trees: Vec::new(),
        })
    }

    /// The last row that it followed.
    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// What it is known by.
    pub(crate) fn known(&self) -> Known {
        let context = self.public_group.group_context();
        Known {
            seq: self.seq,
            epoch: context.epoch().as_u64(),
            transcript_hash: context.confirmed_transcript_hash().to_vec(),
        }
    }

    /// The row of the Commit that led to its epoch; 0 at the first.
    pub(crate) fn commit_seq(&self) -> u64 {
        self.commit_seq
    }

    /// Follows rows that the group has accepted; they were judged then.
    ///
    /// # Errors
    /// [`Fault::Unfollowable`] when it cannot: OpenMLS judges lifetimes by the clock, so that what was right may not be any
    /// more. What was followed before stays.
    fn follow(&mut self, crypto: &RustCrypto, rows: Vec<HandshakeRow>) -> Result<(), Fault> {
        for row in rows {
            let bytes = row.body.ok_or(Fault::Unfollowable)?;
            let message = MlsMessageIn::tls_deserialize_exact(&bytes)
                .ok()
                .and_then(|message| message.try_into_protocol_message().ok())
                .ok_or(Fault::Unfollowable)?;
            let processed = self
                .public_group
                .process_message(crypto, message)
                .map_err(|_| Fault::Unfollowable)?;
            match processed.into_content() {
                ProcessedMessageContent::StagedCommitMessage(staged) if row.is_commit => {
                    self.merge(row.seq, bytes.len(), *staged)?;
                    if row.needs_tree {
                        self.keep_tree()?;
                    }
                }
                ProcessedMessageContent::ProposalMessage(queued) if !row.is_commit => {
                    self.queue(row.seq, bytes.len(), *queued)?;
                }
                _ => return Err(Fault::Unfollowable),
            }
        }
        Ok(())
    }

    /// Follows a Commit that the group has accepted at this row.
    pub(crate) fn merge(&mut self, seq: u64, bytes: usize, staged: StagedCommit) -> Result<(), Fault> {
        self.public_group
            .merge_commit(&PublicState::default(), staged)
            .map_err(|_| Fault::Unfollowable)?;
        self.commit_seq = seq;
        self.proposals = 0;
        self.count(seq, bytes);
        Ok(())
    }

    /// Follows a proposal that the group has accepted at this row.
    pub(crate) fn queue(&mut self, seq: u64, bytes: usize, queued: QueuedProposal) -> Result<(), Fault> {
        self.public_group.add_proposal(&PublicState::default(), queued)?;
        self.proposals += 1;
        self.count(seq, bytes);
        Ok(())
    }

    fn count(&mut self, seq: u64, bytes: usize) {
        self.seq = seq;
        self.since.rows += 1;
        self.since.bytes += bytes;
    }

    /// Keeps the ratchet tree of this epoch for those who were welcomed to it.
    pub(crate) fn keep_tree(&mut self) -> Result<(), Fault> {
        let tree = compress(&self.ratchet_tree()?).ok_or(Fault::Corrupt("a ratchet tree"))?;
        self.unwritten_trees.push((self.commit_seq, tree));
        Ok(())
    }

    /// The ratchet tree (RFC 9420 §12.4.3.3).
    pub(crate) fn ratchet_tree(&self) -> Result<Vec<u8>, Fault> {
        self.public_group
            .export_ratchet_tree()
            .tls_serialize_detached()
            .map_err(|_| Fault::Corrupt("a ratchet tree"))
    }

    /// The size of the ratchet tree, in bytes.
    pub(crate) fn ratchet_tree_bytes(&self) -> usize {
        self.public_group.export_ratchet_tree().tls_serialized_len()
    }

    /// What is due to be stored; with `everything`, what is not stored yet. It is taken for stored from here on.
    pub(crate) fn take_unwritten(
        &mut self,
        crypto: &RustCrypto,
        everything: bool,
    ) -> Result<Option<Unwritten>, Fault> {
        let is_due = everything || self.since.rows >= ROWS_MAX || self.since.bytes >= BYTES_MAX;
        // Proposals are followed again, until there is a Commit.
        let snapshot = match is_due && self.commit_seq > self.snapshot_seq {
            true => Some((
                self.commit_seq,
                PublicState::of(crypto, &self.public_group)?.encode()?,
            )),
            false => None,
        };
        if snapshot.is_none() && self.unwritten_trees.is_empty() {
            return Ok(None);
        }
        if snapshot.is_some() {
            self.snapshot_seq = self.commit_seq;
            self.since = Since::default();
        }
        Ok(Some(Unwritten {
            trees: std::mem::take(&mut self.unwritten_trees),
            snapshot,
        }))
    }
}
