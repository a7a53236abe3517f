//! Whether a clock can be believed, so that a step of it ends nothing that was kept for a time.

use std::fmt;

use crate::policy::DAY;
use crate::time::UnixSeconds;

/// A clock that differs by more than this from what has passed was set to another time, in seconds: one hour.
pub const CLOCK_STEP_SECONDS_MAX: u64 = 60 * 60;
/// At start, a clock that is so far ahead of the last sweep, or farther, is not believed, in seconds: 40 days. A server was
/// hardly off for so long.
pub const CLOCK_AWAY_SECONDS: u64 = 40 * DAY;
/// A step up to this is accepted without an operator, in seconds: 3 days.
pub const CLOCK_STEP_ACCEPTED_SECONDS_MAX: u64 = 3 * DAY;
/// The clock has to go on without another step for so long until then, in seconds: one day. Steps within as long count
/// together.
pub const CLOCK_STEADY_SECONDS: u64 = DAY;

/// What the clocks of a machine say at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// The time, as the machine has it. Anybody may set it to another.
    pub wall: UnixSeconds,
    /// Seconds since some moment, the same for the life of a process, which nobody can set. The time that a machine sleeps
    /// counts.
    pub since_boot: u64,
}

impl ClockReading {
    /// A clock that nobody sets.
    pub const fn steady(wall: UnixSeconds) -> Self {
        Self {
            wall,
            since_boot: wall.0,
        }
    }

    /// What the time is at `self`, if it was `wall` at `earlier` and nobody has set it since.
    const fn counted_from(self, earlier: Self) -> UnixSeconds {
        earlier
            .wall
            .plus(self.since_boot.saturating_sub(earlier.since_boot))
    }
}

/// Why a clock is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClockDoubt {
    /// It was set to another time while the server ran.
    Stepped,
    /// At start it was earlier than the last sweep, or much later.
    SinceLastSweep,
    /// Another node sweeps at another time, or the operator has accepted another.
    Disagrees,
}

impl ClockDoubt {
    /// The reason, for a person.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Stepped => "it was set to another time",
            Self::SinceLastSweep => "it does not fit the last sweep",
            Self::Disagrees => "another server on the store, or who accepted a clock, has another time",
        }
    }
}

/// How far a clock is from where it should be, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClockError {
    /// It is later.
    Ahead(u64),
    /// It is earlier.
    Behind(u64),
}

impl ClockError {
    fn of(wall: UnixSeconds, expected: UnixSeconds) -> Self {
        if wall >= expected {
            Self::Ahead(wall.since(expected))
        } else {
            Self::Behind(expected.since(wall))
        }
    }

    /// How far, whichever way.
    pub const fn seconds(self) -> u64 {
        match self {
            Self::Ahead(seconds) | Self::Behind(seconds) => seconds,
        }
    }
}

impl fmt::Display for ClockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.seconds();
        let (minutes, hours, days) = (seconds / 60, seconds / (60 * 60), seconds / DAY);
        match (days, hours) {
            (0, 0) => write!(f, "{minutes} min")?,
            (0, hours) => write!(f, "{hours} h {} min", minutes % 60)?,
            (days, hours) => write!(f, "{days} d {} h", hours % 24)?,
        }
        f.write_str(match self {
            Self::Ahead(_) => " ahead",
            Self::Behind(_) => " behind",
        })
    }
}

/// A clock that is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockSuspension {
    /// Why.
    pub doubt: ClockDoubt,
    /// Since when, by the time that goes on meanwhile.
    pub since: UnixSeconds,
    /// How far it is from that time.
    pub error: ClockError,
    /// The reading after its last step.
    stepped_to: ClockReading,
}

/// Tells a clock that goes on from one that was set to another time, and goes on itself meanwhile.
///
/// It is shown readings, in their order. As long as they are plausible, the time is the clock's. When the clock was set to
/// another, the time goes on from the last plausible reading as the seconds since boot do; the clock is *suspended* until it
/// is back where it should be, or somebody accepts it.
///
/// Where it should be is counted from a reading that is at most a day old: many small steps are as good as a large one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockGuard {
    /// The time is counted from here.
    trusted: ClockReading,
    /// How far the clock may be ahead of that.
    ahead_max: u64,
    suspended: Option<ClockSuspension>,
}

impl ClockGuard {
    /// Starts with what the clock says now. `last_sweep` is the time that was last believed, if there ever was any.
    pub fn start(reading: ClockReading, last_sweep: Option<UnixSeconds>) -> Self {
        let Some(last_sweep) = last_sweep else {
            return Self {
                trusted: reading,
                ahead_max: CLOCK_STEP_SECONDS_MAX,
                suspended: None,
            };
        };
        let mut guard = Self {
            trusted: ClockReading {
                wall: last_sweep,
                since_boot: reading.since_boot,
            },
            ahead_max: CLOCK_AWAY_SECONDS - 1,
            suspended: None,
        };
        guard.judge(reading, ClockDoubt::SinceLastSweep);
        guard
    }

    /// Takes note of a reading and returns the time to go by: the clock's while it is plausible, else what has passed since
    /// it was.
    pub fn observe(&mut self, reading: ClockReading) -> UnixSeconds {
        self.judge(reading, ClockDoubt::Stepped);
        match self.suspended {
            None => reading.wall,
            Some(_) => reading.counted_from(self.trusted),
        }
    }

    /// Why the clock is not believed, as of the last reading; `None` while it is.
    pub fn suspension(&self) -> Option<ClockSuspension> {
        self.suspended
    }

    /// The time is what somebody else says: an operator who accepted a clock, or a node that sweeps. The own clock is
    /// believed again if it says the same, and else no more.
    pub fn correct(&mut self, told: UnixSeconds, reading: ClockReading) {
        self.trusted = ClockReading {
            wall: told,
            since_boot: reading.since_boot,
        };
        self.ahead_max = CLOCK_STEP_SECONDS_MAX;
        self.suspended = None;
        self.judge(reading, ClockDoubt::Disagrees);
    }

    fn judge(&mut self, reading: ClockReading, doubt: ClockDoubt) {
        let expected = reading.counted_from(self.trusted);
        let error = ClockError::of(reading.wall, expected);
        let plausible = match error {
            ClockError::Ahead(seconds) => seconds <= self.ahead_max,
            ClockError::Behind(seconds) => seconds <= CLOCK_STEP_SECONDS_MAX,
        };
        if plausible {
            let counted_for = reading.since_boot.saturating_sub(self.trusted.since_boot);
            if counted_for >= CLOCK_STEADY_SECONDS || self.ahead_max != CLOCK_STEP_SECONDS_MAX {
                self.believe(reading);
            }
            self.suspended = None;
            return;
        }
        let Some(suspended) = &mut self.suspended else {
            self.suspended = Some(ClockSuspension {
                doubt,
                since: expected,
                error,
                stepped_to: reading,
            });
            return;
        };
        suspended.error = error;
        let went_on = ClockError::of(reading.wall, reading.counted_from(suspended.stepped_to));
        if went_on.seconds() > CLOCK_STEP_SECONDS_MAX {
            suspended.stepped_to = reading;
        }
        let steady_for = reading.since_boot.saturating_sub(suspended.stepped_to.since_boot);
        if error.seconds() <= CLOCK_STEP_ACCEPTED_SECONDS_MAX && steady_for >= CLOCK_STEADY_SECONDS {
            self.believe(reading);
        }
    }

    fn believe(&mut self, reading: ClockReading) {
        self.trusted = reading;
        self.ahead_max = CLOCK_STEP_SECONDS_MAX;
        self.suspended = None;
    }
}

#[cfg(test)]
mod tests;
