//! The last resort of a device and suite (RFC 9420 §16.8): handed out when nothing else is left, to any number of
//! adders at once, and replaced by its owner soon after.
//!
//! A reservation on it is a row of its own: it takes nothing from another adder and waits for none, and the last
//! resort itself is written only the first time that it is handed out.

use larder_lifecycle::{
    LAST_RESORT_RETIRING_SECONDS, LastResortEvent, LastResortRefusal, LastResortState, UnixSeconds,
};
use larder_wire::{
    AuditTransition, Base64Url, DeviceOutcome, DeviceReservation, GroupId, KeyPackageCheck, KeyPackageState,
};

use crate::directory::transition::Actor;
use crate::error::Fault;
use crate::store::{
    DeviceRow, LastResortReservation, LastResortRow, NewKeyPackage, Reservation, Serving, Tx,
};

/// Active and retiring last resorts of one device and suite: a device that is drained all day may still replace its
/// last resort every few hours, and cannot fill the directory with them.
const LIVE_LAST_RESORTS_MAX: u32 = 8;

/// One event of a stored last resort: the pure function decides, compare and set moves the row if it has to move, the
/// audit tells.
fn apply(
    tx: &Tx<'_>,
    row: &LastResortRow,
    happened: LastResortEvent,
    actor: &Actor<'_>,
    now: UnixSeconds,
) -> Result<Result<(), LastResortRefusal>, Fault> {
    let next = match row.state.apply(happened) {
        Ok(next) => next,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if next != row.state {
        if !tx.move_last_resort(row, next)? {
            return Err(Fault::Corrupt("a last resort moved under its own transaction"));
        }
        tx.bump_generation(row.owner)?;
    }
    tx.append_audit(
        row.owner,
        &row.key_package_ref,
        actor.transition,
        actor.identity,
        actor.group,
        now,
    )?;
    Ok(Ok(()))
}

/// Stores a last resort that the directory does not know, and retires the one before it. The inner `Err` says why it is
/// not taken.
pub(super) fn store(
    tx: &Tx<'_>,
    uploader: &DeviceRow,
    new: &NewKeyPackage<'_>,
    now: UnixSeconds,
) -> Result<Result<(), KeyPackageCheck>, Fault> {
    if tx.count_live_last_resorts(new.owner, new.suite)? >= LIVE_LAST_RESORTS_MAX {
        return Ok(Err(KeyPackageCheck::OverCap));
    }
    if let Some(older) = tx.active_last_resort(new.owner, new.suite)? {
        let replace = LastResortEvent::Replace {
            until: now.plus(LAST_RESORT_RETIRING_SECONDS),
        };
        let actor = Actor {
            transition: AuditTransition::Retire,
            identity: Some(&uploader.identity()),
            group: None,
        };
        apply(tx, &older, replace, &actor, now)?
            .map_err(|_| Fault::Corrupt("an active last resort that cannot be replaced"))?;
    }
    tx.insert_last_resort(new, now)?;
    Ok(Ok(()))
}

/// The device's active last resort of the first of `suites` that has one with enough life left.
fn find(
    tx: &Tx<'_>,
    device: &DeviceRow,
    suites: &[u16],
    serving: Serving,
) -> Result<Option<LastResortRow>, Fault> {
    for suite in suites {
        let found = tx
            .active_last_resort(device.key, *suite)?
            .filter(|row| serving.includes(row.lifetime));
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Reserves the last resort of a device, if it has one that is still served.
pub(super) fn reserve(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    device: &DeviceRow,
    (suites, serving): (&[u16], Serving),
    reservation: &Reservation,
    now: UnixSeconds,
) -> Result<Option<DeviceReservation>, Fault> {
    let Some(row) = find(tx, device, suites, serving)? else {
        return Ok(None);
    };
    let actor = Actor {
        transition: AuditTransition::Reserve,
        identity: Some(&caller.identity()),
        group: Some(&reservation.group),
    };
    apply(tx, &row, LastResortEvent::Reserve, &actor, now)?
        .map_err(|_| Fault::Corrupt("an active last resort that cannot be reserved"))?;
    if !row.used {
        if !tx.mark_last_resort_used(&row.key_package_ref)? {
            return Err(Fault::Corrupt("a last resort moved under its own transaction"));
        }
        tx.bump_generation(device.key)?;
    }
    tx.insert_last_resort_reservation(&row.key_package_ref, reservation)?;
    let bytes = tx.last_resort_bytes(&row.key_package_ref)?;
    Ok(Some(DeviceReservation {
        device_id: device.device_id.clone(),
        outcome: DeviceOutcome::LastResort,
        key_package_ref: Some(row.key_package_ref),
        key_package: Some(Base64Url(bytes)),
        last_resort: true,
        retry_after_seconds: None,
    }))
}

/// Lets a Commit by the holder of a reservation add the last resort: the reservation is used up, the last resort
/// stays. `false` when there is no such reservation, or the last resort is gone.
pub(super) fn commit(
    tx: &Tx<'_>,
    row: &LastResortRow,
    (by, group): (&DeviceRow, &GroupId),
    actor: &Actor<'_>,
    now: UnixSeconds,
) -> Result<bool, Fault> {
    let Some(reservation) = tx.last_resort_reservation(&row.key_package_ref, by.key, group)? else {
        return Ok(false);
    };
    if apply(tx, row, LastResortEvent::Commit, actor, now)?.is_err() {
        return Ok(false);
    }
    end(tx, &reservation)?;
    Ok(true)
}

/// Ends a reservation that was not used: given up by its holder, or past its deadline.
pub(super) fn give_up(
    tx: &Tx<'_>,
    reservation: &LastResortReservation,
    transition: AuditTransition,
    identity: Option<&str>,
    now: UnixSeconds,
) -> Result<(), Fault> {
    let row = tx
        .last_resort(&reservation.key_package_ref)?
        .ok_or(Fault::Corrupt("a reservation on nothing"))?;
    end(tx, reservation)?;
    tx.append_audit(
        row.owner,
        &row.key_package_ref,
        transition,
        identity,
        Some(&reservation.group),
        now,
    )
}

fn end(tx: &Tx<'_>, reservation: &LastResortReservation) -> Result<(), Fault> {
    if tx.end_last_resort_reservation(reservation)? {
        Ok(())
    } else {
        Err(Fault::Corrupt("a reservation ended under its own transaction"))
    }
}

/// Withdraws a last resort of the caller; one that is gone stays so. Reservations on it allow no Commit any more.
pub(super) fn revoke(
    tx: &Tx<'_>,
    row: &LastResortRow,
    actor: &Actor<'_>,
    now: UnixSeconds,
) -> Result<(), Fault> {
    match apply(tx, row, LastResortEvent::Revoke, actor, now)? {
        Ok(()) | Err(LastResortRefusal::Gone) => Ok(()),
        Err(LastResortRefusal::Replaced | LastResortRefusal::NotDue) => {
            Err(Fault::Corrupt("a last resort that cannot be withdrawn"))
        }
    }
}

/// Lapses reservations that are due, ends last resorts that are, and forgets old tombstones; at most `limit` of each.
/// Returns how many.
pub(super) fn sweep(
    tx: &Tx<'_>,
    now: UnixSeconds,
    tombstones_since: UnixSeconds,
    limit: u32,
) -> Result<u64, Fault> {
    let mut moved = 0;
    for reservation in tx.last_resort_reservations_to_lapse(now, limit)? {
        give_up(tx, &reservation, AuditTransition::Lapse, None, now)?;
        moved += 1;
    }
    let actor = Actor {
        transition: AuditTransition::Gone,
        identity: None,
        group: None,
    };
    let end_if_due = |row: LastResortRow| -> Result<u64, Fault> {
        let not_after = row.lifetime.not_after;
        let ended = apply(tx, &row, LastResortEvent::Sweep { now, not_after }, &actor, now)?;
        Ok(u64::from(ended.is_ok()))
    };
    // One after the other: a row that is due for both reasons is read the second time as what the first made of it.
    for row in tx.last_resorts_to_retire(now, limit)? {
        moved += end_if_due(row)?;
    }
    for row in tx.last_resorts_to_end(now, limit)? {
        moved += end_if_due(row)?;
    }
    Ok(moved + tx.forget_last_resorts(tombstones_since, limit)?)
}

/// The state as it is told.
pub(super) fn wire_state(state: LastResortState) -> KeyPackageState {
    match state {
        LastResortState::Active => KeyPackageState::Available,
        LastResortState::Retiring { .. } => KeyPackageState::Retiring,
        LastResortState::Gone => KeyPackageState::Gone,
    }
}
