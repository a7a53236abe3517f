use crate::time::UnixSeconds;

/// The state of an ordinary KeyPackage in the directory.
///
/// `D` names a device, `G` a group. Only [`DirectoryState::Available`] is ever handed out, and nothing leads back to
/// it: **disclosure is one way**. Once the bytes have left the directory, the KeyPackage is spent by the one Commit
/// that adds it, or by nothing at all.
///
/// ```text
/// upload ──▶ available ──reserve──▶ reserved ──commit accepted──▶ spent
///               │                      │
///               ├──expire──▶ expired   ├──lapse, abandon──▶ lapsed
///               └──revoke──▶ revoked   └──revoke──────────▶ revoked
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DirectoryState<D, G> {
    /// Never disclosed; may be handed out.
    Available,
    /// Disclosed to one device for one group.
    Reserved {
        /// The device that may commit it.
        by: D,
        /// The group that it may be added to.
        group: G,
        /// From here on the sweeper may lapse it. A Commit that arrives before the sweep is still accepted.
        until: UnixSeconds,
    },
    /// Added by an accepted Commit. Terminal.
    Spent {
        /// The device that committed it.
        by: D,
        /// The group that it was added to.
        group: G,
    },
    /// Disclosed, and never committed. Terminal.
    Lapsed,
    /// Never disclosed, and too old to be. Terminal.
    Expired,
    /// Withdrawn by its owner. Terminal.
    Revoked,
}

/// A [`DirectoryState`] without its data: what a column holds and an inventory tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DirectoryStatus {
    /// See [`DirectoryState::Available`].
    Available,
    /// See [`DirectoryState::Reserved`].
    Reserved,
    /// See [`DirectoryState::Spent`].
    Spent,
    /// See [`DirectoryState::Lapsed`].
    Lapsed,
    /// See [`DirectoryState::Expired`].
    Expired,
    /// See [`DirectoryState::Revoked`].
    Revoked,
}

/// What can happen to a KeyPackage in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryEvent<D, G> {
    /// The same bytes are uploaded again.
    UploadAgain,
    /// A device asks for a KeyPackage to add to a group.
    Reserve {
        /// The device that asks.
        by: D,
        /// The group.
        group: G,
        /// When the reservation may lapse.
        until: UnixSeconds,
    },
    /// A Commit that adds the KeyPackage is otherwise acceptable.
    Commit {
        /// The device that sent it.
        by: D,
        /// The group that it is for.
        group: G,
    },
    /// The holder gives the reservation up.
    Abandon {
        /// The device that says so.
        by: D,
    },
    /// The sweeper found the reservation's deadline past.
    Lapse {
        /// The time of the sweep.
        now: UnixSeconds,
    },
    /// The sweeper found too little life left.
    Expire {
        /// The time of the sweep.
        now: UnixSeconds,
        /// The KeyPackage is served before this time only.
        served_before: UnixSeconds,
    },
    /// The owner withdraws it.
    Revoke,
}

/// Why an event does not apply. The state stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Nobody reserved it.
    NotReserved,
    /// It is disclosed already.
    AlreadyReserved,
    /// Another device holds the reservation.
    HeldByAnother,
    /// It is reserved for another group.
    HeldForAnotherGroup,
    /// An accepted Commit added it.
    AlreadySpent,
    /// It has lapsed.
    Lapsed,
    /// It has expired.
    Expired,
    /// Its owner withdrew it.
    Revoked,
    /// Too early for the sweeper.
    NotDue,
    /// Only an available KeyPackage expires; this one may still be committed.
    Disclosed,
}

impl<D: PartialEq, G: PartialEq> DirectoryState<D, G> {
    /// The state after `event`.
    ///
    /// # Errors
    /// [`Refusal`] when the event does not apply; the state stays as it was.
    pub fn apply(self, event: DirectoryEvent<D, G>) -> Result<Self, Refusal> {
        use DirectoryEvent as E;
        match (self, event) {
            (state @ Self::Available, E::UploadAgain) => Ok(state),
            (Self::Available, E::Reserve { by, group, until }) => Ok(Self::Reserved { by, group, until }),
            (Self::Available, E::Commit { .. } | E::Abandon { .. }) => Err(Refusal::NotReserved),
            (Self::Available, E::Lapse { .. }) => Err(Refusal::NotDue),
            (Self::Available, E::Expire { now, served_before }) if now >= served_before => Ok(Self::Expired),
            (Self::Available, E::Expire { .. }) => Err(Refusal::NotDue),
            (Self::Available, E::Revoke) => Ok(Self::Revoked),

            (state @ Self::Reserved { .. }, E::UploadAgain) => Ok(state),
            (Self::Reserved { .. }, E::Reserve { .. }) => Err(Refusal::AlreadyReserved),
            (
                Self::Reserved {
                    by: holder,
                    group: held_for,
                    ..
                },
                E::Commit { by, group },
            ) => {
                if by != holder {
                    Err(Refusal::HeldByAnother)
                } else if group != held_for {
                    Err(Refusal::HeldForAnotherGroup)
                } else {
                    Ok(Self::Spent { by, group })
                }
            }
            (Self::Reserved { by: holder, .. }, E::Abandon { by }) if by == holder => Ok(Self::Lapsed),
            (Self::Reserved { .. }, E::Abandon { .. }) => Err(Refusal::HeldByAnother),
            (Self::Reserved { until, .. }, E::Lapse { now }) if now >= until => Ok(Self::Lapsed),
            (Self::Reserved { .. }, E::Lapse { .. }) => Err(Refusal::NotDue),
            (Self::Reserved { .. }, E::Expire { .. }) => Err(Refusal::Disclosed),
            (Self::Reserved { .. }, E::Revoke) => Ok(Self::Revoked),

            (state @ (Self::Spent { .. } | Self::Lapsed | Self::Expired | Self::Revoked), E::UploadAgain) => {
                Ok(state)
            }
            (
                Self::Spent { .. },
                E::Reserve { .. }
                | E::Commit { .. }
                | E::Abandon { .. }
                | E::Lapse { .. }
                | E::Expire { .. }
                | E::Revoke,
            ) => Err(Refusal::AlreadySpent),
            (
                Self::Lapsed,
                E::Reserve { .. }
                | E::Commit { .. }
                | E::Abandon { .. }
                | E::Lapse { .. }
                | E::Expire { .. }
                | E::Revoke,
            ) => Err(Refusal::Lapsed),
            (
                Self::Expired,
                E::Reserve { .. }
                | E::Commit { .. }
                | E::Abandon { .. }
                | E::Lapse { .. }
                | E::Expire { .. }
                | E::Revoke,
            ) => Err(Refusal::Expired),
            (
                Self::Revoked,
                E::Reserve { .. }
                | E::Commit { .. }
                | E::Abandon { .. }
                | E::Lapse { .. }
                | E::Expire { .. }
                | E::Revoke,
            ) => Err(Refusal::Revoked),
        }
    }
}

impl<D, G> DirectoryState<D, G> {
    /// The state without its data.
    pub fn status(&self) -> DirectoryStatus {
        match self {
            Self::Available => DirectoryStatus::Available,
            Self::Reserved { .. } => DirectoryStatus::Reserved,
            Self::Spent { .. } => DirectoryStatus::Spent,
            Self::Lapsed => DirectoryStatus::Lapsed,
            Self::Expired => DirectoryStatus::Expired,
            Self::Revoked => DirectoryStatus::Revoked,
        }
    }
}

impl DirectoryStatus {
    /// Every status.
    pub const ALL: [Self; 6] = [
        Self::Available,
        Self::Reserved,
        Self::Spent,
        Self::Lapsed,
        Self::Expired,
        Self::Revoked,
    ];

    /// Whether nothing but the removal of the tombstone can happen any more.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Available | Self::Reserved => false,
            Self::Spent | Self::Lapsed | Self::Expired | Self::Revoked => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type State = DirectoryState<u8, u8>;
    type Event = DirectoryEvent<u8, u8>;

    fn events() -> impl Strategy<Value = Event> {
        let (device, group, time) = (0..3u8, 0..3u8, 0..100u64);
        prop_oneof![
            Just(Event::UploadAgain),
            (device.clone(), group.clone(), time.clone()).prop_map(|(by, group, until)| Event::Reserve {
                by,
                group,
                until: UnixSeconds(until)
            }),
            (device.clone(), group).prop_map(|(by, group)| Event::Commit { by, group }),
            device.prop_map(|by| Event::Abandon { by }),
            time.clone().prop_map(|now| Event::Lapse {
                now: UnixSeconds(now)
            }),
            (time.clone(), time).prop_map(|(now, until)| Event::Expire {
                now: UnixSeconds(now),
                served_before: UnixSeconds(until)
            }),
            Just(Event::Revoke),
        ]
    }

    proptest! {
        #[test]
        fn disclosure_is_one_way_and_terminal_is_terminal(history in prop::collection::vec(events(), 0..40)) {
            let mut state = State::Available;
            let (mut disclosed_to, mut spent) = (None, 0);
            for event in history {
                let before = state.clone();
                match state.clone().apply(event) {
                    Ok(next) => state = next,
                    Err(_) => continue,
                }
                if before.status().is_terminal() {
                    prop_assert_eq!(&state, &before);
                }
                match (&before, &state) {
                    (State::Available, State::Reserved { by, group, .. }) => {
                        prop_assert!(disclosed_to.replace((*by, *group)).is_none(), "S2: disclosed twice");
                    }
                    (State::Reserved { .. }, State::Spent { by, group }) => {
                        spent += 1;
                        prop_assert_eq!(disclosed_to, Some((*by, *group)));
                    }
                    (_, State::Available) => prop_assert!(disclosed_to.is_none(), "back to available"),
                    (_, State::Expired) => prop_assert!(disclosed_to.is_none(), "a disclosed one expired"),
                    _ => {}
                }
            }
            prop_assert!(spent <= 1, "S1: spent twice");
        }
    }

    #[test]
    fn a_commit_spends_only_what_its_sender_reserved_for_that_group() {
        let reserved = State::Reserved {
            by: 1,
            group: 7,
            until: UnixSeconds(10),
        };
        let commit = |by, group| Event::Commit { by, group };
        assert_eq!(
            reserved.clone().apply(commit(1, 7)),
            Ok(State::Spent { by: 1, group: 7 })
        );
        assert_eq!(reserved.clone().apply(commit(2, 7)), Err(Refusal::HeldByAnother));
        assert_eq!(reserved.apply(commit(1, 8)), Err(Refusal::HeldForAnotherGroup));
        assert_eq!(State::Available.apply(commit(1, 7)), Err(Refusal::NotReserved));
        assert_eq!(
            State::Spent { by: 1, group: 7 }.apply(commit(1, 7)),
            Err(Refusal::AlreadySpent)
        );
        assert_eq!(State::Lapsed.apply(commit(1, 7)), Err(Refusal::Lapsed));
    }

    #[test]
    fn a_commit_after_the_deadline_but_before_the_sweep_is_accepted() {
        let reserved = State::Reserved {
            by: 1,
            group: 7,
            until: UnixSeconds(10),
        };
        assert_eq!(
            reserved.clone().apply(Event::Lapse { now: UnixSeconds(9) }),
            Err(Refusal::NotDue)
        );
        assert_eq!(
            reserved.clone().apply(Event::Lapse { now: UnixSeconds(10) }),
            Ok(State::Lapsed)
        );
        assert!(
            reserved.apply(Event::Commit { by: 1, group: 7 }).is_ok(),
            "a Commit looks at no clock"
        );
    }

    #[test]
    fn only_the_holder_abandons_and_a_reserved_one_never_expires() {
        let reserved = State::Reserved {
            by: 1,
            group: 7,
            until: UnixSeconds(10),
        };
        assert_eq!(
            reserved.clone().apply(Event::Abandon { by: 2 }),
            Err(Refusal::HeldByAnother)
        );
        assert_eq!(
            reserved.clone().apply(Event::Abandon { by: 1 }),
            Ok(State::Lapsed)
        );
        let expire = Event::Expire {
            now: UnixSeconds(99),
            served_before: UnixSeconds(5),
        };
        assert_eq!(reserved.apply(expire), Err(Refusal::Disclosed));
    }

    #[test]
    fn the_same_bytes_again_revive_nothing() {
        for state in [
            State::Lapsed,
            State::Expired,
            State::Revoked,
            State::Spent { by: 1, group: 1 },
        ] {
            assert_eq!(state.clone().apply(Event::UploadAgain), Ok(state));
        }
    }
}
