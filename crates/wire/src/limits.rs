//! Upper bounds of the API. A server refuses what exceeds them with `too-large` or `malformed`.

/// A request body, in bytes.
pub const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// One KeyPackage as an `MLSMessage`, in bytes.
pub const KEY_PACKAGE_BYTES_MAX: usize = 8 * 1024;
/// KeyPackages in one upload.
pub const UPLOAD_KEY_PACKAGES_MAX: usize = 64;
/// KeyPackages in one request that withdraws some: more than a device can have.
pub const REVOKE_REFS_MAX: usize = 256;
/// Users in one reserve request.
pub const RESERVE_USERS_MAX: usize = 64;
/// An application message as an `MLSMessage`, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Application messages in one request.
pub const MESSAGES_MAX: usize = 64;
/// A Commit as an `MLSMessage`, and its Welcome, in bytes each.
pub const COMMIT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Adds in one Commit.
pub const COMMIT_ADDS_MAX: usize = 256;
/// A standalone proposal as an `MLSMessage`, in bytes.
pub const PROPOSAL_BYTES_MAX: usize = 16 * 1024;
/// Proposals of a group that wait for a Commit.
pub const PROPOSALS_WAITING_MAX: usize = 64;
/// A leaf node (RFC 9420 §7.2), in bytes.
pub const LEAF_BYTES_MAX: usize = 4 * 1024;
/// The ratchet tree of a group (RFC 9420 §12.4.3.3), in bytes.
pub const TREE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A GroupInfo without the ratchet tree as an `MLSMessage`, in bytes.
pub const GROUP_INFO_BYTES_MAX: usize = 16 * 1024;
/// Devices that a user can ever have had, those that were removed included.
pub const USER_DEVICES_EVER_MAX: usize = 256;
/// Groups that a device can be a member of.
pub const GROUPS_PER_DEVICE_MAX: usize = 4096;
/// The GroupInfos of the vouchers of one [`Introduction`](crate::Introduction) together, in bytes.
pub const VOUCHERS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// An MLS group id, in bytes.
pub const GROUP_ID_BYTES_MAX: usize = 64;
/// An `Idempotency-Key`, in characters.
pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 64;
/// A mark of a device's state, in bytes.
pub const STATE_MARK_BYTES_MAX: usize = 16;
/// Marks of earlier requests in one claim of a device's state.
pub const STATE_MARKS_KNOWN_MAX: usize = 12;
/// The longest a request for the inbox may wait for a row, in seconds.
pub const INBOX_WAIT_SECONDS_MAX: u64 = 30;
/// Inbox rows in one answer.
pub const INBOX_PAGE_ROWS_MAX: u32 = 256;
/// Commits and proposals in one answer.
pub const HANDSHAKES_PAGE_ROWS_MAX: u32 = 256;
/// Messages of one sender that wait in a group for members who have not come for them, in bytes.
pub const SENDER_WAITING_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Ciphersuites that a deployment asks its clients to stock: each has its part of one pool.
pub const GROUP_SUITES_MAX: usize = 8;
/// Rows of an audit in one answer.
pub const AUDIT_PAGE_ROWS_MAX: u32 = 256;
/// KeyPackages in one request to spend them.
pub const SPEND_REFS_MAX: usize = 256;
