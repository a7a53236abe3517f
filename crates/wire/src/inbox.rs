use serde::{Deserialize, Serialize};

use crate::bytes::{Base64Url, GroupId};

/// `POST /v1/inbox/next`: acknowledges what the device has stored, and asks for what comes after it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NextRequest {
    /// What the device has stored since it last said so. Nothing is acknowledged without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledge: Option<Acknowledgement>,
    /// At most so many rows; 256 unless told, never more, and fewer when they are large.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 256))]
    pub limit: Option<u32>,
    /// When there is no row, wait this many seconds for one; 30 at most, 0 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(maximum = 30))]
    pub wait: Option<u64>,
}

/// What a device has stored. Acknowledging less than before takes nothing back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Acknowledgement {
    /// The incarnation of the store that the numbers are of, as the session was told. Numbers of another one are
    /// refused.
    pub incarnation: String,
    /// The last row stored of each group; 4,096 groups at most. Those of groups that the device does not get rows of are
    /// passed over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Position>,
    /// The last row stored that concerns no group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mail: Option<u64>,
}

/// A place in the sequence of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Position {
    /// The group.
    pub group_id: GroupId,
    /// The number of a row.
    pub seq: u64,
}

/// The answer to `POST /v1/inbox/next`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Inbox {
    /// The rows after those that are acknowledged; those of each group in their order.
    pub rows: Vec<InboxRow>,
}

/// A row for a device: of the sequence of a group, or of the device's own mail.
///
/// The rows of a group leave out no number. What the device does not get (its own, and what was said before it could read) is
/// passed by a `passed` row; numbers that stand for nothing, since the server was restored from a backup, are within `first`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InboxRow {
    /// The group, of a row of its sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_id: Option<GroupId>,
    /// The row's number in the group's sequence, or in the device's mail.
    pub seq: u64,
    /// The first number that it stands for, when that is not `seq`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// What it holds.
    pub kind: InboxKind,
    /// The epoch to fetch the ratchet tree of (`welcome`); the epoch that the group is at from here on (`commit`); the epoch
    /// that it was sent in (`proposal`, `message`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// When the server stored it, in Unix seconds.
    pub received_at: u64,
    /// Why the server has not got the body any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<Gone>,
    /// The `MLSMessage`; of a `device-change` row the user's name; of a `departure` row `0x01 || opaque user<V> ||
    /// opaque device_id<V> || opaque leaf_hash<V> || opaque signature<V>` (RFC 9420 §2.1.2); empty for rows that carry none.
    #[serde(default, skip_serializing_if = "Base64Url::is_empty")]
    pub body: Base64Url,
}

/// What an inbox row holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum InboxKind {
    /// A Welcome to a group. What comes before it in the group's sequence is not for this device.
    Welcome,
    /// An accepted Commit of another device.
    Commit,
    /// A standalone proposal of another device.
    Proposal,
    /// An application message of another device.
    Message,
    /// A device has left: its statement, by which a member may commit the removal of its leaf.
    Departure,
    /// Rows that are not for this device.
    Passed,
    /// The device's pool is below the low watermark, or its last resort was handed out: refresh it. Concerns no group.
    KeyPackagesLow,
    /// A device of a user came or went: of a user in the group; or, in a row that concerns no group, of the receiver's own,
    /// or another device of it has created a group.
    DeviceChange,
}

/// Why the body of a row is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Gone {
    /// More waited in the group than may.
    Quota,
    /// It had waited for longer than the retention.
    Age,
}
