//! The last resort: one KeyPackage per device and ciphersuite that is not single-use (RFC 9420 §16.8), handed out only
//! when nothing else is left, and replaced soon after.
//!
//! ```text
//! directory: upload ──▶ active ──a newer one is uploaded──▶ retiring ──24 h──▶ gone
//! owner:     mint ──▶ created ──confirmed──▶ active ──the newer one is confirmed──▶ retiring ──24 h──▶ erased
//! ```

use crate::policy::{DAY, GRACE_SECONDS, Lifetime, PoolPolicy, Worth};
use crate::time::UnixSeconds;

/// A last resort is replaced at this age even if it was never used: 30 days.
pub const LAST_RESORT_AGE_SECONDS_MAX: u64 = 30 * DAY;
/// A replaced last resort still opens invitations that were under way, for 24 hours.
pub const LAST_RESORT_RETIRING_SECONDS: u64 = GRACE_SECONDS;

/// The state of a last resort in the directory. Reservations on it are not exclusive, so they are not part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LastResortState {
    /// Handed out when nothing else is left.
    Active,
    /// Not handed out any more; reservations made before may still be committed.
    Retiring {
        /// When it is gone.
        until: UnixSeconds,
    },
    /// Its owner has erased the private keys, or is about to. Terminal.
    Gone,
}

/// What can happen to a last resort in the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LastResortEvent {
    /// The same bytes are uploaded again.
    UploadAgain,
    /// A newer one of the same device and ciphersuite was accepted.
    Replace {
        /// When this one is gone.
        until: UnixSeconds,
    },
    /// Somebody asks for a KeyPackage and nothing else is left.
    Reserve,
    /// A Commit that adds it, by a device that reserved it, is otherwise acceptable.
    Commit,
    /// The sweeper passes.
    Sweep {
        /// The time of the sweep.
        now: UnixSeconds,
        /// The end of the KeyPackage's lifetime.
        not_after: UnixSeconds,
    },
    /// The owner withdraws it.
    Revoke,
}

/// Why an event does not apply to a last resort. The state stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LastResortRefusal {
    /// A newer one took its place.
    Replaced,
    /// It is gone.
    Gone,
    /// Too early for the sweeper.
    NotDue,
}

impl LastResortState {
    /// The state after `event`.
    ///
    /// # Errors
    /// [`LastResortRefusal`] when the event does not apply; the state stays as it was.
    pub fn apply(self, event: LastResortEvent) -> Result<Self, LastResortRefusal> {
        use LastResortEvent as E;
        match (self, event) {
            (state, E::UploadAgain) => Ok(state),
            (Self::Active, E::Replace { until }) => Ok(Self::Retiring { until }),
            (state @ Self::Retiring { .. }, E::Replace { .. }) => Ok(state),
            (Self::Active, E::Reserve) => Ok(Self::Active),
            (Self::Retiring { .. }, E::Reserve) => Err(LastResortRefusal::Replaced),
            (state @ (Self::Active | Self::Retiring { .. }), E::Commit) => Ok(state),
            (Self::Active, E::Sweep { now, not_after }) if now >= not_after => Ok(Self::Gone),
            (Self::Retiring { until }, E::Sweep { now, not_after }) if now >= until || now >= not_after => {
                Ok(Self::Gone)
            }
            (Self::Active | Self::Retiring { .. }, E::Sweep { .. }) => Err(LastResortRefusal::NotDue),
            (Self::Active | Self::Retiring { .. }, E::Revoke) => Ok(Self::Gone),
            (Self::Gone, E::Replace { .. } | E::Reserve | E::Commit | E::Sweep { .. } | E::Revoke) => {
                Err(LastResortRefusal::Gone)
            }
        }
    }
}

/// The state of a last resort on the device that owns it. The private keys are kept in every state but
/// [`OwnLastResort::Erased`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OwnLastResort {
    /// Minted; the directory has not confirmed it.
    Created,
    /// The directory hands it out when nothing else is left.
    Active,
    /// A newer one was confirmed. Invitations under way may still name this one.
    Retiring {
        /// When the private keys are erased.
        until: UnixSeconds,
    },
    /// The directory held it, and its inventory does not name it any more. Invitations under way may still name it, so the
    /// private keys are kept to its end. It never counts again.
    Lost,
    /// The private keys are gone. Terminal.
    Erased,
}

/// What can happen to a last resort on the device that owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OwnLastResortEvent {
    /// The directory holds it.
    Confirmed,
    /// The directory's inventory does not name it.
    Missing,
    /// The directory refused it, and never held it.
    Rejected,
    /// The directory says that it is gone: no Commit can add it any more.
    GoneThere,
    /// A Welcome was joined with it. It may be for others too, so the keys stay.
    Joined,
    /// A newer one was confirmed.
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
}

impl OwnLastResort {
    /// The state after `event`; `None` when it does not apply and the state stays as it was.
    pub fn apply(self, event: OwnLastResortEvent) -> Option<Self> {
        use OwnLastResortEvent as E;
        match (self, event) {
            (Self::Created | Self::Active, E::Confirmed) => Some(Self::Active),
            (state @ (Self::Retiring { .. } | Self::Lost), E::Confirmed) => Some(state),
            // An upload may not have arrived; a retiring one is served no more and soon erased.
            (state @ (Self::Created | Self::Retiring { .. }), E::Missing) => Some(state),
            (Self::Active | Self::Lost, E::Missing) => Some(Self::Lost),
            (Self::Created, E::Rejected) => Some(Self::Erased),
            (Self::Active | Self::Retiring { .. } | Self::Lost, E::Rejected) => None,
            (Self::Created | Self::Active | Self::Retiring { .. } | Self::Lost, E::GoneThere) => {
                Some(Self::Erased)
            }
            (state @ (Self::Created | Self::Active | Self::Retiring { .. } | Self::Lost), E::Joined) => {
                Some(state)
            }
            (Self::Created | Self::Active, E::Replace { until }) => Some(Self::Retiring { until }),
            (state @ (Self::Retiring { .. } | Self::Lost), E::Replace { .. }) => Some(state),
            (Self::Created | Self::Active | Self::Lost, E::Sweep { now, erase_at }) => {
                (now >= erase_at).then_some(Self::Erased)
            }
            (Self::Retiring { until }, E::Sweep { now, erase_at }) => {
                (now >= until || now >= erase_at).then_some(Self::Erased)
            }
            (
                Self::Erased,
                E::Confirmed
                | E::Missing
                | E::Rejected
                | E::GoneThere
                | E::Joined
                | E::Replace { .. }
                | E::Sweep { .. },
            ) => None,
        }
    }

    /// Whether the private keys are kept in this state.
    pub fn is_live(self) -> bool {
        match self {
            Self::Created | Self::Active | Self::Retiring { .. } | Self::Lost => true,
            Self::Erased => false,
        }
    }

    /// Whether it counts against the hard cap: the live ones do, but those that the directory lost.
    pub fn is_in_stock(self) -> bool {
        match self {
            Self::Created | Self::Active | Self::Retiring { .. } => true,
            Self::Lost | Self::Erased => false,
        }
    }
}

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
    use proptest::prelude::*;

    use super::*;

    const UNTIL: UnixSeconds = UnixSeconds(50);

    fn directory_events() -> impl Strategy<Value = LastResortEvent> {
        prop_oneof![
            Just(LastResortEvent::UploadAgain),
            Just(LastResortEvent::Replace { until: UNTIL }),
            Just(LastResortEvent::Reserve),
            Just(LastResortEvent::Commit),
            (0..99u64).prop_map(|now| LastResortEvent::Sweep {
                now: UnixSeconds(now),
                not_after: UnixSeconds(90)
            }),
            Just(LastResortEvent::Revoke),
        ]
    }

    proptest! {
        #[test]
        fn a_last_resort_only_moves_towards_its_end(history in prop::collection::vec(directory_events(), 0..20)) {
            let rank = |state| match state {
                LastResortState::Active => 0,
                LastResortState::Retiring { .. } => 1,
                LastResortState::Gone => 2,
            };
            let mut state = LastResortState::Active;
            for event in history {
                if let Ok(next) = state.apply(event) {
                    prop_assert!(rank(next) >= rank(state));
                    if event == LastResortEvent::Reserve {
                        prop_assert_eq!(next, LastResortState::Active, "only an active one is handed out");
                    }
                    state = next;
                }
            }
        }
    }

    #[test]
    fn a_replaced_last_resort_still_serves_what_was_under_way_for_a_day() {
        let retiring = LastResortState::Active
            .apply(LastResortEvent::Replace { until: UNTIL })
            .unwrap();
        assert_eq!(
            retiring.apply(LastResortEvent::Reserve),
            Err(LastResortRefusal::Replaced)
        );
        assert_eq!(retiring.apply(LastResortEvent::Commit), Ok(retiring));
        let sweep = |now| LastResortEvent::Sweep {
            now: UnixSeconds(now),
            not_after: UnixSeconds(1000),
        };
        assert_eq!(retiring.apply(sweep(49)), Err(LastResortRefusal::NotDue));
        assert_eq!(retiring.apply(sweep(50)), Ok(LastResortState::Gone));
    }

    #[test]
    fn the_owner_keeps_the_keys_until_the_end_of_the_retirement() {
        use OwnLastResortEvent as E;
        let active = OwnLastResort::Created.apply(E::Confirmed).unwrap();
        assert_eq!(active.apply(E::Joined), Some(active), "it may be for others too");
        assert_eq!(active.apply(E::Rejected), None, "the directory holds it");
        let retiring = active.apply(E::Replace { until: UNTIL }).unwrap();
        let sweep = |now| E::Sweep {
            now: UnixSeconds(now),
            erase_at: UnixSeconds(1000),
        };
        assert_eq!(retiring.apply(sweep(49)), None);
        assert_eq!(retiring.apply(sweep(50)), Some(OwnLastResort::Erased));
        assert!(retiring.is_live() && !OwnLastResort::Erased.is_live());
    }

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

    #[test]
    fn a_last_resort_that_was_lost_keeps_its_keys_to_its_end() {
        use OwnLastResortEvent as E;
        let lost = OwnLastResort::Active.apply(E::Missing).unwrap();
        assert_eq!(lost, OwnLastResort::Lost);
        assert!(lost.is_live() && !lost.is_in_stock());
        for event in [E::Confirmed, E::Missing, E::Joined, E::Replace { until: UNTIL }] {
            assert_eq!(lost.apply(event), Some(lost));
        }
        let sweep = |now| E::Sweep {
            now: UnixSeconds(now),
            erase_at: UnixSeconds(1000),
        };
        assert_eq!(lost.apply(sweep(999)), None);
        assert_eq!(lost.apply(sweep(1000)), Some(OwnLastResort::Erased));
        let created = OwnLastResort::Created;
        assert_eq!(
            created.apply(E::Missing),
            Some(created),
            "an upload may be under way"
        );
    }
}
