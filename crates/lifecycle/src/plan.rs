use crate::policy::PoolPolicy;

/// A count of a pool, from confirmed facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    /// Named by the directory as available, and [good](crate::Worth::Good).
    pub usable: u32,
    /// Minted and not confirmed: the next upload brings them into the directory.
    pub unconfirmed: u32,
    /// Every KeyPackage whose private keys we hold, those two included, but not those that the directory lost.
    pub live: u32,
    /// Lost by the directory, and not to be replaced yet ([`PoolPolicy::may_replace_lost`]).
    pub withheld: u32,
}

/// How full a pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// At or above the low watermark.
    Good,
    /// Below the low watermark.
    Low,
    /// Nothing can be handed out.
    Empty,
}

/// What a refresh should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// KeyPackages to mint.
    pub mint: u32,
}

/// Decides how many KeyPackages to mint: up to the target, and never beyond the hard cap.
///
/// Every refresh fills to the target. The low watermark raises the alarm (the directory tells the owner, the pool
/// calls itself low); it does not hold refills back: minting one KeyPackage costs a tenth of a millisecond, and a full
/// pool is what protects against a burst. Only what the directory lost is replaced no more often than once a day: a
/// directory that says so again and again would have us mint without end.
pub fn plan(policy: &PoolPolicy, census: Census) -> Plan {
    let missing = policy
        .target()
        .saturating_sub(census.usable)
        .saturating_sub(census.unconfirmed)
        .saturating_sub(census.withheld);
    let room = policy.hard_cap().saturating_sub(census.live);
    Plan {
        mint: missing.min(room),
    }
}

impl Level {
    /// The level of a pool with this many usable KeyPackages.
    pub fn of(usable: u32, low_watermark: u32) -> Self {
        match usable {
            0 => Self::Empty,
            usable if usable < low_watermark => Self::Low,
            _ => Self::Good,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_plan_reaches_the_target_or_the_cap_and_never_exceeds_either(
            usable in 0..200u32, unconfirmed in 0..200u32, others in 0..200u32, withheld in 0..200u32,
        ) {
            let policy = PoolPolicy::default();
            let live = usable + unconfirmed + others;
            let mint = plan(&policy, Census { usable, unconfirmed, live, withheld }).mint;
            prop_assert!(mint == 0 || live + mint <= policy.hard_cap());
            let filled = usable + unconfirmed + withheld + mint;
            prop_assert!(mint == 0 || filled <= policy.target());
            prop_assert!(live + mint >= policy.hard_cap() || filled >= policy.target());
        }
    }

    #[test]
    fn one_joined_group_is_refilled_at_the_next_refresh() {
        let census = Census {
            usable: 31,
            unconfirmed: 0,
            live: 31,
            withheld: 0,
        };
        assert_eq!(plan(&PoolPolicy::default(), census), Plan { mint: 1 });
    }

    #[test]
    fn levels_follow_the_low_watermark() {
        assert_eq!(Level::of(0, 8), Level::Empty);
        assert_eq!(Level::of(7, 8), Level::Low);
        assert_eq!(Level::of(8, 8), Level::Good);
    }
}
