use std::collections::HashMap;

use larder_lifecycle::{DirectoryEvent, DirectoryPolicy, DrainLimits, Kind, UnixSeconds};
use larder_wire::{
    AuditHead, Base64Url, DeviceOutcome, DeviceReservation, GroupId, KeyPackageRef, ProblemType,
    ReserveRequest, Reserved, UserReservation,
};

use crate::directory::offer::{Charge, Offer, Requester};
use crate::error::{Fault, ServiceError};
use crate::store::{
    DeviceKey, DeviceRow, Disclosure, MailKind, ReservationId, Serving, StateChange, Stored, Tx,
};

/// What a request is held against.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub(crate) policy: &'a DirectoryPolicy,
    pub(crate) limits: &'a DrainLimits,
    pub(crate) now: UnixSeconds,
}

/// Reserves one KeyPackage of every device of the asked users, for the caller and one group: an ordinary one while
/// there is any for the caller, else the last resort.
///
/// All or nothing counts a user whose only way in is a last resort as one who can be added. The last resort is there so
/// that nobody becomes unreachable, and the caller, who is told, may still decide not to use it.
///
/// The row and its audit entry are on disk before the answer leaves, because the answer leaves after the commit.
pub(crate) fn reserve(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    request: &ReserveRequest,
    reservation_id: ReservationId,
    terms: Terms<'_>,
) -> Result<Reserved, ServiceError> {
    let Terms { policy, limits, now } = terms;
    let until = now.plus(policy.reservation_seconds);
    let asked = (request.suites.as_slice(), Serving::at(now, policy));
    let mut requester = Requester::user_of(tx, caller, limits, now)?;
    let targets = targets(tx, caller, request)?;
    let devices: Vec<DeviceKey> = targets.iter().flatten().map(|device| device.key).collect();
    tx.lock_devices(devices.iter().copied())?;
    let mut stocks = requester.stocks(tx, &devices, asked, &terms)?.into_iter();

    let mut offers = Vec::with_capacity(targets.len());
    for devices in targets {
        let mut of_user = Vec::with_capacity(devices.len());
        for device in devices {
            let stocks = stocks.next().unwrap_or_default();
            let offer = requester.offer(tx, (&device, stocks), limits, now)?;
            of_user.push((device, offer));
        }
        offers.push(of_user);
    }
    let reachable = |of_user: &Vec<(DeviceRow, Offer)>| of_user.iter().any(|(_, offer)| offer.is_something());
    let withhold = request.all_or_nothing && !offers.iter().all(reachable);

    let for_whom = For {
        id: reservation_id,
        caller,
        group: &request.group_id,
        until,
    };
    let mut handed_out = HandedOut::default();
    let mut users = Vec::with_capacity(offers.len());
    for (user, of_user) in request.users.iter().zip(offers) {
        let mut outcomes = Vec::with_capacity(of_user.len());
        for (device, offer) in of_user {
            let outcome = if withhold && offer.is_something() {
                without_key_package(&device, DeviceOutcome::Withheld)
            } else {
                carry_out(tx, (&device, offer), for_whom, terms, &mut handed_out)?
            };
            outcomes.push(outcome);
        }
        users.push(UserReservation {
            user: user.clone(),
            devices: outcomes,
        });
    }
    handed_out.write(tx, for_whom, now)?;
    let reserved_any = !handed_out.reserved.is_empty();
    Ok(Reserved {
        reservation_id: reserved_any.then(|| reservation_id.to_string()),
        expires_at: until.0,
        users,
    })
}

/// Reads ahead what a reservation asks for first.
pub(crate) fn reserve_ahead(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    request: &ReserveRequest,
    terms: Terms<'_>,
) -> Result<(), Fault> {
    Requester::user_ahead(tx, caller, terms.limits, terms.now)?;
    tx.users_by_name_ahead(&request.users);
    Ok(())
}

/// What a stranger who asks for the caller's own device would get. It reserves like anybody else: undo it.
pub(crate) fn probe(
    tx: &Tx<'_>,
    owner: &DeviceRow,
    group: GroupId,
    suites: &[u16],
    terms: Terms<'_>,
) -> Result<DeviceReservation, ServiceError> {
    let Terms { policy, limits, now } = terms;
    let for_whom = For {
        id: ReservationId::made_at(now),
        caller: owner,
        group: &group,
        until: now.plus(policy.reservation_seconds),
    };
    let asked = (suites, Serving::at(now, policy));
    tx.lock_devices([owner.key])?;
    let mut stranger = Requester::stranger();
    let stocks = stranger.stocks(tx, &[owner.key], asked, &terms)?;
    let stocks = stocks.into_iter().next().unwrap_or_default();
    let offer = stranger.offer(tx, (owner, stocks), limits, now)?;
    let mut handed_out = HandedOut::default();
    let outcome = carry_out(tx, (owner, offer), for_whom, terms, &mut handed_out)?;
    handed_out.write(tx, for_whom, now)?;
    Ok(outcome)
}

/// Who reserves, and for what.
#[derive(Clone, Copy)]
struct For<'a> {
    id: ReservationId,
    caller: &'a DeviceRow,
    group: &'a GroupId,
    until: UnixSeconds,
}

/// The devices of each user, without the caller's own. One unknown user refuses the request before anything is
/// reserved, in the same words as for a user who may not be reached.
fn targets(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    request: &ReserveRequest,
) -> Result<Vec<Vec<DeviceRow>>, ServiceError> {
    let mut targets = tx.devices_of_users(&request.users, &caller.user)?;
    for devices in &mut targets {
        if devices.is_empty() {
            return Err(ProblemType::NotFound.into());
        }
        devices.retain(|device| device.key != caller.key);
    }
    Ok(targets)
}

/// What is handed out, of each device at most one, to be written together.
#[derive(Default)]
struct HandedOut {
    reserved: Vec<ReservedOne>,
    /// Whose pools run low.
    low: Vec<DeviceKey>,
}

struct ReservedOne {
    owner: DeviceKey,
    key_package_ref: KeyPackageRef,
    /// As it was, and as it is reserved.
    states: (Stored, Stored),
    /// The end of the owner's audit chain before.
    audit_head: AuditHead,
    charge: Charge,
}

impl HandedOut {
    fn write(&self, tx: &Tx<'_>, for_whom: For<'_>, now: UnixSeconds) -> Result<(), Fault> {
        let reserved = self.reserved.iter();
        let pairs = reserved.clone().filter_map(|one| {
            let (user, forgotten_at) = one.charge.pair?;
            Some((user, one.owner, forgotten_at))
        });
        tx.remember_pairs(&pairs.collect::<Vec<_>>())?;
        let changes = reserved.clone().map(|one| StateChange {
            owner: one.owner,
            key_package_ref: &one.key_package_ref,
            from: &one.states.0,
            next: &one.states.1,
            reservation: Some(for_whom.id),
        });
        tx.write_states(&changes.collect::<Vec<_>>())?;
        let disclosures = reserved.map(|one| {
            let (from, next) = &one.states;
            Disclosure {
                owner: one.owner,
                head: &one.audit_head,
                key_package_ref: &one.key_package_ref,
                is_change: (from.state, from.used) != (next.state, next.used),
                asked_until: one.charge.target,
            }
        });
        let actor = for_whom.caller.identity();
        tx.append_disclosures(&disclosures.collect::<Vec<_>>(), (&actor, for_whom.group), now)?;
        tell_owners(tx, &self.low, now)
    }
}

/// Hands out what was offered.
fn carry_out(
    tx: &Tx<'_>,
    (device, offer): (&DeviceRow, Offer),
    for_whom: For<'_>,
    Terms { policy, now, .. }: Terms<'_>,
    handed_out: &mut HandedOut,
) -> Result<DeviceReservation, ServiceError> {
    let (picked, charge) = match offer {
        Offer::KeyPackage { picked, charge } => (picked, charge),
        Offer::RateLimited { retry_after_seconds } => {
            return Ok(DeviceReservation {
                retry_after_seconds: Some(retry_after_seconds),
                ..without_key_package(device, DeviceOutcome::RateLimited)
            });
        }
        Offer::Nothing => return outcome_without(tx, device, Serving::at(now, policy)),
    };
    let reserve = DirectoryEvent::Reserve {
        by: for_whom.caller.key,
        group: for_whom.group.clone(),
        until: for_whom.until,
    };
    let next = picked
        .listed
        .apply(reserve)
        .map_err(|_| Fault::Corrupt("an available KeyPackage that cannot be reserved"))?;
    let (outcome, is_last_resort) = match next.kind {
        Kind::SingleUse => (DeviceOutcome::Ok, false),
        Kind::LastResort => (DeviceOutcome::LastResort, true),
    };
    // Plenty of another ciphersuite helps nobody who asks for this one.
    if is_last_resort || picked.available.saturating_sub(1) < policy.low_watermark {
        handed_out.low.push(device.key);
    }
    handed_out.reserved.push(ReservedOne {
        owner: device.key,
        key_package_ref: picked.key_package_ref.clone(),
        states: (picked.listed, next),
        audit_head: picked.audit_head,
        charge,
    });
    Ok(DeviceReservation {
        key_package_ref: Some(picked.key_package_ref),
        key_package: Some(Base64Url(picked.bytes)),
        last_resort: is_last_resort,
        ..without_key_package(device, outcome)
    })
}

/// Tells owners that their pools run low.
pub(crate) fn tell_owners(tx: &Tx<'_>, owners: &[DeviceKey], now: UnixSeconds) -> Result<(), Fault> {
    tx.post(owners, MailKind::KeyPackagesLow, now)
}

/// Nothing can be handed out: because nothing is left, or nothing of the asked suites.
fn outcome_without(
    tx: &Tx<'_>,
    device: &DeviceRow,
    serving: Serving,
) -> Result<DeviceReservation, ServiceError> {
    let of_other_suites = tx.count_available(device.key, Kind::SingleUse, serving)? > 0
        || tx.count_available(device.key, Kind::LastResort, serving)? > 0;
    let outcome = if of_other_suites {
        DeviceOutcome::Incompatible
    } else {
        DeviceOutcome::Exhausted
    };
    Ok(without_key_package(device, outcome))
}

fn without_key_package(device: &DeviceRow, outcome: DeviceOutcome) -> DeviceReservation {
    DeviceReservation {
        device_id: device.device_id.clone(),
        outcome,
        key_package_ref: None,
        key_package: None,
        last_resort: false,
        retry_after_seconds: None,
    }
}

/// What is remembered of an answer: outcomes and references.
pub(crate) fn without_bytes(reserved: &Reserved) -> Reserved {
    let mut reserved = reserved.clone();
    for device in reserved.users.iter_mut().flat_map(|user| &mut user.devices) {
        device.key_package = None;
    }
    reserved
}

/// The answer that was remembered, with the bytes of its KeyPackages.
///
/// # Errors
/// `reservation-lapsed`, naming those that cannot be added any more.
pub(crate) fn recall(tx: &Tx<'_>, mut reserved: Reserved) -> Result<Reserved, ServiceError> {
    let Some(id) = reserved.reservation_id.as_deref() else {
        return Ok(reserved);
    };
    let id = ReservationId::parse(id).ok_or(Fault::Corrupt("a stored answer"))?;
    let open = tx.reserved_under(id)?;
    let bytes = tx.bytes_of(open.iter().map(|row| (row.owner, &row.key_package_ref)))?;
    let open = open.into_iter().map(|row| row.key_package_ref).zip(bytes);
    let mut bytes: HashMap<KeyPackageRef, Vec<u8>> = open
        .filter_map(|(known_by, bytes)| Some((known_by, bytes?)))
        .collect();
    let devices = reserved.users.iter_mut().flat_map(|user| &mut user.devices);
    let devices = devices.filter_map(|device| Some((device.key_package_ref.clone()?, device)));
    let mut gone = Vec::new();
    for (known_by, device) in devices {
        match bytes.remove(&known_by) {
            Some(bytes) => device.key_package = Some(Base64Url(bytes)),
            None => gone.push(known_by),
        }
    }
    match gone.is_empty() {
        true => Ok(reserved),
        false => Err(larder_wire::Problem::refs(ProblemType::ReservationLapsed, gone).into()),
    }
}
