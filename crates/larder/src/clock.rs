//! The one place that reads a clock. Everything else is handed the time.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use larder_lifecycle::UnixSeconds;

/// The time since 1970. A clock before 1970 reads as 1970: nothing here is safer for failing.
#[allow(
    clippy::disallowed_methods,
    reason = "the binary is where real time enters; the libraries take it as an argument"
)]
fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
}

/// A point in time for a person: date and minute, in the zone of this machine.
pub(crate) fn date(at: UnixSeconds) -> String {
    i64::try_from(at.0)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or_else(
            || at.to_string(),
            |at| {
                let local = at.to_zoned_datetime(jiff::tz::TimeZone::system());
                local.strftime("%Y-%m-%d %H:%M").to_string()
            },
        )
}

/// The system clock, for the server and for the client.
pub(crate) fn system() -> Arc<dyn Fn() -> UnixSeconds + Send + Sync> {
    Arc::new(|| UnixSeconds(now().as_secs()))
}
