//! One transition of a stored KeyPackage. The pure functions of `larder_lifecycle` decide; here it is carried out,
//! private keys included.

use larder_lifecycle::{OwnLastResortEvent, PoolEvent, PoolState, UnixSeconds};
use openmls::prelude::{GroupId, KeyPackageRef, OpenMlsProvider as _};
use openmls_traits::storage::StorageProvider as _;

use crate::error::PoolError;
use crate::last_resort_rows::{self, LastResort};
use crate::metadata::{self, Metadata};
use crate::pool::bundle;
use crate::store::Tx;

/// What an event did to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It did not apply, or changed nothing.
    None,
    /// The row moved between live states.
    Moved,
    /// The row became terminal and the private keys are gone.
    Erased,
}

/// How many rows changed, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) moved: u32,
    pub(crate) erased: u32,
}

impl Tally {
    pub(crate) fn note(&mut self, change: Change) {
        match change {
            Change::None => {}
            Change::Moved => self.moved += 1,
            Change::Erased => self.erased += 1,
        }
    }
}

/// An event of a single-use KeyPackage.
pub(crate) fn apply(
    tx: &Tx<'_>,
    row: &Metadata,
    event: PoolEvent,
    now: UnixSeconds,
) -> Result<Change, PoolError> {
    match row.state.apply(event) {
        Err(_) => Ok(Change::None),
        Ok(next) if next == row.state => Ok(Change::None),
        Ok(next) => enter(tx, row, next, None, now),
    }
}

/// Moves a row to the state that [`PoolState::apply`] decided. Leaving the live states erases the private keys.
pub(crate) fn enter(
    tx: &Tx<'_>,
    row: &Metadata,
    next: PoolState,
    spent_group_id: Option<&GroupId>,
    now: UnixSeconds,
) -> Result<Change, PoolError> {
    metadata::set_state(tx.connection(), row, next, spent_group_id, now)?;
    if next.is_live() {
        return Ok(Change::Moved);
    }
    erase(tx, &row.key_package_ref)?;
    Ok(Change::Erased)
}

/// An event of a last resort. Leaving the live states erases the private keys.
pub(crate) fn apply_to_last_resort(
    tx: &Tx<'_>,
    row: &LastResort,
    event: OwnLastResortEvent,
    now: UnixSeconds,
) -> Result<Change, PoolError> {
    match row.state.apply(event) {
        None => Ok(Change::None),
        Some(next) if next == row.state => Ok(Change::None),
        Some(next) => {
            last_resort_rows::set_state(tx.connection(), row, next, now)?;
            if next.is_live() {
                return Ok(Change::Moved);
            }
            last_resort_rows::forget_joins(tx.connection(), row)?;
            erase(tx, &row.key_package_ref)?;
            Ok(Change::Erased)
        }
    }
}

/// Erases a last resort that no invitation is expected for any more.
pub(crate) fn give_up_last_resort(
    tx: &Tx<'_>,
    row: &LastResort,
    now: UnixSeconds,
) -> Result<Change, PoolError> {
    apply_to_last_resort(tx, row, OwnLastResortEvent::GoneThere, now)
}

/// OpenMLS answers `Ok` to the deletion of a key that it does not find, so this reads back.
fn erase(tx: &Tx<'_>, key_package_ref: &KeyPackageRef) -> Result<(), PoolError> {
    tx.note_erasure();
    tx.provider().storage().delete_key_package(key_package_ref)?;
    match bundle(tx, key_package_ref)? {
        None => Ok(()),
        Some(_) => Err(PoolError::NotErased(key_package_ref.clone())),
    }
}
