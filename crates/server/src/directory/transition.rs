use std::collections::{BTreeMap, BTreeSet};

use larder_lifecycle::{DirectoryEvent, DirectoryPolicy, End, Kind, Refusal, UnixSeconds};
use larder_wire::{
    AuditTransition, GroupId, KeyPackageRef, ProblemType, RevokeRequest, Revoked, SpendRequest,
};

use crate::error::{Fault, ServiceError};
use crate::store::{DeviceKey, DeviceRow, KeyPackageRow, ReservationId, StateChange, Stored, Tx};

/// Devices whose KeyPackages are looked through together for those that expire: the pool of each is bounded.
const SWEPT_DEVICES_MAX: u32 = 16;

/// Who makes a transition happen, and for which group.
pub(super) struct Actor<'a> {
    pub(super) transition: AuditTransition,
    pub(super) identity: Option<&'a str>,
    pub(super) group: Option<&'a GroupId>,
}

impl<'a> Actor<'a> {
    pub(super) fn new(transition: AuditTransition, identity: Option<&'a str>) -> Self {
        let group = None;
        Self {
            transition,
            identity,
            group,
        }
    }

    fn for_group(self, group: Option<&'a GroupId>) -> Self {
        Self { group, ..self }
    }
}

/// A KeyPackage, and what the pure function made of it.
pub(super) type Move = (KeyPackageRow, Stored);

/// One transition of a stored KeyPackage: the pure function decides, the store writes what it decided, the audit tells.
pub(super) fn apply(
    tx: &Tx<'_>,
    row: KeyPackageRow,
    happened: DirectoryEvent<DeviceKey, GroupId>,
    actor: &Actor<'_>,
    now: UnixSeconds,
) -> Result<Result<(), Refusal>, Fault> {
    match row.listed.apply(happened) {
        Ok(next) => carry_out(tx, &[(row, next)], actor, now).map(Ok),
        Err(refusal) => Ok(Err(refusal)),
    }
}

/// Transitions that were decided: the store writes them, and the audits of their owners tell.
fn carry_out(tx: &Tx<'_>, moves: &[Move], actor: &Actor<'_>, now: UnixSeconds) -> Result<(), Fault> {
    let mut changed = BTreeSet::new();
    let changes = moves.iter().map(|(row, next)| StateChange {
        owner: row.owner,
        key_package_ref: &row.key_package_ref,
        from: &row.listed,
        next,
        reservation: row.reservation_id,
    });
    tx.write_states(&changes.collect::<Vec<_>>())?;
    for (row, next) in moves {
        // What an inventory does not tell, such as a reservation on a last resort, is no change of it.
        if next.state != row.listed.state {
            changed.insert(row.owner);
        }
    }
    tx.bump_generations(&changed)?;
    let moved = moves.iter().map(|(row, _)| (row.owner, &row.key_package_ref));
    let moved: Vec<_> = moved.collect();
    tx.append_audits(&moved, actor.transition, (actor.identity, actor.group), now)
}

/// Spends the KeyPackages that a Commit adds, of these owners, all or none. A last resort stays; what is used up is the sender's
/// reservation on it for this group.
///
/// # Errors
/// `already-spent` or `reservation-lapsed`, naming the KeyPackages that cannot be spent by this Commit.
pub(crate) fn spend(
    tx: &Tx<'_>,
    added: &[(DeviceKey, KeyPackageRef)],
    by: &DeviceRow,
    group: &GroupId,
    now: UnixSeconds,
) -> Result<(), ServiceError> {
    let mut found = Vec::with_capacity(added.len());
    let rows = tx.key_packages(added.iter().map(|(owner, known_by)| (*owner, known_by)))?;
    for ((owner, key_package_ref), row) in added.iter().zip(rows) {
        let row = match row {
            Some(row) if row.listed.kind == Kind::LastResort => {
                tx.reserved_last_resort((*owner, key_package_ref), by.key, group)?
            }
            row => row,
        };
        found.push((key_package_ref, row));
    }
    spend_found(tx, found, by, group, now)
}

/// Spends what was found of the KeyPackages with these references, each with the reservation that it is spent by.
fn spend_found(
    tx: &Tx<'_>,
    found: Vec<(&KeyPackageRef, Option<KeyPackageRow>)>,
    by: &DeviceRow,
    group: &GroupId,
    now: UnixSeconds,
) -> Result<(), ServiceError> {
    let (mut spent, mut unreserved) = (Vec::new(), Vec::new());
    let identity = by.identity();
    let actor = Actor::new(AuditTransition::Commit, Some(&identity)).for_group(Some(group));
    let mut moves = Vec::new();
    for (key_package_ref, row) in found {
        let Some(row) = row else {
            unreserved.push(key_package_ref.clone());
            continue;
        };
        let commit = DirectoryEvent::Commit {
            by: by.key,
            group: group.clone(),
        };
        match row.listed.apply(commit) {
            Ok(next) => moves.push((row, next)),
            Err(Refusal::Over(End::Spent)) => spent.push(key_package_ref.clone()),
            Err(
                Refusal::NotReserved
                | Refusal::AlreadyReserved
                | Refusal::HeldByAnother
                | Refusal::HeldForAnotherGroup
                | Refusal::Replaced
                | Refusal::SingleUse
                | Refusal::NotDue
                | Refusal::Disclosed
                | Refusal::Over(End::Lapsed | End::Expired | End::Revoked | End::Gone),
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

/// Withdraws KeyPackages of the caller. Those that are over, unknown or another's stay as they are.
pub(crate) fn revoke(
    tx: &Tx<'_>,
    owner: &DeviceRow,
    request: &RevokeRequest,
    now: UnixSeconds,
) -> Result<Revoked, ServiceError> {
    let identity = owner.identity();
    let actor = Actor::new(AuditTransition::Revoke, Some(&identity));
    tx.lock_devices([owner.key])?;
    // One that is named twice is withdrawn once.
    let mut seen = BTreeSet::new();
    let named = request.refs.iter().filter(|known_by| seen.insert(*known_by));
    let rows = tx.key_packages(named.map(|known_by| (owner.key, known_by)))?;
    let (mut refs, mut moves) = (Vec::new(), Vec::new());
    for row in rows.into_iter().flatten() {
        match row.listed.apply(DirectoryEvent::Revoke) {
            Ok(next) => {
                refs.push(row.key_package_ref.clone());
                moves.push((row, next));
            }
            Err(Refusal::Over(End::Revoked)) => refs.push(row.key_package_ref),
            Err(_) => {}
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
    let refs = withdraw(tx, owner, Some(&owner.identity()), now)?;
    Ok(Revoked { refs })
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
    let withdrawn = withdraw(tx, owner, identity.as_deref(), now)?;
    Ok(withdrawn.len() as u64)
}

fn withdraw(
    tx: &Tx<'_>,
    owner: &DeviceRow,
    by: Option<&str>,
    now: UnixSeconds,
) -> Result<Vec<KeyPackageRef>, Fault> {
    let rows = tx.key_packages_of(owner.key)?.into_iter();
    let moves = rows.filter_map(|row| {
        let next = row.listed.apply(DirectoryEvent::Revoke).ok()?;
        Some((row, next))
    });
    let moves: Vec<Move> = moves.collect();
    carry_out(tx, &moves, &Actor::new(AuditTransition::Revoke, by), now)?;
    Ok(moves.into_iter().map(|(row, _)| row.key_package_ref).collect())
}

/// Spends what a Commit added that travelled through another delivery service. What this device has spent for this group
/// before stays so.
///
/// # Errors
/// `already-spent` or `reservation-lapsed`, naming the KeyPackages; nothing is spent then.
pub(crate) fn spend_reserved(
    tx: &Tx<'_>,
    by: &DeviceRow,
    reservation_id: Option<ReservationId>,
    request: &SpendRequest,
    now: UnixSeconds,
) -> Result<(), ServiceError> {
    let held = match reservation_id {
        Some(id) => {
            tx.lock_reservation(id)?;
            tx.reserved_under(id)?
        }
        None => Vec::new(),
    };
    let mut held: BTreeMap<_, _> = held
        .into_iter()
        .map(|row| (row.key_package_ref.clone(), row))
        .collect();
    let (mut to_spend, mut others) = (Vec::new(), Vec::new());
    for named in &request.refs {
        match held.remove(named) {
            Some(row) => to_spend.push((named, Some(row))),
            None => others.push(named.clone()),
        }
    }
    let spent_before = match reservation_id {
        Some(id) => tx.spent_under(id, by.key, &request.group_id)?,
        None => Vec::new(),
    };
    others.retain(|named| !spent_before.contains(named));
    if !others.is_empty() {
        return Err(larder_wire::Problem::refs(ProblemType::ReservationLapsed, others).into());
    }
    spend_found(tx, to_spend, by, &request.group_id, now)
}

/// Gives a reservation up: what is not spent lapses, and is never handed out again; a last resort stays as it is.
pub(crate) fn abandon(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    reservation_id: ReservationId,
    now: UnixSeconds,
) -> Result<(), ServiceError> {
    tx.lock_reservation(reservation_id)?;
    let identity = caller.identity();
    let mut moves = Vec::new();
    for row in tx.reserved_under(reservation_id)? {
        match row.listed.apply(DirectoryEvent::Abandon { by: caller.key }) {
            Ok(next) => moves.push((row, next)),
            Err(_) => return Err(ProblemType::NotFound.into()),
        }
    }
    // A reservation is for one group.
    let group = moves.first().and_then(|(row, _)| group_of(row)).cloned();
    let actor = Actor::new(AuditTransition::Abandon, Some(&identity)).for_group(group.as_ref());
    Ok(carry_out(tx, &moves, &actor, now)?)
}

fn group_of(row: &KeyPackageRow) -> Option<&GroupId> {
    let reservation = row.listed.reservation.as_ref();
    reservation.map(|reservation| &reservation.group)
}

/// Lapses and ends what is due and forgets old tombstones; at most `limit` of each. Returns how many.
pub(crate) fn sweep(
    tx: &Tx<'_>,
    policy: &DirectoryPolicy,
    now: UnixSeconds,
    limit: u32,
) -> Result<u64, ServiceError> {
    let mut moved = 0;
    for row in tx.reserved_to_lapse(now, limit)? {
        let group = group_of(&row).cloned();
        let actor = Actor::new(AuditTransition::Lapse, None).for_group(group.as_ref());
        moved += u64::from(apply(tx, row, DirectoryEvent::Lapse { now }, &actor, now)?.is_ok());
    }
    moved += expire(tx, policy, now, limit)?;
    for row in tx.last_resorts_to_end(now, limit)? {
        moved += end_if_due(tx, row, policy, now)?;
    }
    Ok(moved
        + tx.forget_key_packages(now.minus(policy.tombstone_seconds), limit)?
        + tx.forget_reservations(now, limit)?)
}

/// Expires the single-use KeyPackages that are due, of one device after the other, until there were `limit` of them.
fn expire(tx: &Tx<'_>, policy: &DirectoryPolicy, now: UnixSeconds, limit: u32) -> Result<u64, Fault> {
    let served_until = now.plus(policy.serving_margin_seconds);
    let mut expired = 0;
    while expired < u64::from(limit) {
        let devices = tx.devices_to_expire(served_until, SWEPT_DEVICES_MAX)?;
        if devices.is_empty() {
            break;
        }
        for row in tx.key_packages_to_expire(&devices, served_until)? {
            expired += end_if_due(tx, row, policy, now)?;
        }
        for device in devices {
            tx.note_end_of_stock(device)?;
        }
    }
    Ok(expired)
}

fn end_if_due(
    tx: &Tx<'_>,
    row: KeyPackageRow,
    policy: &DirectoryPolicy,
    now: UnixSeconds,
) -> Result<u64, Fault> {
    let of_use_before = policy.of_use_before(row.listed.kind, row.lifetime.not_after);
    let transition = match row.listed.kind {
        Kind::SingleUse => AuditTransition::Expire,
        Kind::LastResort => AuditTransition::Gone,
    };
    let expire = DirectoryEvent::Expire { now, of_use_before };
    let ended = apply(tx, row, expire, &Actor::new(transition, None), now)?;
    Ok(u64::from(ended.is_ok()))
}
