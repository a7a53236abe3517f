//! Each record as a line for people.

use std::borrow::Cow;
use std::fmt::Write;

use larder_client::UnixSeconds;

use super::{HeldFor, Listed, NotAdded, Record, Shown, compared};
use crate::clock::date;
use crate::passphrase::NOT_ENCRYPTED;
use crate::text::{label, plain};

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
                denied,
                held,
                request,
                listed,
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
                if *denied {
                    line.push_str(", not a member as the server says");
                }
                for HeldFor { user, difference } in held {
                    let _ = write!(line, ", {user} is {difference}");
                }
                if let Some(by) = request {
                    let invites = if *state == "left" { "invited" } else { "invites" };
                    let _ = write!(line, ", {by} {invites} you");
                }
                if let Some(Listed { users }) = listed {
                    let _ = match users.as_deref() {
                        None => write!(line, ", as the server says"),
                        Some([]) => write!(line, ", with nobody else as the server says"),
                        Some(users) => write!(line, ", with {} as the server says", users.join(", ")),
                    };
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
            Self::EpochCode { epoch, code, .. } => {
                format!("everybody in epoch {epoch} sees the code {code}, unless the group was split")
            }
            Self::SafetyNumber {
                user,
                number,
                verification,
                devices,
                other_identity,
                drawn,
                ..
            } => {
                let is_verified = compared::verified(user, verification);
                let shown = (number.as_str(), devices.as_slice(), drawn.as_deref());
                compared::safety_number(user, shown, &is_verified, *other_identity)
            }
            Self::NewIdentity {
                user,
                known,
                number,
                devices,
                drawn,
                ..
            } => {
                let shown = (number.as_str(), devices.as_slice(), drawn.as_deref());
                compared::new_identity(user, known.as_deref(), shown)
            }
            Self::Verified { user, verification } => compared::verified(user, verification),
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
            Self::Trusted { user, groups } => match groups {
                0 => format!("no group is held for {user}"),
                1 => format!("{user} is rightly in 1 group, or out of it"),
                groups => format!("{user} is rightly in {groups} groups, or out of them"),
            },
            Self::Muted { group_name, .. } => format!("#{} is muted", label(group_name)),
            Self::Unmuted { group_name, .. } => format!("#{} is not muted", label(group_name)),
            Self::Blocked { user, declined, told } => {
                let mut line = match told {
                    true => format!("{user} is blocked: they can no longer find or invite you"),
                    false => format!("{user} is blocked{}", untold(false)),
                };
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
            Self::Accepted {
                group_name,
                over: false,
                ..
            } => format!("you are in #{}", label(group_name)),
            Self::Accepted {
                group_name,
                over: true,
                ..
            } => format!(
                "#{} is over: you were removed before you answered; what was written there is kept",
                label(group_name)
            ),
            Self::Declined {
                group_name,
                kept,
                over,
                told,
                ..
            } => {
                let over = if *over {
                    "; you had been removed from the group already"
                } else {
                    ""
                };
                let kept = if *kept {
                    "; what you had of it before is kept"
                } else {
                    ""
                };
                let untold = untold(*told);
                format!(
                    "the invitation to #{} is declined{over}{kept}{untold}",
                    label(group_name)
                )
            }
            Self::Unblocked { user, told } => format!("{user} is not blocked{}", untold(*told)),
            Self::Removed { group, user } => format!("{user} was removed from #{}", label(group)),
            Self::Left { group, told } => format!("you have left #{}{}", label(group), untold(*told)),
            Self::Sent { offline: true, .. } => "pending: the message is kept and will be sent".to_owned(),
            Self::Sent {
                status,
                reason,
                stuck,
                ..
            } if *status == "pending" => match (reason, stuck) {
                (None, _) => "pending: the message is kept and will be sent".to_owned(),
                (Some(why), false) => {
                    format!("pending: {}; the message is kept and will be sent", plain(why))
                }
                (Some(why), true) => format!(
                    "pending: {}; the message is kept, and not sent as long as that is so",
                    plain(why)
                ),
            },
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
            Self::ClockOff { explanation, .. } => explanation.clone(),
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
                holds,
                reason,
                restored,
                ..
            } => {
                let mut line = match holds {
                    true => format!("the audit holds: {rows} rows"),
                    false => "the audit does not hold".to_owned(),
                };
                if let Some(reason) = reason {
                    let _ = write!(line, "{} {reason}", if *holds { ";" } else { ":" });
                }
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
            Self::ClockAccepted { time, last_sweep } => {
                let before = last_sweep.map_or_else(String::new, |time| {
                    format!(" (the store was last swept at {})", date(UnixSeconds(time)))
                });
                format!(
                    "the time is {}{before}; servers whose clocks agree delete and expire by it again within a minute",
                    date(UnixSeconds(*time))
                )
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
            Self::Measured(measured) => measured.line(),
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

/// What is said of a new profile that is not encrypted.
fn warning(encrypted: bool) -> String {
    match encrypted {
        true => String::new(),
        false => format!("\nWARNING: {NOT_ENCRYPTED}"),
    }
}

/// What is added where the server does not know yet that a group was left.
pub(crate) fn untold(told: bool) -> &'static str {
    match told {
        true => "",
        false => "; the server is told when it can be reached",
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

fn people(count: u32) -> &'static str {
    if count == 1 { "member" } else { "members" }
}
