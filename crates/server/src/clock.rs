//! The time that the server goes by, and whether anything may end by it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use larder_lifecycle::{CLOCK_STEP_SECONDS_MAX, ClockGuard, ClockReading, ClockSuspension, UnixSeconds};
use uuid::Uuid;

use crate::config::Clock;
use crate::metrics;
use crate::store::ClockRow;

/// While the clock is not believed, the log says so this often, in seconds: once an hour.
const TOLD_AGAIN_SECONDS: u64 = 60 * 60;
/// A node that sweeps was heard of again within this time, in seconds: twice as long as between two sweeps.
const OTHERS_SWEEP_SECONDS: u64 = 60;

/// The clock, and a guard that is shown each of its readings.
pub(crate) struct Watch {
    clock: Clock,
    /// Names this process among those that sweep the store.
    node: String,
    watched: Mutex<Watched>,
}

struct Watched {
    guard: ClockGuard,
    /// How often an operator had accepted a clock when the store was last looked at, and what the clock said.
    acceptances: u64,
    accepted_at: Option<UnixSeconds>,
    /// Since boot, when the log said that the clock is not believed.
    told_at: u64,
    /// The last row that the guard was held against.
    seen: ClockRow,
    /// The sweep of another node that was long ago by this one's clock, and since when this one waits for the next.
    stale: Option<(ClockRow, u64)>,
}

impl Watch {
    /// Starts with what the store knows of the time.
    pub(crate) fn start(clock: Clock, row: &ClockRow) -> Self {
        let reading = clock();
        let watch = Self {
            clock,
            node: Uuid::new_v4().to_string(),
            watched: Mutex::new(Watched {
                guard: ClockGuard::start(reading, row.last_sweep),
                acceptances: row.acceptances,
                accepted_at: row.accepted_at,
                told_at: reading.since_boot,
                seen: row.clone(),
                stale: None,
            }),
        };
        tell(None, watch.suspension());
        watch
    }

    /// The time: the clock's, or while that is not believed what has passed since it was.
    pub(crate) fn now(&self) -> UnixSeconds {
        let mut watched = self.lock();
        watched.observe((self.clock)())
    }

    /// What was kept for `seconds`, and no longer, by now: what ended before or at this time. Nothing ends while the clock is not
    /// believed, or for as long as it is kept after the operator has accepted one.
    pub(crate) fn ended_by(&self, seconds: u64) -> UnixSeconds {
        let mut watched = self.lock();
        let now = watched.observe((self.clock)());
        if let Some(suspension) = watched.guard.suspension() {
            return suspension.since;
        }
        ClockRow::ended_by(watched.accepted_at, now, seconds)
    }

    /// Why the clock is not believed; `None` while it is.
    pub(crate) fn suspension(&self) -> Option<ClockSuspension> {
        let mut watched = self.lock();
        watched.observe((self.clock)());
        watched.guard.suspension()
    }

    /// Names this process among those that sweep the store.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// The time to sweep by; `None` while nothing may be. `row` is what the store knows; `shared` whether other nodes may use
    /// it.
    pub(crate) fn time_to_sweep(&self, row: &ClockRow, shared: bool) -> Option<UnixSeconds> {
        let mut watched = self.lock();
        let reading = (self.clock)();
        let now = watched.observe(reading);
        let before = watched.guard.suspension();
        let waits = watched.compare(row, (now, reading), shared && self.node_of(row));
        let suspension = watched.guard.suspension();
        tell(before, suspension);
        if before.is_none() && suspension.is_some() {
            watched.told_at = reading.since_boot;
        }
        metrics::clock_suspended(suspension.is_some());
        let Some(suspension) = suspension else {
            return (!waits).then(|| watched.observe(reading));
        };
        if reading.since_boot.saturating_sub(watched.told_at) >= TOLD_AGAIN_SECONDS {
            watched.told_at = reading.since_boot;
            warn(&suspension);
        }
        None
    }

    /// Whether another node swept last.
    fn node_of(&self, row: &ClockRow) -> bool {
        row.swept_by.as_ref().is_some_and(|node| *node != self.node)
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    /// Shows the guard a reading, and says in the log what has changed.
    fn observe(&mut self, reading: ClockReading) -> UnixSeconds {
        let before = self.guard.suspension();
        let now = self.guard.observe(reading);
        let after = self.guard.suspension();
        if before.is_none() && after.is_some() {
            self.told_at = reading.since_boot;
        }
        tell(before, after);
        now
    }

    /// Takes note of what others say of the time. `true` while it is not known yet whether one of them sweeps at another.
    fn compare(
        &mut self,
        row: &ClockRow,
        (now, reading): (UnixSeconds, ClockReading),
        by_other: bool,
    ) -> bool {
        if row.acceptances != self.acceptances {
            self.acceptances = row.acceptances;
            self.accepted_at = row.accepted_at;
            if let Some(accepted_at) = row.accepted_at {
                self.hold_against(row, accepted_at, reading);
            }
            return false;
        }
        let Some(last_sweep) = row.last_sweep.filter(|_| self.guard.suspension().is_none()) else {
            return false;
        };
        if last_sweep.since(now) > CLOCK_STEP_SECONDS_MAX {
            // What was known when a step back was accepted says nothing new.
            if by_other && self.seen != *row {
                self.hold_against(row, last_sweep, reading);
            }
            return false;
        }
        if !by_other || now.since(last_sweep) <= CLOCK_STEP_SECONDS_MAX {
            self.stale = None;
            return false;
        }
        // It may have ended long ago, or go on with another time: the next sweep, or none, tells.
        match &self.stale {
            Some((seen, since)) if seen == row => {
                reading.since_boot.saturating_sub(*since) < OTHERS_SWEEP_SECONDS
            }
            Some(_) => {
                self.stale = None;
                self.hold_against(row, last_sweep, reading);
                false
            }
            None => {
                self.stale = Some((row.clone(), reading.since_boot));
                true
            }
        }
    }

    /// Has the guard go by what the row tells.
    fn hold_against(&mut self, row: &ClockRow, told: UnixSeconds, reading: ClockReading) {
        self.seen = row.clone();
        self.guard.correct(told, reading);
    }
}

/// Says what has changed.
fn tell(before: Option<ClockSuspension>, after: Option<ClockSuspension>) {
    match (before, after) {
        (None, Some(suspension)) => warn(&suspension),
        (Some(_), None) => {
            tracing::warn!("the clock is believed again: what is due is deleted and expires");
        }
        (None, None) | (Some(_), Some(_)) => return,
    }
    metrics::clock_suspended(after.is_some());
}

fn warn(suspension: &ClockSuspension) {
    tracing::warn!(
        clock = %suspension.error,
        since = suspension.since.0,
        "the clock is not believed ({}): nothing is deleted or expires by age until it is set right, or `larder admin \
         accept-clock` accepts it",
        suspension.doubt.reason(),
    );
}
