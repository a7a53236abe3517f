use serde::{Deserialize, Serialize};

use crate::bytes::{Base64Url, GroupId};
use crate::problem::Problem;

/// `POST /v1/groups`: creates a group at its first epoch, with the caller as its only member.
///
/// Needs an `Idempotency-Key`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateGroupRequest {
    /// The MLS group id: random, chosen by the creator.
    pub group_id: GroupId,
    /// The group's GroupInfo (RFC 9420 §12.4.3) as an `MLSMessage`, with external_pub and without the ratchet tree.
    pub group_info: Base64Url,
    /// The group's ratchet tree (RFC 9420 §12.4.3.3).
    pub ratchet_tree: Base64Url,
}

/// The answer to the creation of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GroupCreated {
    /// The group.
    pub group_id: GroupId,
    /// Its epoch.
    pub epoch: u64,
}

/// `POST /v1/groups/{gid}/commits`. Idempotent by the SHA-256 of `commit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CommitRequest {
    /// The Commit as an `MLSMessage` with a PublicMessage inside (RFC 9420 §12.4).
    pub commit: Base64Url,
    /// The Welcome as an `MLSMessage`, when the Commit adds anyone (RFC 9420 §12.4.3.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub welcome: Option<Base64Url>,
    /// The GroupInfo of the new epoch as an `MLSMessage`, with external_pub.
    pub group_info: Base64Url,
    /// The reservation that the added KeyPackages come from. Informative: the KeyPackageRefs decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation_id: Option<String>,
}

/// The answer to an accepted Commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Accepted {
    /// The group's epoch after the Commit.
    pub epoch: u64,
    /// The Commit's number in the group's sequence.
    pub seq: u64,
}

/// `POST /v1/groups/{gid}/proposals`. May be posted raw as `message/mls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProposalRequest {
    /// A standalone proposal as an `MLSMessage` with a PublicMessage inside.
    pub proposal: Base64Url,
}

/// The answer to a proposal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Sent {
    /// Its number in the group's sequence.
    pub seq: u64,
}

/// `POST /v1/groups/{gid}/messages`. Each message is idempotent by its SHA-256. A single one may be posted raw as `message/mls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MessagesRequest {
    /// Application messages of the current or the previous epoch, each an `MLSMessage` with a PrivateMessage inside: 1 to
    /// [`MESSAGES_MAX`](crate::MESSAGES_MAX), which the group gets in this order.
    pub messages: Vec<Base64Url>,
}

/// The answer to messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MessagesSent {
    /// What became of each message, in the order of the request. One that is refused does not keep the others back, unless it is
    /// `rate-limited`: then so are all behind it.
    pub results: Vec<MessageResult>,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum MessageResult {
    /// The group has it.
    Accepted {
        /// Its number in the group's sequence.
        seq: u64,
    },
    /// The group does not have it.
    Refused {
        /// Why.
        problem: Problem,
    },
}

/// `GET /v1/groups`: the groups that the calling device is a member of; with `?of=user` those that any device of its user
/// is, which it may join by an external Commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Memberships {
    /// The groups, by id.
    pub groups: Vec<Membership>,
}

/// A group that the calling device, or another one of its user, is a member of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Membership {
    /// The group.
    pub group_id: GroupId,
    /// Its epoch.
    pub epoch: u64,
    /// The number of the last row of its sequence; 0 before the first.
    pub head: u64,
    /// The numbers that no row has any more, because the server was restored from a backup: what was accepted under them is lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
}

/// Numbers of a group's sequence that a restored server has left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Gap {
    /// The first of them.
    pub first: u64,
    /// The last of them.
    pub last: u64,
}

/// `DELETE /v1/groups/{gid}/membership`: the calling device leaves, and gets nothing more of the group from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeaveRequest {
    /// By the signature key of the device's leaf, through SignWithLabel (RFC 9420 §5.1.2) with the label `LarderLeave`, over
    /// `"larder leave v1" || 0x00 || server_name || 0x00 || user || 0x00 || device_id || 0x00 || SHA-256 of the LeafNode || 0x00 ||
    /// group_id`.
    pub signature: Base64Url,
}

/// `GET /v1/groups/{gid}/commits?from_epoch=`: what led the group on from an epoch: its Commits and, each before the Commit
/// that may name it, the standalone proposals (RFC 9420 §12.4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Handshakes {
    /// In the order of the group's sequence. Where there are more than fit into an answer, ask from the last one's epoch on.
    pub handshakes: Vec<Handshake>,
}

/// A Commit or a standalone proposal that a group has accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Handshake {
    /// Its number in the group's sequence.
    pub seq: u64,
    /// The epoch that it was made in.
    pub epoch: u64,
    /// The `MLSMessage`; absent once the server does not keep it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Base64Url>,
}

/// `GET /v1/groups/{gid}/epochs/{epoch}`: by which a member tells whether the server follows the same branch of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EpochAnswer {
    /// The epoch.
    pub epoch: u64,
    /// The number of the Commit that led to it; 0 of the first epoch.
    pub seq: u64,
    /// The epoch's confirmed transcript hash (RFC 9420 §8.2).
    pub confirmed_transcript_hash: Base64Url,
}

/// `GET /v1/groups/{gid}/info`: what an external Commit needs (RFC 9420 §12.4.3.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GroupInfoAnswer {
    /// The group's epoch.
    pub epoch: u64,
    /// Its GroupInfo as an `MLSMessage`.
    pub group_info: Base64Url,
    /// Its ratchet tree.
    pub ratchet_tree: Base64Url,
}

/// `GET /v1/groups/{gid}/trees/{epoch}`: what joining by a Welcome of that epoch needs. Served raw as
/// `message/mls` when the request accepts that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RatchetTreeAnswer {
    /// The ratchet tree of that epoch.
    pub ratchet_tree: Base64Url,
}
