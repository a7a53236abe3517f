//! One transition of a stored KeyPackage. The pure functions of `larder_lifecycle` decide; here it is carried out,
//! private keys included.

use larder_lifecycle::{Kind, PoolEvent, PoolState, UnixSeconds};
use openmls::prelude::{KeyPackageRef, MlsGroup, OpenMlsProvider as _};
use openmls_traits::storage::StorageProvider as _;

use crate::error::{Corrupt, PoolError};
use crate::last_resort_joins;
use crate::metadata::{self, Metadata};
use crate::pool::bundle;
use crate::store::Tx;

/// What an event did to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It did not apply, or changed nothing.
    None,
    /// The row moved to this live state.
    Moved(PoolState),
    /// The row became terminal, in this state, and the private keys are gone.
    Erased(PoolState),
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
            Change::Moved(_) => self.moved += 1,
            Change::Erased(_) => self.erased += 1,
        }
    }
}

/// Does to a KeyPackage what [`PoolState::apply`] decides. Leaving the live states erases the private keys.
///
/// `row` is the row as it was read. One that has changed since fails and stays as it is.
pub(crate) fn apply(
    tx: &Tx<'_>,
    row: &Metadata,
    event: PoolEvent,
    now: UnixSeconds,
) -> Result<Change, PoolError> {
    match row.state.apply(row.kind, event) {
        Err(_) => Ok(Change::None),
        Ok(state) => enter(tx, row, Metadata { state, ..row.clone() }, now),
    }
}

/// Spends a single-use KeyPackage, or notes the use of a last resort: a Welcome to this group was joined with it.
pub(crate) fn join(tx: &Tx<'_>, row: &Metadata, group: &MlsGroup, now: UnixSeconds) -> Result<(), PoolError> {
    let joined = row.state.apply(row.kind, PoolEvent::Joined);
    let mut next = Metadata {
        state: joined.map_err(|_| Corrupt::Bundle)?,
        ..row.clone()
    };
    match row.kind {
        Kind::SingleUse => next.spent_group_id = Some(group.group_id().clone()),
        Kind::LastResort => {
            next.used_at = row.used_at.or(Some(now));
            let (group_id, epoch) = (group.group_id(), group.epoch().as_u64());
            last_resort_joins::note(tx.connection(), &row.key_package_ref, group_id, epoch, now)?;
        }
    }
    enter(tx, row, next, now)?;
    // OpenMLS decides by the mark in the KeyPackage whether it keeps the private keys.
    match bundle(tx, &row.key_package_ref)?.is_some() == (row.kind == Kind::LastResort) {
        true => Ok(()),
        false => Err(Corrupt::Bundle.into()),
    }
}

/// Writes `next` in the place of `row`, with the time of its end.
fn enter(tx: &Tx<'_>, row: &Metadata, mut next: Metadata, now: UnixSeconds) -> Result<Change, PoolError> {
    if next == *row {
        return Ok(Change::None);
    }
    let (state, is_live) = (next.state, next.state.is_live());
    next.ended_at = (!is_live).then_some(now);
    metadata::write_state(tx.connection(), row, &next)?;
    if is_live {
        return Ok(Change::Moved(state));
    }
    match row.kind {
        Kind::SingleUse => {}
        Kind::LastResort => last_resort_joins::forget(tx.connection(), &row.key_package_ref)?,
    }
    erase(tx, &row.key_package_ref)?;
    Ok(Change::Erased(state))
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
