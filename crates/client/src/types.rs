use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use larder_lifecycle::{PoolPolicy, UnixSeconds};
use larder_pool::zeroize::Zeroizing;
use larder_pool::{PoolHealth, StoreKey};
use larder_wire::{DeviceId, KeyPackageRef, LINK_SECRET_BYTES, RegisterRequest, UserName};

use crate::access::Access;
use crate::error::Error;
use crate::verification::Verification;

pub use crate::invited::{Invited, NotAdded};

/// Tells the time. Only the application reads a real clock.
pub type Clock = Arc<dyn Fn() -> UnixSeconds + Send + Sync>;

/// Names a group: its MLS group id. Prints and parses as base64url.
pub type GroupKey = larder_wire::GroupId;

/// The longest text of one message, in bytes. Encrypted, padded and framed it stays below the server's limit.
pub const TEXT_BYTES_MAX: usize = 32 * 1024;
/// The largest file that is sent or taken, in bytes: it is held in memory. A server may take less.
pub const ATTACHMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The longest name of a group, in characters.
pub const GROUP_NAME_CHARS_MAX: usize = 64;

/// Where and how a connection keeps its state.
#[derive(Clone)]
pub struct Options {
    /// The profile: a directory of its own for one device. It is created with mode 0700, the database in it (`larder.db`)
    /// with 0600.
    pub profile: PathBuf,
    /// What the profile is encrypted with, and a new one will be; `None` for one that is not encrypted.
    pub key: Option<StoreKey>,
    /// Tells the time.
    pub clock: Clock,
    /// How many KeyPackages the device keeps, of all ciphersuites together, and how long they live.
    pub policy: PoolPolicy,
    /// What an invitation from somebody who is not known makes of its group.
    pub invitations: Invitations,
    /// How the server may be talked to. What is said here is remembered in the profile.
    pub access: Access,
    /// Writes a point in time for the person who reads the notices: only the application knows their zone and language.
    pub dates: fn(UnixSeconds) -> String,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("profile", &self.profile)
            .field("key", &self.key)
            .field("policy", &self.policy)
            .field("invitations", &self.invitations)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

/// What an invitation makes of its group when it comes from somebody with whom this user shares no group that it has accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Invitations {
    /// A request: nothing is sent there until the person has [accepted](crate::MlsConnection::accept) it.
    Ask,
    /// A group like any other: for programs that talk to everybody.
    Accept,
}

/// Whether a profile is there, and encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProfileForm {
    /// There is no profile, or nothing in it.
    Missing,
    /// Not encrypted.
    Plain,
    /// Encrypted; a damaged one looks the same.
    Encrypted,
}

/// Who a connection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Me {
    /// The user.
    pub user: UserName,
    /// The device.
    pub device_id: DeviceId,
    /// The server's address, `http://…` or `https://…`, without a trailing slash.
    pub server: String,
    /// The server's name, as it was when the account was registered. Sessions are signed for it, so that another server
    /// at the same address has no use for the signature.
    pub server_name: String,
}

impl Me {
    /// The identity of the device's credential, as text.
    pub(crate) fn credential_text(&self) -> String {
        format!("{}/{}", self.user, self.device_id)
    }
}

/// What a refresh of the pool did.
#[derive(Debug, Clone)]
pub struct Refreshed {
    /// KeyPackages minted, without the last resort.
    pub minted: u32,
    /// KeyPackages that the directory holds now because of this refresh, without the last resort.
    pub uploaded: u32,
    /// KeyPackages withdrawn from the directory: their private keys are not here, or they are of an earlier generation.
    pub revoked: u32,
    /// Whether a new last resort took the place of one that was missing, used or old.
    pub last_resort_replaced: bool,
    /// The pool of the ciphersuite that new groups have, afterwards.
    pub health: PoolHealth,
    /// The pools of all ciphersuites, afterwards.
    pub pools: Vec<SuitePool>,
}

/// The pool of one ciphersuite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuitePool {
    /// The ciphersuite (RFC 9420 §17.1).
    pub suite: u16,
    /// Whether it is kept full. The others are of ciphersuites that the deployment is not run with any more: what is there
    /// is used up, or ends.
    pub stocked: bool,
    /// How many KeyPackages it is filled up to: its part of the device's target, or 0 if it is not kept full.
    pub target: u32,
    /// Its counts.
    pub health: PoolHealth,
}

/// The state of a group on this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GroupState {
    /// Created here; the server has not confirmed it. The next sync sends the same request again.
    Creating,
    /// A member.
    Active,
    /// Not a member any more. The messages stay readable.
    Left,
    /// A Commit could not be processed, or the server lists the group and this device is not in it yet. The next sync rejoins by
    /// an external Commit (RFC 9420 §12.4.3.2), unless the group is a request.
    NeedsRejoin,
}

impl GroupState {
    /// The state in one word: `creating`, `active`, `left` or `needs-rejoin`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Active => "active",
            Self::Left => "left",
            Self::NeedsRejoin => "needs-rejoin",
        }
    }
}

impl fmt::Display for GroupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A group in one line. `Debug` hides the name.
#[derive(Clone, PartialEq, Eq)]
pub struct GroupSummary {
    /// The group.
    pub id: GroupKey,
    /// Its name, once a member has told it (inside an encrypted message).
    pub name: Option<String>,
    /// Its epoch; 0 when this device is not a member any more.
    pub epoch: u64,
    /// Its members (devices); 0 when this device is not a member any more.
    pub members: u32,
    /// Its state on this device.
    pub state: GroupState,
    /// Messages of others that are not marked as read.
    pub unread: u64,
    /// The row of the last message that is marked as read; 0 when none is.
    pub read_up_to: i64,
    /// The row of the newest message; 0 when there is none.
    pub last_row: i64,
    /// Whether the person wants to be told less of it.
    pub muted: bool,
    /// Whether the server says that this device is not a member. What is here is kept all the same: a membership ends by a
    /// Commit of a member, or by [`leave`](crate::MlsConnection::leave).
    pub denied: bool,
    /// For what the group is held, by user. While there is anything, nothing is sent there.
    pub held: Vec<Held>,
    /// What makes it a request that was not answered yet. It stays one when this device is removed before the answer
    /// ([`GroupState::Left`]).
    pub request: Option<ContactRequest>,
}

impl fmt::Debug for GroupSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupSummary")
            .field("id", &self.id)
            .field("epoch", &self.epoch)
            .field("members", &self.members)
            .field("state", &self.state)
            .field("unread", &self.unread)
            .field("read_up_to", &self.read_up_to)
            .field("last_row", &self.last_row)
            .field("muted", &self.muted)
            .field("denied", &self.denied)
            .field("held", &self.held)
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

/// Why a group is a request: nothing is sent there until the person has [accepted](crate::MlsConnection::accept) it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContactRequest {
    /// Somebody who is not known has invited this user.
    Invitation {
        /// The user.
        by: UserName,
    },
    /// The server says that this user is in the group, and nothing that this device knows explains it.
    Listed {
        /// The other users who are said to be in it, at most 256; `None` where that is not known.
        users: Option<Vec<UserName>>,
    },
}

impl fmt::Display for ContactRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// More users are counted.
        const NAMED_MAX: usize = 16;
        const SAYS: &str = "the server says that you are in a group";
        let users = match self {
            Self::Invitation { by } => return write!(f, "{by} invites you"),
            Self::Listed { users: None } => return write!(f, "{SAYS}; who is in it is not known"),
            Self::Listed { users: Some(users) } => users,
        };
        let named: Vec<&str> = users.iter().take(NAMED_MAX).map(UserName::as_str).collect();
        match users.len().saturating_sub(NAMED_MAX) {
            _ if users.is_empty() => write!(f, "{SAYS} of nobody else"),
            0 => write!(f, "{SAYS} of {}", named.join(", ")),
            more => write!(f, "{SAYS} of {} and {more} more", named.join(", ")),
        }
    }
}

/// For what a group is held: in it this device found others than it knew when it came back, and no Commits of members that show
/// why. Nothing is sent there until the person has said that it is right ([`trust`](crate::MlsConnection::trust)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Who came or went.
    pub user: UserName,
    /// Which of both.
    pub difference: Difference,
}

/// How a user's part in a group is another one than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// The user, or a device of it, is new in the group.
    New,
    /// The user, or a device of it, is not in the group any more.
    Missing,
}

impl Difference {
    /// In one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Missing => "missing",
        }
    }
}

/// A member of a group: one leaf, which is one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The user, from the leaf's credential.
    pub user: UserName,
    /// The device, from the leaf's credential.
    pub device_id: DeviceId,
    /// SHA-256 of the leaf's signature key, 64 hexadecimal digits: for two people to compare.
    pub signature_key_fingerprint: String,
    /// Whether it is this device.
    pub is_me: bool,
    /// Whether the user is verified, and this leaf with them.
    pub verification: Verification,
}

/// A device that a user has or had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The device.
    pub device_id: DeviceId,
    /// SHA-256 of its signature key, 64 hexadecimal digits.
    pub signature_key_fingerprint: String,
    /// The device that let it in; none for the user's first one.
    pub authorized_by: Option<DeviceId>,
    /// Whether its authorization verifies, from the first device on. One that does not may be anybody's.
    pub is_authorized: bool,
    /// Whether it was removed.
    pub is_removed: bool,
    /// Whether it is this device.
    pub is_me: bool,
}

/// A device that asks to become one of this user's, by a code that was checked. `Debug` hides what the code hides.
#[derive(Clone)]
pub struct DeviceToLink {
    pub(crate) request: RegisterRequest,
    pub(crate) fingerprint: String,
    pub(crate) secret: Zeroizing<[u8; LINK_SECRET_BYTES]>,
}

impl fmt::Debug for DeviceToLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceToLink")
            .field("request", &self.request)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

impl DeviceToLink {
    /// The device.
    pub fn device_id(&self) -> &DeviceId {
        &self.request.device_id
    }

    /// SHA-256 of its signature key, 64 hexadecimal digits, to be compared with what the device itself shows.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

/// What became of an invitation that was declined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Declined {
    /// Whether there is a history of the group from before the invitation. It is kept.
    pub kept: bool,
    /// Whether the group was over: this device had been removed from it before the person answered.
    pub was_over: bool,
    /// Whether the server knows. Otherwise the next sync that reaches it tells it.
    pub told: bool,
}

/// What became of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// The groups whose invitations by that user were declined.
    pub declined: Vec<GroupKey>,
    /// Whether the server knows. Otherwise the next sync that reaches it tells it.
    pub told: bool,
}

/// What somebody who adds this device would get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// This KeyPackage, which is valid and whose private key is here.
    Addable {
        /// The KeyPackage.
        key_package_ref: KeyPackageRef,
        /// Whether it is the last resort: nothing else is left for a stranger.
        last_resort: bool,
    },
    /// A valid KeyPackage whose private key is not here, so that the invitation could not be opened. The next refresh
    /// withdraws it.
    NoPrivateKey {
        /// The KeyPackage.
        key_package_ref: KeyPackageRef,
    },
    /// Nothing, or nothing that an adder would accept.
    NotAddable(NotAdded),
}

/// A message that was accepted for sending.
#[derive(Debug, Clone)]
pub struct SentMessage {
    /// The message's id, the same on every device.
    pub id: String,
    /// How far it got.
    pub status: SendStatus,
    /// What keeps it waiting, if something was tried. Whether that ends by itself,
    /// [`is_temporary`](Error::is_temporary) tells.
    pub because: Option<Arc<Error>>,
}

impl SentMessage {
    pub(crate) fn pending(id: String) -> Self {
        Self {
            id,
            status: SendStatus::Pending,
            because: None,
        }
    }
}

/// How far a message got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SendStatus {
    /// The server has it.
    Sent,
    /// It is in the outbox; the next sync sends it.
    Pending,
    /// The server refused it for good, for example because this device was removed.
    Failed,
    /// The server had accepted it, and was restored from a backup that does not have it.
    Lost,
}

impl SendStatus {
    /// The status in one word: `sent`, `pending`, `failed` or `lost`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Pending => "pending",
            Self::Failed => "failed",
            Self::Lost => "lost",
        }
    }
}

/// What a sync did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Synced {
    /// Inbox rows handled.
    pub rows: u64,
    /// Requests of the outbox that the server answered for good.
    pub flushed: u64,
    /// Groups joined by a Welcome.
    pub joined: u64,
    /// Accepted Commits for members who asked to leave, and for devices that their users removed.
    pub committed: u64,
    /// Groups rejoined by an external Commit, or joined by one because another device of the user is a member.
    pub rejoined: u64,
    /// Groups in which this device replaced the leaf that it had joined with by a fresh one.
    pub updated: u64,
}

/// What a message row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageKind {
    /// Somebody wrote `text`.
    Text,
    /// Somebody sent a file, whose name and size are the `text`. The connection tells more of it by the row.
    Attachment,
    /// This device joined the group.
    Joined,
    /// Members were added.
    Added,
    /// A member was removed.
    Removed,
    /// A member left.
    Left,
    /// Something that the user should know, for example that a message could not be read.
    Notice,
}

impl MessageKind {
    /// The kind in one word: `text`, `attachment`, `joined`, `added`, `removed`, `left` or `notice`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Attachment => "attachment",
            Self::Joined => "joined",
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Left => "left",
            Self::Notice => "notice",
        }
    }
}

/// A file that goes with a message. `Debug` hides its name.
#[derive(Clone, PartialEq, Eq)]
pub struct Attachment {
    /// What the sender calls it: one component, without what could be harmful in it.
    pub name: String,
    /// Its size, in bytes.
    pub size: u64,
    /// What the sender says that it is. It may be anything.
    pub media_type: String,
    /// When the server removes it; `None` for an own file that the server does not have yet.
    pub expires_at: Option<UnixSeconds>,
    /// Whether that time has come.
    pub is_expired: bool,
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachment")
            .field("size", &self.size)
            .field("expires_at", &self.expires_at)
            .field("is_expired", &self.is_expired)
            .finish_non_exhaustive()
    }
}

/// One row of the history. `Debug` hides the text and the group's name.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// The row's number on this device, in the order of arrival.
    pub row: i64,
    /// The group. `None` for a notice that concerns none, for example about a Welcome that could not be opened.
    pub group: Option<GroupKey>,
    /// The group's name, if it is known by now.
    pub group_name: Option<String>,
    /// Who sent it or caused it, from the MLS credential.
    pub sender: Option<UserName>,
    /// The message's id (`Text`, `Attachment`), the same on every device; empty for other kinds.
    pub id: String,
    /// What the row says.
    pub kind: MessageKind,
    /// The text as written (`Text`: hostile input for a terminal), name and size (`Attachment`), or a sentence (other kinds).
    pub text: String,
    /// When the sender's server stored it, in Unix seconds; for own messages the time of sending.
    pub sent_at: UnixSeconds,
    /// When this device stored it, in Unix seconds.
    pub received_at: UnixSeconds,
    /// Whether this device wrote it.
    pub mine: bool,
    /// How far an own message got; `Sent` for all others.
    pub status: SendStatus,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("row", &self.row)
            .field("group", &self.group)
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("mine", &self.mine)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use larder_pool::zeroize::Zeroizing;

    use super::*;

    #[test]
    fn debug_shows_that_there_is_a_key_and_not_which() {
        let options = Options {
            profile: PathBuf::from("alice"),
            key: StoreKey::passphrase(Zeroizing::new("open sesame".to_owned())).ok(),
            clock: Arc::new(|| UnixSeconds(0)),
            policy: PoolPolicy::default(),
            access: Access::default(),
            invitations: Invitations::Ask,
            dates: |at| at.0.to_string(),
        };
        let shown = format!("{options:?}");
        assert!(
            shown.contains("StoreKey(..)") && !shown.contains("sesame"),
            "{shown}"
        );
    }
}
