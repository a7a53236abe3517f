use std::collections::BTreeMap;

use crate::directory::DirectoryStatus;
use crate::pool::{PoolEvent, PoolState};

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
///   nothing any more. Absence proves nothing, so it erases nothing.
/// * **Lost** here, and handed out by the directory again: it was replaced, so it is revoked there.
///
/// `local` holds every row of the pool, terminal ones included; each reference once on either side. Corrections come
/// in the order of the references, and there are none when both sides agree.
pub fn reconcile<R: Ord + Clone>(
    local: impl IntoIterator<Item = (R, PoolState)>,
    directory: impl IntoIterator<Item = (R, DirectoryStatus)>,
) -> Vec<Correction<R>> {
    let mut sides: BTreeMap<R, (Option<PoolState>, Option<DirectoryStatus>)> = BTreeMap::new();
    for (key_package_ref, state) in local {
        sides.entry(key_package_ref).or_default().0 = Some(state);
    }
    for (key_package_ref, status) in directory {
        sides.entry(key_package_ref).or_default().1 = Some(status);
    }
    sides
        .into_iter()
        .filter_map(|(key_package_ref, sides)| correct(key_package_ref, sides))
        .collect()
}

fn correct<R>(
    key_package_ref: R,
    sides: (Option<PoolState>, Option<DirectoryStatus>),
) -> Option<Correction<R>> {
    match sides {
        (None, None) => None,
        (None, Some(DirectoryStatus::Available | DirectoryStatus::Reserved)) => {
            Some(Correction::RevokeThere(key_package_ref))
        }
        (
            None,
            Some(
                DirectoryStatus::Spent
                | DirectoryStatus::Lapsed
                | DirectoryStatus::Expired
                | DirectoryStatus::Revoked,
            ),
        ) => None,
        (Some(PoolState::Created), None) => Some(Correction::UploadAgain(key_package_ref)),
        (Some(PoolState::Available | PoolState::Reserved), None) => {
            Some(Correction::Apply(key_package_ref, PoolEvent::Missing))
        }
        (
            Some(
                PoolState::Lost
                | PoolState::Spent
                | PoolState::Lapsed
                | PoolState::Expired
                | PoolState::Revoked,
            ),
            None,
        ) => None,
        (Some(PoolState::Lost), Some(DirectoryStatus::Available)) => {
            Some(Correction::RevokeThere(key_package_ref))
        }
        (Some(state), Some(status)) if state.is_live() => {
            let event = PoolEvent::Confirmed(status);
            match state.apply(event) {
                Ok(next) if next != state => Some(Correction::Apply(key_package_ref, event)),
                Ok(_) | Err(_) => None,
            }
        }
        // The private keys are gone here; an invitation with it could not be opened.
        (Some(_), Some(DirectoryStatus::Available | DirectoryStatus::Reserved)) => {
            Some(Correction::RevokeThere(key_package_ref))
        }
        (
            Some(_),
            Some(
                DirectoryStatus::Spent
                | DirectoryStatus::Lapsed
                | DirectoryStatus::Expired
                | DirectoryStatus::Revoked,
            ),
        ) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn after_the_corrections_both_sides_agree(
            pairs in prop::collection::btree_map(
                0..50u8,
                (
                    prop::option::of(prop::sample::select(&PoolState::ALL[..])),
                    prop::option::of(prop::sample::select(&DirectoryStatus::ALL[..])),
                ),
                0..50,
            ),
        ) {
            let mut local: BTreeMap<u8, PoolState> = pairs.iter().filter_map(|(r, p)| Some((*r, p.0?))).collect();
            let mut there: BTreeMap<u8, DirectoryStatus> =
                pairs.iter().filter_map(|(r, p)| Some((*r, p.1?))).collect();
            let before = local.clone();
            // What is revoked there is erased here by the second pass.
            for _ in 0..2 {
                for correction in reconcile(local.clone(), there.clone()) {
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
                            let next = local[&r].apply(event).unwrap();
                            local.insert(r, next);
                        }
                    }
                }
            }
            prop_assert_eq!(reconcile(local.clone(), there.clone()), vec![], "a third pass finds nothing");
            for (r, state) in &local {
                let named = there.get(r) == Some(&DirectoryStatus::Available);
                prop_assert!(*state != PoolState::Available || named, "T9: {r} counts and is not there");
            }
            for (r, status) in &there {
                if !status.is_terminal() {
                    prop_assert!(local.get(r).is_some_and(|state| state.is_live()), "X2: {r} can be handed out");
                }
            }
            for (r, state) in before {
                if state.is_live() && !there.get(&r).is_some_and(|status| status.is_terminal()) {
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
            reconcile(local, []),
            vec![
                Correction::Apply(1, PoolEvent::Missing),
                Correction::Apply(2, PoolEvent::Missing),
                Correction::UploadAgain(3)
            ]
        );
    }

    #[test]
    fn what_was_lost_and_turns_up_again_is_withdrawn() {
        let turned_up = |status| reconcile([(1, PoolState::Lost)], [(1, status)]);
        assert_eq!(
            turned_up(DirectoryStatus::Available),
            vec![Correction::RevokeThere(1)]
        );
        for under_way in [DirectoryStatus::Reserved, DirectoryStatus::Spent] {
            assert_eq!(turned_up(under_way), vec![], "a Welcome may be on its way");
        }
    }
}
