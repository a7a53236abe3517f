use std::collections::BTreeMap;

use crate::pool::{PoolEvent, PoolState};
use crate::status::{DirectoryStatus, Kind};
use crate::time::UnixSeconds;

/// One thing to set right so that pool and directory agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Correction<R> {
    /// The directory holds it and we have no private keys for it: revoke it there.
    RevokeThere(R),
    /// The directory does not know it: upload the same bytes again.
    UploadAgain(R),
    /// Apply this event to our row: the directory's word moves it.
    Apply(R, PoolEvent),
}

/// Compares the pool with the directory's inventory, by KeyPackageRef.
///
/// * In the **directory only**, and live there: nobody could open an invitation with it, so it is revoked there.
/// * In **both**: the directory's state is taken over.
/// * **Here only**: an upload was lost, so it is sent again; or the directory had it and lost it, and it counts for
///   nothing any more. Absence proves nothing, so it erases nothing. One that is of the other kind there is as if it was
///   not there.
/// * **Lost** here, and handed out by the directory again: it was replaced, so it is revoked there.
///
/// `local` holds every row of the pool, terminal ones included; each reference once on either side. Corrections come
/// in the order of the references, and there are none when both sides agree.
pub fn reconcile<R: Ord + Clone>(
    local: impl IntoIterator<Item = (R, Kind, PoolState)>,
    directory: impl IntoIterator<Item = (R, Kind, DirectoryStatus)>,
    now: UnixSeconds,
) -> Vec<Correction<R>> {
    type Side<S> = Option<(Kind, S)>;
    let mut sides: BTreeMap<R, (Side<PoolState>, Side<DirectoryStatus>)> = BTreeMap::new();
    for (key_package_ref, kind, state) in local {
        sides.entry(key_package_ref).or_default().0 = Some((kind, state));
    }
    for (key_package_ref, kind, status) in directory {
        sides.entry(key_package_ref).or_default().1 = Some((kind, status));
    }
    sides
        .into_iter()
        .filter_map(|(key_package_ref, sides)| match sides {
            (Some((kind, state)), there) => {
                let status = there.filter(|there| there.0 == kind).map(|(_, status)| status);
                known_here(key_package_ref, (kind, state), status, now)
            }
            (None, Some((_, status))) if !status.has_ended() => {
                Some(Correction::RevokeThere(key_package_ref))
            }
            (None, _) => None,
        })
        .collect()
}

fn known_here<R>(
    key_package_ref: R,
    (kind, state): (Kind, PoolState),
    status: Option<DirectoryStatus>,
    now: UnixSeconds,
) -> Option<Correction<R>> {
    let event = match status {
        None if state == PoolState::Created => return Some(Correction::UploadAgain(key_package_ref)),
        None => PoolEvent::Missing,
        Some(DirectoryStatus::Available) if state == PoolState::Lost => {
            return Some(Correction::RevokeThere(key_package_ref));
        }
        // The private keys are gone here; an invitation with it could not be opened.
        Some(status) if !state.is_live() && !status.has_ended() => {
            return Some(Correction::RevokeThere(key_package_ref));
        }
        Some(status) => PoolEvent::told(kind, status, now),
    };
    match state.apply(kind, event) {
        Ok(next) if next != state => Some(Correction::Apply(key_package_ref, event)),
        Ok(_) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: UnixSeconds = UnixSeconds(100);

    const STATES: [PoolState; 10] = [
        PoolState::Created,
        PoolState::Available,
        PoolState::Reserved,
        PoolState::Retiring { until: NOW },
        PoolState::Lost,
        PoolState::Spent,
        PoolState::Lapsed,
        PoolState::Expired,
        PoolState::Revoked,
        PoolState::Gone,
    ];

    proptest! {
        #[test]
        fn after_the_corrections_both_sides_agree(
            pairs in prop::collection::btree_map(
                0..50u8,
                (
                    prop::option::of(prop::sample::select(&STATES[..])),
                    prop::option::of(prop::sample::select(&DirectoryStatus::ALL[..])),
                ),
                0..50,
            ),
        ) {
            let kind = |r: u8| if r.is_multiple_of(5) { Kind::LastResort } else { Kind::SingleUse };
            let fits = |r: u8, state: PoolState| match kind(r) {
                Kind::SingleUse => !matches!(state, PoolState::Retiring { .. } | PoolState::Gone),
                Kind::LastResort => !matches!(state, PoolState::Reserved | PoolState::Spent),
            };
            let mut local: BTreeMap<u8, PoolState> =
                pairs.iter().filter_map(|(r, p)| Some((*r, p.0?))).filter(|(r, s)| fits(*r, *s)).collect();
            let may_be = |r: u8, status: DirectoryStatus| match kind(r) {
                Kind::SingleUse => !matches!(status, DirectoryStatus::Retiring | DirectoryStatus::Gone),
                Kind::LastResort => !matches!(status, DirectoryStatus::Reserved | DirectoryStatus::Spent),
            };
            let mut there: BTreeMap<u8, DirectoryStatus> =
                pairs.iter().filter_map(|(r, p)| Some((*r, p.1?))).filter(|(r, s)| may_be(*r, *s)).collect();
            let before = local.clone();
            let reconcile = |local: &BTreeMap<u8, PoolState>, there: &BTreeMap<u8, DirectoryStatus>| {
                let local = local.iter().map(|(r, state)| (*r, kind(*r), *state));
                reconcile(local, there.iter().map(|(r, status)| (*r, kind(*r), *status)), NOW)
            };
            // What is revoked there is erased here by the second pass.
            for _ in 0..2 {
                for correction in reconcile(&local, &there) {
                    match correction {
                        Correction::RevokeThere(r) => {
                            let counted = local.get(&r).is_some_and(|state| state.is_in_stock());
                            prop_assert!(!counted, "X2: revoked one that we count on");
                            there.insert(r, DirectoryStatus::Revoked);
                        }
                        Correction::UploadAgain(r) => {
                            there.insert(r, DirectoryStatus::Available);
                            local.insert(r, PoolState::Available);
                        }
                        Correction::Apply(r, event) => {
                            let next = local[&r].apply(kind(r), event).unwrap();
                            local.insert(r, next);
                        }
                    }
                }
            }
            prop_assert_eq!(reconcile(&local, &there), vec![], "a third pass finds nothing");
            for (r, state) in &local {
                let named = there.get(r) == Some(&DirectoryStatus::Available);
                prop_assert!(*state != PoolState::Available || named, "T9: {r} counts and is not there");
            }
            for (r, status) in &there {
                if !status.has_ended() {
                    prop_assert!(local.get(r).is_some_and(|state| state.is_live()), "X2: {r} can be handed out");
                }
            }
            for (r, state) in before {
                if state.is_live() && !there.get(&r).is_some_and(|status| status.has_ended()) {
                    prop_assert!(local[&r].is_live(), "a key was erased because the directory did not name it");
                }
            }
        }
    }

    #[test]
    fn absence_erases_nothing() {
        let local = [
            (1, PoolState::Available),
            (2, PoolState::Reserved),
            (3, PoolState::Created),
            (4, PoolState::Lost),
        ];
        assert_eq!(
            reconcile(local.map(|(r, state)| (r, Kind::SingleUse, state)), [], NOW),
            vec![
                Correction::Apply(1, PoolEvent::Missing),
                Correction::Apply(2, PoolEvent::Missing),
                Correction::UploadAgain(3)
            ]
        );
    }

    #[test]
    fn what_was_lost_and_turns_up_again_is_withdrawn() {
        let turned_up = |status| {
            let (here, there) = (
                (1, Kind::SingleUse, PoolState::Lost),
                (1, Kind::SingleUse, status),
            );
            reconcile([here], [there], NOW)
        };
        assert_eq!(
            turned_up(DirectoryStatus::Available),
            vec![Correction::RevokeThere(1)]
        );
        for under_way in [DirectoryStatus::Reserved, DirectoryStatus::Spent] {
            assert_eq!(turned_up(under_way), vec![], "a Welcome may be on its way");
        }
    }

    #[test]
    fn a_word_on_the_other_kind_is_no_word() {
        let correct = |here, state, there| {
            let status = DirectoryStatus::Revoked;
            reconcile([(1, here, state)], [(1, there, status)], NOW)
        };
        for (here, there) in [
            (Kind::SingleUse, Kind::LastResort),
            (Kind::LastResort, Kind::SingleUse),
        ] {
            assert_eq!(
                correct(here, PoolState::Created, there),
                vec![Correction::UploadAgain(1)]
            );
            let lost = vec![Correction::Apply(1, PoolEvent::Missing)];
            assert_eq!(correct(here, PoolState::Available, there), lost);
        }
    }

    #[test]
    fn a_last_resort_that_retires_there_retires_here() {
        let (here, there) = (
            (1, Kind::LastResort, PoolState::Available),
            (1, Kind::LastResort, DirectoryStatus::Retiring),
        );
        let expected = vec![Correction::Apply(1, PoolEvent::replaced(NOW))];
        assert_eq!(reconcile([here], [there], NOW), expected);
    }
}
