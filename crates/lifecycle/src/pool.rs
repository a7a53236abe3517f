use crate::last_resort::LAST_RESORT_RETIRING_SECONDS;
use crate::status::{DirectoryStatus, Kind};
use crate::time::UnixSeconds;

/// The state of a KeyPackage in the pool of the device that owns it.
///
/// The private keys are OpenMLS's; this is what surrounds them. A state is [live](PoolState::is_live) exactly while
/// the private keys are kept.
///
/// ```text
/// mint ──▶ created ──▶ available ──▶ reserved ──Welcome joined──▶ spent       (single-use)
///             │            │────────▶ retiring ────────────────▶ gone        (last resort)
///             │            └─missing─▶ lost
///             └──── from each of them ─▶ lapsed, expired, revoked, gone
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PoolState {
    /// Minted. The directory has not confirmed it; an upload may be under way.
    Created,
    /// The directory holds it, and has not handed it out as far as we know, or it is a last resort.
    Available,
    /// The directory handed it out, or spent it: a Welcome may be on its way. No last resort.
    Reserved,
    /// A newer last resort was confirmed. Invitations under way may still name this one.
    Retiring {
        /// When the private keys are erased.
        until: UnixSeconds,
    },
    /// The directory held it, and its inventory does not name it any more: nobody is given it, and it is replaced. A Welcome
    /// may be on its way. It never counts again, whatever the directory says later.
    Lost,
    /// A Welcome was joined with it. Terminal. No last resort, which may be for others too.
    Spent,
    /// The directory handed it out and no Commit came: none can come any more. Terminal.
    Lapsed,
    /// Its life is over. Terminal.
    Expired,
    /// It was withdrawn, or the directory refused it. Terminal.
    Revoked,
    /// Its retirement is over. Terminal.
    Gone,
}

/// What can happen to a KeyPackage in its owner's pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolEvent {
    /// The directory tells its state: in an upload's answer or in the inventory. See [`PoolEvent::told`].
    Confirmed(DirectoryStatus),
    /// The directory's inventory does not name it.
    Missing,
    /// The directory refused the upload: it never held this KeyPackage, so no invitation can name it.
    Rejected,
    /// A Welcome was joined with it.
    Joined,
    /// A newer last resort was confirmed.
    Replace {
        /// When the private keys are to be erased.
        until: UnixSeconds,
    },
    /// The local sweep.
    Sweep {
        /// The time of the sweep.
        now: UnixSeconds,
        /// The KeyPackage's `not_after` plus the grace for invitations in flight.
        erase_at: UnixSeconds,
    },
    /// The owner withdraws it.
    Revoke,
}

/// Why an event does not apply. The state stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolRefusal {
    /// The KeyPackage is terminal; its private keys are gone.
    Terminal,
    /// Its life is not over yet.
    NotDue,
    /// The directory holds it: refusing it now proves nothing.
    NotRefusable,
    /// A single-use KeyPackage is not replaced by another.
    SingleUse,
}

impl PoolEvent {
    /// What it means that the directory has a KeyPackage of this kind in this state.
    pub fn told(kind: Kind, status: DirectoryStatus, now: UnixSeconds) -> Self {
        match (kind, status) {
            // The one that replaced it may be unknown here, after a restore.
            (Kind::LastResort, DirectoryStatus::Retiring) => Self::replaced(now),
            (Kind::LastResort | Kind::SingleUse, _) => Self::Confirmed(status),
        }
    }

    /// A newer last resort was confirmed now.
    pub fn replaced(now: UnixSeconds) -> Self {
        Self::Replace {
            until: now.plus(LAST_RESORT_RETIRING_SECONDS),
        }
    }
}

impl PoolState {
    /// Whether the private keys are kept in this state.
    pub fn is_live(self) -> bool {
        match self {
            Self::Created | Self::Available | Self::Reserved | Self::Retiring { .. } | Self::Lost => true,
            Self::Spent | Self::Lapsed | Self::Expired | Self::Revoked | Self::Gone => false,
        }
    }

    /// Whether it counts against the hard cap: the live ones do, but those that the directory lost, which have a cap of
    /// their own.
    pub fn is_in_stock(self) -> bool {
        self.is_live() && self != Self::Lost
    }

    /// The state after `event`. Private keys are erased when it leaves the live states, and only then.
    ///
    /// What the directory tells never moves a KeyPackage backwards: an old answer that arrives late says `available`
    /// of a KeyPackage that we know to be reserved, and is ignored.
    ///
    /// # Errors
    /// [`PoolRefusal`] when the event does not apply; the state stays as it was.
    pub fn apply(self, kind: Kind, event: PoolEvent) -> Result<Self, PoolRefusal> {
        use PoolEvent as E;
        if !self.is_live() {
            return Err(PoolRefusal::Terminal);
        }
        match event {
            E::Confirmed(status) => Ok(self.confirmed(kind, status)),
            E::Missing => Ok(match self {
                Self::Available | Self::Reserved => Self::Lost,
                // An upload may not have arrived; a retiring one is served no more and soon erased.
                _ => self,
            }),
            E::Rejected => match self {
                Self::Created => Ok(Self::Revoked),
                _ => Err(PoolRefusal::NotRefusable),
            },
            E::Joined => Ok(match kind {
                Kind::SingleUse => Self::Spent,
                Kind::LastResort => self,
            }),
            E::Replace { until } => match (kind, self) {
                (Kind::SingleUse, _) => Err(PoolRefusal::SingleUse),
                (Kind::LastResort, Self::Created | Self::Available) => Ok(Self::Retiring { until }),
                (Kind::LastResort, _) => Ok(self),
            },
            E::Sweep { now, erase_at } => match self {
                Self::Retiring { until } if now >= until => Ok(Self::Gone),
                _ if now >= erase_at => Ok(Self::Expired),
                _ => Err(PoolRefusal::NotDue),
            },
            E::Revoke => Ok(Self::Revoked),
        }
    }

    /// From a live state.
    fn confirmed(self, kind: Kind, status: DirectoryStatus) -> Self {
        use DirectoryStatus as D;
        match (status, self, kind) {
            // Terminal there and not spent: no Commit can ever add it, so nothing can need the keys.
            (D::Lapsed, ..) => Self::Lapsed,
            (D::Expired, ..) => Self::Expired,
            (D::Revoked, ..) => Self::Revoked,
            (D::Gone, ..) => Self::Gone,
            (D::Available, Self::Created | Self::Available, _) => Self::Available,
            // Spent there and not joined here: the Welcome is in flight, so the keys stay.
            (D::Reserved | D::Spent, Self::Created | Self::Available, Kind::SingleUse) => Self::Reserved,
            // What was lost was replaced; counted again, it could be lost and replaced again.
            (D::Available | D::Reserved | D::Retiring | D::Spent, _, _) => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events() -> impl Strategy<Value = PoolEvent> {
        prop_oneof![
            prop::sample::select(&DirectoryStatus::ALL[..]).prop_map(PoolEvent::Confirmed),
            Just(PoolEvent::Missing),
            Just(PoolEvent::Rejected),
            Just(PoolEvent::Joined),
            (0..9u64).prop_map(|until| PoolEvent::Replace {
                until: UnixSeconds(until)
            }),
            (0..9u64, 0..9u64).prop_map(|(now, at)| PoolEvent::Sweep {
                now: UnixSeconds(now),
                erase_at: UnixSeconds(at)
            }),
            Just(PoolEvent::Revoke),
        ]
    }

    proptest! {
        #[test]
        fn keys_once_erased_never_come_back(
            history in prop::collection::vec(events(), 0..20),
            kind in prop::sample::select(&[Kind::SingleUse, Kind::LastResort][..]),
        ) {
            let mut state = PoolState::Created;
            for event in history {
                let Ok(next) = state.apply(kind, event) else { continue };
                prop_assert!(state.is_live(), "{state:?} moved to {next:?}");
                match kind {
                    Kind::SingleUse => {
                        let retiring = matches!(next, PoolState::Retiring { .. });
                        prop_assert!(!retiring);
                    }
                    Kind::LastResort => {
                        let for_one = matches!(next, PoolState::Reserved | PoolState::Spent);
                        prop_assert!(!for_one);
                        let back = matches!(state, PoolState::Retiring { .. }) && next == PoolState::Available;
                        prop_assert!(!back, "a retired one is back");
                    }
                }
                if state == PoolState::Reserved {
                    prop_assert_ne!(next, PoolState::Available, "disclosure is one way");
                }
                if state == PoolState::Lost {
                    prop_assert!(!next.is_in_stock(), "what was lost never counts again");
                }
                state = next;
            }
        }
    }

    #[test]
    fn a_key_is_kept_while_an_invitation_may_be_in_flight() {
        use PoolEvent::Confirmed;
        for told in [
            DirectoryStatus::Available,
            DirectoryStatus::Reserved,
            DirectoryStatus::Spent,
            DirectoryStatus::Retiring,
        ] {
            for state in [
                PoolState::Created,
                PoolState::Available,
                PoolState::Reserved,
                PoolState::Lost,
            ] {
                assert!(
                    state
                        .apply(Kind::SingleUse, PoolEvent::Missing)
                        .unwrap()
                        .is_live(),
                    "{state:?} missing"
                );
                assert!(
                    state.apply(Kind::SingleUse, Confirmed(told)).unwrap().is_live(),
                    "{state:?} told {told:?}"
                );
            }
        }
        let early = PoolEvent::Sweep {
            now: UnixSeconds(4),
            erase_at: UnixSeconds(5),
        };
        assert_eq!(
            PoolState::Available.apply(Kind::SingleUse, early),
            Err(PoolRefusal::NotDue)
        );
    }

    #[test]
    fn a_rejection_proves_nothing_about_a_key_package_that_the_directory_holds() {
        assert_eq!(
            PoolState::Created.apply(Kind::SingleUse, PoolEvent::Rejected),
            Ok(PoolState::Revoked)
        );
        assert_eq!(
            PoolState::Available.apply(Kind::SingleUse, PoolEvent::Rejected),
            Err(PoolRefusal::NotRefusable)
        );
    }

    #[test]
    fn a_last_resort_keeps_its_keys_until_the_end_of_its_retirement() {
        let apply = |state: PoolState, event| state.apply(Kind::LastResort, event).unwrap();
        let active = apply(
            PoolState::Created,
            PoolEvent::Confirmed(DirectoryStatus::Available),
        );
        assert_eq!(
            apply(active, PoolEvent::Joined),
            active,
            "it may be for others too"
        );
        let until = UnixSeconds(50);
        let retiring = apply(active, PoolEvent::Replace { until });
        let sweep = |now, erase_at| PoolEvent::Sweep {
            now: UnixSeconds(now),
            erase_at: UnixSeconds(erase_at),
        };
        for stays in [
            PoolEvent::Missing,
            PoolEvent::Joined,
            PoolEvent::Confirmed(DirectoryStatus::Available),
            PoolEvent::replaced(UnixSeconds(40)),
        ] {
            assert_eq!(apply(retiring, stays), retiring);
        }
        assert_eq!(
            retiring.apply(Kind::LastResort, sweep(49, 1000)),
            Err(PoolRefusal::NotDue)
        );
        assert_eq!(apply(retiring, sweep(50, 1000)), PoolState::Gone);
        assert_eq!(apply(retiring, sweep(49, 49)), PoolState::Expired);
    }

    #[test]
    fn what_was_lost_keeps_its_keys_to_its_end() {
        for kind in [Kind::SingleUse, Kind::LastResort] {
            let apply = |state: PoolState, event| state.apply(kind, event);
            let lost = apply(PoolState::Available, PoolEvent::Missing).unwrap();
            assert!(lost == PoolState::Lost && lost.is_live() && !lost.is_in_stock());
            for status in [DirectoryStatus::Available, DirectoryStatus::Retiring] {
                let told = PoolEvent::told(kind, status, UnixSeconds(9));
                assert_eq!(apply(lost, told), Ok(lost));
            }
            let sweep = |now| PoolEvent::Sweep {
                now: UnixSeconds(now),
                erase_at: UnixSeconds(1000),
            };
            assert_eq!(apply(lost, sweep(999)), Err(PoolRefusal::NotDue));
            assert_eq!(apply(lost, sweep(1000)), Ok(PoolState::Expired));
            let created = PoolState::Created;
            assert_eq!(
                apply(created, PoolEvent::Missing),
                Ok(created),
                "an upload may be under way"
            );
        }
    }
}
