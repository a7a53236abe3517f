use std::collections::BTreeSet;

use larder_lifecycle::{
    DirectoryEvent, DirectoryPolicy, DirectoryState, LastResortState, Refusal, UnixSeconds,
};
use larder_wire::{
    AuditTransition, GroupId, KeyPackageRef, ProblemType, RevokeRequest, Revoked, SpendRequest,
};

use crate::directory::last_resort;
use crate::error::{Fault, ServiceError};
use crate::store::{DeviceKey, DeviceRow, KeyPackageRow, Tx};

/// Who makes a transition happen, and for which group.
pub(super) struct Actor<'a> {
    pub(super) transition: AuditTransition,
    pub(super) identity: Option<&'a str>,
    pub(super) group: Option<&'a GroupId>,
}

/// One transition of a stored KeyPackage: the pure function decides, compare and set moves the row, the audit tells.
pub(super) fn apply(
    tx: &Tx<'_>,
    row: KeyPackageRow,
    happened: DirectoryEvent<DeviceKey, GroupId>,
    actor: &Actor<'_>,
    now: UnixSeconds,
) -> Result<Result<(), Refusal>, Fault> {
    match row.state.clone().apply(happened) {
        Ok(next) => carry_out(tx, &[(row, next)], actor, now).map(Ok),
        Err(refusal) => Ok(Err(refusal)),
    }
}

/// Transitions that were decided: compare and set moves the rows, the audits of their owners tell.
fn carry_out(
    tx: &Tx<'_>,
    moves: &[(KeyPackageRow, DirectoryState<DeviceKey, GroupId>)],
    actor: &Actor<'_>,
    now: UnixSeconds,
) -> Result<(), Fault> {
    for (row, next) in moves {
        tx.move_key_package(row, next)?;
    }
    let owners: BTreeSet<DeviceKey> = moves.iter().map(|(row, _)| row.owner).collect();
    for owner in owners {
        tx.bump_generation(owner)?;
    }
    let moved = moves.iter().map(|(row, _)| (row.owner, &row.key_package_ref));
    let moved: Vec<_> = moved.collect();
    tx.append_audits(&moved, actor.transition, (actor.identity, actor.group), now)
}

/// Spends the KeyPackages that a Commit adds, all or none. A last resort stays; what is used up is the sender's
/// reservation on it for this group.
///
/// # Errors
/// `already-spent` or `reservation-lapsed`, naming the KeyPackages that cannot be spent by this Commit.
pub(crate) fn spend(
    tx: &Tx<'_>,
    refs: &[KeyPackageRef],
    by: &DeviceRow,
    group: &GroupId,
    now: UnixSeconds,
) -> Result<(), ServiceError> {
    let (mut spent, mut unreserved) = (Vec::new(), Vec::new());
    let identity = by.identity();
    let actor = Actor {
        transition: AuditTransition::Commit,
        identity: Some(&identity),
        group: Some(group),
    };
    let mut moves = Vec::new();
    for (key_package_ref, row) in refs.iter().zip(tx.key_packages(refs)?) {
        let Some(row) = row else {
            let may_add = match tx.last_resort(key_package_ref)? {
                Some(row) => last_resort::commit(tx, &row, (by, group), &actor, now)?,
                None => false,
            };
            if !may_add {
                unreserved.push(key_package_ref.clone());
            }
            continue;
        };
        match row.state.clone().apply(DirectoryEvent::Commit {
            by: by.key,
            group: group.clone(),
        }) {
            Ok(next) => moves.push((row, next)),
            Err(Refusal::AlreadySpent) => spent.push(key_package_ref.clone()),
            Err(
                Refusal::NotReserved
                | Refusal::AlreadyReserved
                | Refusal::HeldByAnother
                | Refusal::HeldForAnotherGroup
                | Refusal::Lapsed
                | Refusal::Expired
                | Refusal::Revoked
                | Refusal::NotDue
                | Refusal::Disclosed,
            ) => unreserved.push(key_package_ref.clone()),
        }
    }
    if !spent.is_empty() {
        return Err(larder_wire::Problem::refs(ProblemType::AlreadySpent, spent).into());
    }
    if !unreserved.is_empty() {
        return Err(larder_wire::Problem::refs(ProblemType::ReservationLapsed, unreserved).into());
    }
    Ok(carry_out(tx, &moves, &actor, now)?)
}

/// Withdraws KeyPackages of the caller. Those that are terminal, unknown or another's stay as they are.
pub(crate) fn revoke(
    tx: &Tx<'_>,
    owner: &DeviceRow,
    request: &RevokeRequest,
    now: UnixSeconds,
) -> Result<Revoked, ServiceError> {
    let identity = owner.identity();
    let actor = Actor {
        transition: AuditTransition::Revoke,
        identity: Some(&identity),
        group: None,
    };
    tx.lock_devices([owner.key])?;
    // One that is named twice is withdrawn once.
    let mut seen = BTreeSet::new();
    let named = request.refs.iter().filter(|known_by| seen.insert(*known_by));
    let named: Vec<KeyPackageRef> = named.cloned().collect();
    let ordinary = tx.key_packages(&named)?;
    let last_resorts = tx.last_resorts(&named)?;
    let (mut refs, mut moves) = (Vec::new(), Vec::new());
    for (ordinary, last_resort) in ordinary.into_iter().zip(last_resorts) {
        if let Some(row) = last_resort.filter(|row| row.owner == owner.key) {
            last_resort::revoke(tx, &row, &actor, now)?;
            refs.push(row.key_package_ref);
        }
        let Some(row) = ordinary.filter(|row| row.owner == owner.key) else {
            continue;
        };
        if row.state == DirectoryState::Revoked {
            refs.push(row.key_package_ref);
        } else if let Ok(next) = row.state.clone().apply(DirectoryEvent::Revoke) {
            refs.push(row.key_package_ref.clone());
            moves.push((row, next));
        }
    }
    carry_out(tx, &moves, &actor, now)?;
    Ok(Revoked { refs })
}

/// Withdraws every KeyPackage of the caller with this signature key, of those that could still be handed out or added.
/// A device has one signature key, and all that it uploads is of it.
pub(crate) fn revoke_all(
    tx: &Tx<'_>,
    owner: &DeviceRow,
    signature_key: &[u8],
    now: UnixSeconds,
) -> Result<Revoked, ServiceError> {
    if owner.signature_key != signature_key {
        return Ok(Revoked { refs: Vec::new() });
    }
    tx.lock_devices([owner.key])?;
    let live = tx.key_packages_of(owner.key)?.into_iter();
    let live = live.filter(|row| !row.state.status().is_terminal());
    let mut refs: Vec<_> = live.map(|row| row.key_package_ref).collect();
    let last_resorts = tx.last_resorts_of(owner.key)?.into_iter();
    let last_resorts = last_resorts.filter(|row| row.state != LastResortState::Gone);
    refs.extend(last_resorts.map(|row| row.key_package_ref));
    revoke(tx, owner, &RevokeRequest { refs }, now)
}

/// Spends what a Commit added that travelled through another delivery service. What this device has spent for this group
/// before stays so.
///
/// # Errors
/// `already-spent` or `reservation-lapsed`, naming the KeyPackages; nothing is spent then.
pub(crate) fn spend_reserved(
    tx: &Tx<'_>,
    by: &DeviceRow,
    reservation_id: &str,
    request: &SpendRequest,
    now: UnixSeconds,
) -> Result<(), ServiceError> {
    tx.lock_reservation(reservation_id)?;
    let held = tx.key_packages_of_reservation(reservation_id)?.into_iter();
    let mut held: Vec<_> = held.map(|row| row.key_package_ref).collect();
    let last_resorts = tx.last_resorts_of_reservation(reservation_id)?.into_iter();
    held.extend(last_resorts.map(|row| row.key_package_ref));
    let (to_spend, others): (Vec<_>, Vec<_>) = request
        .refs
        .iter()
        .cloned()
        .partition(|spent| held.contains(spent));
    let mut lapsed = Vec::new();
    for key_package_ref in others {
        let by_us = DirectoryState::Spent {
            by: by.key,
            group: request.group_id.clone(),
        };
        let row = tx.key_package(&key_package_ref)?;
        if row.is_none_or(|row| row.state != by_us) {
            lapsed.push(key_package_ref);
        }
    }
    if !lapsed.is_empty() {
        return Err(larder_wire::Problem::refs(ProblemType::ReservationLapsed, lapsed).into());
    }
    spend(tx, &to_spend, by, &request.group_id, now)
}

/// Withdraws every KeyPackage of a device that could still be handed out or added, for a device of the same user, or in the
/// name of the server. Returns how many. The owner's row is locked.
pub(crate) fn withdraw_all(
    tx: &Tx<'_>,
    owner: &DeviceRow,
    by: Option<&DeviceRow>,
    now: UnixSeconds,
) -> Result<u64, Fault> {
    let identity = by.map(DeviceRow::identity);
    let actor = Actor {
        transition: AuditTransition::Revoke,
        identity: identity.as_deref(),
        group: None,
    };
    let mut withdrawn = 0;
    for row in tx.key_packages_of(owner.key)? {
        withdrawn += u64::from(apply(tx, row, DirectoryEvent::Revoke, &actor, now)?.is_ok());
    }
    for row in tx.last_resorts_of(owner.key)? {
        if row.state != LastResortState::Gone {
            last_resort::revoke(tx, &row, &actor, now)?;
            withdrawn += 1;
        }
    }
    Ok(withdrawn)
}

/// Lapses, expires and ends what is due and forgets old tombstones; at most `limit` of each. Returns how many.
pub(crate) fn sweep(
    tx: &Tx<'_>,
    policy: &DirectoryPolicy,
    now: UnixSeconds,
    limit: u32,
) -> Result<u64, ServiceError> {
    let mut moved = 0;
    for row in tx.key_packages_to_lapse(now, limit)? {
        let actor = Actor {
            transition: AuditTransition::Lapse,
            identity: None,
            group: None,
        };
        moved += u64::from(apply(tx, row, DirectoryEvent::Lapse { now }, &actor, now)?.is_ok());
    }
    for row in tx.key_packages_to_expire(now.plus(policy.serving_margin_seconds), limit)? {
        let expire = DirectoryEvent::Expire {
            now,
            served_before: policy.served_before(row.lifetime.not_after),
        };
        let actor = Actor {
            transition: AuditTransition::Expire,
            identity: None,
            group: None,
        };
        moved += u64::from(apply(tx, row, expire, &actor, now)?.is_ok());
    }
    let tombstones_since = now.minus(policy.tombstone_seconds);
    Ok(moved
        + tx.forget_key_packages(tombstones_since, limit)?
        + last_resort::sweep(tx, now, tombstones_since, limit)?)
}
