//! What commands print: one type, with a line for people and a JSON object for programs.

mod compared;
mod lines;
mod measured;
mod pool;

pub(crate) use lines::{group_label, untold};
pub(crate) use measured::Measured;
pub(crate) use pool::Pool;

use larder_client::InviteCode;
use schemars::JsonSchema;
use serde::Serialize;

use crate::migration::Migration;

/// One line of output. As JSON it is an object whose `type` is the variant's name; keys are never renamed.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Record {
    /// The server accepts connections.
    Listening {
        url: String,
        server_name: String,
        /// Where the counts are, if they are served.
        #[serde(skip_serializing_if = "Option::is_none")]
        metrics: Option<String>,
    },
    /// The account exists.
    Registered {
        user: String,
        device_id: String,
        server: String,
        profile: String,
        pool_available: u32,
        encrypted: bool,
    },
    /// A new device waits to be let in.
    LinkCode { code: String, fingerprint: String },
    /// The new device was let in.
    Linked {
        user: String,
        device_id: String,
        server: String,
        profile: String,
        groups: usize,
        pool_available: u32,
        encrypted: bool,
    },
    /// This device let a new one in.
    DeviceAuthorized { device_id: String, fingerprint: String },
    /// A device of this user.
    Device {
        device_id: String,
        fingerprint: String,
        authorized_by: Option<String>,
        authorized: bool,
        removed: bool,
        me: bool,
    },
    /// A device of this user is no more.
    DeviceRemoved { device_id: String, me: bool },
    /// The profile has another key.
    PassphraseChanged { profile: String, keychain: bool },
    /// A group of this device.
    Group {
        id: String,
        name: Option<String>,
        epoch: u64,
        members: u32,
        state: &'static str,
        unread: u64,
        muted: bool,
        /// Whether the server says that this device is not in it.
        denied: bool,
        /// Who is in it, or not in it any more, without anything that shows why. Nothing is sent there.
        held: Vec<HeldFor>,
        /// Who asks this user into it, or did before this device was removed (`left`).
        request: Option<String>,
        /// That the server alone says that this user is in it. Nothing is sent there until it was accepted.
        listed: Option<Listed>,
    },
    /// Somebody asks this user into a group, or the server alone says that the user is in it.
    Invitation {
        row: i64,
        group: String,
        group_name: Option<String>,
        /// Who asks; none where the server alone says so.
        by: Option<String>,
        listed: Option<Listed>,
        text: String,
        received_at: u64,
    },
    /// An invitation was accepted.
    Accepted {
        group: String,
        group_name: String,
        /// Whether this device was removed before the answer: what was written until then is kept.
        over: bool,
    },
    /// An invitation was declined.
    Declined {
        group: String,
        group_name: String,
        /// Whether there is a history of the group from before the invitation, which is kept.
        kept: bool,
        /// Whether this device was removed before the answer.
        over: bool,
        /// Whether the server knows; otherwise it is told by the next command that reaches it.
        told: bool,
    },
    /// A user is rightly in groups, or out of them, as the person says.
    Trusted {
        user: String,
        /// How many groups were held for the user.
        groups: u64,
    },
    /// A group has another name.
    Renamed { group: String, group_name: String },
    /// A group should not disturb.
    Muted { group: String, group_name: String },
    /// A group may disturb again.
    Unmuted { group: String, group_name: String },
    /// A member of a group.
    Member {
        group: String,
        user: String,
        device_id: String,
        fingerprint: String,
        me: bool,
        verification: &'static str,
    },
    /// What the members of a group compare to know that they are in the same one. Codes of different epochs say nothing.
    EpochCode { group: String, epoch: u64, code: String },
    /// What this user and another compare.
    SafetyNumber {
        user: String,
        number: String,
        qr: String,
        verification: &'static str,
        devices: Vec<SafetyDevice>,
        /// Whether the server lists other devices of the user, which are not believed.
        other_identity: bool,
        /// `qr` for people.
        #[serde(skip)]
        drawn: Option<String>,
    },
    /// What this user and another compare whose devices are other ones than those known before, as the server shows them.
    NewIdentity {
        user: String,
        /// The number with the devices that are known; `null` when all of them were removed.
        known: Option<String>,
        /// With those that the server shows.
        number: String,
        qr: String,
        devices: Vec<SafetyDevice>,
        /// `qr` for people.
        #[serde(skip)]
        drawn: Option<String>,
    },
    /// A user counts as verified, or no longer.
    Verified {
        user: String,
        verification: &'static str,
    },
    /// The outcome of an invitation.
    Invited {
        group: String,
        added: Vec<String>,
        by_last_resort: Vec<String>,
        not_added: Vec<NotAdded>,
    },
    /// A user can neither find nor invite this one.
    Blocked {
        user: String,
        /// The groups that the user had invited this one to, and that were left now.
        declined: Vec<String>,
        /// Whether the server knows; otherwise it is told by the next command that reaches it.
        told: bool,
    },
    /// A user can find and invite this one.
    Unblocked {
        user: String,
        /// Whether the server knows; otherwise it is told by the next command that reaches it.
        told: bool,
    },
    /// A user is no longer a member.
    Removed { group: String, user: String },
    /// A group was left.
    Left {
        group: String,
        /// Whether the server knows; otherwise it is told by the next command that reaches it.
        told: bool,
    },
    /// A message was accepted by the server (`sent`) or waits for it (`pending`).
    Sent {
        group: String,
        group_name: String,
        id: String,
        status: &'static str,
        /// Why it waits, if something was tried: as of a failure.
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Whether it waits for something that does not come by itself.
        #[serde(skip)]
        stuck: bool,
        /// It was not to be sent now.
        #[serde(skip)]
        offline: bool,
    },
    /// A file was saved.
    Saved { row: i64, file: String },
    /// Messages that had failed were sent again, or wait for the server.
    Retried {
        group: String,
        group_name: String,
        messages: u64,
        status: &'static str,
    },
    /// A message, or an event of a group.
    Message {
        row: i64,
        id: Option<String>,
        group: Option<String>,
        group_name: Option<String>,
        sender: Option<String>,
        kind: &'static str,
        text: String,
        sent_at: u64,
        received_at: u64,
        mine: bool,
        status: &'static str,
        #[serde(skip)]
        shown: Shown,
    },
    /// The state of the pool of KeyPackages.
    Pool(Pool),
    /// The outcome of a refresh of the pool.
    Refreshed {
        minted: u32,
        uploaded: u32,
        revoked: u32,
        last_resort_replaced: bool,
        /// The first is that of new groups.
        #[serde(serialize_with = "pool::first_and_all", flatten)]
        #[schemars(with = "pool::FirstAndAll")]
        pools: Vec<Pool>,
    },
    /// What somebody who adds this device would get.
    Probed {
        /// Only where there are several.
        #[serde(skip_serializing_if = "Option::is_none")]
        suite: Option<String>,
        addable: bool,
        code: &'static str,
        reason: String,
        key_package: Option<String>,
    },
    /// Something that happened to a KeyPackage of this device, as the server tells it.
    #[serde(rename = "audit")]
    AuditRow {
        seq: u64,
        time: u64,
        key_package: String,
        transition: &'static str,
        actor: Option<String>,
        group: Option<String>,
        group_name: Option<String>,
    },
    /// Whether what the server tells of this device's KeyPackages holds.
    Audited {
        rows: usize,
        holds: bool,
        code: &'static str,
        reason: Option<String>,
        restored: bool,
        /// The last row that the server has removed because of its age.
        pruned_through: Option<u64>,
    },
    /// Something in a server's store that cannot be right.
    Finding {
        code: &'static str,
        subject: String,
        detail: String,
    },
    /// How much of a server's store was checked.
    Checked {
        devices: u64,
        key_packages: u64,
        groups: u64,
        findings: u64,
    },
    /// A backup of the profile was written.
    Exported { file: String, user: String },
    /// A profile was made of a backup.
    Imported {
        user: String,
        device_id: String,
        server: String,
        profile: String,
        encrypted: bool,
    },
    /// A server's database was copied.
    BackedUp { file: String },
    /// A new invitation to register. Its code is shown nowhere else.
    InviteCode {
        #[schemars(with = "String")]
        code: InviteCode,
        id: String,
        expires_at: u64,
    },
    /// An invitation to register that can be used.
    OutstandingInviteCode {
        id: String,
        created_at: u64,
        expires_at: u64,
    },
    /// An invitation cannot be used any more.
    InviteCodeWithdrawn { id: String },
    /// A restored store is safe to be served.
    Restored {
        incarnation: String,
        devices: u64,
        revoked: u64,
    },
    /// The clock of an operator is the time of the servers on a store.
    ClockAccepted { time: u64, last_sweep: Option<u64> },
    /// How long frames of the chat took, in microseconds.
    Frames {
        at: &'static str,
        frames: usize,
        median_us: u128,
        p99_us: u128,
        longest_us: u128,
    },
    /// What some work of a server costs, beside a limit of the same run.
    Measured(Measured),
    /// This computer's clock and the server's disagree.
    ClockOff {
        /// Negative when it is slow.
        seconds_fast: i64,
        here: u64,
        there: u64,
        explanation: String,
    },
    /// A Welcome that could not be joined.
    Quarantined {
        reason: &'static str,
        explanation: String,
        key_package: Option<String>,
        attempts: u32,
        first_at: u64,
        last_at: u64,
    },
    /// The outcome of a migration of an older pool.
    LegacyMigration(Migration),
    /// Something that goes into a file: a configuration, a script, a page of the manual.
    Document { name: String, text: String },
    /// A file was written.
    Written { file: String },
    /// Where the configuration is looked for.
    ConfigPath { path: String, exists: bool },
    /// A word from this program: help, the state of the connection, the demonstration's story.
    Note { text: String },
}

/// A device of a user whose keys are compared.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct SafetyDevice {
    pub(crate) device_id: String,
    pub(crate) fingerprint: String,
    /// Since the user was verified.
    pub(crate) new: bool,
}

/// When a message is shown, which decides what else people want to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// As it arrives.
    Now,
    /// Among others, some of them old: with its number and its date.
    Later,
}

/// What the server says of a group that nothing explains.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Listed {
    /// The other users in it; null where that is not known.
    pub(crate) users: Option<Vec<String>>,
}

/// For whom nothing is sent to a group.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct HeldFor {
    pub(crate) user: String,
    /// `new` or `missing`.
    pub(crate) difference: &'static str,
}

/// A user who was not added, and why.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct NotAdded {
    pub(crate) user: String,
    pub(crate) code: &'static str,
    pub(crate) reason: String,
    /// Only of `rate-limited`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retry_after_seconds: Option<u64>,
}

#[cfg(test)]
mod tests;
