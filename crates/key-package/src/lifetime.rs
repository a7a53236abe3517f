use larder_lifecycle::{KEY_PACKAGE_LIFETIME_SECONDS_MAX, UnixSeconds};
use openmls::prelude::Lifetime;

use crate::flaw::Flaw;

/// Whether a KeyPackage with this lifetime can be added at this time.
///
/// There is no tolerance: OpenMLS has none when a Commit is built, nor when a member processes it. Both judge by the system's
/// clock; whoever is told another time asks OpenMLS, too ([`Lifetime::validate`]).
///
/// # Errors
/// [`Flaw::LifetimeTooLong`], [`Flaw::NotYetValid`] or [`Flaw::Expired`], the first that applies.
pub fn check_lifetime(lifetime: &Lifetime, now: UnixSeconds) -> Result<(), Flaw> {
    let (not_before, not_after) = (lifetime.not_before(), lifetime.not_after());
    match not_after.checked_sub(not_before) {
        Some(0..=KEY_PACKAGE_LIFETIME_SECONDS_MAX) => {}
        Some(_) | None => return Err(Flaw::LifetimeTooLong),
    }
    if now.0 < not_before {
        let seconds = not_before - now.0;
        return Err(Flaw::NotYetValid { seconds });
    }
    if not_after <= now.0 {
        return Err(Flaw::Expired);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r_c5_r_c6_now_lies_in_an_acceptable_lifetime_to_the_second() {
        const MAX: u64 = KEY_PACKAGE_LIFETIME_SECONDS_MAX;
        let check = |from, to, now| check_lifetime(&Lifetime::init(from, to), UnixSeconds(now));
        assert_eq!(check(1000, 2000, 1500), Ok(()));
        assert_eq!(check(1000, 2000, 1000), Ok(()));
        assert_eq!(check(1000, 2000, 999), Err(Flaw::NotYetValid { seconds: 1 }));
        assert_eq!(check(1000, 2000, 0), Err(Flaw::NotYetValid { seconds: 1000 }));
        assert_eq!(check(1000, 2000, 1999), Ok(()));
        assert_eq!(check(1000, 2000, 2000), Err(Flaw::Expired));
        assert_eq!(check(1000, 1000 + MAX, 1500), Ok(()));
        assert_eq!(check(1000, 1000 + MAX + 1, 1500), Err(Flaw::LifetimeTooLong));
        assert_eq!(check(1000, u64::MAX, 1500), Err(Flaw::LifetimeTooLong));
        assert_eq!(check(2000, 1000, 1500), Err(Flaw::LifetimeTooLong));
    }
}
