use serde::{Deserialize, Serialize};

use crate::bytes::{Base64Url, GroupId};

/// `GET /v1/inbox`: rows that the device has not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Inbox {
    /// In order of `seq`, which grows by one from row to row unless rows were dropped.
    pub rows: Vec<InboxRow>,
    /// Rows up to this one are gone although the device has not acknowledged them: they had waited for longer than the
    /// retention, or were too many. It has to find out in which groups it missed something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped_up_to: Option<u64>,
}

/// One row of a device's inbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InboxRow {
    /// The row's number in this inbox.
    pub seq: u64,
    /// What it holds.
    pub kind: InboxKind,
    /// The group that it concerns, if it concerns one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_id: Option<GroupId>,
    /// The epoch to fetch the ratchet tree of (`welcome`); the epoch that the group is at from here on (`commit`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// When the server stored it, in Unix seconds.
    pub received_at: u64,
    /// The `MLSMessage`; of a `device-change` row the user's name; empty for rows that carry none.
    pub body: Base64Url,
}

/// What an inbox row holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum InboxKind {
    /// A Welcome to a group.
    Welcome,
    /// An accepted Commit of another device.
    Commit,
    /// A standalone proposal of another device.
    Proposal,
    /// An application message of another device.
    Message,
    /// The device's pool is below the low watermark, or its last resort was handed out: refresh it.
    KeyPackagesLow,
    /// A device of a user came or went: of one who shares a group with the receiver, or of the receiver's own. Or another
    /// device of the receiver's user created the group that the row names.
    DeviceChange,
}

/// `POST /v1/inbox/ack`: the rows up to and including this one are stored by the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AckRequest {
    /// The last row to acknowledge.
    pub up_to: u64,
}

/// An acknowledgement over the WebSocket: `{"ack": 17}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Ack {
    /// The last row to acknowledge.
    pub ack: u64,
}
