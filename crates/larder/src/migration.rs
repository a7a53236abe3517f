//! What is told of the migration of an older pool.

use std::fmt::Write;

use larder_client::LegacyReport;
use schemars::JsonSchema;
use serde::Serialize;

use crate::text::plain;

/// What a migration did, or would do.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Migration {
    applied: bool,
    rows: u32,
    present: u32,
    created: u32,
    available: u32,
    reserved: u32,
    spent: u32,
    expired: u32,
    in_flight: u32,
    left: Vec<Left>,
    with_redundant_columns: u32,
    unknown_columns: Vec<String>,
    erased: bool,
}

/// A row that is not taken over.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct Left {
    key_package: String,
    code: &'static str,
    reason: String,
}

impl Migration {
    pub(crate) fn new(report: LegacyReport, applied: bool) -> Self {
        let LegacyReport {
            rows,
            present,
            created,
            available,
            reserved,
            spent,
            expired,
            in_flight,
            left,
            with_redundant_columns,
            unknown_columns,
            erased,
        } = report;
        Self {
            applied,
            rows,
            present,
            created,
            available,
            reserved,
            spent,
            expired,
            in_flight,
            left: left
                .into_iter()
                .map(|left| Left {
                    key_package: left.key_package_ref,
                    code: left.reason.code(),
                    reason: left.reason.to_string(),
                })
                .collect(),
            with_redundant_columns,
            unknown_columns,
            erased,
        }
    }

    /// The lines for people.
    pub(crate) fn line(&self) -> String {
        let mut line = format!("{} rows: ", self.rows);
        let counts = [
            (self.created, "created"),
            (self.available, "available"),
            (self.reserved, "reserved"),
            (self.spent, "spent"),
            (self.expired, "expired"),
        ];
        let counts: Vec<String> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, state)| format!("{count} {state}"))
            .collect();
        let (taken, private_keys) = match self.applied {
            true => ("taken over", "private keys erased from"),
            false => ("to take over", "private keys to erase from"),
        };
        let counts = if counts.is_empty() {
            "none".to_owned()
        } else {
            counts.join(", ")
        };
        // Writing to a String cannot fail, here and below.
        let _ = write!(line, "{counts} {taken}");
        if self.present > 0 {
            let _ = write!(line, ", {} here already", self.present);
        }
        if !self.left.is_empty() {
            let _ = write!(line, ", {} left", self.left.len());
        }
        let _ = write!(line, "; {private_keys} {} rows", self.with_redundant_columns);
        if self.applied && self.erased {
            line.push_str(", and none of them is in the file any more");
        }
        if self.in_flight > 0 {
            let _ = write!(
                line,
                "\n{} were spent or expired and can still be joined with: kept as reserved",
                self.in_flight
            );
        }
        for Left {
            key_package, reason, ..
        } in &self.left
        {
            let _ = write!(line, "\nleft: {key_package}  {}", plain(reason));
        }
        for column in &self.unknown_columns {
            let _ = write!(line, "\nunknown column, not touched: {}", plain(column));
        }
        if !self.applied {
            line.push_str("\nnothing was changed; --apply does it");
        }
        line
    }
}
