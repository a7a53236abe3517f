//! How large the body of a request of each kind may be: as large as what it carries, and no larger. What is beyond that is
//! refused before it is read.

use larder_wire::{
    AccountRequest, BODY_BYTES_MAX, ChallengeRequest, CommitRequest, CreateGroupRequest, GROUP_ID_BYTES_MAX,
    GROUP_INFO_BYTES_MAX, GROUPS_PER_DEVICE_MAX, KEY_PACKAGE_BYTES_MAX, LEAF_BYTES_MAX, LeaveRequest,
    LinkRequest, MESSAGE_BYTES_MAX, MESSAGES_MAX, MessagesRequest, NextRequest, PROPOSAL_BYTES_MAX,
    ProposalRequest, RESERVE_USERS_MAX, REVOKE_REFS_MAX, RemovalRequest, ReserveRequest, Revocation,
    SPEND_REFS_MAX, SessionRequest, SpendRequest, UPLOAD_KEY_PACKAGES_MAX, UploadRequest, VOUCHERS_BYTES_MAX,
};

/// Names, ids, numbers, signatures and the JSON around them, in bytes.
const FRAME_BYTES: usize = 16 * 1024;
/// A reference, a user or a position in a list of them, in bytes.
const ITEM_BYTES: usize = 256;

/// A request whose body is bounded.
pub(super) trait Bounded {
    /// In bytes.
    const BODY_BYTES_MAX: usize;
}

/// Bytes as base64 in JSON.
const fn framed(bytes: usize) -> usize {
    FRAME_BYTES + bytes.div_ceil(3) * 4
}

macro_rules! bounded {
    ($($request:ty: $most:expr;)*) => {$(
        impl Bounded for $request {
            const BODY_BYTES_MAX: usize = $most;
        }
    )*};
}

bounded! {
    AccountRequest: framed(0);
    ChallengeRequest: framed(0);
    SessionRequest: framed(0);
    LinkRequest: framed(VOUCHERS_BYTES_MAX) + GROUPS_PER_DEVICE_MAX * 2 * ITEM_BYTES;
    RemovalRequest: framed(0);
    UploadRequest: framed(UPLOAD_KEY_PACKAGES_MAX * KEY_PACKAGE_BYTES_MAX);
    Revocation: FRAME_BYTES + REVOKE_REFS_MAX * ITEM_BYTES;
    ReserveRequest: FRAME_BYTES + RESERVE_USERS_MAX * ITEM_BYTES;
    SpendRequest: FRAME_BYTES + SPEND_REFS_MAX * ITEM_BYTES;
    CreateGroupRequest: framed(LEAF_BYTES_MAX + GROUP_INFO_BYTES_MAX);
    CommitRequest: BODY_BYTES_MAX;
    ProposalRequest: framed(PROPOSAL_BYTES_MAX);
    MessagesRequest: framed(MESSAGES_MAX * MESSAGE_BYTES_MAX);
    LeaveRequest: framed(0);
    NextRequest: FRAME_BYTES + GROUPS_PER_DEVICE_MAX * (GROUP_ID_BYTES_MAX + ITEM_BYTES);
}
