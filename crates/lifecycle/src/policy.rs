use std::fmt;

use crate::time::UnixSeconds;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
pub(crate) const DAY: u64 = 24 * HOUR;

/// Unspent KeyPackages that a device keeps in the directory.
pub const POOL_TARGET: u32 = 32;
/// The smallest target that has a low watermark below it.
const POOL_TARGET_MIN: u32 = 2;
/// Below this many the pool is `low`, and the directory tells its owner.
pub const POOL_LOW_WATERMARK: u32 = 8;
/// Live KeyPackages of one device that neither side exceeds.
pub const POOL_HARD_CAP: u32 = 64;
/// A KeyPackage that we mint lives until this long after the server's time: 83 days.
pub const KEY_PACKAGE_LIFETIME_SECONDS: u64 = 83 * DAY;
/// A KeyPackage that we mint is valid from this long before the server's time: 25 hours. OpenMLS judges by the clock of
/// the machine that it runs on, so a clock that is a day behind finds it valid, and has an hour to spare.
pub const KEY_PACKAGE_BACKDATED_SECONDS: u64 = 25 * HOUR;
/// The longest total lifetime that anyone accepts (RFC 9420 §7.2): 84 days and one hour for skewed clocks.
pub const KEY_PACKAGE_LIFETIME_SECONDS_MAX: u64 = 84 * DAY + HOUR;
/// Clocks that are further apart than this break what depends on lifetimes: one day.
pub const CLOCK_APART_SECONDS_MAX: u64 = DAY;
/// A clock that is off by less than this is not worth a word: 5 minutes.
pub const CLOCK_APART_SECONDS_TOLD: u64 = 5 * MINUTE;
/// Clock skew tolerated in `not_before` at upload: 5 minutes.
pub const SKEW_SECONDS: u64 = 5 * MINUTE;
/// How long the delivery service keeps an unacknowledged inbox row: 30 days.
pub const INBOX_RETENTION_SECONDS: u64 = 30 * DAY;
/// A KeyPackage is served while at least this much of its life is left: 31 days and 2 hours. A member who comes back after
/// the inbox retention must still find it valid, by a clock that is a day ahead.
pub const SERVING_MARGIN_SECONDS: u64 = INBOX_RETENTION_SECONDS + CLOCK_APART_SECONDS_MAX + 2 * HOUR;
/// How long the delivery service keeps a blob: as long as the message that tells of it, 30 days.
pub const BLOB_RETENTION_SECONDS: u64 = INBOX_RETENTION_SECONDS;
/// A reservation, before the sweeper may lapse it: one hour.
pub const RESERVATION_SECONDS: u64 = HOUR;
/// The private keys of an expired KeyPackage are kept this much longer, for a Welcome in flight: 24 hours.
pub const GRACE_SECONDS: u64 = DAY;
/// Terminal KeyPackages are remembered this long: 30 days (in the directory, after `not_after`).
pub const TOMBSTONE_SECONDS: u64 = 30 * DAY;
/// A KeyPackage with less serving life left than this is replaced: 2 days.
pub const EXPIRING_SOON_SECONDS: u64 = 2 * DAY;
/// KeyPackages that the directory lost, whose private keys are kept all the same: 256, besides the hard cap.
pub const POOL_LOST_MAX: u32 = 256;
/// What the directory lost is replaced once in this time: a day.
pub const LOST_REPLACED_SECONDS: u64 = DAY;

const _: () =
    assert!(KEY_PACKAGE_BACKDATED_SECONDS + KEY_PACKAGE_LIFETIME_SECONDS == KEY_PACKAGE_LIFETIME_SECONDS_MAX);
const _: () = assert!(KEY_PACKAGE_BACKDATED_SECONDS > CLOCK_APART_SECONDS_MAX);

/// The lifetime of a KeyPackage (RFC 9420 §7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// Valid from here on.
    pub not_before: UnixSeconds,
    /// Valid up to here.
    pub not_after: UnixSeconds,
}

/// What the directory demands of lifetimes and how it times things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryPolicy {
    /// The longest total lifetime, in seconds.
    pub lifetime_seconds_max: u64,
    /// Tolerated clock skew, in seconds: `not_before` may be this far ahead at upload, and is as far behind once the KeyPackage
    /// is served.
    pub skew_seconds: u64,
    /// A KeyPackage is served while at least this much of its life is left, in seconds. It is more than the inbox
    /// retention: a member who was offline that long must still be able to process the Add.
    pub serving_margin_seconds: u64,
    /// A reservation, in seconds.
    pub reservation_seconds: u64,
    /// Terminal rows are kept until `not_after` plus this, in seconds.
    pub tombstone_seconds: u64,
    /// Live KeyPackages per device.
    pub hard_cap: u32,
    /// Below this many available KeyPackages the owner is told.
    pub low_watermark: u32,
}

impl Default for DirectoryPolicy {
    fn default() -> Self {
        Self {
            lifetime_seconds_max: KEY_PACKAGE_LIFETIME_SECONDS_MAX,
            skew_seconds: SKEW_SECONDS,
            serving_margin_seconds: SERVING_MARGIN_SECONDS,
            reservation_seconds: RESERVATION_SECONDS,
            tombstone_seconds: TOMBSTONE_SECONDS,
            hard_cap: POOL_HARD_CAP,
            low_watermark: POOL_LOW_WATERMARK,
        }
    }
}

/// Why a lifetime is not acceptable at upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifetimeRefusal {
    /// The total lifetime exceeds the maximum, or runs backwards.
    TooLong,
    /// Too little is left to ever be served.
    TooShort,
    /// It starts in the future.
    NotYetValid,
}

impl DirectoryPolicy {
    /// Whether a KeyPackage with this lifetime may enter the directory `now`.
    ///
    /// # Errors
    /// [`LifetimeRefusal`], the first that applies.
    pub fn check_lifetime(&self, lifetime: Lifetime, now: UnixSeconds) -> Result<(), LifetimeRefusal> {
        let Lifetime {
            not_before,
            not_after,
        } = lifetime;
        if not_after < not_before || not_after.since(not_before) > self.lifetime_seconds_max {
            return Err(LifetimeRefusal::TooLong);
        }
        if not_before > now.plus(self.skew_seconds) {
            return Err(LifetimeRefusal::NotYetValid);
        }
        if now >= self.served_before(not_after) {
            return Err(LifetimeRefusal::TooShort);
        }
        Ok(())
    }

    /// The policy for one of `suites` ciphersuites that clients stock. The low watermark is divided between them; the hard
    /// cap stays, for all together.
    #[must_use]
    pub fn shared_between(self, suites: u32) -> Self {
        Self {
            low_watermark: part(self.low_watermark, suites).max(1),
            ..self
        }
    }

    /// A KeyPackage is handed out from this time on: once it is valid for an adder whose clock is slow by the tolerated skew,
    /// too.
    pub fn served_from(&self, not_before: UnixSeconds) -> UnixSeconds {
        not_before.plus(self.skew_seconds)
    }

    /// A KeyPackage is handed out before this time only.
    pub fn served_before(&self, not_after: UnixSeconds) -> UnixSeconds {
        not_after.minus(self.serving_margin_seconds)
    }
}

/// How many KeyPackages a device holds, and how long they live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolPolicy {
    target: u32,
    low_watermark: u32,
    hard_cap: u32,
    /// A minted KeyPackage lives until this long after it was minted, in seconds.
    pub lifetime_seconds: u64,
    /// The serving margin of the directory, in seconds.
    pub serving_margin_seconds: u64,
    /// A KeyPackage with less serving life left than this counts as gone, in seconds.
    pub expiring_soon_seconds: u64,
    /// Private keys are kept until `not_after` plus this, in seconds.
    pub grace_seconds: u64,
    /// Metadata of terminal KeyPackages is kept this long, in seconds.
    pub tombstone_seconds: u64,
}

/// What a KeyPackage is worth at some time, by its lifetime alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Worth {
    /// It is valid only later: whoever minted it had a clock that was ahead.
    NotYet,
    /// It can be served and added.
    Good,
    /// It can be served and added, but not for much longer.
    ExpiringSoon,
    /// It is too old to be served.
    Over,
}

impl Worth {
    /// Whether it can be served and added now.
    pub fn is_available(self) -> bool {
        match self {
            Self::Good | Self::ExpiringSoon => true,
            Self::NotYet | Self::Over => false,
        }
    }
}

/// Numbers that do not make a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidPolicy;

impl fmt::Display for InvalidPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a pool needs 0 < low watermark < target ≤ hard cap")
    }
}

impl std::error::Error for InvalidPolicy {}

impl PoolPolicy {
    /// A policy with these counts and the default times.
    ///
    /// # Errors
    /// [`InvalidPolicy`] unless 0 < `low_watermark` < `target` ≤ `hard_cap`.
    pub fn new(target: u32, low_watermark: u32, hard_cap: u32) -> Result<Self, InvalidPolicy> {
        if low_watermark == 0 || low_watermark >= target || target > hard_cap {
            return Err(InvalidPolicy);
        }
        Ok(Self {
            target,
            low_watermark,
            hard_cap,
            ..Self::default()
        })
    }

    /// The policy for the pool of one of `suites` ciphersuites that a device stocks. Target and low watermark are divided
    /// between them, rounded down; a pool still has a target of 2 at least, with a low watermark of 1. The hard cap stays,
    /// for all together: [`plan`](crate::plan) counts every live KeyPackage against it.
    #[must_use]
    pub fn shared_between(self, suites: u32) -> Self {
        if suites <= 1 {
            return self;
        }
        let target = part(self.target, suites).max(POOL_TARGET_MIN);
        Self {
            target,
            low_watermark: part(self.low_watermark, suites).clamp(1, target - 1),
            ..self
        }
    }

    /// KeyPackages to keep in the directory.
    pub fn target(&self) -> u32 {
        self.target
    }

    /// Below this many the pool is low.
    pub fn low_watermark(&self) -> u32 {
        self.low_watermark
    }

    /// Live KeyPackages never exceeded.
    pub fn hard_cap(&self) -> u32 {
        self.hard_cap
    }

    /// What a KeyPackage with this lifetime is worth `now`. Whatever counts a pool asks this.
    pub fn worth(&self, lifetime: Lifetime, now: UnixSeconds) -> Worth {
        let served_before = lifetime.not_after.minus(self.serving_margin_seconds);
        if now < lifetime.not_before {
            Worth::NotYet
        } else if now >= served_before {
            Worth::Over
        } else if now >= served_before.minus(self.expiring_soon_seconds) {
            Worth::ExpiringSoon
        } else {
            Worth::Good
        }
    }

    /// The lifetime of what is minted `now`, by the server's clock. It is as long as anyone accepts.
    pub fn lifetime(&self, now: UnixSeconds) -> Lifetime {
        Lifetime {
            not_before: now.minus(KEY_PACKAGE_BACKDATED_SECONDS),
            not_after: now.plus(self.lifetime_seconds),
        }
    }

    /// Whether what the directory lost may be replaced `now`, when it was replaced the last time at `last`.
    ///
    /// A `last` that is further ahead than two clocks within a day of ours can be was noted by a clock that was wrong, and
    /// keeps nothing back. One that is nearer does: a server that sets its clock forth and back would have us mint without
    /// end.
    pub fn may_replace_lost(last: Option<UnixSeconds>, now: UnixSeconds) -> bool {
        last.is_none_or(|last| {
            now.since(last) >= LOST_REPLACED_SECONDS || last.since(now) > 2 * CLOCK_APART_SECONDS_MAX
        })
    }

    /// When the private keys of a KeyPackage are erased, if nothing else happens to it.
    pub fn erase_at(&self, not_after: UnixSeconds) -> UnixSeconds {
        not_after.plus(self.grace_seconds)
    }
}

/// What one of `suites` gets of a number.
pub(crate) fn part(whole: u32, suites: u32) -> u32 {
    whole / suites.max(1)
}

impl Default for PoolPolicy {
    fn default() -> Self {
        Self {
            target: POOL_TARGET,
            low_watermark: POOL_LOW_WATERMARK,
            hard_cap: POOL_HARD_CAP,
            lifetime_seconds: KEY_PACKAGE_LIFETIME_SECONDS,
            serving_margin_seconds: SERVING_MARGIN_SECONDS,
            expiring_soon_seconds: EXPIRING_SOON_SECONDS,
            grace_seconds: GRACE_SECONDS,
            tombstone_seconds: TOMBSTONE_SECONDS,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    fn check(not_before: UnixSeconds, not_after: UnixSeconds) -> Result<(), LifetimeRefusal> {
        DirectoryPolicy::default().check_lifetime(
            Lifetime {
                not_before,
                not_after,
            },
            NOW,
        )
    }

    #[test]
    fn lifetimes_are_judged_to_the_second() {
        assert_eq!(check(NOW, NOW.plus(KEY_PACKAGE_LIFETIME_SECONDS_MAX)), Ok(()));
        assert_eq!(
            check(NOW, NOW.plus(KEY_PACKAGE_LIFETIME_SECONDS_MAX + 1)),
            Err(LifetimeRefusal::TooLong)
        );
        assert_eq!(check(NOW.plus(2), NOW.plus(1)), Err(LifetimeRefusal::TooLong));
        assert_eq!(
            check(UnixSeconds(0), UnixSeconds(u64::MAX)),
            Err(LifetimeRefusal::TooLong)
        );
        assert_eq!(check(NOW.plus(SKEW_SECONDS), NOW.plus(60 * DAY)), Ok(()));
        assert_eq!(
            check(NOW.plus(SKEW_SECONDS + 1), NOW.plus(60 * DAY)),
            Err(LifetimeRefusal::NotYetValid)
        );
        assert_eq!(check(NOW, NOW.plus(SERVING_MARGIN_SECONDS + 1)), Ok(()));
        assert_eq!(
            check(NOW, NOW.plus(SERVING_MARGIN_SECONDS)),
            Err(LifetimeRefusal::TooShort)
        );
    }

    #[test]
    fn counts_that_do_not_make_a_pool_are_refused() {
        assert!(PoolPolicy::new(32, 8, 64).is_ok());
        for (target, low, cap) in [(32, 0, 64), (8, 8, 64), (65, 8, 64), (0, 0, 0)] {
            assert_eq!(PoolPolicy::new(target, low, cap), Err(InvalidPolicy));
        }
    }

    proptest! {
        #[test]
        fn s7_pools_of_several_suites_share_one_target_below_one_cap(
            (low, target, cap) in (1..40u32).prop_flat_map(|low| (Just(low), low + 1..80)).prop_flat_map(
                |(low, target)| (Just(low), Just(target), target..160)
            ),
            suites in 0..20u32,
        ) {
            let whole = PoolPolicy::new(target, low, cap).unwrap();
            let part = whole.shared_between(suites);
            prop_assert!(PoolPolicy::new(part.target, part.low_watermark, part.hard_cap.max(2)).is_ok());
            prop_assert_eq!(part.hard_cap, cap);
            prop_assert!(part.target * suites <= target.max(2 * suites));
            prop_assert!(part.low_watermark <= low);
            if suites <= 1 {
                prop_assert_eq!(part, whole);
            }
        }
    }

    #[test]
    fn two_suites_have_half_of_the_target_and_of_the_low_watermark_each() {
        let part = PoolPolicy::default().shared_between(2);
        assert_eq!(
            (part.target(), part.low_watermark(), part.hard_cap()),
            (16, 4, 64)
        );
        let three = PoolPolicy::default().shared_between(3);
        assert_eq!((three.target(), three.low_watermark()), (10, 2));
        let there = DirectoryPolicy::default().shared_between(2);
        assert_eq!((there.low_watermark, there.hard_cap), (4, 64));
        assert_eq!(
            DirectoryPolicy::default().shared_between(1),
            DirectoryPolicy::default()
        );
        assert_eq!(DirectoryPolicy::default().shared_between(20).low_watermark, 1);
    }

    #[test]
    fn a_key_package_is_replaced_two_days_before_it_is_no_longer_served() {
        let policy = PoolPolicy::default();
        let served = 51 * DAY + 22 * HOUR;
        let worth = |age| policy.worth(policy.lifetime(NOW), NOW.plus(age));
        assert_eq!(worth(0), Worth::Good);
        assert_eq!(worth(served - EXPIRING_SOON_SECONDS - 1), Worth::Good);
        assert_eq!(worth(served - EXPIRING_SOON_SECONDS), Worth::ExpiringSoon);
        assert_eq!(worth(served - 1), Worth::ExpiringSoon);
        assert_eq!(worth(served), Worth::Over);
    }

    #[test]
    fn a_key_package_minted_by_a_clock_ahead_is_worth_nothing_yet() {
        let policy = PoolPolicy::default();
        let ahead = policy.lifetime(NOW.plus(35 * DAY));
        assert_eq!(policy.worth(ahead, NOW), Worth::NotYet);
        assert!(!Worth::NotYet.is_available() && !Worth::Over.is_available());
        let a_day = policy.lifetime(NOW.plus(DAY));
        assert_eq!(policy.worth(a_day, NOW), Worth::Good);
    }

    #[test]
    fn what_is_minted_is_as_long_as_the_directory_takes() {
        let lifetime = PoolPolicy::default().lifetime(NOW);
        assert_eq!(check(lifetime.not_before, lifetime.not_after), Ok(()));
        assert_eq!(
            check(lifetime.not_before, lifetime.not_after.plus(1)),
            Err(LifetimeRefusal::TooLong)
        );
    }

    proptest! {
        /// The server is off by up to a day, and so is whoever adds, or comes back to the Add after the inbox retention.
        #[test]
        fn a_day_of_error_on_either_side_breaks_nothing(
            server in 0..=2 * DAY, other in 0..=2 * DAY, served_after in 0..80 * DAY, away in 0..=INBOX_RETENTION_SECONDS,
        ) {
            let clock = |at: UnixSeconds, error: u64| at.plus(error).minus(DAY);
            let lifetime = PoolPolicy::default().lifetime(clock(NOW, server));
            let at = NOW.plus(served_after);
            let served = PoolPolicy::default().worth(lifetime, clock(at, server)).is_available();
            // Nobody acts on a clock that is more than a day off the server's.
            prop_assume!(served && clock(at, server).0.abs_diff(clock(at, other).0) <= DAY);
            let seen = clock(at.plus(away), other);
            prop_assert!(lifetime.not_before <= seen && seen < lifetime.not_after);
        }
    }

    #[test]
    fn what_the_directory_lost_is_replaced_once_a_day() {
        let may = PoolPolicy::may_replace_lost;
        assert!(may(None, NOW));
        assert!(!may(Some(NOW), NOW));
        assert!(!may(Some(NOW), NOW.plus(DAY - 1)));
        assert!(may(Some(NOW), NOW.plus(DAY)));
        assert!(may(Some(NOW.plus(35 * DAY)), NOW), "a clock was ahead then");
        assert!(
            !may(Some(NOW.plus(DAY)), NOW.minus(DAY)),
            "the server's clock goes forth and back"
        );
    }
}
