//! A KeyPackage in the directory and the reservations on it: two small machines that serve both kinds.
//!
//! ```text
//! KeyPackage    available ──reserve──▶ taken ──────▶ spent, lapsed, revoked   (single-use)
//!                   ├──────replace──▶ retiring ───▶ gone, expired, revoked   (last resort)
//!                   └─────────────────────────────▶ expired, revoked
//!
//! reservation   open ──────────────────────────────▶ committed, lapsed, revoked
//! ```

use crate::policy::DirectoryPolicy;
use crate::reservation::{Reservation, ReservationState};
use crate::status::{DirectoryStatus, End, Kind};
use crate::time::UnixSeconds;

/// The state of a KeyPackage in the directory.
///
/// Only [`DirectoryState::Available`] is ever handed out, and nothing leads back to it: **disclosure is one way**. Once the
/// bytes of a single-use KeyPackage have left the directory, it is spent by the one Commit that adds it, or by nothing at
/// all. A last resort stays available when it is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DirectoryState {
    /// May be handed out.
    Available,
    /// A single-use KeyPackage was disclosed to the holder of its reservation.
    Taken,
    /// A newer last resort took this one's place; reservations made before may still be committed.
    Retiring {
        /// When it is gone.
        until: UnixSeconds,
    },
    /// Terminal.
    Ended(End),
}

/// A KeyPackage in the directory, with the reservation that an event concerns.
///
/// A single-use KeyPackage has at most one reservation in its life, and comes with it. A last resort can have many, and
/// comes with one of them or none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Listed<D, G> {
    /// Which of the two it is.
    pub kind: Kind,
    /// Its state.
    pub state: DirectoryState,
    /// Whether it was ever handed out.
    pub used: bool,
    /// The reservation.
    pub reservation: Option<Reservation<D, G>>,
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
    /// A newer last resort of the same device and ciphersuite was accepted.
    Replace {
        /// When this one is gone.
        until: UnixSeconds,
    },
    /// The sweeper passes.
    Expire {
        /// The time of the sweep.
        now: UnixSeconds,
        /// When it is of no more use; see [`DirectoryPolicy::of_use_before`].
        of_use_before: UnixSeconds,
    },
    /// The owner withdraws it.
    Revoke,
}

/// Why an event does not apply. Everything stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// There is no such reservation.
    NotReserved,
    /// It is disclosed already.
    AlreadyReserved,
    /// Another device holds the reservation.
    HeldByAnother,
    /// It is reserved for another group.
    HeldForAnotherGroup,
    /// A newer last resort took its place.
    Replaced,
    /// A single-use KeyPackage is not replaced by another.
    SingleUse,
    /// Too early for the sweeper.
    NotDue,
    /// It may still be committed, so that it does not expire.
    Disclosed,
    /// The KeyPackage, or the reservation, is over.
    Over(End),
}

impl<D: Clone + PartialEq, G: Clone + PartialEq> Listed<D, G> {
    /// A KeyPackage that was just uploaded.
    pub fn uploaded(kind: Kind) -> Self {
        Self {
            kind,
            state: DirectoryState::Available,
            used: false,
            reservation: None,
        }
    }

    /// What it is after `event`.
    ///
    /// # Errors
    /// [`Refusal`] when the event does not apply.
    pub fn apply(&self, event: DirectoryEvent<D, G>) -> Result<Self, Refusal> {
        use DirectoryEvent as E;
        match event {
            E::UploadAgain => Ok(self.clone()),
            E::Reserve { by, group, until } => self.reserve(by, group, until),
            E::Commit { by, group } => {
                if let DirectoryState::Ended(end) = self.state {
                    return Err(Refusal::Over(end));
                }
                let reservation = self.open_reservation()?;
                if by != reservation.by {
                    Err(Refusal::HeldByAnother)
                } else if group != reservation.group {
                    Err(Refusal::HeldForAnotherGroup)
                } else {
                    Ok(self.closed(reservation, ReservationState::Committed))
                }
            }
            E::Abandon { by } => match self.open_reservation()? {
                reservation if reservation.by == by => Ok(self.closed(reservation, ReservationState::Lapsed)),
                _ => Err(Refusal::HeldByAnother),
            },
            E::Lapse { now } => match self.open_reservation()? {
                reservation if now >= reservation.until => {
                    Ok(self.closed(reservation, ReservationState::Lapsed))
                }
                _ => Err(Refusal::NotDue),
            },
            E::Replace { until } => match (self.kind, self.state) {
                (Kind::SingleUse, _) => Err(Refusal::SingleUse),
                (Kind::LastResort, DirectoryState::Available) => {
                    Ok(self.moved(DirectoryState::Retiring { until }))
                }
                (Kind::LastResort, DirectoryState::Retiring { .. }) => Err(Refusal::Replaced),
                (Kind::LastResort, DirectoryState::Taken) => Err(Refusal::AlreadyReserved),
                (Kind::LastResort, DirectoryState::Ended(end)) => Err(Refusal::Over(end)),
            },
            E::Expire { now, of_use_before } => {
                let end = match self.state {
                    DirectoryState::Ended(end) => return Err(Refusal::Over(end)),
                    DirectoryState::Taken => return Err(Refusal::Disclosed),
                    DirectoryState::Retiring { until } if now >= until => End::Gone,
                    DirectoryState::Available | DirectoryState::Retiring { .. } if now >= of_use_before => {
                        End::Expired
                    }
                    DirectoryState::Available | DirectoryState::Retiring { .. } => {
                        return Err(Refusal::NotDue);
                    }
                };
                Ok(self.moved(DirectoryState::Ended(end)))
            }
            E::Revoke => match self.state {
                DirectoryState::Ended(end) => Err(Refusal::Over(end)),
                DirectoryState::Taken => Ok(self.closed(self.open_reservation()?, ReservationState::Revoked)),
                DirectoryState::Available | DirectoryState::Retiring { .. } => {
                    Ok(self.moved(DirectoryState::Ended(End::Revoked)))
                }
            },
        }
    }

    fn reserve(&self, by: D, group: G, until: UnixSeconds) -> Result<Self, Refusal> {
        let state = match (self.state, self.kind) {
            (DirectoryState::Available, Kind::SingleUse) => DirectoryState::Taken,
            (DirectoryState::Available, Kind::LastResort) => DirectoryState::Available,
            (DirectoryState::Taken, _) => return Err(Refusal::AlreadyReserved),
            (DirectoryState::Retiring { .. }, _) => return Err(Refusal::Replaced),
            (DirectoryState::Ended(end), _) => return Err(Refusal::Over(end)),
        };
        Ok(Self {
            kind: self.kind,
            state,
            used: true,
            reservation: Some(Reservation {
                by,
                group,
                until,
                state: ReservationState::Open,
            }),
        })
    }

    fn open_reservation(&self) -> Result<&Reservation<D, G>, Refusal> {
        match (&self.reservation, self.state) {
            (Some(reservation), _) if reservation.state == ReservationState::Open => Ok(reservation),
            (_, DirectoryState::Ended(end)) => Err(Refusal::Over(end)),
            (None, _) => Err(Refusal::NotReserved),
            (Some(reservation), _) => Err(match reservation.state {
                ReservationState::Open => Refusal::NotReserved,
                ReservationState::Committed => Refusal::Over(End::Spent),
                ReservationState::Lapsed => Refusal::Over(End::Lapsed),
                ReservationState::Revoked => Refusal::Over(End::Revoked),
            }),
        }
    }

    /// The end of a reservation is that of a single-use KeyPackage; a last resort stays as it is.
    fn closed(&self, reservation: &Reservation<D, G>, outcome: ReservationState) -> Self {
        let end = match outcome {
            ReservationState::Open => None,
            ReservationState::Committed => Some(End::Spent),
            ReservationState::Lapsed => Some(End::Lapsed),
            ReservationState::Revoked => Some(End::Revoked),
        };
        Self {
            state: match (self.kind, end) {
                (Kind::SingleUse, Some(end)) => DirectoryState::Ended(end),
                (Kind::SingleUse, None) | (Kind::LastResort, _) => self.state,
            },
            reservation: Some(Reservation {
                state: outcome,
                ..reservation.clone()
            }),
            ..self.clone()
        }
    }

    fn moved(&self, state: DirectoryState) -> Self {
        Self {
            state,
            ..self.clone()
        }
    }
}

impl DirectoryState {
    /// The state without its data.
    pub fn status(self) -> DirectoryStatus {
        match self {
            Self::Available => DirectoryStatus::Available,
            Self::Taken => DirectoryStatus::Reserved,
            Self::Retiring { .. } => DirectoryStatus::Retiring,
            Self::Ended(End::Spent) => DirectoryStatus::Spent,
            Self::Ended(End::Lapsed) => DirectoryStatus::Lapsed,
            Self::Ended(End::Expired) => DirectoryStatus::Expired,
            Self::Ended(End::Revoked) => DirectoryStatus::Revoked,
            Self::Ended(End::Gone) => DirectoryStatus::Gone,
        }
    }

    /// Whether nothing but the removal of the tombstone can happen any more.
    pub fn has_ended(self) -> bool {
        self.status().has_ended()
    }
}

impl DirectoryPolicy {
    /// When a KeyPackage with this `not_after` is of no more use to the directory. One that is single-use is served before that
    /// only; a last resort, which is better than nothing, may be committed to the end of its life.
    pub fn of_use_before(&self, kind: Kind, not_after: UnixSeconds) -> UnixSeconds {
        match kind {
            Kind::SingleUse => self.served_before(not_after),
            Kind::LastResort => not_after,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Entry = Listed<u8, u8>;
    type Event = DirectoryEvent<u8, u8>;

    const KINDS: [Kind; 2] = [Kind::SingleUse, Kind::LastResort];

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
            time.clone().prop_map(|until| Event::Replace {
                until: UnixSeconds(until)
            }),
            (time.clone(), time).prop_map(|(now, before)| Event::Expire {
                now: UnixSeconds(now),
                of_use_before: UnixSeconds(before)
            }),
            Just(Event::Revoke),
        ]
    }

    fn rank(state: DirectoryState) -> u8 {
        match state {
            DirectoryState::Available => 0,
            DirectoryState::Taken | DirectoryState::Retiring { .. } => 1,
            DirectoryState::Ended(_) => 2,
        }
    }

    proptest! {
        #[test]
        fn disclosure_is_one_way_and_what_has_ended_stays_so(
            history in prop::collection::vec(events(), 0..40),
            kind in prop::sample::select(&KINDS[..]),
        ) {
            let mut entry = Entry::uploaded(kind);
            let (mut disclosed, mut spent) = (0, 0);
            for event in history {
                let Ok(next) = entry.apply(event.clone()) else { continue };
                prop_assert!(rank(next.state) >= rank(entry.state), "S3");
                if entry.state.has_ended() {
                    prop_assert_eq!(next.state, entry.state, "S3");
                }
                prop_assert!(next.used >= entry.used);
                match event {
                    Event::Reserve { .. } => {
                        disclosed += 1;
                        prop_assert_eq!(entry.state, DirectoryState::Available);
                    }
                    Event::Commit { by, group } => {
                        spent += 1;
                        let held = entry.reservation.unwrap();
                        prop_assert_eq!((held.by, held.group, held.state), (by, group, ReservationState::Open));
                    }
                    _ => {}
                }
                if kind == Kind::SingleUse {
                    prop_assert!(disclosed <= 1, "S2");
                    prop_assert!(spent <= 1, "S1");
                    let open = next.reservation.is_some_and(|held| held.state == ReservationState::Open);
                    prop_assert_eq!(open, next.state == DirectoryState::Taken);
                } else {
                    prop_assert!(next.state != DirectoryState::Taken);
                }
                entry = next;
            }
        }
    }

    fn reserved(kind: Kind) -> Entry {
        let reserve = Event::Reserve {
            by: 1,
            group: 7,
            until: UnixSeconds(10),
        };
        Entry::uploaded(kind).apply(reserve).unwrap()
    }

    fn commit(by: u8, group: u8) -> Event {
        Event::Commit { by, group }
    }

    fn expire(now: u64, of_use_before: u64) -> Event {
        Event::Expire {
            now: UnixSeconds(now),
            of_use_before: UnixSeconds(of_use_before),
        }
    }

    #[test]
    fn only_the_holder_commits_and_only_to_the_group_that_it_named() {
        for kind in KINDS {
            let reserved = reserved(kind);
            assert_eq!(reserved.apply(commit(2, 7)), Err(Refusal::HeldByAnother));
            assert_eq!(reserved.apply(commit(1, 8)), Err(Refusal::HeldForAnotherGroup));
            let committed = reserved.apply(commit(1, 7)).unwrap();
            assert_eq!(committed.apply(commit(1, 7)), Err(Refusal::Over(End::Spent)));
            let never = Entry::uploaded(kind);
            assert_eq!(never.apply(commit(1, 7)), Err(Refusal::NotReserved));
        }
        let spent = reserved(Kind::SingleUse).apply(commit(1, 7)).unwrap();
        assert_eq!(spent.state, DirectoryState::Ended(End::Spent));
        let stays = reserved(Kind::LastResort).apply(commit(1, 7)).unwrap();
        assert_eq!(stays.state, DirectoryState::Available);
    }

    #[test]
    fn a_commit_after_the_deadline_but_before_the_sweep_is_accepted() {
        for kind in KINDS {
            let reserved = reserved(kind);
            let lapse = |now| Event::Lapse {
                now: UnixSeconds(now),
            };
            assert_eq!(reserved.apply(lapse(9)), Err(Refusal::NotDue));
            let lapsed = reserved.apply(lapse(10)).unwrap();
            assert_eq!(lapsed.apply(commit(1, 7)), Err(Refusal::Over(End::Lapsed)));
            assert!(reserved.apply(commit(1, 7)).is_ok(), "a Commit looks at no clock");
        }
    }

    #[test]
    fn only_the_holder_abandons_and_a_disclosed_one_never_expires() {
        for kind in KINDS {
            let reserved = reserved(kind);
            assert_eq!(
                reserved.apply(Event::Abandon { by: 2 }),
                Err(Refusal::HeldByAnother)
            );
            let given_up = reserved.apply(Event::Abandon { by: 1 }).unwrap();
            assert_eq!(given_up.reservation.unwrap().state, ReservationState::Lapsed);
        }
        assert_eq!(
            reserved(Kind::SingleUse).apply(expire(99, 5)),
            Err(Refusal::Disclosed)
        );
    }

    #[test]
    fn a_replaced_last_resort_still_serves_what_was_under_way() {
        let replace = Event::Replace {
            until: UnixSeconds(50),
        };
        assert_eq!(
            reserved(Kind::SingleUse).apply(replace.clone()),
            Err(Refusal::SingleUse)
        );
        let retiring = reserved(Kind::LastResort).apply(replace.clone()).unwrap();
        assert_eq!(retiring.apply(replace), Err(Refusal::Replaced));
        let reserve = Event::Reserve {
            by: 2,
            group: 7,
            until: UnixSeconds(10),
        };
        assert_eq!(retiring.apply(reserve), Err(Refusal::Replaced));
        assert!(retiring.apply(commit(1, 7)).is_ok());
        assert_eq!(retiring.apply(expire(49, 1000)), Err(Refusal::NotDue));
        let ended = |now, before| retiring.apply(expire(now, before)).unwrap().state;
        assert_eq!(ended(50, 1000), DirectoryState::Ended(End::Gone));
        assert_eq!(ended(49, 49), DirectoryState::Ended(End::Expired));
    }

    #[test]
    fn a_reservation_on_a_last_resort_that_is_over_lapses_and_adds_nothing() {
        let over = reserved(Kind::LastResort).apply(Event::Revoke).unwrap();
        assert_eq!(over.apply(commit(1, 7)), Err(Refusal::Over(End::Revoked)));
        let lapsed = over.apply(Event::Lapse { now: UnixSeconds(10) }).unwrap();
        assert_eq!(lapsed.state, DirectoryState::Ended(End::Revoked));
        assert_eq!(lapsed.reservation.unwrap().state, ReservationState::Lapsed);
    }

    #[test]
    fn what_is_withdrawn_takes_its_reservation_with_it() {
        let revoked = reserved(Kind::SingleUse).apply(Event::Revoke).unwrap();
        assert_eq!(revoked.state, DirectoryState::Ended(End::Revoked));
        assert_eq!(revoked.reservation.unwrap().state, ReservationState::Revoked);
    }

    #[test]
    fn the_same_bytes_again_revive_nothing() {
        for end in [End::Spent, End::Lapsed, End::Expired, End::Revoked, End::Gone] {
            let entry = Entry {
                state: DirectoryState::Ended(end),
                ..Entry::uploaded(Kind::SingleUse)
            };
            assert_eq!(entry.apply(Event::UploadAgain), Ok(entry));
        }
    }
}
