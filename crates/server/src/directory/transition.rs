use larder_lifecycle::{DirectoryEvent, DirectoryPolicy, DirectoryState, Refusal, UnixSeconds};
use larder_wire::{GroupId, KeyPackageRef, ProblemType, RevokeRequest, Revoked};

use crate::directory::last_resort;
use crate::error::{Fault, ServiceError};
use crate::store::{DeviceKey, DeviceRow, KeyPackageRow, Tx};

/// The names of transitions in the audit.
pub(crate) mod event {
    pub(crate) const UPLOAD: &str = "upload";
    pub(crate) const RESERVE: &str = "reserve";
    pub(crate) const COMMIT: &str = "commit";
    pub(crate) const ABANDON: &str = "abandon";
    pub(crate) const LAPSE: &str = "lapse";
    pub(crate) const EXPIRE: &str = "expire";
    pub(crate) const REVOKE: &str = "revoke";
    /// A newer last resort took this one's place.
    pub(crate) const RETIRE: &str = "retire";
    /// No Commit can add this last resort any more.
    pub(crate) const GONE: &str = "gone";
}

/// Who makes a transition happen, and for which group.
pub(super) struct Actor<'a> {
    pub(super) name: &'static str,
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
    let next = match row.state.clone().apply(happened) {
        Ok(next) => next,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if !tx.move_key_package(&row, &next)? {
        return Err(Fault::Corrupt("a KeyPackage moved under its own transaction"));
    }
    tx.append_audit(
        row.owner,
        &row.key_package_ref,
        actor.name,
        actor.identity,
        actor.group,
        now,
    )?;
    tx.bump_generation(row.owner)?;
    Ok(Ok(()))
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
        name: event::COMMIT,
        identity: Some(&identity),
        group: Some(group),
    };
    for key_package_ref in refs {
        let Some(row) = tx.key_package(key_package_ref)? else {
            let may_add = match tx.last_resort(key_package_ref)? {
                Some(row) => last_resort::commit(tx, &row, (by, group), &actor, now)?,
                None => false,
            };
            if !may_add {
                unreserved.push(key_package_ref.clone());
            }
            continue;
        };
        match apply(
            tx,
            row,
            DirectoryEvent::Commit {
                by: by.key,
                group: group.clone(),
            },
            &actor,
            now,
        )? {
            Ok(()) => {}
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
    Ok(())
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
        name: event::REVOKE,
        identity: Some(&identity),
        group: None,
    };
    tx.lock_devices([owner.key])?;
    let mut refs = Vec::new();
    for key_package_ref in &request.refs {
        if let Some(row) = tx
            .last_resort(key_package_ref)?
            .filter(|row| row.owner == owner.key)
        {
            last_resort::revoke(tx, &row, &actor, now)?;
            refs.push(key_package_ref.clone());
            continue;
        }
        let Some(row) = tx
            .key_package(key_package_ref)?
            .filter(|row| row.owner == owner.key)
        else {
            continue;
        };
        let was_revoked = row.state == DirectoryState::Revoked;
        if was_revoked || apply(tx, row, DirectoryEvent::Revoke, &actor, now)?.is_ok() {
            refs.push(key_package_ref.clone());
        }
    }
    Ok(Revoked { refs })
}

/// Withdraws every KeyPackage and last resort of a device, for a device of the same user. The owner's row is locked.
pub(crate) fn revoke_everything(
    tx: &Tx<'_>,
    owner: &DeviceRow,
    by: &DeviceRow,
    now: UnixSeconds,
) -> Result<(), ServiceError> {
    let identity = by.identity();
    let actor = Actor {
        name: event::REVOKE,
        identity: Some(&identity),
        group: None,
    };
    for row in tx.key_packages_of(owner.key)? {
        // What is terminal stays as it is.
        let _: Result<(), Refusal> = apply(tx, row, DirectoryEvent::Revoke, &actor, now)?;
    }
    for row in tx.last_resorts_of(owner.key)? {
        last_resort::revoke(tx, &row, &actor, now)?;
    }
    Ok(())
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
            name: event::LAPSE,
            identity: None,
            group: None,
        };
        moved += u64::from(apply(tx, row, DirectoryEvent::Lapse { now }, &actor, now)?.is_ok());
    }
    for row in tx.key_packages_to_expire(now.plus(policy.serving_margin_seconds), limit)? {
        let expire = DirectoryEvent::Expire {
            now,
            served_before: policy.served_before(row.not_after),
        };
        let actor = Actor {
            name: event::EXPIRE,
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
