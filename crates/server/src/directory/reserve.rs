use larder_lifecycle::{DirectoryEvent, DirectoryPolicy, DirectoryState, DrainLimits, UnixSeconds};
use larder_wire::{
    AuditTransition, Base64Url, DeviceOutcome, DeviceReservation, GroupId, KeyPackageRef, ProblemType,
    ReserveRequest, Reserved, UserReservation,
};

use crate::directory::last_resort;
use crate::directory::offer::{Offer, Requester};
use crate::directory::transition::{Actor, apply};
use crate::error::{Fault, ServiceError};
use crate::store::{DeviceKey, DeviceRow, MailKind, Reservation, Serving, Taken, Tx};

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
    reservation_id: &str,
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

    let reservation = Reservation {
        id: reservation_id.to_owned(),
        by: caller.key,
        group: request.group_id.clone(),
        until,
    };
    let taken = match withhold {
        true => Vec::new(),
        false => take(tx, offers.iter().flatten(), asked.1, &reservation)?,
    };
    let mut taken = taken.into_iter();
    let mut reserved_any = false;
    let mut users = Vec::with_capacity(offers.len());
    for (user, of_user) in request.users.iter().zip(offers) {
        let mut outcomes = Vec::with_capacity(of_user.len());
        for (device, offer) in of_user {
            let outcome = if withhold && offer.is_something() {
                without_key_package(&device, DeviceOutcome::Withheld)
            } else {
                carry_out(
                    tx,
                    caller,
                    (&device, offer),
                    (asked, &mut taken),
                    &reservation,
                    terms,
                )?
            };
            reserved_any |= outcome.key_package_ref.is_some();
            outcomes.push(outcome);
        }
        users.push(UserReservation {
            user: user.clone(),
            devices: outcomes,
        });
    }
    Ok(Reserved {
        reservation_id: reserved_any.then(|| reservation_id.to_owned()),
        expires_at: until.0,
        users,
    })
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
    let reservation = Reservation {
        id: String::new(),
        by: owner.key,
        group,
        until: now.plus(policy.reservation_seconds),
    };
    let asked = (suites, Serving::at(now, policy));
    tx.lock_devices([owner.key])?;
    let mut stranger = Requester::stranger();
    let stocks = stranger.stocks(tx, &[owner.key], asked, &terms)?;
    let stocks = stocks.into_iter().next().unwrap_or_default();
    let offered = (owner.clone(), stranger.offer(tx, (owner, stocks), limits, now)?);
    let mut taken = take(tx, [&offered], asked.1, &reservation)?.into_iter();
    let (_, offer) = offered;
    carry_out(
        tx,
        owner,
        (owner, offer),
        (asked, &mut taken),
        &reservation,
        terms,
    )
}

/// Takes the single-use KeyPackages that are offered, in their order.
fn take<'o>(
    tx: &Tx<'_>,
    offers: impl IntoIterator<Item = &'o (DeviceRow, Offer)>,
    serving: Serving,
    reservation: &Reservation,
) -> Result<Vec<Taken>, Fault> {
    let reserve = DirectoryEvent::Reserve {
        by: reservation.by,
        group: reservation.group.clone(),
        until: reservation.until,
    };
    DirectoryState::Available
        .apply(reserve)
        .map_err(|_| Fault::Corrupt("an available KeyPackage that cannot be reserved"))?;
    let stocks = offers.into_iter().filter_map(|(device, offer)| match offer {
        Offer::KeyPackage { stock, .. } => Some((device.key, stock.suite)),
        Offer::LastResort { .. } | Offer::RateLimited { .. } | Offer::Nothing => None,
    });
    let taken = tx
        .take_available(&stocks.collect::<Vec<_>>(), serving, reservation)?
        .into_iter();
    taken
        .map(|taken| taken.ok_or(Fault::Corrupt("a KeyPackage that was there is not")))
        .collect()
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

/// Hands out what was offered; a single-use KeyPackage is the next of those that were `taken`.
fn carry_out(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    (device, offer): (&DeviceRow, Offer),
    ((suites, serving), taken): ((&[u16], Serving), &mut impl Iterator<Item = Taken>),
    reservation: &Reservation,
    Terms { policy, now, .. }: Terms<'_>,
) -> Result<DeviceReservation, ServiceError> {
    match offer {
        Offer::KeyPackage { stock, charge } => {
            charge.remember(tx, device.key)?;
            let (key_package_ref, bytes) = taken
                .next()
                .ok_or(Fault::Corrupt("a KeyPackage that was there is not"))?;
            tx.append_disclosure(
                (device.key, &stock.audit_head),
                &key_package_ref,
                charge.target,
                (&caller.identity(), &reservation.group),
                now,
            )?;
            // Plenty of another ciphersuite helps nobody who asks for this one.
            if stock.available.saturating_sub(1) < policy.low_watermark {
                tell_owner(tx, device, now)?;
            }
            Ok(DeviceReservation {
                key_package_ref: Some(key_package_ref),
                key_package: Some(Base64Url(bytes)),
                ..without_key_package(device, DeviceOutcome::Ok)
            })
        }
        Offer::LastResort { charge } => {
            charge.remember(tx, device.key)?;
            let asked = (suites, serving);
            let reserved = last_resort::reserve(tx, caller, device, asked, reservation, now)?
                .ok_or(Fault::Corrupt("a last resort that was there is not"))?;
            tell_owner(tx, device, now)?;
            Ok(reserved)
        }
        Offer::RateLimited { retry_after_seconds } => Ok(DeviceReservation {
            retry_after_seconds: Some(retry_after_seconds),
            ..without_key_package(device, DeviceOutcome::RateLimited)
        }),
        Offer::Nothing => outcome_without(tx, device, serving),
    }
}

/// Tells the owner that its pool runs low.
pub(crate) fn tell_owner(tx: &Tx<'_>, owner: &DeviceRow, now: UnixSeconds) -> Result<(), Fault> {
    tx.post(owner.key, MailKind::KeyPackagesLow, now)
}

/// Nothing can be handed out: because nothing is left, or nothing of the asked suites.
fn outcome_without(
    tx: &Tx<'_>,
    device: &DeviceRow,
    serving: Serving,
) -> Result<DeviceReservation, ServiceError> {
    let of_other_suites = tx.count_available_of_any_suite(device.key, serving)? > 0
        || tx.has_active_last_resort(device.key, serving)?;
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
    let devices = reserved.users.iter_mut().flat_map(|user| &mut user.devices);
    let mut devices: Vec<_> = devices
        .filter(|device| device.key_package_ref.is_some())
        .collect();
    let refs = devices.iter().filter_map(|device| device.key_package_ref.clone());
    let refs: Vec<KeyPackageRef> = refs.collect();
    let mut gone = Vec::new();
    for ((device, known_by), bytes) in devices.iter_mut().zip(&refs).zip(tx.bytes_of(&refs)?) {
        match bytes {
            Some(bytes) => device.key_package = Some(Base64Url(bytes)),
            None => gone.push(known_by.clone()),
        }
    }
    match gone.is_empty() {
        true => Ok(reserved),
        false => Err(larder_wire::Problem::refs(ProblemType::ReservationLapsed, gone).into()),
    }
}

/// Gives a reservation up: what is not spent lapses, and is never handed out again; a last resort stays as it is.
pub(crate) fn abandon(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    reservation_id: &str,
    now: UnixSeconds,
) -> Result<(), ServiceError> {
    tx.lock_reservation(reservation_id)?;
    let rows = tx.key_packages_of_reservation(reservation_id)?;
    let identity = caller.identity();
    for row in rows {
        let actor = Actor {
            transition: AuditTransition::Abandon,
            identity: Some(&identity),
            group: None,
        };
        if apply(tx, row, DirectoryEvent::Abandon { by: caller.key }, &actor, now)?.is_err() {
            return Err(ProblemType::NotFound.into());
        }
    }
    for held in tx.last_resorts_of_reservation(reservation_id)? {
        if held.holder != caller.key {
            return Err(ProblemType::NotFound.into());
        }
        last_resort::give_up(tx, &held, AuditTransition::Abandon, Some(&identity), now)?;
    }
    Ok(())
}
