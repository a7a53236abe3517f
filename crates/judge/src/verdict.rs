use openmls::prelude::{ConfirmationTag, LeafNodeIndex, QueuedProposal, StagedCommit};

use crate::handshake::Unreadable;
use crate::leaf::Leaf;

/// A Commit that the group may make, on top of the public state that it was judged against.
pub struct JudgedCommit {
    /// As OpenMLS has staged it; a `PublicGroup` can merge it.
    pub staged: Box<StagedCommit>,
    /// The committer's leaf, from this Commit on.
    pub committer: LeafNodeIndex,
    /// How the committer has come, if it was no member before.
    pub entrance: Option<Entrance>,
    /// The tag that only members can check.
    pub confirmation_tag: ConfirmationTag,
}

/// How an external Commit brings its committer in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entrance {
    /// In the place of its own leaf: it had lost track of the group.
    Back(Leaf),
    /// Beside the devices of its user that are in the group already.
    Beside(Leaf),
}

impl Entrance {
    /// The device that has come.
    pub fn leaf(&self) -> &Leaf {
        match self {
            Self::Back(leaf) | Self::Beside(leaf) => leaf,
        }
    }
}

/// A proposal that may wait for a Commit.
pub struct JudgedProposal {
    /// As OpenMLS has verified it; a `PublicGroup` can queue it.
    pub queued: Box<QueuedProposal>,
    /// The leaf of the member who proposes.
    pub proposer: LeafNodeIndex,
}

/// Why a Commit or a proposal is not taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// No member has signed it for this group at this epoch, as far as the state shows: whoever delivers it may have made it.
    #[error("not signed by a member of this group at this epoch")]
    Unsigned,
    /// A member has signed it, and it refers to a proposal that was not delivered before it.
    #[error("refers to a proposal that is not known")]
    ProposalUnknown,
    /// A member has signed it, and MLS cannot follow it (RFC 9420 §12): it is invalid, or has become so, as the lifetime of an
    /// added KeyPackage ends.
    #[error("signed by a member, and not valid at this epoch")]
    Unfollowable,
    /// It is one, and it does what nobody may do.
    #[error(transparent)]
    Against(#[from] Rule),
}

/// What a Commit or a proposal does that nobody may do, as the end of a sentence that begins with "it".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rule {
    /// Its sender is neither a member nor a device that joins by it.
    #[error("comes from somebody who is no member")]
    Sender,
    /// It holds a proposal that is no Add, Remove or Update.
    #[error("does something else than to add, remove or renew members")]
    ProposalKind,
    /// It holds the same proposal twice.
    #[error("does the same thing twice")]
    ProposalTwice,
    /// It adds or removes somebody because another member than the committer has proposed it: only leaving is proposed.
    #[error("adds or removes somebody in the name of another member")]
    ProposedByAnother,
    /// A leaf would be another user's, another device's or have another signature key.
    #[error("turns a member into another one")]
    LeafChanged,
    /// It adds a leaf that does not say whose it is.
    #[error("adds a member that is no device of a user")]
    LeafUnreadable,
    /// A device or a signature key would be in the group twice.
    #[error("adds a member that is in the group already")]
    LeafTwice,
    /// A key of a leaf or of its path is one that nothing can be encrypted to: no later Commit could be made.
    #[error("brings a key that nothing can be encrypted to")]
    UnusableKey,
    /// An encryption key of a leaf or of its path is that of another node of the tree: members could not merge it.
    #[error("brings a key that the group has already")]
    KeyTwice,
    /// It carries authenticated data that has no meaning in it.
    #[error("carries data that has no place in it")]
    AuthenticatedData,
    /// A device that joins by it does something else with it than to join.
    #[error("lets somebody in who changes other members in coming")]
    Intrusion,
    /// A device would join that no device of its user in the group is shown to have let in.
    #[error("lets in a device that no member is shown to have let in")]
    Unproven,
}
