use crate::clock::CLOCK_STEP_SECONDS_MAX;
use crate::policy::{DAY, POOL_TARGET, part};
use crate::time::UnixSeconds;

/// Requests of one user for KeyPackages of one device: six at once, then one in ten minutes.
const PAIR_RATE: Rate = Rate {
    burst: 6,
    interval_seconds: 10 * 60,
};
/// Requests of anybody for KeyPackages of one device: 64 at once, then one in 30 seconds.
const TARGET_RATE: Rate = Rate {
    burst: 64,
    interval_seconds: 30,
};
/// Live reservations of one user.
const LIVE_PER_REQUESTER_MAX: u32 = 64;
/// Live reservations of one user on one device.
const LIVE_PER_PAIR_MAX: u32 = 4;

/// How often something may happen: some of it at once, and then once in an interval (the generic cell rate algorithm).
///
/// Its memory is one point in time, when all that happened so far is forgotten; `None` before anything happened. A memory
/// that has come is worth nothing and may be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How often it may happen at once; 0 is never.
    pub burst: u32,
    /// How long it takes until it may happen once more, in seconds.
    pub interval_seconds: u64,
}

impl Rate {
    /// Lets it happen `now`. Returns the new memory.
    ///
    /// # Errors
    /// How long to wait, in seconds; at least 1.
    pub fn take(self, memory: Option<UnixSeconds>, now: UnixSeconds) -> Result<UnixSeconds, u64> {
        let most = now.plus(self.interval_seconds.saturating_mul(self.burst.into()));
        // Of a clock that was set back since. Small corrections of a clock forgive nothing.
        let memory = memory.filter(|memory| memory.since(most) <= CLOCK_STEP_SECONDS_MAX);
        let after = self.charge(memory, now);
        match after.since(most) {
            0 => Ok(after),
            wait => Err(wait),
        }
    }

    /// Counts it without asking whether it may happen.
    pub fn charge(self, memory: Option<UnixSeconds>, now: UnixSeconds) -> UnixSeconds {
        memory
            .map_or(now, |memory| memory.max(now))
            .plus(self.interval_seconds)
    }
}

/// What keeps one user, or many, from draining the pool of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainLimits {
    /// Requests of one user for KeyPackages of one device.
    pub pair: Rate,
    /// Single-use KeyPackages of one device that anybody gets. Beyond that the last resort is handed out.
    pub target: Rate,
    /// Reservations of one user that are live, or lapsed not long ago.
    pub live_per_requester: u32,
    /// The same on one device.
    pub live_per_pair: u32,
    /// A reservation that came to nothing counts as live for this much longer, in seconds.
    pub lapsed_counts_seconds: u64,
    /// So many KeyPackages of a pool are kept for those who share a group with their owner: the reserve floor. It needs a
    /// last resort that strangers get instead; a device that has none keeps nothing back.
    pub floor: u32,
}

impl Default for DrainLimits {
    fn default() -> Self {
        Self {
            pair: PAIR_RATE,
            target: TARGET_RATE,
            live_per_requester: LIVE_PER_REQUESTER_MAX,
            live_per_pair: LIVE_PER_PAIR_MAX,
            lapsed_counts_seconds: DAY,
            floor: POOL_TARGET / 4,
        }
    }
}

/// A request for a KeyPackage of one device, and what is known of requester and device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// The memory of [`DrainLimits::pair`].
    pub pair: Option<UnixSeconds>,
    /// The memory of [`DrainLimits::target`].
    pub target: Option<UnixSeconds>,
    /// The requester's reservations that count as live.
    pub live_of_requester: u32,
    /// Those of them on the device.
    pub live_of_pair: u32,
    /// The device's KeyPackages that could be handed out for this request.
    pub available: u32,
    /// Whether the device has a last resort that could.
    pub last_resort: bool,
    /// Whether requester and owner share a group.
    pub acquainted: bool,
}

/// What a request may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// A single-use KeyPackage; the new memories of pair and target.
    KeyPackage {
        /// That of [`DrainLimits::pair`].
        pair: UnixSeconds,
        /// That of [`DrainLimits::target`].
        target: UnixSeconds,
    },
    /// The last resort, which nobody can drain; the new memory of the pair.
    LastResort {
        /// That of [`DrainLimits::pair`].
        pair: UnixSeconds,
    },
    /// Nothing, before this many seconds have passed.
    Refused {
        /// How long to wait, in seconds.
        retry_after_seconds: u64,
    },
}

impl DrainLimits {
    /// Whether only those who share a group with its owner get a KeyPackage of a pool of so many.
    pub fn is_below_floor(&self, available: u32, last_resort: bool) -> bool {
        last_resort && available <= self.floor
    }

    /// The same limits where the pool of a device is divided between this many ciphersuites.
    #[must_use]
    pub fn shared_between(self, suites: u32) -> Self {
        Self {
            floor: part(self.floor, suites),
            ..self
        }
    }

    /// Decides what a request gets.
    ///
    /// What one user asks too often is refused. What many ask for together is not: whoever they are, the last resort is left
    /// for them, so that a crowd of hostile accounts makes nobody unreachable.
    pub fn grant(&self, demand: &Demand, now: UnixSeconds) -> Grant {
        if demand.live_of_pair >= self.live_per_pair || demand.live_of_requester >= self.live_per_requester {
            return Grant::Refused {
                retry_after_seconds: self.pair.interval_seconds.max(1),
            };
        }
        let pair = match self.pair.take(demand.pair, now) {
            Ok(pair) => pair,
            Err(retry_after_seconds) => return Grant::Refused { retry_after_seconds },
        };
        let above_floor = demand.acquainted || !self.is_below_floor(demand.available, demand.last_resort);
        match self.target.take(demand.target, now) {
            Ok(target) if above_floor && demand.available > 0 => Grant::KeyPackage { pair, target },
            Ok(_) | Err(_) => Grant::LastResort { pair },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    fn demand() -> Demand {
        Demand {
            pair: None,
            target: None,
            live_of_requester: 0,
            live_of_pair: 0,
            available: 32,
            last_resort: true,
            acquainted: false,
        }
    }

    #[test]
    fn a_burst_passes_and_then_one_in_an_interval() {
        let rate = Rate {
            burst: 3,
            interval_seconds: 10,
        };
        let mut memory = None;
        for _ in 0..3 {
            memory = Some(rate.take(memory, NOW).unwrap());
        }
        assert_eq!(rate.take(memory, NOW), Err(10));
        assert_eq!(rate.take(memory, NOW.plus(9)), Err(1));
        memory = Some(rate.take(memory, NOW.plus(10)).unwrap());
        assert_eq!(rate.take(memory, NOW.plus(10)), Err(10));
        assert_eq!(
            rate.take(memory, NOW.plus(1000)),
            rate.take(None, NOW.plus(1000)),
            "a memory that has come is worth nothing"
        );
    }

    #[test]
    fn a_memory_of_a_clock_that_was_far_ahead_is_worth_nothing() {
        let rate = Rate {
            burst: 3,
            interval_seconds: 10,
        };
        let memory_of = |now| {
            let first = rate.take(None, now).ok();
            let second = rate.take(first, now).ok();
            rate.take(second, now).ok()
        };
        let far = memory_of(NOW.plus(700 * DAY));
        assert_eq!(rate.take(far, NOW), rate.take(None, NOW));
        let corrected = memory_of(NOW.plus(60));
        assert_eq!(rate.take(corrected, NOW), Err(70));
    }

    proptest! {
        #[test]
        fn in_no_stretch_of_time_more_passes_than_the_rate_says(
            burst in 0..9u32, interval in 1..99u64, steps in prop::collection::vec(0..40u64, 1..200),
        ) {
            let rate = Rate { burst, interval_seconds: interval };
            let (mut now, mut memory, mut passed) = (NOW, None, Vec::new());
            for step in steps {
                now = now.plus(step);
                match rate.take(memory, now) {
                    Ok(after) => {
                        memory = Some(after);
                        passed.push(now);
                    }
                    Err(wait) => {
                        prop_assert!(wait >= 1);
                        prop_assert_eq!(burst > 0, rate.take(memory, now.plus(wait)).is_ok());
                    }
                }
            }
            for (index, first) in passed.iter().enumerate() {
                for (more, last) in passed[index..].iter().enumerate() {
                    let allowed = u64::from(burst) + last.since(*first) / interval;
                    prop_assert!((more as u64) < allowed);
                }
            }
        }

        #[test]
        fn the_floor_is_for_acquaintances_and_a_crowd_leaves_the_last_resort(
            available in 0..40u32, last_resort: bool, acquainted: bool, crowd in 0..180u64,
        ) {
            let limits = DrainLimits::default();
            // No crowd is remembered for longer than the burst, but by a clock that was corrected since.
            let remembered = u64::from(limits.target.burst) + CLOCK_STEP_SECONDS_MAX / limits.target.interval_seconds;
            prop_assert!(crowd <= remembered);
            let target = (crowd > 0).then(|| NOW.plus(crowd * limits.target.interval_seconds));
            let grant = limits.grant(&Demand { available, last_resort, acquainted, target, ..demand() }, NOW);
            let ordinary = matches!(grant, Grant::KeyPackage { .. });
            let refused = matches!(grant, Grant::Refused { .. });
            prop_assert!(!refused, "nobody is refused for what others do");
            let kept = if acquainted || !last_resort { 0 } else { limits.floor };
            prop_assert_eq!(ordinary, available > kept && crowd < u64::from(limits.target.burst));
        }
    }

    #[test]
    fn who_holds_too_many_reservations_is_refused() {
        let limits = DrainLimits::default();
        for (live_of_pair, live_of_requester, refused) in [(3, 63, false), (4, 4, true), (0, 64, true)] {
            let grant = limits.grant(
                &Demand {
                    live_of_pair,
                    live_of_requester,
                    ..demand()
                },
                NOW,
            );
            assert_eq!(matches!(grant, Grant::Refused { .. }), refused);
        }
    }

    #[test]
    fn the_floor_is_divided_like_the_pool() {
        let floor = |suites| DrainLimits::default().shared_between(suites).floor;
        assert_eq!([floor(1), floor(2), floor(3)], [8, 4, 2]);
    }

    #[test]
    fn one_user_gets_six_of_a_device_and_then_one_in_ten_minutes() {
        let limits = DrainLimits::default();
        let (mut pair, mut got) = (None, 0);
        for minute in 0..60 {
            let now = NOW.plus(minute * 60);
            if let Grant::KeyPackage { pair: after, .. } = limits.grant(&Demand { pair, ..demand() }, now) {
                pair = Some(after);
                got += 1;
            }
        }
        assert_eq!(got, 6 + 5);
    }
}
