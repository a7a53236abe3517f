//! The Larder HTTP API, version 1: what travels between a client and the server.
//!
//! Requests, responses, inbox rows and problems are plain data with `serde`. Names, references and byte strings are
//! parsed when they are read: a value of [`UserName`] or [`KeyPackageRef`] is well formed by construction.
//!
//! # Architecture invariant
//!
//! Absent here: OpenMLS, HTTP, SQL, clocks, randomness and private keys. MLS objects are opaque bytes (a whole
//! `MLSMessage`, RFC 9420 §6) so that a client on any MLS library can speak this API.

mod accounts;
mod audit;
mod blobs;
mod bytes;
mod directory;
mod groups;
mod inbox;
mod invite_code;
mod limits;
mod link_code;
mod names;
mod problem;
mod signing;
mod state;
mod suites;

pub use accounts::{
    AccountRequest, Authorization, Challenge, ChallengeRequest, DeviceInfo, Introduction, Limits,
    LinkRequest, Proofs, RegisterRequest, Registered, Registration, Removal, RemovalRequest, ServerInfo,
    Session, SessionRequest, UserDevices, Voucher,
};
pub use audit::{
    AUDIT_RETENTION_SECONDS_MIN, AuditChain, AuditCheckpoint, AuditHead, AuditPage, AuditRow,
    AuditTransition, BrokenChain, ImpossibleTransition, KeyPackageHistory,
};
pub use blobs::{BlobId, BlobStored};
pub use bytes::{Base64Url, GroupId, KeyPackageRef, MalformedBytes, StateMark};
pub use directory::{
    DeviceOutcome, DeviceReservation, Health, Inventory, InventoryItem, KeyPackageState, LastResortStatus,
    PoolStatus, ReserveRequest, Reserved, Revocation, RevokeAllRequest, RevokeRequest, Revoked, SpendRequest,
    SuiteStatus, UploadOutcome, UploadRequest, UploadResult, Uploaded, UserReservation,
};
pub use groups::{
    Accepted, CommitRequest, CreateGroupRequest, EpochAnswer, Gap, GroupCreated, GroupInfoAnswer, Handshake,
    Handshakes, LeaveRequest, Membership, Memberships, MessageResult, MessagesRequest, MessagesSent,
    ProposalRequest, RatchetTreeAnswer, Sent,
};
pub use inbox::{Acknowledgement, Gone, Inbox, InboxKind, InboxRow, NextRequest, Position};
pub use invite_code::{INVITE_SECRET_BYTES, InviteCode, MalformedInviteCode};
pub use limits::{
    AUDIT_PAGE_ROWS_MAX, BODY_BYTES_MAX, COMMIT_ADDS_MAX, COMMIT_BYTES_MAX, GROUP_ID_BYTES_MAX,
    GROUP_INFO_BYTES_MAX, GROUP_SUITES_MAX, GROUPS_PER_DEVICE_MAX, HANDSHAKES_PAGE_ROWS_MAX,
    IDEMPOTENCY_KEY_CHARS_MAX, INBOX_PAGE_ROWS_MAX, INBOX_WAIT_SECONDS_MAX, KEY_PACKAGE_BYTES_MAX,
    LEAF_BYTES_MAX, MESSAGE_BYTES_MAX, MESSAGES_MAX, PROPOSAL_BYTES_MAX, PROPOSALS_WAITING_MAX,
    RESERVE_USERS_MAX, REVOKE_REFS_MAX, SENDER_WAITING_BYTES_MAX, SPEND_REFS_MAX, STATE_MARK_BYTES_MAX,
    STATE_MARKS_KNOWN_MAX, TREE_BYTES_MAX, UPLOAD_KEY_PACKAGES_MAX, USER_DEVICES_EVER_MAX,
    VOUCHERS_BYTES_MAX,
};
pub use link_code::{LINK_SECRET_BYTES, LinkCode, MalformedLinkCode};
pub use names::{DeviceId, MalformedName, UserName, credential_identity, parse_credential_identity};
pub use problem::{CommitCheck, KeyPackageCheck, Problem, ProblemType};
pub use signing::{
    LABEL_DEVICE_LINK, LABEL_DEVICE_REMOVAL, LABEL_LEAVE, LABEL_REGISTER, LABEL_VOUCHER,
    introduction_content, leave_content, link_content, registration_content, removal_content,
    session_content, sign_with_label_content, voucher_content,
};
pub use state::{STATE_HEADER, StateClaim};
pub use suites::{
    MalformedSuite, SUITE_X25519_AES128GCM, SUITE_X25519_CHACHA20POLY1305, SUITE_XWING_AES128GCM,
    parse_suite, suite_name,
};
