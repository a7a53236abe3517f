//! The one place that reads a clock. Everything else is handed the time.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use larder_lifecycle::{ClockReading, UnixSeconds};

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

/// The system clock, for the client and for an operator.
pub(crate) fn system() -> Arc<dyn Fn() -> UnixSeconds + Send + Sync> {
    Arc::new(|| UnixSeconds(now().as_secs()))
}

/// The system clock, and beside it the one that nobody can set, for the server.
pub(crate) fn of_the_machine() -> larder_server::Clock {
    let started = Instant::now();
    Arc::new(move || ClockReading {
        wall: UnixSeconds(now().as_secs()),
        since_boot: since_boot().unwrap_or_else(|| started.elapsed().as_secs()),
    })
}

/// Seconds since the machine was booted, also while it slept.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn since_boot() -> Option<u64> {
    use nix::time::{ClockId, clock_gettime};
    let passed = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?;
    u64::try_from(passed.tv_sec()).ok()
}

/// This one goes on while the machine sleeps, elsewhere than on Linux.
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
fn since_boot() -> Option<u64> {
    use nix::time::{ClockId, clock_gettime};
    let passed = clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?;
    u64::try_from(passed.tv_sec()).ok()
}

#[cfg(not(unix))]
fn since_boot() -> Option<u64> {
    None
}
