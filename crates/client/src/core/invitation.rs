use std::collections::BTreeSet;

use larder_lifecycle::{SKEW_SECONDS, UnixSeconds};
use larder_pool::Tx;
use larder_wire::{
    DeviceId, DeviceOutcome, DeviceReservation, KeyPackageRef, Reserved, UserName, UserReservation,
};
use openmls::prelude::{
    Ciphersuite, KeyPackage, Lifetime, MlsGroup, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider,
    ProtocolVersion,
};
use rusqlite::OptionalExtension;
use tls_codec::Deserialize as _;

use crate::core::outbox::{Intent, InvitePackage};
use crate::core::profile::Context;
use crate::core::{commits, mls, peers, verification};
use crate::error::{Error, KeyPackageFlaw};
use crate::types::{GroupKey, NotAdded};
use crate::verification::Verification;

/// A reserve request without an answer is repeated under the same key for this long, in seconds. The server keeps its
/// answers for a day; after an hour what it reserved may have lapsed.
const RESERVE_ATTEMPT_SECONDS: u64 = larder_lifecycle::RESERVATION_SECONDS;

/// Whether those who can be added are added when others cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// They are.
    WhoeverCan,
    /// Nobody is.
    AllOrNobody,
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
}

/// Which of these users are members already.
pub(crate) fn already_members(
    tx: &Tx<'_>,
    group: &GroupKey,
    users: &[UserName],
) -> Result<Vec<UserName>, Error> {
    commits::require_quiet(tx, group)?;
    let members: BTreeSet<UserName> = mls::load(tx, group)?
        .members()
        .filter_map(|member| mls::who(&member.credential))
        .map(|(user, _)| user)
        .collect();
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
    if extent == Extent::AllOrNobody && !checked.not_added.is_empty() {
        let withheld = checked.users().into_iter().map(|user| (user, NotAdded::Withheld));
        checked.not_added.extend(withheld);
        checked.packages.clear();
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
    let key_package = parse(tx, bytes)?;
    let computed = key_package
        .hash_ref(tx.provider().crypto())
        .map_err(|_| KeyPackageFlaw::Invalid)?;
    if computed.as_slice() != key_package_ref.as_bytes() {
        return Err(KeyPackageFlaw::WrongReference);
    }
    if key_package.ciphersuite() != suite {
        return Err(KeyPackageFlaw::Ciphersuite);
    }
    if !lifetime_holds(key_package.life_time(), now) {
        return Err(KeyPackageFlaw::Lifetime);
    }
    match mls::who(key_package.leaf_node().credential()) {
        Some((name, id)) if name == *user && id == *device => Ok(key_package),
        Some(_) | None => Err(KeyPackageFlaw::Credential),
    }
}

/// OpenMLS checks "now" by the system's clock only, and accepts any length.
fn lifetime_holds(lifetime: &Lifetime, now: UnixSeconds) -> bool {
    lifetime.has_acceptable_range()
        && lifetime.not_before() <= now.plus(SKEW_SECONDS).0
        && now.0 < lifetime.not_after()
}

/// One `MLSMessage` with a valid KeyPackage (RFC 9420 §10.1), and nothing after it.
fn parse(tx: &Tx<'_>, bytes: &[u8]) -> Result<KeyPackage, KeyPackageFlaw> {
    let message = MlsMessageIn::tls_deserialize_exact(bytes).map_err(|_| KeyPackageFlaw::Malformed)?;
    let MlsMessageBodyIn::KeyPackage(key_package) = message.extract() else {
        return Err(KeyPackageFlaw::Malformed);
    };
    key_package
        .validate(tx.provider().crypto(), ProtocolVersion::Mls10)
        .map_err(|_| KeyPackageFlaw::Invalid)
}

/// Stages the Commit that adds those who passed, and puts it into the outbox. Returns the outbox row. Their keys are
/// pinned once the Commit is accepted: the key of a forgery that the server refuses is not one to remember.
pub(crate) fn stage_invite(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    checked: &Checked,
    reservation_id: Option<String>,
) -> Result<i64, Error> {
    commits::require_quiet(tx, group)?;
    let mut state = mls::load(tx, group)?;
    let (packages, adds) = still_to_add(tx, &state, &checked.packages)?;
    let request = commits::stage(tx, context, &mut state, adds, &[], reservation_id.clone())?;
    commits::push(
        tx,
        group,
        &request,
        &Intent::Invite {
            reservation_id,
            packages,
        },
    )
}

/// Those whose device is not a member yet.
pub(super) fn still_to_add(
    tx: &Tx<'_>,
    group: &MlsGroup,
    packages: &[InvitePackage],
) -> Result<(Vec<InvitePackage>, Vec<KeyPackage>), Error> {
    let members: BTreeSet<(UserName, DeviceId)> = group
        .members()
        .filter_map(|member| mls::who(&member.credential))
        .collect();
    let mut kept = (Vec::new(), Vec::new());
    for package in packages {
        if members.contains(&(package.user.clone(), package.device_id.clone())) {
            continue;
        }
        let key_package = parse(tx, &package.key_package.0)
            .map_err(|_| Error::Corrupt("a KeyPackage in the outbox is not valid any more"))?;
        kept.0.push(package.clone());
        kept.1.push(key_package);
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r_c5_r_c6_now_lies_in_an_acceptable_lifetime_give_or_take_five_minutes_at_its_beginning() {
        const MAX: u64 = larder_lifecycle::KEY_PACKAGE_LIFETIME_SECONDS_MAX;
        let holds = |from, to, now| lifetime_holds(&Lifetime::init(from, to), UnixSeconds(now));
        assert!(holds(1000, 2000, 1500));
        assert!(holds(1000, 2000, 1000 - SKEW_SECONDS));
        assert!(!holds(1000, 2000, 1000 - SKEW_SECONDS - 1));
        assert!(holds(1000, 2000, 1999));
        assert!(!holds(1000, 2000, 2000));
        assert!(holds(1000, 1000 + MAX, 1500));
        assert!(!holds(1000, 1000 + MAX + 1, 1500));
        assert!(!holds(1000, u64::MAX, 1500));
    }
}
