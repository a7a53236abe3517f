//! The last resort: one KeyPackage per device and ciphersuite that is not single-use (RFC 9420 §16.8), handed out only
//! when nothing else is left, and replaced soon after.

use crate::policy::{DAY, GRACE_SECONDS, Lifetime, PoolPolicy, Worth};
use crate::time::UnixSeconds;

/// A last resort is replaced at this age even if it was never used: 30 days.
pub const LAST_RESORT_AGE_SECONDS_MAX: u64 = 30 * DAY;
/// A replaced last resort still opens invitations that were under way, for 24 hours.
pub const LAST_RESORT_RETIRING_SECONDS: u64 = GRACE_SECONDS;

/// The newest last resort that is created or active.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewestLastResort {
    /// Its lifetime.
    pub lifetime: Lifetime,
    /// When it was minted.
    pub created_at: UnixSeconds,
    /// Whether it was handed out.
    pub used: bool,
}

/// Whether a refresh should replace a last resort: there is none, it was used, it is old, or it cannot be served and added
/// now.
pub fn last_resort_is_due(policy: &PoolPolicy, newest: Option<NewestLastResort>, now: UnixSeconds) -> bool {
    newest.is_none_or(|newest| {
        newest.used
            || now.since(newest.created_at) >= LAST_RESORT_AGE_SECONDS_MAX
            || policy.worth(newest.lifetime, now) != Worth::Good
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_last_resort_is_replaced_when_used_old_or_of_no_use() {
        const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
        let policy = PoolPolicy::default();
        let minted = |created_at| NewestLastResort {
            lifetime: policy.lifetime(created_at),
            created_at,
            used: false,
        };
        let due = |newest| last_resort_is_due(&policy, newest, NOW);
        assert!(due(None));
        assert!(!due(Some(minted(NOW))));
        assert!(due(Some(NewestLastResort {
            used: true,
            ..minted(NOW)
        })));
        assert!(!due(Some(minted(NOW.minus(LAST_RESORT_AGE_SECONDS_MAX - 1)))));
        assert!(due(Some(minted(NOW.minus(LAST_RESORT_AGE_SECONDS_MAX)))));
        assert!(due(Some(minted(NOW.plus(35 * DAY)))), "valid only later");
    }
}
