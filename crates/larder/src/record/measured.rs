//! What was measured of a server, as it is printed.

use schemars::JsonSchema;
use serde::Serialize;

/// What some work of a server costs, beside a limit of the same run.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Measured {
    /// `message`: sending one. `commit`: one that adds a device. `fan_out`: messages on their way to connected devices.
    /// `idle`, `connected`, `group_info`: memory of a server that was just started, for each connected device, and for
    /// parallel reads of a group's public state. `reserve`, `reserve_p99`: of one KeyPackage; `reserve_hot`: all of one device. `read`: of one's own pool in numbers.
    /// `upload`: of 32 KeyPackages. `session`: a challenge and the answer to it.
    pub(crate) work: &'static str,
    /// Receivers of the message, members of the group, or connected devices; `null` for whatever has none.
    pub(crate) devices: Option<usize>,
    /// Requests under way at once, where that is what matters.
    pub(crate) connections: Option<usize>,
    /// KeyPackages in the directory, where they matter.
    pub(crate) stored: Option<u64>,
    /// The engine of the server's store: `sqlite` or `postgresql`.
    pub(crate) engine: &'static str,
    /// `ms`, `rows/s`, `requests/s` or `KiB`.
    pub(crate) unit: &'static str,
    /// What Larder needs, or how fast it is. Of times and rates the median.
    pub(crate) larder: f64,
    /// What it is held against.
    pub(crate) limit: f64,
    /// `larder` divided by `limit`.
    pub(crate) ratio: f64,
    /// Where the limit comes from.
    pub(crate) limit_of: &'static str,
    /// How often it was measured.
    pub(crate) samples: usize,
}

impl Measured {
    /// The line over the table.
    pub(crate) fn heading() -> String {
        columns(["", "Larder", "limit", "ratio", "limit: what it is"])
    }

    pub(super) fn line(&self) -> String {
        let devices = self.devices.unwrap_or_default();
        let (connections, stored) = (
            self.connections.unwrap_or_default(),
            self.stored.unwrap_or_default(),
        );
        let what = match self.work {
            "reserve" => format!("reserve 1 of {stored}, {connections} at once"),
            "reserve_hot" => format!("reserve 1 of one device, {connections} at once"),
            "reserve_p99" => format!("reserve 1 of {stored}, {connections} at once, p99"),
            "read" => format!("read the pool in numbers, {connections} at once"),
            "upload" => format!("upload 32 to {stored}, {connections} at once"),
            "session" => format!("open a session, {connections} at once"),
            "message" => format!("message to {devices} devices"),
            "commit" => format!("Commit adding one to {devices} members"),
            "fan_out" => format!("fan-out to {devices} connected devices"),
            "connected" => format!("memory for each of {devices} connected devices"),
            "group_info" => format!("memory for {} reads at once, {devices} members", self.samples),
            _ => "memory of an idle server".to_owned(),
        };
        let value = |number: f64| match self.unit {
            "rows/s" | "requests/s" => format!("{number:.0}/s"),
            unit if number < 100.0 => format!("{number:.2} {unit}"),
            unit => format!("{number:.0} {unit}"),
        };
        columns([
            &what,
            &value(self.larder),
            &value(self.limit),
            &format!("{:.2}", self.ratio),
            self.limit_of,
        ])
    }
}

fn columns([what, larder, limit, ratio, limit_of]: [&str; 5]) -> String {
    format!("{what:<46} {larder:>12} {limit:>12} {ratio:>6}  {limit_of}")
}
