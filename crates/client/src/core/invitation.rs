use std::collections::BTreeSet;

use larder_key_package::check_lifetime;
use larder_lifecycle::UnixSeconds;
use larder_pool::Tx;
use larder_wire::{
    DeviceId, DeviceOutcome, DeviceReservation, KeyPackageRef, Reserved, USER_DEVICES_EVER_MAX, UserName,
    UserReservation,
};
use openmls::prelude::{Ciphersuite, KeyPackage, MlsGroup, OpenMlsProvider};
use openmls::treesync::errors::LifetimeError;
use rusqlite::OptionalExtension;
use serde::{Deserialize, Serialize};

use crate::core::adding::stage_adds;
use crate::core::outbox::{Intent, InvitePackage};
use crate::core::profile::Context;
use crate::core::{commits, departures, mls, peers, verification};
use crate::error::{Error, KeyPackageFlaw};
use crate::types::{GroupKey, NotAdded};
use crate::verification::Verification;

/// A reserve request without an answer is repeated under the same key for this long, in seconds. The server keeps its
/// answers for a day; after an hour what it reserved may have lapsed.
const RESERVE_ATTEMPT_SECONDS: u64 = larder_lifecycle::RESERVATION_SECONDS;

/// Whether those who can be added are added when others cannot. It is stored as whether all or nobody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "bool", into = "bool")]
pub(crate) enum Extent {
    /// They are.
    WhoeverCan,
    /// Nobody is.
    AllOrNobody,
}

impl From<bool> for Extent {
    fn from(all_or_nobody: bool) -> Self {
        match all_or_nobody {
            true => Self::AllOrNobody,
            false => Self::WhoeverCan,
        }
    }
}

impl From<Extent> for bool {
    fn from(extent: Extent) -> Self {
        extent == Extent::AllOrNobody
    }
}

/// What became of a reservation after the checks.
#[derive(Default)]
pub(crate) struct Checked {
    packages: Vec<InvitePackage>,
    /// The references of those that are a device's last resort.
    last_resorts: BTreeSet<KeyPackageRef>,
    pub(crate) not_added: Vec<(UserName, NotAdded)>,
}

impl Checked {
    /// The users with at least one KeyPackage that passed.
    pub(crate) fn users(&self) -> Vec<UserName> {
        let mut users: Vec<_> = self.packages.iter().map(|package| package.user.clone()).collect();
        users.dedup();
        users
    }

    /// Those of them with a device that nothing but its last resort was left of.
    pub(crate) fn by_last_resort(&self) -> Vec<UserName> {
        let mut users: Vec<_> = self
            .packages
            .iter()
            .filter(|package| self.last_resorts.contains(&package.key_package_ref))
            .map(|package| package.user.clone())
            .collect();
        users.dedup();
        users
    }

    /// How many KeyPackages passed.
    pub(crate) fn count(&self) -> usize {
        self.packages.len()
    }

    /// These users are not added after all, each for this reason.
    pub(crate) fn leave_out(&mut self, users: impl IntoIterator<Item = (UserName, NotAdded)>) {
        for (user, reason) in users {
            self.packages.retain(|package| package.user != user);
            self.not_added.push((user, reason));
        }
    }

    /// Takes out the KeyPackages that passed, in parts that one Commit each can add: all of a user's, and so many at most.
    /// Whoever has more than that is left out.
    pub(crate) fn take_parts(&mut self, adds_max: usize) -> Vec<Self> {
        let mut parts: Vec<Self> = Vec::new();
        let packages = std::mem::take(&mut self.packages);
        for of_user in packages.chunk_by(|one, other| one.user == other.user) {
            if of_user.len() > adds_max {
                let flaw = NotAdded::InvalidKeyPackage(KeyPackageFlaw::NotAccepted);
                self.not_added
                    .extend(of_user.first().map(|package| (package.user.clone(), flaw)));
                continue;
            }
            match parts.last_mut() {
                Some(part) if part.count() + of_user.len() <= adds_max => {
                    part.packages.extend_from_slice(of_user)
                }
                Some(_) | None => parts.push(Self {
                    packages: of_user.to_vec(),
                    last_resorts: self.last_resorts.clone(),
                    not_added: Vec::new(),
                }),
            }
        }
        parts
    }

    /// When all or nobody was asked for, and somebody cannot be added, nobody is.
    fn withhold_unless_all(&mut self, extent: Extent) {
        if extent == Extent::AllOrNobody && !self.not_added.is_empty() {
            let withheld = self.users().into_iter().map(|user| (user, NotAdded::Withheld));
            self.not_added.extend(withheld);
            self.packages.clear();
        }
    }
}

/// Which of these users are members already.
pub(crate) fn already_members(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    users: &[UserName],
) -> Result<Vec<UserName>, Error> {
    commits::require_quiet(tx, group)?;
    let members = users_in(tx, context, &mls::load(tx, group)?)?;
    Ok(users
        .iter()
        .filter(|user| members.contains(*user))
        .cloned()
        .collect())
}

/// What to reserve with: the idempotency key of an attempt whose answer was lost, or a new one, and the group's
/// ciphersuite.
pub(crate) fn reserve_key(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    users: &[UserName],
    extent: Extent,
) -> Result<(String, u16), Error> {
    let suite = mls::ciphersuite(tx, group)?.into();
    let now = context.now();
    let connection = tx.connection();
    connection.execute(
        "DELETE FROM reserve_attempts WHERE created_at < ?1 OR created_at > ?2",
        [now.minus(RESERVE_ATTEMPT_SECONDS), now].map(|at| at.0.cast_signed()),
    )?;
    let users = joined(users, extent);
    let known = connection
        .query_row(
            "SELECT idempotency_key FROM reserve_attempts WHERE group_id = ?1 AND users = ?2",
            (group.as_bytes(), &users),
            |row| row.get(0),
        )
        .optional()?;
    if let Some(key) = known {
        return Ok((key, suite));
    }
    let key = uuid::Uuid::new_v4().to_string();
    connection.execute(
        "INSERT INTO reserve_attempts (group_id, users, idempotency_key, created_at) VALUES (?1, ?2, ?3, ?4)",
        (group.as_bytes(), users, &key, now.0.cast_signed()),
    )?;
    Ok((key, suite))
}

/// The reserve request was answered: the next one is a new one.
pub(crate) fn reserve_finished(
    tx: &Tx<'_>,
    group: &GroupKey,
    users: &[UserName],
    extent: Extent,
) -> Result<(), Error> {
    tx.connection().execute(
        "DELETE FROM reserve_attempts WHERE group_id = ?1 AND users = ?2",
        (group.as_bytes(), joined(users, extent)),
    )?;
    Ok(())
}

/// Stands for a request: one for all of these users is another one than one for any of them.
fn joined(users: &[UserName], extent: Extent) -> String {
    let names = users.iter().map(UserName::as_str).collect::<Vec<_>>().join(" ");
    match extent {
        Extent::WhoeverCan => names,
        // No name begins with it.
        Extent::AllOrNobody => format!("+ {names}"),
    }
}

/// Checks everything that the directory handed out. What fails is reported and never added; a user with one bad device
/// is not added at all; and nobody is if all were asked for and one fails.
pub(crate) fn check_reservation(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    users: &[UserName],
    reserved: &Reserved,
    extent: Extent,
) -> Result<Checked, Error> {
    let suite = mls::ciphersuite(tx, group)?;
    let mut checked = Checked::default();
    let mut seen = BTreeSet::new();
    for user in users {
        let answer = reserved.users.iter().find(|answer| answer.user == *user);
        match check_user(tx, context, suite, user, answer, &mut seen)? {
            Ok(packages) => {
                let devices = answer.map_or(&[][..], |answer| &answer.devices);
                checked.last_resorts.extend(
                    devices
                        .iter()
                        .filter(|device| device.outcome == DeviceOutcome::LastResort)
                        .filter_map(|device| device.key_package_ref.clone()),
                );
                checked.packages.extend(packages);
            }
            Err(reason) => checked.not_added.push((user.clone(), reason)),
        }
    }
    checked.withhold_unless_all(extent);
    Ok(checked)
}

/// Checks what the directory handed out of these devices of this device's user. What fails is left out.
pub(crate) fn check_own_devices(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    reserved: &Reserved,
    wanted: &[DeviceId],
) -> Result<Checked, Error> {
    let suite = mls::ciphersuite(tx, group)?;
    let me = &context.identity.me;
    let mut checked = Checked::default();
    let answers = reserved.users.iter().filter(|answer| answer.user == me.user);
    let devices = answers.flat_map(|answer| &answer.devices);
    for answer in devices.take(USER_DEVICES_EVER_MAX) {
        let known = checked
            .packages
            .iter()
            .any(|known| known.device_id == answer.device_id);
        if answer.key_package.is_none() || known || !wanted.contains(&answer.device_id) {
            continue;
        }
        match check_device(tx, context, suite, &me.user, answer)? {
            Ok(package) => checked.packages.push(package),
            Err(reason) => tracing::warn!(?reason, "a device of this user cannot be added"),
        }
    }
    Ok(checked)
}

fn check_user(
    tx: &Tx<'_>,
    context: &Context,
    suite: Ciphersuite,
    user: &UserName,
    answer: Option<&UserReservation>,
    seen: &mut BTreeSet<KeyPackageRef>,
) -> Result<Result<Vec<InvitePackage>, NotAdded>, Error> {
    if verification::verification(tx, user)? == Verification::Changed {
        return Ok(Err(NotAdded::VerificationChanged));
    }
    let devices = answer.map_or(&[][..], |answer| &answer.devices);
    if devices.len() > USER_DEVICES_EVER_MAX {
        return Ok(Err(NotAdded::TooManyDevices));
    }
    let mut packages = Vec::new();
    let mut reason = NotAdded::NotFound;
    for device in devices {
        match device.outcome {
            DeviceOutcome::Ok | DeviceOutcome::LastResort => {
                let package = match check_device(tx, context, suite, user, device)? {
                    Ok(package) => package,
                    Err(reason) => return Ok(Err(reason)),
                };
                if !seen.insert(package.key_package_ref.clone()) {
                    return Ok(Err(NotAdded::InvalidKeyPackage(KeyPackageFlaw::Duplicate)));
                }
                packages.push(package);
            }
            // One device is enough.
            DeviceOutcome::Withheld => return Ok(Err(NotAdded::Withheld)),
            DeviceOutcome::Exhausted => reason = NotAdded::Exhausted,
            DeviceOutcome::Incompatible => reason = NotAdded::Incompatible { suite: suite.into() },
            DeviceOutcome::RateLimited => {
                let retry_after_seconds = device.retry_after_seconds;
                reason = NotAdded::RateLimited { retry_after_seconds };
            }
        }
    }
    Ok(if packages.is_empty() {
        Err(reason)
    } else {
        Ok(packages)
    })
}

fn check_device(
    tx: &Tx<'_>,
    context: &Context,
    suite: Ciphersuite,
    user: &UserName,
    answer: &DeviceReservation,
) -> Result<Result<InvitePackage, NotAdded>, Error> {
    let device = &answer.device_id;
    let (Some(key_package_ref), Some(bytes)) = (&answer.key_package_ref, &answer.key_package) else {
        return Ok(Err(NotAdded::InvalidKeyPackage(KeyPackageFlaw::Missing)));
    };
    let key_package = match check(
        tx,
        &bytes.0,
        key_package_ref,
        suite,
        (user, device),
        context.server_now(),
    ) {
        Ok(key_package) => key_package,
        Err(flaw) => return Ok(Err(NotAdded::InvalidKeyPackage(flaw))),
    };
    // What is signed decides: passed off as single-use, a last resort would hide that nothing else is left.
    if key_package.last_resort() != (answer.outcome == DeviceOutcome::LastResort) {
        return Ok(Err(NotAdded::InvalidKeyPackage(KeyPackageFlaw::LastResort)));
    }
    let signature_key = key_package.leaf_node().signature_key().as_slice();
    if peers::compare(tx.connection(), user, device, signature_key)? == peers::Pin::Changed {
        return Ok(Err(NotAdded::KeyChanged {
            device: device.clone(),
        }));
    }
    if peers::standing(tx.connection(), user, device)? != Some(peers::Standing::Authorized) {
        if peers::is_distrusted(tx.connection(), user)? {
            return Ok(Err(NotAdded::OtherIdentity));
        }
        return Ok(Err(NotAdded::Unauthorized {
            device: device.clone(),
        }));
    }
    Ok(Ok(InvitePackage {
        user: user.clone(),
        device_id: device.clone(),
        key_package_ref: key_package_ref.clone(),
        key_package: bytes.clone(),
    }))
}

/// The checks of an adder. The bytes are hostile until all of them pass.
pub(super) fn check(
    tx: &Tx<'_>,
    bytes: &[u8],
    key_package_ref: &KeyPackageRef,
    suite: Ciphersuite,
    (user, device): (&UserName, &DeviceId),
    now: UnixSeconds,
) -> Result<KeyPackage, KeyPackageFlaw> {
    let crypto = tx.provider();
    let crypto = crypto.crypto();
    let key_package = larder_key_package::read(bytes)
        .and_then(|parsed| larder_key_package::check(crypto, parsed))
        .map_err(KeyPackageFlaw::of)?;
    let computed = key_package
        .hash_ref(crypto)
        .map_err(|_| KeyPackageFlaw::Invalid)?;
    if computed.as_slice() != key_package_ref.as_bytes() {
        return Err(KeyPackageFlaw::WrongReference);
    }
    if key_package.ciphersuite() != suite {
        return Err(KeyPackageFlaw::Ciphersuite);
    }
    check_lifetime(key_package.life_time(), now).map_err(KeyPackageFlaw::of)?;
    // A Commit is built and processed by the system's clock.
    key_package.life_time().validate().map_err(|error| match error {
        LifetimeError::Expired { .. } => KeyPackageFlaw::Expired,
        LifetimeError::NotValidYet { not_before, now } => KeyPackageFlaw::NotYetValidHere {
            seconds: not_before.saturating_sub(now),
        },
        LifetimeError::SystemTimeBeforeUnixEpoch => KeyPackageFlaw::NotYetValidHere {
            seconds: key_package.life_time().not_before(),
        },
    })?;
    match mls::who(key_package.leaf_node().credential()) {
        Some((name, id)) if name == *user && id == *device => Ok(key_package),
        Some(_) | None => Err(KeyPackageFlaw::Credential),
    }
}

/// Stages the Commit that adds those who passed, and puts it into the outbox. Returns the outbox row, if anybody is left to
/// add: whom the group does not accept is left out, and told. Their keys are pinned once the Commit is accepted: the key
/// of a forgery that the server refuses is not one to remember.
pub(crate) fn stage_invite(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    checked: &mut Checked,
    (reservation_id, extent): (Option<String>, Extent),
) -> Result<Option<i64>, Error> {
    commits::require_quiet(tx, group)?;
    let terms = (reservation_id.as_deref(), extent);
    let adding = stage_adds(tx, context, group, &checked.packages, terms)??;
    let left_out = adding.left_out.into_iter();
    checked.leave_out(left_out.map(|(user, flaw)| (user, NotAdded::InvalidKeyPackage(flaw))));
    checked.withhold_unless_all(extent);
    let Some(request) = adding.request else {
        return Ok(None);
    };
    let intent = Intent::Invite {
        reservation_id,
        packages: adding.packages,
        extent,
    };
    commits::push(tx, group, &request, &intent).map(Some)
}

/// Those of these users who are no members, of a group that this device is in.
pub(crate) fn not_members(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    users: &[UserName],
) -> Result<Vec<UserName>, Error> {
    let Some(state) = mls::find(tx, group)? else {
        return Ok(Vec::new());
    };
    let members = users_in(tx, context, &state)?;
    let missing = users.iter().filter(|user| !members.contains(*user));
    Ok(missing.cloned().collect())
}

fn users_in(tx: &Tx<'_>, context: &Context, group: &MlsGroup) -> Result<BTreeSet<UserName>, Error> {
    let members = departures::staying(tx, context, group)?.into_iter();
    Ok(members.map(|leaf| leaf.user).collect())
}

#[cfg(test)]
mod tests {
    use larder_wire::Base64Url;

    use super::*;

    fn checked(devices: &[(&str, usize)]) -> Checked {
        let of_user = |&(user, count): &(&str, usize)| {
            let user: UserName = user.parse().unwrap();
            (0..count).map(move |number| InvitePackage {
                user: user.clone(),
                device_id: format!("d{number}").parse().unwrap(),
                key_package_ref: KeyPackageRef::from_bytes(&[0; 32]).unwrap(),
                key_package: Base64Url(Vec::new()),
            })
        };
        Checked {
            packages: devices.iter().flat_map(of_user).collect(),
            ..Checked::default()
        }
    }

    #[test]
    fn what_is_reserved_is_added_in_parts_of_whole_users() {
        let mut all = checked(&[("a", 3), ("b", 1), ("c", 5), ("d", 4), ("e", 2), ("f", 2)]);
        let parts: Vec<(Vec<UserName>, usize)> = all
            .take_parts(4)
            .iter()
            .map(|part| (part.users(), part.count()))
            .collect();
        let users =
            |names: &[&str]| -> Vec<UserName> { names.iter().map(|name| name.parse().unwrap()).collect() };
        assert_eq!(
            parts,
            [
                (users(&["a", "b"]), 4),
                (users(&["d"]), 4),
                (users(&["e", "f"]), 4),
            ]
        );
        let flaw = NotAdded::InvalidKeyPackage(KeyPackageFlaw::NotAccepted);
        assert_eq!(
            all.not_added,
            [("c".parse().unwrap(), flaw)],
            "no Commit adds all of its devices"
        );
        assert!(checked(&[]).take_parts(4).is_empty());
    }

    #[test]
    fn an_extent_is_stored_as_before_there_was_one() {
        for (extent, stored) in [(Extent::AllOrNobody, "true"), (Extent::WhoeverCan, "false")] {
            assert_eq!(serde_json::to_string(&extent).unwrap(), stored);
            assert_eq!(serde_json::from_str::<Extent>(stored).unwrap(), extent);
        }
    }
}
