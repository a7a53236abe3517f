use crate::directory::DirectoryStatus;
use crate::time::UnixSeconds;

/// The state of a KeyPackage in the pool of the device that owns it.
///
/// The private keys are OpenMLS's; this is what surrounds them. A state is [live](PoolState::is_live) exactly while
/// the private keys are kept.
///
/// ```text
/// mint ──▶ created ──confirmed──▶ available ──▶ reserved ──Welcome joined──▶ spent
///             │                       │             │                         ▲
///             │                       └──missing────┴──▶ lost ────────────────┤
///             └───────────────────────┴─────────────┴─────┴──▶ lapsed · expired · revoked
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PoolState {
    /// Minted. The directory has not confirmed it; an upload may be under way.
    Created,
    /// The directory holds it and has not handed it out, as far as we know.
    Available,
    /// The directory handed it out, or spent it: a Welcome may be on its way.
    Reserved,
    /// The directory held it, and its inventory does not name it any more: nobody is given it, and it is replaced. A Welcome
    /// may be on its way. It never counts again, whatever the directory says later.
    Lost,
    /// A Welcome was joined with it. Terminal.
    Spent,
    /// The directory handed it out and no Commit came: none can come any more. Terminal.
    Lapsed,
    /// Its life is over. Terminal.
    Expired,
    /// It was withdrawn, or the directory refused it. Terminal.
    Revoked,
}

/// What can happen to a KeyPackage in its owner's pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolEvent {
    /// The directory tells its state: in an upload's answer or in the inventory.
    Confirmed(DirectoryStatus),
    /// The directory's inventory does not name it.
    Missing,
    /// The directory refused the upload: it never held this KeyPackage, so no invitation can name it.
    Rejected,
    /// A Welcome was joined with it.
    Joined,
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
}

impl PoolState {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Created,
        Self::Available,
        Self::Reserved,
        Self::Lost,
        Self::Spent,
        Self::Lapsed,
        Self::Expired,
        Self::Revoked,
    ];

    /// Whether the private keys are kept in this state.
    pub fn is_live(self) -> bool {
        match self {
            Self::Created | Self::Available | Self::Reserved | Self::Lost => true,
            Self::Spent | Self::Lapsed | Self::Expired | Self::Revoked => false,
        }
    }

    /// Whether it counts against the hard cap: the live ones do, but those that the directory lost, which have a cap of
    /// their own.
    pub fn is_in_stock(self) -> bool {
        match self {
            Self::Created | Self::Available | Self::Reserved => true,
            Self::Lost | Self::Spent | Self::Lapsed | Self::Expired | Self::Revoked => false,
        }
    }

    /// The state after `event`. Private keys are erased when it leaves the live states, and only then.
    ///
    /// What the directory tells never moves a KeyPackage backwards: an old answer that arrives late says `available`
    /// of a KeyPackage that we know to be reserved, and is ignored.
    ///
    /// # Errors
    /// [`PoolRefusal`] when the event does not apply; the state stays as it was.
    pub fn apply(self, event: PoolEvent) -> Result<Self, PoolRefusal> {
        use DirectoryStatus as D;
        use PoolEvent as E;
        match (self, event) {
            (Self::Created | Self::Available, E::Confirmed(D::Available)) => Ok(Self::Available),
            (Self::Reserved, E::Confirmed(D::Available)) => Ok(Self::Reserved),
            // Spent there and not joined here: the Welcome is in flight, so the keys stay.
            (Self::Created | Self::Available | Self::Reserved, E::Confirmed(D::Reserved | D::Spent)) => {
                Ok(Self::Reserved)
            }
            // It was replaced; counted again, it could be lost and replaced again.
            (Self::Lost, E::Confirmed(D::Available | D::Reserved | D::Spent)) => Ok(Self::Lost),
            // Terminal there and not spent: no Commit can ever add it, so nothing can need the keys.
            (Self::Created | Self::Available | Self::Reserved | Self::Lost, E::Confirmed(D::Lapsed)) => {
                Ok(Self::Lapsed)
            }
            (Self::Created | Self::Available | Self::Reserved | Self::Lost, E::Confirmed(D::Expired)) => {
                Ok(Self::Expired)
            }
            (Self::Created | Self::Available | Self::Reserved | Self::Lost, E::Confirmed(D::Revoked)) => {
                Ok(Self::Revoked)
            }
            // Its upload may not have arrived.
            (Self::Created, E::Missing) => Ok(Self::Created),
            (Self::Available | Self::Reserved | Self::Lost, E::Missing) => Ok(Self::Lost),
            (Self::Created, E::Rejected) => Ok(Self::Revoked),
            (Self::Available | Self::Reserved | Self::Lost, E::Rejected) => Err(PoolRefusal::NotRefusable),
            (Self::Created | Self::Available | Self::Reserved | Self::Lost, E::Joined) => Ok(Self::Spent),
            (Self::Created | Self::Available | Self::Reserved | Self::Lost, E::Sweep { now, erase_at }) => {
                if now >= erase_at {
                    Ok(Self::Expired)
                } else {
                    Err(PoolRefusal::NotDue)
                }
            }
            (Self::Created | Self::Available | Self::Reserved | Self::Lost, E::Revoke) => Ok(Self::Revoked),
            (
                Self::Spent | Self::Lapsed | Self::Expired | Self::Revoked,
                E::Confirmed(D::Available | D::Reserved | D::Spent | D::Lapsed | D::Expired | D::Revoked)
                | E::Missing
                | E::Rejected
                | E::Joined
                | E::Sweep { .. }
                | E::Revoke,
            ) => Err(PoolRefusal::Terminal),
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
            (0..9u64, 0..9u64).prop_map(|(now, at)| PoolEvent::Sweep {
                now: UnixSeconds(now),
                erase_at: UnixSeconds(at)
            }),
            Just(PoolEvent::Revoke),
        ]
    }

    proptest! {
        #[test]
        fn keys_once_erased_never_come_back(history in prop::collection::vec(events(), 0..20)) {
            let mut state = PoolState::Created;
            for event in history {
                let Ok(next) = state.apply(event) else { continue };
                prop_assert!(state.is_live(), "{state:?} moved to {next:?}");
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
        ] {
            for state in [
                PoolState::Created,
                PoolState::Available,
                PoolState::Reserved,
                PoolState::Lost,
            ] {
                assert!(
                    state.apply(PoolEvent::Missing).unwrap().is_live(),
                    "{state:?} missing"
                );
                assert!(
                    state.apply(Confirmed(told)).unwrap().is_live(),
                    "{state:?} told {told:?}"
                );
            }
        }
        let early = PoolEvent::Sweep {
            now: UnixSeconds(4),
            erase_at: UnixSeconds(5),
        };
        assert_eq!(PoolState::Available.apply(early), Err(PoolRefusal::NotDue));
    }

    #[test]
    fn a_rejection_proves_nothing_about_a_key_package_that_the_directory_holds() {
        assert_eq!(
            PoolState::Created.apply(PoolEvent::Rejected),
            Ok(PoolState::Revoked)
        );
        assert_eq!(
            PoolState::Available.apply(PoolEvent::Rejected),
            Err(PoolRefusal::NotRefusable)
        );
    }
}
