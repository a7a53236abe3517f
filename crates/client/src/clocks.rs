//! This computer's clock beside the server's.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::UNIX_EPOCH;

use larder_lifecycle::{CLOCK_APART_SECONDS_MAX, CLOCK_APART_SECONDS_TOLD, UnixSeconds};

use crate::error::Error;
use crate::types::Clock;

/// This computer's clock and the server's, at one moment. `Display` says how far this computer's is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// What this computer's says.
    pub here: UnixSeconds,
    /// What the server's says.
    pub there: UnixSeconds,
}

impl Clocks {
    /// How far they are apart, in seconds.
    pub fn apart_seconds(&self) -> u64 {
        self.here.0.abs_diff(self.there.0)
    }

    /// Whether a person should hear of it: they are five minutes or more apart.
    pub fn are_worth_a_word(&self) -> bool {
        self.apart_seconds() >= CLOCK_APART_SECONDS_TOLD
    }

    /// Whether they are more than a day apart: nothing that depends on lifetimes is done then.
    pub fn are_too_far_apart(&self) -> bool {
        self.apart_seconds() > CLOCK_APART_SECONDS_MAX
    }
}

impl fmt::Display for Clocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HOUR: u64 = 60;
        const DAY: u64 = 24 * HOUR;
        let minutes = self.apart_seconds().saturating_add(30) / 60;
        let (hours, rest) = (minutes / HOUR, minutes % HOUR);
        f.write_str("this computer's clock is ")?;
        match minutes {
            minutes if minutes >= 2 * DAY => write!(f, "{} d", minutes / DAY)?,
            minutes if minutes < HOUR => write!(f, "{minutes} min")?,
            _ if rest == 0 => write!(f, "{hours} h")?,
            _ => write!(f, "{hours} h {rest} min")?,
        }
        f.write_str(match self.here > self.there {
            true => " fast",
            false => " slow",
        })
    }
}

/// No answer has told the server's time.
const UNKNOWN: i64 = i64::MIN;

/// Tells this computer's time, and the server's as its answers tell it.
pub(crate) struct ServerClock {
    local: Clock,
    /// The server's time less ours, in seconds.
    offset_seconds: AtomicI64,
}

impl ServerClock {
    /// `offset_seconds` is what was measured the last time, if it ever was.
    pub(crate) fn new(local: Clock, offset_seconds: Option<i64>) -> Self {
        Self {
            local,
            offset_seconds: AtomicI64::new(offset_seconds.unwrap_or(UNKNOWN)),
        }
    }

    /// Takes note of the `Date` of an answer (RFC 9110 §6.6.1). One that cannot be read tells nothing.
    pub(crate) fn heed(&self, date: Option<&str>) {
        let there = date
            .and_then(|date| httpdate::parse_http_date(date).ok())
            .and_then(|date| date.duration_since(UNIX_EPOCH).ok());
        if let Some(there) = there {
            let offset = there.as_secs().wrapping_sub((self.local)().0).cast_signed();
            self.offset_seconds.store(offset, Ordering::Relaxed);
        }
    }

    /// The server's time less ours, in seconds, once it is known.
    pub(crate) fn offset_seconds(&self) -> Option<i64> {
        let offset = self.offset_seconds.load(Ordering::Relaxed);
        (offset != UNKNOWN).then_some(offset)
    }

    /// This computer's time.
    pub(crate) fn here(&self) -> UnixSeconds {
        (self.local)()
    }

    /// Both clocks. Before the server has told its time they are the same.
    pub(crate) fn clocks(&self) -> Clocks {
        let here = self.here();
        let offset = self.offset_seconds().unwrap_or(0);
        Clocks {
            here,
            there: UnixSeconds(here.0.saturating_add_signed(offset)),
        }
    }

    /// Fails when the clocks are too far apart to mint, to add or to erase by age.
    pub(crate) fn require_close(&self) -> Result<(), Error> {
        let clocks = self.clocks();
        match clocks.are_too_far_apart() {
            true => Err(Error::ClocksApart(clocks)),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const HERE: UnixSeconds = UnixSeconds(1_800_000_000);

    fn clocks(there: i64) -> Clocks {
        Clocks {
            here: HERE,
            there: UnixSeconds(HERE.0.saturating_add_signed(there)),
        }
    }

    #[test]
    fn a_clock_that_is_off_is_told_in_words() {
        for (there, words) in [
            (-7199, "2 h fast"),
            (70 * 60, "1 h 10 min slow"),
            (-12 * 60, "12 min fast"),
            (30 * 3600, "30 h slow"),
            (-35 * 86_400, "35 d fast"),
        ] {
            let told = format!("this computer's clock is {words}");
            assert_eq!(clocks(there).to_string(), told);
        }
    }

    #[test]
    fn five_minutes_are_worth_a_word_and_a_day_is_the_most() {
        assert!(!clocks(299).are_worth_a_word() && clocks(-300).are_worth_a_word());
        assert!(!clocks(86_400).are_too_far_apart() && clocks(-86_401).are_too_far_apart());
    }

    #[test]
    fn the_date_of_an_answer_tells_the_time_and_garbage_tells_nothing() {
        let clock = ServerClock::new(Arc::new(|| UnixSeconds(784_111_777)), None);
        assert_eq!(clock.offset_seconds(), None);
        clock.heed(Some("Sun, 06 Nov 1994 08:59:37 GMT"));
        assert_eq!(clock.offset_seconds(), Some(600));
        for garbage in [
            None,
            Some(""),
            Some("yesterday"),
            Some("Thu, 01 Jan 1925 00:00:00 GMT"),
        ] {
            clock.heed(garbage);
            assert_eq!(clock.offset_seconds(), Some(600), "{garbage:?}");
        }
        clock.heed(Some("Sun, 06 Nov 1994 08:47:37 GMT"));
        assert_eq!(clock.clocks().there, UnixSeconds(784_111_657));
    }
}
