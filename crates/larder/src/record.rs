//! What commands print: one type, with a line for people and a JSON object for programs.

use std::borrow::Cow;
use std::fmt::Write;

use larder_client::{InviteCode, NextAction, UnixSeconds};
use schemars::JsonSchema;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::clock::date;
use crate::migration::Migration;
use crate::passphrase::NOT_ENCRYPTED;
use crate::text::{label, plain};

/// Groups of digits of a safety number on one line.
const GROUPS_PER_LINE: usize = 4;

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
        /// Who asks this user into it.
        request: Option<String>,
    },
    /// Somebody asks this user into a group.
    Invitation {
        row: i64,
        group: String,
        group_name: Option<String>,
        by: String,
        text: String,
        received_at: u64,
    },
    /// An invitation was accepted.
    Accepted { group: String, group_name: String },
    /// An invitation was declined.
    Declined { group: String, group_name: String },
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
    /// What this user and another compare.
    SafetyNumber {
        user: String,
        number: String,
        qr: String,
        verification: &'static str,
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
    },
    /// A user can find and invite this one.
    Unblocked { user: String },
    /// A user is no longer a member.
    Removed { group: String, user: String },
    /// This device asked to leave.
    Left { group: String },
    /// A message was accepted by the server (`sent`) or waits for it (`pending`).
    Sent {
        group: String,
        group_name: String,
        id: String,
        status: &'static str,
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
        #[serde(serialize_with = "first_and_all", flatten)]
        #[schemars(with = "FirstAndAll")]
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
    /// How long frames of the chat took, in microseconds.
    Frames {
        at: &'static str,
        frames: usize,
        median_us: u128,
        p99_us: u128,
        longest_us: u128,
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

/// Counts of a pool.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Pool {
    /// Only where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) suite: Option<String>,
    /// Only where it is not.
    #[serde(skip_serializing_if = "is_stocked")]
    pub(crate) stocked: bool,
    pub(crate) level: &'static str,
    pub(crate) available: u32,
    pub(crate) target: u32,
    pub(crate) reserved: u32,
    pub(crate) spent: u32,
    pub(crate) lapsed: u32,
    pub(crate) expired: u32,
    pub(crate) expiring_soon: u32,
    pub(crate) unconfirmed: u32,
    pub(crate) last_upload: Option<u64>,
    /// `none`, `unused` or `used`.
    pub(crate) last_resort: &'static str,
    pub(crate) last_resort_created_at: Option<u64>,
    pub(crate) quarantined: u32,
    /// `none`, `refresh`, or `wait` when the hard cap leaves no room.
    #[serde(serialize_with = "next_action")]
    #[schemars(with = "&'static str")]
    pub(crate) next_action: NextAction,
}

impl Record {
    /// The line for people. Nothing that others wrote can break out of it.
    pub(crate) fn line(&self) -> String {
        match self {
            Self::Listening { url, metrics, .. } => match metrics {
                None => format!("listening on {url}"),
                Some(metrics) => format!("listening on {url}, metrics on {metrics}"),
            },
            Self::Registered {
                user,
                server,
                profile,
                pool_available,
                encrypted,
                ..
            } => {
                format!(
                    "registered {user} at {} (profile {profile}); {pool_available} KeyPackages in the directory{}",
                    plain(server),
                    warning(*encrypted)
                )
            }
            Self::LinkCode { code, fingerprint } => format!(
                "on a device that you have: larder device authorize {code}\nfingerprint {fingerprint}"
            ),
            Self::Linked {
                user,
                server,
                profile,
                groups,
                pool_available,
                encrypted,
                ..
            } => {
                let noun = if *groups == 1 { "group" } else { "groups" };
                format!(
                    "linked to {user} at {} (profile {profile}); {groups} {noun}; {pool_available} KeyPackages in the \
                     directory{}",
                    plain(server),
                    warning(*encrypted)
                )
            }
            Self::DeviceAuthorized { device_id, .. } => format!("device {device_id} is yours now"),
            Self::Device {
                device_id,
                fingerprint,
                authorized_by,
                authorized,
                removed,
                me,
            } => {
                let mut line = format!("device {device_id}  key {fingerprint}");
                match authorized_by {
                    Some(by) => {
                        let _ = write!(line, "  authorized by {by}");
                    }
                    None => line.push_str("  the first"),
                }
                for (is_so, word) in [
                    (!*authorized, "  WARNING: not one of yours by any signature"),
                    (*removed, "  (removed)"),
                    (*me, "  (this one)"),
                ] {
                    if is_so {
                        line.push_str(word);
                    }
                }
                line
            }
            Self::DeviceRemoved { device_id, me: false } => format!("device {device_id} was removed"),
            Self::DeviceRemoved { device_id, me: true } => {
                format!(
                    "device {device_id} was removed: this profile can do nothing any more and may be deleted"
                )
            }
            Self::PassphraseChanged { profile, keychain } => match keychain {
                true => format!("the profile {profile} is encrypted with a new key, which the keychain has"),
                false => format!("the profile {profile} is encrypted with the new passphrase"),
            },
            Self::Group {
                id,
                name,
                members,
                state,
                unread,
                muted,
                request,
                ..
            } => {
                let mut line = format!(
                    "#{}  {members} {}",
                    group_label(name.as_deref(), id),
                    people(*members)
                );
                if *unread > 0 {
                    // Writing to a String cannot fail, here and below.
                    let _ = write!(line, ", {unread} unread");
                }
                if *state != "active" {
                    let _ = write!(line, ", {state}");
                }
                if *muted {
                    line.push_str(", muted");
                }
                if let Some(by) = request {
                    let _ = write!(line, ", {by} invites you");
                }
                let _ = write!(line, "  {id}");
                line
            }
            Self::Member {
                user,
                device_id,
                fingerprint,
                me,
                verification,
                ..
            } => {
                let me = if *me { "  (you)" } else { "" };
                let verified = match *verification {
                    "verified" => "  verified",
                    "changed" => "  WARNING: not what you have verified",
                    _ => "",
                };
                format!("{user}  device {device_id}  key {fingerprint}{me}{verified}")
            }
            Self::SafetyNumber {
                user,
                number,
                verification,
                devices,
                drawn,
                ..
            } => {
                let mut line = format!("you and {user} see the same number if nobody is between you:\n\n");
                let groups: Vec<&str> = number.split(' ').collect();
                for groups in groups.chunks(GROUPS_PER_LINE) {
                    let _ = writeln!(line, "    {}", groups.join(" "));
                }
                if let Some(drawn) = drawn {
                    let _ = write!(line, "\n{drawn}\n");
                }
                for device in devices {
                    let SafetyDevice {
                        device_id,
                        fingerprint,
                        new,
                    } = device;
                    let new = if *new { "  NEW" } else { "" };
                    let _ = write!(line, "\ndevice {device_id}  key {fingerprint}{new}");
                }
                let _ = write!(line, "\n{}", verified(user, verification));
                line
            }
            Self::Verified { user, verification } => verified(user, verification),
            Self::Invited {
                group,
                added,
                by_last_resort,
                not_added,
            } => {
                let group = label(group);
                let mut parts = Vec::new();
                let (last, ordinary): (Vec<&str>, Vec<&str>) = added
                    .iter()
                    .map(String::as_str)
                    .partition(|user| by_last_resort.iter().any(|other| other == user));
                if !ordinary.is_empty() {
                    parts.push(format!("{} joined #{group}", ordinary.join(", ")));
                }
                parts.extend(last.iter().map(|user| {
                    format!("{user} joined #{group} (by a last-resort KeyPackage: no other was left for you)")
                }));
                parts.extend(
                    not_added
                        .iter()
                        .map(|NotAdded { user, reason, .. }| format!("{user}: {}", plain(reason))),
                );
                parts.join("; ")
            }
            Self::Renamed { group_name, .. } => format!("the group is called #{} now", label(group_name)),
            Self::Muted { group_name, .. } => format!("#{} is muted", label(group_name)),
            Self::Unmuted { group_name, .. } => format!("#{} is not muted", label(group_name)),
            Self::Blocked { user, declined } => {
                let mut line = format!("{user} is blocked: to them you do not exist");
                match declined.len() {
                    0 => {}
                    1 => line.push_str("; their invitation is declined"),
                    many => {
                        let _ = write!(line, "; their {many} invitations are declined");
                    }
                }
                line
            }
            Self::Invitation {
                group,
                group_name,
                text,
                ..
            } => {
                let how = handle(group_name.as_deref(), group);
                format!(
                    "#{} * {}; larder accept {how}, or larder decline {how}",
                    group_label(group_name.as_deref(), group),
                    plain(text)
                )
            }
            Self::Accepted { group_name, .. } => format!("you are in #{}", label(group_name)),
            Self::Declined { group_name, .. } => {
                format!("the invitation to #{} is declined", label(group_name))
            }
            Self::Unblocked { user } => format!("{user} is not blocked"),
            Self::Removed { group, user } => format!("{user} was removed from #{}", label(group)),
            Self::Left { group } => format!("you are leaving #{}", label(group)),
            Self::Sent { offline: true, .. } => "pending: the message is kept and will be sent".to_owned(),
            Self::Sent { status, .. } if *status == "pending" => {
                "pending: the server cannot be reached; the message is kept and will be sent".to_owned()
            }
            Self::Sent { status, .. } => (*status).to_owned(),
            Self::Saved { file, .. } => format!("saved {}", plain(file)),
            Self::Retried { messages: 0, .. } => "no message has failed".to_owned(),
            Self::Retried { messages, status, .. } => {
                let noun = if *messages == 1 { "message" } else { "messages" };
                format!("{messages} {noun} {status}")
            }
            Self::Message {
                row,
                group,
                group_name,
                sender,
                kind,
                text,
                sent_at,
                status,
                shown,
                ..
            } => {
                let text = plain(text);
                let label = group
                    .as_deref()
                    .map(|group| group_label(group_name.as_deref(), group));
                let line = match (label, sender) {
                    (Some(group), Some(sender)) if *kind == "text" => format!("#{group} <{sender}> {text}"),
                    (Some(group), Some(sender)) if *kind == "attachment" => {
                        format!("#{group} <{sender}> (file) {text}: larder save {row}")
                    }
                    (Some(group), _) => format!("#{group} * {text}"),
                    (None, _) => format!("* {text}"),
                };
                match shown {
                    Shown::Now => line,
                    Shown::Later => {
                        let unsent = match *status {
                            "sent" => String::new(),
                            status => format!("  ({status})"),
                        };
                        format!("{row}  {}  {line}{unsent}", date(UnixSeconds(*sent_at)))
                    }
                }
            }
            Self::Pool(pool) => pool.line(),
            Self::Refreshed {
                minted,
                uploaded,
                revoked,
                last_resort_replaced,
                pools,
            } => {
                let replaced = match last_resort_replaced {
                    true => ", replaced the last resort",
                    false => "",
                };
                let mut line = format!("minted {minted}, uploaded {uploaded}, revoked {revoked}{replaced}");
                for pool in pools {
                    let _ = write!(line, "; {}", pool.line());
                }
                line
            }
            Self::Probed {
                suite,
                addable,
                reason,
                ..
            } => {
                let can = if *addable { "can" } else { "cannot" };
                match suite {
                    Some(suite) => format!("{suite}: this device {can} be added: {reason}"),
                    None => format!("this device {can} be added: {reason}"),
                }
            }
            Self::AuditRow {
                time,
                key_package,
                transition,
                actor,
                group,
                group_name,
                ..
            } => {
                let mut line = format!("{}  {transition}", date(UnixSeconds(*time)));
                let actor = actor.as_deref().map_or("the server".into(), plain);
                let _ = write!(line, " by {actor}");
                if let Some(group) = group {
                    let _ = write!(line, " for #{}", group_label(group_name.as_deref(), group));
                }
                let _ = write!(line, "  {key_package}");
                line
            }
            Self::Audited {
                rows,
                reason,
                restored,
                ..
            } => {
                let mut line = match reason {
                    None => format!("the audit holds: {rows} rows"),
                    Some(reason) => format!("the audit does not hold: {reason}"),
                };
                if *restored {
                    line.push_str("; the server was restored from a backup and has forgotten rows");
                }
                line
            }
            Self::Finding {
                code,
                subject,
                detail,
            } => format!("{code}: {}: {}", plain(subject), plain(detail)),
            Self::Checked {
                devices,
                key_packages,
                groups,
                findings,
            } => {
                let found = match findings {
                    0 => "nothing is wrong".to_owned(),
                    1 => "1 thing is wrong".to_owned(),
                    many => format!("{many} things are wrong"),
                };
                format!("{found}; checked {devices} devices, {key_packages} KeyPackages, {groups} groups")
            }
            Self::Exported { file, user } => {
                format!(
                    "exported {user} to {}: whoever can open it can read all and be {user}",
                    plain(file)
                )
            }
            Self::Imported {
                user,
                server,
                profile,
                encrypted,
                ..
            } => format!(
                "imported {user} at {} (profile {profile}). It takes the place of the one that the backup was made from, which \
                 must not be used any more\nnext: larder recv  # rejoins the groups, and fetches what has come since{}",
                plain(server),
                warning(*encrypted)
            ),
            Self::BackedUp { file } => format!("backed up to {}", plain(file)),
            Self::InviteCode { code, expires_at, .. } => {
                format!("{}  until {}", code.reveal(), date(UnixSeconds(*expires_at)))
            }
            Self::OutstandingInviteCode {
                id,
                created_at,
                expires_at,
            } => format!(
                "invitation {id}  made {}  until {}",
                date(UnixSeconds(*created_at)),
                date(UnixSeconds(*expires_at))
            ),
            Self::InviteCodeWithdrawn { id } => format!("invitation {id} was withdrawn"),
            Self::Restored { devices, revoked, .. } => {
                format!("withdrew {revoked} KeyPackages of {devices} devices; the store can be served")
            }
            Self::Frames {
                at,
                frames,
                median_us,
                p99_us,
                longest_us,
            } => format!(
                "a key at the {at} messages: {median_us} µs at the median, {p99_us} µs at the 99th percentile, {longest_us} µs \
                 at most, of {frames} frames"
            ),
            Self::Quarantined {
                explanation,
                attempts,
                first_at,
                last_at,
                ..
            } => {
                let mut line = format!(
                    "* an invitation failed on {}: {explanation}",
                    date(UnixSeconds(*first_at))
                );
                if *attempts > 1 {
                    let _ = write!(
                        line,
                        " ({attempts} times, last on {})",
                        date(UnixSeconds(*last_at))
                    );
                }
                line
            }
            Self::LegacyMigration(migration) => migration.line(),
            Self::Document { text, .. } => text.trim_end_matches('\n').to_owned(),
            Self::Written { file } => plain(file).into_owned(),
            Self::ConfigPath { path, .. } => plain(path).into_owned(),
            Self::Note { text } => text.clone(),
        }
    }
}

impl Pool {
    fn line(&self) -> String {
        let mut line = match &self.suite {
            Some(suite) => format!("pool {suite} "),
            None => "pool ".to_owned(),
        };
        let _ = match self.stocked {
            true => write!(
                line,
                "{}: {} of {} available",
                self.level, self.available, self.target
            ),
            false => write!(line, "is not kept full any more: {} available", self.available),
        };
        for (count, what) in [
            (self.reserved, "reserved"),
            (self.spent, "spent"),
            (self.lapsed, "lapsed"),
            (self.expired, "expired"),
            (self.expiring_soon, "expiring soon"),
            (self.unconfirmed, "not uploaded yet"),
        ] {
            if count > 0 {
                let _ = write!(line, ", {count} {what}");
            }
        }
        let _ = write!(line, "; last resort {}", self.last_resort);
        if self.quarantined > 0 {
            let invitations = if self.quarantined == 1 {
                "invitation"
            } else {
                "invitations"
            };
            let _ = write!(line, "; {} failed {invitations}", self.quarantined);
        }
        if let Some(at) = self.last_upload {
            let _ = write!(line, "; last upload {}", date(UnixSeconds(at)));
        }
        line.push_str(match self.next_action {
            NextAction::None => "",
            NextAction::Refresh => "; next: larder pool refresh",
            NextAction::Wait => "; next: wait, what was handed out has to end first",
        });
        line
    }
}

fn next_action<S: Serializer>(next_action: &NextAction, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(next_action.as_str())
}

fn is_stocked(stocked: &bool) -> bool {
    *stocked
}

/// What [`first_and_all`] writes.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "the schema describes it")]
struct FirstAndAll {
    /// The pool of the ciphersuite that new groups have.
    #[schemars(skip_serializing_if = "Option::is_none")]
    pool: Option<Pool>,
    /// All of them, where there are several ciphersuites.
    #[schemars(skip_serializing_if = "Option::is_none")]
    pools: Option<Vec<Pool>>,
}

/// `pool` is the first, as it is where there is only one; `pools` are all, where there are several.
fn first_and_all<S: Serializer>(pools: &[Pool], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    if let Some(first) = pools.first() {
        map.serialize_entry("pool", first)?;
    }
    if pools.len() > 1 {
        map.serialize_entry("pools", pools)?;
    }
    map.end()
}

/// What is said of a new profile that is not encrypted.
fn warning(encrypted: bool) -> String {
    match encrypted {
        true => String::new(),
        false => format!("\nWARNING: {NOT_ENCRYPTED}"),
    }
}

/// A group's name, or the beginning of its id while the name is not known.
pub(crate) fn group_label(name: Option<&str>, id: &str) -> String {
    match name {
        Some(name) => label(name).into_owned(),
        None => id.chars().take(8).collect(),
    }
}

/// What a person can type for a group as it is shown: a name that a shell might read otherwise does not do.
fn handle<'a>(name: Option<&'a str>, id: &'a str) -> Cow<'a, str> {
    match name {
        Some(name) if !name.starts_with(['-', '.']) && label(name) == name => Cow::Borrowed(name),
        Some(_) | None => Cow::Owned(group_label(None, id)),
    }
}

/// Whether a user is verified, in a sentence.
fn verified(user: &str, verification: &str) -> String {
    match verification {
        "verified" => format!("{user} is verified"),
        "changed" => format!("WARNING: {user} has other keys than those that you have verified"),
        _ => format!("{user} is not verified"),
    }
}

fn people(count: u32) -> &'static str {
    if count == 1 { "member" } else { "members" }
}

#[cfg(test)]
mod tests;
