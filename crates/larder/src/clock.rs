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
    local(at).map_or_else(|| at.to_string(), |at| at.strftime("%Y-%m-%d %H:%M").to_string())
}

/// A point in time as the line of a message has it: the day, as it is written over the first message of one, and the minute.
pub(crate) fn day_and_minute(at: UnixSeconds) -> (String, String) {
    local(at).map_or_else(
        || (at.to_string(), "--:--".to_owned()),
        |at| {
            (
                at.strftime("%A, %-d %B %Y").to_string(),
                at.strftime("%H:%M").to_string(),
            )
        },
    )
}

/// The point in time in the zone of this machine, if there is such a one.
fn local(at: UnixSeconds) -> Option<jiff::ZonedDateTime> {
    let seconds = i64::try_from(at.0).ok()?;
    let at = jiff::Timestamp::from_second(seconds).ok()?;
    Some(at.to_zoned_datetime(jiff::tz::TimeZone::system()))
}

/// The system clock, for the server and for the client.
pub(crate) fn system() -> Arc<dyn Fn() -> UnixSeconds + Send + Sync> {
    Arc::new(|| UnixSeconds(now().as_secs()))
}
