//! The pool of KeyPackages, as it is printed.

use std::fmt::Write;

use larder_client::{NextAction, UnixSeconds};
use schemars::JsonSchema;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::clock::date;

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
    /// The directory held these once and does not name them any more.
    pub(crate) lost: u32,
    /// The directory holds these, and they are valid only later.
    pub(crate) not_yet_valid: u32,
    pub(crate) expired: u32,
    pub(crate) expiring_soon: u32,
    pub(crate) unconfirmed: u32,
    pub(crate) last_upload: Option<u64>,
    /// `none`, `unused` or `used`.
    pub(crate) last_resort: &'static str,
    pub(crate) last_resort_created_at: Option<u64>,
    pub(crate) quarantined: u32,
    /// `none`, `refresh`, or `wait` when the hard cap leaves no room, or the server keeps losing them.
    #[serde(serialize_with = "next_action")]
    #[schemars(with = "&'static str")]
    pub(crate) next_action: NextAction,
}

impl Pool {
    pub(super) fn line(&self) -> String {
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
            (self.lost, "lost by the server"),
            (self.not_yet_valid, "not valid yet"),
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
            NextAction::Wait if self.lost > 0 => "; next: wait, what the server loses is replaced once a day",
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
pub(super) struct FirstAndAll {
    /// The pool of the ciphersuite that new groups have.
    #[schemars(skip_serializing_if = "Option::is_none")]
    pool: Option<Pool>,
    /// All of them, where there are several ciphersuites.
    #[schemars(skip_serializing_if = "Option::is_none")]
    pools: Option<Vec<Pool>>,
}

/// `pool` is the first, as it is where there is only one; `pools` are all, where there are several.
pub(super) fn first_and_all<S: Serializer>(pools: &[Pool], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    if let Some(first) = pools.first() {
        map.serialize_entry("pool", first)?;
    }
    if pools.len() > 1 {
        map.serialize_entry("pools", pools)?;
    }
    map.end()
}
